"""Pictures: which way up, square pixels, the outline at the mask's edge, and which slices are shown."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFilter

from edgeseg.types import Geometry, Segmentation, Study, Volume
from edgeseg.writers import ReportFacts, display, write
from edgeseg.writers.display import (
    OUTLINE,
    Plane,
    display_plane,
    draw_outline,
    grey_picture,
    outline_path,
    shown_size,
    window,
)
from edgeseg.writers.overlay import choose_slices

FACTS = ReportFacts(engine={"name": "test-fp32"}, preprocessing={}, threshold=0.5)
LEFT, POSTERIOR, HEAD = np.eye(3)
GROWS = {
    "axial": (HEAD, POSTERIOR, LEFT),
    "axial, all turned": (-HEAD, -POSTERIOR, -LEFT),
    "axial, rows across": (HEAD, LEFT, POSTERIOR),
    "coronal": (POSTERIOR, -HEAD, LEFT),
    "coronal, turned": (-POSTERIOR, HEAD, -LEFT),
    "sagittal": (LEFT, -HEAD, POSTERIOR),
    "sagittal, rows across": (-LEFT, -POSTERIOR, HEAD),
}
"""Directions in which slice, row and column indices grow."""

SHOWN = {
    "axial": (POSTERIOR, LEFT, "R", "L"),
    "coronal": (-HEAD, LEFT, "R", "L"),
    "sagittal": (-HEAD, POSTERIOR, "A", "P"),
}
"""Directions down and to the right in the picture, and the letters at its left and right."""


def _geometry(name: str) -> Geometry:
    return Geometry(np.array([3.0, 4.0, 5.0]), np.array([4.0, 1.0, 2.0]), np.stack(GROWS[name], axis=1))


@pytest.mark.parametrize("name", GROWS)
def test_every_acquisition_is_shown_the_radiologists_way(name: str) -> None:
    """The voxel that lies furthest down and right in the patient is at the picture's lower right corner."""
    geometry = _geometry(name)
    down, right, letter_left, letter_right = SHOWN[name.split(",", maxsplit=1)[0]]
    rows, columns = 3, 5
    index = np.stack(np.meshgrid([1], range(rows), range(columns), indexing="ij"), axis=-1)[0].astype(float)
    place = geometry.position_mm(index)
    plane = display_plane(geometry)
    shown_down, shown_right = plane.turn(place @ down), plane.turn(place @ right)
    assert (np.diff(shown_down, axis=0) > 0).all()
    assert (np.diff(shown_right, axis=1) > 0).all()
    assert (plane.left, plane.right) == (letter_left, letter_right)
    assert abs(np.diff(shown_down, axis=0)[0, 0]) == plane.height_mm
    assert abs(np.diff(shown_right, axis=1)[0, 0]) == plane.width_mm


def test_tilted_slices_count_as_the_nearest_plane() -> None:
    """A grid tilted by 17 degrees is still axial."""
    a = np.deg2rad(17)
    tilt = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    geometry = Geometry(np.zeros(3), np.ones(3), tilt @ np.stack(GROWS["axial"], axis=1))
    plane = display_plane(geometry)
    assert (plane.transpose, plane.flip_vertical, plane.flip_horizontal, plane.left) == (False, False, False, "R")


def test_pixels_are_shown_square() -> None:
    """Forty rows of 1 mm and forty columns of 2 mm make a picture twice as wide as high."""
    assert shown_size(display_plane(_geometry("axial")), (40, 40), 640) == (640, 320)
    assert shown_size(display_plane(_geometry("axial, rows across")), (40, 40), 640) == (320, 640)


def test_files_have_no_letters_where_nothing_says_the_side() -> None:
    """A TIFF is shown as it is stored."""
    plane = display_plane(None)
    assert (plane.left, plane.right, plane.transpose) == ("", "", False)


