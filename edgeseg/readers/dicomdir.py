"""DICOMDIR: the table of contents of a CD or a USB stick, followed where it is what was given."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import StudyError
from edgeseg.readers.headers import Patient
from edgeseg.readers.limits import LARGEST_FILE

if TYPE_CHECKING:
    from pydicom import Dataset

NAME = "dicomdir"
"""In any case of letters."""


@dataclass(frozen=True)
class Listed:
    """The files that a DICOMDIR lists and that are there, and how many are not, by StudyInstanceUID."""

    files: tuple[Path, ...]
    missing: Counter[str]


def listed_files(path: Path) -> Listed:
    """Read a DICOMDIR.

    Parameters
    ----------
    path
        The DICOMDIR; the files that it lists lie below its folder.

    Raises
    ------
    StudyError
        It cannot be read, lists no images, lists a file outside its own folder, or none of its files is there.
    """
    root = path.parent.resolve()
    files: list[Path] = []
    missing: Counter[str] = Counter()
    uid = ""
    for study, parts in _records(path):
        uid = study or uid
        if not parts:
            continue
        found = _on_disk(root, parts)
        if found is None:
            missing[uid] += 1
        elif not found.resolve().is_relative_to(root):
            raise _unusable(path, "lists a file outside its own folder: do not trust it, and ask its sender")
        else:
            files.append(found)
    if not files:
        lists = f"lists {missing.total()} files, none of which is" if missing else "lists no files that are"
        raise _unusable(path, f"{lists} there: copy the whole disk, or give the folder that holds the images")
    return Listed(tuple(sorted(set(files))), missing)


def _records(path: Path) -> list[tuple[str, list[str]]]:
    """StudyInstanceUID ("" for none) and parts of a file's name, record by record in the order of the file."""
    import pydicom

    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError("too large")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Patient(path) as file:
                records: Any = pydicom.dcmread(file).DirectoryRecordSequence
            return [(str(record.get("StudyInstanceUID") or ""), _parts(record)) for record in records]
    except Exception as error:  # a damaged file raises whatever it likes
        raise _unusable(
            path, "cannot be read as a DICOMDIR: copy it again, or give the folder that holds the images"
        ) from error


def _parts(record: Dataset) -> list[str]:
    name = record.get("ReferencedFileID") or []
    return [name] if isinstance(name, str) else [str(part) for part in name]


def _on_disk(root: Path, parts: list[str]) -> Path | None:
    """A file as it lies on the disk: copies of CDs are often in small letters."""
    for names in (parts, [part.lower() for part in parts], [part.upper() for part in parts]):
        try:
            if root.joinpath(*names).is_file():
                return root.joinpath(*names)
        except (OSError, ValueError):  # no name that a file can have
            continue
    return None


def _unusable(path: Path, said: str) -> StudyError:
    """Say what is wrong with a DICOMDIR; only the second of the two sentences names it."""
    return StudyError(f"the DICOMDIR {said}", f"{path} {said}")
