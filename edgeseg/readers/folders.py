"""Which files of a folder may be images, and of which kind, by their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from edgeseg.readers import archives, dicomdir, nifti, tiff

_RESULT_NAMES = frozenset(("masks", "overlay", "mask.nii.gz", "segmentation.dcm", "report.dcm"))
"""What else lies beside a report: left aside where someone had results written into the study's own folder."""
_NO_IMAGES = frozenset(
    (
        *(".txt", ".md", ".json", ".xml", ".html", ".csv", ".tsv", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".bmp"),
        *(".log", ".yaml", ".yml", ".gz", ".py", ".sh", ".bval", ".bvec"),
        ".tags",  # mercure's, beside each DICOM file
    )
)


def walk(root: Path) -> Iterator[Path]:
    """All files below a folder, sorted, without hidden ones and without edgeseg's own results."""
    own = _RESULT_NAMES if _is_result(root) else frozenset()
    for folder, names, files in os.walk(root):
        inside = Path(folder)
        names[:] = sorted(
            name
            for name in names
            if not name.startswith(".") and name not in {"edgeseg-output", *own} and not _is_result(inside / name)
        )
        yield from (
            inside / file
            for file in sorted(files)
            if not file.startswith(".") and file not in own and not _is_special(inside / file)
        )


def _is_special(path: Path) -> bool:
    """Whether a name is a pipe, a socket or a device: opening it could wait for ever."""
    return path.exists() and not path.is_file()


def _is_result(folder: Path) -> bool:
    """Whether a folder is what edgeseg wrote for a study."""
    try:
        return '"edgeseg_version"' in (folder / "report.json").read_text(encoding="utf-8")[:200]
    except (OSError, UnicodeDecodeError):
        return False


def holds_results(root: Path) -> bool:
    """Whether a folder is, or holds at any depth, what edgeseg wrote."""
    folders = (Path(folder) for folder, _, _ in os.walk(root))
    return any(folder.name == "edgeseg-output" or _is_result(folder) for folder in folders)


def kind_of(path: Path) -> Literal["dicom", "tiff", "nifti", "zip"] | None:
    """Kind of file by its name; everything that is not something else may be DICOM."""
    name = path.name.lower()
    if name.endswith(tiff.SUFFIXES):
        return "tiff"
    if name.endswith(nifti.SUFFIXES):
        return "nifti"
    if name.endswith(archives.SUFFIX):
        return "zip"
    if path.suffix.lower() in _NO_IMAGES or name == dicomdir.NAME:
        return None
    return "dicom"
