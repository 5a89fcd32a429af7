"""The PyTorch model itself as an engine: what every other engine is compared with, and its fastest form on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.backends.base import Engine
from edgeseg.device import DeviceLimits, DeviceTimes
from edgeseg.types import ByteArray, FloatArray

if TYPE_CHECKING:
    import torch
    from torch import nn


class PyTorchEngine(Engine):
    """Runs ``edgeseg.model.with_byte_input(network)`` in FP32 on the CPU."""

    def __init__(self, network: nn.Module, threads: int | None = None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)  # of the whole process

        self.runtime = f"PyTorch {torch.__version__}"
        self.device = "CPU"
        self.inference_precision = "f32"
        self._network: nn.Module = network.eval()

    def _run(self, slices: ByteArray) -> FloatArray:
        import torch

        with torch.inference_mode():
            logits = self._network(torch.from_numpy(slices))
        return np.asarray(logits.numpy(), dtype=np.float32)

    def _release(self) -> None:
        del self._network


@dataclass(frozen=True)
class _Batch:
    """Buffers of one batch size, page-locked and on the GPU, and what runs the network on the latter."""

    given: torch.Tensor
    on_gpu: torch.Tensor
    run: Callable[[torch.Tensor], torch.Tensor]
    returned: torch.Tensor


class PyTorchGpuEngine(Engine):
    """Runs ``edgeseg.model.halved(network)`` on the first GPU: each batch size as a CUDA graph, or compiled by PyTorch.

    Compiled, ``torch.compile`` makes the graphs itself (its mode ``reduce-overhead``).
    """

    def __init__(self, network: nn.Module, compiled: bool = False) -> None:
        import torch

        self.runtime = f"PyTorch {torch.__version__}"
        self._properties: Any = torch.cuda.get_device_properties(0)
        self._capability = f"{self._properties.major}.{self._properties.minor}"
        self.device = f"{self._properties.name} (compute capability {self._capability})"
        self.inference_precision = "f16"
        network = network.eval().requires_grad_(False).to("cuda")
        self._network: Any = torch.compile(network, mode="reduce-overhead", dynamic=False) if compiled else network
        self._compiled = compiled
        self._batches: dict[int, _Batch] = {}
        self._marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]  # type: ignore[no-untyped-call]

    def limits(self) -> DeviceLimits:
        """What the GPU's driver says that it can do."""
        own = self._properties
        clocks = own.clock_rate, own.memory_clock_rate, own.memory_bus_width
        return DeviceLimits(self._capability, own.multi_processor_count, *clocks)

    def _run(self, slices: ByteArray) -> FloatArray:
        return np.array(self._pass(slices).returned.numpy(), dtype=np.float32)

    def _time(self, slices: ByteArray) -> DeviceTimes:
        self._pass(slices)
        return DeviceTimes(len(slices), *(start.elapsed_time(end) for start, end in pairwise(self._marks)))

    def _pass(self, slices: ByteArray) -> _Batch:
        """Up, through the network, down, each between two marks; returns when all is done."""
        import torch

        with torch.no_grad():
            batch = self._batches.get(len(slices)) or self._prepare(slices.shape)
            batch.given.copy_(torch.from_numpy(slices))
            self._marks[0].record()
            batch.on_gpu.copy_(batch.given, non_blocking=True)
            self._marks[1].record()
            logits = batch.run(batch.on_gpu)
            self._marks[2].record()
            batch.returned.copy_(logits, non_blocking=True)
            self._marks[3].record()
            self._marks[3].synchronize()
        return batch

    def _prepare(self, shape: tuple[int, ...]) -> _Batch:
        import torch

        given = torch.zeros(shape, dtype=torch.uint8).pin_memory()
        returned = torch.zeros((shape[0], 1, *shape[2:])).pin_memory()
        on_gpu, run = given.to("cuda"), self._network
        if not self._compiled:
            run = torch.cuda.make_graphed_callables(lambda slices: self._network(slices), (on_gpu,))
        self._batches[shape[0]] = made = _Batch(given, on_gpu, run, returned)
        return made

    def _release(self) -> None:
        self._batches.clear()
        del self._network
