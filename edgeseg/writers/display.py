"""How a slice is shown: which way up, which grey, how large, and the outline of its mask. Arrays in, pictures out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter, ImageFont

from edgeseg.types import BoolArray, ByteArray, FloatArray, Geometry

OUTLINE = (255, 176, 0)
"""Amber: it stands out from every grey, and stays apart from grey in all common kinds of colour blindness."""

SECOND_OUTLINE = (64, 156, 255)
"""Blue, for the second of two outlines: it stays apart from amber and from grey in all of these too."""

Colour = tuple[int, int, int]
_SHADE = 140
_TOP_LEFT, _TOP_RIGHT, _BOTTOM_RIGHT, _BOTTOM_LEFT = (
    (-1, 0, "l1 -1"),
    (0, -1, "l1 1"),
    (1, 0, "l-1 1"),
    (0, 1, "l-1 -1"),
)
_DOWN, _ACROSS = (0, -1, "v2"), (-1, 0, "h2")
_CELL_LINES: dict[int, tuple[tuple[int, int, str], ...]] = {
    **dict.fromkeys((8, 7), (_TOP_LEFT,)),
    **dict.fromkeys((4, 11), (_TOP_RIGHT,)),
    **dict.fromkeys((2, 13), (_BOTTOM_RIGHT,)),
    **dict.fromkeys((1, 14), (_BOTTOM_LEFT,)),
    **dict.fromkeys((9, 6), (_DOWN,)),
    **dict.fromkeys((12, 3), (_ACROSS,)),
    10: (_TOP_LEFT, _BOTTOM_RIGHT),
    5: (_TOP_RIGHT, _BOTTOM_LEFT),
}
"""Marching squares: the lines of a cell between four pixels' centres, by which of them are marked (top left 8, top
right 4, bottom right 2, bottom left 1): x and y of the start, from the cell's middle in half pixels, and the way on."""
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))
_Pixel = TypeVar("_Pixel", bound=np.generic)


@dataclass(frozen=True)
class Plane:
    """How acquired slices are turned for display.

    Parameters
    ----------
    transpose
        Whether rows and columns change places, before the flips.
    flip_vertical, flip_horizontal
        Whether the (transposed) slice is turned upside down, and left to right.
    height_mm, width_mm
        Size of a pixel of the shown slice; 1 where the files do not say it.
    left, right
        Letters of the patient's sides at the picture's left and right; empty where the files do not say it.
    """

    transpose: bool = False
    flip_vertical: bool = False
    flip_horizontal: bool = False
    height_mm: float = 1.0
    width_mm: float = 1.0
    left: str = ""
    right: str = ""

    def turn(self, pixels: npt.NDArray[_Pixel]) -> npt.NDArray[_Pixel]:
        """Return a (row, column) slice as it is shown."""
        shown = pixels.T if self.transpose else pixels
        return np.ascontiguousarray(shown[:: -1 if self.flip_vertical else 1, :: -1 if self.flip_horizontal else 1])


def display_plane(geometry: Geometry | None) -> Plane:
    """Return how slices are shown: the acquired plane, the way radiologists look at it.

    Axial slices have anterior up and the patient's right at the left; coronal ones the head up and the patient's right
    at the left; sagittal ones the head up and anterior at the left. Oblique slices count as the nearest of these.

    Parameters
    ----------
    geometry
        Of the FLAIR grid; None (TIFF) shows slices as they are stored, without letters.
    """
    if geometry is None:
        return Plane()
    size = np.abs(geometry.direction)
    slice_axis, row_axis, _ = max(
        permutations(range(3)), key=lambda axes: float(sum(size[axes[k], k] for k in range(3)))
    )
    down, down_sign = (1, 1.0) if slice_axis == 2 else (2, -1.0)
    across = 1 if slice_axis == 0 else 0
    transpose = row_axis != down
    vertical, horizontal = (2, 1) if transpose else (1, 2)
    low, high = _LETTERS[across]
    return Plane(
        transpose=transpose,
        flip_vertical=bool(geometry.direction[down, vertical] * down_sign < 0),
        flip_horizontal=bool(geometry.direction[across, horizontal] < 0),
        height_mm=float(geometry.spacing_mm[vertical]),
        width_mm=float(geometry.spacing_mm[horizontal]),
        left=low,
        right=high,
    )


