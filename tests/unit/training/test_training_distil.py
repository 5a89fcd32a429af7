"""Fine-tuning for INT8: the rounding is the network file's own, and the logits come nearer to those in FP32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeseg import model
from edgeseg.errors import EngineError
from edgeseg.export import calibration, graph, quantised
from edgeseg.readers import slices
from edgeseg.training import distil
from edgeseg.training.distil import Layer
from edgeseg.types import ByteArray, FloatArray, Preprocessing

if TYPE_CHECKING:
    from torch import nn


@pytest.fixture(scope="module")
def some() -> ByteArray:
    """Six of the calibration slices, 64 px of each: real values, quickly run."""
    found = slices.read("calibration", Preprocessing()).slices[::20]
    return np.ascontiguousarray(found[:6, :, 96:160, 96:160])


@pytest.fixture(scope="module")
def network(tiny_weights: Path) -> nn.Module:
    """The small network, as it is exported."""
    trained, facts = model.load(tiny_weights)
    return model.runnable(trained, facts)


@pytest.fixture(scope="module")
def folded(network: nn.Module) -> bytes:
    """Its file in FP32."""
    return graph.to_onnx(network, 64, folded=True)


@pytest.fixture(scope="module")
def layers(folded: bytes, some: ByteArray) -> dict[str, Layer]:
    """All its convolutions, to be quantised but for the first."""
    ranges = calibration.ranges(folded, some)
    found = {
        one.module: Layer(one.weight, one.bias, max(map(abs, ranges[one.input])) if one.input in ranges else None)
        for one in quantised.weights(folded).values()
    }
    first = next(iter(found))
    return {**found, first: replace(found[first], input_peak=None)}


def _run(content: bytes, given: ByteArray) -> FloatArray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {graph.INPUT: given})[0], dtype=np.float32)


def _logits(network: nn.Module, given: ByteArray) -> FloatArray:
    import torch

    with torch.inference_mode():
        return np.asarray(network(torch.from_numpy(given)).numpy(), dtype=np.float32)


def _file(folded: bytes, some: ByteArray, learned: Any = None) -> bytes:
    first = quantised.convolutions(folded)[:1]
    given = quantised.with_weights(folded, learned) if learned else folded
    return quantised.quantise(given, calibration.ranges(folded, some), first)


def test_the_rounding_is_the_network_files(
    network: nn.Module, folded: bytes, layers: dict[str, Layer], some: ByteArray
) -> None:
    student = distil.folded(network, layers)
    exact = _logits(student, some)
    np.testing.assert_allclose(exact, _logits(network, some), atol=1e-3)
    distil.round_in_forward(student, layers)
    ours, files = _logits(student, some), _run(_file(folded, some), some)
    assert np.median(np.abs(ours - files)) < 1e-5
    assert np.abs(ours - files).mean() < 0.25 * np.abs(files - exact).mean(), "the sums' order turns a few roundings"


def test_the_quantised_networks_logits_come_nearer(
    network: nn.Module, folded: bytes, layers: dict[str, Layer], some: ByteArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distil, "LEARNING_RATE", 1e-4)  # eight steps in all
    said: list[str] = []
    expected = _logits(network, some)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    learned = distil.distil(network, layers, some, 8, said.append)
    quantised_ones = {name for name, layer in layers.items() if layer.input_peak}
    assert set(learned) == quantised_ones < set(layers), "the first and the transposed ones do not learn"
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert said[0].startswith("fine-tuning, pass 1 of 8: ")
    assert len(said) == 8
    near = np.abs(expected) < 4
    errors = [np.abs(_run(_file(folded, some, one), some) - expected)[near].mean() for one in (None, learned)]
    assert errors[1] < 0.9 * errors[0]


def test_the_same_seed_gives_the_same_weights(network: nn.Module, layers: dict[str, Layer], some: ByteArray) -> None:
    runs = [distil.distil(network, layers, some[:2], 1, lambda _: None, seed=seed) for seed in (1, 1)]
    for one, other in zip(*(run.values() for run in runs), strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_layers_of_another_network_are_refused(network: nn.Module, layers: dict[str, Layer], some: ByteArray) -> None:
    with pytest.raises(EngineError, match=r"no convolution network\.elsewhere"):
        distil.folded(network, {"network.elsewhere": next(iter(layers.values()))})
    name, layer = next(iter(layers.items()))
    scaled = {**layers, name: replace(layer, bias=layer.bias + 1)}
    with pytest.raises(EngineError, match="leave out --finetune"):
        distil.distil(network, scaled, some, 1, lambda _: None)
