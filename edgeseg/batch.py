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
        try:
            yield Outcome(files.name, files.root, segment.segment(files, opened, output, options, say), None)
        except OutputError as error:
            yield Outcome(files.name, files.root, None, error)
            return
        except EdgesegError as error:
            yield Outcome(files.name, files.root, None, error)
        except Exception as error:  # a file that no reader foresaw must not stop the others
            unforeseen = EdgesegError(
                f"unexpected {type(error).__name__}: {error}; please report it with the study's kind"
            )
            unforeseen.__cause__ = error
            yield Outcome(files.name, files.root, None, unforeseen)
