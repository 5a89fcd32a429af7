"""PyTorch on a GPU, without one: the order of its calls, graphs by batch size, and that nothing is read too early."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch  # noqa: TID253  what is doubled
from torch import nn  # noqa: TID253

from edgeseg.backends.pytorch import PyTorchGpuEngine
from edgeseg.device import DeviceLimits
from edgeseg.errors import EngineError
from edgeseg.types import ByteArray

SIZE = 8


class Recorded:
    """What was called, in order; a clock that each step of the network moves by 10 ms, and each copy by 1."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.clock_ms = 0.0
        self.reached = -1.0
        self.broken = ""

    def say(self, name: str) -> None:
        """Note a call, or fail in it."""
        self.calls.append(name)
        if name == self.broken:
            raise RuntimeError(f"{name} is broken on purpose")


class Network(nn.Module):
    """Logits are the first channel less 100."""

    def __init__(self, gpu: Recorded) -> None:
        super().__init__()
        self.gpu = gpu

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        self.gpu.say("network")
        self.gpu.clock_ms += 10
        return slices[:, :1].float() - 100


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """A double of ``torch.cuda``; tensors stay on the CPU."""
    made = Recorded()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.at = -1.0

        def record(self) -> None:
            made.say("record")
            self.at = made.clock_ms

        def synchronize(self) -> None:
            made.say("synchronize")
            made.reached = self.at

        def elapsed_time(self, end: Event) -> float:
            assert made.reached >= end.at, "asked before it came to pass"
            return end.at - self.at

    def graphed(function: Callable[..., Any], given: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
        made.say("capture")
        function(*given)
        made.calls.remove("network")

        def replay(slices: torch.Tensor) -> torch.Tensor:
            assert slices is given[0], "a graph reads the buffer that it was captured with"
            made.say("replay")
            made.clock_ms += 10
            return slices[:, :1].float() - 100

        return replay

    real = torch.Tensor.copy_

    def copy(self: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        if non_blocking:
            made.say("copy")
            made.clock_ms += 1
        return real(self, source)

    properties = SimpleNamespace(
        name="Card",
        major=8,
        minor=9,
        multi_processor_count=128,
        clock_rate=2_520_000,
        memory_clock_rate=10_501_000,
        memory_bus_width=384,
    )
    to = torch.Tensor.to
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *a: self.clone() if a == ("cuda",) else to(self, *a))
    monkeypatch.setattr(nn.Module, "to", lambda self, device: self if device == "cuda" else None)
    return made


def _slices(count: int) -> ByteArray:
    return np.random.default_rng(count).integers(0, 256, (count, 3, SIZE, SIZE)).astype(np.uint8)


def test_each_slice_gets_its_own_logits_by_one_graph_a_batch_size(gpu: Recorded) -> None:
    with PyTorchGpuEngine(Network(gpu)) as engine:
        assert (engine.device, engine.inference_precision) == ("Card (compute capability 8.9)", "f16")
        for slices in (_slices(6), _slices(7), _slices(2)):
            assert np.array_equal(engine.predict_logits(slices), slices[:, :1].astype(np.float32) - 100)
        assert gpu.calls.count("capture") == 3, "4 slices at once, and the rests 2 and 3"
        assert gpu.calls.count("replay") == 5
    with pytest.raises(EngineError, match="was closed"):
        engine.predict_logits(_slices(1))


def test_copies_and_network_are_timed_apart_and_waited_for_once(gpu: Recorded) -> None:
    with PyTorchGpuEngine(Network(gpu)) as engine:
        engine.time_steps(_slices(2))
        gpu.calls.clear()
        found = engine.time_steps(_slices(2))
    assert found is not None
    assert (found.batch, found.upload_ms, found.compute_ms, found.download_ms) == (2, 1.0, 10.0, 1.0)
    assert gpu.calls == ["record", "copy", "record", "replay", "record", "copy", "record", "synchronize"]


def test_compiled_pytorch_makes_the_graphs_itself(gpu: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def compiled(network: nn.Module, **of: Any) -> nn.Module:
        asked.append(of)
        return network

    monkeypatch.setattr(torch, "compile", compiled)
    slices = _slices(3)
    with PyTorchGpuEngine(Network(gpu), compiled=True) as engine:
        assert np.array_equal(engine.predict_logits(slices), slices[:, :1].astype(np.float32) - 100)
    assert asked == [{"mode": "reduce-overhead", "dynamic": False}]
    assert "capture" not in gpu.calls
    assert gpu.calls.count("network") == 1


def test_the_driver_says_what_the_card_can_do(gpu: Recorded) -> None:
    with PyTorchGpuEngine(Network(gpu)) as engine:
        assert engine.limits() == DeviceLimits("8.9", 128, 2_520_000, 10_501_000, 384)


@pytest.mark.parametrize("call", ["copy", "record", "replay", "synchronize"])
def test_pytorchs_errors_are_engine_errors(call: str, gpu: Recorded) -> None:
    with PyTorchGpuEngine(Network(gpu)) as engine:
        engine.predict_logits(_slices(1))
        gpu.broken = call
        for run in (engine.predict_logits, engine.time_steps):
            with pytest.raises(EngineError, match=f"failed on .* {call} is broken on purpose"):
                run(_slices(1))


def test_the_halved_network_is_the_same_network(tiny_weights: Any) -> None:
    from edgeseg import model

    network = model.runnable(*model.load(tiny_weights))
    slices = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8))
    with torch.no_grad():
        single, half = network(slices), model.halved(network)(slices)
    inner = network.get_submodule("network")
    weights = [parameter for parameter in inner.parameters() if parameter.ndim == 4 and parameter.shape[1] > 1]
    assert {parameter.dtype for parameter in inner.parameters()} == {torch.float16}
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert half.dtype == torch.float32
    assert 0 < float((single - half).abs().max()) < 0.05 * float(single.abs().max())
