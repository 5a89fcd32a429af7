"""A GPU that is none: it records every call, and does queued work as late as its synchronisation allows.

Work in a stream is done when the host waits for it, and no earlier; of other streams, only what was waited for is
done. Whoever forgets to synchronise reads what was there before. Its clock runs while it works: a kilobyte copied takes
1 ms, a slice computed 10 ms.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np


class Work:
    """One entry of a stream."""

    def __init__(self, stream: Stream, action: Callable[[], None] | None = None, needs: Work | None = None) -> None:
        self.stream, self.action, self.needs, self.done = stream, action, needs, False

    def do(self) -> None:
        """Everything before it in its stream, what it waits for, and itself."""
        while not self.done:
            first = self.stream.queue.pop(0)
            if first.needs is not None and not first.needs.done:
                first.needs.do()
            if first.action is not None:
                first.action()
            first.done = True


class Stream:
    """A queue; ``captured`` is a list while it is being captured."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.queue: list[Work] = []
        self.captured: list[Callable[[], None]] | None = None

    def __int__(self) -> int:
        return self.number

    def add(self, action: Callable[[], None] | None = None, needs: Work | None = None) -> Work:
        """Put work at the end, or into the capture."""
        work = Work(self, action, needs)
        if self.captured is not None:
            assert action is not None
            self.captured.append(action)
        else:
            self.queue.append(work)
        return work

    def finish(self) -> None:
        """Do all of it."""
        if self.queue:
            self.queue[-1].do()


class Error(Enum):
    """CUDA's answers."""

    cudaSuccess = 0
    cudaErrorBroken = 1


class Gpu:
    """The state behind both bindings.

    Attributes
    ----------
    calls
        Names of the calls, in order.
    living
        What was allocated or made and not yet freed: kind and identity.
    broken
        Name of the call that fails.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.living: set[tuple[str, Any]] = set()
        self.broken = ""
        self.name, self.capability = "Card", (8, 9)
        self.streams: dict[int, Stream] = {}
        self.latest: dict[Any, Work] = {}
        self.memory: dict[int, Any] = {}
        self.copied: list[tuple[str, int]] = []
        self.clock_ms = 0.0
        self.limits = {"processors": 128, "clock": 2_520_000, "memory clock": 10_501_000, "bus": 384}

    def allocate(self, kind: str, size: int) -> int:
        """Address of memory that is really there, so that copies are real."""
        block = (ctypes.c_uint8 * max(1, size))()
        ctypes.memset(block, 0xAA, max(1, size))
        address = ctypes.addressof(block)
        self.memory[address] = block
        self.living.add((kind, address))
        return address

    def free(self, kind: str, address: int) -> None:
        """Only what is living can be freed."""
        self.living.remove((kind, address))
        self.memory.pop(address, None)

    def stream(self) -> Stream:
        """A new one."""
        made = Stream(1000 + len(self.streams))
        self.streams[made.number] = made
        self.living.add(("stream", made))
        return made

    def copy(self, kind: str, to: int, source: int, size: int, stream: Stream) -> None:
        """Queue a copy."""
        self.copied.append((kind, size))

        def move() -> None:
            ctypes.memmove(to, source, size)
            self.clock_ms += size / 1000

        stream.add(move)

    def array(self, address: int, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        """The memory at an address as an array."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(self.memory[address], dtype=np.uint8)[:size].view(dtype).reshape(shape)


