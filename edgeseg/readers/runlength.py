"""Run-length masks as Kaggle and Hydrogen Torch write them: ``start length start length ...``."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeseg.errors import InputError
from edgeseg.types import BoolArray

Order = Literal["column", "row"]
Base = Literal[0, 1]

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_FORM = "start length start length ..."


def encode(mask: BoolArray, order: Order = "column", base: Base = 1) -> str:
    """Write a mask as runs.

    Parameters
    ----------
    mask
        (row, column), bool.
    order
        Whether pixels are counted down the columns (Kaggle's way) or along the rows.
    base
        Number of the first pixel.

    Returns
    -------
    str
        Start and length of every run in rising order, with blanks between; empty for an empty mask.
    """
    flat = np.concatenate(([False], mask.ravel(order="F" if order == "column" else "C"), [False]))
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    starts, ends = edges[::2], edges[1::2]
    runs = np.stack([starts + base, ends - starts], axis=1)
    return " ".join(map(str, runs.ravel().tolist()))


def decode(text: str | float | None, shape: tuple[int, int], order: Order = "column", base: Base = 1) -> BoolArray:
    """Read a mask from its runs.

    Parameters
    ----------
    text
        Start and length of every run; empty text, None and NaN are the empty mask.
    shape
        Rows and columns of the image.
    order
        Whether pixels are counted down the columns (Kaggle's way) or along the rows.
    base
        Number of the first pixel.

    Returns
    -------
    BoolArray
        (row, column), bool.

    Raises
    ------
    InputError
        When the text is not pairs of whole numbers, or a run is empty, leaves the image, overlaps the one before it
        or starts before it.
    """
    starts, lengths = _runs(text)
    first = starts - base
    ends = first + lengths
    _check(starts, lengths, first, ends, shape, base)
    steps = np.zeros(shape[0] * shape[1] + 1, np.int8)
    steps[first] += 1
    steps[ends] -= 1  # runs that touch cancel here
    flat = steps[:-1].cumsum(dtype=np.int8).astype(np.bool_)
    return np.ascontiguousarray(flat.reshape(shape, order="F" if order == "column" else "C"))


def _runs(text: str | float | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Starts and lengths, as written."""
    if text is None or text != text:  # NaN is unlike itself
        text = ""
    if not isinstance(text, str):
        raise InputError(f"the run-length mask is the number {text}: write it as text, {_FORM}")
    words = text.split()
    if wrong := next((word for word in words if not _WHOLE.fullmatch(word)), None):
        raise InputError(f"the run-length mask holds {wrong[:24]!r}, where whole numbers are expected: {_FORM}")
    if len(words) % 2:
        raise InputError(f"the run-length mask has {len(words)} numbers, where pairs are expected: {_FORM}")
    numbers = np.array(words, dtype=np.int64)
    return numbers[::2], numbers[1::2]


def _check(
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    shape: tuple[int, int],
    base: Base,
) -> None:
    """Refuse runs that are empty, leave the image, overlap or go back; say what the first such run is."""

    def run(wrong: BoolArray) -> str:
        k = int(np.argmax(wrong))
        return f"run {k + 1} (start {starts[k]}, length {lengths[k]})"

    last = shape[0] * shape[1] - 1 + base
    if (wrong := lengths < 1).any():
        raise InputError(f"{run(wrong)} of the mask has no pixels, where lengths from 1 on are expected")
    if (wrong := first < 0).any():
        raise InputError(
            f"{run(wrong)} of the mask starts before the first pixel, which is number {base}: "
            "count the pixels from there, or say that they are counted from another number"
        )
    if (wrong := ends - 1 + base > last).any():
        raise InputError(
            f"{run(wrong)} of the mask ends at pixel {ends[wrong][0] - 1 + base}, and the image of {shape[0]} rows x "
            f"{shape[1]} columns ends at {last}: give the mask of this image, at its own size"
        )
    if (wrong := first[1:] < ends[:-1]).any():
        k = int(np.argmax(wrong)) + 1
        raise InputError(
            f"run {k + 1} of the mask starts at {starts[k]}, inside or before run {k}, which ends at "
            f"{ends[k - 1] - 1 + base}: runs in rising order that do not overlap are expected"
        )
