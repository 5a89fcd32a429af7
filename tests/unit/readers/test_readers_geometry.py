"""Geometry <-> SimpleITK, and resampling between grids."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg.readers import geometry
from edgeseg.types import FloatArray, Geometry, Vector, Volume


def _oblique() -> Geometry:
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    axes = turn @ np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
    return Geometry(np.array([-10.0, 5, 30]), np.array([5.0, 2, 1]), axes)


def _field(points: Vector) -> FloatArray:
    """A function of the place in the patient that is linear, so that interpolation is exact."""
    return np.asarray(200 + points @ np.array([1.0, 2.0, 3.0]), dtype=np.float32)


def _volume(grid: Geometry, shape: tuple[int, int, int]) -> Volume:
    index = np.moveaxis(np.indices(shape), 0, -1).astype(np.float64)
    return Volume(_field(grid.position_mm(index)), grid, tuple(f"{n}" for n in range(shape[0])))


def test_simpleitk_puts_every_voxel_where_geometry_does() -> None:
    volume = _volume(_oblique(), (4, 5, 6))
    image = geometry.to_image(volume)
    assert image.GetSize() == (6, 5, 4)
    assert volume.geometry is not None
    for index in ((0, 0, 0), (3, 1, 2), (2, 4, 5)):
        place = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(place, volume.geometry.position_mm(np.array(index, float)), atol=1e-9)
        assert image[index[::-1]] == volume.voxels[index]


def test_round_trip() -> None:
    volume = _volume(_oblique(), (4, 5, 6))
    voxels, grid = geometry.from_image(geometry.to_image(volume))
    np.testing.assert_array_equal(voxels, volume.voxels)
    assert geometry.same_grid(volume, Volume(voxels, grid, ()))


def test_grids_that_differ_by_a_little_more_than_rounding_differ() -> None:
    volume, grid = _volume(_oblique(), (4, 5, 6)), _oblique()
    shifted = Geometry(grid.origin_mm + 0.01, grid.spacing_mm, grid.direction)
    wider = Geometry(grid.origin_mm, grid.spacing_mm * 1.001, grid.direction)
    assert not geometry.same_grid(volume, Volume(volume.voxels, shifted, ()))
    assert not geometry.same_grid(volume, Volume(volume.voxels, wider, ()))
    assert not geometry.same_grid(volume, Volume(volume.voxels[1:], grid, ()))
    assert not geometry.same_grid(volume, Volume(volume.voxels, None, ()))


def test_resampling_keeps_places_and_is_zero_outside() -> None:
    moving = _volume(_oblique(), (10, 20, 40))
    inner = Geometry(_oblique().position_mm(np.array([2.0, 4, 8])), np.array([1.5, 1.5, 1.5]), np.eye(3)[:, ::-1])
    grid = _volume(inner, (6, 5, 4))
    result = geometry.resample(moving, grid)
    assert result.geometry is grid.geometry
    assert result.instance_ids == grid.instance_ids
    inside = result.voxels > 0
    assert inside.mean() > 0.5
    np.testing.assert_allclose(result.voxels[inside], grid.voxels[inside], rtol=1e-4)
    far = Volume(grid.voxels, Geometry(inner.origin_mm + 500, inner.spacing_mm, inner.direction), ())
    assert not geometry.resample(moving, far).voxels.any()


def test_a_volume_without_geometry_has_no_place() -> None:
    with pytest.raises(ValueError, match="without geometry"):
        geometry.to_image(Volume(np.zeros((2, 2, 2), np.float32), None, ()))
