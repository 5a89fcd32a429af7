"""Error messages without what might name a patient: they go into logs and into the queue."""

from __future__ import annotations

import re
from pathlib import Path

from edgeseg.readers import StudyFiles

_HIDDEN = "[...]"
_TEXTS = frozenset(("AE", "AS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"))
_SHORTEST = 3
"""Shorter values are in every sentence."""
_PLAIN = re.compile(r"(FLAIR|DICOM|Siemens|Philips|GE MEDICAL SYSTEMS|T[12]|MR|axial|sagittal|coronal)", re.IGNORECASE)


def withhold(message: str, files: StudyFiles) -> str:
    """Replace paths and the texts of a DICOM study's headers in a message.

    Parameters
    ----------
    message
        What went wrong.
    files
        The study. Folder and file names of TIFF and NIfTI studies are the user's own and stay.

    Returns
    -------
    str
        The message, with ``[...]`` where something was left out.
    """
    if files.kind != "dicom":
        return message
    hidden = {str(files.root), *(str(path) for path in files.files)}
    for path in (*files.files, *files.skipped):
        hidden |= set(_names(path, files.root)) | (_texts(path) if path in files.files else set())
    for text in sorted(hidden, key=len, reverse=True):
        if len(text) >= _SHORTEST and not _PLAIN.fullmatch(text):
            message = re.sub(rf"(?<![A-Za-z]){re.escape(text)}(?![A-Za-z])", _HIDDEN, message)
    # What is left of paths: a place that the study's own files do not name.
    return re.sub(r"(?<![\w.])/[^\s:;,()]*[^\s:;,().]", _HIDDEN, message)


def _names(path: Path, root: Path) -> list[str]:
    """Parts of a path that someone chose: the study's own folder and what lies in it."""
    inside = path.relative_to(root).parts if path.is_relative_to(root) else path.parts
    return [root.name, *inside, path.stem, path.as_posix()]


def _texts(path: Path) -> set[str]:
    """Every text in a file's header; none of a file that cannot be read."""
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        found: set[str] = set()
        for element in header.iterall():
            if element.VR in _TEXTS and element.value:
                values = element.value if isinstance(element.value, list) or element.VM > 1 else [element.value]
                found |= {str(value).strip() for value in values} | {str(element.value).strip()}
        return found
    except Exception:  # a header so broken that it cannot be listed cannot have been quoted either
        return set()
