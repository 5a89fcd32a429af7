"""Many studies through one engine: a bad one never stops the others, and a finished one is not done again."""

from __future__ import annotations

import hashlib
import re
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg import readers, results, segment
from edgeseg.errors import EdgesegError, InputError, OutputError
from edgeseg.pipeline import overlapped
from edgeseg.types import FloatArray


@dataclass(frozen=True)
class Finished:
    """A finished study: the folder of its results, and their report as plain values. No voxels.

    Parameters
    ----------
    folder
        Where the results are.
    content
        As in ``report.json``.
    already
        Whether an earlier run finished it.
    """

    folder: Path
    content: dict[str, Any]
    already: bool

    @property
    def files(self) -> tuple[str, ...]:
        """The files written, relative to ``folder``."""
        return tuple(self.content["files"])

    def report(self) -> dict[str, Any]:
        """What ``report.json`` says."""
        return self.content


@dataclass(frozen=True)
class Outcome:
    """What became of a study: what it gave, or the error that stopped it.

    ``root`` is where it lies; None for a DICOM study unless `Options.identified`, since folders have patients' names.
    """

    name: str
    root: Path | None
    result: Finished | None
    error: EdgesegError | None


def run(
    studies: Sequence[readers.StudyFiles],
    opened: segment.OpenEngine,
    output: Path,
    options: segment.Options = segment.DEFAULTS,
    say: segment.Say = lambda _: None,
    again: bool = False,
) -> Iterator[Outcome]:
    """Segment studies, one after the other in each of three steps that run at the same time: read, network, write.

    What an interrupted run left half written in ``output`` is cleared away first; other runs may be at work there.

    Parameters
    ----------
    studies
        From `edgeseg.readers.find_studies`.
    opened, output, options, say
        As in `edgeseg.segment.segment`.
    again
        Do also what is done already: studies with a report of the same input, engine and options, beside all the files
        that it lists.

    Yields
    ------
    Outcome
        One for each study. A place that cannot be written to ends the batch: what comes after it is not tried.
    """
    results.sweep(output)
    line = _Line(opened, output, options, say, again)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # readers and writers silence pydicom for a while, which threads undo mutually
        steps = (line.before, line.within, line.after)
        with closing(overlapped(studies, *steps, discard=line.discard, stop=line.stop)) as outcomes:
            for outcome in outcomes:
                yield outcome
                if isinstance(outcome.error, OutputError):
                    return


def shard(studies: Sequence[readers.StudyFiles], which: str) -> list[readers.StudyFiles]:
    """One part of the studies, for one of several tasks: each study is in one part, by the hash of its name.

    Parameters
    ----------
    studies
        From `edgeseg.readers.find_studies`.
    which
        ``i/n``: part i, from 1, of n.

    Raises
    ------
    InputError
        When it is something else.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", which)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise InputError(f"--shard takes a part and how many there are, from 1/8 to 8/8 for eight tasks; not {which}")
    return [files for files in studies if _digits(files.name) % parts == part - 1]


def _digits(name: str) -> int:
    return int(hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest(), 16)


@dataclass
class _Job:
    """A study on its way; ``outcome`` ends it, and ``held`` is the stage that it is written in."""

    files: readers.StudyFiles
    mark: str = ""
    held: ExitStack = field(default_factory=ExitStack)
    stage: Path = Path()
    prepared: segment.Prepared | None = None
    logits: FloatArray | None = None
    outcome: Outcome | None = None


class _Line:
    """The three steps of a study, which never raise: what goes wrong is the study's outcome."""

    def __init__(
        self, opened: segment.OpenEngine, output: Path, options: segment.Options, say: segment.Say, again: bool
    ) -> None:
        self._opened, self._output, self._options, self._say, self._again = opened, output, options, say, again
        self.stop = threading.Event()

    def before(self, files: readers.StudyFiles) -> _Job:
        """Find out whether the study is done already; take its stage, and read it."""
        job = _Job(files)
        started = time.perf_counter()
        with self._kept(job):
            job.mark = segment.fingerprint_of(files, self._opened, self._options)
            if not self._is_done(job):
                job.stage = job.held.enter_context(results.staging(self._output, files.name, self.stop))
            # Another process may have finished it while we waited for the stage.
            if job.outcome is None and not self._is_done(job):
                hashed_ms = 1000 * (time.perf_counter() - started)
                job.prepared = segment.prepare(files, self._opened, self._options, self._say)
                job.prepared.timings_ms["read"] += hashed_ms
        return job

    def within(self, job: _Job) -> None:
        """Run the network."""
        with self._kept(job):
            if job.prepared is not None and not self.stop.is_set():
                job.logits = segment.logits_of(job.prepared, self._opened, self._say)

    def after(self, job: _Job) -> Outcome:
        """Write the results, unless the line has come to its end: nobody waits for them then."""
        with self._kept(job):
            if job.prepared is not None and job.logits is not None and not self.stop.is_set():
                folder = self._output / job.files.name
                given = (job.prepared, job.logits, self._opened, job.stage, folder, self._options, self._say, job.mark)
                job.outcome = self._ended(job, Finished(folder, segment.finish(*given).report(), already=False))
        self.discard(job)
        return job.outcome or self._ended(job, None, OutputError("the run ended before this study"))

    def discard(self, job: _Job) -> None:
        """Let go of what a study holds: its stage, which is cleared away, and its voxels."""
        job.prepared = job.logits = None
        job.held.close()

    def _is_done(self, job: _Job) -> bool:
        folder = self._output / job.files.name
        if not self._again and (report := results.finished(folder, job.mark)) is not None:
            job.outcome = self._ended(job, Finished(folder, report, already=True))
        return job.outcome is not None

    def _ended(self, job: _Job, result: Finished | None, error: EdgesegError | None = None) -> Outcome:
        named = self._options.identified or job.files.kind != "dicom"
        return Outcome(job.files.name, job.files.root if named else None, result, error)

    @contextmanager
    def _kept(self, job: _Job) -> Iterator[None]:
        """Make an error the study's outcome, and let go of what it holds."""
        try:
            yield
            return
        except EdgesegError as error:
            problem = error
        except Exception as error:  # a file that no reader foresaw must not stop the others
            problem = _unforeseen(error)
        if self._options.identified:
            problem.reveal()
        if isinstance(problem, OutputError):
            self.stop.set()
        _forget_locals(problem)
        self.discard(job)
        job.outcome = self._ended(job, None, problem)


def _unforeseen(error: Exception) -> EdgesegError:
    """An error that is reported as it is: its own text may quote anything, so it is told on request."""
    kind, remedy = type(error).__name__, "please report it with the study's kind"
    unforeseen = EdgesegError(f"unexpected {kind}: {remedy}", f"unexpected {kind}: {error}; {remedy}")
    unforeseen.__cause__ = error
    return unforeseen


def _forget_locals(error: BaseException | None) -> None:
    """Empty the frames that an error was raised through: they hold the study's voxels as long as the error is kept."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
