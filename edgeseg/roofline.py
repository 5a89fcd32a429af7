"""Operations and bytes of a network file, counted from its graph, and the time that a GPU needs for them at least.

Counted are the convolutions: each reads its input and its weights once and writes its output once, in the file's own
types; a value that is rounded to INT8 takes one byte. All that lies between (activations, additions, resizing) is taken
to be done on the way, for nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseg.device import DeviceLimits, DeviceTimes
from edgeseg.errors import BackendMissing, EngineError

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_ON_THE_WAY = ("BatchNormalization", "Cast", "Clip", "HardSwish", "Mul", "Relu", "Sigmoid")
"""Done while a convolution's output is written."""
_STORED_AS = ("Cast", "CastLike", "DequantizeLinear", "Expand", "Identity")
"""Between a stored weight and the convolution."""

PER_CYCLE: dict[str, dict[str, int]] = {
    "7.5": {"f16": 1024, "int8": 2048},
    "8.0": {"f16": 2048, "int8": 4096},
    "8.6": {"f16": 1024, "int8": 2048},
    "8.7": {"f16": 2048, "int8": 4096},
    "8.9": {"f16": 1024, "int8": 2048},
    "9.0": {"f16": 4096, "int8": 8192},
    "12.0": {"f16": 1024, "int8": 2048},
}
"""By compute capability: operations (two to a multiplication and its addition) a cycle of one multiprocessor's tensor
cores, on dense matrices, FP16 added up in FP16. From the peak rates, clocks and counts of multiprocessors in NVIDIA's
architecture papers (Turing TU102, A100, GA102, Jetson AGX Orin, Ada AD102, H100, RTX Blackwell)."""


@dataclass(frozen=True)
class Layer:
    """One convolution.

    Parameters
    ----------
    name, arithmetic
        The node's name; ``int8``, ``f16`` or ``f32``: what it multiplies, by the file's types.
    operations, activation_bytes
        Of one slice: multiplications and additions, and what is read and written.
    weight_bytes
        Read once for a whole batch.
    """

    name: str
    arithmetic: str
    operations: int
    activation_bytes: int
    weight_bytes: int

    def bytes(self, batch: int) -> int:
        """Read and written for a batch."""
        return self.weight_bytes + batch * self.activation_bytes


@dataclass(frozen=True)
class Counted:
    """What a network does for one slice of a batch, and how fast an engine did it.

    Parameters
    ----------
    giga_operations, megabytes, operations_per_byte
        Of one slice; weights are shared by the batch.
    giga_operations_per_second
        At the slices a second that were measured.
    """

    giga_operations: float
    megabytes: float
    operations_per_byte: float
    giga_operations_per_second: float


@dataclass(frozen=True)
class Peak:
    """The most that a GPU can do: bytes a second, and operations a second by arithmetic."""

    bytes_per_second: float
    operations_per_second: dict[str, float]


@dataclass(frozen=True)
class Pass:
    """One batch on a GPU by its own clock, nothing beside it: medians over the rounds, in ms for the whole batch.

    Parameters
    ----------
    batch, upload_ms, compute_ms, download_ms
        Slices at once; copying them to the GPU, the network alone, copying the logits back.
    compute_p95_ms
        95th percentile.
    roofline_ms
        The least time of the network, convolution by convolution, at the GPU's peak; None where that is not known.
        Below it comes only who keeps values in the GPU's caches from one convolution to the next.
    memory_share
        Share of ``roofline_ms`` in convolutions that wait for memory.
    """

    batch: int
    upload_ms: float
    compute_ms: float
    compute_p95_ms: float
    download_ms: float
    roofline_ms: float | None
    memory_share: float | None


