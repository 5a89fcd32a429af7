from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import backends, bundle
from edgeseg.backends.base import Engine
from edgeseg.errors import BackendMissing, EngineError, InputError
from edgeseg.types import ByteArray, FloatArray, Manifest

NAMES = ["onnxruntime", "openvino"]


class Fake(Engine):
    """Logits are each slice's first byte; counts what it is asked for."""

    runtime, device, inference_precision = "fake 1", "none", "f32"

    def __init__(self, shift: tuple[int, ...] = (), value: float | None = None) -> None:
        self.sizes: list[int] = []
        self.releases = 0
        self._shift, self._value = shift, value

    def _run(self, slices: ByteArray) -> FloatArray:
        assert slices.flags.c_contiguous
        self.sizes.append(len(slices))
        if self._shift:
            return np.zeros(self._shift, np.float32)
        logits = slices[:, :1].astype(np.float32)
        if self._value is not None:
            logits[0, 0, 0, 0] = self._value
        return logits

    def _release(self) -> None:
        self.releases += 1


def _slices(count: int, size: int = 8) -> ByteArray:
    return np.random.default_rng(2).integers(0, 256, (count, 3, size, size)).astype(np.uint8)


@pytest.fixture(scope="module")
def shipped(tiny_bundle: Path) -> tuple[Manifest, bytes]:
    """The small network's manifest and network file."""
    return bundle.read(tiny_bundle)


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (4, [4]), (10, [4, 4, 2])])
def test_any_number_of_slices_is_run_in_batches(count: int, sizes: list[int]) -> None:
    engine = Fake()
    slices = _slices(count)
    logits = engine.predict_logits(slices)
    assert engine.sizes == sizes
    assert logits.dtype == np.float32
    assert np.array_equal(logits, slices[:, :1])


def test_slices_need_not_be_contiguous() -> None:
    slices = _slices(5).transpose(0, 1, 3, 2)
    assert np.array_equal(Fake().predict_logits(slices), slices[:, :1])


