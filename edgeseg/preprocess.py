"""Volumes to network input, and logits back to a mask: both directions in one file, arrays only, no files opened."""

from __future__ import annotations

from typing import Any

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

SMALLEST_ISLAND = 0.1
"""Share of the largest part's voxels that another part of a mask must have to stay (``docs/figures.md``)."""


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
    flair = _to_slices(study.flair.voxels, "flair", mapping, preprocessing)
    channels = [
        flair if name == "flair" or volume is None else _to_slices(volume.voxels, name, mapping, preprocessing)
        for name, volume in zip(CHANNELS, (study.pre, study.flair, study.post), strict=True)
    ]
    return NetworkInput(np.stack(channels, axis=1), mapping)


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
    areas = tuple(int(n) for n in mask.sum(axis=(1, 2)))
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
    square = mapping.height_px == mapping.width_px and mapping.shape[1:] == (mapping.size_px, mapping.size_px)
    return square and mapping.axes == (0, 1, 2) and not any(mapping.flips)


def _without_islands(mask: BoolArray) -> BoolArray:
    if not mask.any():
        return mask
    labels = parts(mask)
    voxels = np.bincount(labels.ravel())
    voxels[0] = 0  # the background
    kept: BoolArray = (voxels >= SMALLEST_ISLAND * voxels.max())[labels] & mask
    return kept


def parts(mask: BoolArray) -> npt.NDArray[np.integer[Any]]:
    """Number of the connected part that each pixel or voxel of a mask belongs to, from 1; 0 outside the mask.

    Corners join: 8 neighbours in a slice, 26 in a volume.
    """
    import SimpleITK

    found = SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(mask.astype(np.uint8)), True)
    labels: npt.NDArray[np.integer[Any]] = SimpleITK.GetArrayFromImage(found)
    return labels


def to_probability(logits: FloatArray) -> FloatArray:
    """Logistic function, float32 in and out, 0..1, without overflow."""
    half = np.float32(0.5)
    return np.asarray(half * (np.tanh(half * logits) + np.float32(1)), dtype=np.float32)


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
    return scaled(values, *intensity_rule(values, channel))


def scaled(voxels: FloatArray, low: float, gain: float) -> FloatArray:
    """Values as the network takes them before rounding: (voxels - low) * gain, float32, cut off at 0 and 255."""
    return np.asarray(np.clip((voxels - np.float32(low)) * np.float32(gain), 0, 255), dtype=np.float32)


def intensity_rule(values: FloatArray, channel: ChannelName) -> tuple[float, float]:
    """What `normalise` does to a volume, as the (low, gain) that `scaled` takes.

    Parameters
    ----------
    values
        float32 (slice, row, column), scanner units: the whole volume.
    channel
        Whose target to meet.

    Raises
    ------
    StudyError
        When the volume is constant or holds values that are not finite.
    """
    if not np.isfinite(values).all():
        raise StudyError(f"the {channel} volume holds values that are not finite: export the series again")
    low, high = np.percentile(values, (2.0, 99.5))
    tissue = values[values > low + 0.1 * (high - low)]
    if high <= low or tissue.size == 0:
        raise StudyError(f"the {channel} volume is constant (every voxel near {low:g}): it holds no image")
    return float(low), float(TISSUE_MEDIAN[channel] / (float(np.median(tissue)) - low))


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


def _orient(voxels: FloatArray, mapping: GridMapping) -> FloatArray:
    """A view of (slice, row, column) voxels with axes (to the head, to posterior, to the left)."""
    return _flip(np.transpose(voxels, mapping.axes), mapping)


def _unorient(oriented: FloatArray, mapping: GridMapping) -> FloatArray:
    return np.ascontiguousarray(np.transpose(_flip(oriented, mapping), np.argsort(mapping.axes)))


def _flip(voxels: FloatArray, mapping: GridMapping) -> FloatArray:
    return np.flip(voxels, tuple(k for k in range(3) if mapping.flips[k]))


def _to_slices(
    voxels: FloatArray, channel: ChannelName, mapping: GridMapping, preprocessing: Preprocessing
) -> ByteArray:
    stored = preprocessing.intensity == "stored" and _is_eight_bit(voxels)
    values = voxels if stored else normalise(voxels, channel)
    return to_bytes(_to_squares(_orient(values, mapping), mapping))


def _is_eight_bit(voxels: FloatArray) -> bool:
    return bool(voxels.min() >= 0 and voxels.max() <= 255 and np.array_equal(voxels, np.round(voxels)))


def to_bytes(values: FloatArray) -> ByteArray:
    """Values as an engine takes them: rounded to uint8, what lies beyond 0 and 255 cut off."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _to_squares(oriented: FloatArray, mapping: GridMapping) -> FloatArray:
    """Scale each oriented slice to square pixels and put it in the middle of the network's square; outside is 0."""
    slices, rows, columns = oriented.shape
    size = mapping.size_px
    if (rows, columns) == (size, size) and mapping.height_px == mapping.width_px:
        return oriented
    top, left = _whole(mapping.top_px), _whole(mapping.left_px)
    height, width = size - 2 * top, size - 2 * left
    box = _box(mapping, rows, columns, top, left)
    squares = np.zeros((slices, size, size), np.float32)
    for k in range(slices):
        squares[k, top : top + height, left : left + width] = _resize(oriented[k], (height, width), box)
    return squares


def _from_network(logits: FloatArray, mapping: GridMapping) -> FloatArray:
    """The network's squares (slice, size, size) to oriented slices at the grid's own resolution."""
    oriented_shape = [mapping.shape[axis] for axis in mapping.axes]
    rows, columns, size = oriented_shape[1], oriented_shape[2], mapping.size_px
    if (rows, columns) == (size, size) and mapping.height_px == mapping.width_px:
        return logits
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
