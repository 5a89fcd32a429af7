from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg import metrics
from edgeseg.types import BoolArray


def _mask(*marked: int) -> BoolArray:
    mask = np.zeros(12, np.bool_)
    mask[list(marked)] = True
    return mask.reshape(3, 4)


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