def cuda_python(gpu: Gpu, graphs: bool = True) -> Any:
    """``cuda.bindings.runtime`` in front of the GPU."""

    def call(function: Callable[..., Any]) -> Callable[..., Any]:
        def answered(*arguments: Any) -> tuple[Any, ...]:
            gpu.calls.append(function.__name__)
            if function.__name__ == gpu.broken:
                return Error.cudaErrorBroken, None
            value = function(*arguments)
            return (Error.cudaSuccess,) if value is None else (Error.cudaSuccess, value)

        answered.__name__ = function.__name__
        return answered

    @call
    def cudaSetDevice(index: int) -> None:
        assert index == 0

    @call
    def cudaGetDeviceProperties(_index: int) -> Any:
        major, minor = gpu.capability
        return SimpleNamespace(name=gpu.name.encode() + b"\0" * 9, major=major, minor=minor)

    @call
    def cudaDeviceGetAttribute(kind: str, _index: int) -> int:
        return gpu.limits[kind]

    @call
    def cudaMalloc(size: int) -> int:
        return gpu.allocate("device", size)

    @call
    def cudaHostAlloc(size: int, _flags: int) -> int:
        return gpu.allocate("pinned", size)

    @call
    def cudaFree(address: int) -> None:
        gpu.free("device", address)

    @call
    def cudaFreeHost(address: int) -> None:
        gpu.free("pinned", address)

    @call
    def cudaStreamCreateWithFlags(_flags: int) -> Stream:
        return gpu.stream()

    @call
    def cudaStreamDestroy(stream: Stream) -> None:
        gpu.living.remove(("stream", stream))

    @call
    def cudaEventCreateWithFlags(flags: int) -> Any:
        event = Event(timed=flags == 0)
        gpu.living.add(("event", event))
        return event

    @call
    def cudaEventDestroy(event: Any) -> None:
        gpu.living.remove(("event", event))

    @call
    def cudaMemcpyAsync(to: int, source: int, size: int, kind: str, stream: Stream) -> None:
        gpu.copy(kind, to, source, size, stream)

    @call
    def cudaEventRecord(event: Any, stream: Stream) -> None:
        gpu.latest[event] = event.mark(gpu, stream)

    @call
    def cudaEventElapsedTime(start: Any, end: Any) -> float:
        return float(end.came_ms - start.came_ms)

    @call
    def cudaStreamWaitEvent(stream: Stream, event: Any, _flags: int) -> None:
        stream.add(needs=gpu.latest[event])

    @call
    def cudaEventSynchronize(event: Any) -> None:
        gpu.latest[event].do()

    @call
    def cudaStreamSynchronize(stream: Stream) -> None:
        stream.finish()

    @call
    def cudaDeviceSynchronize() -> None:
        for stream in gpu.streams.values():
            stream.finish()

    @call
    def cudaStreamBeginCapture(stream: Stream, _mode: Any) -> None:
        stream.captured = []

    def cudaStreamEndCapture(stream: Stream) -> tuple[Any, Any]:
        gpu.calls.append("cudaStreamEndCapture")
        actions, stream.captured = stream.captured, None
        return (Error.cudaSuccess, actions) if graphs else (Error.cudaErrorBroken, None)

    @call
    def cudaGraphInstantiate(actions: Any, _flags: int) -> Any:
        graph = Event()
        graph.actions = actions
        gpu.living.add(("graph", graph))
        return graph

    @call
    def cudaGraphDestroy(_graph: Any) -> None:
        return None

    @call
    def cudaGraphExecDestroy(graph: Any) -> None:
        gpu.living.remove(("graph", graph))

    @call
    def cudaGraphLaunch(graph: Any, stream: Stream) -> None:
        for action in graph.actions:
            stream.add(action)

    @call
    def cudaGetLastError() -> None:
        return None

    names = {name: value for name, value in locals().items() if name.startswith("cuda")}
    constants = {"cudaHostAllocDefault": 0, "cudaStreamNonBlocking": 1, "cudaEventDefault": 0}
    return SimpleNamespace(
        **names,
        **constants,
        cudaEventDisableTiming=2,
        cudaDeviceAttr=SimpleNamespace(
            cudaDevAttrMultiProcessorCount="processors",
            cudaDevAttrClockRate="clock",
            cudaDevAttrMemoryClockRate="memory clock",
            cudaDevAttrGlobalMemoryBusWidth="bus",
        ),
        cudaError_t=Error,
        cudaGetErrorString=lambda _error: (Error.cudaSuccess, b"broken on purpose"),
        cudaMemcpyKind=SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down"),
        cudaStreamCaptureMode=SimpleNamespace(cudaStreamCaptureModeThreadLocal=1),
    )


