"""Runtimes for network files, by name: the one place that branches on the backend."""

from __future__ import annotations

from importlib import import_module

from edgeseg.backends.base import Engine
from edgeseg.errors import BackendMissing, EngineError, InputError
from edgeseg.types import Manifest

BACKENDS: dict[str, tuple[str, str]] = {
    "openvino": ("edgeseg.backends.openvino:OpenVinoEngine", "pip install openvino"),
    "tensorrt": (
        "edgeseg.backends.tensorrt:TensorRtEngine",
        "take NVIDIA's TensorRT container or JetPack 6.1 or newer, and pip install 'edgeseg[tensorrt]'",
    ),
    "tensorrt-rtx": ("edgeseg.backends.tensorrt:TensorRtEngine", "pip install 'edgeseg[tensorrt-rtx]'"),
    "onnxruntime": ("edgeseg.backends.onnxruntime:OnnxRuntimeEngine", "pip install 'edgeseg[export]'"),
}
"""Name of a backend: its class, and what to do when it is missing."""


def open_engine(
    manifest: Manifest,
    content: bytes,
    backend: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    compiled: bytes | None = None,
) -> Engine:
    """Compile a verified network file, or load a verified plan.

    Parameters
    ----------
    manifest, content
        From `edgeseg.bundle.read`.
    backend
        One of the manifest's runtimes; None takes the first of them.
    device
        ``auto``, ``cpu`` or the runtime's own name of a device; for onnxruntime also ``cuda`` and ``tensorrt``.
    threads
        Threads of the CPU that the runtime takes; None leaves it to the runtime. TensorRT takes none.
    compiled
        From `Engine.compiled` at an earlier start on this machine, verified: the network need not be compiled again.
        A runtime that does not take it compiles.

    Raises
    ------
    InputError
        When the network file is not for this backend, or the device is not there.
    BackendMissing
        When the runtime is not installed.
    EngineError
        When the runtime refuses the network file.
    """
    name = backend or manifest.runtimes[0]
    if name not in manifest.runtimes or name not in BACKENDS:
        raise InputError(
            f"{manifest.name} is for {' or '.join(manifest.runtimes)}, not for {name}: give one of these with --backend"
        )
    target, remedy = BACKENDS[name]
    module, _, cls = target.partition(":")
    try:
        engine_class: type[Engine] = getattr(import_module(module), cls)
        more = (compiled,) if compiled is not None and engine_class.compiled is not Engine.compiled else ()
        return engine_class(content, manifest, device, threads, *more)  # type: ignore[call-arg]
    except ImportError as error:
        raise BackendMissing(f"the backend {name} is not installed ({error}): {remedy}") from error


def on_gpu(manifest: Manifest, backend: str | None = None, device: str = "auto") -> bool:
    """Whether an engine runs beside the CPU: by its device's name, or since TensorRT runs nowhere else."""
    name = backend or manifest.runtimes[0]
    return name.startswith("tensorrt") or device.lower() not in ("auto", "cpu")


def open_server(manifest: Manifest, url: str) -> Engine:
    """The bundle's engine on a Triton server, which `edgeseg.model_repository.export` wrote it for.

    Parameters
    ----------
    manifest
        From `edgeseg.bundle.read`.
    url
        ``http://host:port`` or ``https://host:port``.

    Raises
    ------
    InputError
        When the address is none, or no server that is ready answers there.
    BackendMissing
        When the extra ``triton`` is not installed.
    EngineError
        When the server has another engine, or none, of the bundle's name.
    """
    try:
        from edgeseg.backends.triton import TritonEngine

        return TritonEngine(url, manifest)
    except ImportError as error:
        raise BackendMissing(f"Triton's client is not installed ({error}): pip install 'edgeseg[triton]'") from error


__all__ = ["BACKENDS", "Engine", "EngineError", "on_gpu", "open_engine", "open_server"]
