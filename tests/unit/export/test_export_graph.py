from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import backends, bundle, model
from edgeseg.errors import BackendMissing, EngineError
from edgeseg.export import graph
from edgeseg.types import ByteArray, FloatArray, Manifest


@pytest.fixture(scope="module")
def exported(tiny_bundle: Path) -> tuple[Manifest, bytes]:
    """The small network, exported."""
    return bundle.read(tiny_bundle)


@pytest.fixture(scope="module")
def slices() -> ByteArray:
    """Three slices of noise."""
    return np.random.default_rng(4).integers(0, 256, (3, 3, 256, 256)).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(tiny_weights: Path, slices: ByteArray) -> FloatArray:
    """PyTorch's logits of these slices."""
    import torch

    with torch.inference_mode():
        logits = model.with_byte_input(model.load(tiny_weights)[0])(torch.from_numpy(slices))
    return np.asarray(logits.numpy())


def _parse(content: bytes) -> Any:
    import onnx

    return onnx.load_from_string(content)


def test_the_file_takes_bytes_and_returns_single_precision(exported: tuple[Manifest, bytes]) -> None:
    import onnx

    network = _parse(exported[1])
    (given,), (returned,) = network.graph.input, network.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("slices", onnx.TensorProto.UINT8)
    assert (returned.name, returned.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    for value, channels in ((given, 3), (returned, 1)):
        batch, *rest = value.type.tensor_type.shape.dim
        assert batch.dim_param
        assert [dim.dim_value for dim in rest] == [channels, 256, 256]
    assert [opset.version for opset in network.opset_import if not opset.domain] == [graph.OPSET]


def test_weights_lie_inside_the_file(exported: tuple[Manifest, bytes]) -> None:
    network = _parse(exported[1])
    assert not any(len(initialiser.external_data) for initialiser in network.graph.initializer)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("count", [1, 3])
def test_any_batch_gives_pytorchs_logits(
    backend: str, count: int, exported: tuple[Manifest, bytes], slices: ByteArray, expected: FloatArray
) -> None:
    with backends.open_engine(*exported, backend=backend) as engine:
        logits = engine.predict_logits(slices[:count])
    assert expected.std() > 0.01
    assert np.abs(logits - expected[:count]).max() < 1e-3


def test_batch_normalisations_are_not_folded_and_weights_stay_fp16_values(
    exported: tuple[Manifest, bytes], tiny_weights: Path
) -> None:
    from onnx import numpy_helper

    network = _parse(exported[1])
    own = model.load(tiny_weights)[0].state_dict()
    kinds = [node.op_type for node in network.graph.node]
    assert kinds.count("BatchNormalization") == sum(name.endswith("running_mean") for name in own)
    convolutions = {tensor.half().numpy().tobytes() for tensor in own.values() if tensor.ndim == 4}
    files = [numpy_helper.to_array(i) for i in network.graph.initializer if len(i.dims) == 4]
    assert {values.astype(np.float16).tobytes() for values in files} == convolutions
    for values in files:
        assert np.array_equal(values.astype(np.float16).astype(np.float32), values)


def test_another_interface_is_refused(exported: tuple[Manifest, bytes]) -> None:
    network = _parse(exported[1])
    network.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(EngineError, match=r"interface .*'UINT8', False"):
        graph._check_interface(network)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxsim"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendMissing, match=r"pip install 'edgeseg\[train,export\]'"):
        graph.to_onnx(nn.Identity(), 256)
