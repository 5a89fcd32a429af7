"""TensorRT and TensorRT for RTX: which versions serve, what they log, and which plans may run where."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from edgeseg.errors import BackendMissing, EngineError, InputError
from edgeseg.types import Manifest


@dataclass(frozen=True)
class Product:
    """A runtime that compiles and runs plans.

    Parameters
    ----------
    module
        What Python imports.
    title
        What a person calls it.
    oldest, beyond
        Versions (major, minor) from which on it serves, and from which on it is unknown.
    remedy
        How to get it.
    """

    module: str
    title: str
    oldest: tuple[int, int]
    beyond: tuple[int, int]
    remedy: str


PRODUCTS: dict[str, Product] = {
    "tensorrt": Product(
        "tensorrt",
        "TensorRT",
        (10, 3),
        (12, 0),
        "take NVIDIA's TensorRT container, or on a Jetson JetPack 6.1 or newer",
    ),
    "tensorrt-rtx": Product("tensorrt_rtx", "TensorRT for RTX", (1, 7), (2, 0), "pip install 'edgeseg[tensorrt-rtx]'"),
}
"""Name of a backend: the product that it stands for."""


def load(runtime: str) -> Any:
    """The imported module of a runtime.

    Parameters
    ----------
    runtime
        A key of `PRODUCTS`.

    Raises
    ------
    BackendMissing
        When it is not installed, or of a version that edgeseg does not know.
    """
    product = PRODUCTS[runtime]
    try:
        module: Any = import_module(product.module)
        version = str(module.__version__)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # a library beneath it is missing or broken
        raise BackendMissing(f"{product.title} is not installed ({error}): {product.remedy}") from error
    if not product.oldest <= _numbers(version) < product.beyond:
        oldest, beyond = (".".join(map(str, edge)) for edge in (product.oldest, product.beyond))
        raise BackendMissing(
            f"{product.title} {version} is installed, edgeseg takes {oldest} or newer, below {beyond}: {product.remedy}"
        )
    return module


def _numbers(version: str) -> tuple[int, int]:
    """Major and minor; (0, 0) for a version that has none."""
    parts = version.split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) > 1 and parts[0].isdigit() and parts[1].isdigit() else (0, 0)


def recorder(module: Any) -> Any:
    """A logger that prints nothing and keeps errors: ``errors`` lists them, ``last()`` is the newest as one line."""

    class Recorder(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity == module.ILogger.ERROR:
                self.errors.append(msg)

        def last(self) -> str:
            return " ".join(self.errors[-1].split()) if self.errors else "it gives no reason"

    return Recorder()


def verified(content: bytes, manifest: Manifest) -> dict[str, Any]:
    """The facts of the manifest's plan, once ``content`` is known to be that plan: it is executable.

    Raises
    ------
    InputError
        When the manifest has no plan.
    EngineError
        When these are other bytes.
    """
    if manifest.plan is None:
        raise InputError(f"{manifest.name} holds no plan: {rebuild(manifest)}")
    if hashlib.sha256(content).hexdigest() != manifest.plan["sha256"]:
        raise EngineError(f"the plan of {manifest.name} is not the one that its manifest names: {rebuild(manifest)}")
    return manifest.plan


def check_version(version: str, manifest: Manifest) -> None:
    """Raise EngineError when a plan was built by a version that this one does not read."""
    facts: dict[str, Any] = manifest.plan or {}
    built = str(facts["version"])
    if version == built:
        return
    if not facts["version_compatible"] or int(version.split(".")[0]) < int(built.split(".")[0]):
        title = PRODUCTS[facts["runtime"]].title
        raise EngineError(
            f"{manifest.name} was built by {title} {built}, this machine has {version}: {rebuild(manifest)}"
        )


def check_gpu(name: str, capability: str, manifest: Manifest) -> None:
    """Raise EngineError when a plan was built for other GPUs than this one."""
    facts: dict[str, Any] = manifest.plan or {}
    built = facts.get("gpu")
    if facts["capabilities"]:
        fits, made_for = capability in facts["capabilities"], f"capability {' or '.join(facts['capabilities'])}"
    elif facts["hardware_compatible"]:
        fits, made_for = int(capability.split(".")[0]) >= 8, "capability 8.0 and newer"
    else:  # plans of TensorRT for RTX without named capabilities are judged by that runtime itself
        fits, made_for = facts["runtime"] != "tensorrt" or built == name, str(built)
    if not fits:
        raise EngineError(
            f"{manifest.name} was built for {made_for}, this machine has {name} ({capability}): {rebuild(manifest)}"
        )


def rebuild(manifest: Manifest) -> str:
    """The mend of nearly everything: the command that builds such a plan."""
    runtime = manifest.plan["runtime"] if manifest.plan else "tensorrt-rtx"
    return f"build it on this machine with edgeseg build-engine --{manifest.precision} --backend {runtime}"