@pytest.mark.parametrize(
    "slices",
    [
        np.zeros((2, 3, 8, 8), np.float32),
        np.zeros((2, 3, 8, 8), np.int8),
        np.zeros((2, 1, 8, 8), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
    ],
)
def test_other_dtypes_and_shapes_are_refused(slices: Any) -> None:
    engine = Fake()
    with pytest.raises(ValueError, match=r"expected uint8 \(N, 3, H, W\)"):
        engine.predict_logits(slices)
    assert engine.sizes == []


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(EngineError, match=r"shape \(2, 2, 8, 8\)"):
        Fake(shift=(2, 2, 8, 8)).predict_logits(_slices(2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        Fake(value=value).predict_logits(_slices(6))


def test_a_closed_engine_says_so_and_is_released_once() -> None:
    engine = Fake()
    engine.close()
    engine.close()
    assert engine.releases == 1
    with pytest.raises(EngineError, match="was closed"):
        engine.predict_logits(_slices(1))


def test_the_with_statement_closes_even_after_an_error() -> None:
    engine = Fake()
    with pytest.raises(KeyError), engine:
        raise KeyError
    assert engine.releases == 1
    assert not Fake().releases


@pytest.mark.parametrize("name", NAMES)
def test_a_runtime_computes_the_models_logits(name: str, shipped: tuple[Manifest, bytes], tiny_weights: Path) -> None:
    from edgeseg import model
    from edgeseg.backends.pytorch import PyTorchEngine

    slices = _slices(5, 256)
    with (
        PyTorchEngine(model.with_byte_input(model.load(tiny_weights)[0])) as reference,
        backends.open_engine(*shipped, backend=name) as engine,
    ):
        expected = reference.predict_logits(slices)
        first = engine.predict_logits(slices)
        kept = first.copy()
        other = engine.predict_logits(255 - slices)
        assert np.abs(first - expected).max() < 1e-3
        assert np.array_equal(first, kept), "a later call must not change earlier logits"
        assert not np.allclose(other, first)
        assert np.allclose(engine.predict_logits(slices[2:3]), first[2:3], atol=1e-4)
        assert engine.predict_logits(slices[:0]).shape == (0, 1, 256, 256)
        assert engine.device == "CPU"
        assert engine.inference_precision == "f32"
    with pytest.raises(EngineError, match="was closed"):
        engine.predict_logits(slices)


def test_the_first_runtime_of_the_manifest_is_taken(shipped: tuple[Manifest, bytes]) -> None:
    manifest, content = shipped
    with backends.open_engine(manifest, content) as engine:
        assert engine.runtime.startswith("OpenVINO 20")
    turned = replace(manifest, runtimes=("onnxruntime", "openvino"))
    with backends.open_engine(turned, content) as engine:
        assert engine.runtime.startswith("ONNX Runtime 1.")


def test_the_precision_hint_is_the_manifests(shipped: tuple[Manifest, bytes]) -> None:
    """OpenVINO takes BF16 by itself on a CPU that has it: the hint has to reach it, whatever it says."""
    import openvino

    manifest, content = shipped
    with backends.open_engine(manifest, content, "openvino") as engine:
        assert engine.inference_precision == "f32"
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no BF16, so that OpenVINO would answer f32 to any hint")
    with backends.open_engine(replace(manifest, inference_precision="bf16"), content, "openvino") as engine:
        assert engine.inference_precision == "bf16"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_bytes_that_are_no_network_are_refused(name: str, content: bytes, shipped: tuple[Manifest, bytes]) -> None:
    with pytest.raises(EngineError, match="refuses tiny-fp32"):
        backends.open_engine(shipped[0], content, name)


@pytest.mark.parametrize("name", NAMES)
def test_half_a_network_is_refused(name: str, shipped: tuple[Manifest, bytes]) -> None:
    with pytest.raises(EngineError, match="refuses tiny-fp32"):
        backends.open_engine(shipped[0], shipped[1][: len(shipped[1]) // 2], name)


def test_an_unknown_backend_is_refused(shipped: tuple[Manifest, bytes]) -> None:
    with pytest.raises(InputError, match="for openvino or onnxruntime, not for tensorflow"):
        backends.open_engine(*shipped, backend="tensorflow")


def test_a_backend_that_the_file_is_not_for_is_refused(shipped: tuple[Manifest, bytes]) -> None:
    with pytest.raises(InputError, match="for onnxruntime, not for openvino"):
        backends.open_engine(replace(shipped[0], runtimes=("onnxruntime",)), shipped[1], "openvino")


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_device_is_refused(name: str, shipped: tuple[Manifest, bytes]) -> None:
    with pytest.raises(InputError, match="NPU9"):
        backends.open_engine(*shipped, backend=name, device="NPU9")


@pytest.mark.parametrize(
    ("name", "remedy"), [("openvino", "pip install openvino"), ("onnxruntime", r"edgeseg\[export")]
)
def test_a_missing_runtime_says_how_to_install_it(
    name: str, remedy: str, shipped: tuple[Manifest, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendMissing, match=remedy):
        backends.open_engine(*shipped, backend=name)


@pytest.mark.parametrize(
    ("backend", "device", "on_gpu"),
    [
        (None, "auto", False),
        ("openvino", "cpu", False),
        ("openvino", "GPU", True),
        ("onnxruntime", "cuda", True),
        ("tensorrt", "auto", True),
        ("tensorrt-rtx", "auto", True),
    ],
)
def test_which_engines_run_on_a_gpu(
    backend: str | None, device: str, on_gpu: bool, shipped: tuple[Manifest, bytes]
) -> None:
    assert backends.on_gpu(shipped[0], backend, device) is on_gpu


def test_openvinos_logits_do_not_hang_on_how_many_slices_are_given(shipped: tuple[Manifest, bytes]) -> None:
    """Bit for bit, and the array that is given may be read-only; an engine's earlier logits stay as they are."""
    slices = np.random.default_rng(3).integers(0, 256, (67, 3, 256, 256), dtype=np.uint8)
    slices.flags.writeable = False
    with backends.open_engine(*shipped, backend="openvino") as engine:
        whole = engine.predict_logits(slices)
        kept = whole.copy()
        singly = [engine.predict_logits(slices[k : k + 1]) for k in range(len(slices))]
        np.testing.assert_array_equal(np.concatenate(singly), whole)
        np.testing.assert_array_equal(whole, kept)
