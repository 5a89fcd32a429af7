"""Checkpoint -> network file -> precision -> parity -> bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeseg import __version__, backends, bundle, parity, preprocess, quantize
from edgeseg.backends import pytorch
from edgeseg.errors import InputError
from edgeseg.readers import lgg, slices
from edgeseg.types import BoolArray, ByteArray, FloatArray, Manifest, ParityReport, Preprocessing

LICENCE = "CC-BY-NC-SA-4.0"
Precision = Literal["fp32", "fp16", "int8"]
RUNTIMES = ("openvino", "onnxruntime")
MARGIN = quantize.Wanted(0.988, 0.96)
"""What the choice of layers aims at on the calibration slices: a little more than parity demands of unseen patients."""


def build_engine(
    weights: Path,
    precision: Precision,
    data: Path | None,
    folder: Path,
    backend: str | None = None,
    patients: tuple[str, ...] = (),
    report: Callable[[str], None] = lambda _: None,
    method: str = "min-max",
) -> Manifest:
    """Build a bundle and check it against the PyTorch model; it is written with the verdict, passed or not.

    Parameters
    ----------
    weights
        ``weights.safetensors`` of a training run or a shipped network.
    precision
        ``fp32``, ``fp16`` (FP16 initialisers, FP32 arithmetic) or ``int8`` (convolutions in INT8, as many as the masks
        bear, on the shipped calibration slices).
    data
        An LGG folder that parity is checked on; None takes the shipped parity slices.
    folder
        Where the bundle goes.
    backend
        The runtime that parity is checked with; None takes the first of `RUNTIMES`.
    patients
        Names of patients below ``data``; none means all.
    report
        Called with a sentence at each step.
    method
        How INT8 ranges arise, one of `edgeseg.export.calibration.METHODS`.

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
    from edgeseg.export import calibration, graph
    from edgeseg.export import precision as rounding

    _check_choice(data, patients)
    calibration.check_method(method)
    network, facts = model.load(weights)
    preprocessing = Preprocessing(_intensity(facts.get("intensity", "stored"), weights))
    report(f"exporting {facts['architecture']}/{facts['encoder']} to ONNX")
    runnable = model.runnable(network, facts)
    content = graph.to_onnx(runnable, preprocessing.size_px, folded=precision == "int8")
    if precision == "fp16":
        content = rounding.to_fp16_initialisers(content)
    manifest = _manifest(content, facts, weights, precision, preprocessing)
    with pytorch.PyTorchEngine(runnable) as reference:
        gate = partial(_gate, reference, backend=backend, data=data, patients=patients, report=report)
        if precision == "int8":
            manifest, content = _ladder(manifest, content, method, gate, report)
        else:
            manifest = gate(manifest, content)
    return bundle.write(folder, manifest, content)


def _gate(
    reference: backends.Engine,
    manifest: Manifest,
    content: bytes,
    backend: str | None,
    data: Path | None,
    patients: tuple[str, ...],
    report: Callable[[str], None],
) -> Manifest:
    """The manifest with the verdict on its network file."""
    report("checking parity with the PyTorch model")
    with backends.open_engine(manifest, content, backend) as engine:
        return replace(manifest, parity=_compare(reference, engine, manifest, data, patients))


def _ladder(
    manifest: Manifest,
    content: bytes,
    method: str,
    gate: Callable[[Manifest, bytes], Manifest],
    report: Callable[[str], None],
) -> tuple[Manifest, bytes]:
    """Quantise; while the gate fails take the next rung: all convolutions, then all but the fewest that the masks need.

    Ranges and the choice of layers read calibration slices alone; the gate reads parity slices.
    """
    from edgeseg.export import calibration

    chosen = slices.read("calibration", manifest.preprocessing)
    ranges = calibration.cached(content, chosen.slices, method, report)

    def run(file: bytes, given: ByteArray) -> FloatArray:
        with backends.open_engine(_of(manifest, file), file) as engine:
            return engine.predict_logits(given)

    trial = quantize.trial(content, ranges, chosen.slices, run)
    rungs = [trial.rung(())]
    report(_said(rungs[-1]))
    built = _int8(manifest, content, ranges, rungs, method, chosen)
    verdict = gate(*built)
    if verdict.parity and not verdict.parity.passed:
        report(f"rung 1 fails parity: {'; '.join(verdict.parity.failures)}")
        for found in quantize.fewest_kept(trial.rung, trial.order(report), MARGIN):
            report(_said(found))
            rungs.append(found)
        built = _int8(manifest, content, ranges, rungs, method, chosen)
        verdict = gate(*built)
    return verdict, built[1]


