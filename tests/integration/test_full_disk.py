"""A disk that is really full: nothing that was promised is lost, and work goes on when there is space again."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeseg import readers, segment
from edgeseg.errors import OutputError
from edgeseg.scanner import monitor, worker
from edgeseg.scanner.jobs import Queue
from edgeseg.scanner.monitor import Health, Monitor
from edgeseg.scanner.worker import Worker, sole_worker


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", place], capture_output=True, check=False
    ).returncode
    if mounted != 0:
        pytest.skip("mounting a small disk takes root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def _fill(disk: Path) -> Path:
    """Take all the space that is left; the file that holds it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def test_results(
    small_disk: Path,
    tmp_path: Path,
    example_tiff: Path,
    default_engine: segment.OpenEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (monitor, worker):
        monkeypatch.setattr(module, "space_problem", lambda *_: None)  # else no study is begun on so small a disk
    study = tmp_path / "in" / "study"
    study.mkdir(parents=True)
    for k in range(12, 17):
        shutil.copy(example_tiff / f"{example_tiff.name}_{k}.tif", study)
    log = io.StringIO()
    with sole_worker(tmp_path / "state") as queue:
        one = Worker(queue, default_engine, small_disk / "out", segment.Options(("masks", "report")), Monitor(log))
        one.start()
        queue.add("study", study, "d", "watch")
        ballast = _fill(small_disk)
        for _ in range(3):
            assert not one.step()
        assert [(job.state, job.attempts) for job in queue.jobs()] == [("waiting", 0)]
        assert list((small_disk / "out").iterdir()) == []
        ballast.unlink()
        assert one.step()
        assert [job.state for job in queue.jobs()] == ["done"]
    assert readers.find_studies(study)
    assert (small_disk / "out" / "study" / "report.json").is_file()
    events = [json.loads(line)["event"] for line in log.getvalue().splitlines()]
    assert events == ["recovered", "study_started", "paused", "resumed", "study_started", "study_done"]


def test_the_queue(small_disk: Path, tmp_path: Path) -> None:
    promised = []
    with Queue(small_disk / "queue.sqlite") as queue:
        health = Health(Monitor(io.StringIO()), queue, {})
        assert queue.add("first", tmp_path, "d", "receive")
        assert health.problems() == []
        ballast = _fill(small_disk)
        with pytest.raises(OutputError, match="disk is full"):  # noqa: PT012  what came before the failure counts
            for k in range(10_000):
                queue.add(f"study-{k}", tmp_path / ("long" * 50), "d", "receive")
                promised.append(f"study-{k}")
        assert health.problems() == ["the queue cannot be written to"]
        assert [job.key for job in queue.jobs()] == ["first", *promised]
        ballast.unlink()
        assert queue.add("last", tmp_path, "d", "receive")
        assert health.problems() == []
    connection = sqlite3.connect(small_disk / "queue.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    kept = [key for (key,) in connection.execute("SELECT key FROM jobs ORDER BY id")]
    connection.close()
    assert kept == ["first", *promised, "last"]
