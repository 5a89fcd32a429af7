"""Many studies through one engine: a bad one never stops the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeseg import readers, segment
from edgeseg.errors import EdgesegError, OutputError


@dataclass(frozen=True)
class Outcome:
    """What became of a study: where it lies, and a result, or the error that stopped it."""

    name: str
    root: Path
    result: segment.Result | None
    error: EdgesegError | None


def run(
    studies: list[readers.StudyFiles],
    opened: segment.OpenEngine,
    output: Path,
    formats: tuple[str, ...] | None = None,
    say: segment.Say = lambda _: None,
) -> Iterator[Outcome]:
    """Segment one study after the other.

    Parameters
    ----------
    studies
        From `edgeseg.readers.find_studies`.
    opened, output, formats, say
        As in `edgeseg.segment.segment`.

    Raises
    ------
    OutputError
        When results cannot be written: no later study could be either.
    """
    for files in studies:
        try:
            yield Outcome(files.name, files.root, segment.segment(files, opened, output, formats, say), None)
        except OutputError:
            raise
        except EdgesegError as error:
            yield Outcome(files.name, files.root, None, error)
