"""Many studies through one engine: a bad one never stops the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeseg import readers, segment
from edgeseg.errors import EdgesegError, OutputError


@dataclass(frozen=True)
class Outcome:
    """What became of a study: a result, or the error that stopped it.

    ``root`` is where it lies; None for a DICOM study unless `Options.identified`, since folders have patients' names.
    """

    name: str
    root: Path | None
    result: segment.Result | None
    error: EdgesegError | None


def run(
    studies: list[readers.StudyFiles],
    opened: segment.OpenEngine,
    output: Path,
    options: segment.Options = segment.DEFAULTS,
    say: segment.Say = lambda _: None,
) -> Iterator[Outcome]:
    """Segment one study after the other.

    Parameters
    ----------
    studies
        From `edgeseg.readers.find_studies`.
    opened, output, options, say
        As in `edgeseg.segment.segment`.

    Yields
    ------
    Outcome
        One for each study. A place that cannot be written to ends the batch: what comes after it is not tried.
    """
    for files in studies:
        root = files.root if options.identified or files.kind != "dicom" else None
        try:
            yield Outcome(files.name, root, segment.segment(files, opened, output, options, say), None)
        except Exception as error:  # a file that no reader foresaw must not stop the others
            known = error if isinstance(error, EdgesegError) else _unforeseen(error)
            if options.identified:
                known.reveal()
            yield Outcome(files.name, root, None, known)
            if isinstance(known, OutputError):
                return


def _unforeseen(error: Exception) -> EdgesegError:
    """An error that is reported as it is: its own text may quote anything, so it is told on request."""
    kind, remedy = type(error).__name__, "please report it with the study's kind"
    unforeseen = EdgesegError(f"unexpected {kind}: {remedy}", f"unexpected {kind}: {error}; {remedy}")
    unforeseen.__cause__ = error
    return unforeseen
