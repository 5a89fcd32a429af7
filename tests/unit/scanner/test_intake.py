"""Received studies go into the queue once they are quiet, and out of their folder when they are done and old."""

from __future__ import annotations

import io
import os
import shutil
import time
from pathlib import Path

import pytest

from edgeseg.errors import OutputError
from edgeseg.scanner import intake
from edgeseg.scanner.incoming import Incoming, study_name
from edgeseg.scanner.intake import Intake
from edgeseg.scanner.jobs import FILE, Queue
from edgeseg.scanner.monitor import Monitor


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    """A queue on disk."""
    return Queue(tmp_path / FILE)


@pytest.fixture
def incoming(tmp_path: Path) -> Incoming:
    """A folder with one study that came an hour ago."""
    kept = Incoming(intake.folder(tmp_path))
    kept.store("1", "1.1", (b"a",))
    _age(kept, "1", 3600)
    return kept


def _age(kept: Incoming, study: str, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(kept.root / study_name(study), (when, when))


def _intake(kept: Incoming, queue: Queue, keep_s: float = 86400) -> tuple[Intake, io.StringIO]:
    log = io.StringIO()
    return Intake(kept, queue, Monitor(log), 30, keep_s), log


def test_a_study_is_queued_once_over_restarts_and_again_when_more_comes(incoming: Incoming, queue: Queue) -> None:
    for _ in range(2):
        taking, _ = _intake(Incoming(incoming.root), queue)
        taking.scan()
        taking.scan()
    assert [job.key for job in queue.jobs()] == [study_name("1")]
    job = queue.claim()
    assert job is not None
    assert (job.folder, job.source) == (incoming.root / study_name("1"), "receive")
    queue.finish(job, incoming.root)
    incoming.store("1", "1.1", (b"a",))  # the same once more
    _age(incoming, "1", 3000)
    taking.scan()
    assert len(queue.jobs()) == 1
    incoming.store("1", "1.2", (b"a",))
    _age(incoming, "1", 2000)
    taking.scan()
    assert [job.state for job in queue.jobs()] == ["done", "waiting"]


def test_old_studies_go_when_they_are_done(incoming: Incoming, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_TIDY_S", 0)
    taking, log = _intake(incoming, queue, keep_s=1800)
    folder = incoming.root / study_name("1")
    taking.scan()
    assert folder.is_dir()  # waiting
    job = queue.claim()
    assert job is not None
    taking.scan()
    assert folder.is_dir()  # running
    queue.fail(job, "no FLAIR")
    taking.scan()
    assert not folder.exists()
    assert "studies_removed" in log.getvalue()


def test_a_folder_that_is_gone_is_said_so(incoming: Incoming, queue: Queue) -> None:
    taking, _ = _intake(incoming, queue)
    shutil.rmtree(incoming.root)
    with pytest.raises(OutputError, match="No such file"):
        taking.scan()
