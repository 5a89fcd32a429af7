"""INT8 network files: convolutions between QuantizeLinear and DequantizeLinear, in two spellings of one network.

The signed spelling (int8, zero point 0) is TensorRT's; the unsigned one (uint8, zero point 128, the same scales) is for
OpenVINO and ONNX Runtime. Both quantise every value alike: q + 128 in the one is q in the other. Weights use 7 bits:
CPUs without VNNI instructions add two products of uint8 and int8 in 16 bits, which overflow with all 8.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeseg.errors import EngineError
from edgeseg.types import FloatArray

Spelling = Literal["signed", "unsigned"]
Ranges = Mapping[str, tuple[float, float]]
_WEIGHTED = ("Conv", "ConvTranspose")
_OFFSET: dict[Spelling, int] = {"signed": 0, "unsigned": 128}


def convolutions(content: bytes) -> tuple[str, ...]:
    """Names of a network file's convolutions, from the input on."""
    import onnx

    return tuple(node.name for node in onnx.load_from_string(content).graph.node if node.op_type == "Conv")


def quantise(content: bytes, ranges: Ranges, kept: Collection[str] = ()) -> bytes:
    """Quantise the inputs and the weights of a network file's convolutions, in the signed spelling.

    Activations get one scale a tensor, weights one an output channel, both symmetric; biases and everything else stay
    in FP32, additions and concatenations of skipped values too.

    Parameters
    ----------
    content
        A serialised ONNX model in FP32, its batch normalisations folded.
    ranges
        Lowest and highest value of each convolution's input (`edgeseg.export.calibration.ranges`).
    kept
        Names of convolutions that are not quantised.

    Raises
    ------
    EngineError
        When ``kept`` names a convolution that is not there, or nothing is left to quantise.
    """
    import onnx
    from onnxruntime import quantization

    names = convolutions(content)
    if unknown := sorted(set(kept) - set(names)):
        raise EngineError(f"the network has no convolution {unknown[0]}: it was measured on another network")
    chosen = [name for name in names if name not in kept]
    if not chosen:
        raise EngineError("every convolution would be kept: that is no INT8 network; build --fp16")
    limits = {
        name: quantization.calibrate.TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    quantiser = quantization.QDQQuantizer(
        onnx.load_from_string(content),
        per_channel=True,
        reduce_range=True,
        weight_qType=quantization.QuantType.QInt8,
        activation_qType=quantization.QuantType.QInt8,
        tensors_range=quantization.calibrate.TensorsData(quantization.CalibrationMethod.MinMax, limits),
        nodes_to_quantize=chosen,
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv"],
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": ["Conv"],
        },
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    network = quantiser.model.model
    _leave_others(network, chosen)
    onnx.checker.check_model(network, full_check=True)
    return bytes(network.SerializeToString())


def _leave_others(network: Any, chosen: Collection[str]) -> None:
    """Give the exact value back to all that the quantiser gave the rounded one to, but for the chosen convolutions."""
    made = {name: node for node in network.graph.node for name in node.output}
    exact = {
        name: made[node.input[0]].input[0]
        for name, node in made.items()
        if node.op_type == "DequantizeLinear" and node.input[0] in made
    }
    for node in network.graph.node:
        if node.op_type != "Conv" or node.name not in chosen:
            for position, name in enumerate(node.input):
                node.input[position] = exact.get(name, name)


@dataclass(frozen=True)
class Convolution:
    """A convolution, or a transposed one, of a network file.

    Parameters
    ----------
    module
        Its module's name in PyTorch.
    input
        The name of the value that goes in.
    weight
        float32 (out, in, row, column); (in, out, row, column) for a transposed one.
    bias
        float32 (out,); zeros where the file has none.
    """

    module: str
    input: str
    weight: FloatArray
    bias: FloatArray


def weights(content: bytes) -> dict[str, Convolution]:
    """Convolutions of a folded network file in FP32, transposed ones too, by their names.

    Raises
    ------
    EngineError
        When a weight is not stored, but computed.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(content).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type in _WEIGHTED:
            if not set(node.input[1:]) <= stored.keys():
                raise EngineError(f"the weight of {node.name} is not stored in the file: it cannot be fine-tuned")
            weight, *bias = (stored[name].copy() for name in node.input[1:])
            values = bias[0] if bias else np.zeros(weight.shape[node.op_type == "ConvTranspose"], np.float32)
            found[node.name] = Convolution(node.input[1].removesuffix(".weight"), node.input[0], weight, values)
    return found


def with_weights(content: bytes, learned: Mapping[str, tuple[FloatArray, FloatArray]]) -> bytes:
    """The network file with other weights and biases, given by the modules' names."""
    import onnx
    from onnx import numpy_helper

    network = onnx.load_from_string(content)
    stored = {tensor.name: tensor for tensor in network.graph.initializer}
    for node in network.graph.node:
        if node.op_type in _WEIGHTED and (name := node.input[1].removesuffix(".weight")) in learned:
            if len(node.input) < 3:
                node.input.append(f"{node.input[1]}_bias")
                stored[node.input[2]] = network.graph.initializer.add()
            for given, values in zip(node.input[1:3], learned[name], strict=True):
                stored[given].CopyFrom(numpy_helper.from_array(values, given))
    return bytes(network.SerializeToString())


def spell(content: bytes, spelling: Spelling) -> bytes:
    """The same INT8 network in the spelling that a runtime wants.

    Raises
    ------
    EngineError
        When an activation's zero point is neither spelling's: the file was not quantised by `quantise`.
    """
    import onnx
    from onnx import numpy_helper

    network = onnx.load_from_string(content)
    initialisers = {tensor.name: tensor for tensor in network.graph.initializer}
    kind: Any = np.uint8 if spelling == "unsigned" else np.int8
    for name in {node.input[2] for node in network.graph.node if node.op_type == "QuantizeLinear"}:
        point = numpy_helper.to_array(initialisers[name])
        known = {(np.dtype(np.int8), 0), (np.dtype(np.uint8), 128)}
        if point.ndim or (point.dtype, int(point)) not in known:
            raise EngineError(f"the zero point {name} is {point.dtype} {point.tolist()}: expected int8 0 or uint8 128")
        initialisers[name].CopyFrom(numpy_helper.from_array(np.array(_OFFSET[spelling], kind), name))
    onnx.checker.check_model(network, full_check=True)
    return bytes(network.SerializeToString())


def save(content: bytes, folder: Path) -> Path:
    """Write a network file for a tool that takes a path."""
    path = folder / "network.onnx"
    path.write_bytes(content)
    return path