class Event:
    """An event, or a graph. When it came to pass, only one that is timed can say, and not before."""

    actions: Any = None

    def __init__(self, timed: bool = False) -> None:
        self.timed = timed
        self._came_ms: float | None = None

    def mark(self, gpu: Gpu, stream: Stream) -> Work:
        """Put it into a stream; what it said before is forgotten."""
        self._came_ms = None

        def pass_by() -> None:
            self._came_ms = gpu.clock_ms

        return stream.add(pass_by)

    @property
    def came_ms(self) -> float:
        """The GPU's time."""
        assert self.timed, "this event was made without a clock"
        assert self._came_ms is not None, "asked before it came to pass"
        return self._came_ms


def pycuda(gpu: Gpu) -> Any:
    """``pycuda`` in front of the GPU."""

    class DriverError(Exception):
        pass

    def said(name: str) -> None:
        gpu.calls.append(name)
        if name == gpu.broken:
            raise DriverError("broken on purpose")

    class Context:
        depth = 0

        def push(self) -> None:
            said("push")
            self.depth += 1

        def pop(self) -> None:
            said("pop")
            self.depth -= 1

        def detach(self) -> None:
            said("detach")
            assert self.depth == 0
            gpu.living.remove(("context", self))

        @staticmethod
        def synchronize() -> None:
            said("synchronize")
            for stream in gpu.streams.values():
                stream.finish()

    class Device:
        def __init__(self, index: int) -> None:
            assert index == 0

        def name(self) -> str:
            return gpu.name

        def compute_capability(self) -> tuple[int, int]:
            return gpu.capability

        def get_attribute(self, kind: str) -> int:
            said("get_attribute")
            return gpu.limits[kind]

        def retain_primary_context(self) -> Context:
            context = Context()
            gpu.living.add(("context", context))
            return context

    class Allocation:
        def __init__(self, kind: str, size: int) -> None:
            said(kind)
            self.kind, self.address = kind, gpu.allocate(kind, size)

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            gpu.free(self.kind, self.address)

    def pagelocked_empty(shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        allocation = Allocation("pinned", int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return _Based(gpu.array(allocation.address, shape, dtype), allocation)

    class DriverStream:
        def __init__(self) -> None:
            said("Stream")
            self.own = gpu.stream()
            gpu.living.remove(("stream", self.own))  # ends with its last reference
            self.handle = self.own.number

        def synchronize(self) -> None:
            said("Stream.synchronize")
            self.own.finish()

        def wait_for_event(self, event: DriverEvent) -> None:
            said("wait_for_event")
            self.own.add(needs=gpu.latest[event])

    class DriverEvent:
        def __init__(self, flags: int) -> None:
            self.own = Event(timed=flags == 0)

        def record(self, stream: DriverStream) -> None:
            said("record")
            gpu.latest[self] = self.own.mark(gpu, stream.own)

        def time_since(self, start: DriverEvent) -> float:
            said("time_since")
            return self.own.came_ms - start.own.came_ms

        def synchronize(self) -> None:
            said("Event.synchronize")
            gpu.latest[self].do()

    def memcpy_htod_async(address: int, array: Any, stream: DriverStream) -> None:
        said("memcpy_htod_async")
        gpu.copy("up", address, array.ctypes.data, array.nbytes, stream.own)

    def memcpy_dtoh_async(array: Any, address: int, stream: DriverStream) -> None:
        said("memcpy_dtoh_async")
        gpu.copy("down", array.ctypes.data, address, array.nbytes, stream.own)

    driver = SimpleNamespace(
        init=lambda: said("init"),
        Error=DriverError,
        Device=Device,
        Context=Context,
        Stream=DriverStream,
        Event=DriverEvent,
        event_flags=SimpleNamespace(DEFAULT=0, DISABLE_TIMING=2),
        device_attribute=SimpleNamespace(
            MULTIPROCESSOR_COUNT="processors",
            CLOCK_RATE="clock",
            MEMORY_CLOCK_RATE="memory clock",
            GLOBAL_MEMORY_BUS_WIDTH="bus",
        ),
        mem_alloc=lambda size: Allocation("device", size),
        pagelocked_empty=pagelocked_empty,
        memcpy_htod_async=memcpy_htod_async,
        memcpy_dtoh_async=memcpy_dtoh_async,
    )
    return SimpleNamespace(driver=driver)


class _Based:
    """An array whose ``base`` is its allocation, as pycuda's are."""

    def __init__(self, array: Any, base: Any) -> None:
        self._array, self.base = array, base

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)

    def __getitem__(self, key: Any) -> Any:
        return self._array[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._array[key] = value


class TensorRt:
    """The TensorRT module: its network's logits are the slices' first channel less 100.

    Attributes
    ----------
    contexts
        (batch size, given address, returned address, scratch address) of each context.
    broken
        ``load``, ``context`` or ``run``: what fails.
    """

    uint8, float32 = "uint8", "float32"
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")

    class ILogger:
        """What a logger is made from."""

        ERROR = "error"

    def __init__(self, gpu: Gpu, version: str = "10.7.0", names: tuple[str, str] = ("slices", "logits")) -> None:
        self.__version__ = version
        self.gpu, self.names, self.broken = gpu, names, ""
        self.contexts: list[Any] = []
        self.loaded: list[bytes] = []
        self.runtimes: list[Any] = []

    def Runtime(self, logger: Any) -> Any:
        """A runtime that takes any plan."""
        runtime = SimpleNamespace(engine_host_code_allowed=False, DLA_core=-1)

        def deserialize_cuda_engine(content: bytes) -> Any:
            self.loaded.append(content)
            if self.broken == "load":
                logger.log("error", "this plan\nis not for you")
                return None
            kinds = dict(zip(self.names, (self.uint8, self.float32), strict=True))
            return SimpleNamespace(
                num_io_tensors=2,
                device_memory_size_v2=4096,
                get_tensor_name=lambda index: self.names[index],
                get_tensor_dtype=kinds.__getitem__,
                create_execution_context=lambda strategy: self._context(strategy, logger),
            )

        runtime.deserialize_cuda_engine = deserialize_cuda_engine
        self.runtimes.append(runtime)
        return runtime

    def _context(self, strategy: str, logger: Any) -> Any:
        assert strategy == "user managed"
        if self.broken == "context":
            logger.log("error", "out of memory")
            return None
        context = SimpleNamespace(shape=None, scratch=None, addresses={})
        context.set_device_memory = lambda address, size: setattr(context, "scratch", (address, size))
        context.set_input_shape = lambda _name, shape: setattr(context, "shape", shape)
        context.set_tensor_address = context.addresses.__setitem__
        context.execute_async_v3 = lambda stream: self._execute(context, self.gpu.streams[stream], logger)
        self.contexts.append(context)
        return context

    def _execute(self, context: Any, stream: Stream, logger: Any) -> bool:
        self.gpu.calls.append("execute")
        if self.broken == "run":
            logger.log("error", "the kernel is gone")
            return False
        shape = tuple(context.shape)
        given, returned = (context.addresses[name] for name in self.names)
        assert ("device", context.scratch[0]) in self.gpu.living

        def compute() -> None:
            slices = self.gpu.array(given, shape, np.uint8)
            self.gpu.array(returned, (shape[0], 1, *shape[2:]), np.float32)[:] = slices[:, :1].astype(np.float32) - 100
            self.gpu.clock_ms += 10 * shape[0]

        stream.add(compute)
        return True
