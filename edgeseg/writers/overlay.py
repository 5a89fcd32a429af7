"""Pictures: the outline of the mask on the FLAIR slices, one by one and all on a contact sheet."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from edgeseg.types import BoolArray, Segmentation, Study
from edgeseg.writers.display import (
    OUTLINE,
    Colour,
    Plane,
    display_plane,
    draw_outline,
    grey_picture,
    own_font,
    save_png,
    shown_size,
    window,
)
from edgeseg.writers.report import ReportFacts

FOLDER = "overlay"
CONTACT_SHEET = "contact-sheet"
MOST_TILES = 40

_SLICE_PX, _LARGEST_PX, _NARROWEST_PX, _TILE_PX = 640, 1024, 480, 208
_GAP, _MARGIN, _HEADER, _CAPTION = 6, 18, 74, 30
_BACKGROUND, _WHITE, _GREY = (14, 15, 17), (240, 240, 240), (160, 164, 170)
_NOTICE = "Research use only, not a medical device"


def write(segmentation: Segmentation, study: Study, folder: Path, facts: ReportFacts) -> list[str]:
    """Write ``overlay/<slice>.png`` for the marked slices, and ``overlay/contact-sheet.png`` for all.

    Slices without abnormality get no picture of their own, to keep the folder light: the contact sheet shows them. A
    slice's picture has the name of its file (TIFF) or its number, counted from 1 (``slice-013.png``).

    Parameters
    ----------
    segmentation
        Its mask is (slice, row, column), bool.
    study
        Gives the FLAIR voxels, and the geometry that says which way is up and where left is.
    folder
        An existing folder.
    facts
        Gives the engine's name.

    Returns
    -------
    list of str
        The files written, relative to the folder: the contact sheet first.
    """
    (folder / FOLDER).mkdir(exist_ok=True)
    limits = window(study.flair.voxels)
    plane = display_plane(study.flair.geometry)
    files = [f"{FOLDER}/{CONTACT_SHEET}.png"]
    save_png(contact_sheet(segmentation, study, facts, plane, limits), folder / files[0])
    for index in np.flatnonzero(_marked(segmentation)).tolist():
        name = study.flair.instance_ids[index] if study.source == "tiff" else f"slice-{index + 1:03}"
        files.append(f"{FOLDER}/{name}.png")
        save_png(slice_picture(segmentation, study, index, plane, limits), folder / files[-1])
    return files


def slice_picture(
    segmentation: Segmentation,
    study: Study,
    index: int,
    plane: Plane,
    limits: tuple[float, float],
    longest_px: int | None = None,
) -> Image.Image:
    """Return one slice, with outline, sides, number and area: its longest side at least twice as large, or as given."""
    rows, columns = segmentation.mask.shape[1:]
    longest = longest_px or min(max(_SLICE_PX, 2 * max(rows, columns)), _LARGEST_PX)
    size = shown_size(plane, (rows, columns), longest)
    slice_ = grey_picture(study.flair.voxels[index], limits, plane, size)
    draw_outline(slice_, segmentation.mask[index], plane)
    _draw_sides(slice_, plane, 22)
    width = max(size[0], _NARROWEST_PX)
    picture = Image.new("RGB", (width, size[1] + _CAPTION), _BACKGROUND)
    picture.paste(slice_, ((width - size[0]) // 2, 0))
    draw = ImageDraw.Draw(picture)
    middle = size[1] + _CAPTION // 2
    caption = f"Slice {index + 1} of {len(segmentation.mask)}   {_area(segmentation, index)}"
    draw.text((10, middle), caption, fill=_WHITE, font=own_font(15), anchor="lm")
    draw.text((width - 10, middle), _NOTICE, fill=_GREY, font=own_font(13), anchor="rm")
    return picture


def contact_sheet(
    segmentation: Segmentation, study: Study, facts: ReportFacts, plane: Plane, limits: tuple[float, float]
) -> Image.Image:
    """Return all slices on one sheet, in slice order: at most 40, the marked ones before others."""
    chosen = choose_slices(_marked(segmentation))
    tile = shown_size(plane, (segmentation.mask.shape[1], segmentation.mask.shape[2]), _TILE_PX)
    columns = min(len(chosen), 8 if len(chosen) > 24 else 6)
    lines = -(-len(chosen) // columns)
    found, details = _header(segmentation, study, facts, len(chosen))
    title_font, font = own_font(22), own_font(13)
    header_px = max(title_font.getlength(found), font.getlength(details))
    width = 2 * _MARGIN + max(columns * (tile[0] + _GAP) - _GAP, int(header_px) + 1)
    height = _HEADER + lines * (tile[1] + _GAP) - _GAP + _MARGIN
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 16), found, fill=OUTLINE if any(segmentation.slice_area_px) else _WHITE, font=title_font)
    draw.text((_MARGIN, 46), details, fill=_GREY, font=font)
    for place, index in enumerate(chosen):
        left = _MARGIN + place % columns * (tile[0] + _GAP)
        top = _HEADER + place // columns * (tile[1] + _GAP)
        sheet.paste(_tile(segmentation, study, index, plane, limits, tile), (left, top))
    return sheet


def choose_slices(marked: BoolArray, most: int = MOST_TILES) -> list[int]:
    """Return the slices of the contact sheet: all, or the marked ones and others between them, evenly chosen.

    Parameters
    ----------
    marked
        Shape (slice,), bool: which slices hold abnormality.
    most
        How many slices there may be; with more marked ones than that, these are thinned out evenly.
    """
    first = _evenly(np.flatnonzero(marked), most)
    others = _evenly(np.flatnonzero(~marked), most - len(first))
    return sorted([*first, *others])


def _marked(segmentation: Segmentation) -> BoolArray:
    """Return which slices hold abnormality: shape (slice,), bool."""
    return np.asarray(segmentation.mask.any(axis=(1, 2)))


def _evenly(indices: npt.NDArray[np.intp], most: int) -> list[int]:
    """Choose at most so many, evenly spread, both ends among them."""
    if len(indices) <= most:
        return [int(index) for index in indices]
    places = np.rint(np.linspace(0, len(indices) - 1, most)).astype(int)
    return [int(index) for index in indices[places]]


def _tile(
    segmentation: Segmentation,
    study: Study,
    index: int,
    plane: Plane,
    limits: tuple[float, float],
    size: tuple[int, int],
) -> Image.Image:
    """Return one small slice with its number, and its area where it is marked."""
    tile = grey_picture(study.flair.voxels[index], limits, plane, size)
    draw_outline(tile, segmentation.mask[index], plane, thickness_px=1)
    _draw_sides(tile, plane, 12)
    _write_on(tile, str(index + 1), (5, 4), 12, "la")
    if segmentation.slice_area_px[index]:
        _write_on(tile, _area(segmentation, index), (size[0] - 5, size[1] - 5), 12, "rs", OUTLINE)
    return tile


def _draw_sides(picture: Image.Image, plane: Plane, font_px: int) -> None:
    """Write the letters of the patient's sides at the picture's left and right edge, where they are known."""
    middle = picture.height // 2
    if plane.left:
        _write_on(picture, plane.left, (5, middle), font_px, "lm")
        _write_on(picture, plane.right, (picture.width - 5, middle), font_px, "rm")


def _write_on(
    picture: Image.Image, text: str, place: tuple[int, int], font_px: int, anchor: str, colour: Colour = _WHITE
) -> None:
    """Write on a slice: with a dark rim, so that it can be read on every grey."""
    rim, body, left, top = _shapes(text, font_px, anchor)
    for shape, ink in ((rim, _BACKGROUND), (body, colour)):
        picture.paste(ink, (place[0] + left, place[1] + top), shape)


@lru_cache(maxsize=256)
def _shapes(text: str, font_px: int, anchor: str) -> tuple[Image.Image, Image.Image, int, int]:
    """Return a text's rim and body as masks, and where they begin from its anchor; most are needed for every slice."""
    font = own_font(font_px)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text, anchor=anchor, stroke_width=1))
    shapes = [Image.new("L", (right - left, bottom - top)) for _ in range(2)]
    for shape, rim_px in zip(shapes, (1, 0), strict=True):
        ImageDraw.Draw(shape).text(
            (-left, -top), text, fill=255, font=font, anchor=anchor, stroke_width=rim_px, stroke_fill=255
        )
    return shapes[0], shapes[1], left, top


def _header(segmentation: Segmentation, study: Study, facts: ReportFacts, shown: int) -> tuple[str, str]:
    """Say over the contact sheet what was found, and by what."""
    marked, total = sum(area > 0 for area in segmentation.slice_area_px), len(segmentation.mask)
    found = "No FLAIR abnormality found"
    if marked:
        found = f"FLAIR abnormality: {_volume(segmentation)} in {marked} of {total} slices"
    details = [study.name, f"engine {facts.engine_name}"]
    if shown < total:
        details.append(f"{shown} of {total} slices shown")
    if study.flair.geometry is None:
        details.append("sides as stored, not stated by the files")
    return found, "   |   ".join([*details, _NOTICE])


def _volume(segmentation: Segmentation) -> str:
    """Say the volume, or the marked pixels where the files give no voxel size."""
    if segmentation.volume_ml is None:
        return f"{sum(segmentation.slice_area_px):,} px"
    return f"{segmentation.volume_ml:.1f} ml"


def _area(segmentation: Segmentation, index: int) -> str:
    """Say a slice's marked area."""
    if segmentation.slice_area_mm2 is None:
        return f"{segmentation.slice_area_px[index]:,} px"
    return f"{segmentation.slice_area_mm2[index]:,.0f} sq mm"
