"""The same GPU through pycuda, which Jetsons often have: the primary context, retained; graphs it does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pycuda import driver  # noqa: TID253  whoever imports this module wants to know whether pycuda is there

from edgeseg.backends.cuda import Gpu, Handle
from edgeseg.device import DeviceLimits
from edgeseg.errors import EngineError


class PyCudaGpu(Gpu):
    """`Gpu` with ``pycuda.driver`` in place of ``cuda.bindings.runtime``; never ``pycuda.autoinit``."""

    def __init__(self, index: int = 0) -> None:
        self._kept: list[Any] = []
        try:
            driver.init()
            self._device = device = driver.Device(index)
            self.name = str(device.name())
            self.capability = "{}.{}".format(*device.compute_capability())
            self._context: Any = device.retain_primary_context()  # the one that TensorRT uses
        except driver.Error as error:
            raise _refused(error) from error

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it this thread's GPU."""
        try:
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()
        except driver.Error as error:
            raise _refused(error) from error

    def _keep(self, made: Any) -> Any:
        self._kept.append(made)
        return made

    def device_memory(self, size: int) -> int:
        """Address of ``size`` bytes on the GPU."""
        return int(self._keep(driver.mem_alloc(size)))

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        """A page-locked host array, which copies need in order to run beside the host."""
        array = driver.pagelocked_empty(shape, dtype)
        self._keep(array.base)
        return array

    def stream(self) -> Handle:
        """A queue of work on the GPU."""
        return self._keep(driver.Stream())

    def event(self, timed: bool = False) -> Handle:
        """A mark in a stream; ``timed`` for `elapsed_ms`."""
        flags = driver.event_flags.DEFAULT if timed else driver.event_flags.DISABLE_TIMING
        return self._keep(driver.Event(flags))

    def address(self, stream: Handle) -> int:
        """The stream as TensorRT takes it."""
        return int(stream.handle)

    def upload(self, address: int, array: Any, stream: Handle) -> None:
        """Copy a pinned array to the GPU, in the stream's turn."""
        driver.memcpy_htod_async(address, array, stream)

    def download(self, array: Any, address: int, stream: Handle) -> None:
        """Copy from the GPU to a pinned array, in the stream's turn."""
        driver.memcpy_dtoh_async(array, address, stream)

    def record(self, event: Handle, stream: Handle) -> None:
        """Mark the end of what the stream holds now."""
        event.record(stream)

    def wait(self, stream: Handle, event: Handle) -> None:
        """Hold the stream back until the event has come to pass."""
        stream.wait_for_event(event)

    def finish(self, stream: Handle) -> None:
        """Hold the host back until the stream is empty."""
        stream.synchronize()

    def reach(self, event: Handle) -> None:
        """Hold the host back until the event has come to pass."""
        event.synchronize()

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Time between two timed events that have come to pass."""
        return float(end.time_since(start))

    def limits(self) -> DeviceLimits:
        """What the driver says that it can do."""
        kinds = driver.device_attribute
        wanted = (
            kinds.MULTIPROCESSOR_COUNT,
            kinds.CLOCK_RATE,
            kinds.MEMORY_CLOCK_RATE,
            kinds.GLOBAL_MEMORY_BUS_WIDTH,
        )
        return DeviceLimits(self.capability, *(int(self._device.get_attribute(kind)) for kind in wanted))

    def finish_all(self) -> None:
        """Hold the host back until nothing runs on the GPU."""
        driver.Context.synchronize()

    def capture(self, stream: Handle, enqueue: Callable[[], None]) -> Handle | None:  # noqa: ARG002
        """Nothing: pycuda has no graphs, so the network is enqueued each time."""
        return None

    def close(self) -> None:
        """Free everything, last come first; a second call does nothing."""
        if self._context is None:
            return
        with self.current():
            while self._kept:
                made = self._kept.pop()
                if hasattr(made, "free"):
                    made.free()
                del made  # streams and events end with their last reference, inside their context
        self._context.detach()
        self._context = None


def _refused(error: Exception) -> EngineError:
    return EngineError(
        f"CUDA refuses a call ({error}): look at the GPU with nvidia-smi, or on a Jetson with tegrastats"
    )