def window(voxels: FloatArray) -> tuple[float, float]:
    """Return the values shown as black and as white, for a whole volume (slice, row, column).

    Black is the 1st percentile of all voxels; white the 95th of the head's, taken as those above a tenth of the way to
    the brightest: so that fat, which is bright and at the edge, does not leave the brain dark.
    """
    sample = voxels[:, ::2, ::2]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    low, brightest = np.percentile(sample, (1.0, 99.9))
    head = sample[sample > low + 0.1 * (brightest - low)]
    high = np.percentile(head, 95.0) if head.size else low
    return float(low), float(high if high > low else low + 1.0)


def shown_size(plane: Plane, shape: tuple[int, int], longest_px: int) -> tuple[int, int]:
    """Return (width, height) in px of a slice of this acquired shape with square pixels and this longest side."""
    rows, columns = shape[::-1] if plane.transpose else shape
    height_mm, width_mm = rows * plane.height_mm, columns * plane.width_mm
    scale = longest_px / max(height_mm, width_mm)
    return max(1, round(width_mm * scale)), max(1, round(height_mm * scale))


def grey_picture(pixels: FloatArray, limits: tuple[float, float], plane: Plane, size: tuple[int, int]) -> Image.Image:
    """Return a slice (row, column) as a grey RGB picture of the given (width, height) in px."""
    return Image.fromarray(grey(pixels, limits, plane)).resize(size, Image.Resampling.BICUBIC).convert("RGB")


def grey(pixels: FloatArray, limits: tuple[float, float], plane: Plane) -> ByteArray:
    """Return a slice (row, column) as it is shown: uint8, 0..255 between the limits, not scaled."""
    low, high = limits
    scaled = np.fmin(np.fmax((pixels - low) * (255.0 / (high - low)), 0), 255)  # what is no number is black
    return plane.turn(np.rint(scaled).astype(np.uint8))


def outline_path(mask: BoolArray, plane: Plane) -> str:
    """Return the edge of a mask (row, column) as an SVG path: lines between the middles of the pixels' edges.

    Parameters
    ----------
    mask
        Shape (row, column), bool, as acquired.
    plane
        How the slice is turned.

    Returns
    -------
    str
        In half pixels of the shown slice, from its top left corner; empty where nothing is marked.
    """
    shown = plane.turn(mask)
    if not shown.any():
        return ""
    down, across = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    top, left = down[0], across[0]
    marked = np.pad(shown[top : down[-1] + 1, left : across[-1] + 1], 1).view(np.uint8)
    cells = marked[:-1, :-1] * 8 + marked[:-1, 1:] * 4 + marked[1:, 1:] * 2 + marked[1:, :-1]
    rows, columns = np.nonzero(cells % 15)
    return "".join(
        f"M{2 * column + x} {2 * row + y}{way}"
        for row, column, kind in zip(
            (rows + top).tolist(), (columns + left).tolist(), cells[rows, columns].tolist(), strict=True
        )
        for x, y, way in _CELL_LINES[kind]
    )


