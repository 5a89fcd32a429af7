from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edgeseg.errors import InputError
from edgeseg.readers import runlength
from edgeseg.types import BoolArray

MASKS = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=12))
ORDERS: tuple[runlength.Order, ...] = ("column", "row")
BASES: tuple[runlength.Base, ...] = (1, 0)


@given(MASKS, st.sampled_from(ORDERS), st.sampled_from(BASES))
def test_a_mask_comes_back(mask: BoolArray, order: runlength.Order, base: runlength.Base) -> None:
    text = runlength.encode(mask, order, base)
    back = runlength.decode(text, (mask.shape[0], mask.shape[1]), order, base)
    assert back.dtype == np.bool_
    assert np.array_equal(back, mask)


@given(MASKS, st.sampled_from(ORDERS), st.sampled_from(BASES))
def test_runs_are_what_a_plain_count_finds(mask: BoolArray, order: runlength.Order, base: runlength.Base) -> None:
    numbers = [int(word) for word in runlength.encode(mask, order, base).split()]
    pixels = [
        start - base + k for start, length in zip(numbers[::2], numbers[1::2], strict=True) for k in range(length)
    ]
    rows, columns = mask.shape
    found = {(p % rows, p // rows) if order == "column" else (p // columns, p % columns) for p in pixels}
    assert found == {(int(r), int(c)) for r, c in np.argwhere(mask)}
    assert len(pixels) == mask.sum()


def test_columns_are_counted_from_one_as_kaggle_does() -> None:
    mask = np.zeros((3, 4), np.bool_)
    mask[1:, 0] = mask[0, 1] = mask[2, 3] = True
    assert runlength.encode(mask) == "2 3 12 1"
    assert runlength.encode(mask, base=0) == "1 3 11 1"
    assert runlength.encode(mask, "row") == "2 1 5 1 9 1 12 1"


@pytest.mark.parametrize("text", ["", "  ", None, float("nan")])
def test_nothing_is_the_empty_mask(text: str | float | None) -> None:
    mask = runlength.decode(text, (2, 3))
    assert mask.shape == (2, 3)
    assert not mask.any()


def test_runs_that_touch_are_taken() -> None:
    assert runlength.decode("1 2 3 1", (2, 2)).sum() == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 2 3", "has 3 numbers, where pairs are expected"),
        ("1 2.0", "holds '2.0', where whole numbers are expected"),
        ("1,2", "holds '1,2'"),
        ("1 \N{ARABIC-INDIC DIGIT TWO}", "where whole numbers"),
        ("1 " + "9" * 30, "holds '999999999999999999999999'"),
        (3.5, r"is the number 3\.5: write it as text"),
        ("1 0", r"run 1 \(start 1, length 0\) of the mask has no pixels"),
        ("1 1 5 -2", r"run 2 \(start 5, length -2\) of the mask has no pixels"),
        ("0 2", r"run 1 \(start 0, length 2\) of the mask starts before the first pixel, which is number 1"),
        ("-4 2", "starts before the first pixel"),
        ("11 3", r"run 1 .* ends at pixel 13, and the image of 3 rows x 4 columns ends at 12"),
        ("40 3", "ends at pixel 42"),
        ("1 999999999999999999", "ends at pixel 999999999999999999"),
        ("1 4 4 2", "run 2 of the mask starts at 4, inside or before run 1, which ends at 4"),
        ("6 2 1 2", "run 2 of the mask starts at 1, inside or before run 1, which ends at 7"),
    ],
)
def test_what_is_no_mask_of_the_image_is_refused(text: str | float, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        runlength.decode(text, (3, 4))


def test_the_base_moves_the_limits() -> None:
    assert runlength.decode("0 12", (3, 4), base=0).all()
    with pytest.raises(InputError, match="ends at 11"):
        runlength.decode("12 1", (3, 4), base=0)
