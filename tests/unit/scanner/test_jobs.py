"""The queue: what is promised is on the disk, a study runs once, and several processes may use it."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeseg.errors import InputError, OutputError
from edgeseg.scanner.jobs import ATTEMPTS, Job, Queue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    """An empty queue."""
    with Queue(tmp_path / "state" / "queue.sqlite") as queue:
        yield queue


def _claimed(queue: Queue) -> Job:
    job = queue.claim()
    assert job is not None
    return job


def test_a_study_goes_from_waiting_to_done(queue: Queue, tmp_path: Path) -> None:
    before = time.time()
    assert queue.add("abc", tmp_path / "in", "d1", "watch")
    (waiting,) = queue.jobs("waiting")
    assert (waiting.key, waiting.folder, waiting.source, waiting.attempts) == ("abc", tmp_path / "in", "watch", 0)
    assert before <= waiting.added <= time.time()
    running = _claimed(queue)
    assert (running.id, running.state, running.attempts) == (waiting.id, "running", 1)
    assert queue.claim() is None
    queue.finish(running, tmp_path / "out" / "abc")
    (done,) = queue.jobs()
    assert (done.state, done.results, done.error) == ("done", tmp_path / "out" / "abc", None)
    assert done.started is not None
    assert done.ended is not None
    assert done.started <= done.ended


def test_oldest_first(queue: Queue, tmp_path: Path) -> None:
    for key in ("c", "a", "b"):
        queue.add(key, tmp_path, "d", "receive")
    assert [_claimed(queue).key for _ in range(3)] == ["c", "a", "b"]


def test_a_study_runs_once(queue: Queue, tmp_path: Path) -> None:
    assert queue.add("k", tmp_path, "d1", "watch")
    assert not queue.add("k", tmp_path, "d1", "watch")
    job = _claimed(queue)
    assert not queue.add("k", tmp_path, "d1", "watch")
    queue.finish(job, tmp_path)
    assert not queue.add("k", tmp_path, "d1", "watch")
    assert queue.add("k", tmp_path, "d2", "watch"), "late instances make a new job"
    queue.fail(_claimed(queue), "no FLAIR")
    assert not queue.add("k", tmp_path, "d2", "watch")
    assert queue.counts() == {"waiting": 0, "running": 0, "done": 1, "failed": 1, "deliveries": 0}


def test_a_folder_waits_once_as_it_is_now(queue: Queue, tmp_path: Path) -> None:
    queue.add("k", tmp_path, "d1", "watch")
    assert queue.add("k", tmp_path, "d2", "watch")
    assert [job.digest for job in queue.jobs()] == ["d2"]
    assert queue.add("k", tmp_path, "d1", "watch"), "what was replaced has not run"
    assert [job.digest for job in queue.jobs()] == ["d1"]


def test_a_waiting_study_that_became_what_was_done_waits_no_more(queue: Queue, tmp_path: Path) -> None:
    queue.add("k", tmp_path, "d1", "watch")
    queue.finish(_claimed(queue), tmp_path)
    queue.add("k", tmp_path, "d2", "watch")
    assert not queue.add("k", tmp_path, "d1", "watch")
    assert queue.claim() is None


def test_what_was_running_waits_again(queue: Queue, tmp_path: Path) -> None:
    queue.add("k", tmp_path, "d", "watch")
    _claimed(queue)
    with Queue(queue.path) as after:
        assert after.recover() == 1
        assert _claimed(after).attempts == 2


def test_a_study_that_kills_the_process_is_given_up(queue: Queue, tmp_path: Path) -> None:
    queue.add("bad", tmp_path / "bad", "d", "watch")
    for attempt in range(1, ATTEMPTS + 1):
        assert _claimed(queue).attempts == attempt
        assert queue.recover() == (1 if attempt < ATTEMPTS else 0)
    (bad,) = queue.jobs("failed")
    assert bad.error is not None
    assert f"ended {ATTEMPTS} times" in bad.error


def test_a_study_that_kills_the_process_does_not_stop_the_line(queue: Queue, tmp_path: Path) -> None:
    queue.add("bad", tmp_path / "bad", "d", "watch")
    queue.add("good", tmp_path / "good", "d", "watch")
    assert _claimed(queue).key == "bad"
    queue.recover()
    assert [_claimed(queue).key for _ in range(2)] == ["good", "bad"]


def test_a_running_study_whose_folder_changed_is_recovered_once(queue: Queue, tmp_path: Path) -> None:
    queue.add("k", tmp_path, "d1", "watch")
    _claimed(queue)
    queue.add("k", tmp_path, "d2", "watch")
    assert queue.recover() == 0
    assert [(job.digest, job.state) for job in queue.jobs()] == [("d2", "waiting")]


def test_release_does_not_count(queue: Queue, tmp_path: Path) -> None:
    queue.add("k", tmp_path, "d", "watch")
    for _ in range(2 * ATTEMPTS):
        job = _claimed(queue)
        assert job.attempts == 1
        queue.release(job)


def test_a_forgotten_study_is_new(queue: Queue, tmp_path: Path) -> None:
    queue.add("k", tmp_path, "d", "watch")
    queue.forget(_claimed(queue))
    assert queue.add("k", tmp_path, "d", "watch")


def test_retry(queue: Queue, tmp_path: Path) -> None:
    queue.add("k", tmp_path, "d", "watch")
    queue.fail(_claimed(queue), "no FLAIR")
    assert queue.retry("k") == 1
    job = _claimed(queue)
    assert (job.attempts, job.error, job.ended) == (1, None, None)
    with pytest.raises(InputError, match="no failed job is named k"):
        queue.retry("k")


def test_names_that_are_no_utf8(queue: Queue, tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    queue.add("k", folder, "d", "watch")
    assert queue.jobs()[0].folder == folder


# --- results that are sent on


def test_results_are_due_when_the_study_is_done(queue: Queue, tmp_path: Path) -> None:
    queue.add("k", tmp_path, "d", "receive")
    queue.finish(_claimed(queue), tmp_path / "out", ["pacs", "archive"])
    assert queue.counts()["deliveries"] == 2
    first = queue.due_delivery(time.time())
    assert first is not None
    assert (first.destination, first.job.results, first.attempts) == ("pacs", tmp_path / "out", 0)
    queue.delivered(first)
    second = queue.due_delivery(time.time())
    assert second is not None
    assert second.destination == "archive"
    until = time.time() + 60
    queue.postpone(second, until, "connection refused")
    assert queue.due_delivery(time.time()) is None
    again = queue.due_delivery(until)
    assert again is not None
    assert (again.id, again.attempts, again.error) == (second.id, 1, "connection refused")
    assert [(d.destination, d.state) for d in queue.deliveries()] == [("pacs", "done"), ("archive", "waiting")]


def test_results_are_sent_to_a_destination_once(queue: Queue, tmp_path: Path) -> None:
    queue.add("k", tmp_path, "d", "receive")
    job = _claimed(queue)
    queue.finish(job, tmp_path, ["pacs"])
    queue.enqueue_deliveries(job, ["pacs", "archive"])
    assert [delivery.destination for delivery in queue.deliveries()] == ["pacs", "archive"]


# --- the file


def _add_many(path: Path, name: str, number: int) -> None:
    with Queue(path) as queue:
        for k in range(number):
            queue.add(f"{name}-{k}", Path("in"), "d", "receive")


def test_several_processes_add_at_once(queue: Queue) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add_many, args=(queue.path, name, 25)) for name in "abc"]
    for process in processes:
        process.start()
    claimed: list[str] = []
    while len(claimed) < 75:
        job = queue.claim()
        if job is not None:
            claimed.append(job.key)
        assert any(process.is_alive() for process in processes) or job is not None
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(set(claimed)) == 75


def test_what_is_no_queue(tmp_path: Path) -> None:
    (tmp_path / "queue.sqlite").write_bytes(b"this is no database at all, " * 100)
    with pytest.raises(OutputError, match="cannot use the queue"):
        Queue(tmp_path / "queue.sqlite")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot use the queue"):
        Queue(tmp_path / "file" / "queue.sqlite")


def test_a_queue_of_another_format(queue: Queue) -> None:
    connection = sqlite3.connect(queue.path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(OutputError, match="format 99"):
        Queue(queue.path)


def test_a_queue_belongs_to_one_output_folder(queue: Queue, tmp_path: Path) -> None:
    queue.belong(tmp_path / "out")
    queue.belong(tmp_path / "out")
    with pytest.raises(InputError, match="is for results in"):
        queue.belong(tmp_path / "elsewhere")


def test_every_commit_waits_for_the_disk(queue: Queue) -> None:
    settings = [queue._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert settings == ["wal", 2]
