"""The sheet of single slices: its size, which outline is whose, and that both show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgeseg.types import BoolArray, ByteArray
from edgeseg.writers.display import OUTLINE
from edgeseg.writers.slices import DRAWN, MOST_COLUMNS, write_sheet

CELL, HEADER, MARGIN = 300, 78, 18


def _slices(count: int) -> tuple[ByteArray, BoolArray]:
    """Heads in FLAIR alone, and a square mask of each."""
    rows, columns = np.mgrid[:256, :256]
    slices = np.zeros((count, 3, 256, 256), dtype=np.uint8)
    slices[:, 1] = 100 * ((rows - 128) ** 2 + (columns - 128) ** 2 < 100**2)
    masks = np.zeros((count, 256, 256), dtype=bool)
    masks[:, 100:140, 90:150] = True
    return slices, masks


def _cell(path: Path) -> npt.NDArray[np.int64]:
    """The first slice of a sheet, (row, column, RGB)."""
    with Image.open(path) as sheet:
        return np.asarray(sheet)[HEADER : HEADER + CELL, MARGIN : MARGIN + CELL].astype(np.int64)


def _pixels(cell: npt.NDArray[np.int64], colour: tuple[int, int, int]) -> BoolArray:
    """Where a picture has nearly this colour."""
    return np.asarray(np.abs(cell - np.array(colour)).max(axis=-1) < 40)


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_the_sheet_is_as_wide_as_a_screen_at_most(tmp_path: Path, count: int) -> None:
    slices, masks = _slices(count)
    write_sheet(tmp_path / "slices.png", slices, masks, masks, ["a caption"] * count, "A title " * 40)
    with Image.open(tmp_path / "slices.png") as sheet:
        assert sheet.width <= 1600
        assert sheet.height >= HEADER + -(-count // MOST_COLUMNS) * CELL
    assert [path.name for path in tmp_path.iterdir()] == ["slices.png"]


def test_each_mask_has_its_own_colour_and_place(tmp_path: Path) -> None:
    slices, masks = _slices(1)
    marked = np.roll(masks, 40, axis=2)
    write_sheet(tmp_path / "slices.png", slices, masks, marked, ["x"], "t")
    cell = _cell(tmp_path / "slices.png")
    for colour, left, right in ((DRAWN, 90, 150), (OUTLINE, 130, 190)):
        _, columns = np.nonzero(_pixels(cell, colour))
        assert columns.min() == pytest.approx(left * CELL / 256, abs=4)
        assert columns.max() == pytest.approx(right * CELL / 256, abs=4)


def test_both_outlines_show_where_they_agree(tmp_path: Path) -> None:
    slices, masks = _slices(1)
    write_sheet(tmp_path / "slices.png", slices, masks, masks, ["x"], "t")
    cell = _cell(tmp_path / "slices.png")
    assert _pixels(cell, OUTLINE).sum() > 100
    assert _pixels(cell, DRAWN).sum() > 100


def test_flair_is_shown_and_an_empty_mask_has_no_outline(tmp_path: Path) -> None:
    slices, masks = _slices(1)
    nothing = np.zeros_like(masks)
    write_sheet(tmp_path / "slices.png", slices, nothing, nothing, ["x"], "t")
    cell = _cell(tmp_path / "slices.png")
    assert (cell[150, 150] > 200).all()
    assert (cell[5, 5] == 0).all()
    assert (cell.max(axis=-1) == cell.min(axis=-1)).all()