def test_outline_runs_along_the_edge_of_the_mask() -> None:
    """Amber within two pixels of the edge, grey elsewhere, inside and outside."""
    mask = np.zeros((32, 32), dtype=bool)
    mask[8:20, 10:26] = True
    plane = display_plane(None)
    picture = grey_picture(np.full((32, 32), 0.5, np.float32), (0.0, 1.0), plane, (320, 320))
    draw_outline(picture, mask, plane)
    pixels = np.asarray(picture).astype(int)
    amber = (pixels[..., 0] - pixels[..., 2]) > 100
    rows, columns = np.nonzero(amber)
    assert (rows.min(), rows.max()) == pytest.approx((79.5, 199.5), abs=2.5)
    assert (columns.min(), columns.max()) == pytest.approx((99.5, 259.5), abs=2.5)
    assert tuple(pixels[80, 180]) == pytest.approx(OUTLINE, abs=40)
    assert not amber[86:194, 106:254].any()


@pytest.mark.parametrize("corner", [0, 15])
def test_a_single_pixel_gets_an_outline(corner: int) -> None:
    """Nothing that counts in the volume is invisible, at the picture's border neither."""
    mask = np.zeros((16, 16), dtype=bool)
    mask[corner, corner] = True
    plane = display_plane(None)
    picture = grey_picture(np.zeros((16, 16), np.float32), (0.0, 1.0), plane, (208, 208))
    draw_outline(picture, mask, plane, thickness_px=1)
    pixels = np.asarray(picture).astype(int)
    assert ((pixels[..., 0] - pixels[..., 2]) > 100).sum() > 10


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_bands_are_those_of_pillows_filters(width: int, share: float) -> None:
    """At the borders, too."""
    marked = Image.fromarray(np.where(np.random.default_rng(5).random((37, 50)) < share, 255, 0).astype(np.uint8))
    wider, narrower = marked, marked
    for _ in range(width):
        wider, narrower = wider.filter(ImageFilter.MaxFilter(3)), narrower.filter(ImageFilter.MinFilter(3))
    assert display._band(marked, width) == ImageChops.subtract(wider, narrower)


@pytest.mark.filterwarnings("ignore:overflow")  # of the simple formula
def test_grey_is_that_of_the_voxels_and_what_is_no_number_is_an_end_of_the_scale() -> None:
    voxels = np.random.default_rng(6).normal(300, 200, (40, 30)).astype(np.float32)
    voxels[3, :4] = np.nan, np.inf, -np.inf, 1e30
    low, high = 20.0, 700.5
    simple = np.clip((np.nan_to_num(voxels, nan=low) - low) * (255.0 / (high - low)), 0, 255)
    assert np.array_equal(display.grey(voxels, (low, high), Plane()), np.rint(simple).astype(np.uint8))


def test_window_of_strange_volumes() -> None:
    """Constant, or not a number: no division by zero."""
    for volume in (np.zeros((2, 4, 4), np.float32), np.full((2, 4, 4), np.nan, np.float32)):
        low, high = window(volume)
        assert high > low


@pytest.mark.parametrize(
    ("total", "marked"), [(12, range(3, 5)), (160, range(50, 80)), (160, range(10, 150)), (90, [])]
)
def test_contact_sheet_shows_marked_slices_first(total: int, marked: Any) -> None:
    """At most forty, all marked ones among them while they fit, in order."""
    flags = np.zeros(total, dtype=bool)
    flags[list(marked)] = True
    chosen = choose_slices(flags)
    assert len(chosen) == min(total, 40)
    assert chosen == sorted(set(chosen))
    assert flags[chosen].sum() == min(flags.sum(), 40)


