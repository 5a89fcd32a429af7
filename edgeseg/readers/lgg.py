"""The LGG training set: ``kaggle_3m/<patient>/<patient>_<n>.tif`` and ``<patient>_<n>_mask.tif``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgeseg.errors import InputError, StudyError
from edgeseg.readers import tiff
from edgeseg.types import BoolArray, Study


@dataclass(frozen=True)
class Patient:
    """One patient's files: images and their masks, in slice order."""

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]


def index(root: Path) -> list[Patient]:
    """List every patient below ``root`` (the folder that holds the patients, or the one above it), sorted by name.

    Raises
    ------
    InputError
        When there is no patient, or an image has no mask, or a mask no image.
    """
    folder = root / "kaggle_3m" if (root / "kaggle_3m").is_dir() else root
    if not folder.is_dir():
        raise InputError(f"no folder at {root}: --data takes the LGG set's folder, with kaggle_3m/<patient>/ inside")
    patients = [_patient(f) for f in sorted(folder.iterdir()) if f.is_dir() and any(f.glob("*_mask.tif"))]
    if not patients:
        raise InputError(f"no <patient>/<patient>_<n>_mask.tif below {folder}: --data takes the LGG set's folder")
    return patients


def _patient(folder: Path) -> Patient:
    found = [path for path in folder.glob("*.tif") if not tiff.is_mask(path)]
    images = sorted(found, key=tiff.slice_number)
    masks = [path.with_name(f"{path.stem}_mask.tif") for path in images]
    drawn = set(folder.glob("*_mask.tif"))
    if missing := [path.name for path in masks if path not in drawn]:
        raise InputError(f"{folder.name}: there is no {missing[0]} beside its image: copy the set again")
    if left := sorted(path.name for path in drawn - set(masks)):
        raise InputError(f"{folder.name}: the mask {left[0]} has no image beside it: copy the set again")
    return Patient(folder.name, tuple(images), tuple(masks))


def choose(patients: list[Patient], names: tuple[str, ...]) -> list[Patient]:
    """The patients of these names, in this order; no names means all.

    Raises
    ------
    InputError
        When a name is not among the patients.
    """
    known = {patient.name: patient for patient in patients}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"no patient {unknown[0]} among the {len(known)} of --data: correct the list")
    return [known[name] for name in names] or patients


def read_study(patient: Patient) -> Study:
    """The patient's images as a study, read as any folder of TIFF slices is."""
    return tiff.read_study(patient.name, patient.images)


def read_masks(patient: Patient) -> BoolArray:
    """The drawn masks: bool (slice, row, column).

    Raises
    ------
    StudyError
        When a mask is unreadable or of another size than the others.
    """
    try:
        masks = [np.asarray(Image.open(path).convert("L")) > 127 for path in patient.masks]
        return np.stack(masks)
    except (OSError, ValueError) as error:
        raise StudyError(f"{patient.name}: the drawn masks cannot be read ({error})") from error
