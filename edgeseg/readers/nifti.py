"""A folder of NIfTI files, one for each sequence, told apart by file name and JSON sidecar."""

# mypy: untyped-calls-exclude="SimpleITK"
from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.errors import StudyError
from edgeseg.readers import geometry
from edgeseg.readers.assembly import assemble
from edgeseg.readers.limits import MOST_VOXELS
from edgeseg.readers.sequences import FEWEST_SLICES, SeriesFacts, recognise
from edgeseg.types import Study, Volume

SUFFIXES = (".nii", ".nii.gz")

_MASK_WORDS = ("mask", "seg", "label", "probability")
_ADVICE = "(for NIfTI the word counts that is in the file's name, flair, t1 or t1ce, or in its JSON sidecar)"


def read_study(name: str, files: Sequence[Path]) -> Study:
    """Read one folder of NIfTI files.

    Parameters
    ----------
    name
        Name of the study, used as its uid too.
    files
        The folder's .nii and .nii.gz files.

    Returns
    -------
    Study
        FLAIR in the file's own order of voxels, (slice, row, column) = (z, y, x), float32, with geometry in LPS;
        T1s on its grid.

    Raises
    ------
    StudyError
        None of the files is FLAIR or several are, or the FLAIR file cannot be read, is four-dimensional or is a mask.
    """
    facts = [series_facts(path) for path in files]
    _check_one_patient(files, facts)
    try:
        return assemble(uid=name, name=name, source="nifti", series=facts, load=lambda i: read_volume(files[i]))
    except StudyError as error:
        if str(error).startswith("no FLAIR"):
            raise StudyError(f"{files[0].parent}: {error} {_ADVICE}") from None
        raise


def read_volume(path: Path) -> Volume:
    """Read one NIfTI file.

    Returns
    -------
    Volume
        (slice, row, column) = the file's (z, y, x), float32, with geometry in LPS.

    Raises
    ------
    StudyError
        The file cannot be read, is not three-dimensional, or holds a mask.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        voxels_said = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
        _check_size(path, voxels_said)
        _check_whole(path, voxels_said)
        image = reader.Execute()
    except (RuntimeError, OSError, EOFError, ValueError, OverflowError, zlib.error, struct.error) as error:
        raise StudyError(
            f"{path} cannot be read as NIfTI (truncated, or not NIfTI): copy or convert it again"
        ) from error
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        size = " x ".join(str(n) for n in image.GetSize())
        raise StudyError(
            f"{path} has {size} voxels and edgeseg reads three-dimensional ones: "
            "extract the volume that it needs into a file of its own"
        )
    voxels, grid = geometry.from_image(image)
    if not np.isfinite(voxels).all():
        voxels = np.nan_to_num(voxels, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(voxels.min()), float(voxels.max())
    if np.isin(voxels, (low, high)).all():
        raise StudyError(
            f"{path} holds only the values {low:g} and {high:g}, so it is a mask or blank and no image: give the image"
        )
    return Volume(voxels, grid, (_stem(path),) * voxels.shape[0])


def series_facts(path: Path) -> SeriesFacts:
    """What a file's name, its header and its JSON sidecar say; a file that cannot be read goes by its name."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    slices = FEWEST_SLICES
    try:
        reader.ReadImageInformation()
        slices = int(reader.GetSize()[2]) if reader.GetDimension() > 2 else 1
    except RuntimeError:  # read_volume says what is wrong, if the file is needed
        pass
    sidecar = _sidecar(path)
    name = _stem(path)
    words = [name, *(str(sidecar.get(key, "")) for key in ("SeriesDescription", "SequenceName"))]
    image_type = [str(item).upper() for item in _listed(sidecar.get("ImageType"))]
    agent = str(sidecar.get("ContrastBolusIngredient", sidecar.get("ContrastBolusAgent", "")))
    return SeriesFacts(
        label=path.name,
        slices=slices,
        text=" ".join(words),
        echo_time_ms=_milliseconds(sidecar.get("EchoTime")),
        repetition_time_ms=_milliseconds(sidecar.get("RepetitionTime")),
        inversion_time_ms=_milliseconds(sidecar.get("InversionTime")),
        techniques=tuple(str(item) for item in _listed(sidecar.get("ScanningSequence"))),
        agent=bool(agent) or None,
        acquired=str(sidecar.get("AcquisitionDateTime", sidecar.get("AcquisitionTime", ""))),
        derived=any(word in name.lower() for word in _MASK_WORDS) or "SECONDARY" in image_type,
    )


def _check_one_patient(files: Sequence[Path], facts: Sequence[SeriesFacts]) -> None:
    """Refuse a folder of several FLAIR files: nothing says that they, and the T1s beside them, are of one patient."""
    flairs = [path.name for path, fact in zip(files, facts, strict=True) if recognise(fact).kind == "FLAIR"]
    if len(flairs) > 1:
        names = ", ".join(flairs[:5]) + (", ..." if len(flairs) > 5 else "")
        raise StudyError(
            f"{files[0].parent} holds {len(flairs)} FLAIR files ({names}) and edgeseg takes one a study: put each "
            "patient into a folder of its own, with one FLAIR file"
        )


def _check_whole(path: Path, voxels: int) -> None:
    """Raise EOFError where a file holds fewer bytes than its header says: SimpleITK reads such files on."""
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
        header = file.read(348)
        expected = voxels  # a byte each at least: all that is known of a file that is no NIfTI-1
        orders = {b"\x5c\x01\0\0": "<", b"\0\0\x01\x5c": ">"}
        if header[:4] in orders:
            order = orders[header[:4]]
            axes, *sizes = struct.unpack_from(f"{order}8h", header, 40)
            (bits,) = struct.unpack_from(f"{order}h", header, 72)
            (start,) = struct.unpack_from(f"{order}f", header, 108)
            expected = max(expected, int(start) + math.prod(sizes[:axes]) * bits // 8)
        found = len(header)
        while found < expected and (chunk := file.read(1 << 20)):
            found += len(chunk)
    if found < expected:
        raise EOFError(f"{found} bytes instead of {expected}")


def _check_size(path: Path, voxels: int) -> None:
    if voxels > MOST_VOXELS:
        raise StudyError(
            f"{path} says that it holds {voxels / 1e6:.0f} million voxels, and edgeseg takes {MOST_VOXELS / 1e6:.0f} "
            "million at most: give the volume as it was acquired"
        )


def _stem(path: Path) -> str:
    """A file's name without .nii or .nii.gz."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _sidecar(path: Path) -> dict[str, Any]:
    """The JSON file of the same name, as dcm2niix writes it; empty where there is none."""
    try:
        content = json.loads((path.parent / f"{_stem(path)}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _listed(value: Any) -> list[Any]:
    """A sidecar's list, which dcm2niix writes as a list or as text with underscores or backslashes."""
    if isinstance(value, list):
        return value
    return str(value).replace("\\", "_").split("_") if value else []


def _milliseconds(value: Any) -> float | None:
    """A sidecar's time, in s, as ms."""
    try:
        return float(value) * 1000.0 if isinstance(value, (int, float)) else None
    except OverflowError:  # a number of hundreds of digits
        return None
