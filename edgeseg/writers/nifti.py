"""The mask as one NIfTI file on the FLAIR grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.errors import OutputError, StudyError
from edgeseg.types import Segmentation, Study
from edgeseg.writers.report import ReportFacts

FILE = "mask.nii.gz"


def write(segmentation: Segmentation, study: Study, folder: Path, facts: ReportFacts) -> list[str]:  # noqa: ARG001
    """Write ``mask.nii.gz``: uint8, 0 or 1, every slice of the FLAIR series at its place in the patient.

    Parameters
    ----------
    segmentation
        Its mask is (slice, row, column), bool.
    study
        Gives the geometry (LPS, mm); SimpleITK turns it into NIfTI's RAS.
    folder
        An existing folder.
    facts
        Not needed here; every writer takes it.

    Returns
    -------
    list of str
        The file written, relative to the folder.

    Raises
    ------
    StudyError
        When the study has no geometry.
    OutputError
        When the file cannot be written.
    """
    import SimpleITK

    geometry = study.flair.geometry
    if geometry is None:
        raise StudyError(f"the study {study.name} has no geometry, and NIfTI needs one: ask for --format masks")
    image: Any = SimpleITK.GetImageFromArray(segmentation.mask.astype(np.uint8))
    image.SetOrigin(geometry.origin_mm.tolist())
    image.SetSpacing(geometry.spacing_mm[::-1].tolist())
    image.SetDirection(geometry.direction[:, ::-1].ravel().tolist())
    try:
        SimpleITK.WriteImage(image, str(folder / FILE), useCompression=True)
    except RuntimeError as error:  # what SimpleITK makes of a full disk
        raise OutputError(f"cannot write {FILE} to {folder}: free some space, or give another folder") from error
    return [FILE]
