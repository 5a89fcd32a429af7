"""The LGG training set: ``kaggle_3m/<patient>/<patient>_<n>.tif`` and ``<patient>_<n>_mask.tif``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgeseg.errors import InputError, StudyError
from edgeseg.readers import tiff
from edgeseg.types import BoolArray, ByteArray, Study


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
        When there is no patient, or images have no mask, or masks no image: counted over the whole set.
    """
    folder = root / "kaggle_3m" if (root / "kaggle_3m").is_dir() else root
    if not folder.is_dir():
        raise InputError(f"no folder at {root}: --data takes the LGG set's folder, with kaggle_3m/<patient>/ inside")
    found = {f: set(f.glob("*.tif")) for f in sorted(folder.iterdir()) if f.is_dir() and any(f.glob("*.tif"))}
    masks = {path for files in found.values() for path in files if tiff.is_mask(path)}
    images = {path for files in found.values() for path in files} - masks
    if not masks:
        raise InputError(f"no <patient>/<patient>_<n>_mask.tif below {folder}: --data takes the LGG set's folder")
    faults = [
        _alone("images without a mask", {path for path in images if _mask_of(path) not in masks}),
        _alone("masks without an image", masks - {_mask_of(path) for path in images}),
    ]
    if any(faults):
        raise InputError(
            f"the {len(images)} images and {len(masks)} masks below {folder} are no pairs; "
            f"{'; '.join(filter(None, faults))}; every <name>.tif needs its <name>_mask.tif beside it, so copy the set "
            "again"
        )
    return [_patient(place, files & images) for place, files in found.items()]


def check(patients: list[Patient]) -> None:
    """Read every image and mask once, so that damage is found before the first epoch, and all of it at once.

    Raises
    ------
    InputError
        When files are unreadable, masks are of another size than their images, or masks hold other values than 0 and
        255: how many of each, and the first of them.
    """
    unreadable, sizes, values = [], [], []
    for image, mask in ((i, m) for patient in patients for i, m in zip(patient.images, patient.masks, strict=True)):
        try:
            shape = tiff.read_slices((image,)).shape[1:3]
            drawn = _read_mask(mask)
        except StudyError as error:
            unreadable.append(str(error))
            continue
        if fault := _size_fault(mask, drawn, shape):
            sizes.append(fault)
        if fault := _value_fault(mask, drawn):
            values.append(fault)
    faults = [
        f"{what}: {len(found)}, the first is {found[0]}"
        for what, found in (
            ("unreadable", unreadable),
            ("masks of another size than their images", sizes),
            ("masks with other values than 0 and 255", values),
        )
        if found
    ]
    if faults:
        raise InputError(
            f"not all of the {sum(len(p.images) for p in patients)} slices can be used; {'; '.join(faults)}"
        )


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
        When a mask is unreadable, of another size than the first image, or holds other values than 0 and 255.
    """
    drawn = [_read_mask(path) for path in patient.masks]
    try:
        with Image.open(patient.images[0]) as image:
            shape = image.height, image.width
    except OSError as error:
        raise StudyError(f"{patient.images[0]} cannot be read ({error}): copy the set again") from error
    for path, mask in zip(patient.masks, drawn, strict=True):
        if fault := _size_fault(path, mask, shape) or _value_fault(path, mask):
            raise StudyError(fault)
    return np.stack(drawn) > 0


def _mask_of(image: Path) -> Path:
    return image.with_name(f"{image.stem}_mask.tif")


def _alone(what: str, paths: set[Path]) -> str:
    """How many of a pair's halves stand alone, and the first three; empty when none does."""
    names = sorted(f"{path.parent.name}/{path.name}" for path in paths)
    return f"{what}: {len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _patient(folder: Path, images: set[Path]) -> Patient:
    ordered = sorted(images, key=tiff.slice_number)
    return Patient(folder.name, tuple(ordered), tuple(_mask_of(path) for path in ordered))


def _read_mask(path: Path) -> ByteArray:
    """One drawn mask, (row, column) uint8."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("L"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise StudyError(f"{path}: the drawn mask cannot be read ({error}): copy the set again") from error


def _size_fault(path: Path, mask: ByteArray, shape: tuple[int, ...]) -> str | None:
    if mask.shape == tuple(shape):
        return None
    return (
        f"{path} has {mask.shape[1]} x {mask.shape[0]} pixels and its image {shape[1]} x {shape[0]}: "
        "give the mask at its image's size"
    )


def _value_fault(path: Path, mask: ByteArray) -> str | None:
    used = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    if set(used) <= {0, 255}:
        return None
    shown = ", ".join(map(str, used[:5])) + (", ..." if len(used) > 5 else "")
    return f"{path} holds the values {shown}: draw masks with 0 for background and 255 for the abnormality"
