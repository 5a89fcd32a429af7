"""A glance at whether a T1 lies right by its headers: is their geometry a maximum of mutual information already?

Some thousand points of the head are looked up in both volumes, once by the headers and once for each of twelve small
motions: a step to either side along and about each axis of the patient. Where the headers are right, every step makes
the two less alike, and a parabola through three values has its top near none; where they are wrong, it has not. That
takes a hundredth of a registration's time, which is run only where the glance finds something.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg.types import FloatArray, Geometry, Vector, Volume

_VOXEL_MM = 4.0
_POINTS = 5000
_BINS = 24
_STEP_MM, _STEP_DEG = 4.0, 4.0
_HEAD_LEVEL = 0.2
_FARTHEST = 2.0
"""Steps beyond which a parabola's top is not believed, only its side."""
_SPREAD = np.array([0.8191725134, 0.6710436067, 0.5497004779])
"""Powers of the inverse of the root of x^4 = x + 1: multiples of them, less their whole part, fill a cube evenly."""


@dataclass(frozen=True)
class Glance:
    """What a glance saw.

    Parameters
    ----------
    shift_mm
        How far the nearest maximum of mutual information displaces the head, on average, in mm: an estimate that is
        good near 0, and merely large where the headers are wrong.
    rotation_deg
        The rotation in it, in degrees.
    similarity
        Mutual information by the headers' geometry, in nats.
    """

    shift_mm: float
    rotation_deg: float
    similarity: float


@dataclass(frozen=True)
class Reference:
    """The FLAIR side of a glance: made once, used for every T1.

    Parameters
    ----------
    points
        Shape (point, 3), float64: where the volumes are compared, in mm, LPS.
    bins
        Shape (point,), int64: FLAIR there, as a bin's number.
    head
        Shape (point, 3), float64: some points of the head, in mm, LPS.
    """

    points: Vector
    bins: npt.NDArray[np.int64]
    head: Vector


