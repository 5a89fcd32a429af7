"""The largest diameter, as radiology measures it: in the acquired plane, on the slice where it is longest.

RECIST 1.1 records the longest diameter in the plane of measurement (Eisenhauer et al., European Journal of Cancer 45,
2009, 228-247), and PyRadiomics' ``Maximum2DDiameterSlice`` is taken in that plane too; a diameter through space would
depend on the distance of the slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeseg.preprocess import parts
from edgeseg.types import BoolArray, Segmentation, Study, Vector


@dataclass(frozen=True)
class Diameter:
    """The largest diameter.

    Parameters
    ----------
    length_mm
        0 where nothing is marked.
    slice
        Index of the slice that it was measured on; None where nothing is marked.
    """

    length_mm: float
    slice: int | None


def largest_diameter(segmentation: Segmentation, study: Study) -> Diameter | None:
    """Return the largest diameter of any one part of a mask on any slice.

    Parts that touch in a slice, be it by a corner, are one; parts that do not are measured apart, since the way between
    two abnormalities is no diameter. The ends lie on the mask's outline, half a pixel from the outermost pixels'
    centres, so that a row of n pixels is n pixels long.

    Parameters
    ----------
    segmentation
        Its mask is (slice, row, column), bool.
    study
        Gives the pixels' size.

    Returns
    -------
    Diameter or None
        None where the files give no geometry (TIFF).
    """
    geometry = study.flair.geometry
    if geometry is None:
        return None
    pixel_mm = geometry.spacing_mm[1:]
    if not any(segmentation.slice_area_px):
        return Diameter(0.0, None)
    masks = {index: _cropped(segmentation.mask[index]) for index in np.flatnonzero(segmentation.slice_area_px).tolist()}
    most_mm = {index: _longest_possible(mask, pixel_mm) for index, mask in masks.items()}
    found_mm: dict[int, float] = {}
    for index in sorted(masks, key=lambda index: -most_mm[index]):
        if most_mm[index] < max(found_mm.values(), default=0.0):
            break
        found_mm[index] = _longest(masks[index], pixel_mm)
    # Of several slices with the same, that with the longest rectangle around its mask, or else the first.
    best = max(found_mm, key=lambda index: (found_mm[index], np.linalg.norm(masks[index].shape * pixel_mm), -index))
    return Diameter(found_mm[best], best)


def _cropped(mask: BoolArray) -> BoolArray:
    """Return the rectangle around a mask (row, column) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _longest_possible(mask: BoolArray, pixel_mm: Vector) -> float:
    """Return what no diameter exceeds, in mm, and most come near: parts are not told apart, which takes long.

    The ends of rows alone, and half a pixel more above and below.
    """
    return _farthest(_row_corners(mask) * pixel_mm) + float(pixel_mm[0])


def _longest(mask: BoolArray, pixel_mm: Vector) -> float:
    """Return the largest diameter, in mm, of any part of a mask (row, column)."""
    labels = parts(mask)
    longest = 0.0
    for label in range(1, int(labels.max()) + 1):
        part = labels == label
        corners = np.concatenate([_row_corners(part), _row_corners(part.T)[:, ::-1]]) * pixel_mm
        longest = max(longest, _farthest(corners))
    return longest


def _farthest(places_mm: Vector) -> float:
    """Return the largest distance of two places (place, 2)."""
    rows, columns = places_mm.T
    down, across = rows[:, None] - rows, columns[:, None] - columns
    return float(np.sqrt((down * down + across * across).max()))


def _row_corners(part: BoolArray) -> Vector:
    """Return where rows of a mask (row, column) begin and end, but for those that lie between others: (place, 2).

    The two places farthest from each other are corners of the convex hull of all.
    """
    rows = np.flatnonzero(part.any(axis=1))
    first = part[rows].argmax(axis=1) - 0.5
    last = part.shape[1] - part[rows, ::-1].argmax(axis=1) - 0.5
    left, right = _bulging(rows.tolist(), (-first).tolist()), _bulging(rows.tolist(), last.tolist())
    return np.asarray([(row, -far) for row, far in left] + [(row, far) for row, far in right], dtype=np.float64)


def _bulging(rows: list[int], far: list[float]) -> list[tuple[int, float]]:
    """Return the points (row, how far) of a side's convex hull: rows ascend; Andrew's monotone chain, 1979."""
    kept: list[tuple[int, float]] = []
    for row, here in zip(rows, far, strict=True):
        while len(kept) > 1:
            (before_row, before), (last_row, last) = kept[-2:]
            if (last - before) * (row - last_row) > (here - last) * (last_row - before_row):
                break
            kept.pop()
        kept.append((row, here))
    return kept
