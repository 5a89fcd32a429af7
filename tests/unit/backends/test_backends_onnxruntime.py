"""ONNX Runtime's execution providers: which one is asked for, which one runs, and what is said when none does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeseg import backends, build, bundle
from edgeseg.errors import EngineError, InputError
from edgeseg.types import Manifest

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
NO_TF32 = {"use_tf32": "0"}


class Recorder:
    """Stands in for the package: records what a session is made with; ``broken`` providers fall back silently."""

    __version__ = "1.99"
    GraphOptimizationLevel = SimpleNamespace(ORT_DISABLE_ALL="none")

    def __init__(self, listed: list[str], broken: tuple[str, ...] = ()) -> None:
        self.listed, self.broken = listed, broken
        self.given: list[Any] = []
        self.options = SimpleNamespace()

    def get_available_providers(self) -> list[str]:
        return self.listed

    def SessionOptions(self) -> SimpleNamespace:
        return self.options

    def InferenceSession(self, _: bytes, options: object, providers: list[Any]) -> SimpleNamespace:
        assert options is self.options
        self.given = providers
        running = [name for name, _ in providers if name not in self.broken]
        return SimpleNamespace(
            get_providers=lambda: running,
            get_inputs=lambda: [SimpleNamespace(name="slices")],
            run=lambda _, given: [np.zeros((len(given["slices"]), 1, 8, 8), np.float32)],
        )


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """The shipped engine's manifest."""
    return bundle.read_manifest(bundle.find(bundle.DEFAULT_ENGINE))


def _open(
    manifest: Manifest, double: Recorder, monkeypatch: pytest.MonkeyPatch, device: str, threads: int | None = None
) -> backends.Engine:
    monkeypatch.setitem(sys.modules, "onnxruntime", double)
    return backends.open_engine(manifest, b"", "onnxruntime", device, threads)


@pytest.mark.parametrize(
    ("device", "listed", "given", "runs"),
    [
        ("auto", [CPU], [(CPU, {})], "CPU"),
        ("auto", [TENSORRT, CUDA, CPU], [(CUDA, NO_TF32), (CPU, {})], "CUDA"),
        ("cpu", [TENSORRT, CUDA, CPU], [(CPU, {})], "CPU"),
        ("cuda", [TENSORRT, CUDA, CPU], [(CUDA, NO_TF32), (CPU, {})], "CUDA"),
        ("tensorrt", [TENSORRT, CUDA, CPU], [(TENSORRT, {}), (CUDA, NO_TF32), (CPU, {})], "TensorRT"),
        ("tensorrt", [TENSORRT, CPU], [(TENSORRT, {}), (CPU, {})], "TensorRT"),
    ],
)
def test_a_device_is_a_provider_and_what_helps_it_out(
    device: str, listed: list[str], given: list[Any], runs: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = Recorder(listed)
    with _open(manifest, double, monkeypatch, device) as engine:
        assert double.given == given
        assert (engine.device, engine.inference_precision, engine.runtime) == (runs, "f32", "ONNX Runtime 1.99")
        assert engine.predict_logits(np.zeros((2, 3, 8, 8), np.uint8)).shape == (2, 1, 8, 8)
    assert vars(double.options) == {"log_severity_level": 4}


@pytest.mark.parametrize(("device", "provider"), [("cuda", CUDA), ("tensorrt", TENSORRT)])
def test_a_provider_that_is_not_installed(
    device: str, provider: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=rf"no {provider} .*\(it has {CPU}, Other\): give .*onnxruntime-gpu"):
        _open(manifest, Recorder([CPU, "Other"]), monkeypatch, device)


def test_a_provider_that_does_not_start(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    double = Recorder([CUDA, CPU], broken=(CUDA,))
    with pytest.raises(InputError, match=f"lists {CUDA} and could not start it .it runs {CPU}.*--device cpu"):
        _open(manifest, double, monkeypatch, "cuda")
    with _open(manifest, double, monkeypatch, "auto") as engine:
        assert engine.device == "CPU"


def test_an_unknown_device(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no device npu: give --device auto, cpu, cuda, tensorrt"):
        _open(manifest, Recorder([CPU]), monkeypatch, "npu")


@pytest.mark.parametrize(("spelling", "level"), [("signed", {"graph_optimization_level": "none"}), ("unsigned", {})])
def test_the_signed_spelling_of_int8_is_computed_as_written(
    spelling: str, level: dict[str, str], manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = Recorder([CPU])
    _open(replace(manifest, precision="int8", calibration={"spelling": spelling}), double, monkeypatch, "cpu")
    assert vars(double.options) == {"log_severity_level": 4, **level}


def test_a_number_of_threads(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    double = Recorder([CPU])
    _open(manifest, double, monkeypatch, "cpu", 3)
    assert double.options.intra_op_num_threads == 3


@pytest.mark.parametrize("name", build.RUNTIMES)
def test_real_runtimes_take_a_number_of_threads(name: str, tiny_bundle: Path) -> None:
    slices = np.zeros((1, 3, 256, 256), np.uint8)
    with (
        backends.open_engine(*bundle.read(tiny_bundle), backend=name, threads=1) as one,
        backends.open_engine(*bundle.read(tiny_bundle), backend=name) as any_,
    ):
        assert np.allclose(one.predict_logits(slices), any_.predict_logits(slices), atol=1e-4)


def test_what_it_refuses_is_said_once(tiny_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match="refuses tiny-fp32"):
        backends.open_engine(bundle.read_manifest(tiny_bundle), b"no network", "onnxruntime")
    assert capfd.readouterr().err == ""


def test_its_own_errors_while_it_runs_are_the_engines(tiny_bundle: Path) -> None:
    with (
        backends.open_engine(*bundle.read(tiny_bundle), "onnxruntime") as engine,
        pytest.raises(EngineError, match=r"ONNX Runtime .* failed on \(1, 3, 40, 40\) slices"),
    ):
        engine.predict_logits(np.zeros((1, 3, 40, 40), np.uint8))
