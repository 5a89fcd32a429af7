"""A bundle -> a model of Triton Inference Server: configuration and network file, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeseg import bundle, segment
from edgeseg.backends.triton import CHOOSES_PRECISION, SHA256
from edgeseg.errors import BackendMissing, InputError, OutputError, ParityError
from edgeseg.types import Manifest

PLATFORMS = {"tensorrt": "tensorrt", "onnx": "onnxruntime", "openvino": "openvino"}
"""Name of a platform, best first: the runtime in a manifest, which is Triton's name of its backend too."""
CONFIG = "config.pbtxt"
VERSION = "1"
MAX_BATCH = 8
"""Slices that the server puts together from waiting requests; a plan takes as many as it was built for."""
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
_DISABLE_ALL = 2
"""ONNX Runtime's optimisations off, as Triton's onnxruntime backend counts levels."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Parameters
    ----------
    folder
        The model's own, inside the repository.
    platform
        One of `PLATFORMS`.
    manifest
        Of the bundle.
    """

    folder: Path
    platform: str
    manifest: Manifest


def export(
    source: Path,
    repository: Path,
    platform: str | None = None,
    allow_unverified: bool = False,
    public_key: Path | None = None,
) -> Exported:
    """Write ``repository/<bundle's name>/``: ``config.pbtxt`` and ``1/`` with what Triton runs.

    Parameters
    ----------
    source
        The bundle.
    repository
        Triton's ``--model-repository``, which may hold other models.
    platform
        One of `PLATFORMS`; None takes the first that the bundle is for.
    allow_unverified
        Export an engine that failed parity, or was never checked, or for a platform that takes its own precision.
    public_key
        PEM file of the key that has to have signed the bundle; None asks for no signature.

    Raises
    ------
    InputError
        When the bundle is not for the platform, or there is no such key.
    EngineError
        When the bundle is damaged, or not signed by the key.
    ParityError
        When its masks there are not known to be the PyTorch model's.
    OutputError
        When the repository cannot be written to, or has a model of that name.
    """
    manifest, _ = bundle.read(source, public_key)
    chosen = _choose(manifest, platform)
    if not allow_unverified:
        segment.check_parity(manifest)
        _check_precision(manifest, chosen)
    files = {f"{VERSION}/{name}": content for name, content in _network(source, manifest, chosen).items()}
    files[CONFIG] = configuration(manifest, chosen).encode()
    return Exported(_write(repository, manifest.name, files), chosen, manifest)


def _choose(manifest: Manifest, platform: str | None) -> str:
    if platform is not None and platform not in PLATFORMS:
        raise InputError(f"--platform takes {', '.join(PLATFORMS)}, not {platform}")
    possible = [name for name, runtime in PLATFORMS.items() if runtime in manifest.runtimes]
    if platform is None and possible:
        platform = possible[0]
    if platform is None or platform not in possible:
        wanted = "Triton" if platform is None else f"Triton's {PLATFORMS[platform]}"
        raise InputError(
            f"{manifest.name} is for {' or '.join(manifest.runtimes)}, not for {wanted}: "
            f"export it with --platform {' or '.join(possible) or 'NAME from a bundle for one of them'}, or build one "
            "with edgeseg build-engine --backend tensorrt"
        )
    if platform == "tensorrt" and (manifest.plan or {}).get("dla_core") is not None:
        raise InputError(f"{manifest.name} is a plan for a Jetson's DLA: export one that was built without --dla")
    return platform


def _check_precision(manifest: Manifest, platform: str) -> None:
    if PLATFORMS[platform] == CHOOSES_PRECISION:
        raise ParityError(
            "Triton's OpenVINO backend takes BF16 where its CPU has it, and cannot be told otherwise; the parity of "
            f"{manifest.name} was not checked in it: take --platform onnx, or accept it with --allow-unverified"
        )


def _network(source: Path, manifest: Manifest, platform: str) -> dict[str, bytes]:
    """The files that Triton's backend loads, under the names that it looks for."""
    if platform == "tensorrt" and manifest.plan is not None:
        return {"model.plan": bundle.read_file(source, manifest, manifest.plan["file"])}
    content = bundle.read_file(source, manifest, manifest.file)
    return _intermediate(content) if platform == "openvino" else {"model.onnx": content}


