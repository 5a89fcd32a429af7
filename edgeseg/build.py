"""Checkpoint -> network file -> precision -> parity -> bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeseg import __version__, backends, bundle, gate, quantize
from edgeseg.backends import pytorch
from edgeseg.errors import BackendMissing, InputError
from edgeseg.readers import slices
from edgeseg.types import FloatArray, Manifest, ParityReport, Preprocessing

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
        What parity is checked on: an LGG folder, or any folder of studies; None takes the shipped parity slices.
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
    verdicts: list[gate.Verdict] = []
    with pytorch.PyTorchEngine(runnable) as reference:
        judge = partial(_gate, reference, verdicts, backend=backend, data=data, patients=patients, report=report)
        if precision == "int8":
            manifest, content = _ladder(manifest, content, method, judge, report)
        else:
            manifest = judge(manifest, content)
    bundle.write(folder, manifest, content)
    gate.save_picture(verdicts[-1], folder / gate.PICTURE)
    return manifest


def _gate(
    reference: backends.Engine,
    verdicts: list[gate.Verdict],
    manifest: Manifest,
    content: bytes,
    backend: str | None,
    data: Path | None,
    patients: tuple[str, ...],
    report: Callable[[str], None],
) -> Manifest:
    """The manifest with the verdict on its network file, which is kept with its picture."""
    report("checking parity with the PyTorch model")
    with backends.open_engine(manifest, content, backend) as engine:
        verdicts.append(gate.judge(engine, manifest, reference, data, patients))
    return replace(manifest, parity=verdicts[-1].report)


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
    weights: Path | None,
    data: Path | None,
    backend: str | None = None,
    patients: tuple[str, ...] = (),
    picture: Path | None = None,
) -> ParityReport:
    """Compare an existing bundle with its PyTorch model on this machine.

    Parameters
    ----------
    folder
        The bundle.
    weights
        The model's; None takes the shipped ones of the bundle's network, and where they or PyTorch are missing the
        model's recorded masks of the shipped parity slices.
    data, backend, patients
        As in `build_engine`.
    picture
        A PNG file for the slices that agree least.

    Raises
    ------
    BackendMissing
        When PyTorch is not installed, and recorded masks cannot stand in for it.
    InputError
        When the weights are not those that the bundle was exported from, or nothing is known of them.
    EngineError
        When the bundle is damaged.
    """
    _check_choice(data, patients)
    gate.check_picture(picture)
    manifest, content = bundle.read(folder)
    with ExitStack() as stack:
        model = _model(manifest, weights, data)
        reference = stack.enter_context(model) if model else None
        engine = stack.enter_context(backends.open_engine(manifest, content, backend))
        verdict = gate.judge(engine, manifest, reference, data, patients)
    if picture:
        gate.save_picture(verdict, picture)
    return verdict.report


def _model(manifest: Manifest, weights: Path | None, data: Path | None) -> backends.Engine | None:
    """The PyTorch model, or None where its recorded masks have to stand in for it."""
    from edgeseg import model

    own, replaceable = weights or bundle.shipped_weights(manifest.network), weights is None and data is None
    if replaceable and not own.is_file():
        gate.check_recorded(manifest, "")
        return None
    try:
        network, facts = model.load(own)
    except BackendMissing as error:
        if not replaceable:
            raise BackendMissing(
                f"{error}. Without it, parity is checked against recorded masks of the shipped parity slices: leave "
                "out --reference and --data"
            ) from error
        gate.check_recorded(manifest, str(error))
        return None
    if bundle.file_sha256(own) != manifest.weights_sha256:
        raise InputError(
            f"{own} are not the weights that {manifest.name} was exported from: give those with --reference"
        )
    return pytorch.PyTorchEngine(model.runnable(network, facts))


def _check_choice(data: Path | None, patients: tuple[str, ...]) -> None:
    """Patients are chosen among a folder's: the shipped parity slices are one set."""
    if patients and data is None:
        raise InputError("--patients chooses among the patients of --data: give both, or neither")


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
