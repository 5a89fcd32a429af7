from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import backends, bundle
from edgeseg.errors import EngineError
from edgeseg.export import precision


def _initialisers(content: bytes) -> list[Any]:
    import onnx

    return list(onnx.load_from_string(content).graph.initializer)


def _network(weight: list[float]) -> bytes:
    """A network of one product: y = x * weight."""
    import onnx
    from onnx import helper, numpy_helper

    values = numpy_helper.from_array(np.array(weight, np.float32), "weight")
    shape = ["batch", len(weight)]
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    returned = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)
    inside = helper.make_graph([helper.make_node("Mul", ["x", "weight"], ["y"])], "one", [given], [returned], [values])
    network = helper.make_model(inside, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(network.SerializeToString())


def _run(content: bytes, x: list[float], dtype: type[np.generic] = np.float32) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array([x], dtype)})[0]


def test_every_weight_is_stored_in_half(tiny_bundle: Path) -> None:
    import onnx

    single = bundle.read(tiny_bundle)[1]
    half = precision.to_fp16_initialisers(single)
    floats = [i for i in _initialisers(half) if i.data_type == onnx.TensorProto.FLOAT]
    assert all(int(np.prod(i.dims)) < 2 for i in floats)
    halves = [i for i in _initialisers(half) if i.data_type == onnx.TensorProto.FLOAT16]
    large = [i for i in _initialisers(single) if i.data_type == onnx.TensorProto.FLOAT and int(np.prod(i.dims)) >= 2]
    assert len(halves) == len(large) > 20
    assert 0.45 < len(half) / len(single) < 0.6


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_the_logits_are_those_of_the_single_precision_file(backend: str, tiny_bundle: Path) -> None:
    """The weights are FP16 values already, so nothing is lost by storing them as such."""
    manifest, single = bundle.read(tiny_bundle)
    slices = np.random.default_rng(1).integers(0, 256, (2, 3, 256, 256)).astype(np.uint8)
    logits = []
    for content in (single, precision.to_fp16_initialisers(single)):
        with backends.open_engine(manifest, content, backend) as engine:
            logits.append(engine.predict_logits(slices))
    assert logits[0].std() > 0.01
    assert np.abs(logits[0] - logits[1]).max() < 1e-5


def test_arithmetic_stays_single() -> None:
    x = 1 + 2.0**-20  # not an FP16 value
    half = precision.to_fp16_initialisers(_network([0.5, 2.0]))
    assert np.array_equal(_run(half, [x, x]), np.array([[x / 2, 2 * x]], np.float32))


def test_weights_are_rounded_to_the_nearest() -> None:
    half = precision.to_fp16_initialisers(_network([0.1, 1 / 3]))
    assert np.array_equal(_run(half, [1, 1])[0], np.array([0.1, 1 / 3], np.float16).astype(np.float32))


def test_a_weight_beyond_half_precision_is_refused() -> None:
    with pytest.raises(EngineError, match="the weight weight is beyond the range of FP16"):
        precision.to_fp16_initialisers(_network([1.0, 70000.0]))


def test_the_largest_half_is_kept() -> None:
    half = precision.to_fp16_initialisers(_network([1.0, 65504.0]))
    assert _run(half, [1, 1])[0].tolist() == [1.0, 65504.0]


# --- FP16 arithmetic


def _kinds_of_tensors(content: bytes) -> set[int]:
    import onnx

    network = onnx.shape_inference.infer_shapes(onnx.load_from_string(content), strict_mode=True)
    return {value.type.tensor_type.elem_type for value in network.graph.value_info}


def test_every_tensor_inside_is_half_and_the_interface_stays(tiny_bundle: Path) -> None:
    import onnx

    half = precision.to_fp16(bundle.read(tiny_bundle)[1])
    network = onnx.load_from_string(half)
    kinds = [value.type.tensor_type.elem_type for value in (*network.graph.input, *network.graph.output)]
    assert kinds == [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT]
    assert onnx.TensorProto.FLOAT16 in _kinds_of_tensors(half)
    assert onnx.TensorProto.FLOAT not in _kinds_of_tensors(half)
    assert network.graph.node[-1].op_type == "Cast"


def test_half_arithmetic_is_near_single(tiny_bundle: Path) -> None:
    manifest, single = bundle.read(tiny_bundle)
    slices = np.random.default_rng(3).integers(0, 256, (2, 3, 256, 256)).astype(np.uint8)
    logits = []
    for content in (single, precision.to_fp16(single)):
        with backends.open_engine(manifest, content, "onnxruntime") as engine:
            logits.append(engine.predict_logits(slices))
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.02 * logits[0].std() + 0.02


def _quantised() -> bytes:
    """Y = dequantise(quantise(x)) * weight, at opset 18, with a constant spelled as an attribute."""
    import onnx
    from onnx import helper, numpy_helper

    values = {"scale": np.float32(0.25), "zero": np.int8(0), "weight": np.array([0.5, 2], np.float32)}
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=onnx.TensorProto.FLOAT),
        helper.make_node("QuantizeLinear", ["c", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Mul", ["d", "weight"], ["m"]),
        helper.make_node("Add", ["m", "one"], ["y"]),
    ]
    kinds = {"x": onnx.TensorProto.UINT8, "y": onnx.TensorProto.FLOAT}
    ends = [helper.make_tensor_value_info(name, kind, ["batch", 2]) for name, kind in kinds.items()]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "one", ends[:1], ends[1:], stored)
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(network.SerializeToString())


def test_a_quantised_file_keeps_its_integers_and_gets_half_scales() -> None:
    import onnx

    half = precision.to_fp16(_quantised())
    network = onnx.load_from_string(half)
    assert network.opset_import[0].version == 19
    kinds = {i.name: i.data_type for i in network.graph.initializer}
    assert kinds["zero"] == onnx.TensorProto.INT8
    assert kinds["scale"] == kinds["weight"] == onnx.TensorProto.FLOAT16
    assert onnx.TensorProto.FLOAT not in _kinds_of_tensors(half)
    assert _run(half, [3, 40], np.uint8).tolist() == [[2.5, 64.5]]


def test_a_weight_beyond_half_precision_is_not_cut_off() -> None:
    with pytest.raises(EngineError, match="the weight weight is beyond the range of FP16"):
        precision.to_fp16(_network([1.0, -70000.0]))


def test_half_a_network_is_refused() -> None:
    whole = _network([1.0] * 9)
    with pytest.raises(EngineError, match="no whole ONNX network"):
        precision.to_fp16(whole[: len(whole) // 2])
