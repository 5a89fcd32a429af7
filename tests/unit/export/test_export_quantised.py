"""INT8 network files: what is quantised and what is not, and that both spellings are one network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import model
from edgeseg.errors import EngineError, InputError
from edgeseg.export import calibration, graph, precision, quantised
from edgeseg.types import ByteArray, FloatArray

SLICES: ByteArray = np.random.default_rng(3).integers(0, 256, (3, 3, 256, 256), dtype=np.uint8)


@pytest.fixture(scope="module")
def folded(tiny_weights: Path) -> bytes:
    """The small network's FP32 file with its batch normalisations folded."""
    network, facts = model.load(tiny_weights)
    return graph.to_onnx(model.runnable(network, facts), 256, folded=True)


@pytest.fixture(scope="module")
def ranges(folded: bytes) -> quantised.Ranges:
    """Ranges of the small network on random slices."""
    return calibration.ranges(folded, SLICES)


@pytest.fixture(scope="module")
def signed(folded: bytes, ranges: quantised.Ranges) -> bytes:
    """All but the first convolution quantised."""
    return quantised.quantise(folded, ranges, quantised.convolutions(folded)[:1])


def _parsed(content: bytes) -> Any:
    import onnx

    return onnx.load_from_string(content)


def _initialisers(content: bytes) -> dict[str, Any]:
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in _parsed(content).graph.initializer}


def _run(content: bytes, optimised: bool) -> FloatArray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {graph.INPUT: SLICES})[0], dtype=np.float32)


def test_a_folded_file_has_no_batch_normalisation_and_the_same_logits(folded: bytes, tiny_weights: Path) -> None:
    import torch

    assert not [n for n in _parsed(folded).graph.node if n.op_type == "BatchNormalization"]
    network, facts = model.load(tiny_weights)
    with torch.inference_mode():
        expected = model.runnable(network, facts)(torch.from_numpy(SLICES)).numpy()
    assert np.abs(_run(folded, True) - expected).max() < 1e-3


def test_the_quantised_convolutions_alone_are_given_rounded_values(signed: bytes, folded: bytes) -> None:
    network = _parsed(signed).graph
    made = {name: node for node in network.node for name in node.output}
    rounded = [
        node
        for node in network.node
        for name in node.input
        if name in made and made[name].op_type == "DequantizeLinear" and made[name].input[0] in made
    ]
    assert [node.name for node in rounded] == [node.name for node in rounded if node.op_type == "Conv"]
    assert {node.name for node in rounded} == set(quantised.convolutions(folded)[1:])
    assert [n for n in network.node if n.op_type == "Add"], "this network has additions, which stay exact"


def test_weights_are_signed_by_channel_in_seven_bits_and_biases_stay_in_float(signed: bytes) -> None:
    network, values = _parsed(signed).graph, _initialisers(signed)
    made = {name: node for node in network.node for name in node.output}
    convolutions = [node for node in network.node if node.op_type == "Conv"]
    assert len(convolutions) > 3
    for number, convolution in enumerate(convolutions):
        data, weights, *bias = convolution.input
        if number == 0:
            assert values[weights].dtype == np.float32, "the first one was to be kept"
            continue
        assert made[data].op_type == "DequantizeLinear"
        node = made[weights]
        assert node.op_type == "DequantizeLinear"
        weight, scale, point = (values[name] for name in node.input)
        assert weight.dtype == np.int8
        assert np.abs(weight.astype(int)).max() <= 64
        assert scale.shape == (weight.shape[0],)
        assert not point.any()
        assert all(values[name].dtype == np.float32 for name in bias)


def test_both_spellings_quantise_every_value_alike(signed: bytes) -> None:
    unsigned = quantised.spell(signed, "unsigned")
    one, other = _initialisers(signed), _initialisers(unsigned)
    points = {n.input[2] for n in _parsed(signed).graph.node if n.op_type == "QuantizeLinear"}
    assert points
    for name, value in one.items():
        if name in points:
            assert (value.dtype, int(value)) == (np.int8, 0)
            assert (other[name].dtype, int(other[name])) == (np.uint8, 128)
        else:
            assert np.array_equal(value, other[name])
    assert np.array_equal(_run(signed, False), _run(unsigned, False))
    assert _initialisers(quantised.spell(unsigned, "signed")).keys() == one.keys()
    assert all(np.array_equal(v, one[k]) for k, v in _initialisers(quantised.spell(unsigned, "signed")).items())


def test_runtimes_that_compute_in_int8_agree_with_the_plain_arithmetic(signed: bytes) -> None:
    import openvino

    plain = _run(signed, False)
    unsigned = quantised.spell(signed, "unsigned")
    spread = float(plain.std())
    assert np.abs(_run(unsigned, True) - plain).mean() < 0.05 * spread
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(unsigned), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.abs(np.asarray(compiled([SLICES])[0]) - plain).mean() < 0.05 * spread


