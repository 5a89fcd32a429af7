"""A picture of the slices on which two engines' masks agree least: both outlines on the FLAIR slice."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgeseg import metrics
from edgeseg.types import BoolArray, ByteArray
from edgeseg.writers.display import OUTLINE, SECOND_OUTLINE, Plane, draw_outline, grey_picture, save_png, window

MOST = 6
COLUMNS = 3

_TILE_PX, _CAPTION_PX, _GAP_PX, _MARGIN_PX, _HEADER_PX = 384, 46, 14, 20, 92
_LEAST_SIDE_PX, _AROUND_PX = 96, 14
_BACKGROUND, _WHITE, _GREY = (14, 15, 17), (240, 240, 240), (160, 164, 170)


@dataclass(frozen=True)
class _Slice:
    name: str
    iou: float
    flair: ByteArray
    model: BoolArray
    engine: BoolArray

    def rank(self) -> tuple[float, int]:
        """The lowest agreement first, then the largest mask."""
        return self.iou, -int(np.count_nonzero(self.model | self.engine))


@dataclass
class Worst:
    """The slices that agree least of all that were added; those that neither engine marks are passed over."""

    slices: list[_Slice] = field(default_factory=list)

    def add(self, name: str, flair: ByteArray, model: BoolArray, engine: BoolArray) -> None:
        """Look at a slice.

        Parameters
        ----------
        name
            Of the slice.
        flair
            uint8 (row, column).
        model, engine
            bool (row, column): both masks.
        """
        if model.any() or engine.any():
            self.slices.append(_Slice(name, metrics.iou(model, engine), flair.copy(), model, engine))
            self.slices.sort(key=_Slice.rank)
            del self.slices[MOST:]


def png(worst: Worst, engine: str, reference: str) -> bytes | None:
    """The picture as a PNG file's bytes; None where no slice was marked.

    Parameters
    ----------
    worst
        The slices.
    engine, reference
        Names for the legend.
    """
    if not worst.slices:
        return None
    content = io.BytesIO()
    save_png(_sheet(worst.slices, engine, reference), content, (OUTLINE, SECOND_OUTLINE))
    return content.getvalue()


def _sheet(found: list[_Slice], engine: str, reference: str) -> Image.Image:
    columns, lines = min(len(found), COLUMNS), -(-len(found) // COLUMNS)
    differ = any(one.iou < 1 for one in found)
    title = "The slices on which the masks agree least" if differ else "The masks are the same in every slice"
    legend = ((OUTLINE, f"model: {reference}"), (SECOND_OUTLINE, f"engine: {engine}"))
    title_font, font = ImageFont.load_default(22), ImageFont.load_default(15)
    texts_px = max(title_font.getlength(title), *(36 + font.getlength(text) for _, text in legend))
    width = 2 * _MARGIN_PX + max(columns * (_TILE_PX + _GAP_PX) - _GAP_PX, int(texts_px) + 1)
    step = _TILE_PX + _CAPTION_PX + _GAP_PX
    sheet = Image.new("RGB", (width, _HEADER_PX + lines * step - _GAP_PX + _MARGIN_PX), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, 14), title, fill=_WHITE, font=title_font)
    for k, (colour, text) in enumerate(legend):
        middle = 54 + 20 * k
        draw.line((_MARGIN_PX, middle, _MARGIN_PX + 26, middle), fill=colour, width=5 - 3 * k)
        draw.text((_MARGIN_PX + 36, middle), text, fill=_GREY, font=font, anchor="lm")
    for k, one in enumerate(found):
        place = _MARGIN_PX + k % COLUMNS * (_TILE_PX + _GAP_PX), _HEADER_PX + k // COLUMNS * step
        sheet.paste(_tile(one), place)
        _write_caption(draw, one, (place[0], place[1] + _TILE_PX + 8))
    return sheet


def _tile(one: _Slice) -> Image.Image:
    """The part of the slice around both masks, with the model's outline broad and the engine's thin upon it."""
    part = _around(one.model | one.engine)
    size = (_TILE_PX, _TILE_PX)
    limits = window(one.flair[None].astype(np.float32))
    tile = grey_picture(one.flair[part].astype(np.float32), limits, Plane(), size)
    draw_outline(tile, one.model[part], Plane(), 4)
    draw_outline(tile, one.engine[part], Plane(), 2, SECOND_OUTLINE, shaded=False)
    return tile


def _around(marked: BoolArray) -> tuple[slice, slice]:
    """A square part of the slice that holds what is marked and some of its surroundings."""
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    most = min(marked.shape)
    side = min(max(_LEAST_SIDE_PX, int(max(np.ptp(rows), np.ptp(columns))) + 1 + 2 * _AROUND_PX), most)
    starts = [
        int(np.clip((found[0] + found[-1] + 1 - side) // 2, 0, whole - side))
        for found, whole in ((rows, marked.shape[0]), (columns, marked.shape[1]))
    ]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def _write_caption(draw: ImageDraw.ImageDraw, one: _Slice, place: tuple[int, int]) -> None:
    differing, marked = np.count_nonzero(one.model != one.engine), np.count_nonzero(one.model)
    draw.text(place, one.name, fill=_WHITE, font=ImageFont.load_default(15))
    text = f"IoU {one.iou:.4f}   {differing:,} px differ, the model marks {marked:,}"
    draw.text((place[0], place[1] + 19), text, fill=_GREY, font=ImageFont.load_default(14))
