"""Volumes to network input, and logits back to a mask: both directions in one file, arrays only, no files opened."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseg.errors import StudyError
from edgeseg.types import (
    CHANNELS,
    BoolArray,
    ByteArray,
    ChannelName,
    FloatArray,
    Geometry,
    GridMapping,
    NetworkInput,
    Preprocessing,
    Segmentation,
    Study,
)

TISSUE_MEDIAN: dict[ChannelName, float] = {"pre": 52.0, "flair": 57.0, "post": 55.0}
"""What the tissue's median becomes, 0..255: near that of the training set (``benchmarks/intensity_rule.py``)."""

_TISSUE_SHARE = 0.1
"""How far from the 2nd to the 99.5th percentile tissue begins."""

SMALLEST_ISLAND = 0.1
"""Share of the largest part's voxels that another part of a mask must have to stay (``docs/figures.md``)."""

_PERCENTS = (2.0, 99.5)

WholeArray = npt.NDArray[np.uint16]
_Voxel = TypeVar("_Voxel", bound=np.generic)


def to_network(study: Study, preprocessing: Preprocessing) -> NetworkInput:
    """Turn a study into what an engine is given.

    Parameters
    ----------
    study
        Volumes (slice, row, column) on the FLAIR grid.
    preprocessing
        From the engine's manifest.

    Returns
    -------
    NetworkInput
        uint8 (slice, channel, size, size), 0..255: channels pre, FLAIR, post; FLAIR stands in for a missing one.

    Raises
    ------
    StudyError
        When the FLAIR volume holds no contrast.
    """
    mapping = grid_mapping(study.flair.voxels.shape, study.flair.geometry, preprocessing.size_px)
    count, size = study.flair.voxels.shape[mapping.axes[0]], mapping.size_px
    slices = np.empty((count, len(CHANNELS), size, size), np.uint8)
    flair = slices[:, CHANNELS.index("flair")]
    _fill(flair, study.flair.voxels, "flair", mapping, preprocessing)
    for k, (name, volume) in enumerate(zip(CHANNELS, (study.pre, study.flair, study.post), strict=True)):
        if volume is None:
            slices[:, k] = flair
        elif name != "flair":
            _fill(slices[:, k], volume.voxels, name, mapping, preprocessing)
    return NetworkInput(slices, mapping)


def to_segmentation(logits: FloatArray, study: Study, mapping: GridMapping, threshold: float) -> Segmentation:
    """Bring logits back to the FLAIR grid, mark what reaches the threshold, and drop small islands.

    An island is a part of the mask that no voxel joins to the rest, not even by a corner; it is dropped when it has
    fewer voxels than `SMALLEST_ISLAND` of the largest part's.

    Parameters
    ----------
    logits
        float32 (slice, 1, size, size), as an engine returns them.
    study
        The study that they belong to.
    mapping
        From `to_network`.
    threshold
        Probability, 0..1, at and above which a voxel is marked.
    """
    probability = to_probability(to_grid(logits, mapping))
    mask = _without_islands(probability >= threshold)
    areas = tuple(int(np.count_nonzero(slice_)) for slice_ in mask)
    geometry = study.flair.geometry
    if geometry is None:
        return Segmentation(mask, probability, areas, None, None)
    pixel_mm2 = float(geometry.spacing_mm[1] * geometry.spacing_mm[2])
    return Segmentation(mask, probability, areas, sum(areas) * geometry.voxel_ml, tuple(a * pixel_mm2 for a in areas))


def to_grid(logits: FloatArray, mapping: GridMapping) -> FloatArray:
    """Logits on the FLAIR grid.

    Parameters
    ----------
    logits
        float32 (slice, 1, size, size), as an engine returns them.
    mapping
        From `to_network`.

    Returns
    -------
    FloatArray
        float32 (slice, row, column), the shape of the FLAIR grid.
    """
    return _unorient(_from_network(logits[:, 0], mapping), mapping)


def keeps_grid(mapping: GridMapping) -> bool:
    """Whether the network's squares are the FLAIR grid's own slices, pixel for pixel."""
    return _keeps_pixels(mapping) and mapping.axes == (0, 1, 2) and not any(mapping.flips)


