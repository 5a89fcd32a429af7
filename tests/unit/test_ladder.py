"""The INT8 ladder: each rung is taken only when the gate fails, and the last one is what is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import ladder, quantize
from edgeseg.bundle import read_manifest
from edgeseg.export import calibration
from edgeseg.ladder import Built, Recipe
from edgeseg.quantize import Rung
from edgeseg.readers import slices
from edgeseg.types import ByteArray, Manifest

FEW = slices.Slices(("a_1", "b_1"), ("a", "b"), np.zeros((2, 3, 8, 8), np.uint8), None)
LAYERS = [f"conv{k}" for k in range(40)]


class _Trial:
    """More layers kept, more agreement: 0.950 with none, 0.002 more with each; one of two slices is marked."""

    slices: ByteArray = np.zeros((1, 3, 8, 8), np.uint8)

    def __init__(self, content: bytes = b"fp32") -> None:
        self.content, self.ranges, self.order_asked = content, {"x": (0.0, 1.0)}, 0

    def rung(self, kept: tuple[str, ...]) -> Rung:
        return Rung(kept, 0.950 + 0.002 * len(kept), 0.91 + 0.003 * len(kept), 0.5, 5.0, 4.0)

    def order(self, _: Any) -> list[str]:
        self.order_asked += 1
        return LAYERS


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> _Trial:
    """The ladder with this trial, and files that say what they were made of."""
    made = _Trial()
    monkeypatch.setattr(calibration, "cached", lambda *_: {"x": (0.0, 1.0)})
    monkeypatch.setattr(quantize, "trial", lambda *_: made)
    monkeypatch.setattr(quantize, "unsigned", lambda content, _, kept: content + b" %d" % len(kept))
    monkeypatch.setattr(
        ladder, "replace", lambda one, **new: _Trial(new["content"]) if one is made else replace(one, **new)
    )
    return made


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    """Of the small network's bundle, with its verdict."""
    return read_manifest(tiny_bundle)


def _climb(manifest: Manifest, passing: set[bytes], recipe: Recipe) -> tuple[Built, list[bytes], list[str]]:
    """Climb with a gate that passes these files alone."""
    judged: list[bytes] = []
    said: list[str] = []
    assert manifest.parity is not None
    verdict = manifest.parity

    def judge(given: Manifest, content: bytes) -> Built:
        judged.append(content)
        good = content in passing
        failures = () if good else ("mean agreement is too low",)
        return Built(replace(given, parity=replace(verdict, passed=good, failures=failures)), content, {})

    def distil(content: bytes, _: Any, kept: tuple[str, ...], given: ByteArray) -> bytes:
        assert (content, set(kept) < set(LAYERS), len(given)) == (b"fp32", True, 1)
        return b"tuned"

    return ladder.climb(manifest, b"fp32", recipe, "unsigned", FEW, judge, distil, said.append), judged, said


def test_a_network_that_passes_at_once_is_not_measured_further(trial: _Trial, manifest: Manifest) -> None:
    built, judged, _ = _climb(manifest, {b"fp32 0"}, Recipe(finetune=True))
    assert judged == [b"fp32 0"]
    assert trial.order_asked == 0
    assert built.manifest.calibration is not None
    assert (built.manifest.calibration["kept"], built.manifest.calibration["finetuned"]) == ([], False)


@pytest.mark.usefixtures("trial")
def test_the_fewest_layers_are_kept_and_more_when_the_gate_still_fails(manifest: Manifest) -> None:
    # 0.988 needs 19 layers kept, 0.991 (0.9910 to the last digit) and the fifth percentile's 0.97 20 or 21
    _, first, _ = _climb(manifest, {b"fp32 19"}, Recipe())
    assert first == [b"fp32 0", b"fp32 19"]
    built, judged, said = _climb(manifest, {b"fp32 %d" % count for count in range(20, 41)}, Recipe())
    assert judged[:2] == [b"fp32 0", b"fp32 19"]
    assert len(judged) == 3
    facts = built.manifest.calibration
    assert facts is not None
    assert judged[2] == b"fp32 %d" % len(facts["kept"])
    assert facts["rungs"][-1]["kept"] == len(facts["kept"])
    counts = [one["kept"] for one in facts["rungs"]]
    assert len(counts) == len(set(counts)), "a rung that was measured once is reported once"
    assert sum("with 19 convolutions kept, parity fails: mean agreement is too low" in line for line in said) == 1


@pytest.mark.usefixtures("trial")
def test_fine_tuning_is_the_last_rung_and_only_on_request(manifest: Manifest) -> None:
    built, judged, _ = _climb(manifest, set(), Recipe())
    assert not any(content.startswith(b"tuned") for content in judged)
    assert built.manifest.parity is not None
    assert not built.manifest.parity.passed
    built, judged, said = _climb(manifest, {b"tuned 20"}, Recipe(finetune=True))
    assert [content.startswith(b"tuned") for content in judged] == [False] * (len(judged) - 1) + [True]
    assert built.content == judged[-1]
    assert built.manifest.calibration is not None
    assert built.manifest.calibration["finetuned"]
    assert "weights fine-tuned" in said[-1]


@pytest.mark.usefixtures("trial")
def test_a_choice_that_comes_again_is_not_judged_again(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Trial, "order", lambda *_: LAYERS[:8])  # at most four of them are kept: no margin is reached
    _, judged, _ = _climb(manifest, set(), Recipe())
    assert judged == [b"fp32 0", b"fp32 4"]
