"""The one worker of a state folder: takes studies from the queue, one after the other, through one open engine."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgeseg import batch, readers, segment
from edgeseg.errors import EdgesegError, InputError, OutputError
from edgeseg.scanner.jobs import FILE, Job, Queue
from edgeseg.scanner.listing import content_digest
from edgeseg.scanner.monitor import Monitor, space_problem

LOCK = "worker.lock"
PAUSE_S = 5.0
"""Between looks at a disk that is full or gone."""
_MACHINES = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.EHOSTDOWN),
        *(errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.ENODEV, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    )
)
"""What is the machine's fault, not the study's: it is tried again."""
Find = Callable[[Job], "readers.StudyFiles | None"]


@contextmanager
def sole_worker(state: Path) -> Iterator[Queue]:
    """Open a state folder's queue as its only worker, and put back what an earlier one left running.

    Raises
    ------
    InputError
        When another process works from this folder.
    OutputError
        When the folder cannot be written to.
    """
    import fcntl

    try:
        state.mkdir(parents=True, exist_ok=True)
        file = (state / LOCK).open("a")
    except OSError as error:
        raise OutputError(f"cannot write to {state} ({error.strerror}): give another folder with --state") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"another edgeseg works from {state}: stop it first, or give another folder with --state"
            ) from error
        with Queue(state / FILE) as queue:
            yield queue


def find_study(job: Job) -> readers.StudyFiles | None:
    """Find a job's files in its folder; None when the study is not there."""
    try:
        found = readers.find_studies(job.folder)
    except EdgesegError:
        return None
    return next((files for files in found if files.name == job.key), None)


@dataclass
class Worker:
    """Runs jobs.

    Parameters
    ----------
    queue
        From `sole_worker`.
    opened, output, options
        As in `edgeseg.segment.segment`.
    monitor
        What is told of it.
    find
        A job's files; None when they are gone.
    destinations
        Who is to have the results.
    checked
        Whether a job whose files are not those that were queued is dropped until they are complete again: for folders
        that others write into.
    stop
        What ends the service; a disk that stays full is not waited for then.
    problem, done, failed
        Why work cannot go on now, and how many studies have ended so far, by how.
    """

    queue: Queue
    opened: segment.OpenEngine
    output: Path
    options: segment.Options
    monitor: Monitor
    find: Find = find_study
    destinations: Sequence[str] = ()
    checked: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    problem: str | None = None
    done: int = 0
    failed: int = 0

    def start(self) -> None:
        """Put back what an earlier worker left running.

        Raises
        ------
        InputError
            When the queue belongs to another output folder.
        OutputError
            When the output folder cannot be made.
        """
        self.output = self.output.absolute()
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write to {self.output} ({error.strerror}): give another with -o") from error
        self.queue.belong(self.output)
        self.monitor.event("recovered", studies=self.queue.recover())

    def step(self) -> bool:
        """Run the oldest waiting job.

        Returns
        -------
        bool
            Whether there was one that could be run. `problem` says why not when it is the machine's fault.
        """
        self.monitor.beat()
        try:
            self.note(self._obstacle())
            job = None if self.problem else self.queue.claim()
            if job is None:
                return False
            self._run(job)
        except OutputError as error:
            self.hinder(error)
            return False
        return self.problem is None

    def hinder(self, error: OutputError) -> None:
        """Say that the queue cannot be used."""
        self.note("the queue cannot be used: " + _reason(error))

    def note(self, problem: str | None) -> None:
        """Say once that work cannot go on, and once that it does."""
        if problem and problem != self.problem:
            self.monitor.event("paused", reason=problem)
        elif self.problem and not problem:
            self.monitor.event("resumed")
        self.problem = problem

    def _obstacle(self) -> str | None:
        """Why no study should be begun now; after a failure both places have to be seen to take data again."""
        state = self.queue.path.parent
        full = space_problem("output", self.output) or space_problem("state", state)
        if full or not self.problem:
            return full
        try:
            self.queue.check()
        except OutputError:
            return self.problem
        return None if _takes_data(self.output) and _takes_data(state) else self.problem

    def _run(self, job: Job) -> None:
        started = time.monotonic()
        try:
            files = self.find(job)
            if files is None or (self.checked and content_digest(files.files, job.folder) != job.digest):
                self._until_written(lambda: self.queue.forget(job))
                self.monitor.event("study_changed", study=job.key)
                return
            self.monitor.event("study_started", study=job.key, attempt=job.attempts, files=len(files.files))
            outcomes = batch.run([files], self.opened, self.output, self.options, lambda _: self.monitor.beat())
            for outcome in outcomes:
                self._conclude(job, outcome, started)
        except (KeyboardInterrupt, SystemExit):
            self.queue.release(job)
            raise
        except OutputError:
            raise
        except Exception as error:  # nothing may stop the line, whatever a folder holds
            self._fail(job, f"unexpected {type(error).__name__}", started)

    def _conclude(self, job: Job, outcome: batch.Outcome, started: float) -> None:
        if outcome.result is not None:
            seconds, results = time.monotonic() - started, outcome.result.folder
            self._until_written(lambda: self.queue.finish(job, results, self.destinations))
            self.done += 1
            self.monitor.took(seconds)
            self.monitor.count("edgeseg_studies_total", outcome="done")
            already = outcome.result.already
            self.monitor.event("study_done", study=job.key, seconds=round(seconds, 3), already=already)
            return
        problem = outcome.error or EdgesegError("it ended without results: please report it")
        if _machines_fault(problem) or not _takes_data(self.output):
            self._until_written(lambda: self.queue.release(job))
            self.note("results cannot be written: " + _reason(problem))
            return
        self._fail(job, str(problem), started)

    def _fail(self, job: Job, said: str, started: float) -> None:
        seconds = time.monotonic() - started
        self._until_written(lambda: self.queue.fail(job, said))
        self.failed += 1
        self.monitor.count("edgeseg_studies_total", outcome="failed")
        self.monitor.event("study_failed", study=job.key, seconds=round(seconds, 3), error=said)

    def _until_written(self, change: Callable[[], None]) -> None:
        """Make a change of the queue, however long its disk stays full: what was done must not be done again."""
        while True:
            try:
                return change()
            except OutputError as error:
                self.hinder(error)
                if self.stop.wait(PAUSE_S):
                    raise


def _machines_fault(error: BaseException) -> bool:
    """Whether an error comes from a full or lost disk."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _MACHINES:
            return True
        cause = cause.__cause__
    return False


def _takes_data(folder: Path) -> bool:
    """Write a megabyte and remove it again: quotas and lost shares show in no figure of the disk, nor in all errors."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(10**6))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True


def _reason(error: BaseException) -> str:
    """What the system said, as far as it names no path."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) if isinstance(cause, sqlite3.Error) else type(cause or error).__name__
