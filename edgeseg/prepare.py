"""The LGG set as a table with run-length masks and a folder of images: the form that Hydrogen Torch trains on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from edgeseg.errors import BackendMissing, EdgesegError, InputError, OutputError
from edgeseg.readers import lgg, runlength, tiff
from edgeseg.results import staging
from edgeseg.types import BoolArray, ByteArray

TABLE = "table.pq"
IMAGES = "images"
CLASS = "abnormality"


@dataclass(frozen=True)
class Prepared:
    """What was written.

    Parameters
    ----------
    table
        The table; its images are in ``images`` beside it.
    slices
        Rows of the table.
    abnormal
        How many of them have a mask that is not empty.
    patients
        How many patients they are of.
    """

    table: Path
    slices: int
    abnormal: int
    patients: int


def prepare(
    root: Path,
    output: Path,
    slices: Literal["abnormal", "all"] = "abnormal",
    report: Callable[[str, int, int], None] | None = None,
) -> Prepared:
    """Write ``table.pq`` and ``images/<stem>.png`` from the LGG set.

    The table has the columns image (file name), class_id, rle_mask (column-major, 1-based), mask (the mask's file
    name, unlike for each slice) and patient. An empty slice has no class_id and an empty rle_mask.

    Parameters
    ----------
    root
        The folder that holds the patients, or the one above it.
    output
        Folder to write to; nothing is left there when something fails.
    slices
        Those with an abnormality, or all.
    report
        Called with (patient, done, total).

    Raises
    ------
    InputError
        When the set cannot be used.
    OutputError
        When the folder holds a table already, or cannot be written to.
    BackendMissing
        When pyarrow is not installed.
    """
    if taken := [name for name in (TABLE, IMAGES) if (output / name).exists()]:
        raise OutputError(f"{output} holds {taken[0]} already, and nothing is overwritten: give another folder")
    if find_spec("pyarrow") is None:
        raise BackendMissing("tables need pyarrow: pip install 'edgeseg[train]'")
    patients = lgg.index(root)
    _check_names(patients)
    lgg.check(patients)
    with staging(output, "prepare") as stage:
        try:
            (stage / IMAGES).mkdir()
            rows: list[dict[str, str | None]] = []
            for number, patient in enumerate(patients):
                rows += _write_patient(patient, stage / IMAGES, slices)
                if report:
                    report(patient.name, number + 1, len(patients))
            _write_table(rows, stage / TABLE)
            (stage / IMAGES).replace(output / IMAGES)
            (stage / TABLE).replace(output / TABLE)
        except OSError as error:
            raise OutputError(f"cannot write to {output} ({error.strerror or error}): give another folder") from error
    abnormal = sum(row["class_id"] is not None for row in rows)
    return Prepared(output / TABLE, len(rows), abnormal, len({row["patient"] for row in rows}))


def _check_names(patients: list[lgg.Patient]) -> None:
    """All images go into one folder, so their names must differ."""
    counts = Counter(path.stem for patient in patients for path in patient.images)
    if twice := [stem for stem, count in counts.items() if count > 1]:
        raise InputError(
            f"{len(twice)} images have the name of another patient's (the first: {twice[0]}), and all go into one "
            "folder: name them <patient>_<n>.tif"
        )


def _write_patient(
    patient: lgg.Patient, folder: Path, slices: Literal["abnormal", "all"]
) -> list[dict[str, str | None]]:
    """Write a patient's images; the rows of the table that they make."""
    rows: list[dict[str, str | None]] = []
    pixels = tiff.read_slices(patient.images)
    for path, drawn, image, mask in zip(patient.images, patient.masks, pixels, lgg.read_masks(patient), strict=True):
        if not mask.any() and slices == "abnormal":
            continue
        name = f"{path.stem}.png"
        _write_image(image, folder / name)
        rows.append(
            {
                "image": name,
                "class_id": CLASS if mask.any() else None,
                "rle_mask": _encoded(mask, drawn),
                "mask": drawn.name,
                "patient": patient.name,
            }
        )
    return rows


def _write_image(pixels: ByteArray, path: Path) -> None:
    Image.fromarray(pixels).save(path)


def _encoded(mask: BoolArray, path: Path) -> str:
    """The mask's runs, which decode to the mask."""
    text = runlength.encode(mask)
    if not np.array_equal(runlength.decode(text, (mask.shape[0], mask.shape[1])), mask):
        raise EdgesegError(f"{path} was not the same after encoding and decoding: report this as an error of edgeseg")
    return text


def _write_table(rows: list[dict[str, str | None]], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    if not rows:
        raise InputError("no slice of the set has an abnormality, so the table would be empty: take all slices")
    names = ("image", "class_id", "rle_mask", "mask", "patient")
    parquet.write_table(pa.table({name: pa.array([r[name] for r in rows], pa.string()) for name in names}), path)