def _keeps_pixels(mapping: GridMapping) -> bool:
    """Whether oriented slices are the network's squares as they are."""
    rows, columns = (mapping.shape[axis] for axis in mapping.axes[1:])
    return (rows, columns) == (mapping.size_px, mapping.size_px) and mapping.height_px == mapping.width_px


def _without_islands(mask: BoolArray) -> BoolArray:
    if not mask.any():
        return mask
    box = _box_of(mask)
    labels = parts(mask[box])
    voxels = np.bincount(labels.ravel())
    voxels[0] = 0  # the background
    kept = np.zeros_like(mask)
    kept[box] = (voxels >= SMALLEST_ISLAND * voxels.max())[labels]
    return kept


def _box_of(mask: BoolArray) -> tuple[slice, ...]:
    """The smallest box that holds a mask (slice, row, column) that is not empty: most masks fill little of a volume."""
    marked = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(int(places[0]), int(places[-1]) + 1) for places in marked)


def parts(mask: BoolArray) -> npt.NDArray[np.integer[Any]]:
    """Number of the connected part that each pixel or voxel of a mask belongs to, from 1; 0 outside the mask.

    Corners join: 8 neighbours in a slice, 26 in a volume.
    """
    import SimpleITK

    search = SimpleITK.ConnectedComponentImageFilter()
    search.FullyConnectedOn()
    search.SetNumberOfWorkUnits(1)  # on a busy machine threads take longer to wake than the search takes
    found = search.Execute(SimpleITK.GetImageFromArray(mask.astype(np.uint8)))
    labels: npt.NDArray[np.integer[Any]] = SimpleITK.GetArrayFromImage(found)
    return labels


def to_probability(logits: FloatArray) -> FloatArray:
    """Logistic function, float32 in and out, 0..1, without overflow."""
    half = np.float32(0.5)
    probability = np.asarray(half * logits, dtype=np.float32)
    np.tanh(probability, out=probability)
    probability += np.float32(1)
    probability *= half
    return probability


def normalise(voxels: FloatArray, channel: ChannelName) -> FloatArray:
    """Bring a sequence's volume to the training set's intensities.

    The value at the 2nd percentile becomes 0, and the tissue's median becomes that of the training set for this
    channel. Tissue is what exceeds a tenth of the way from the 2nd to the 99.5th percentile. Any positive linear change
    of the scanner's values gives the same result. How the rule was found: ``docs/intensities.md``.

    Parameters
    ----------
    voxels
        (slice, row, column), any real dtype, scanner units.
    channel
        Whose target to meet.

    Returns
    -------
    FloatArray
        Same shape, float32, 0..255.

    Raises
    ------
    StudyError
        When the volume is constant or holds values that are not finite.
    """
    values = np.asarray(voxels, dtype=np.float32)
    return scaled(values, *intensity_rule(values, whole_numbers(values), channel))


def scaled(voxels: FloatArray, low: float, gain: float) -> FloatArray:
    """Values as the network takes them before rounding: (voxels - low) * gain, float32, cut off at 0 and 255."""
    return np.asarray(np.clip((voxels - np.float32(low)) * np.float32(gain), 0, 255), dtype=np.float32)


def intensity_rule(values: FloatArray, whole: WholeArray | None, channel: ChannelName) -> tuple[float, float]:
    """What `normalise` does to a volume, as the (low, gain) that `scaled` takes.

    Parameters
    ----------
    values
        float32 (slice, row, column), scanner units: the whole volume.
    whole
        The same as uint16, which gives the same rule sooner; None where a value is no whole number from 0 to 65535.
    channel
        Whose target to meet.

    Raises
    ------
    StudyError
        When the volume is constant or holds values that are not finite.
    """
    if whole is None and not np.isfinite(values).all():
        raise StudyError(f"the {channel} volume holds values that are not finite: export the series again")
    low, high, tissue = _landmarks(values) if whole is None else _counted_landmarks(whole)
    if high <= low or np.isnan(tissue):
        raise StudyError(f"the {channel} volume is constant (every voxel near {low:g}): it holds no image")
    return float(low), float(TISSUE_MEDIAN[channel] / (tissue - low))


