"""Counting a network's operations and bytes, by hand and against PyTorch's own count, and the least time of a GPU."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper  # noqa: TID253  networks of one node

from edgeseg import bundle, roofline
from edgeseg.device import DeviceLimits, DeviceTimes
from edgeseg.errors import BackendMissing, EngineError
from edgeseg.roofline import Layer, Peak
from edgeseg.types import Manifest

CARD = DeviceLimits("8.9", 128, 2_520_000, 10_501_000, 384)


def _network(nodes: list[Any], stored: dict[str, Any], given: int = TensorProto.FLOAT) -> bytes:
    """A network file of 8 x 8 slices with 2 channels, N free."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", given, ["batch", 2, 8, 8])],
        [helper.make_tensor_value_info("y", given, ["batch", None, None, None])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString())


def test_a_strided_convolution_by_hand() -> None:
    """2 channels to 6 by 3 x 3 filters, every second position: 4 x 4 of them."""
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "c", strides=[2, 2], pads=[1, 1, 1, 1])
    stored = {"w": np.zeros((6, 2, 3, 3), np.float32), "b": np.zeros(6, np.float32)}
    (layer,) = roofline.count(_network([node], stored))
    assert layer == Layer("c", "f32", 2 * 6 * 2 * 9 * 16, 4 * (2 * 64 + 6 * 16), 4 * (6 * 2 * 9 + 6))
    assert layer.bytes(3) == 4 * (114 + 3 * 224)


@pytest.mark.parametrize(("kind", "arithmetic", "width"), [(np.float16, "f16", 2), (np.float32, "f32", 4)])
def test_groups_and_transposed_ones_by_hand(kind: Any, arithmetic: str, width: int) -> None:
    grouped = helper.make_node("Conv", ["x", "w"], ["y"], "c", group=2)
    given = TensorProto.FLOAT16 if kind is np.float16 else TensorProto.FLOAT
    (layer,) = roofline.count(_network([grouped], {"w": np.zeros((4, 1, 1, 1), kind)}, given))
    assert layer == Layer("c", arithmetic, 2 * 4 * 64, width * (2 * 64 + 4 * 64), width * 4)
    transposed = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "t", strides=[2, 2])
    (layer,) = roofline.count(_network([transposed], {"w": np.zeros((2, 5, 2, 2), kind)}, given))
    assert layer.operations == 2 * 2 * 5 * 4 * 64, "each of 64 positions of the input meets the whole filter"
    assert layer.activation_bytes == width * (2 * 64 + 5 * 256)


def test_rounded_values_take_one_byte_and_are_int8() -> None:
    """The first convolution's output is rounded by all who take it, the second's is not."""

    def pair(name: str) -> list[Any]:
        return [
            helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d"]),
        ]

    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["w_d"]),
        *pair("x"),
        helper.make_node("Conv", ["x_d", "w_d"], ["a"], "one"),
        helper.make_node("Relu", ["a"], ["r"]),
        *pair("r"),
        helper.make_node("Conv", ["r_d", "w_d"], ["b"], "two"),
        helper.make_node("Add", ["b", "x"], ["y"]),
    ]
    stored = {"w": np.zeros((2, 2, 1, 1), np.int8), "s": np.float32(1), "z": np.int8(0)}
    one, two = roofline.count(_network(nodes, stored))
    assert (one.arithmetic, two.arithmetic) == ("int8", "int8")
    assert (one.activation_bytes, two.activation_bytes) == (128 + 128, 128 + 4 * 128)
    assert (one.weight_bytes, two.weight_bytes) == (4, 4)


def test_the_shipped_networks_operations_are_those_that_pytorch_counts() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from edgeseg import model

    manifest, content = bundle.read(bundle.find(bundle.DEFAULT_ENGINE))
    network = model.runnable(*model.load(bundle.shipped_weights(manifest.network)))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros((1, 3, 256, 256), dtype=torch.uint8))
    layers = roofline.count(content)
    assert sum(layer.operations for layer in layers) == counter.get_total_flops()
    kept = (manifest.calibration or {})["kept"]
    assert {layer.name for layer in layers if layer.arithmetic == "f32"} == set(kept)
    assert 0.9 * len(content) < sum(layer.weight_bytes for layer in layers) < len(content)


