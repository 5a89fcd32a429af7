"""Many studies through one engine: a bad one never stops the others, and a finished one is not done again."""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgeseg import readers, results, segment
from edgeseg.errors import EdgesegError, InputError, OutputError


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
    """Segment one study after the other.

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
    finish = partial(_finish, opened=opened, output=output, options=options, say=say, again=again)
    for files in studies:
        outcome = _outcome(files, finish, options.identified)
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


def _outcome(files: readers.StudyFiles, finish: Callable[[readers.StudyFiles], Finished], identified: bool) -> Outcome:
    root = files.root if identified or files.kind != "dicom" else None
    try:
        return Outcome(files.name, root, finish(files), None)
    except EdgesegError as error:
        problem = error
    except Exception as error:  # a file that no reader foresaw must not stop the others
        problem = _unforeseen(error)
    if identified:
        problem.reveal()
    _forget_locals(problem)
    return Outcome(files.name, root, None, problem)


def _unforeseen(error: Exception) -> EdgesegError:
    """An error that is reported as it is: its own text may quote anything, so it is told on request."""
    kind, remedy = type(error).__name__, "please report it with the study's kind"
    unforeseen = EdgesegError(f"unexpected {kind}: {remedy}", f"unexpected {kind}: {error}; {remedy}")
    unforeseen.__cause__ = error
    return unforeseen


def _finish(
    files: readers.StudyFiles,
    opened: segment.OpenEngine,
    output: Path,
    options: segment.Options,
    say: segment.Say,
    again: bool,
) -> Finished:
    folder = output / files.name
    mark = segment.fingerprint_of(files, opened, options)
    if not again and (report := results.finished(folder, mark)) is not None:
        return Finished(folder, report, already=True)
    with results.staging(output, files.name) as stage:
        # Another process may have finished it while we waited for the stage.
        if not again and (report := results.finished(folder, mark)) is not None:
            return Finished(folder, report, already=True)
        done = segment.segment_staged(files, opened, stage, folder, options, say, mark)
    return Finished(folder, done.report(), already=False)


def _forget_locals(error: BaseException | None) -> None:
    """Empty the frames that an error was raised through: they hold the study's voxels as long as the error is kept."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
