"""What a study's results hang on, as one hash: the bytes that went in, the engine, and every choice.

Equal fingerprints mean equal results, so a study whose report has the fingerprint already need not be done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from edgeseg import __version__
from edgeseg.readers import StudyFiles, sidecar

_BLOCK = 1 << 16
"""Bytes that are read at a time."""


def fingerprint(files: StudyFiles, how: Mapping[str, Any]) -> str:
    """Hash a study's files together with how they are worked on.

    Parameters
    ----------
    files
        From `edgeseg.readers.find_studies`. DICOM files count by their content alone, wherever they lie; of others the
        names count too, because slices are ordered, and masks named, by them. Sidecars of NIfTI files count with them.
    how
        Engine, preprocessing, threshold, options: plain values, dataclasses, and paths, which count by the content of
        their files.

    Returns
    -------
    str
        SHA-256 in hex.
    """
    parts = sorted(f"{_name(path, files)} {_content(path)}" for path in _read(files))
    study = {"name": files.name, "kind": files.kind, "warnings": files.warnings, "files": parts}
    whole = {"edgeseg": __version__, "study": study, "how": _plain(how)}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _read(files: StudyFiles) -> list[Path]:
    """The study's files, and the sidecars that say which of them is which."""
    beside = map(sidecar.path_of, files.files) if files.kind == "nifti" else ()
    return [*files.files, *(path for path in beside if path.is_file())]


def _name(path: Path, files: StudyFiles) -> str:
    return "" if files.kind == "dicom" else path.name


def _content(path: Path) -> str:
    """Hash of a file's bytes; one that cannot be read counts as such, and is complained of when the study is read."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(block):
                digest.update(block[:count])
    except OSError:
        return "unreadable"
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Values as JSON has them, so that equal ones are written alike."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return _content(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
