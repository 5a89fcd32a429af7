"""Overlap of masks, and what it is when both are empty. Arrays only."""

from __future__ import annotations

import numpy as np

from edgeseg.types import BoolArray


def iou(a: BoolArray, b: BoolArray) -> float:
    """Intersection over union of two masks of the same shape, 0..1; two empty masks agree at 1."""
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else np.count_nonzero(a & b) / union


def dice(a: BoolArray, b: BoolArray) -> float:
    """Dice coefficient 2|A and B| / (|A| + |B|) of two masks of the same shape, 0..1; two empty masks agree at 1."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 1.0 if total == 0 else 2 * np.count_nonzero(a & b) / total
