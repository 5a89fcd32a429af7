"""Which convolutions are kept: measured on masks, as few as the agreement needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeseg import quantize
from edgeseg.errors import EngineError
from edgeseg.export import quantised
from edgeseg.quantize import Rung, Wanted
from edgeseg.types import FloatArray

LAYERS = [f"conv{k}" for k in range(20)]


def _measure(needed: int, log: list[int]) -> Any:
    def measure(kept: tuple[str, ...]) -> Rung:
        assert list(kept) == LAYERS[: len(kept)], "the most harmful ones are kept first"
        log.append(len(kept))
        good = len(kept) >= needed
        return Rung(kept, 0.99 if good else 0.9, 0.97 if good else 0.8 + len(kept) / 1000, 0.5, 5.0)

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


def test_agreement_leaves_out_slices_of_few_pixels() -> None:
    found = quantize._agreements(_logits(10, 5, 0, 20), _logits(10, 4, 0, 10))
    assert found.tolist() == [1.0, 0.5], "50 px in both masks of the second slice do not count"


def test_convolutions_are_ordered_by_their_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    harm = {"a": 9, "b": 2, "c": 6}
    monkeypatch.setattr(quantised, "convolutions", lambda _: tuple(harm))
    monkeypatch.setattr(quantised, "quantise", lambda _, __, kept: next(iter(set(harm) - set(kept))).encode())
    monkeypatch.setattr(quantised, "spell", lambda file, _: file)
    said: list[str] = []
    found = quantize.order(b"", {}, lambda file: _logits(20 - harm[file.decode()]), _logits(20), said.append)
    assert found == ["a", "c", "b"]
    assert said == ["measured 3 of 3 convolutions, each quantised alone"]


def test_a_network_that_marks_nothing_cannot_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "quantise", lambda *_: b"")
    monkeypatch.setattr(quantised, "spell", lambda *_: b"")
    with pytest.raises(EngineError, match="marks nothing"):
        quantize.rung(b"", {}, (), lambda _: _logits(0), _logits(0))
