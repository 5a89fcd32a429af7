"""Checkpoint -> network file -> precision -> plan -> parity -> bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeseg import __version__, backends, bundle, gate, ladder, nvidia
from edgeseg.backends import pytorch
from edgeseg.errors import BackendMissing, EngineError, InputError
from edgeseg.ladder import Built, Recipe
from edgeseg.types import ByteArray, Manifest, ParityReport, Preprocessing

if TYPE_CHECKING:
    from edgeseg.export.plan import PlanOptions
    from edgeseg.export.quantised import Ranges, Spelling

LICENCE = "CC-BY-NC-SA-4.0"
Precision = Literal["fp32", "fp16", "int8"]
RUNTIMES = ("openvino", "onnxruntime")
PLAN = "model.plan"
_EXPORTERS = ("torch", "onnx", "onnxsim")
_TOOLS = {"fp32": _EXPORTERS, "fp16": _EXPORTERS, "int8": (*_EXPORTERS, "onnxruntime")}
"""Packages that make a network file of each precision: their versions go into the manifest."""


def build_engine(
    weights: Path,
    precision: Precision,
    data: Path | None,
    folder: Path,
    backend: str | None = None,
    patients: tuple[str, ...] = (),
    report: Callable[[str], None] = lambda _: None,
    recipe: Recipe | None = None,
    plan: PlanOptions | None = None,
) -> Manifest:
    """Build a bundle and check it against the PyTorch model; it is written with the verdict, passed or not.

    Parameters
    ----------
    weights
        ``weights.safetensors`` of a training run or a shipped network.
    precision
        ``fp32``, ``fp16`` (FP16 initialisers, FP32 arithmetic; for a plan, FP16 arithmetic) or ``int8`` (convolutions
        in INT8, as many as the masks bear, on the shipped calibration slices; for a plan, the rest in FP16).
    data
        What parity is checked on: an LGG folder, or any folder of studies; None takes the shipped parity slices.
    folder
        Where the bundle goes.
    backend
        The runtime that parity is checked with; None takes the first of `RUNTIMES`, and for ``int8`` all of them. An
        INT8 bundle is for the runtimes that judged it.
    patients
        Names of patients below ``data``; none means all.
    report
        Called with a sentence at each step.
    recipe
        How an INT8 network arises; None is `edgeseg.ladder.Recipe` as it stands.
    plan
        Compile the network file to a plan too, which is then what the bundle runs; ``backend`` is not looked at.

    Raises
    ------
    BackendMissing
        When PyTorch, the plan's runtime or a package of the extra ``export`` is not installed.
    InputError
        When weights, data, folder or an option of the plan cannot be used.
    EngineError
        When the network cannot be exported or compiled.
    """
    from edgeseg import model
    from edgeseg.export import calibration, graph
    from edgeseg.export import precision as rounding

    check_choice(data, patients)
    recipe = recipe or Recipe()
    calibration.check_method(recipe.method)
    if data and recipe.calibration and data.resolve() == recipe.calibration.resolve():
        raise InputError(f"{data} is given for calibration and for parity: parity needs slices that chose nothing")
    if plan:
        nvidia.load(plan.runtime)  # a runtime that is missing is said before minutes of work
    network, facts = model.load(weights)
    preprocessing = Preprocessing(_intensity(facts.get("intensity", "stored"), weights))
    chosen = ladder.slices_of(recipe, preprocessing) if precision == "int8" else None
    report(f"exporting {facts['architecture']}/{facts['encoder']} to ONNX")
    runnable = model.runnable(network, facts)
    content = graph.to_onnx(runnable, preprocessing.size_px, folded=precision == "int8")
    if precision == "fp16":
        content = rounding.to_fp16_initialisers(content) if plan is None else rounding.to_fp16(content)
    manifest = _manifest(content, facts, weights, precision, preprocessing)
    with pytorch.PyTorchEngine(runnable) as reference:
        check = partial(_checked, reference, data=data, patients=patients, report=report)
        judge = partial(_judged, check=check, backend=backend, plan=plan, report=report)
        if chosen:
            spelling: Spelling = "unsigned" if plan is None else "signed"
            tune = partial(_finetuned, runnable, report=report)
            built = ladder.climb(manifest, content, recipe, spelling, chosen, judge, tune, report)
        else:
            built = judge(manifest, content)
    return bundle.write(folder, built.manifest, built.content, built.others)


def _finetuned(
    network: Any,
    content: bytes,
    ranges: Ranges,
    kept: tuple[str, ...],
    given: ByteArray,
    report: Callable[[str], None],
) -> bytes:
    """A network file in FP32 with weights that bear quantising better: `edgeseg.training.distil`."""
    from edgeseg.export import quantised
    from edgeseg.training import distil

    chosen = set(quantised.convolutions(content)) - set(kept)
    layers = {
        one.module: distil.Layer(one.weight, one.bias, max(map(abs, ranges[one.input])) if name in chosen else None)
        for name, one in quantised.weights(content).items()
    }
    return quantised.with_weights(content, distil.distil(network, layers, given, ladder.PASSES, report))


def _checked(
    reference: backends.Engine,
    manifest: Manifest,
    content: bytes,
    backend: str | None,
    data: Path | None,
    patients: tuple[str, ...],
    report: Callable[[str], None],
) -> Built:
    """A network file or plan with the gate's verdict and its picture; in INT8 for the runtimes alone that judge it."""
    report("checking parity with the PyTorch model")
    if backend and manifest.precision == "int8" and manifest.plan is None:
        manifest = replace(manifest, runtimes=(backend,))
    verdict = gate.judge_runtimes(manifest, content, backend, reference, data, patients)
    return Built(replace(manifest, parity=verdict.report), content, verdict.files())