def draw_outline(
    picture: Image.Image,
    mask: BoolArray,
    plane: Plane,
    thickness_px: int = 2,
    colour: Colour = OUTLINE,
    shaded: bool = True,
) -> None:
    """Draw the edge of a mask (row, column) into a picture of the same slice, with a thin shade on both sides.

    The line is centred on the mask's edge, is drawn at twice the size and scaled down, so that it is smooth.

    Parameters
    ----------
    picture
        RGB, from `grey_picture`; it is changed.
    mask
        Shape (row, column), bool, as acquired.
    plane
        How the picture was turned.
    thickness_px
        Of the line, in px of the picture.
    colour
        Of the line.
    shaded
        Whether there is a shade: the second of two outlines lies better on the first without.
    """
    shown = plane.turn(mask)
    if not shown.any():
        return
    box, part = _part(shown, picture.size, margin_px=thickness_px + 3)
    double = ((box[2] - box[0]) * 2, (box[3] - box[1]) * 2)
    scale_x, scale_y = shown.shape[1] / picture.width, shown.shape[0] / picture.height
    source = (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
    marked = _smooth(part.resize(double, Image.Resampling.BILINEAR, box=source), radius_px=2.5 / (scale_x + scale_y))
    line = _band(marked, thickness_px).reduce(2)
    if shaded:
        shade = _band(marked, thickness_px + 2).reduce(2).point([value * _SHADE // 255 for value in range(256)])
        picture.paste((0, 0, 0), box, shade)
    picture.paste(colour, box, line)


def save_png(picture: Image.Image, file: Path | BinaryIO, colours: tuple[Colour, ...] = (OUTLINE,)) -> None:
    """Save an RGB picture as PNG in 256 colours: greys, and 64 blends of grey with each outline's colour.

    Half the bytes and half the time of true colour, and with one outline the greys are at most one step of 1.3 away.
    Compressed by level 2: level 4 takes a third longer for 8 % fewer bytes.
    """
    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette(colours))
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(file, "PNG", compress_level=2)


@cache
def _palette(colours: tuple[Colour, ...]) -> bytes:
    """Return 256 RGB colours."""
    count = 256 - 64 * len(colours)
    greys = [(round(step * 255 / (count - 1)),) * 3 for step in range(count)]
    blends = [
        tuple(round(grey + (value - grey) * part / 8) for value in colour)
        for colour in colours
        for part in range(1, 9)
        for grey in np.linspace(0, 255, 8)
    ]
    return bytes(value for colour in (*greys, *blends) for value in colour)


@cache
def own_font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font at this size: to load it takes longer than to write a word."""
    return ImageFont.load_default(size_px)


def _part(shown: BoolArray, size: tuple[int, int], margin_px: int) -> tuple[tuple[int, int, int, int], Image.Image]:
    """Return the part of the picture (left, top, right, bottom) that holds the mask, and the mask as 0 or 255."""
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    scale_x, scale_y = size[0] / shown.shape[1], size[1] / shown.shape[0]
    margin_x, margin_y = margin_px + scale_x, margin_px + scale_y
    box = (
        max(0, int(columns[0] * scale_x - margin_x)),
        max(0, int(rows[0] * scale_y - margin_y)),
        min(size[0], int((columns[-1] + 1) * scale_x + margin_x) + 1),
        min(size[1], int((rows[-1] + 1) * scale_y + margin_y) + 1),
    )
    return box, Image.fromarray(shown.astype(np.uint8) * np.uint8(255))


def _smooth(soft: Image.Image, radius_px: float) -> Image.Image:
    """Return what is marked (0 or 255) without the steps of the pixels; single pixels stay."""
    rounded = soft.filter(ImageFilter.GaussianBlur(radius_px)).point([0] * 128 + [255] * 128)
    core = soft.point([0] * 200 + [255] * 56)
    return ImageChops.lighter(rounded, core)


def _band(marked: Image.Image, width: int) -> Image.Image:
    """Return the band of ``2 * width`` px around the edge of what is marked."""
    pixels = np.asarray(marked)
    return Image.fromarray(_spread(pixels, width) - ~_spread(~pixels, width))


def _spread(pixels: ByteArray, width: int) -> ByteArray:
    """Return the lightest of the pixels that lie up to so many rows and columns away: both ways apart, for speed."""
    for _ in range(width):
        rows = pixels.copy()
        np.maximum(rows[1:], pixels[:-1], out=rows[1:])
        np.maximum(rows[:-1], pixels[1:], out=rows[:-1])
        pixels = rows.copy()
        np.maximum(pixels[:, 1:], rows[:, :-1], out=pixels[:, 1:])
        np.maximum(pixels[:, :-1], rows[:, 1:], out=pixels[:, :-1])
    return pixels
