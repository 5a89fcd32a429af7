"""T1 onto the FLAIR grid: by the headers where they are right, by rigid registration where they are not.

A glance (`edgeseg.readers.glance`) says whether the headers may be wrong; where they may, a registration says how wrong
they are, and how far it moves the head decides. The limits below were measured on the LGG training set (aligned
already, spacing assumed) and on a TCGA-LGG study whose headers are wrong; ``docs/figures.md`` gives the figures.
"""

# mypy: untyped-calls-exclude="SimpleITK"
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeseg.readers import geometry
from edgeseg.readers.glance import Glance, Reference, glance, reference
from edgeseg.types import Alignment, BoolArray, FloatArray, Vector, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

ALIGNED_MM = 2.0
"""Mean displacement of the head below which the headers are taken as right."""
SEEN_MM = 2.5
"""What a glance has to see for a registration to be run: it overstates motions of 2 mm and more, never aligned T1s."""
CLEAR_GAIN = 1.03
"""Factor by which mutual information must grow before a motion is believed."""
LARGEST_SHIFT_MM, LARGEST_ROTATION_DEG = 60.0, 30.0
"""A larger motion is no patient that moved, but a registration that went astray."""
CHANCE_NATS = 0.30
"""Mutual information at or below which two volumes do not show the same head in the same place."""
LEAST_COVERAGE = 0.9
"""Part of the FLAIR head that must lie inside a T1, be it registered or not: outside it, the channel would be empty."""

_HEAD_LEVEL = 0.2
_BINS = 32
_SEED = 20240229
_LEVELS = ((6.0, 12_000, 2.0), (3.5, 24_000, 0.5), (2.0, 48_000, 0.2))
"""Voxel size in mm, samples and first step in mm of the registration's levels, coarse to fine."""
_ITERATIONS = 50
_COMPARED_VOXELS = (48, 96, 96)


@dataclass(frozen=True)
class Aligned:
    """A T1 on the FLAIR grid (None where it was left out), how it came there, the same as a clause, and the motion."""

    volume: Volume | None
    alignment: Alignment
    clause: str
    motion: sitk.Euler3DTransform | None = None


def align(moving: Volume, flair: Volume, seen: Reference | None = None) -> Aligned:
    """Bring a T1 onto the FLAIR grid, and check that it lies right.

    Parameters
    ----------
    moving
        T1, (slice, row, column) float32, with a geometry.
    flair
        FLAIR, (slice, row, column) float32, with a geometry.
    seen
        `edgeseg.readers.glance.reference` of the FLAIR, where it was made already.

    Returns
    -------
    Aligned
        The T1 itself, untouched, where it lies on the FLAIR grid and is aligned; else resampled by the headers, or
        with a rigid motion added, or left out. The same input gives the same output.
    """
    seen = seen or reference(flair)
    look = glance(moving, seen)
    if look.shift_mm < SEEN_MM and look.similarity > CHANCE_NATS:
        return _by_headers(moving, flair, seen.head, _figures(look))
    head = head_mask(flair.voxels)
    before = mutual_information(flair.voxels, geometry.resample(moving, flair).voxels, head)
    motion = register(moving, flair)
    shift_mm, rotation_deg = displacement_mm(motion, seen.head), rotation_of(motion)
    moved = geometry.resample(moving, flair, motion)
    after = mutual_information(flair.voxels, moved.voxels, head)
    figures = (shift_mm, rotation_deg, before, after)
    if shift_mm >= ALIGNED_MM and after >= before * CLEAR_GAIN:
        if problem := _problem(shift_mm, rotation_deg, after):
            return _left_out(f"it could not be aligned with FLAIR: {problem}", figures)
        clause = f"registered rigidly, as the headers are {shift_mm:.1f} mm and {rotation_deg:.1f} degrees off"
        found = Aligned(moved, Alignment("registered", *figures), clause, motion)
        return _uncovered(coverage(motion, seen.head, moving), figures) or found
    if before <= CHANCE_NATS:
        problem = f"its mutual information with FLAIR is {before:.2f} nats, which is chance"
        return _left_out(f"it could not be aligned with FLAIR: {problem}", figures)
    return _by_headers(moving, flair, seen.head, figures)


_Figures = tuple[float, float, "float | None", "float | None"]


