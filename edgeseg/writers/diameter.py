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

_ROUNDING = 1 + 1e-9
"""More than the error of a distance's arithmetic."""


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
    best = Diameter(0.0, None)
    marked = np.flatnonzero(segmentation.slice_area_px)
    bounds = {int(index): _longest_possible(segmentation.mask[index], pixel_mm) for index in marked}
    for index, bound in sorted(bounds.items(), key=lambda pair: -pair[1]):
        if bound <= best.length_mm:
            break
        length_mm = _longest(segmentation.mask[index], pixel_mm, best.length_mm)
        if length_mm > best.length_mm:
            best = Diameter(length_mm, index)
    return best


def _longest_possible(mask: BoolArray, pixel_mm: Vector) -> float:
    """Return the diagonal, in mm, of the rectangle around a mask (row, column): no diameter is longer."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    extent = np.array([rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1])
    return float(np.linalg.norm(extent * pixel_mm))


def _longest(mask: BoolArray, pixel_mm: Vector, enough_mm: float) -> float:
    """Return the largest diameter, in mm, of any part of a mask (row, column); 0 where none exceeds ``enough_mm``."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # No part is longer than all parts together, and to tell them apart takes most of the time.
    if _across(mask, pixel_mm) * _ROUNDING <= enough_mm:
        return 0.0
    labels = parts(mask)
    return max(_across(labels == label, pixel_mm) for label in range(1, int(labels.max()) + 1))


def _across(part: BoolArray, pixel_mm: Vector) -> float:
    """Return the largest distance, in mm, of two points of a mask's (row, column) outline."""
    rows, columns = (np.concatenate([_row_ends(part), _row_ends(part.T)[:, ::-1]]) * pixel_mm).T
    down, across = rows[:, None] - rows, columns[:, None] - columns
    return float(np.sqrt((down * down + across * across).max()))


def _row_ends(part: BoolArray) -> Vector:
    """Return where each row of a mask (row, column) begins and ends: (2 x marked rows, 2), row and column."""
    rows = np.flatnonzero(part.any(axis=1))
    first = part[rows].argmax(axis=1) - 0.5
    last = part.shape[1] - part[rows, ::-1].argmax(axis=1) - 0.5
    return np.concatenate([np.stack([rows, first], axis=1), np.stack([rows, last], axis=1)]).astype(np.float64)