def _landmarks(values: FloatArray) -> tuple[np.float64, np.float64, float]:
    """The 2nd and the 99.5th percentile, and the tissue's median; NaN where there is no tissue."""
    low, high = np.percentile(values, _PERCENTS)
    tissue = values[values > low + _TISSUE_SHARE * (high - low)]
    return low, high, float(np.median(tissue)) if tissue.size else np.nan


def _counted_landmarks(whole: WholeArray) -> tuple[np.float64, np.float64, float]:
    """What `_landmarks` finds, to the bit, in whole numbers: counting them takes a third of the time of sorting."""
    every = _every_value(whole)
    counts = np.zeros(len(every), np.int64)
    for slice_ in whole:
        counts += np.bincount(slice_.ravel(), minlength=len(every))
    until = counts.cumsum()
    # float64 as NumPy's are: what they are compared with is taken for float64, too.
    low, high = (np.float64(_counted_percentile(until, percent)) for percent in _PERCENTS)
    darker = int(until[every <= low + _TISSUE_SHARE * (high - low)][-1])
    tissue = int(until[-1]) - darker
    middle = np.searchsorted(until, (darker + (tissue - 1) // 2, darker + tissue // 2), side="right")
    return low, high, float(middle.mean()) if tissue else np.nan


def _counted_percentile(until: npt.NDArray[np.int64], percent: float) -> float:
    """NumPy's percentile of whole numbers, given how many there are up to each; interpolated as NumPy does."""
    last = int(until[-1]) - 1
    place = last * (percent / 100)
    below = int(place)
    lower, upper = (int(value) for value in np.searchsorted(until, (below, min(below + 1, last)), side="right"))
    part = place - below
    return upper - (upper - lower) * (1 - part) if part >= 0.5 else lower + (upper - lower) * part


def whole_numbers(values: FloatArray) -> WholeArray | None:
    """The same values as uint16, as most scanners store them; None where that would change one."""
    whole = np.empty(values.shape, np.uint16)
    for stored, slice_ in zip(whole, values, strict=True):  # a slice fits into the processor's cache
        if not (slice_.min() >= 0 and slice_.max() <= np.iinfo(np.uint16).max):
            return None
        stored[...] = slice_
        if not np.array_equal(stored, slice_):
            return None
    return whole


def _every_value(whole: WholeArray) -> FloatArray:
    return np.arange(int(whole.max()) + 1, dtype=np.float32)


def grid_mapping(shape: tuple[int, ...], geometry: Geometry | None, size_px: int) -> GridMapping:
    """How a grid of this shape (slice, row, column) and geometry lies on the network's axial squares.

    Without geometry the slices are taken as they are: axial, square pixels, anterior up.
    """
    axes, flips = (0, 1, 2), (False, False, False)
    spacing: npt.NDArray[np.float64] = np.ones(3)
    if geometry is not None:
        axes, flips = _nearest_axial(geometry)
        spacing = geometry.spacing_mm[list(axes)]
    height_mm, width_mm = shape[axes[1]] * spacing[1], shape[axes[2]] * spacing[2]
    longest_mm = max(height_mm, width_mm)
    height, width = float(size_px * (height_mm / longest_mm)), float(size_px * (width_mm / longest_mm))
    return GridMapping(
        (shape[0], shape[1], shape[2]),
        axes,
        flips,
        (size_px - height) / 2,
        (size_px - width) / 2,
        height,
        width,
        size_px,
    )


def _nearest_axial(geometry: Geometry) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Which grid axis runs nearest to (head, posterior, left), each used once, and which of them run backwards."""
    wanted = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
    cosines = wanted @ geometry.direction
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    axes = max(orders, key=lambda order: sum(abs(cosines[k, axis]) for k, axis in enumerate(order)))
    flips = tuple(bool(cosines[k, axis] < 0) for k, axis in enumerate(axes))
    return axes, (flips[0], flips[1], flips[2])


def _orient(voxels: npt.NDArray[_Voxel], mapping: GridMapping) -> npt.NDArray[_Voxel]:
    """A view of (slice, row, column) voxels with axes (to the head, to posterior, to the left)."""
    return _flip(np.transpose(voxels, mapping.axes), mapping)


def _unorient(oriented: FloatArray, mapping: GridMapping) -> FloatArray:
    return np.ascontiguousarray(np.transpose(_flip(oriented, mapping), np.argsort(mapping.axes)))


def _flip(voxels: npt.NDArray[_Voxel], mapping: GridMapping) -> npt.NDArray[_Voxel]:
    return np.flip(voxels, tuple(k for k in range(3) if mapping.flips[k]))


def _fill(
    squares: ByteArray, voxels: FloatArray, channel: ChannelName, mapping: GridMapping, preprocessing: Preprocessing
) -> None:
    """Put a volume into one channel (slice, size, size) of the network's input."""
    stored = preprocessing.intensity == "stored" and _is_eight_bit(voxels)
    if stored or not _keeps_pixels(mapping) or (whole := whole_numbers(voxels)) is None:
        values = voxels if stored else normalise(voxels, channel)
        squares[...] = to_bytes(_to_squares(_orient(values, mapping), mapping))
        return
    table = to_bytes(scaled(_every_value(whole), *intensity_rule(voxels, whole, channel)))
    for square, slice_ in zip(squares, _orient(whole, mapping), strict=True):
        table.take(slice_, out=square, mode="clip")


def _is_eight_bit(voxels: FloatArray) -> bool:
    return bool(voxels.min() >= 0 and voxels.max() <= 255 and np.array_equal(voxels, np.round(voxels)))


def to_bytes(values: FloatArray) -> ByteArray:
    """Values as an engine takes them: rounded to uint8, what lies beyond 0 and 255 cut off."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _to_squares(oriented: FloatArray, mapping: GridMapping) -> FloatArray:
    """Scale each oriented slice to square pixels and put it in the middle of the network's square; outside is 0."""
    if _keeps_pixels(mapping):
        return oriented
    slices, rows, columns = oriented.shape
    size = mapping.size_px
    top, left = _whole(mapping.top_px), _whole(mapping.left_px)
    height, width = size - 2 * top, size - 2 * left
    box = _box(mapping, rows, columns, top, left)
    squares = np.zeros((slices, size, size), np.float32)
    for k in range(slices):
        squares[k, top : top + height, left : left + width] = _resize(oriented[k], (height, width), box)
    return squares


def _from_network(logits: FloatArray, mapping: GridMapping) -> FloatArray:
    """The network's squares (slice, size, size) to oriented slices at the grid's own resolution."""
    if _keeps_pixels(mapping):
        return logits
    rows, columns = (mapping.shape[axis] for axis in mapping.axes[1:])
    box = (
        mapping.left_px,
        mapping.top_px,
        mapping.left_px + mapping.width_px,
        mapping.top_px + mapping.height_px,
    )
    return np.stack([_resize(square, (rows, columns), box) for square in logits])


def _whole(margin_px: float) -> int:
    """A margin in whole pixels, so that the slice's own pixels always cover what is left between the margins."""
    return int(np.ceil(margin_px - 1e-6))


def _box(mapping: GridMapping, rows: int, columns: int, top: int, left: int) -> tuple[float, float, float, float]:
    """Which part of an oriented slice (left, top, right, bottom, in its own pixels) fills the whole network pixels."""
    across, down = columns / mapping.width_px, rows / mapping.height_px
    trim_x, trim_y = (left - mapping.left_px) * across, (top - mapping.top_px) * down
    return (max(trim_x, 0.0), max(trim_y, 0.0), min(columns - trim_x, columns), min(rows - trim_y, rows))


def _resize(image: FloatArray, shape: tuple[int, int], box: tuple[float, float, float, float]) -> FloatArray:
    """Bilinear (with area averaging when shrinking), pixel areas aligned; ``shape`` is (rows, columns)."""
    source = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    resized = source.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized, dtype=np.float32)
