"""A folder of NIfTI files, one for each sequence, told apart by file name and JSON sidecar."""

# mypy: untyped-calls-exclude="SimpleITK"
from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeseg.errors import StudyError
from edgeseg.readers import geometry, sidecar
from edgeseg.readers.assembly import assemble
from edgeseg.readers.choice import AUTOMATIC, Selection
from edgeseg.readers.imagetype import is_derived, is_reformatted
from edgeseg.readers.limits import MOST_VOXELS
from edgeseg.readers.sequences import FEWEST_SLICES, SeriesFacts, recognise
from edgeseg.types import Study, Volume

SUFFIXES = (".nii", ".nii.gz")

_NO_IMAGE = re.compile(r"mask|seg|label|probability|_(ph|phase|real|imaginary|imag)[a-z]?(_|$)")
"""Words in the names of masks, and dcm2niix's endings of phase, real and imaginary images."""
_REFORMATTED = re.compile(r"_eq(_\d+)?[a-z]?$")
"""dcm2niix's ending of an image whose slices it has resampled to equal distances."""
_SUBJECT = re.compile(r"sub-[a-zA-Z0-9]+(_ses-[a-zA-Z0-9]+)?(?=_)")
"""Subject and session in a BIDS name."""
_ADVICE = "(for NIfTI the word counts that is in the file's name, flair, t1 or t1ce, or in its JSON sidecar)"


def read_study(name: str, files: Sequence[Path], selection: Selection = AUTOMATIC) -> Study:
    """Read one folder of NIfTI files.

    Parameters
    ----------
    name
        Name of the study, used as its uid too.
    files
        The folder's .nii and .nii.gz files.
    selection
        Which files the user named, and the rules for the others.

    Returns
    -------
    Study
        FLAIR in the file's own order of voxels, (slice, row, column) = (z, y, x), float32, with geometry in LPS;
        T1s on its grid. A sidecar that cannot be used is a warning.

    Raises
    ------
    StudyError
        None of the files is FLAIR or those of several patients are, the FLAIR file cannot be read, is
        four-dimensional or is a mask, or a name that was given fits no file.
    """
    facts, notes = [], []
    sidecars = [sidecar.read(path) for path in files]
    for path, one in zip(files, sidecars, strict=True):
        facts.append(series_facts(path, one))
        notes += [f"the JSON sidecar of {path.name} {problem}" for problem in one.problems]
    if selection.flair is None:
        _check_one_patient(files, facts, sidecars, selection)
    try:
        return assemble(
            uid=name,
            name=name,
            source="nifti",
            series=facts,
            load=lambda i: read_volume(files[i]),
            warnings=notes,
            selection=selection,
        )
    except StudyError as error:
        if str(error).startswith("no FLAIR"):
            raise StudyError(f"{files[0].parent}: {'; '.join((str(error), *notes))} {_ADVICE}") from None
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


def series_facts(path: Path, beside: sidecar.Sidecar | None = None) -> SeriesFacts:
    """What a file's name, its header and its JSON sidecar say; a file that cannot be read goes by its name."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    slices, normal, thickness_mm = FEWEST_SLICES, None, None
    try:
        reader.ReadImageInformation()
        slices = int(reader.GetSize()[2]) if reader.GetDimension() > 2 else 1
        if reader.GetDimension() == 3:
            x, y, z = (float(value) for value in reader.GetDirection()[2::3])
            normal, thickness_mm = (x, y, z), float(reader.GetSpacing()[2])
    except RuntimeError:  # read_volume says what is wrong, if the file is needed
        pass
    beside = beside or sidecar.read(path)
    name = _stem(path)
    types = beside.image_type
    return SeriesFacts(
        label=path.name,
        slices=slices,
        text=f"{name} {beside.text}",
        echo_time_ms=beside.time_ms("EchoTime"),
        repetition_time_ms=beside.time_ms("RepetitionTime"),
        inversion_time_ms=beside.time_ms("InversionTime"),
        techniques=beside.techniques,
        agent=beside.agent,
        acquired=beside.acquired,
        normal=normal,
        derived=_NO_IMAGE.search(name.lower()) is not None or is_derived(types),
        sequence=beside.sequence,
        reformatted=is_reformatted(types) or _REFORMATTED.search(name.lower()) is not None,
        thickness_mm=thickness_mm,
        names=(name, *beside.names),
    )


def _check_one_patient(
    files: Sequence[Path], facts: Sequence[SeriesFacts], sidecars: Sequence[sidecar.Sidecar], selection: Selection
) -> None:
    """Refuse a folder of several FLAIR files, unless their sidecars or BIDS names say that they are of one patient."""
    found = [
        (path.name, beside.study or ("" if (bids := _SUBJECT.match(path.name)) is None else bids[0]))
        for path, fact, beside in zip(files, facts, sidecars, strict=True)
        if recognise(fact, selection.rules).kind == "FLAIR"
    ]
    if len(found) > 1 and ("" in (of := {study for _, study in found}) or len(of) > 1):
        names = ", ".join(name for name, _ in found[:5]) + (", ..." if len(found) > 5 else "")
        raise StudyError(
            f"{files[0].parent} holds {len(found)} FLAIR files ({names}) and edgeseg takes one a study: put each "
            "patient into a folder of its own, with one FLAIR file, or name the one to take with --flair"
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
