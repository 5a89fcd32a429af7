"""The INT8 ladder: which convolutions are quantised, judged by the masks on calibration slices alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edgeseg import metrics
from edgeseg.errors import EngineError
from edgeseg.export import precision, quantised
from edgeseg.export.quantised import Ranges
from edgeseg.types import ByteArray, FloatArray

Run = Callable[[bytes, ByteArray], tuple[FloatArray, float]]
"""Logits float32 (slice, 1, H, W) of a network file on slices uint8 (slice, 3, H, W), and milliseconds a slice."""

_LEAST_PX = 50
_FOR_ORDER = 24
_NEAR = 3.0


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
    ms
        Time a slice on the machine that builds, in milliseconds: to be held against the other rungs' alone.
    finetuned
        Whether the weights were fine-tuned first.
    """

    kept: tuple[str, ...]
    mean: float
    fifth_percentile: float
    worst: float
    megabytes: float
    ms: float
    finetuned: bool = False


@dataclass(frozen=True)
class Trial:
    """A network and the calibration slices that its quantised forms are measured on.

    Parameters
    ----------
    content
        The network file in FP32.
    ranges
        Of its convolutions' inputs.
    slices
        uint8 (slice, 3, H, W), each with more than 50 px in the network's mask.
    expected
        float32 (slice, 1, H, W): the network's logits in FP32.
    run
        What runs a network file.
    """

    content: bytes
    ranges: Ranges
    slices: ByteArray
    expected: FloatArray
    run: Run

    def rung(self, kept: tuple[str, ...]) -> Rung:
        """Quantise all but ``kept`` and measure the masks."""
        logits, ms, size = self._quantised(kept)
        ours, theirs = logits[:, 0] >= 0, self.expected[:, 0] >= 0
        ious = [metrics.iou(one, other) for one, other in zip(ours, theirs, strict=True)]
        return Rung(kept, float(np.mean(ious)), float(np.percentile(ious, 5)), min(ious), size / 1e6, ms)

    def order(self, say: Callable[[str], None]) -> list[str]:
        """Convolutions by the harm that quantising each alone does, worst first.

        Harm is the mean square of the change of the logits where they are near the mask's edge (within 3 of 0), on at
        most 24 slices. Errors of several layers add up in this measure; in the masks' overlap they hide each other.
        """
        some = np.linspace(0, len(self.slices) - 1, min(_FOR_ORDER, len(self.slices))).astype(int)
        few = replace(self, slices=self.slices[some], expected=self.expected[some])
        near = np.abs(few.expected) < _NEAR
        names = quantised.convolutions(self.content)
        harm: dict[str, float] = {}
        for number, name in enumerate(names, 1):
            logits, *_ = few._quantised(tuple(other for other in names if other != name))
            harm[name] = float(np.mean((logits - few.expected)[near] ** 2))
            if number % 20 == 0 or number == len(names):
                say(f"measured {number} of {len(names)} convolutions, each quantised alone")
        return sorted(names, key=lambda name: harm[name], reverse=True)

    def _quantised(self, kept: tuple[str, ...]) -> tuple[FloatArray, float, int]:
        file = unsigned(self.content, self.ranges, kept)
        return *self.run(file, self.slices), len(file)


def unsigned(content: bytes, ranges: Ranges, kept: tuple[str, ...]) -> bytes:
    """The INT8 network file for OpenVINO and ONNX Runtime: weights that are not quantised are stored in FP16."""
    signed = quantised.quantise(content, ranges, kept)
    return precision.to_fp16_initialisers(quantised.spell(signed, "unsigned"), least_axes=4)


def trial(content: bytes, ranges: Ranges, slices: ByteArray, run: Run) -> Trial:
    """What is measured on: the slices in which the network marks more than 50 px.

    Parameters
    ----------
    content
        The network file in FP32.
    ranges
        Of its convolutions' inputs.
    slices
        uint8 (slice, 3, H, W): calibration slices.
    run
        What runs a network file.

    Raises
    ------
    EngineError
        When there is none.
    """
    expected, _ = run(content, slices)
    telling = (expected >= 0).sum(axis=(1, 2, 3)) > _LEAST_PX
    if not telling.any():
        raise EngineError("the network marks nothing in the calibration slices: give slices with an abnormality")
    return Trial(content, ranges, slices[telling], expected[telling], run)


def fewest_kept(measure: Callable[[tuple[str, ...]], Rung], by_harm: list[str], wanted: Wanted) -> list[Rung]:
    """Keep few of the most harmful convolutions: doubled until agreement is met, then halved back.

    Agreement does not grow with every convolution that is kept, so that fewer may do than the search comes by.

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
