"""The TensorRT backend against a GPU that records: order, sizes, synchronisation, release."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import recorded_gpu

from edgeseg import backends
from edgeseg.backends.base import Engine
from edgeseg.device import DeviceLimits
from edgeseg.errors import BackendMissing, EngineError, InputError
from edgeseg.types import ByteArray, Manifest, Preprocessing

SIZE = 8
PLAN = b"a plan"
FACTS: dict[str, Any] = {
    "file": "model.plan",
    "sha256": hashlib.sha256(PLAN).hexdigest(),
    "runtime": "tensorrt",
    "version": "10.7.0",
    "max_batch": 6,
    "dla_core": None,
    "capabilities": [],
    "version_compatible": False,
    "hardware_compatible": False,
    "gpu": "Card",
}
MANIFEST = Manifest(
    name="net-fp16",
    network="net",
    architecture="Unet",
    encoder="resnet34",
    file="model.onnx",
    sha256="0" * 64,
    weights_sha256="0" * 64,
    precision="fp16",
    inference_precision="f16",
    runtimes=("tensorrt", "onnxruntime"),
    input={"name": "slices", "dtype": "uint8", "shape": ["batch", 3, SIZE, SIZE]},
    output={"name": "logits", "dtype": "float32", "shape": ["batch", 1, SIZE, SIZE]},
    preprocessing=Preprocessing(size_px=SIZE),
    threshold=0.5,
    calibration=None,
    tools={},
    parity=None,
    licence="CC0-1.0",
    plan=FACTS,
)

Machine = SimpleNamespace
Start = Callable[..., Machine]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """A machine with TensorRT and one of the bindings, all of them doubles."""

    def started(binding: str = "cuda-python", graphs: bool = True, module: str = "tensorrt", **of: Any) -> Machine:
        gpu = recorded_gpu.Gpu()
        trt = recorded_gpu.TensorRt(gpu, **of)
        monkeypatch.setitem(sys.modules, module, trt)
        monkeypatch.delitem(sys.modules, "edgeseg.backends.pycuda", raising=False)
        runtime = recorded_gpu.cuda_python(gpu, graphs)
        monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(bindings=SimpleNamespace(runtime=runtime)))
        monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=runtime))
        monkeypatch.setitem(sys.modules, "pycuda", recorded_gpu.pycuda(gpu) if binding == "pycuda" else None)
        return Machine(gpu=gpu, trt=trt)

    return started


def _open(manifest: Manifest = MANIFEST, content: bytes = PLAN, device: str = "auto", **facts: Any) -> Engine:
    return backends.open_engine(replace(manifest, plan={**FACTS, **facts}), content, device=device)


def _slices(count: int) -> ByteArray:
    return np.random.default_rng(count).integers(0, 256, (count, 3, SIZE, SIZE)).astype(np.uint8)


@pytest.mark.parametrize("binding", ["cuda-python", "pycuda"])
@pytest.mark.parametrize("count", [0, 1, 3, 6, 7, 26])
def test_each_slice_gets_its_own_logits(binding: str, count: int, start: Start) -> None:
    """The double does work only where it was waited for, so a missing synchronisation shows here."""
    machine = start(binding)
    slices = _slices(count)
    with _open() as engine:
        for given in (slices, 255 - slices, slices):
            assert np.array_equal(engine.predict_logits(given), given[:, :1].astype(np.float32) - 100)
    assert not machine.gpu.living


def test_batches_are_padded_to_a_few_sizes_and_only_logits_of_slices_come_back(start: Start) -> None:
    machine = start()
    with _open() as engine:
        engine.predict_logits(_slices(15))
    sizes = [context.shape[0] for context in machine.trt.contexts]
    assert sizes == [6, 6, 4]
    up = [size // (3 * SIZE * SIZE) for kind, size in machine.gpu.copied if kind == "up"]
    down = [size // (4 * SIZE * SIZE) for kind, size in machine.gpu.copied if kind == "down"]
    assert (up, down) == ([6, 6, 4], [6, 6, 3])


def test_dla_gets_batches_of_one_size(start: Start) -> None:
    machine = start()
    slices = _slices(8)
    with _open(dla_core=0) as engine:
        assert np.array_equal(engine.predict_logits(slices), slices[:, :1].astype(np.float32) - 100)
    assert [context.shape[0] for context in machine.trt.contexts] == [6, 6]


def test_each_batch_size_is_captured_once_for_each_buffer_and_replayed(start: Start) -> None:
    machine = start()
    with _open() as engine:
        engine.predict_logits(_slices(24))
        runs = machine.gpu.calls.count("execute")
        engine.predict_logits(_slices(24))
        assert machine.gpu.calls.count("execute") == runs == 4, "a first run and a capture for each of two buffers"
        assert machine.gpu.calls.count("cudaGraphInstantiate") == 2
        assert machine.gpu.calls.count("cudaGraphLaunch") == 8, "one for each batch"
    assert len({context.scratch for context in machine.trt.contexts}) == 1


@pytest.mark.parametrize(("binding", "graphs"), [("cuda-python", False), ("pycuda", True)])
def test_without_graphs_the_network_is_enqueued_each_time(binding: str, graphs: bool, start: Start) -> None:
    machine = start(binding, graphs)
    slices = _slices(20)
    with _open() as engine:
        assert np.array_equal(engine.predict_logits(slices), slices[:, :1].astype(np.float32) - 100)
    assert machine.gpu.calls.count("execute") >= 4
    assert "cudaGraphLaunch" not in machine.gpu.calls


def test_the_next_batch_goes_up_before_the_last_is_waited_for(start: Start) -> None:
    machine = start()
    with _open() as engine:
        engine.predict_logits(_slices(24))
        machine.gpu.calls.clear()
        engine.predict_logits(_slices(24))
        calls = list(machine.gpu.calls)
        order = [name for name in calls if name in ("cudaMemcpyAsync", "cudaEventSynchronize")]
    up_down = ["cudaMemcpyAsync", "cudaMemcpyAsync"]
    wait = ["cudaEventSynchronize"]
    assert order == [*up_down, *up_down, *wait, *up_down, *wait, *up_down, *wait, *wait]
    assert not {"cudaStreamSynchronize", "cudaDeviceSynchronize"} & set(calls)


@pytest.mark.parametrize(
    "call", ["cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags"]
)
def test_what_was_allocated_is_freed_when_opening_fails(call: str, start: Start) -> None:
    machine = start()
    machine.gpu.broken = call
    with pytest.raises(EngineError, match=rf"CUDA refuses {call} \(broken on purpose\)"):
        _open()
    assert not machine.gpu.living


@pytest.mark.parametrize("call", ["cudaMemcpyAsync", "cudaEventRecord", "cudaGraphLaunch", "cudaEventSynchronize"])
def test_an_error_while_running_releases_everything_and_closes(call: str, start: Start) -> None:
    machine = start()
    engine = _open()
    engine.predict_logits(_slices(6))
    machine.gpu.broken = call
    with pytest.raises(EngineError, match=call):
        engine.predict_logits(_slices(6))
    assert not machine.gpu.living
    with pytest.raises(EngineError, match="was closed"):
        engine.predict_logits(_slices(6))


@pytest.mark.parametrize("call", ["device", "pinned", "Stream", "record", "memcpy_htod_async", "Event.synchronize"])
def test_pycudas_errors_are_engine_errors_and_release_everything(call: str, start: Start) -> None:
    machine = start("pycuda")
    machine.gpu.broken = call
    with pytest.raises(EngineError, match="CUDA refuses a call"):
        _open().predict_logits(_slices(3))
    assert not machine.gpu.living


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("load", r"refuses net-fp16 \(this plan is not for you\)"),
        ("context", "out of memory"),
        ("run", "kernel is gone"),
    ],
)
def test_an_error_of_tensorrt_is_told_in_its_words(broken: str, sentence: str, start: Start) -> None:
    machine = start()
    machine.trt.broken = broken
    with pytest.raises(EngineError, match=sentence):
        _open().predict_logits(_slices(3))
    assert not machine.gpu.living


def test_a_plan_that_is_not_the_manifests_is_never_loaded(start: Start) -> None:
    machine = start()
    with pytest.raises(EngineError, match=r"not the one that its manifest names: build it .* --backend tensorrt"):
        _open(content=PLAN + b"!")
    assert not machine.trt.loaded
    assert not machine.gpu.calls


def test_a_manifest_without_a_plan_is_refused(start: Start) -> None:
    start()
    with pytest.raises(InputError, match="holds no plan"):
        backends.open_engine(replace(MANIFEST, plan=None), PLAN)


@pytest.mark.parametrize(
    ("facts", "served"),
    [
        ({"version": "10.7.1"}, False),
        ({"version": "10.3.0", "version_compatible": True}, True),
        ({"version": "11.0.0", "version_compatible": True}, False),
        ({"gpu": "Other"}, False),
        ({"gpu": "Other", "hardware_compatible": True}, True),
        ({"capabilities": ["8.6"]}, False),
        ({"capabilities": ["8.6", "8.9"]}, True),
    ],
)
def test_plans_of_other_versions_and_gpus_are_refused(facts: dict[str, Any], served: bool, start: Start) -> None:
    machine = start()
    if served:
        _open(**facts).close()
        assert machine.trt.loaded
    else:
        with pytest.raises(EngineError, match=r"was built (by|for) .*this machine has .*edgeseg build-engine"):
            _open(**facts)
        assert not machine.trt.loaded, "refused before it is deserialised"
    assert not machine.gpu.living


def test_only_version_compatible_plans_may_bring_host_code(start: Start) -> None:
    machine = start()
    _open().close()
    _open(version_compatible=True, dla_core=1).close()
    told = [(runtime.engine_host_code_allowed, runtime.DLA_core) for runtime in machine.trt.runtimes]
    assert told == [(False, -1), (True, 1)]


def test_tensorrt_for_rtx_is_the_same_with_another_module(start: Start) -> None:
    machine = start(module="tensorrt_rtx", version="1.7.1.116")
    manifest = replace(MANIFEST, runtimes=("tensorrt-rtx",))
    slices = _slices(5)
    with _open(manifest, runtime="tensorrt-rtx", version="1.7.1.116", gpu=None) as engine:
        assert engine.runtime == "TensorRT for RTX 1.7.1.116"
        assert engine.device == "Card (compute capability 8.9)"
        assert engine.inference_precision == "f16"
        assert np.array_equal(engine.predict_logits(slices), slices[:, :1].astype(np.float32) - 100)
    assert not machine.gpu.living


@pytest.mark.parametrize("version", ["8.6.2", "10.0.1", "10.2.9", "12.0.0", "unknown"])
def test_other_versions_of_tensorrt_are_told_to_change(version: str, start: Start) -> None:
    start(version=version)
    with pytest.raises(BackendMissing, match=rf"{version} is installed, edgeseg takes 10.3 .*JetPack 6.1"):
        _open(version=version)


@pytest.mark.parametrize("device", ["cpu", "NPU9", "cuda:x"])
def test_it_runs_on_gpus_alone(device: str, start: Start) -> None:
    start()
    with pytest.raises(InputError, match=f"not on {device}"):
        _open(device=device)


def test_other_names_and_other_sizes_are_refused(start: Start) -> None:
    machine = start(names=("image", "mask"))
    with pytest.raises(EngineError, match="other inputs or outputs"):
        _open()
    assert not machine.gpu.living
    start()
    with _open() as engine, pytest.raises(EngineError, match=r"takes \(3, 8, 8\) slices, not \(3, 4, 4\)"):
        engine.predict_logits(np.zeros((1, 3, 4, 4), np.uint8))


def test_without_a_binding_the_remedy_is_named(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendMissing, match=r"edgeseg\[tensorrt\]"):
        _open()


# --- timing


@pytest.mark.parametrize("binding", ["cuda-python", "pycuda"])
@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 4), (6, 6), (26, 6)])
def test_copies_and_network_are_timed_apart(binding: str, count: int, size: int, start: Start) -> None:
    """The double's events say when they came to pass, and refuse to before they did."""
    machine = start(binding)
    with _open() as engine:
        for _ in range(2):
            found = engine.time_steps(_slices(count))
            assert found is not None
            up, down = size * 3 * SIZE * SIZE / 1000, size * 4 * SIZE * SIZE / 1000
            assert (found.batch, found.upload_ms, found.compute_ms, found.download_ms) == pytest.approx(
                (size, up, 10 * size, down)
            )
        slices = _slices(5)
        assert np.array_equal(engine.predict_logits(slices), slices[:, :1].astype(np.float32) - 100)
    assert not machine.gpu.living


