"""Masks as TIFF files, one for each slice, in the style of the LGG training set."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from edgeseg.errors import StudyError
from edgeseg.types import Segmentation, Study
from edgeseg.writers.report import ReportFacts

FOLDER = "masks"


def write(segmentation: Segmentation, study: Study, folder: Path, facts: ReportFacts) -> list[str]:  # noqa: ARG001
    """Write ``masks/<slice stem>_mask.tif`` for every slice, marked or not: 8 bit, 0 or 255, LZW compressed.

    Parameters
    ----------
    segmentation
        Its mask is (slice, row, column), bool.
    study
        Gives the stems of the slices' files (``flair.instance_ids``).
    folder
        An existing folder.
    facts
        Not needed here; every writer takes it.

    Returns
    -------
    list of str
        The files written, relative to the folder, in slice order.

    Raises
    ------
    StudyError
        When two slices have the same stem: one mask would overwrite the other.
    """
    from PIL import Image

    stems = study.flair.instance_ids
    if len(set(stems)) != len(stems):
        repeated = next(stem for stem in stems if stems.count(stem) > 1)
        raise StudyError(f"two slices are named {repeated}, so one mask would overwrite the other: rename one of them")
    (folder / FOLDER).mkdir(exist_ok=True)
    files = []
    for stem, mask in zip(stems, segmentation.mask, strict=True):
        name = f"{FOLDER}/{stem}_mask.tif"
        encoded = io.BytesIO()  # libtiff, writing a file itself, does not say that a disk is full
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(encoded, "TIFF", compression="tiff_lzw")
        (folder / name).write_bytes(encoded.getvalue())
        files.append(name)
    return files
