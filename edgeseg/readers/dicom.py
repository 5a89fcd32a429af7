"""A DICOM study: any depth, any file names, other modalities and localizers among them.

The geometry's axes are (slice, row, column) = (slice normal, second and first vector of Image Orientation), and slices
are in the order in which the normal, the cross product of the first and the second, passes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeseg.errors import StudyError
from edgeseg.readers.acquisitions import SAME_PLACE, separate, without_copies
from edgeseg.readers.assembly import assemble
from edgeseg.readers.choice import AUTOMATIC, Selection
from edgeseg.readers.headers import drop_malformed, read_header
from edgeseg.readers.limits import MOST_VOXELS
from edgeseg.readers.pixels import FramesOf, Known
from edgeseg.readers.plain import Converted
from edgeseg.readers.sequences import FEWEST_SLICES
from edgeseg.readers.series import Frame, Series, find_series
from edgeseg.types import Geometry, Study, Vector, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

GAP_TOLERANCE = 0.1
"""Part of the slice distance by which a distance may differ before a slice counts as missing."""
_MOSAIC = (
    "holds all slices of a volume as tiles of one image (a Siemens mosaic), whose places the header does not give: "
    "export it as Enhanced MR, or a slice a file"
)


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
    found, more = find_series(files)
    acquired = [one for whole in found for one in separate(whole)]
    stacks: dict[int, _Stack] = {}

    def load(position: int) -> Volume:
        one = acquired[position]
        stacks[position] = _load(one.series, one.note)
        return stacks[position].volume

    try:
        study = assemble(
            uid=uid,
            name=name,
            source="dicom",
            series=[one.series.facts for one in acquired],
            load=load,
            warnings=(*notes, *more),
            selection=selection,
        )
    except StudyError as error:
        names = ", ".join(path.name for path in skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        beside = (*notes, *more, *_mosaics(found))
        identified = "; ".join((error.identified, *beside)) + (f" ({names})" if names else "")
        raise StudyError("; ".join((str(error), *beside)), identified) from error
    flair, *_ = stacks.values()  # the first one that is loaded
    said = (*study.warnings, *(note for stack in stacks.values() for note in stack.notes))
    return replace(study, headers=_full_headers(flair.frames), warnings=said)


@dataclass(frozen=True)
class _Stack:
    """A series that was read: its frames in order, its volume, and sentences on it."""

    frames: tuple[Frame, ...]
    volume: Volume
    notes: tuple[str, ...]


def _load(series: Series, note: str) -> _Stack:
    label = series.facts.label
    frames, copies = without_copies(series.frames)
    notes = [note] if note else []
    if copies:
        verb = "file is a copy" if copies == 1 else "files are copies"
        notes.append(f"{copies} {verb} of other images of {label} under another SOPInstanceUID, and left aside")
    ordered = order_frames(replace(series, frames=frames))
    volume, lossy = read_volume(ordered)
    if lossy:
        notes.append(f"{label} was compressed with loss ({lossy}): its mask may differ from the original's")
    return _Stack(ordered, volume, tuple(notes))


def _mosaics(series: Sequence[Series]) -> tuple[str, ...]:
    count = sum(len(one.frames) for one in series if one.mosaic)
    return (f"{count} images are mosaics, each of which {_MOSAIC}",) if count else ()


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


def read_volume(frames: Sequence[Frame]) -> tuple[Volume, str | None]:
    """Decode frames that are in order, and stack them.

    Returns
    -------
    volume
        (slice, row, column) float32, in the scanner's units: with rescale slope and intercept (or the modality table)
        applied, and Philips' scaling for display undone where all frames say it and it is not the same for all.
    lossy
        Name of a compression that lost something, or None.

    Raises
    ------
    StudyError
        A file cannot be decoded: its transfer syntax is not supported, it is truncated or damaged, or its rescale
        is no number; or the frames are more than edgeseg takes.
    """
    rows, columns = frames[0].shape
    if len(frames) * rows * columns > MOST_VOXELS:
        found = f"{len(frames)} slices of {columns} x {rows} pixels"
        raise StudyError(f"a series has {found}, and edgeseg takes {MOST_VOXELS / 1e6:.0f} million voxels at most")
    files: dict[Path, FramesOf] = {}
    headers: Known = {}
    voxels = np.empty((len(frames), rows, columns), np.float32)
    factors: list[float | None] = []
    lossy = None
    for frame, values in zip(frames, voxels, strict=True):
        if frame.path not in files:
            files[frame.path] = FramesOf(frame.path, frame.file, headers)
            lossy = lossy or files[frame.path].lossy
        factors.append(files[frame.path].frame(frame.index, values))
        if frame.index is None:
            del files[frame.path]
    known = [factor for factor in factors if factor is not None]
    if len(known) == len(frames) and len(set(known)) > 1:  # a scaling for display that differs from slice to slice
        voxels /= np.asarray(known, dtype=np.float32)[:, np.newaxis, np.newaxis]
    ids = tuple(frame.instance_uid for frame in frames)
    return Volume(voxels, geometry_of(frames), ids), lossy


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
    doubled = int((distances < SAME_PLACE * usual).sum()) if usual else len(distances)
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


def _full_headers(frames: Sequence[Frame]) -> tuple[Dataset, ...]:
    """Whole headers without pixels and without what is malformed, one for each file, in slice order."""
    converted: Converted = {}  # headers are read by the writers, and never changed
    files = {frame.path: frame.file for frame in frames}
    read = (file.dataset(converted=converted) if file else read_header(path) for path, file in files.items())
    headers = tuple(header for header in read if header is not None)
    for header in headers:
        drop_malformed(header, deep=True)
    return headers