def test_each_step_is_between_two_marks_of_one_stream_and_waited_for_once(start: Start) -> None:
    machine = start()
    with _open() as engine:
        engine.time_steps(_slices(6))
        machine.gpu.calls.clear()
        engine.time_steps(_slices(6))
        calls = [name for name in machine.gpu.calls if name != "cudaSetDevice"]
    mark, copy = "cudaEventRecord", "cudaMemcpyAsync"
    queued = [mark, copy, mark, "cudaGraphLaunch", mark, copy, mark]
    assert calls == [*queued, "cudaEventSynchronize", *["cudaEventElapsedTime"] * 3]


@pytest.mark.parametrize(
    "call", ["cudaMemcpyAsync", "cudaEventRecord", "cudaGraphLaunch", "cudaEventSynchronize", "cudaEventElapsedTime"]
)
def test_an_error_while_timing_releases_everything_and_closes(call: str, start: Start) -> None:
    machine = start()
    engine = _open()
    engine.time_steps(_slices(6))
    machine.gpu.broken = call
    with pytest.raises(EngineError, match=call):
        engine.time_steps(_slices(6))
    assert not machine.gpu.living
    with pytest.raises(EngineError, match="was closed"):
        engine.time_steps(_slices(6))


@pytest.mark.parametrize("binding", ["cuda-python", "pycuda"])
def test_the_driver_says_what_the_card_can_do(binding: str, start: Start) -> None:
    machine = start(binding)
    with _open() as engine:
        assert engine.limits() == DeviceLimits("8.9", 128, 2_520_000, 10_501_000, 384)
        machine.gpu.broken = "cudaDeviceGetAttribute" if binding == "cuda-python" else "get_attribute"
        with pytest.raises(EngineError, match="CUDA refuses"):
            engine.limits()
    assert not machine.gpu.living


def test_the_doubles_calls_are_those_of_cuda_python() -> None:
    """Every name that the double answers to is there in the real binding, where that is installed."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    double = recorded_gpu.cuda_python(recorded_gpu.Gpu())
    assert not [name for name in vars(double) if not hasattr(runtime, name)]
    assert not [name for name in vars(double.cudaDeviceAttr) if not hasattr(runtime.cudaDeviceAttr, name)]
    assert (runtime.cudaEventDefault, runtime.cudaEventDisableTiming) == (0, 2)