def _figures(look: Glance) -> _Figures:
    return (look.shift_mm, look.rotation_deg, look.similarity, None)


def _by_headers(moving: Volume, flair: Volume, points: Vector, figures: _Figures) -> Aligned:
    """A T1 whose headers are right, on the FLAIR grid."""
    if uncovered := _uncovered(coverage(None, points, moving), figures):
        return uncovered
    if geometry.same_grid(moving, flair):
        clause = "on the FLAIR grid already, alignment checked"
        return Aligned(moving, Alignment("same grid", *figures), clause)
    resampled = geometry.resample(moving, flair)
    return Aligned(resampled, Alignment("resampled", *figures), "resampled by the headers, alignment checked")


def _uncovered(covered: float, figures: _Figures) -> Aligned | None:
    """The refusal of a T1 that covers too little of the head (part, 0..1), or None."""
    if covered >= LEAST_COVERAGE:
        return None
    clause = f"left out, as it covers {covered:.0%} of the head that FLAIR shows, and {LEAST_COVERAGE:.0%} is needed"
    return _left_out(clause, figures)


def _left_out(clause: str, figures: _Figures) -> Aligned:
    return Aligned(None, Alignment("left out", *figures), clause)


def register(moving: Volume, flair: Volume) -> sitk.Euler3DTransform:
    """Find the rigid motion that brings a T1 onto FLAIR, by Mattes mutual information.

    Starts from the headers' geometry, or from the grids' centres or centres of mass where mutual information is
    better there, and goes from coarse to fine with a fixed seed.

    Returns
    -------
    SimpleITK.Euler3DTransform
        From a point of the FLAIR grid to the T1's point that belongs there, in mm, LPS.
    """
    import SimpleITK as sitk

    fixed, image = geometry.to_image(flair), geometry.to_image(moving)
    motion = _best_start(fixed, image, moving, flair)
    for voxel_mm, samples, step_mm in _LEVELS:
        coarse = _shrunk(fixed, voxel_mm)
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(_BINS)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(min(1.0, samples / coarse.GetNumberOfPixels()), seed=_SEED)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            step_mm, step_mm / 64, _ITERATIONS, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-6
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(motion, inPlace=True)
        try:
            with _one_thread():
                method.Execute(coarse, _shrunk(image, voxel_mm))
        except RuntimeError:  # no overlap: the motion found so far fails the checks of its caller
            break
    return motion


def mutual_information(first: FloatArray, second: FloatArray, head: BoolArray) -> float:
    """Mutual information of two volumes over the box around the head, in nats (larger is better, 0 is chance).

    Parameters
    ----------
    first, second
        (slice, row, column) float32, any unit, of the same shape.
    head
        (slice, row, column) bool: the head, whose bounding box is compared.
    """
    box = []
    for axis, limit in enumerate(_COMPARED_VOXELS):
        used = np.flatnonzero(head.any(axis=tuple(k for k in range(3) if k != axis)))
        low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, head.shape[axis])
        box.append(slice(low, high, max(1, (high - low) // limit)))
    window = (box[0], box[1], box[2])
    bins = _binned(first[window]) * _BINS + _binned(second[window])
    joint = np.bincount(bins, minlength=_BINS * _BINS).reshape(_BINS, _BINS) / bins.size
    chance = joint.sum(axis=1, keepdims=True) @ joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / chance[filled])).sum())


def head_mask(voxels: FloatArray) -> BoolArray:
    """Rough mask of the head: voxels above a fifth of the 99th percentile, (slice, row, column) bool."""
    return np.asarray(voxels > _HEAD_LEVEL * np.percentile(voxels, 99), dtype=np.bool_)


