"""The INT8 ladder: which convolutions are quantised, judged by the masks on calibration slices alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeseg import metrics
from edgeseg.errors import EngineError
from edgeseg.export import quantised
from edgeseg.export.quantised import Ranges
from edgeseg.types import FloatArray

Run = Callable[[bytes], FloatArray]
"""Logits float32 (slice, 1, H, W) of a network file on the slices that choose the layers."""

_LEAST_PX = 50


@dataclass(frozen=True)
class Wanted:
    """Agreement (IoU) with the FP32 network on calibration slices: at least this on the mean and 5th percentile."""

    mean: float
    fifth_percentile: float


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    Parameters
    ----------
    kept
        Convolutions that were not quantised.
    mean, fifth_percentile, worst
        Agreement with the FP32 network on calibration slices with more than 50 px in either mask.
    megabytes
        Size of the network file.
    """

    kept: tuple[str, ...]
    mean: float
    fifth_percentile: float
    worst: float
    megabytes: float


def rung(content: bytes, ranges: Ranges, kept: tuple[str, ...], run: Run, expected: FloatArray) -> Rung:
    """Quantise all but ``kept`` and measure it against the logits ``expected`` of the FP32 network."""
    file = quantised.spell(quantised.quantise(content, ranges, kept), "unsigned")
    ious = _agreements(run(file), expected)
    if not len(ious):
        raise EngineError("the network marks nothing in the calibration slices: give slices with an abnormality")
    worst = float(ious.min())
    return Rung(kept, float(ious.mean()), float(np.percentile(ious, 5)), worst, len(file) / 1e6)


def order(content: bytes, ranges: Ranges, run: Run, expected: FloatArray, say: Callable[[str], None]) -> list[str]:
    """Convolutions by the harm that quantising each alone does to the masks, worst first."""
    names = quantised.convolutions(content)
    harm: dict[str, tuple[float, float]] = {}
    for number, name in enumerate(names):
        alone = tuple(other for other in names if other != name)
        logits = run(quantised.spell(quantised.quantise(content, ranges, alone), "unsigned"))
        ious = _agreements(logits, expected)
        harm[name] = float(1 - ious.mean()), float(np.abs(logits - expected).mean())
        if number % 20 == 19 or number + 1 == len(names):
            say(f"measured {number + 1} of {len(names)} convolutions, each quantised alone")
    return sorted(names, key=lambda name: harm[name], reverse=True)


def fewest_kept(measure: Callable[[tuple[str, ...]], Rung], by_harm: list[str], wanted: Wanted) -> list[Rung]:
    """Keep as few of the most harmful convolutions as agreement needs: doubled until it is met, then halved back.

    Returns
    -------
    list of Rung
        As measured; the last one meets ``wanted``, or is the best there was when none does.
    """
    tried: dict[int, Rung] = {}

    def meets(count: int) -> bool:
        tried[count] = measure(tuple(by_harm[:count]))
        return tried[count].mean >= wanted.mean and tried[count].fifth_percentile >= wanted.fifth_percentile

    most, low, high = len(by_harm) // 2, 0, 1
    while not meets(high):
        if high >= most:
            best = max(tried.values(), key=lambda one: (one.fifth_percentile, one.mean))
            return [*(one for one in tried.values() if one is not best), best]
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return [*(one for count, one in tried.items() if count != high), tried[high]]


def _agreements(logits: FloatArray, expected: FloatArray) -> FloatArray:
    """IoU of the masks at probability 0.5, of the slices where either has more than 50 px."""
    ours, theirs = logits[:, 0] >= 0, expected[:, 0] >= 0
    pixels = np.maximum(ours.sum(axis=(1, 2)), theirs.sum(axis=(1, 2)))
    return np.array([metrics.iou(ours[k], theirs[k]) for k in np.flatnonzero(pixels > _LEAST_PX)], dtype=np.float32)