def count(content: bytes) -> tuple[Layer, ...]:
    """Convolutions of a network file.

    Parameters
    ----------
    content
        A serialised ONNX model that takes one input of (N, channels, H, W).

    Raises
    ------
    BackendMissing
        When onnx is not installed.
    EngineError
        When it is no such model.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise BackendMissing("counting a network's operations needs onnx: pip install 'edgeseg[export]'") from error
    try:
        network = onnx.load_from_string(content)
        for value in (*network.graph.input, *network.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        del network.graph.value_info[:]
        inferred = onnx.shape_inference.infer_shapes(network, strict_mode=True, data_prop=True)
    except (DecodeError, IndexError, onnx.shape_inference.InferenceError) as error:
        raise EngineError(
            f"this is no network file whose operations can be counted ({error}): build it again"
        ) from error
    graph = _Graph(inferred.graph)
    return tuple(graph.layer(node) for node in graph.nodes if node.op_type in _CONVOLUTIONS)


class _Graph:
    """A network's values by name: shape and bytes of an element, stored tensors, who makes them and who takes them."""

    def __init__(self, graph: Any) -> None:
        from onnx import helper

        def size(kind: int) -> int:
            return int(np.dtype(helper.tensor_dtype_to_np_dtype(kind)).itemsize)

        self.nodes = list(graph.node)
        self.stored = {one.name: (tuple(one.dims), size(one.data_type)) for one in graph.initializer}
        self.values = {
            one.name: (
                tuple(dim.dim_value for dim in one.type.tensor_type.shape.dim),
                size(one.type.tensor_type.elem_type),
            )
            for one in (*graph.input, *graph.value_info, *graph.output)
        } | self.stored
        self.made = {name: node for node in self.nodes for name in node.output}
        self.taken: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.taken.setdefault(name, []).append(node)

    def layer(self, node: Any) -> Layer:
        given, weight, returned = node.input[0], node.input[1], node.output[0]
        shape, width = self.values[given]
        quantised = self._is_rounded(given) and self._is_rounded(weight)
        moved = math.prod(shape) * (1 if self._is_rounded(given) else width)
        moved += math.prod(self.values[returned][0]) * self._written(returned)
        positions = self.values[given if node.op_type == "ConvTranspose" else returned][0]
        # each position meets a filter: (out, in / groups, rows, columns), of a transposed one (in, out / groups, ...)
        multiplied = math.prod(self.values[weight][0]) * math.prod(positions[2:])
        arithmetic = "int8" if quantised else f"f{8 * width}"
        weights = sum(self._stored_bytes(name) for name in node.input[1:])
        return Layer(node.name, arithmetic, 2 * multiplied, moved, weights)

    def _is_rounded(self, name: str) -> bool:
        return name in self.made and self.made[name].op_type == "DequantizeLinear"

    def _written(self, name: str) -> int:
        """Bytes of an element as it is written: one where all who take it round it first."""
        takers = self.taken.get(name, [])
        if takers and all(node.op_type == "QuantizeLinear" for node in takers):
            return 1
        if len(takers) == 1 and takers[0].op_type in _ON_THE_WAY:
            return self._written(takers[0].output[0])
        return self.values[name][1]

    def _stored_bytes(self, name: str) -> int:
        while name not in self.stored and name in self.made and self.made[name].op_type in _STORED_AS:
            name = self.made[name].input[0]
        shape, width = self.values[name]
        return int(math.prod(shape) * width)


def counted(layers: Sequence[Layer], batch: int, slices_per_second: float) -> Counted:
    """Sums over a network's convolutions, for a slice of a batch."""
    operations, moved = sum(one.operations for one in layers), sum(one.bytes(batch) for one in layers) / batch
    giga = operations / 1e9
    return Counted(
        round(giga, 3), round(moved / 1e6, 2), round(operations / moved, 1), round(giga * slices_per_second, 1)
    )


def peak(limits: DeviceLimits) -> Peak | None:
    """What a GPU can do at its highest clocks; None where the table or the driver does not say.

    Memory moves two words a cycle of its clock, each of the bus's width.
    """
    bandwidth = 2.0 * 1000 * limits.memory_clock_khz * limits.memory_bus_bits / 8
    cycles = 1000.0 * limits.clock_khz * limits.multiprocessors
    if limits.capability not in PER_CYCLE or not bandwidth or not cycles:
        return None
    return Peak(bandwidth, {name: cycles * each for name, each in PER_CYCLE[limits.capability].items()})


def bound(layers: Iterable[Layer], batch: int, most: Peak) -> tuple[float, float] | None:
    """Least seconds for a batch, convolution by convolution, and those of them that wait for memory.

    None where the GPU's peak in some convolution's arithmetic is not known: an FP32 file may be computed in TF32.
    """
    total = waiting = 0.0
    for layer in layers:
        if layer.arithmetic not in most.operations_per_second:
            return None
        computing = batch * layer.operations / most.operations_per_second[layer.arithmetic]
        moving = layer.bytes(batch) / most.bytes_per_second
        total += max(computing, moving)
        waiting += moving if moving > computing else 0.0
    return total, waiting


def summed(times: Sequence[DeviceTimes], layers: Sequence[Layer], most: Peak | None) -> Pass:
    """Medians of the passes of one batch, beside the roofline."""
    batch = times[0].batch
    compute = [one.compute_ms for one in times]
    least = bound(layers, batch, most) if layers and most else None
    return Pass(
        batch,
        round(statistics.median(one.upload_ms for one in times), 4),
        round(statistics.median(compute), 4),
        round(float(np.percentile(compute, 95)), 4),
        round(statistics.median(one.download_ms for one in times), 4),
        None if least is None else round(1000 * least[0], 4),
        None if least is None else round(least[1] / least[0], 3),
    )
