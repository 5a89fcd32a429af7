"""A GPU's memory, streams, events and graphs behind one small class: pycuda where installed, cuda-python otherwise."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from edgeseg.device import DeviceLimits
from edgeseg.errors import EngineError, InputError

Handle = Any
"""A stream, an event or a graph: the binding's own object."""


def open_gpu(device: str = "auto") -> Gpu:
    """One of the machine's GPUs, ``cuda:1`` the second, through whichever binding is installed.

    Raises
    ------
    ImportError
        When there is no binding.
    EngineError
        When there is no GPU or no driver.
    InputError
        When ``device`` is none of NVIDIA's.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "gpu", "cuda") or not (number or "0").isdigit():
        raise InputError(f"TensorRT runs on NVIDIA GPUs, not on {device}: give --device cuda, or cuda:1 for the second")
    index = int(number or "0")
    try:
        from edgeseg.backends.pycuda import PyCudaGpu
    except ImportError:
        return Gpu(index)
    return PyCudaGpu(index)


class Gpu:
    """One GPU, through ``cuda.bindings.runtime``. Use it inside `current`; `close` frees whatever was allocated.

    Attributes
    ----------
    name
        What the driver calls it.
    capability
        Compute capability, such as ``8.9``.
    """

    name: str
    capability: str

    def __init__(self, index: int = 0) -> None:
        from cuda.bindings import runtime

        self._cuda: Any = runtime
        self._index = index
        self._frees: list[tuple[Callable[..., Any], Any]] = []
        with self.current():
            properties = self._call(runtime.cudaGetDeviceProperties, index)
        self.name = bytes(properties.name).split(b"\0")[0].decode()
        self.capability = f"{properties.major}.{properties.minor}"

    def limits(self) -> DeviceLimits:
        """What the driver says that it can do."""
        kinds = self._cuda.cudaDeviceAttr
        wanted = (
            kinds.cudaDevAttrMultiProcessorCount,
            kinds.cudaDevAttrClockRate,
            kinds.cudaDevAttrMemoryClockRate,
            kinds.cudaDevAttrGlobalMemoryBusWidth,
        )
        found = [int(self._call(self._cuda.cudaDeviceGetAttribute, kind, self._index)) for kind in wanted]
        return DeviceLimits(self.capability, *found)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        error, *values = function(*arguments)
        if error != self._cuda.cudaError_t.cudaSuccess:
            said = self._cuda.cudaGetErrorString(error)[1].decode()
            raise EngineError(f"CUDA refuses {function.__name__} ({said}): look at the GPU with nvidia-smi")
        return values[0] if values else None

    def _owned(self, value: Any, free: Callable[..., Any]) -> Any:
        self._frees.append((free, value))
        return value

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it this thread's GPU."""
        self._call(self._cuda.cudaSetDevice, self._index)
        yield

    def device_memory(self, size: int) -> int:
        """Address of ``size`` bytes on the GPU."""
        return int(self._owned(self._call(self._cuda.cudaMalloc, size), self._cuda.cudaFree))

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        """A page-locked host array, which copies need in order to run beside the host."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self._owned(
            self._call(self._cuda.cudaHostAlloc, size, self._cuda.cudaHostAllocDefault), self._cuda.cudaFreeHost
        )
        memory: Any = (ctypes.c_uint8 * size).from_address(int(address))
        return np.frombuffer(memory, dtype).reshape(shape)

    def stream(self) -> Handle:
        """A queue of work on the GPU."""
        made = self._call(self._cuda.cudaStreamCreateWithFlags, self._cuda.cudaStreamNonBlocking)
        return self._owned(made, self._cuda.cudaStreamDestroy)

    def event(self, timed: bool = False) -> Handle:
        """A mark in a stream; ``timed`` for `elapsed_ms`, which costs the GPU a little each time."""
        flags = self._cuda.cudaEventDefault if timed else self._cuda.cudaEventDisableTiming
        made = self._call(self._cuda.cudaEventCreateWithFlags, flags)
        return self._owned(made, self._cuda.cudaEventDestroy)

    def address(self, stream: Handle) -> int:
        """The stream as TensorRT takes it."""
        return int(stream)

    def upload(self, address: int, array: Any, stream: Handle) -> None:
        """Copy a pinned array to the GPU, in the stream's turn."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._cuda.cudaMemcpyAsync, address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, array: Any, address: int, stream: Handle) -> None:
        """Copy from the GPU to a pinned array, in the stream's turn."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._cuda.cudaMemcpyAsync, array.ctypes.data, address, array.nbytes, kind, stream)

    def record(self, event: Handle, stream: Handle) -> None:
        """Mark the end of what the stream holds now."""
        self._call(self._cuda.cudaEventRecord, event, stream)

    def wait(self, stream: Handle, event: Handle) -> None:
        """Hold the stream back until the event has come to pass."""
        self._call(self._cuda.cudaStreamWaitEvent, stream, event, 0)

    def finish(self, stream: Handle) -> None:
        """Hold the host back until the stream is empty."""
        self._call(self._cuda.cudaStreamSynchronize, stream)

    def reach(self, event: Handle) -> None:
        """Hold the host back until the event has come to pass."""
        self._call(self._cuda.cudaEventSynchronize, event)

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Time between two timed events that have come to pass."""
        return float(self._call(self._cuda.cudaEventElapsedTime, start, end))

    def time(self, stream: Handle, marks: list[Handle], steps: list[Callable[[], None]]) -> list[float]:
        """Queue steps one after the other, each between two of the timed events, and wait: ms of each."""
        self.record(marks[0], stream)
        for step, mark in zip(steps, marks[1:], strict=True):
            step()
            self.record(mark, stream)
        self.reach(marks[-1])
        return [self.elapsed_ms(start, end) for start, end in pairwise(marks)]

    def finish_all(self) -> None:
        """Hold the host back until nothing runs on the GPU."""
        self._call(self._cuda.cudaDeviceSynchronize)

    def capture(self, stream: Handle, enqueue: Callable[[], None]) -> Handle | None:
        """What ``enqueue`` puts into the stream, as a graph to launch again; None where it cannot be captured."""
        cuda = self._cuda
        self._call(cuda.cudaStreamBeginCapture, stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            enqueue()
            refused = False
        except EngineError:
            refused = True
        error, graph = cuda.cudaStreamEndCapture(stream)
        if refused or error != cuda.cudaError_t.cudaSuccess:
            cuda.cudaGetLastError()  # else the next call would report it
            return None
        try:
            return self._owned(self._call(cuda.cudaGraphInstantiate, graph, 0), cuda.cudaGraphExecDestroy)
        finally:
            self._call(cuda.cudaGraphDestroy, graph)

    def launch(self, graph: Handle, stream: Handle) -> None:
        """Put a captured graph into the stream."""
        self._call(self._cuda.cudaGraphLaunch, graph, stream)

    def close(self) -> None:
        """Free everything, last come first; a second call does nothing."""
        if self._frees:
            self._cuda.cudaSetDevice(self._index)
        while self._frees:
            free, value = self._frees.pop()
            free(value)
