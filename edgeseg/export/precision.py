"""Precision is a property of the network file: it is made here, on any CPU, for every runtime alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseg.errors import BackendMissing, EngineError

_OPSET_OF_HALF_SCALES = 19
"""From here on QuantizeLinear and DequantizeLinear take scales in FP16."""


def to_fp16_initialisers(content: bytes, least_axes: int = 1) -> bytes:
    """Store the weights in half precision and compute in single: half the file, the same arithmetic.

    Every float32 initialiser with more than one value is rounded to float16 and cast back by a Cast in front of its
    users, which runtimes fold when they compile.

    Parameters
    ----------
    content
        A serialised ONNX model.
    least_axes
        Axes that an initialiser must have to be rounded; 4 means the weights of convolutions alone.

    Raises
    ------
    EngineError
        When a weight is beyond the range of FP16.
    """
    import onnx
    from onnx import numpy_helper

    network = onnx.load_from_string(content)
    graph = network.graph
    casts: list[Any] = []
    for initialiser in graph.initializer:
        if initialiser.data_type != onnx.TensorProto.FLOAT or int(np.prod(initialiser.dims)) < 2:
            continue
        if len(initialiser.dims) < least_axes:
            continue
        name = initialiser.name
        with np.errstate(over="ignore"):
            half = numpy_helper.to_array(initialiser).astype(np.float16)
        if not np.isfinite(half).all():
            raise EngineError(f"the weight {name} is beyond the range of FP16: keep FP32 (--fp32)")
        initialiser.CopyFrom(numpy_helper.from_array(half, f"{name}_fp16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_fp16"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(network, full_check=True)
    return bytes(network.SerializeToString())


def to_fp16(content: bytes) -> bytes:
    """Compute in half precision: every float32 tensor inside becomes float16; input and output stay as they are.

    For runtimes that take precision from the file (TensorRT). A quantised file keeps its integers; its scales become
    float16, for which its opset is raised to 19 where it is older. Values too small for FP16 become its smallest.

    Parameters
    ----------
    content
        A serialised ONNX model that computes in FP32, quantised or not.

    Returns
    -------
    bytes
        The same network with float32 outputs, each behind one Cast.

    Raises
    ------
    BackendMissing
        When onnxruntime, whose converter this is, is not installed.
    EngineError
        When this is no network, or a weight is beyond the range of FP16.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import version_converter
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise BackendMissing(f"FP16 needs {error.name}: pip install 'edgeseg[export]'") from error
    try:
        network = onnx.load_from_string(content)
    except DecodeError as error:
        raise EngineError("the file is no whole ONNX network: export it again") from error
    _check_range(network)
    opset = next(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx"))
    quantised = any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in network.graph.node)
    if quantised and opset < _OPSET_OF_HALF_SCALES:
        network = version_converter.convert_version(network, _OPSET_OF_HALF_SCALES)
    _spell_constants_as_tensors(network)
    network = convert_float_to_float16(network, keep_io_types=True, op_block_list=[])
    onnx.checker.check_model(network, full_check=True)
    return bytes(network.SerializeToString())


def _check_range(network: Any) -> None:
    """Raise EngineError for a weight that the converter would silently cut off."""
    import onnx
    from onnx import numpy_helper

    for initialiser in network.graph.initializer:
        if initialiser.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(initialiser)
            if (np.abs(values[np.isfinite(values)]) > np.finfo(np.float16).max).any():
                raise EngineError(f"the weight {initialiser.name} is beyond the range of FP16: keep FP32 (--fp32)")


def _spell_constants_as_tensors(network: Any) -> None:
    """Rewrite Constant nodes that hold floats as attributes: the converter overlooks these."""
    import onnx
    from onnx import numpy_helper

    for node in network.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name in ("value_float", "value_floats"):
            values = np.array(onnx.helper.get_attribute_value(node.attribute[0]), np.float32)
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(values)))
