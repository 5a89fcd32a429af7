"""The worker: each study once, bad ones set aside, and a full disk waited for."""

from __future__ import annotations

import errno
import io
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeseg import readers, segment
from edgeseg.errors import InputError, OutputError
from edgeseg.scanner import service, worker
from edgeseg.scanner.jobs import FILE, Job, Queue
from edgeseg.scanner.listing import content_digest
from edgeseg.scanner.monitor import Monitor
from edgeseg.scanner.worker import Worker, sole_worker

OPTIONS = segment.Options(("masks", "report"))


@dataclass
class Line:
    """A worker with its queue and log."""

    worker: Worker
    root: Path
    log: io.StringIO

    def add(self, source: Path, name: str, numbers: range = range(12, 17)) -> Path:
        """Queue some slices of a TIFF study."""
        folder = self.root / "in" / name
        folder.mkdir(parents=True)
        for k in numbers:
            shutil.copy(source / f"{source.name}_{k}.tif", folder)
        (files,) = readers.find_studies(folder)
        self.worker.queue.add(name, folder, content_digest(files.files, folder), "watch")
        return folder

    @property
    def states(self) -> dict[str, str]:
        """Key -> state."""
        return {job.key: job.state for job in self.worker.queue.jobs()}

    @property
    def events(self) -> list[str]:
        """Names of the events so far."""
        return [json.loads(line)["event"] for line in self.log.getvalue().splitlines()]


@pytest.fixture
def line(tmp_path: Path, default_engine: segment.OpenEngine) -> Iterator[Line]:
    """A started worker."""
    log = io.StringIO()
    with sole_worker(tmp_path / "state") as queue:
        one = Worker(queue, default_engine, tmp_path / "out", OPTIONS, Monitor(log))
        one.start()
        yield Line(one, tmp_path, log)


def test_a_bad_study_does_not_stop_the_line(line: Line, example_tiff: Path) -> None:
    line.add(example_tiff, "a")
    (line.add(example_tiff, "b") / f"{example_tiff.name}_14.tif").write_bytes(b"no image")
    line.worker.queue.add("b", line.root / "in" / "b", "another", "watch")
    line.add(example_tiff, "c")
    assert [line.worker.step() for _ in range(4)] == [True, True, True, False]
    assert line.states == {"a": "done", "b": "failed", "c": "done"}
    assert (line.worker.done, line.worker.failed) == (2, 1)
    assert (line.root / "out" / "a" / "report.json").is_file()
    assert not (line.root / "out" / "b").exists()
    (bad,) = line.worker.queue.jobs("failed")
    assert bad.error is not None
    assert "cannot be read as a TIFF image" in bad.error


def test_results_are_queued_for_their_destinations(line: Line, example_tiff: Path) -> None:
    line.worker.destinations = ("pacs",)
    line.add(example_tiff, "a")
    line.worker.step()
    (delivery,) = line.worker.queue.deliveries()
    assert delivery.job.results == line.root / "out" / "a"


def test_a_study_that_changed_is_put_off(line: Line, example_tiff: Path) -> None:
    line.worker.checked = True
    folder = line.add(example_tiff, "a")
    shutil.copy(example_tiff / f"{example_tiff.name}_17.tif", folder)
    shutil.rmtree(line.add(example_tiff, "gone"))
    line.worker.step()
    line.worker.step()
    assert line.states == {}
    assert line.events == ["recovered", "study_changed", "study_changed"]
    (files,) = readers.find_studies(folder)
    assert line.worker.queue.add("a", folder, content_digest(files.files, folder), "watch")
    line.worker.step()
    assert line.states == {"a": "done"}


def test_an_unforeseen_error_while_looking_for_a_study(line: Line, example_tiff: Path) -> None:
    def broken(_: Job) -> readers.StudyFiles | None:
        raise RuntimeError(str(line.root))

    line.worker.find = broken
    line.add(example_tiff, "a")
    assert line.worker.step()
    assert [job.error for job in line.worker.queue.jobs("failed")] == ["unexpected RuntimeError"]