def reference(flair: Volume) -> Reference:
    """Take from a FLAIR volume, (slice, row, column) float32 with a geometry, what a glance needs of it."""
    small, geometry = shrunk(flair)
    index = np.argwhere(small > _HEAD_LEVEL * np.percentile(small, 99))
    if not len(index):
        index = np.argwhere(np.ones_like(small, dtype=np.bool_))
    low, high = index.min(axis=0) - 0.5, index.max(axis=0) + 0.5
    spread = (np.arange(1, _POINTS + 1)[:, np.newaxis] * _SPREAD) % 1.0
    places = np.clip(low + spread * (high - low), 0, np.asarray(small.shape) - 1)
    head = geometry.position_mm(index[:: max(1, len(index) // 300)].astype(np.float64))
    return Reference(geometry.position_mm(places), _binned(_values(small, places), *_range(small)), head)


def glance(moving: Volume, flair: Reference) -> Glance:
    """Estimate how far a T1 lies from where FLAIR shows the same head.

    Parameters
    ----------
    moving
        T1, (slice, row, column) float32, with a geometry.
    flair
        From `reference`.

    Returns
    -------
    Glance
        The same for the same input, on any machine.
    """
    small, geometry = shrunk(moving)
    limits, centre = _range(small), flair.points.mean(axis=0)
    arms = flair.points - centre

    def similarity(moved: Vector) -> float:
        index = ((moved - geometry.origin_mm) @ geometry.direction) / geometry.spacing_mm
        return _mutual_information(flair.bins, _binned(_values(small, index), *limits))

    here = similarity(flair.points)
    tops = np.zeros((2, 3))
    for axis in range(3):
        unit = np.eye(3)[axis]
        tops[0, axis] = _STEP_MM * _top(here, *(similarity(flair.points + side * _STEP_MM * unit) for side in (-1, 1)))
        turns = (_rotation(axis, side * _STEP_DEG) for side in (-1, 1))
        tops[1, axis] = _STEP_DEG * _top(here, *(similarity(arms @ turn.T + centre) for turn in turns))
    moved = np.cross(np.radians(tops[1]), flair.head - centre) + tops[0]
    shift_mm = float(np.linalg.norm(moved, axis=1).mean())
    return Glance(shift_mm, float(np.linalg.norm(tops[1])), here)


def shrunk(volume: Volume) -> tuple[FloatArray, Geometry]:
    """Average blocks of voxels to about 4 mm, keeping 8 voxels an axis at least; what fills no block is cut off.

    Raises
    ------
    ValueError
        The volume has no geometry.
    """
    grid, voxels = volume.geometry, volume.voxels
    if grid is None:
        raise ValueError("a volume without geometry (TIFF) has no place in the patient, so nothing can be compared")
    steps = zip(grid.spacing_mm, voxels.shape, strict=True)
    factors = np.array([max(1, min(round(_VOXEL_MM / step), count // 8)) for step, count in steps])
    for axis in range(3):  # columns come last: they are the slowest to take apart
        voxels = _averaged(voxels, axis, int(factors[axis]))
    return voxels, Geometry(grid.position_mm((factors - 1) / 2), grid.spacing_mm * factors, grid.direction)


def _averaged(voxels: FloatArray, axis: int, factor: int) -> FloatArray:
    """Mean of blocks along one axis. Adding strided views is several times faster than a mean over a short axis."""
    if factor == 1:
        return voxels
    whole = voxels.shape[axis] // factor * factor
    parts = [
        voxels[tuple(slice(k, whole, factor) if a == axis else slice(None) for a in range(3))] for k in range(factor)
    ]
    total = parts[0].astype(np.float32)
    for part in parts[1:]:
        total += part
    return np.asarray(total / np.float32(factor), dtype=np.float32)


def _top(here: float, before: float, after: float) -> float:
    """Where the parabola through (-1, before), (0, here), (1, after) has its top, cut off at `_FARTHEST`."""
    bend = 2 * here - before - after
    if bend <= 0:
        return float(np.sign(after - before)) * _FARTHEST
    return float(np.clip((after - before) / (2 * bend), -_FARTHEST, _FARTHEST))


def _rotation(axis: int, angle_deg: float) -> Vector:
    """Rotation about an axis of the patient, shape (3, 3)."""
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[first, first] = turn[second, second] = cosine
    turn[first, second], turn[second, first] = -sine, sine
    return turn


def _values(voxels: FloatArray, index: Vector) -> FloatArray:
    """Linear interpolation at indices (point, 3); 0 outside."""
    shape, index = np.asarray(voxels.shape)[:, np.newaxis], np.ascontiguousarray(index.T)
    inside = ((index >= -0.5) & (index <= shape - 0.5)).all(axis=0)
    index = np.clip(index, 0, shape - 1)
    low = np.minimum(index.astype(np.int64), np.maximum(shape - 2, 0))
    slices, rows, columns = (index - low).astype(np.float32)
    strides = np.array([voxels.shape[1] * voxels.shape[2], voxels.shape[2], 1])
    steps = np.where(shape[:, 0] > 1, strides, 0)
    first = low[0] * strides[0] + low[1] * strides[1] + low[2]
    flat = np.ascontiguousarray(voxels).ravel()

    def line(start: npt.NDArray[np.int64]) -> FloatArray:
        left = flat.take(start)
        return np.asarray(left + (flat.take(start + steps[2]) - left) * columns)

    def plane(start: npt.NDArray[np.int64]) -> FloatArray:
        upper = line(start)
        return np.asarray(upper + (line(start + steps[1]) - upper) * rows)

    near = plane(first)
    found = near + (plane(first + steps[0]) - near) * slices
    return np.asarray(np.where(inside, found, 0), dtype=np.float32)


def _range(voxels: FloatArray) -> tuple[float, float]:
    return float(voxels.min()), float(np.percentile(voxels, 99.5))


def _binned(values: FloatArray, low: float, high: float) -> npt.NDArray[np.int64]:
    scaled = (values - low) * ((_BINS - 1) / max(high - low, 1e-6))
    return np.asarray(np.clip(scaled, 0, _BINS - 1), dtype=np.int64)


def _mutual_information(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> float:
    joint = np.bincount(first * _BINS + second, minlength=_BINS * _BINS).reshape(_BINS, _BINS) / first.size
    chance = joint.sum(axis=1, keepdims=True) @ joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / chance[filled])).sum())