def test_other_zero_points_are_refused(signed: bytes) -> None:
    from onnx import numpy_helper

    network = _parsed(signed)
    point = next(n.input[2] for n in network.graph.node if n.op_type == "QuantizeLinear")
    tensor = next(t for t in network.graph.initializer if t.name == point)
    tensor.CopyFrom(numpy_helper.from_array(np.array(7, np.int8), point))
    with pytest.raises(EngineError, match="int8 7: expected int8 0 or uint8 128"):
        quantised.spell(network.SerializeToString(), "unsigned")


def test_what_is_kept_must_be_there_and_something_must_be_left(folded: bytes, ranges: quantised.Ranges) -> None:
    with pytest.raises(EngineError, match="no convolution nowhere"):
        quantised.quantise(folded, ranges, ["nowhere"])
    with pytest.raises(EngineError, match="no INT8 network"):
        quantised.quantise(folded, ranges, quantised.convolutions(folded))


def test_what_is_not_quantised_is_stored_in_fp16_and_scales_are_not(signed: bytes) -> None:
    rounded = precision.to_fp16_initialisers(signed, least_axes=4)
    values = _initialisers(rounded)
    halves = [value for value in values.values() if value.dtype == np.float16]
    floats = [value for value in _initialisers(signed).values() if value.dtype == np.float32 and value.ndim == 4]
    assert len(halves) == len(floats) > 0
    assert all(value.ndim == 4 for value in halves)
    assert len(rounded) < len(signed)


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_other_methods_give_narrower_ranges(method: str, folded: bytes, ranges: quantised.Ranges) -> None:
    found = calibration.ranges(folded, SLICES[:2], method)
    assert found.keys() == ranges.keys()
    assert all(high > 0 for _, high in found.values())


def test_a_network_that_cannot_be_watched(folded: bytes) -> None:
    with pytest.raises(EngineError, match="could not be watched on the calibration slices"):
        calibration.ranges(folded, SLICES[:, :, :40, :40])


def test_an_unknown_method_and_no_slices_are_refused(folded: bytes) -> None:
    with pytest.raises(InputError, match="min-max, entropy, percentile"):
        calibration.ranges(folded, SLICES, "median")
    with pytest.raises(InputError, match="no slices"):
        calibration.ranges(folded, SLICES[:0])


def test_a_second_run_takes_ranges_from_the_cache_and_says_so(
    folded: bytes, ranges: quantised.Ranges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path))
    said: list[str] = []
    first = calibration.cached(folded, SLICES, "min-max", said.append)
    again = calibration.cached(folded, SLICES, "min-max", said.append)
    assert first == again == ranges
    assert "watching" in said[0]
    assert "taken from the cache" in said[1]
    calibration.cached(folded, SLICES[:2], "min-max", said.append)
    assert "watching" in said[2], "other slices have other ranges"
    kept = next(tmp_path.rglob("*.json"))
    kept.write_text("{")
    calibration.cached(folded, SLICES[:2], "min-max", said.append)
    calibration.cached(folded, SLICES, "min-max", said.append)
    assert sum("watching" in line for line in said) == 3, "the damaged one alone is measured again"


def test_a_file_takes_other_weights_by_the_modules_names(folded: bytes) -> None:
    before = quantised.weights(folded)
    assert set(quantised.convolutions(folded)) < set(before), "this network has transposed convolutions besides"
    name, one = next(iter(before.items()))
    after = quantised.weights(quantised.with_weights(folded, {one.module: (one.weight * 2, one.bias + 1)}))
    np.testing.assert_array_equal(after[name].weight, one.weight * 2)
    np.testing.assert_array_equal(after[name].bias, one.bias + 1)
    for other in list(before)[1:]:
        np.testing.assert_array_equal(after[other].weight, before[other].weight)


def test_a_convolution_without_a_bias_gets_one() -> None:
    from onnx import TensorProto, helper, numpy_helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4, 4]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "network.one.weight")
    node = helper.make_node("Conv", ["x", "network.one.weight"], ["y"], name="first")
    graph_of_one = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    content = helper.make_model(graph_of_one).SerializeToString()
    before = quantised.weights(content)["first"]
    assert (before.module, before.input, before.bias.tolist()) == ("network.one", "x", [0.0])
    learned = {"network.one": (before.weight, np.ones(1, np.float32))}
    after = quantised.weights(quantised.with_weights(content, learned))["first"]
    assert after.bias.tolist() == [1.0]
    del graph_of_one.initializer[:]
    with pytest.raises(EngineError, match="weight of first is not stored"):
        quantised.weights(helper.make_model(graph_of_one).SerializeToString())
