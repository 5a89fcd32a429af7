"""Overlap of masks and distance of their outlines, and what they are when a mask is empty. Arrays only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeseg.errors import BackendMissing
from edgeseg.types import BoolArray


def iou(a: BoolArray, b: BoolArray) -> float:
    """Intersection over union of two masks of the same shape, 0..1; two empty masks agree at 1."""
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else np.count_nonzero(a & b) / union


def dice(a: BoolArray, b: BoolArray) -> float:
    """Dice coefficient 2|A and B| / (|A| + |B|) of two masks of the same shape, 0..1; two empty masks agree at 1."""
    return dice_of_counts(np.count_nonzero(a & b), np.count_nonzero(a), np.count_nonzero(b))


def dice_of_counts(both: np.integer[Any], a: np.integer[Any], b: np.integer[Any]) -> float:
    """`dice` of two masks from pixel counts: in both, in the one, and in the other."""
    return 1.0 if a + b == 0 else float(2 * both / (a + b))


def surface_distance_px(a: BoolArray, b: BoolArray) -> float | None:
    """95 % surface distance (95th percentile Hausdorff distance) of two masks of one slice, in pixels.

    As grand-challenge-metrics computes it (``percentile_hausdorff_distance``): a mask's outline is those of its pixels
    that have a background pixel, or the image's edge, as one of their four neighbours; for each pixel of one outline
    the Euclidean distance to the nearest of the other; of these n distances, sorted, the one at index
    floor(0.95 (n - 1)); the larger of both directions.

    Parameters
    ----------
    a, b
        bool (row, column), the same shape.

    Returns
    -------
    float | None
        Pixels, in-plane, 0 for equal masks; None when either mask is empty, for then there is no distance.

    Raises
    ------
    BackendMissing
        When grand-challenge-metrics is not installed.
    """
    percentile_distance = _percentile_hausdorff_distance()
    if not (a.any() and b.any()):
        return None
    return float(percentile_distance(a, b, percentile=0.95))


def check_installed() -> None:
    """Find out before a long evaluation whether surface distances can be computed.

    Raises
    ------
    BackendMissing
        When grand-challenge-metrics is not installed.
    """
    _percentile_hausdorff_distance()


def _percentile_hausdorff_distance() -> Callable[..., Any]:
    try:
        from grand_challenge_metrics.stats import percentile_hausdorff_distance
    except ImportError as error:
        raise BackendMissing(
            f"surface distances need grand-challenge-metrics ({error.name} is not installed): "
            "pip install 'edgeseg[evaluate]'"
        ) from error
    function: Callable[..., Any] = percentile_hausdorff_distance
    return function