def head_points(flair: Volume, head: BoolArray, count: int = 300) -> Vector:
    """About `count` points of the head, evenly taken, (point, 3) float64, in mm, LPS."""
    if flair.geometry is None:
        raise ValueError("a volume without geometry has no points in the patient")
    index = np.argwhere(head)
    return flair.geometry.position_mm(index[:: max(1, len(index) // count)].astype(np.float64))


def displacement_mm(motion: sitk.Transform, points: Vector) -> float:
    """Mean distance, in mm, by which a motion displaces points (point, 3), in mm, LPS."""
    if not len(points):
        return 0.0
    return float(np.linalg.norm(_transformed(motion, points) - points, axis=1).mean())


def rotation_of(motion: sitk.Euler3DTransform) -> float:
    """Angle of a rigid motion's rotation, in degrees, 0 to 180."""
    matrix = np.asarray(motion.GetMatrix()).reshape(3, 3)
    return float(np.degrees(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1.0, 1.0))))


def coverage(motion: sitk.Transform | None, points: Vector, moving: Volume) -> float:
    """Part (0..1) of points (point, 3), in mm, LPS, that a motion takes into a volume; None is no motion."""
    if moving.geometry is None or not len(points):
        return 0.0
    offset = (points if motion is None else _transformed(motion, points)) - moving.geometry.origin_mm
    index = (offset @ moving.geometry.direction) / moving.geometry.spacing_mm
    inside = (index >= -0.5) & (index <= np.asarray(moving.voxels.shape) - 0.5)
    return float(inside.all(axis=1).mean())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let SimpleITK use one thread: several add up in an order that changes from run to run, and gain nothing here."""
    import SimpleITK as sitk

    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _problem(shift_mm: float, rotation_deg: float, similarity: float) -> str | None:
    """Why a motion is not to be believed, or None."""
    if shift_mm > LARGEST_SHIFT_MM or rotation_deg > LARGEST_ROTATION_DEG:
        return f"registration found a motion of {shift_mm:.0f} mm and {rotation_deg:.0f} degrees, which is implausible"
    if similarity <= CHANCE_NATS:
        return f"after registration its mutual information with FLAIR is {similarity:.2f} nats, which is chance"
    return None


def _best_start(fixed: sitk.Image, image: sitk.Image, moving: Volume, flair: Volume) -> sitk.Euler3DTransform:
    """Start of the registration: identity, unless a centred start has a clearly better mutual information."""
    import SimpleITK as sitk

    identity = sitk.Euler3DTransform()
    identity.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([n / 2 for n in fixed.GetSize()]))
    small_fixed = _small(flair)
    head = head_mask(small_fixed.voxels)
    best, score = identity, _similarity(moving, small_fixed, head, identity) * CLEAR_GAIN
    modes = sitk.CenteredTransformInitializerFilter
    for mode in (modes.GEOMETRY, modes.MOMENTS):
        try:
            start = sitk.CenteredTransformInitializer(fixed, image, sitk.Euler3DTransform(), mode)
        except RuntimeError:  # an empty image has no centre of mass
            continue
        start = sitk.Euler3DTransform(start)
        found = _similarity(moving, small_fixed, head, start)
        if found > score:
            best, score = start, found
    return best


def _similarity(moving: Volume, small_flair: Volume, head: BoolArray, motion: sitk.Transform) -> float:
    return mutual_information(small_flair.voxels, geometry.resample(moving, small_flair, motion).voxels, head)


def _small(flair: Volume) -> Volume:
    """FLAIR at the coarsest level's voxel size."""
    voxels, grid = geometry.from_image(_shrunk(geometry.to_image(flair), _LEVELS[0][0]))
    return Volume(voxels, grid, ())


def _shrunk(image: sitk.Image, voxel_mm: float) -> sitk.Image:
    """Average blocks of voxels, so that each axis comes near a voxel size in mm and keeps 8 voxels at least."""
    import SimpleITK as sitk

    wanted = [max(1, round(voxel_mm / spacing)) for spacing in image.GetSpacing()]
    factors = [min(factor, max(1, size // 8)) for factor, size in zip(wanted, image.GetSize(), strict=True)]
    shrunk: sitk.Image = sitk.BinShrink(image, factors)
    return shrunk


def _binned(values: FloatArray) -> npt.NDArray[np.int64]:
    """Values as bin numbers between the smallest value and the 99.5th percentile."""
    low, high = float(values.min()), float(np.percentile(values, 99.5))
    scaled = (values.ravel() - low) * ((_BINS - 1) / max(high - low, 1e-6))
    bins: npt.NDArray[np.int64] = np.clip(scaled, 0, _BINS - 1).astype(np.int64)
    return bins


def _transformed(motion: sitk.Transform, points: Vector) -> Vector:
    return np.asarray([motion.TransformPoint(point) for point in points.tolist()], dtype=np.float64)
