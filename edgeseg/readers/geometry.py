"""Between `Geometry` and SimpleITK's images, and from one grid onto another.

SimpleITK counts (x, y, z) = (column, row, slice) and works in LPS, as DICOM does: only the axes' order differs.
"""

# mypy: untyped-calls-exclude="SimpleITK"
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeseg.types import FloatArray, Geometry, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

SAME_GRID_MM = 1e-3
"""Grids whose corner voxels lie closer than this, in mm, are the same grid."""


def to_image(volume: Volume) -> sitk.Image:
    """Make a SimpleITK image (float32) of a volume.

    Parameters
    ----------
    volume
        With a geometry.

    Raises
    ------
    ValueError
        The volume has no geometry.
    """
    import SimpleITK as sitk

    if volume.geometry is None:
        raise ValueError("a volume without geometry (TIFF) has no place in the patient, so it cannot be resampled")
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels))
    image.SetOrigin(volume.geometry.origin_mm.tolist())
    image.SetSpacing(volume.geometry.spacing_mm[::-1].tolist())
    image.SetDirection(volume.geometry.direction[:, ::-1].ravel().tolist())
    return image


def from_image(image: sitk.Image) -> tuple[FloatArray, Geometry]:
    """Take a three-dimensional SimpleITK image apart.

    Returns
    -------
    voxels
        (slice, row, column), float32.
    geometry
        In LPS.
    """
    import SimpleITK as sitk

    voxels = np.asarray(sitk.GetArrayFromImage(image), dtype=np.float32)
    direction = np.asarray(image.GetDirection(), dtype=np.float64).reshape(3, 3)[:, ::-1]
    geometry = Geometry(
        origin_mm=np.asarray(image.GetOrigin(), dtype=np.float64),
        spacing_mm=np.asarray(image.GetSpacing()[::-1], dtype=np.float64),
        direction=np.ascontiguousarray(direction),
    )
    return voxels, geometry


def tilt_deg(geometry: Geometry) -> float:
    """Angle between the body's axis and the grid's axis that is nearest to it, in degrees, 0 to 54.7."""
    return float(np.degrees(np.arccos(min(1.0, float(np.abs(geometry.direction[2]).max())))))


def same_grid(first: Volume, second: Volume) -> bool:
    """Whether two volumes have the same shape, and corner voxels in the same places to `SAME_GRID_MM`."""
    if first.geometry is None or second.geometry is None or first.voxels.shape != second.voxels.shape:
        return False
    last = np.asarray(first.voxels.shape) - 1
    corners = np.stack(np.meshgrid(*[(0, n) for n in last], indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float64)
    distance = first.geometry.position_mm(corners) - second.geometry.position_mm(corners)
    return bool(np.abs(distance).max() <= SAME_GRID_MM)


def resample(moving: Volume, grid: Volume, motion: sitk.Transform | None = None) -> Volume:
    """Bring a volume onto another volume's grid, by linear interpolation.

    Parameters
    ----------
    moving
        What is resampled; with a geometry.
    grid
        Whose grid it comes onto; with a geometry.
    motion
        Rigid transform from a point of the grid to the point of `moving` that belongs there, in mm, LPS; None
        trusts the two geometries.

    Returns
    -------
    Volume
        (slice, row, column) float32 of the grid's shape, geometry and instance ids; 0 outside of `moving`.
    """
    import SimpleITK as sitk

    transform = sitk.Transform(3, sitk.sitkIdentity) if motion is None else motion
    result = sitk.Resample(to_image(moving), to_image(grid), transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    voxels = np.asarray(sitk.GetArrayFromImage(result), dtype=np.float32)
    return Volume(voxels, grid.geometry, grid.instance_ids)
