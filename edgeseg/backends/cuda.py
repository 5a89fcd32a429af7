"""A GPU's memory, streams, events and graphs behind one small class: pycuda where installed, cuda-python otherwise."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgeseg.errors import EngineError

Handle = Any
"""A stream, an event or a graph: the binding's own object."""


def open_gpu(index: int = 0) -> Gpu:
    """The machine's GPU of this index, through whichever binding is installed.

    Raises
    ------
    ImportError
        When there is no binding.
    EngineError
        When there is no GPU or no driver.
    """
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

    def event(self) -> Handle:
        """A mark in a stream."""
        made = self._call(self._cuda.cudaEventCreateWithFlags, self._cuda.cudaEventDisableTiming)
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
