"""Segmentation -> files: one literal table of formats, and `write`, which fills a folder with those that were chosen.

Nothing here prints, and nothing outside the given folder is touched.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from edgeseg.errors import InputError
from edgeseg.types import Segmentation, Study
from edgeseg.writers.report import ReportFacts
from edgeseg.writers.report import write as write_report

__all__ = ["FORMATS", "ReportFacts", "allowed_formats", "check_formats", "default_formats", "write"]

FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "masks": ("edgeseg.writers.masks", ("tiff",)),
    "nifti": ("edgeseg.writers.nifti", ("dicom", "nifti")),
    "dicom-seg": ("edgeseg.writers.dicom_seg", ("dicom",)),
    "dicom-sr": ("edgeseg.writers.dicom_sr", ("dicom",)),
    "secondary-capture": ("edgeseg.writers.secondary_capture", ("dicom",)),
    "overlay": ("edgeseg.writers.overlay", ("dicom", "nifti", "tiff")),
    "html": ("edgeseg.writers.html", ("dicom", "nifti", "tiff")),
    "report": ("edgeseg.writers.report", ("dicom", "nifti", "tiff")),
}
"""Name -> (module whose ``write`` makes it, kinds of study that can have it), in the order of writing: report last."""

ON_REQUEST = ("secondary-capture",)
"""What no study gets unless it is asked for."""

_BRINGS = {"dicom-sr": "dicom-seg"}
"""What refers to another format's file, and brings that along."""


def write(
    segmentation: Segmentation, study: Study, formats: Iterable[str], folder: Path, facts: ReportFacts
) -> list[str]:
    """Write the chosen formats into a folder.

    Parameters
    ----------
    segmentation, study
        What was found, on the FLAIR series' own grid, and in what.
    formats
        Names of `FORMATS`, in any order; see `default_formats`.
    folder
        An existing folder: the caller makes it, and moves it to its place once everything is written.
    facts
        What the report says of engine, preprocessing and versions.

    Returns
    -------
    list of str
        Every file written, relative to the folder, with forward slashes.

    Raises
    ------
    InputError
        For a format that is unknown or that this kind of study cannot have; nothing is written then.
    StudyError
        When the FLAIR series' headers do not allow DICOM results.
    """
    chosen = check_formats(study, formats)
    started = time.perf_counter()
    files: list[str] = []
    for name in chosen:
        if name != "report":
            module, _ = FORMATS[name]
            files += import_module(module).write(segmentation, study, folder, facts)
    if "report" in chosen:
        write_ms = 1000.0 * (time.perf_counter() - started)
        files += write_report(segmentation, study, folder, facts, files=files, write_ms=write_ms)
    return files


def default_formats(study: Study) -> tuple[str, ...]:
    """Return the formats that a study gets unless others are asked for: all that it can have but `ON_REQUEST`."""
    return tuple(name for name in allowed_formats(study) if name not in ON_REQUEST)


def allowed_formats(study: Study) -> tuple[str, ...]:
    """Return the formats that a study can have, in the order of writing."""
    return tuple(name for name, (_, sources) in FORMATS.items() if study.source in sources)


def check_formats(study: Study, formats: Iterable[str]) -> tuple[str, ...]:
    """Return the chosen formats and what these bring along, each once and in the order of writing.

    Raises
    ------
    InputError
        For a format that is unknown or that this kind of study cannot have.
    """
    wanted = set(formats)
    allowed = allowed_formats(study)
    unknown = sorted(wanted - set(FORMATS))
    if unknown:
        raise InputError(f"unknown output format {', '.join(unknown)}: choose among {', '.join(FORMATS)}")
    impossible = sorted(wanted - set(allowed))
    if impossible:
        raise InputError(
            f"a {_KINDS[study.source]} study cannot have the output format {', '.join(impossible)}: "
            f"choose among {', '.join(allowed)}"
        )
    wanted |= {_BRINGS[name] for name in wanted & set(_BRINGS)}
    return tuple(name for name in allowed if name in wanted)


_KINDS = {"dicom": "DICOM", "tiff": "TIFF", "nifti": "NIfTI"}
