"""A DICOM study: any depth, any file names, other modalities and localizers among them.

The geometry's axes are (slice, row, column) = (slice normal, second and first vector of Image Orientation), and slices
are in the order in which the normal, the cross product of the first and the second, passes them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import StudyError
from edgeseg.readers.assembly import UnreadableFile, assemble
from edgeseg.readers.choice import AUTOMATIC, Selection
from edgeseg.readers.sequences import FEWEST_SLICES
from edgeseg.readers.series import Frame, Series, find_series, read_header
from edgeseg.types import FloatArray, Geometry, Study, Vector, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

GAP_TOLERANCE = 0.1
"""Part of the slice distance by which a distance may differ before a slice counts as missing."""


def read_study(
    name: str,
    uid: str,
    files: Sequence[Path],
    notes: Sequence[str] = (),
    skipped: Sequence[Path] = (),
    selection: Selection = AUTOMATIC,
) -> Study:
    """Read one DICOM study.

    Parameters
    ----------
    name, uid
        Name of the study, and its StudyInstanceUID.
    files
        Its DICOM files, in any order.
    notes
        Warnings that the study carries already.
    skipped
        Files beside them that cannot be read: named where the study is refused, and in no warning.
    selection
        Which series the user named, and the rules for the others.

    Returns
    -------
    Study
        FLAIR, (slice, row, column) float32, rescaled, in the order of the slice normal; T1s on its grid; headers of
        the FLAIR series in slice order.

    Raises
    ------
    StudyError
        There is no FLAIR, or its slices are of unequal size, doubled, missing or not to be decoded.
    """
    series, more = find_series(files)
    ordered: dict[int, tuple[Frame, ...]] = {}
    loaded: list[int] = []

    def load(position: int) -> Volume:
        ordered[position] = order_frames(series[position])
        loaded.append(position)
        return read_volume(ordered[position])

    try:
        study = assemble(
            uid=uid,
            name=name,
            source="dicom",
            series=[one.facts for one in series],
            load=load,
            warnings=(*notes, *more),
            selection=selection,
        )
    except StudyError as error:
        names = ", ".join(path.name for path in skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        identified = "; ".join((error.identified, *notes)) + (f" ({names})" if names else "")
        raise StudyError("; ".join((str(error), *notes)), identified) from error
    return replace(study, headers=_full_headers(ordered[loaded[0]]))


def order_frames(series: Series) -> tuple[Frame, ...]:
    """Put a series' frames in the order of the slice normal, and check that they make one even stack.

    Parameters
    ----------
    series
        Parallel frames in any order.

    Returns
    -------
    tuple of Frame
        Ascending along the slice normal.

    Raises
    ------
    StudyError
        Slices are of unequal size or spacing, at the same place, missing, or not above each other.
    """
    label, frames = series.facts.label, series.frames
    sizes = {(frame.shape, tuple(np.round(frame.spacing_mm, 3).tolist())) for frame in frames}
    if len(sizes) > 1:
        (rows, columns), _ = min(sizes)
        (more_rows, more_columns), _ = max(sizes)
        raise StudyError(
            f"{label} has slices of unequal size ({columns} x {rows} and {more_columns} x {more_rows} pixels, or of "
            "another pixel spacing): export the series again, without the odd slices"
        )
    normal = frames[0].normal
    placed = sorted(frames, key=lambda frame: float(normal @ frame.position_mm))
    along = np.asarray([normal @ frame.position_mm for frame in placed])
    _check_distances(label, along)
    offsets = np.asarray([frame.position_mm for frame in placed]) - placed[0].position_mm
    aside = np.linalg.norm(offsets - np.outer(along - along[0], normal), axis=1).max()
    if aside > max(1.0, float(placed[0].spacing_mm.max())):
        raise StudyError(
            f"{label} has slices that do not lie above each other ({aside:.1f} mm aside): export it as acquired"
        )
    return tuple(placed)


def read_volume(frames: Sequence[Frame]) -> Volume:
    """Decode frames that are in order, and stack them.

    Returns
    -------
    Volume
        (slice, row, column) float32, with rescale slope and intercept (or the modality table) applied.

    Raises
    ------
    StudyError
        A file cannot be decoded: its transfer syntax is not supported, it is truncated or damaged, or its rescale
        is no number.
    """
    datasets: dict[Path, tuple[Dataset, Any]] = {}
    slices: list[FloatArray] = []
    for frame in frames:
        if frame.path not in datasets:
            datasets[frame.path] = _decoded(frame.path)
        dataset, pixels = datasets[frame.path]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                slices.append(_rescaled(dataset, pixels if pixels.ndim == 2 else pixels[frame.index or 0], frame))
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            problem = "has a rescale slope, an intercept or a table that cannot be applied: export the series again"
            raise UnreadableFile(frame.path, problem) from error
        if frame.index is None:
            del datasets[frame.path]
    ids = tuple(frame.instance_uid for frame in frames)
    return Volume(np.stack(slices), geometry_of(frames), ids)


def geometry_of(frames: Sequence[Frame]) -> Geometry:
    """Geometry of frames that are in order."""
    first, last = frames[0], frames[-1]
    normal = first.normal
    distance = float(normal @ (last.position_mm - first.position_mm)) / max(1, len(frames) - 1)
    columns_grow, rows_grow = first.orientation[:3], first.orientation[3:]
    spacing: Vector = np.asarray([distance or 1.0, first.spacing_mm[0], first.spacing_mm[1]], dtype=np.float64)
    return Geometry(
        origin_mm=first.position_mm,
        spacing_mm=spacing,
        direction=np.stack([normal, rows_grow, columns_grow], axis=1),
    )


def _check_distances(label: str, along_mm: Vector) -> None:
    """Refuse doubled and missing slices, by positions along the normal in ascending order."""
    if len(along_mm) < FEWEST_SLICES:
        raise StudyError(
            f"{label} has {len(along_mm)} slices and edgeseg needs {FEWEST_SLICES} at least: export the whole series"
        )
    distances = np.diff(along_mm)
    usual = float(np.median(distances[distances > 1e-3])) if (distances > 1e-3).any() else 0.0
    doubled = int((distances < GAP_TOLERANCE * usual).sum()) if usual else len(distances)
    if doubled:
        raise StudyError(
            f"{label} holds several images at the same place ({doubled} times), so it is a repeated or a mixed series: "
            "keep one image for each slice"
        )
    wrong = np.flatnonzero(np.abs(distances - usual) > GAP_TOLERANCE * usual)
    if wrong.size:
        k = int(wrong[0])
        raise StudyError(
            f"{label} has a slice missing between slices {k + 1} and {k + 2} of {len(along_mm)} (at {along_mm[k]:.1f} "
            f"and {along_mm[k + 1]:.1f} mm along the slice normal, where {usual:.1f} mm apart is the rule): export the "
            "whole series again"
        )


def _decoded(path: Path) -> tuple[Dataset, Any]:
    """A file's dataset and its pixels as stored, (row, column) or (frame, row, column)."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True)
            if int(dataset.get("SamplesPerPixel", 1)) != 1:
                problem = "is a colour image, not an MR image as acquired: export the original series"
                raise UnreadableFile(path, problem)
            _name_syntax(dataset)
            _check_decoder(path, dataset)
            return dataset, dataset.pixel_array
    except StudyError:
        raise
    except Exception as error:  # decoders raise whatever they like
        problem = "has a header that can be read and pixels that cannot (truncated or damaged)"
        raise UnreadableFile(path, f"{problem}: copy or export the file again") from error


