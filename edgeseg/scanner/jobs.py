"""The queue on disk: which studies wait, run, are done or failed, and which results are still to be sent on.

One SQLite file serves every way in. Each change is one transaction that is on the disk before the call returns, so a
process that is killed at any moment leaves a queue that says what was promised, and `Queue.recover` mends the rest.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeseg.errors import InputError, OutputError

FILE = "queue.sqlite"
"""The queue's name in a state folder."""
ATTEMPTS = 5
"""Times that the process may end while a study runs before the study is given up: it may be what ends it."""
WAITING, RUNNING, DONE, FAILED = STATES = ("waiting", "running", "done", "failed")
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, folder BLOB NOT NULL, digest TEXT NOT NULL,
    source TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0,
    added REAL NOT NULL, started REAL, ended REAL, results BLOB, error TEXT, UNIQUE (key, digest));
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, id);
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    destination TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt REAL NOT NULL, error TEXT, UNIQUE (job, destination));
CREATE INDEX IF NOT EXISTS deliveries_by_time ON deliveries (state, next_attempt);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
_DROP_OLDER = """
DELETE FROM jobs WHERE state='waiting' AND EXISTS (SELECT 1 FROM jobs AS newer WHERE newer.key=jobs.key
    AND newer.folder=jobs.folder AND newer.state='waiting' AND newer.id>jobs.id)
"""
"""A folder that has changed since waits once: as it is now."""
_JOB = "jobs.id, key, folder, digest, source, jobs.state, jobs.attempts, added, started, ended, results, jobs.error"
_DELIVERY = "deliveries.id, destination, deliveries.attempts, next_attempt, deliveries.error, deliveries.state"


@dataclass(frozen=True)
class Job:
    """A study in the queue.

    Parameters
    ----------
    id, key
        Its number, and its name, without patient data.
    folder, digest
        Where its files lie, and the hash of their listing.
    source
        The way it came: ``receive`` or ``watch``.
    state, attempts
        One of `STATES`, and how often it was started.
    added, started, ended
        Seconds since 1970.
    results, error
        The folder of its results when it is done, why it failed when it did.
    """

    id: int
    key: str
    folder: Path
    digest: str
    source: str
    state: str
    attempts: int
    added: float
    started: float | None
    ended: float | None
    results: Path | None
    error: str | None


@dataclass(frozen=True)
class Delivery:
    """Results of a study that one destination is to have.

    Parameters
    ----------
    id, job, destination
        Its number, the study, and the destination's name.
    attempts, next_attempt, error
        How often it was tried in vain, when to try next (seconds since 1970), and what the last try said.
    state
        ``waiting`` or ``done``.
    """

    id: int
    job: Job
    destination: str
    attempts: int
    next_attempt: float
    error: str | None
    state: str = WAITING