def _intermediate(content: bytes) -> dict[str, bytes]:
    """OpenVINO's own two files of a network: values as they are, nothing compressed to FP16."""
    try:
        import openvino
    except ImportError as error:
        raise BackendMissing("--platform openvino needs OpenVINO: pip install openvino") from error
    names = ("model.xml", "model.bin")
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in names]
        openvino.serialize(openvino.Core().read_model(content), *paths)
        return {path.name: path.read_bytes() for path in paths}


def configuration(manifest: Manifest, platform: str) -> str:
    """The model's ``config.pbtxt``."""
    batch = _max_batch(manifest, platform)
    lines = [
        f"name: {_text(manifest.name)}",
        f"backend: {_text(PLATFORMS[platform])}",
        f"max_batch_size: {batch}",
        _tensor("input", manifest.input, batch),
        _tensor("output", manifest.output, batch),
        f"instance_group [ {{ count: 1 kind: {_KINDS[platform]} }} ]",
    ]
    if batch:
        lines.append("dynamic_batching { }")
    if platform == "onnx":
        lines.append(_onnxruntime(manifest))
    lines += [_parameter(key, value) for key, value in _parameters(manifest, platform).items()]
    return "\n".join(lines) + "\n"


_KINDS = {"tensorrt": "KIND_GPU", "onnx": "KIND_AUTO", "openvino": "KIND_CPU"}


def _max_batch(manifest: Manifest, platform: str) -> int:
    """0 means that Triton hands each request on as it is: its OpenVINO backend would pad every batch to the largest."""
    if platform == "openvino":
        return 0
    if platform == "tensorrt" and manifest.plan is not None:
        return int(manifest.plan["max_batch"])
    return MAX_BATCH


def _tensor(side: str, tensor: Mapping[str, Any], batch: int) -> str:
    dims = [*([] if batch else [-1]), *tensor["shape"][1:]]
    return f"{side} [ {{ name: {_text(tensor['name'])} data_type: {_TYPES[tensor['dtype']]} dims: {dims} }} ]"


def _onnxruntime(manifest: Manifest) -> str:
    """CUDA without TF32; the signed spelling unoptimised, as `edgeseg.backends.onnxruntime` runs both."""
    signed = (manifest.calibration or {}).get("spelling") == "signed"
    level = f"graph {{ level: {_DISABLE_ALL} }} " if signed else ""
    exact = 'name: "cuda" parameters { key: "use_tf32" value: "0" }'
    return f"optimization {{ {level}execution_accelerators {{ gpu_execution_accelerator [ {{ {exact} }} ] }} }}"


def _parameters(manifest: Manifest, platform: str) -> dict[str, str]:
    """What of the manifest a client has to know, and what the OpenVINO backend is told."""
    own = {
        "edgeseg.name": manifest.name,
        SHA256: manifest.sha256,
        "edgeseg.weights_sha256": manifest.weights_sha256,
        "edgeseg.precision": manifest.precision,
        "edgeseg.threshold": repr(manifest.threshold),
        "edgeseg.preprocessing_version": str(manifest.preprocessing.version),
        "edgeseg.licence": manifest.licence,
    }
    if platform != "openvino":
        return own
    return {**own, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": manifest.inference_precision}


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}"


def _text(value: str) -> str:
    """A string as protobuf's text format has it."""
    return json.dumps(value)


def _write(repository: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """Write a model beside its place, and move it there in one step."""
    folder = repository / name
    if not name or Path(name).name != name:
        raise InputError(f"{name!r} cannot be the name of a folder: build the engine again under another name")
    if folder.exists():
        raise OutputError(f"{folder} exists: delete it, or give another folder")
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", suffix=".part", dir=repository) as stage:
            whole = Path(stage) / name  # one level down: a temporary folder may be read by its owner alone
            for place, content in files.items():
                (whole / place).parent.mkdir(parents=True, exist_ok=True)
                (whole / place).write_bytes(content)
            whole.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot write to {repository} ({error.strerror}): give another folder") from error
    return folder