def _study(source: Any, geometry: Geometry | None, empty: bool = False) -> tuple[Segmentation, Study]:
    mask = np.zeros((3, 24, 20), dtype=bool)
    mask[1, 4:9, 5:12] = not empty
    voxels = np.random.default_rng(7).normal(100, 20, mask.shape).astype(np.float32)
    area = int(mask.sum())
    flair = Volume(voxels, geometry, ("p_1", "p_2", "p_3"))
    volume_ml = None if geometry is None else area * geometry.voxel_ml
    areas_mm2 = None if geometry is None else (0.0, area * 2.0, 0.0)
    segmentation = Segmentation(mask, mask.astype(np.float32), (0, area, 0), volume_ml, areas_mm2)
    return segmentation, Study("p", "p", source, flair, None, None, {})


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [("tiff", None, "overlay/p_2.png"), ("nifti", "axial", "overlay/slice-002.png")],
)
def test_pictures_are_written_for_marked_slices_only(
    tmp_path: Path, source: str, name: str | None, expected: str
) -> None:
    """The contact sheet shows the rest."""
    segmentation, study = _study(source, _geometry(name) if name else None)
    files = write(segmentation, study, ["overlay"], tmp_path, FACTS)
    assert files == ["overlay/contact-sheet.png", expected]
    with Image.open(tmp_path / expected) as picture:
        assert picture.height > 2 * 24
    with Image.open(tmp_path / files[0]) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    assert ((pixels[..., 0] - pixels[..., 2]) > 100).sum() > 100


def test_an_empty_mask_gives_the_contact_sheet_alone(tmp_path: Path) -> None:
    """And nothing amber on it."""
    segmentation, study = _study("tiff", None, empty=True)
    assert write(segmentation, study, ["overlay"], tmp_path, FACTS) == ["overlay/contact-sheet.png"]
    with Image.open(tmp_path / "overlay/contact-sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    assert not ((pixels[..., 0] - pixels[..., 2]) > 60).any()


def _points(path: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Start and end of each line of an outline's path."""
    found = []
    for x, y, way in re.findall(r"M(-?\d+) (-?\d+)(l-?\d+ -?\d+|[hv]\d+)", path):
        steps = [int(number) for number in re.findall(r"-?\d+", way)]
        across, down = (*steps, 0) if way[0] == "h" else (0, *steps) if way[0] == "v" else steps
        found.append(((int(x), int(y)), (int(x) + across, int(y) + down)))
    return found


def test_the_outline_of_one_pixel_goes_around_its_middle() -> None:
    mask = np.zeros((5, 7), dtype=bool)
    mask[2, 3] = True
    lines = _points(outline_path(mask, Plane()))
    assert {point for line in lines for point in line} == {(7, 4), (8, 5), (7, 6), (6, 5)}
    turned = _points(outline_path(mask, Plane(transpose=True, flip_horizontal=True)))
    assert {point for line in turned for point in line} == {(5, 6), (6, 7), (5, 8), (4, 7)}
    assert outline_path(np.zeros((5, 7), dtype=bool), Plane()) == ""


def test_an_outline_is_closed_and_parts_the_marked_pixels_from_the_others() -> None:
    mask = np.random.default_rng(0).random((12, 17)) > 0.6  # all sixteen kinds of cells, edges of the picture too
    lines = _points(outline_path(mask, Plane()))
    ends = Counter(point for line in lines for point in line)
    assert set(ends.values()) == {2}
    for row in range(12):
        for column in range(17):
            x, y = 2 * column + 1, 2 * row + 1
            left_of = sum(a[0] + b[0] < 2 * x and min(a[1], b[1]) <= y < max(a[1], b[1]) for a, b in lines)
            assert (left_of % 2 == 1) == mask[row, column]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_the_path_is_that_of_the_whole_slice(share: float) -> None:
    """Line for line, whatever part of the slice is looked at."""
    mask = np.random.default_rng(8).random((23, 31)) < share
    mask[:2], mask[:, 20:24] = False, False
    marked = np.pad(mask, 1).astype(int)
    lines = ""
    for row in range(24):
        for column in range(32):
            (a, b), (c, d) = marked[row : row + 2, column : column + 2]
            for x, y, way in display._CELL_LINES.get(8 * a + 4 * b + 2 * d + c, ()):
                lines += f"M{2 * column + x} {2 * row + y}{way}"
    assert outline_path(mask, Plane()) == lines