class Queue:
    """The queue in one SQLite file, for any number of processes and threads.

    Parameters
    ----------
    path
        The file; made when it is not there, its folder too. On a local disk: SQLite's locks do not hold on network
        shares.

    Raises
    ------
    OutputError
        Here and in every method: when the file cannot be read or written, or is not such a queue.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise _broken(path, error) from error
        with self._lock, _errors(path):
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        # FULL, not WAL's usual NORMAL: a sender is told that its study is safe, so it has to be after a power cut too.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise OutputError(
                f"the queue {self.path} has format {version}, this edgeseg reads {_VERSION}: give another folder "
                "with --state"
            )
        if version == 0:
            self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;")

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it, or nothing; on the disk at the end."""
        with self._lock, _errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def add(self, key: str, folder: Path, digest: str, source: Literal["receive", "watch"]) -> bool:
        """Queue a study that is complete on disk.

        Parameters
        ----------
        key
            Its name, without patient data.
        folder
            Where its files lie.
        digest
            Hash of its content listing.
        source
            The way it came.

        Returns
        -------
        bool
            False when this key with this digest is known already, whatever became of it: a study runs once. With
            another digest, as when late instances arrive, it is a new job; one of the same folder that still waits is
            replaced, because the folder is not what it was.
        """
        with self._transaction() as connection:
            place = os.fsencode(folder)
            connection.execute(
                "DELETE FROM jobs WHERE key=? AND folder=? AND digest<>? AND state='waiting'", (key, place, digest)
            )
            found = connection.execute(
                "INSERT INTO jobs (key, folder, digest, source, added) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (key, place, digest, source, time.time()),
            )
            return found.rowcount == 1

    def claim(self) -> Job | None:
        """Take the oldest of the waiting jobs that were tried least: it is running from now on. None when none waits.

        What was running when the process ended comes after what is new: a study that ends it must not stop the line.
        """
        with self._transaction() as connection:
            rows = _jobs(connection, "WHERE state='waiting' ORDER BY attempts, id LIMIT 1")
            if not rows:
                return None
            connection.execute(
                "UPDATE jobs SET state='running', attempts=attempts+1, started=?, ended=NULL, error=NULL WHERE id=?",
                (time.time(), rows[0].id),
            )
            return _jobs(connection, "WHERE jobs.id=?", rows[0].id)[0]

    def finish(self, job: Job, results: Path, destinations: Sequence[str] = ()) -> None:
        """Say that a job is done, where its results lie, and who is to have them: all at once."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state='done', ended=?, results=?, error=NULL WHERE id=?",
                (time.time(), os.fsencode(results), job.id),
            )
            _enqueue(connection, job, destinations)

    def fail(self, job: Job, error: str) -> None:
        """Say that a job failed, and why, without patient data."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state='failed', ended=?, error=? WHERE id=?", (time.time(), error, job.id)
            )

    def release(self, job: Job) -> None:
        """Put a running job back as if it had not been tried: what kept it from running was not its fault."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state='waiting', attempts=attempts-1, started=NULL WHERE id=? AND state='running'",
                (job.id,),
            )
            connection.execute(_DROP_OLDER)

    def forget(self, job: Job) -> None:
        """Drop a job whose folder is not what was queued any more: it is new when it is complete again."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM jobs WHERE id=?", (job.id,))

    def recover(self) -> int:
        """Put back what an earlier worker left running; to be called by the only worker, before its first claim.

        A study that was running each of `ATTEMPTS` times that the process ended is given up.

        Returns
        -------
        int
            How many wait again.
        """
        with self._transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state='failed', ended=?, error=? WHERE state='running' AND attempts>=?",
                (time.time(), f"the process ended {ATTEMPTS} times while it ran: look at its images", ATTEMPTS),
            )
            found = connection.execute("UPDATE jobs SET state='waiting' WHERE state='running'").rowcount
            return found - connection.execute(_DROP_OLDER).rowcount

    def retry(self, key: str) -> int:
        """Put the failed jobs of this key back.

        Returns
        -------
        int
            How many wait again.

        Raises
        ------
        InputError
            When no job of this key has failed.
        """
        with self._transaction() as connection:
            found = connection.execute(
                "UPDATE jobs SET state='waiting', attempts=0, ended=NULL, error=NULL WHERE state='failed' AND key=?",
                (key,),
            )
            if not found.rowcount:
                raise InputError(f"no failed job is named {key}: edgeseg jobs lists them")
            connection.execute(_DROP_OLDER)
            return found.rowcount

    def jobs(self, state: str | None = None) -> list[Job]:
        """Jobs in the order in which they came: all, or those in one state."""
        with self._transaction() as connection:
            if state is None:
                return _jobs(connection, "ORDER BY id")
            return _jobs(connection, "WHERE state=? ORDER BY id", state)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state, and how many deliveries wait (``deliveries``)."""
        with self._transaction() as connection:
            found = dict(connection.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())
            waiting = connection.execute("SELECT COUNT(*) FROM deliveries WHERE state='waiting'").fetchone()[0]
        return {**{state: found.get(state, 0) for state in STATES}, "deliveries": waiting}

    def check(self) -> None:
        """Write to the disk, so that a full or lost one is noticed."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES ('checked', ?)", (time.time(),))

    def belong(self, output: Path) -> None:
        """Tie the queue to one output folder: what is done by it lies there.

        Raises
        ------
        InputError
            When it is tied to another one.
        """
        place = os.fsencode(output.resolve())
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO facts VALUES ('output', ?)", (place,))
            (tied,) = connection.execute("SELECT value FROM facts WHERE name='output'").fetchone()
        if tied != place:
            raise InputError(
                f"the queue {self.path} is for results in {os.fsdecode(tied)}: give that folder with -o, or another "
                "state folder with --state"
            )

    def enqueue_deliveries(self, job: Job, destinations: Sequence[str]) -> None:
        """Say who is to have a job's results; those that have or are to have them already stay as they are."""
        with self._transaction() as connection:
            _enqueue(connection, job, destinations)

    def due_delivery(self, now: float, destinations: Sequence[str] | None = None) -> Delivery | None:
        """The delivery due for longest at ``now`` (seconds since 1970), to one of these destinations; None: none is."""
        where, names = "WHERE deliveries.state='waiting' AND next_attempt<=?", tuple(destinations or ())
        if destinations is not None:
            where += f" AND destination IN ({','.join('?' * len(names))})"
        with self._transaction() as connection:
            found = _deliveries(connection, f"{where} ORDER BY next_attempt LIMIT 1", now, *names)
            return found[0] if found else None

    def delivered(self, delivery: Delivery) -> None:
        """Say that the destination has the results."""
        with self._transaction() as connection:
            connection.execute("UPDATE deliveries SET state='done', error=NULL WHERE id=?", (delivery.id,))

    def postpone(self, delivery: Delivery, until: float, error: str) -> None:
        """Say that a try failed, why, and when to try again (seconds since 1970)."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE deliveries SET attempts=attempts+1, next_attempt=?, error=? WHERE id=?",
                (until, error, delivery.id),
            )

    def deliveries(self) -> list[Delivery]:
        """Every delivery, done or not, in the order of their jobs."""
        with self._transaction() as connection:
            return _deliveries(connection, "ORDER BY deliveries.job, deliveries.id")


def _enqueue(connection: sqlite3.Connection, job: Job, destinations: Sequence[str]) -> None:
    connection.executemany(
        "INSERT INTO deliveries (job, destination, next_attempt) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(job.id, destination, time.time()) for destination in destinations],
    )


def _jobs(connection: sqlite3.Connection, where: str, *values: object) -> list[Job]:
    return [_job(row) for row in connection.execute(f"SELECT {_JOB} FROM jobs {where}", values)]


def _deliveries(connection: sqlite3.Connection, where: str, *values: object) -> list[Delivery]:
    query = f"SELECT {_DELIVERY}, {_JOB} FROM deliveries JOIN jobs ON jobs.id=deliveries.job {where}"
    return [Delivery(row[0], _job(row[6:]), *row[1:6]) for row in connection.execute(query, values)]


def _job(row: Sequence[object]) -> Job:
    values = list(row)
    for column in (2, 10):
        place = values[column]
        if isinstance(place, bytes):
            values[column] = Path(os.fsdecode(place))
    return Job(*values)  # type: ignore[arg-type]  # the columns of _JOB are the fields, in their order


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> OutputError:
    return OutputError(
        f"cannot use the queue {path} ({error}): see that its disk has space, can be written to and is a local one; "
        "give another folder with --state"
    )
