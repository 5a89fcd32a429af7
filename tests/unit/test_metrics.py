from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg import metrics
from edgeseg.errors import BackendMissing
from edgeseg.types import BoolArray


def _mask(*marked: int) -> BoolArray:
    mask = np.zeros(12, np.bool_)
    mask[list(marked)] = True
    return mask.reshape(3, 4)


def _rectangle(rows: tuple[int, int], columns: tuple[int, int]) -> BoolArray:
    """A (64, 64) mask, marked from the first to below the second row and column."""
    mask = np.zeros((64, 64), np.bool_)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def test_overlap_of_a_hand_made_pair() -> None:
    a, b = _mask(0, 1, 2, 3), _mask(2, 3, 4)
    assert metrics.iou(a, b) == pytest.approx(2 / 5)
    assert metrics.dice(a, b) == pytest.approx(4 / 7)


def test_two_empty_masks_agree() -> None:
    assert metrics.iou(_mask(), _mask()) == 1.0
    assert metrics.dice(_mask(), _mask()) == 1.0


def test_one_empty_mask_does_not_agree() -> None:
    assert metrics.iou(_mask(), _mask(5)) == 0.0
    assert metrics.dice(_mask(5), _mask()) == 0.0


@given(st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_dice_follows_from_iou_and_both_are_symmetric(first: set[int], second: set[int]) -> None:
    a, b = _mask(*first), _mask(*second)
    overlap = metrics.iou(a, b)
    assert metrics.dice(a, b) == pytest.approx(2 * overlap / (1 + overlap))
    assert metrics.iou(b, a) == overlap
    assert (overlap == 1.0) == (first == second)


def test_surface_distance_of_two_pixels_is_theirs() -> None:
    a, b = _rectangle((10, 11), (10, 11)), _rectangle((13, 14), (14, 15))
    assert metrics.surface_distance_px(a, b) == pytest.approx(5)  # 3 rows and 4 columns
    assert metrics.surface_distance_px(a, a) == 0


def test_surface_distance_of_a_line_and_a_pixel_by_hand() -> None:
    """A line of 21 pixels from the pixel on: 0, 1 ... 20 to the pixel; index floor(0.95 * 20) = 19 is 19, not 20."""
    line, pixel = _rectangle((30, 31), (10, 31)), _rectangle((30, 31), (10, 11))
    assert metrics.surface_distance_px(line, pixel) == pytest.approx(19)
    assert metrics.surface_distance_px(pixel, line) == pytest.approx(19)


def test_surface_distance_sees_outlines_alone() -> None:
    """A filled square and its own frame have the same outline; a square in its middle is 5 rows and columns away."""
    square, middle = _rectangle((20, 41), (20, 41)), _rectangle((25, 36), (25, 36))
    frame = square & ~_rectangle((21, 40), (21, 40))
    assert metrics.surface_distance_px(square, frame) == 0
    # Of the large outline's 80 pixels 44 lie 5 away, beside the small one; on each of the 8 ways to a corner follow
    # hypot(5, 1) to hypot(5, 4), and 4 corners are hypot(5, 5) away: index floor(0.95 * 79) = 75 is before the corners.
    assert metrics.surface_distance_px(square, middle) == pytest.approx(np.hypot(5, 4))


def test_surface_distance_of_an_empty_mask_is_none() -> None:
    empty, marked = _rectangle((0, 0), (0, 0)), _rectangle((5, 9), (5, 9))
    assert metrics.surface_distance_px(empty, marked) is None
    assert metrics.surface_distance_px(marked, empty) is None
    assert metrics.surface_distance_px(empty, empty) is None


def test_a_missing_library_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grand_challenge_metrics.stats", None)
    with pytest.raises(BackendMissing, match=r"pip install 'edgeseg\[evaluate\]'"):
        metrics.check_installed()
