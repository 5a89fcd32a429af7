"""Checkpoint -> network file -> precision -> parity -> bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from edgeseg import __version__, backends, bundle, parity, preprocess
from edgeseg.backends import pytorch
from edgeseg.errors import InputError
from edgeseg.readers import lgg
from edgeseg.types import FloatArray, Manifest, ParityReport, Preprocessing

LICENCE = "CC-BY-NC-SA-4.0"
Precision = Literal["fp32", "fp16"]
RUNTIMES = ("openvino", "onnxruntime")


def build_engine(
    weights: Path,
    precision: Precision,
    data: Path,
    folder: Path,
    backend: str | None = None,
    patients: tuple[str, ...] = (),
    report: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Build a bundle and check it against the PyTorch model; it is written with the verdict, passed or not.

    Parameters
    ----------
    weights
        ``weights.safetensors`` of a training run or a shipped network.
    precision
        ``fp32`` or ``fp16`` (FP16 initialisers, FP32 arithmetic).
    data
        An LGG folder: what parity is checked on.
    folder
        Where the bundle goes.
    backend
        The runtime that parity is checked with; None takes the first of `RUNTIMES`.
    patients
        Names of patients below ``data``; none means all.
    report
        Called with a sentence at each step.

    Raises
    ------
    BackendMissing
        When PyTorch or a package of the extra ``export`` is not installed.
    InputError
        When weights, data or folder cannot be used.
    EngineError
        When the network cannot be exported.
    """
    from edgeseg import model
    from edgeseg.export import graph
    from edgeseg.export import precision as rounding

    network, facts = model.load(weights)
    preprocessing = Preprocessing(_intensity(facts.get("intensity", "stored"), weights))
    report(f"exporting {facts['architecture']}/{facts['encoder']} to ONNX")
    runnable = model.runnable(network, facts)
    content = graph.to_onnx(runnable, preprocessing.size_px)
    if precision == "fp16":
        content = rounding.to_fp16_initialisers(content)
    manifest = _manifest(content, facts, weights, precision, preprocessing)
    report("checking parity with the PyTorch model")
    reference = pytorch.PyTorchEngine(runnable)
    with backends.open_engine(manifest, content, backend) as engine, reference:
        verdict = _compare(reference, engine, manifest, data, patients)
    manifest = Manifest(**{**vars(manifest), "parity": verdict})
    return bundle.write(folder, manifest, content)


def check_parity(
    folder: Path,
    weights: Path,
    data: Path,
    backend: str | None = None,
    patients: tuple[str, ...] = (),
    public_key: Path | None = None,
) -> ParityReport:
    """Compare an existing bundle with its PyTorch model on this machine.

    Raises
    ------
    InputError
        When the weights are not those that the bundle was exported from.
    EngineError
        When the bundle is damaged, or not signed by the key that is given.
    """
    from edgeseg import model

    manifest, content = bundle.read(folder, public_key)
    network, facts = model.load(weights)
    if bundle.file_sha256(weights) != manifest.weights_sha256:
        raise InputError(
            f"{weights} are not the weights that {manifest.name} was exported from: give those with --reference"
        )
    reference = pytorch.PyTorchEngine(model.runnable(network, facts))
    with backends.open_engine(manifest, content, backend) as engine, reference:
        return _compare(reference, engine, manifest, data, patients)


def _compare(
    reference: backends.Engine, engine: backends.Engine, manifest: Manifest, data: Path, patients: tuple[str, ...]
) -> ParityReport:
    both = list(_logits(reference, engine, manifest.preprocessing, data, patients))
    name = f"{reference.runtime} {reference.inference_precision}, weights {manifest.weights_sha256[:12]}"
    return parity.compare(both, manifest.threshold, parity.TOLERANCES[manifest.precision], name)


def _logits(
    reference: backends.Engine,
    engine: backends.Engine,
    preprocessing: Preprocessing,
    data: Path,
    patients: tuple[str, ...],
) -> Iterator[parity.PatientLogits]:
    for patient in lgg.choose(lgg.index(data), patients):
        slices = preprocess.to_network(lgg.read_study(patient), preprocessing).slices
        expected: FloatArray = reference.predict_logits(slices)
        yield parity.PatientLogits(
            patient.name,
            expected,
            engine.predict_logits(slices),
            lgg.read_masks(patient),
            tuple(path.stem for path in patient.images),
        )


def _intensity(value: str, weights: Path) -> Literal["volume", "stored"]:
    if value == "volume":
        return "volume"
    if value == "stored":
        return "stored"
    raise InputError(f"{weights} were trained on the intensities {value!r}, which this edgeseg does not know")


def _manifest(
    content: bytes, facts: dict[str, str], weights: Path, precision: Precision, preprocessing: Preprocessing
) -> Manifest:
    size = preprocessing.size_px
    name = facts.get("name", weights.parent.name)
    return Manifest(
        name=f"{name}-{precision}",
        network=name,
        architecture=facts["architecture"],
        encoder=facts["encoder"],
        file="model.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        weights_sha256=bundle.file_sha256(weights),
        precision=precision,
        inference_precision="f32",
        runtimes=RUNTIMES,
        input={"name": "slices", "dtype": "uint8", "shape": ["batch", 3, size, size]},
        output={"name": "logits", "dtype": "float32", "shape": ["batch", 1, size, size]},
        preprocessing=preprocessing,
        threshold=float(facts.get("threshold", "0.5")),
        calibration=None,
        tools={"edgeseg": __version__, "numpy": np.__version__, **_versions("torch", "onnx", "onnxsim")},
        parity=None,
        licence=LICENCE,
    )


def _versions(*packages: str) -> dict[str, str]:
    return {package: metadata.version(package) for package in packages}
