"""What is wrong with a folder or a file, in two sentences: one that fits any log, and one that names it."""

from __future__ import annotations

from pathlib import Path

from edgeseg.errors import StudyError
from edgeseg.readers.limits import LARGEST_FILE


def unusable(path: Path, said: str, identified: str = "") -> StudyError:
    """Say what is wrong with a folder, or a file.

    Parameters
    ----------
    path
        Named in the second sentence alone.
    said
        The rest of a sentence that begins with the folder or the file.
    identified
        The same for the second sentence, where it can say more.
    """
    return StudyError(f"the {'file' if path.is_file() else 'folder'} {said}", f"{path} {identified or said}")


def diagnosis(path: Path) -> str:
    """Say why a file is not DICOM, as the rest of a sentence that begins with the file."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
        size = path.stat().st_size
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if size > LARGEST_FILE:
        return f"has {size / (1 << 30):.1f} GB, and edgeseg takes files of {LARGEST_FILE >> 30} GB at most"
    if not start:
        return "is empty"
    if start[128:132] == b"DICM":
        return "is DICOM, but truncated in its header or without a StudyInstanceUID"
    text = all(byte in b"\t\n\r\f\b" or byte >= 32 for byte in start)
    return "is a text file, not DICOM" if text else "is not DICOM"
