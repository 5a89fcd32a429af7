"""What takes part in a benchmark: bundles, and the same networks in other runtimes as their peers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeseg import backends, bundle, roofline
from edgeseg.errors import BackendMissing, EdgesegError
from edgeseg.roofline import Layer
from edgeseg.types import Manifest

EAGER, COMPILED, ONNX_RUNTIME, OPENVINO = "PyTorch eager", "PyTorch compiled", "ONNX Runtime FP32", "OpenVINO FP32"
GRAPHED, GPU_COMPILED = "PyTorch FP16 CUDA graphs", "PyTorch FP16 compiled"
"""On a GPU, channels last."""


@dataclass(frozen=True)
class Contender:
    """One engine that takes part.

    Parameters
    ----------
    name, manifest
        The bundle's or the peer's name, and the manifest of its network.
    open
        Opens it.
    folder
        The bundle's; None for a peer.
    layers
        What its network file does; none where that is not counted.
    """

    name: str
    manifest: Manifest
    open: Callable[[], backends.Engine]
    folder: Path | None = None
    layers: tuple[Layer, ...] = ()


def of_bundle(folder: Path, backend: str | None, threads: int) -> Contender:
    """A bundle; ``backend`` is as in `edgeseg.backends.open_engine`."""

    def open_() -> backends.Engine:
        return backends.open_engine(*bundle.read(folder, backend=backend), backend, threads=threads)

    manifest, _ = bundle.read(folder)
    return Contender(manifest.name, manifest, open_, folder, _layers(bundle.read_file(folder, manifest, manifest.file)))


def _layers(content: bytes) -> tuple[Layer, ...]:
    """What a network file does; nothing where onnx is missing, or the file is none: the runtime says so better."""
    try:
        return roofline.count(content)
    except EdgesegError:
        return ()


def peers(manifests: Sequence[Manifest], threads: int) -> tuple[list[Contender], list[str]]:
    """The networks of these manifests in other runtimes, and a sentence for each network that has none."""
    found: list[Contender] = []
    left_out: list[str] = []
    for manifest in {manifest.network: manifest for manifest in manifests}.values():
        try:
            found += peers_of(manifest, threads)
        except BackendMissing as error:
            left_out.append(f"{manifest.network} runs without peers: {error}")
            break
        except EdgesegError as error:
            left_out.append(f"{manifest.network} runs without peers: {error}")
    if any(manifest.plan for manifest in manifests) and not any(one.name == GRAPHED for one in found):
        left_out.append("a plan runs without PyTorch's FP16 beside it: that needs a PyTorch which finds the GPU")
    return found, left_out


def peers_of(manifest: Manifest, threads: int) -> list[Contender]:
    """One network in other runtimes, on the CPU and, where PyTorch finds one, on the GPU.

    Raises
    ------
    BackendMissing
        When PyTorch or a package of the extra ``export`` is not installed.
    InputError
        When the network's weights are not at hand.
    """
    from edgeseg import model
    from edgeseg.backends.pytorch import PyTorchEngine
    from edgeseg.export import graph

    weights = bundle.shipped_weights(manifest.network)
    content = graph.to_onnx(model.runnable(*model.load(weights)), manifest.preprocessing.size_px)
    digest = hashlib.sha256(content).hexdigest()
    single = replace(manifest, precision="fp32", inference_precision="f32", sha256=digest, plan=None)

    def eager() -> backends.Engine:
        return PyTorchEngine(model.runnable(*model.load(weights)), threads)

    def compiled() -> backends.Engine:
        import torch

        return PyTorchEngine(torch.compile(model.runnable(*model.load(weights))), threads)  # type: ignore[arg-type]

    def in_runtime(backend: str) -> Callable[[], backends.Engine]:
        given = replace(single, runtimes=(backend,))
        return lambda: backends.open_engine(given, content, backend, "cpu", threads)

    layers = _layers(content)
    return [
        Contender(EAGER, manifest, eager, layers=layers),
        Contender(COMPILED, manifest, compiled, layers=layers),
        Contender(ONNX_RUNTIME, manifest, in_runtime("onnxruntime"), layers=layers),
        Contender(OPENVINO, manifest, in_runtime("openvino"), layers=layers),
        *_on_gpu(manifest, weights, content),
    ]


def _on_gpu(manifest: Manifest, weights: Path, content: bytes) -> list[Contender]:
    """PyTorch as it is fastest on a GPU; nothing where it finds none."""
    import torch

    from edgeseg import model
    from edgeseg.backends.pytorch import PyTorchGpuEngine
    from edgeseg.export import precision

    if not torch.cuda.is_available():
        return []

    def opening(compiled: bool) -> Callable[[], backends.Engine]:
        return lambda: PyTorchGpuEngine(model.halved(model.runnable(*model.load(weights))), compiled)

    layers = _layers(precision.to_fp16(content))
    return [
        Contender(GRAPHED, manifest, opening(False), layers=layers),
        Contender(GPU_COMPILED, manifest, opening(True), layers=layers),
    ]
