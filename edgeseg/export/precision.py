"""Precision is a property of the network file: it is made here, on any CPU, for every runtime alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseg.errors import EngineError


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