def _judged(
    manifest: Manifest,
    content: bytes,
    check: Callable[[Manifest, bytes, str | None], Built],
    backend: str | None,
    plan: PlanOptions | None,
    report: Callable[[str], None],
) -> Built:
    """A network file, compiled where a plan is wanted, with its verdict."""
    if plan is None:
        return check(manifest, content, backend)
    manifest, compiled = with_plan(manifest, content, plan, report)
    if manifest.verified_on_device:
        built = check(manifest, compiled, plan.runtime)
    else:
        report("the plan cannot run on this machine: ONNX Runtime judges the network file that it was made of")
        built = check(manifest, content, "onnxruntime")
    return Built(built.manifest, content, {PLAN: compiled, **built.others})


def with_plan(
    manifest: Manifest, content: bytes, options: PlanOptions, report: Callable[[str], None]
) -> tuple[Manifest, bytes]:
    """A network file's plan, and the manifest with its facts; ``verified_on_device`` is whether it can run here."""
    from edgeseg.export.plan import build_plan

    report(f"compiling a plan with {nvidia.PRODUCTS[options.runtime].title}")
    plan = build_plan(content, options)
    facts = {"file": PLAN, "sha256": hashlib.sha256(plan.content).hexdigest(), **plan.facts(), **_gpu()}
    manifest = replace(
        manifest,
        runtimes=(options.runtime, "onnxruntime"),
        inference_precision="f32" if options.precision == "fp32" else "f16",
        plan=facts,
        verified_on_device=plan.layers is not None and facts["gpu"] is not None,
    )
    return manifest, plan.content


def _gpu() -> dict[str, Any]:
    """Name and compute capability of this machine's first GPU; None where there is none."""
    from edgeseg.backends import cuda

    try:
        gpu = cuda.open_gpu()
    except (ImportError, EngineError):
        return {"gpu": None, "gpu_capability": None}
    gpu.close()
    return {"gpu": gpu.name, "gpu_capability": gpu.capability}


def check_parity(
    folder: Path,
    weights: Path | None,
    data: Path | None,
    backend: str | None = None,
    patients: tuple[str, ...] = (),
    picture: Path | None = None,
    public_key: Path | None = None,
) -> ParityReport:
    """Compare an existing bundle with its PyTorch model on this machine.

    A plan that passes where it runs is marked so in its manifest: from then on it is served.

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
    public_key
        Of a signature that the bundle has to have; None asks for none.

    Raises
    ------
    BackendMissing
        When PyTorch is not installed, and recorded masks cannot stand in for it.
    InputError
        When the weights are not those that the bundle was exported from, nothing is known of them, or a signed bundle's
        plan would be marked.
    EngineError
        When the bundle is damaged, or not signed by the key that is given.
    """
    check_choice(data, patients)
    gate.check_picture(picture)
    manifest, content = bundle.read(folder, public_key, backend)
    proves = _proves(manifest, backend)
    if proves:
        bundle.check_confirmable(folder)
    verdict = compare(manifest, content, weights, data, backend, patients)
    if picture:
        gate.save_picture(verdict, picture)
    if proves and verdict.report.passed:
        proven = replace(manifest, verified_on_device=True, parity=verdict.report)
        bundle.confirm(folder, proven, verdict.files())
    return verdict.report


def compare(
    manifest: Manifest,
    content: bytes,
    weights: Path | None,
    data: Path | None,
    backend: str | None,
    patients: tuple[str, ...],
) -> gate.Verdict:
    """The gate's verdict on a network file or plan; what is given and raised is as in `check_parity`."""
    with ExitStack() as stack:
        model = _model(manifest, weights, data)
        reference = stack.enter_context(model) if model else None
        return gate.judge_runtimes(manifest, content, backend, reference, data, patients)


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


def _proves(manifest: Manifest, backend: str | None) -> bool:
    """Whether a plan is about to be checked where it runs: what ONNX Runtime says of the file is no proof."""
    runs_plan = manifest.plan is not None and (backend or manifest.runtimes[0]) == manifest.plan["runtime"]
    return runs_plan and not manifest.verified_on_device


def check_choice(data: Path | None, patients: tuple[str, ...]) -> None:
    """Raise InputError for patients without a folder to choose them from: the shipped parity slices are one set."""
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
        tools={"edgeseg": __version__, "numpy": np.__version__, **_versions(*_TOOLS[precision])},
        parity=None,
        licence=LICENCE,
    )


def _versions(*packages: str) -> dict[str, str]:
    return {package: metadata.version(package) for package in packages}
