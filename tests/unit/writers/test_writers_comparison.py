"""The picture of the worst slices: which are shown, in which order, and that both outlines can be seen."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from edgeseg.types import BoolArray
from edgeseg.writers.comparison import MOST, Worst, png
from edgeseg.writers.display import OUTLINE, SECOND_OUTLINE

FLAIR = np.random.default_rng(1).integers(20, 200, (256, 256), dtype=np.uint8)


def _square(size: int, top: int = 60) -> BoolArray:
    mask = np.zeros((256, 256), np.bool_)
    mask[top : top + size, 80 : 80 + size] = True
    return mask


def _picture(worst: Worst) -> Image.Image:
    content = png(worst, "net-fp16 on OpenVINO", "PyTorch f32")
    assert content is not None
    return Image.open(io.BytesIO(content)).convert("RGB")


def _near(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    """Pixels of about this colour."""
    return int((np.abs(np.asarray(picture, np.int16) - colour).sum(axis=-1) < 40).sum())


def test_the_slices_that_agree_least_are_kept_worst_first() -> None:
    worst = Worst()
    for shift in range(10):
        worst.add(f"shifted by {shift}", FLAIR, _square(40), _square(40, 60 + shift))
    worst.add("empty", FLAIR, _square(0), _square(0))
    assert [one.name for one in worst.slices] == [f"shifted by {shift}" for shift in (9, 8, 7, 6, 5, 4)]
    assert len(worst.slices) == MOST
    assert _picture(worst).size[0] > _picture(worst).size[1]


def test_of_equal_slices_the_largest_are_shown() -> None:
    worst = Worst()
    for size in (10, 30, 20):
        worst.add(str(size), FLAIR, _square(size), _square(size))
    assert [one.name for one in worst.slices] == ["30", "20", "10"]


def test_both_outlines_can_be_seen() -> None:
    both, model, engine = Worst(), Worst(), Worst()
    both.add("A_1", FLAIR, _square(40), _square(40, 64))
    model.add("A_1", FLAIR, _square(40), _square(0))
    engine.add("A_1", FLAIR, _square(0), _square(40))
    legend = 300
    assert min(_near(_picture(both), colour) for colour in (OUTLINE, SECOND_OUTLINE)) > legend
    assert _near(_picture(model), OUTLINE) > legend > _near(_picture(model), SECOND_OUTLINE)
    assert _near(_picture(engine), SECOND_OUTLINE) > legend > _near(_picture(engine), OUTLINE)


def test_where_both_agree_both_colours_are_there() -> None:
    worst = Worst()
    worst.add("A_1", FLAIR, _square(40), _square(40))
    assert min(_near(_picture(worst), colour) for colour in (OUTLINE, SECOND_OUTLINE)) > 300


@pytest.mark.parametrize("size", [1, 255, 256])
def test_masks_of_any_size_are_shown(size: int) -> None:
    worst = Worst()
    mask = np.zeros((256, 256), np.bool_)
    mask[256 - size :, 256 - size :] = True
    worst.add("A_1", FLAIR, mask, mask)
    assert _picture(worst).size[1] > 400


def test_nothing_marked_gives_no_picture() -> None:
    worst = Worst()
    worst.add("A_1", FLAIR, _square(0), _square(0))
    assert png(worst, "engine", "model") is None
