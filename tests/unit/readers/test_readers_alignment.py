"""The check of alignment, on the example patient with known motions."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from edgeseg.readers import alignment, geometry, tiff
from edgeseg.types import FloatArray, Geometry, Volume

EXAMPLE = Path(__file__).parents[3] / "examples" / "tiff" / "TCGA_HT_7884_19980913"
GRID = Geometry(np.array([-120.0, -120, -10]), np.array([6.0, 1.875, 1.875]), np.eye(3)[:, ::-1])


@functools.cache
def _example() -> FloatArray:
    """(channel, slice, row, column) at half resolution."""
    slices = tiff.read_slices(tiff.ordered_images(sorted(EXAMPLE.glob("*.tif"))))
    return np.moveaxis(slices[:, ::2, ::2].astype(np.float32), -1, 0)


def _volume(channel: int) -> Volume:
    return Volume(_example()[channel], GRID, tuple("abcdefghijklmno"))


@pytest.mark.parametrize("channel", [0, 2])
def test_an_aligned_t1_on_the_same_grid_is_untouched(channel: int) -> None:
    moving = _volume(channel)
    result = alignment.align(moving, _volume(1))
    assert result.volume is moving
    assert result.alignment.method == "same grid"
    assert result.alignment.shift_mm < 1.0


def test_an_aligned_t1_on_another_grid_is_resampled_by_its_headers() -> None:
    other = Geometry(GRID.origin_mm + np.array([3.0, -4.0, 0.0]), np.array([6.0, 2.5, 2.5]), GRID.direction)
    moving = geometry.resample(_volume(0), Volume(np.zeros((15, 96, 96), np.float32), other, ()))
    result = alignment.align(moving, _volume(1))
    assert result.alignment.method == "resampled"
    assert result.volume is not None
    np.testing.assert_array_equal(result.volume.voxels, geometry.resample(moving, _volume(1)).voxels)
    assert "checked" in result.clause


@pytest.mark.parametrize(
    ("shift_mm", "turn_deg"), [((6.0, 3.0, 2.0), (0.0, 0.0, 3.0)), ((14.0, -10.0, 5.0), (5.0, -3.0, 8.0))]
)
def test_a_known_motion_is_found_and_mended(
    shift_mm: tuple[float, float, float], turn_deg: tuple[float, float, float]
) -> None:
    import SimpleITK as sitk

    motion = sitk.Euler3DTransform()
    motion.SetRotation(*np.radians(turn_deg).tolist())
    motion.SetTranslation(shift_mm)
    flair, moved = _volume(1), geometry.resample(_volume(0), _volume(1), motion)
    result = alignment.align(moved, flair)
    assert result.alignment.method == "registered"
    points = alignment.head_points(flair, alignment.head_mask(flair.voxels))
    assert result.alignment.shift_mm == pytest.approx(alignment.displacement_mm(motion, points), abs=2.0)
    found = alignment.register(moved, flair)
    both = [motion.TransformPoint(found.TransformPoint(point)) for point in points.tolist()]
    assert np.linalg.norm(np.asarray(both) - points, axis=1).mean() < 2.0
    before, after = result.alignment.similarity_before, result.alignment.similarity_after
    assert before is not None
    assert after is not None
    assert after > 1.2 * before


def test_the_same_input_gives_the_same_output() -> None:
    shifted = Geometry(GRID.origin_mm + 9.0, GRID.spacing_mm, GRID.direction)
    moving = Volume(_example()[2], shifted, ())
    first, second = alignment.align(moving, _volume(1)), alignment.align(moving, _volume(1))
    assert first.alignment == second.alignment
    assert first.volume is not None
    assert second.volume is not None
    np.testing.assert_array_equal(first.volume.voxels, second.volume.voxels)


def test_headers_that_are_far_off_are_mended_from_the_grids_centres() -> None:
    far = Geometry(GRID.origin_mm + np.array([0.0, 0.0, 45.0]), GRID.spacing_mm, GRID.direction)
    result = alignment.align(Volume(_example()[0], far, ()), _volume(1))
    assert result.alignment.method == "registered"
    assert result.alignment.shift_mm == pytest.approx(45.0, abs=2.0)


@pytest.mark.parametrize(("kept", "method"), [(15, "resampled"), (10, "left out")])
def test_a_t1_that_covers_part_of_the_head_is_left_out_without_any_motion(kept: int, method: str) -> None:
    """All of it lies right by its headers, and still a third of its channel would be empty."""
    voxels = _example()[0][:kept, 1:]
    grid = Geometry(GRID.origin_mm + GRID.direction @ (GRID.spacing_mm * [0, 1, 0]), GRID.spacing_mm, GRID.direction)
    result = alignment.align(Volume(voxels, grid, ()), _volume(1))
    assert result.alignment.method == method
    assert result.alignment.shift_mm < alignment.ALIGNED_MM
    if method == "left out":
        assert result.volume is None
        assert "of the head that FLAIR shows, and 90% is needed" in result.clause


def test_what_shows_no_head_is_left_out() -> None:
    noise = np.random.default_rng(0).normal(100, 20, _example()[0].shape).astype(np.float32)
    result = alignment.align(Volume(noise, GRID, ()), _volume(1))
    assert result.volume is None
    assert result.alignment.method == "left out"
    assert "could not be aligned" in result.clause


def test_an_implausible_motion_is_left_out() -> None:
    far = Geometry(GRID.origin_mm + np.array([0.0, 0.0, 300.0]), GRID.spacing_mm, GRID.direction)
    result = alignment.align(Volume(_example()[0], far, ()), _volume(1))
    assert result.alignment.method == "left out"
    assert "implausible" in result.clause


def test_mutual_information_of_a_volume_with_itself_is_large_and_with_noise_small() -> None:
    flair = _example()[1]
    head = alignment.head_mask(flair)
    noise = np.random.default_rng(0).random(flair.shape).astype(np.float32)
    assert alignment.mutual_information(flair, flair, head) > 1.5
    assert alignment.mutual_information(flair, noise, head) < 0.05