def _name_syntax(dataset: Dataset) -> None:
    """Give a file without file meta information the transfer syntax that it was found to be in."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" in getattr(dataset, "file_meta", ()):
        return
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _check_decoder(path: Path, dataset: Dataset) -> None:
    """Refuse a compressed transfer syntax for which no decoder is installed, by its name."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    if not syntax.is_compressed:
        return
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        name = "something unknown" if syntax.is_private or syntax.name == syntax else syntax.name
        problem = f"is compressed as {name}, which edgeseg cannot decode here"
        raise UnreadableFile(path, f"{problem}: export it as Explicit VR Little Endian")


def _rescaled(dataset: Dataset, pixels: Any, frame: Frame) -> FloatArray:
    """Stored values -> the scanner's units: a frame's own rescale, else the dataset's."""
    from pydicom.pixels.processing import apply_modality_lut

    if frame.index is not None:
        for groups in (
            *(dataset.get("PerFrameFunctionalGroupsSequence") or ())[frame.index : frame.index + 1],
            *(dataset.get("SharedFunctionalGroupsSequence") or ())[:1],
        ):
            items = groups.get("PixelValueTransformationSequence")
            if items:
                scaled = pixels * float(items[0].RescaleSlope) + float(items[0].RescaleIntercept)
                return np.asarray(scaled, dtype=np.float32)
    return np.asarray(apply_modality_lut(pixels, dataset), dtype=np.float32)


def _full_headers(frames: Sequence[Frame]) -> tuple[Dataset, ...]:
    """Whole headers without pixels, one for each file, in slice order."""
    paths = tuple(dict.fromkeys(frame.path for frame in frames))
    headers = tuple(read_header(path) for path in paths)
    return tuple(header for header in headers if header is not None)