def _said(rung: quantize.Rung) -> str:
    return (
        f"{len(rung.kept)} convolutions kept: agreement on calibration slices {rung.mean:.4f}, 5th percentile "
        f"{rung.fifth_percentile:.3f}, worst {rung.worst:.3f}, {rung.megabytes:.1f} MB"
    )


def _int8(
    manifest: Manifest, content: bytes, ranges: Any, rungs: list[quantize.Rung], method: str, chosen: slices.Slices
) -> tuple[Manifest, bytes]:
    """The bundle of the last rung: the unsigned spelling, what is not quantised stored in FP16."""
    from edgeseg.export import precision as rounding
    from edgeseg.export import quantised

    signed = quantised.quantise(content, ranges, rungs[-1].kept)
    file = rounding.to_fp16_initialisers(quantised.spell(signed, "unsigned"), least_axes=4)
    facts = {
        "method": method,
        "slices": len(chosen.names),
        "patients": len(set(chosen.patients)),
        "slices_sha256": chosen.digest(),
        "kept": list(rungs[-1].kept),
        "rungs": [{**asdict(one), "kept": len(one.kept)} for one in rungs],
    }
    return replace(_of(manifest, file), calibration=facts), file


def _of(manifest: Manifest, content: bytes) -> Manifest:
    return replace(manifest, sha256=hashlib.sha256(content).hexdigest())


def check_parity(
    folder: Path,
    weights: Path,
    data: Path | None,
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

    _check_choice(data, patients)
    manifest, content = bundle.read(folder, public_key)
    network, facts = model.load(weights)
    if bundle.file_sha256(weights) != manifest.weights_sha256:
        raise InputError(
            f"{weights} are not the weights that {manifest.name} was exported from: give those with --reference"
        )
    reference = pytorch.PyTorchEngine(model.runnable(network, facts))
    with backends.open_engine(manifest, content, backend) as engine, reference:
        return _compare(reference, engine, manifest, data, patients)


def _check_choice(data: Path | None, patients: tuple[str, ...]) -> None:
    """Patients are chosen among a folder's: the shipped parity slices are one set."""
    if patients and data is None:
        raise InputError("--patients chooses among the patients of --data: give both, or neither")


def _compare(
    reference: backends.Engine,
    engine: backends.Engine,
    manifest: Manifest,
    data: Path | None,
    patients: tuple[str, ...],
) -> ParityReport:
    subjects = _shipped(manifest.preprocessing) if data is None else _of_folder(data, patients, manifest.preprocessing)
    both = [
        parity.PatientLogits(name, reference.predict_logits(given), engine.predict_logits(given), drawn, names)
        for name, given, drawn, names in subjects
    ]
    name = f"{reference.runtime} {reference.inference_precision}, weights {manifest.weights_sha256[:12]}"
    return parity.compare(both, manifest.threshold, parity.TOLERANCES[manifest.precision], name)


Subject = tuple[str, ByteArray, BoolArray, tuple[str, ...]]
"""A patient's name, network input, drawn masks and slices' names."""


def _of_folder(data: Path, patients: tuple[str, ...], preprocessing: Preprocessing) -> Iterator[Subject]:
    for patient in lgg.choose(lgg.index(data), patients):
        given = preprocess.to_network(lgg.read_study(patient), preprocessing).slices
        yield patient.name, given, lgg.read_masks(patient), tuple(path.stem for path in patient.images)


def _shipped(preprocessing: Preprocessing) -> Iterator[Subject]:
    found = slices.read("parity", preprocessing)
    if found.drawn is None:
        raise InputError("the shipped parity slices have no drawn masks: install edgeseg again")
    for patient in dict.fromkeys(found.patients):
        own = [k for k, name in enumerate(found.patients) if name == patient]
        yield patient, found.slices[own], found.drawn[own], tuple(found.names[k] for k in own)


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
