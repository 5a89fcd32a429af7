"""A sheet of single slices with two outlines, the drawn one and the network's: where a network is best, and worst."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from edgeseg.types import BoolArray, ByteArray
from edgeseg.writers.display import OUTLINE, Plane, draw_outline, grey_picture, window

DRAWN = (86, 180, 233)
"""Sky blue: with the amber of the network's outline it is told apart in all common kinds of colour blindness."""

MOST_COLUMNS = 5

_FLAIR = 1
_CELL, _CAPTION, _GAP, _MARGIN, _HEADER = 300, 24, 8, 18, 78
_BACKGROUND, _WHITE, _GREY = (14, 15, 17), (240, 240, 240), (160, 164, 170)


def write_sheet(
    path: Path, slices: ByteArray, drawn: BoolArray, marked: BoolArray, captions: Sequence[str], title: str
) -> None:
    """Write slices as cells of one PNG, at most 1568 px wide, in the order given and as they are stored.

    Parameters
    ----------
    path
        Where the PNG goes: beside it first, then renamed.
    slices
        uint8 (slice, 3, row, column), 0..255: pre-contrast, FLAIR, post-contrast; FLAIR is shown, each slice with its
        own grey window.
    drawn, marked
        bool (slice, row, column): what was drawn by hand, and what the network marks.
    captions
        A line for each slice, such as ``TCGA_CS_4942 12  IoU 0.91``; about 40 characters fit.
    title
        The sheet's first line; what is wider than the sheet may be is cut off.
    """
    columns = max(1, min(len(slices), MOST_COLUMNS))
    lines = -(-len(slices) // columns)
    font, title_font = ImageFont.load_default(15), ImageFont.load_default(22)
    header_px = min(max(title_font.getlength(title), _legend(None, font)), _width(MOST_COLUMNS) - 1)
    width = 2 * _MARGIN + max(_width(columns), int(header_px) + 1)
    sheet = Image.new("RGB", (width, _HEADER + lines * (_CELL + _CAPTION + _GAP) + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 14), title, fill=_WHITE, font=title_font)
    _legend(draw, font)
    for place, caption in enumerate(captions):
        left = _MARGIN + place % columns * (_CELL + _GAP)
        top = _HEADER + place // columns * (_CELL + _CAPTION + _GAP)
        sheet.paste(_cell(slices[place, _FLAIR], drawn[place], marked[place], caption), (left, top))
    part = path.with_name(path.name + ".part")
    sheet.save(part, format="png")
    part.replace(path)


def _cell(flair: ByteArray, drawn: BoolArray, marked: BoolArray, caption: str) -> Image.Image:
    """Return one slice (row, column) with both outlines, and its caption below."""
    voxels = flair.astype("float32")
    picture = grey_picture(voxels, window(voxels[None]), Plane(), (_CELL, _CELL))
    wide, narrow = _line(drawn, thickness_px=4), _line(marked, thickness_px=2)
    shade = ImageChops.lighter(wide, narrow).filter(ImageFilter.MaxFilter(3))
    for colour, line in (((0, 0, 0), shade), (DRAWN, wide), (OUTLINE, narrow)):  # both show where they agree
        picture.paste(colour, mask=line)
    cell = Image.new("RGB", (_CELL, _CELL + _CAPTION), _BACKGROUND)
    cell.paste(picture, (0, 0))
    place = (_CELL // 2, _CELL + _CAPTION // 2)
    ImageDraw.Draw(cell).text(place, caption, fill=_WHITE, font=ImageFont.load_default(14), anchor="mm")
    return cell


def _width(columns: int) -> int:
    return columns * (_CELL + _GAP) - _GAP


def _line(mask: BoolArray, thickness_px: int) -> Image.Image:
    """Return the outline of a mask (row, column) on a cell: how much line each pixel holds, 0..255."""
    picture = Image.new("RGB", (_CELL, _CELL))
    draw_outline(picture, mask, Plane(), thickness_px)
    return picture.getchannel("R")  # the display's amber is full red, here on black


def _legend(draw: ImageDraw.ImageDraw | None, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> float:
    """Draw which outline is whose, where there is something to draw on; return the width in px."""
    left = float(_MARGIN)
    for colour, words in ((DRAWN, "drawn by hand"), (OUTLINE, "marked by the network")):
        if draw:
            draw.line((left, 56, left + 28, 56), fill=colour, width=4)
            draw.text((left + 36, 56), words, fill=colour, font=font, anchor="lm")
        left += 36 + font.getlength(words) + 30
    words = "FLAIR, as stored; research use only, not a medical device"
    if draw:
        draw.text((left, 56), words, fill=_GREY, font=font, anchor="lm")
    return left + font.getlength(words) - _MARGIN
