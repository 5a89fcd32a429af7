"""The largest diameter: what counts as its ends, which parts belong together, and which slice it is measured on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeseg import preprocess
from edgeseg.types import BoolArray, Geometry, Segmentation, Study, Volume
from edgeseg.writers.diameter import Diameter, largest_diameter

GEOMETRY = Geometry(np.zeros(3), np.array([7.0, 0.5, 2.0]), np.eye(3)[:, ::-1].copy())


def _largest(mask: BoolArray, geometry: Geometry | None = GEOMETRY) -> Diameter | None:
    areas = tuple(int(area) for area in mask.sum(axis=(1, 2)))
    found = Segmentation(mask, mask.astype(np.float32), areas, None, None)
    flair = Volume(np.zeros(mask.shape, np.float32), geometry, ("",) * len(mask))
    return largest_diameter(found, Study("1.2", "a", "dicom", flair, None, None, {}))


def _empty() -> BoolArray:
    return np.zeros((4, 40, 30), dtype=bool)


def test_a_row_of_pixels_is_as_long_as_its_pixels() -> None:
    """From edge to edge; a single pixel is as long as its longer side."""
    mask = _empty()
    mask[2, 10, 4:11] = True
    assert _largest(mask) == Diameter(14.0, 2)
    mask[:] = False
    mask[1, 10:30, 5] = True
    assert _largest(mask) == Diameter(10.0, 1)
    mask[:] = False
    mask[3, 39, 29] = True
    assert _largest(mask) == Diameter(2.0, 3)


def test_a_turned_ellipse() -> None:
    """On pixels of 0.5 mm the long axis is right to a pixel, whichever way it lies."""
    rows, columns = np.mgrid[:200, :200] * 0.5 - 50
    geometry = replace(GEOMETRY, spacing_mm=np.array([7.0, 0.5, 0.5]))
    for angle in np.deg2rad((0, 20, 45, 110)):
        along, across = np.cos(angle) * rows + np.sin(angle) * columns, np.cos(angle) * columns - np.sin(angle) * rows
        found = _largest(((along / 31) ** 2 + (across / 12) ** 2 < 1)[None], geometry)
        assert found is not None
        assert found.length_mm == pytest.approx(62, abs=0.5)


def test_parts_that_do_not_touch_are_measured_apart() -> None:
    """The way from one to the other is no diameter; a corner joins."""
    mask = _empty()
    mask[0, 0:4, 0], mask[0, 0:10, 29] = True, True
    assert _largest(mask) == Diameter(5.0, 0)
    mask[0, 10, 28] = True
    found = _largest(mask)
    assert found is not None
    assert found.length_mm > 5.0


def test_the_longest_slice_counts_and_not_the_way_between_slices() -> None:
    """Thin columns through all slices are short; of two lengths the longer one's slice is named."""
    mask = _empty()
    mask[:, 5, 5] = True
    assert _largest(mask) == Diameter(2.0, 0)
    mask[1, 5, 5:8] = mask[3, 5, 5:9] = True
    assert _largest(mask) == Diameter(8.0, 3)


def test_a_hook_whose_rectangle_is_larger_does_not_hide_the_longest() -> None:
    """Slices are tried by the rectangle around them: the first one need not hold the longest diameter."""
    mask = _empty()
    mask[0, 0, 0:6] = mask[0, 39, 24:30] = True
    mask[2, 7, 3:23] = True
    assert _largest(mask) == Diameter(40.0, 2)


def test_all_pairs_agree() -> None:
    """Blobs at random: the same as trying every pair of edge midpoints."""
    draw, compared = np.random.default_rng(3), 0
    for _ in range(20):
        mask = np.zeros((1, 40, 30), dtype=bool)
        row, column = draw.integers(0, 25, 2)
        mask[0, row : row + 15, column : column + 5] = draw.random((min(15, 40 - row), min(5, 30 - column))) < 0.9
        middles = np.argwhere(mask[0]).astype(float)
        if len(np.unique(_labels(mask[0]))) != 2:
            continue
        ends = np.concatenate([middles + step for step in ([0, 0.5], [0, -0.5], [0.5, 0], [-0.5, 0])]) * [0.5, 2.0]
        longest = np.linalg.norm(ends[:, None] - ends[None], axis=2).max()
        found = _largest(mask)
        assert found is not None
        assert found.length_mm == pytest.approx(longest)
        compared += 1
    assert compared > 15


def _labels(mask: BoolArray) -> np.ndarray[tuple[int, ...], np.dtype[np.integer]]:
    from scipy import ndimage

    return np.asarray(ndimage.label(mask, np.ones((3, 3)))[0])


def test_nothing_marked_and_no_geometry() -> None:
    """0 mm on no slice; not known where pixels have no size."""
    assert _largest(_empty()) == Diameter(0.0, None)
    assert _largest(np.ones((2, 3, 4), dtype=bool), None) is None


def _simply(mask: BoolArray) -> Diameter:
    """Every part of every slice measured, the slices with the longest rectangle around their mask first."""
    pixel_mm = GEOMETRY.spacing_mm[1:]
    crops = {}
    for index in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        rows, columns = (np.flatnonzero(mask[index].any(axis=axis)) for axis in (1, 0))
        crops[index] = mask[index, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    best = Diameter(0.0, None)
    for index in sorted(crops, key=lambda k: -float(np.linalg.norm(crops[k].shape * pixel_mm))):
        labels = preprocess.parts(crops[index])
        for label in range(1, int(labels.max()) + 1):
            outline = []
            for row, column in np.argwhere(labels == label):
                outline += [(row, column - 0.5), (row, column + 0.5), (row - 0.5, column), (row + 0.5, column)]
            ends = np.array(outline) * pixel_mm
            length_mm = float(np.linalg.norm(ends[:, None] - ends[None], axis=2).max())
            best = Diameter(length_mm, index) if length_mm > best.length_mm else best
    return best


@pytest.mark.parametrize("seed", range(40))
def test_it_is_that_of_every_part_on_every_slice(seed: int) -> None:
    """To the bit, also where several slices have the same."""
    draw = np.random.default_rng(seed)
    mask = draw.random((6, 12, 10)) < (0.0, 0.05, 0.2, 0.5, 1.0)[seed % 5]
    mask[4] = mask[1]
    if seed % 3 == 0:
        mask[:, 6] = False
    assert _largest(mask) == _simply(mask)
