"""Which convolutions are kept: measured on masks, as few as the agreement needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeseg import quantize
from edgeseg.errors import EngineError
from edgeseg.export import quantised
from edgeseg.quantize import Rung, Trial, Wanted
from edgeseg.types import FloatArray

LAYERS = [f"conv{k}" for k in range(20)]


def _measure(needed: int, log: list[int]) -> Any:
    def measure(kept: tuple[str, ...]) -> Rung:
        assert list(kept) == LAYERS[: len(kept)], "the most harmful ones are kept first"
        log.append(len(kept))
        good = len(kept) >= needed
        return Rung(kept, 0.99 if good else 0.9, 0.97 if good else 0.8 + len(kept) / 1000, 0.5, 5.0, 9.0)

    return measure


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 8, 10])
def test_the_fewest_that_meet_the_agreement_are_kept(needed: int) -> None:
    log: list[int] = []
    rungs = quantize.fewest_kept(_measure(needed, log), LAYERS, Wanted(0.985, 0.95))
    assert len(rungs[-1].kept) == needed
    assert len(log) <= 8
    assert sorted(len(rung.kept) for rung in rungs) == sorted(log), "each that was measured is reported"


def test_when_none_meets_it_the_best_is_last() -> None:
    rungs = quantize.fewest_kept(_measure(99, []), LAYERS, Wanted(0.985, 0.95))
    assert len(rungs[-1].kept) == len(LAYERS) // 2


def _logits(*sizes: int) -> FloatArray:
    logits = np.full((len(sizes), 1, 64, 64), -4, np.float32)
    for k, size in enumerate(sizes):
        logits[k, 0, :size, :10] = 4
    return logits


def _trial(logits: Any, expected: FloatArray) -> Trial:
    return Trial(b"", {}, np.zeros((len(expected), 3, 64, 64), np.uint8), expected, logits)


def test_a_trial_is_made_of_the_slices_that_the_network_marks() -> None:
    slices = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    found = quantize.trial(b"", {}, slices, lambda *_: (_logits(10, 5, 0, 20), 1.0))
    assert found.slices.ravel().tolist() == [0, 3], "50 px in the second slice do not count"
    assert found.expected.shape == (2, 1, 64, 64)


def test_a_network_that_marks_nothing_cannot_be_judged() -> None:
    with pytest.raises(EngineError, match="marks nothing"):
        quantize.trial(b"", {}, np.zeros((2, 3, 8, 8), np.uint8), lambda *_: (_logits(0, 5), 1.0))


def test_a_rung_measures_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "unsigned", lambda *_: b"x" * 2_000_000)
    found = _trial(lambda *_: (_logits(10, 10, 10), 7.0), _logits(10, 20, 10)).rung(("a",))
    assert found.mean == pytest.approx(2.5 / 3)
    assert (found.worst, found.megabytes, found.ms) == (0.5, 2.0, 7.0)
    assert found.fifth_percentile == pytest.approx(0.55)


@pytest.mark.parametrize("slices", [1, 30])
def test_convolutions_are_ordered_by_their_harm_near_the_edge(monkeypatch: pytest.MonkeyPatch, slices: int) -> None:
    harm = {"a": 0.9, "b": 0.2, "c": 0.6}
    monkeypatch.setattr(quantised, "convolutions", lambda _: tuple(harm))
    monkeypatch.setattr(quantize, "unsigned", lambda _, __, kept: next(iter(set(harm) - set(kept))).encode())
    expected = np.full((slices, 1, 8, 8), -9, np.float32)
    expected[:, 0, 2:4] = 1

    def run(file: bytes, given: Any) -> tuple[FloatArray, float]:
        assert len(given) <= 24
        logits: FloatArray = expected[: len(given)].copy()
        logits[:, 0, 2:4] -= harm[file.decode()]
        logits[:, 0, 5:] += {"b": 5}.get(file.decode(), 0)  # far below zero: no mask turns on it
        return logits, 1.0

    said: list[str] = []
    assert _trial(run, expected).order(said.append) == ["a", "c", "b"]
    assert said == ["measured 3 of 3 convolutions, each quantised alone"]