def test_a_full_output_disk_is_waited_for(line: Line, example_tiff: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line.add(example_tiff, "a")
    original = segment.finish

    def full(*_: Any) -> None:
        cause = OSError(errno.ENOSPC, "No space left on device")
        raise OutputError("cannot write") from cause

    monkeypatch.setattr(segment, "finish", full)
    assert not line.worker.step()
    assert line.states == {"a": "waiting"}
    assert line.worker.problem == "results cannot be written: No space left on device"
    monkeypatch.setattr(segment, "finish", original)
    assert line.worker.step()
    (job,) = line.worker.queue.jobs()
    assert (job.state, job.attempts) == ("done", 1)
    assert line.events == ["recovered", "study_started", "paused", "resumed", "study_started", "study_done"]


def test_no_study_is_begun_on_a_disk_without_space(
    line: Line, example_tiff: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.add(example_tiff, "a")
    monkeypatch.setattr(worker, "space_problem", lambda name, _: f"the disk of the {name} folder is full")
    for _ in range(3):
        assert not line.worker.step()
    assert line.states == {"a": "waiting"}
    monkeypatch.undo()
    assert line.worker.step()
    assert line.events == ["recovered", "paused", "resumed", "study_started", "study_done"]


def test_what_was_done_is_noted_when_the_queue_can_be_written_again(
    line: Line, example_tiff: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PAUSE_S", 0.01)
    line.add(example_tiff, "a")
    finish, refused = line.worker.queue.finish, iter((True, True, False))

    def sometimes(*arguments: Any) -> None:
        if next(refused):
            raise OutputError("disk is full")
        finish(*arguments)

    monkeypatch.setattr(line.worker.queue, "finish", sometimes)
    line.worker.step()
    assert line.states == {"a": "done"}
    assert line.events.count("study_started") == 1


def test_stopping_does_not_wait_for_a_full_disk(
    line: Line, example_tiff: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        line.worker.stop.set()
        raise OutputError("disk is full")

    line.add(example_tiff, "a")
    monkeypatch.setattr(line.worker.queue, "finish", full)
    assert not line.worker.step()
    assert line.states == {"a": "running"}, "the next start recovers it"


def test_ctrl_c_puts_the_study_back(line: Line, example_tiff: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    line.add(example_tiff, "a")
    monkeypatch.setattr(segment, "logits_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        line.worker.step()
    (job,) = line.worker.queue.jobs()
    assert (job.state, job.attempts) == ("waiting", 0)


def test_only_one_worker(line: Line) -> None:
    with pytest.raises(InputError, match="another edgeseg works from"), sole_worker(line.root / "state"):
        pass


def test_what_was_running_is_recovered(tmp_path: Path, default_engine: segment.OpenEngine) -> None:
    with Queue(tmp_path / "state" / FILE) as queue:
        queue.add("a", tmp_path / "in" / "a", "d", "watch")
        queue.claim()
    with sole_worker(tmp_path / "state") as queue:
        one = Worker(queue, default_engine, tmp_path / "out", OPTIONS, Monitor(io.StringIO()))
        one.start()
        assert [job.state for job in queue.jobs()] == ["waiting"]


def test_a_study_whose_end_was_not_noted_is_not_done_again(line: Line, example_tiff: Path) -> None:
    line.add(example_tiff, "a")
    line.worker.step()
    report = line.root / "out" / "a" / "report.json"
    before = report.stat()
    (job,) = line.worker.queue.jobs()
    line.worker.queue.forget(job)
    line.worker.queue.add(job.key, job.folder, job.digest, "watch")
    line.worker.step()
    assert line.states == {"a": "done"}
    assert (report.stat().st_ino, report.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [json.loads(row).get("already") for row in line.log.getvalue().splitlines()][-1] is True


def test_places_that_cannot_be_made(tmp_path: Path, default_engine: segment.OpenEngine) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="give another folder with --state"), sole_worker(tmp_path / "file"):
        pass
    with sole_worker(tmp_path / "state") as queue:
        one = Worker(queue, default_engine, tmp_path / "file" / "out", OPTIONS, Monitor(io.StringIO()))
        with pytest.raises(OutputError, match="give another with -o"):
            one.start()


# --- the loop


def test_once_ends_when_all_is_done(line: Line, example_tiff: Path) -> None:
    names = iter("ab")

    def feed() -> bool:
        name = next(names, None)
        if name:
            line.add(example_tiff, name)
        return name is None

    service.run(line.worker, feed, 0.01, once=True)
    assert line.states == {"a": "done", "b": "done"}


def test_the_current_study_is_finished_and_no_other_begun(line: Line, example_tiff: Path) -> None:
    line.add(example_tiff, "a")
    line.add(example_tiff, "b")

    def feed() -> bool:
        line.worker.stop.set()
        return True

    service.run(line.worker, feed, 0.01)
    assert line.states == {"a": "done", "b": "waiting"}


def test_once_does_not_wait_for_a_full_disk(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "space_problem", lambda name, _: f"the disk of the {name} folder is full")
    with pytest.raises(OutputError, match="the disk of the output folder is full: make space"):
        service.run(line.worker, lambda: True, 0.01, once=True)


def test_a_feed_whose_queue_is_full_is_asked_again(line: Line) -> None:
    answers = iter((True, False))

    def feed() -> bool:
        if next(answers, False):
            raise OutputError("disk is full")
        line.worker.stop.set()
        return True

    thread = threading.Thread(target=service.run, args=(line.worker, feed, 0.01))
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert line.events == ["recovered", "paused", "resumed"]
