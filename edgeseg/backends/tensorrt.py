"""TensorRT and TensorRT for RTX: verified plans on NVIDIA GPUs, copies overlapped with compute by double buffering."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgeseg import nvidia
from edgeseg.backends.base import Engine
from edgeseg.backends.cuda import Gpu, Handle, open_gpu
from edgeseg.device import DeviceLimits, DeviceTimes
from edgeseg.errors import EngineError
from edgeseg.types import ByteArray, FloatArray, Manifest


@dataclass
class _Slot:
    """One of the two sets of buffers. ``waiting``: where in the result its logits go, and how many."""

    given: Any
    returned: Any
    given_at: int
    returned_at: int
    uploaded: Handle
    computed: Handle
    downloaded: Handle
    marks: list[Handle]
    waiting: tuple[int, int] | None = None


class TensorRtEngine(Engine):
    """Runs a plan in batches of 1, 2, 4 ... and the largest that it was built for, each as a CUDA graph."""

    batch = 1024  # `_run` is given a study at once and takes it apart itself, so that its batches overlap

    def __init__(
        self,
        content: bytes,
        manifest: Manifest,
        device: str = "auto",
        threads: int | None = None,  # noqa: ARG002  the GPU's own business
    ) -> None:
        self._facts = nvidia.verified(content, manifest)
        self._manifest = manifest
        self._module = nvidia.load(self._facts["runtime"])
        self._logger = nvidia.recorder(self._module)
        self.runtime = f"{nvidia.PRODUCTS[self._facts['runtime']].title} {self._module.__version__}"
        self.inference_precision = manifest.inference_precision
        nvidia.check_version(str(self._module.__version__), manifest)
        self._launches: dict[tuple[int, int], Callable[[], None]] = {}
        self._slots: list[_Slot] = []
        self._plan: Any = None
        self._owner: Any = None
        self._gpu: Gpu = open_gpu(device)
        self.device = f"{self._gpu.name} (compute capability {self._gpu.capability})"
        with self._guarded():
            nvidia.check_gpu(self._gpu.name, self._gpu.capability, manifest)
            self._load(content)
            self._allocate()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """The GPU, for calls after whose failure nothing of it can be trusted: all is released, the engine closed."""
        try:
            with self._gpu.current():
                yield
        except BaseException:
            self.close()
            raise

    def _load(self, content: bytes) -> None:
        self._owner = self._module.Runtime(self._logger)
        if self._facts["version_compatible"]:
            self._owner.engine_host_code_allowed = True  # such plans carry their runtime; the hash was checked
        if self._facts["dla_core"] is not None:
            self._owner.DLA_core = self._facts["dla_core"]
        self._plan = self._owner.deserialize_cuda_engine(content)
        if self._plan is None:
            why = self._logger.last()
            raise EngineError(f"{self.runtime} refuses {self._manifest.name} ({why}): {nvidia.rebuild(self._manifest)}")
        wanted = {self._manifest.input["name"]: self._module.uint8, self._manifest.output["name"]: self._module.float32}
        names = [self._plan.get_tensor_name(index) for index in range(self._plan.num_io_tensors)]
        if {name: self._plan.get_tensor_dtype(name) for name in names} != wanted:
            raise EngineError(
                f"the plan of {self._manifest.name} has other inputs or outputs: {nvidia.rebuild(self._manifest)}"
            )

    def _allocate(self) -> None:
        gpu, largest = self._gpu, int(self._facts["max_batch"])
        powers = [1 << power for power in range(largest.bit_length()) if 1 << power < largest]
        self._sizes = [*(powers if self._facts["dla_core"] is None else ()), largest]  # DLA takes one size alone
        self._upload, self._compute, self._download = gpu.stream(), gpu.stream(), gpu.stream()
        self._scratch_size = int(self._plan.device_memory_size_v2)
        self._scratch = gpu.device_memory(max(1, self._scratch_size))  # one for all: a stream computes in turn
        given, returned = ((largest, *side["shape"][1:]) for side in (self._manifest.input, self._manifest.output))
        for _ in range(2):
            host = gpu.pinned(given, np.uint8), gpu.pinned(returned, np.float32)
            given_at, returned_at = gpu.device_memory(host[0].nbytes), gpu.device_memory(host[1].nbytes)
            marks = [gpu.event(timed=True) for _ in range(4)]
            self._slots.append(_Slot(*host, given_at, returned_at, gpu.event(), gpu.event(), gpu.event(), marks))

    def _check(self, slices: ByteArray) -> None:
        super()._check(slices)
        if slices.shape[1:] != self._slots[0].given.shape[1:]:
            raise EngineError(f"the plan takes {self._slots[0].given.shape[1:]} slices, not {slices.shape[1:]}")

    def _run(self, slices: ByteArray) -> FloatArray:
        largest = self._sizes[-1]
        logits = np.empty((len(slices), 1, *slices.shape[2:]), np.float32)
        with self._guarded():
            for turn, start in enumerate(range(0, len(slices), largest)):
                self._collect(self._slots[turn % 2], logits)
                self._dispatch(turn % 2, slices[start : start + largest], start)
            for slot in self._slots:
                self._collect(slot, logits)
        return logits

    def _dispatch(self, which: int, part: ByteArray, start: int) -> None:
        """Queue one batch: up, through the network, down; each stream waits for the one before."""
        gpu, slot, count = self._gpu, self._slots[which], len(part)
        size, launch = self._launch(which, count)
        slot.given[:count] = part
        gpu.upload(slot.given_at, slot.given[:size], self._upload)
        gpu.record(slot.uploaded, self._upload)
        gpu.wait(self._compute, slot.uploaded)
        launch()
        gpu.record(slot.computed, self._compute)
        gpu.wait(self._download, slot.computed)
        gpu.download(slot.returned[:count], slot.returned_at, self._download)
        gpu.record(slot.downloaded, self._download)
        slot.waiting = (start, count)

    def _launch(self, which: int, count: int) -> tuple[int, Callable[[], None]]:
        """The size that so many slices are padded to, and what puts the network for it into the compute stream."""
        size = next(size for size in self._sizes if size >= count)
        if (which, size) not in self._launches:
            self._launches[which, size] = self._prepare(self._slots[which], size)
        return size, self._launches[which, size]

    def _time(self, slices: ByteArray) -> DeviceTimes:
        """One batch up, through the network and down again in one stream: nothing overlaps, and nothing waits."""
        gpu, slot, part = self._gpu, self._slots[0], slices[: self._sizes[-1]]
        with self._guarded():
            size, launch = self._launch(0, len(part))  # captured before the clock runs
            slot.given[: len(part)] = part
            up = partial(gpu.upload, slot.given_at, slot.given[:size], self._compute)
            down = partial(gpu.download, slot.returned[:size], slot.returned_at, self._compute)
            return DeviceTimes(size, *gpu.time(self._compute, slot.marks, [up, launch, down]))

    def limits(self) -> DeviceLimits:
        """What the GPU's driver says that it can do."""
        with self._gpu.current():
            return self._gpu.limits()

    def _collect(self, slot: _Slot, logits: FloatArray) -> None:
        if slot.waiting is not None:
            start, count = slot.waiting
            self._gpu.reach(slot.downloaded)
            logits[start : start + count] = slot.returned[:count]
            slot.waiting = None

    def _prepare(self, slot: _Slot, size: int) -> Callable[[], None]:
        """What puts the network into the compute stream: a graph, or the enqueueing itself where none can be had."""
        context = self._plan.create_execution_context(self._module.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise EngineError(
                f"{self.runtime} has no memory for another batch size ({self._logger.last()}): close others"
            )
        context.set_device_memory(self._scratch, self._scratch_size)
        given, returned = self._manifest.input["name"], self._manifest.output["name"]
        context.set_input_shape(given, slot.given[:size].shape)
        context.set_tensor_address(given, slot.given_at)
        context.set_tensor_address(returned, slot.returned_at)
        enqueue = partial(self._enqueue, context)
        enqueue()  # the first run settles what a graph may not
        self._gpu.finish(self._compute)
        graph = self._gpu.capture(self._compute, enqueue)
        return enqueue if graph is None else partial(self._replay, context, graph)

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._gpu.address(self._compute)):
            raise EngineError(f"{self.runtime} failed ({self._logger.last()}): {nvidia.rebuild(self._manifest)}")

    def _replay(self, _context: Any, graph: Handle) -> None:
        """Launch a graph; the context that it was captured from has to live as long."""
        self._gpu.launch(graph, self._compute)

    def _release(self) -> None:
        with suppress(EngineError), self._gpu.current():
            self._gpu.finish_all()  # nothing may run on what is freed
        with suppress(EngineError), self._gpu.current():
            self._launches.clear()
            self._slots.clear()
            self._plan = self._owner = None
        self._gpu.close()