def test_an_fp16_file_moves_less_than_an_fp32_one(shipped: tuple[Manifest, bytes]) -> None:
    from edgeseg.export import precision

    stored, computed = (roofline.count(file) for file in (shipped[1], precision.to_fp16(shipped[1])))
    assert {layer.arithmetic for layer in stored} == {"f32"}, "such a file is computed in FP32"
    assert {layer.arithmetic for layer in computed} == {"f16"}
    moved = [roofline.counted(layers, 1, 100.0) for layers in (stored, computed)]
    assert moved[0].giga_operations == moved[1].giga_operations
    assert moved[1].megabytes < 0.6 * moved[0].megabytes
    assert moved[1].operations_per_byte > 1.6 * moved[0].operations_per_byte
    assert moved[0].giga_operations_per_second == pytest.approx(100 * moved[0].giga_operations, rel=1e-3)


def test_what_is_no_network_file() -> None:
    with pytest.raises(EngineError, match="no network file whose operations"):
        roofline.count(b"no network")
    flat = _network([helper.make_node("Conv", ["x", "w"], ["y"], "c")], {"w": np.zeros((4, 2), np.float32)})
    with pytest.raises(EngineError, match="no network file whose operations"):
        roofline.count(flat)


def test_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendMissing, match=r"edgeseg\[export\]"):
        roofline.count(b"")


@pytest.mark.parametrize(
    ("capability", "multiprocessors", "megahertz", "f16", "int8"),
    [
        ("7.5", 40, 1590, 65, 130),  # T4
        ("8.0", 108, 1410, 312, 624),  # A100
        ("8.6", 72, 1695, 125, 250),  # A10
        ("8.9", 128, 2520, 330.3, 660.6),  # GeForce RTX 4090
        ("9.0", 132, 1830, 989.4, 1978.9),  # H100 SXM
        ("12.0", 170, 2407, 419, 838),  # GeForce RTX 5090
    ],
)
def test_the_table_gives_the_peaks_that_nvidia_publishes(
    capability: str, multiprocessors: int, megahertz: int, f16: float, int8: float
) -> None:
    peak = roofline.peak(DeviceLimits(capability, multiprocessors, 1000 * megahertz, 1_000_000, 128))
    assert peak is not None
    assert peak.operations_per_second["f16"] / 1e12 == pytest.approx(f16, rel=0.01)
    assert peak.operations_per_second["int8"] / 1e12 == pytest.approx(int8, rel=0.01)


def test_bandwidth_is_two_words_a_cycle() -> None:
    peak = roofline.peak(CARD)
    assert peak is not None
    assert peak.bytes_per_second / 1e9 == pytest.approx(1008, rel=1e-3), "as published of the GeForce RTX 4090"


@pytest.mark.parametrize("unknown", [{"capability": "99.0"}, {"memory_clock_khz": 0}, {"clock_khz": 0}])
def test_no_peak_where_table_or_driver_does_not_say(unknown: dict[str, Any]) -> None:
    assert roofline.peak(DeviceLimits(**{**vars(CARD), **unknown})) is None


def test_the_bound_is_each_layers_slower_side() -> None:
    most = Peak(100.0, {"f16": 1000.0, "int8": 2000.0})
    computing, moving = Layer("a", "int8", 4000, 10, 20), Layer("b", "f16", 100, 50, 100)
    assert roofline.bound([computing, moving], 1, most) == (2.0 + 1.5, 1.5)
    assert roofline.bound([computing, moving], 4, most) == (8.0 + 3.0, 3.0), "weights are read once"
    assert roofline.bound([computing, Layer("c", "f32", 1, 1, 1)], 1, most) is None, "FP32 may be computed in TF32"


def test_passes_are_summed_by_their_medians() -> None:
    most = Peak(100.0, {"f16": 1000.0})
    times = [DeviceTimes(4, 1.0, compute, 2.0) for compute in (5000.0, 4000.0, 100_000.0)]
    found = roofline.summed(times, [Layer("b", "f16", 100, 50, 100)], most)
    assert (found.batch, found.upload_ms, found.compute_ms, found.download_ms) == (4, 1.0, 5000.0, 2.0)
    assert found.compute_p95_ms == pytest.approx(90_500.0)
    assert (found.roofline_ms, found.memory_share) == (3000.0, 1.0)
    assert roofline.summed(times, [], most).roofline_ms is None
    assert roofline.summed(times, [Layer("b", "f16", 100, 50, 100)], None).memory_share is None
