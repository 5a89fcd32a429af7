"""A bundle's network file -> precision -> plan -> bundle: for machines that run plans and have no PyTorch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg import __version__, build, bundle
from edgeseg.errors import BackendMissing, InputError
from edgeseg.readers import recorded
from edgeseg.types import Manifest

if TYPE_CHECKING:
    from edgeseg.export.plan import PlanOptions

_UNVERIFIED = "edgeseg infer takes it with --allow-unverified alone until edgeseg parity has passed on this machine"


def bundle_of(source: Path) -> Path | None:
    """The folder of the bundle that ``source`` is, names or belongs to; None when it is something else, as weights are.

    Raises
    ------
    InputError
        When it is a network file without a manifest beside it, or not the manifest's.
    """
    if source.suffix == ".onnx":
        return _bundle_around(source)
    if (source / bundle.MANIFEST).is_file():
        return source
    named = [folder for folder in bundle.shipped() if folder.name == str(source)]
    return named[0] if named and not source.exists() else None


def _bundle_around(file: Path) -> Path:
    if not file.is_file():
        raise InputError(f"there is no network file {file}: give the model.onnx of a bundle, or its folder")
    if not (file.parent / bundle.MANIFEST).is_file():
        raise InputError(
            f"{file} has no {bundle.MANIFEST} beside it, which says what the network takes and where it comes from: "
            "give the model.onnx of a bundle, or weights"
        )
    named = bundle.read_manifest(file.parent).file
    if named != file.name:
        raise InputError(f"the manifest beside {file} is that of {named}: give {file.with_name(named)}")
    return file.parent


def precision_of(source: Path, wanted: build.Precision | None) -> build.Precision:
    """The precision of a plan: the one asked for, else INT8 where the network file holds INT8, else FP16.

    Raises
    ------
    InputError
        When the network file cannot be turned into what is asked for.
    """
    manifest = bundle.read_manifest(source)
    held = manifest.precision
    if wanted is None:
        return "int8" if held == "int8" else "fp16"
    if "int8" in (wanted, held) and wanted != held:
        raise InputError(
            f"{manifest.name} holds {held.upper()}, of which no plan in {wanted.upper()} can be made: give --{held}, "
            f"or the network's weights with --{wanted}"
        )
    if wanted == "fp32" and manifest.inference_precision != "f32":
        raise InputError(f"{manifest.name} computes in FP16: give --fp16, or the network's weights with --fp32")
    return wanted


def recompile(
    source: Path,
    plan: PlanOptions,
    data: Path | None,
    folder: Path,
    patients: tuple[str, ...] = (),
    report: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Build a bundle with a plan from the network file of another bundle, and check it where PyTorch is at hand.

    Parameters
    ----------
    source
        The bundle: its manifest gives preprocessing, threshold and the hash of the weights.
    plan
        What the plan is built for; its precision as `precision_of` says.
    data, patients
        As in `edgeseg.build.build_engine`.
    folder
        Where the new bundle goes.
    report
        Called with a sentence at each step; the last one says when the plan has not been compared with the model.

    Returns
    -------
    Manifest
        With ``parity`` None where PyTorch or the weights are missing and no masks are recorded for the network.

    Raises
    ------
    BackendMissing
        When the plan's runtime, or what changes a network file's precision, is not installed.
    InputError
        When the source, the folder or an option of the plan cannot be used.
    EngineError
        When the source is damaged, or the network cannot be compiled.
    """
    build.check_choice(data, patients)
    if folder.resolve() == source.resolve():
        raise InputError(f"{folder} is the bundle that the plan is made of: give another folder with -o")
    manifest, _ = bundle.read(source)
    content = _converted(manifest, bundle.read_file(source, manifest, manifest.file), plan.precision)
    manifest, compiled = build.with_plan(_renamed(manifest, content, plan.precision), content, plan, report)
    runs_here, others = manifest.verified_on_device, {build.PLAN: compiled}
    if reason := _no_reference(manifest, data):
        report(f"the plan was not compared with the PyTorch model, {reason}: {_UNVERIFIED}")
        return bundle.write(folder, replace(manifest, verified_on_device=False), content, others)
    report("checking parity with the PyTorch model")
    judged, runtime = (compiled, plan.runtime) if runs_here else (content, "onnxruntime")
    verdict = build.compare(manifest, judged, None, data, runtime, patients)
    proven = replace(manifest, parity=verdict.report, verified_on_device=runs_here and verdict.report.passed)
    return bundle.write(folder, proven, content, {**others, **verdict.files()})


def _converted(manifest: Manifest, content: bytes, precision: build.Precision) -> bytes:
    """The network file as TensorRT takes it: it computes in the file's own types."""
    from edgeseg.export import quantised
    from edgeseg.export.precision import to_fp16

    if precision == "fp32" or manifest.inference_precision == "f16":
        return content
    try:
        return to_fp16(quantised.spell(content, "signed") if precision == "int8" else content)
    except ImportError as error:
        raise BackendMissing(f"another spelling needs {error.name}: pip install 'edgeseg[tensorrt]'") from error


def _renamed(manifest: Manifest, content: bytes, precision: build.Precision) -> Manifest:
    return replace(
        manifest,
        name=f"{manifest.network}-{precision}",
        precision=precision,
        sha256=hashlib.sha256(content).hexdigest(),
        calibration=None if manifest.calibration is None else {**manifest.calibration, "spelling": "signed"},
        tools={**manifest.tools, "edgeseg": __version__},
        parity=None,
        files={},
        speed=None,
    )


def _no_reference(manifest: Manifest, data: Path | None) -> str:
    """Why the plan can be compared neither with the PyTorch model nor with its recorded masks; empty when it can."""
    if data is None and manifest.weights_sha256 in recorded.known():
        return ""
    if not all(util.find_spec(package) for package in ("torch", "segmentation_models_pytorch")):
        return "which is not installed here"
    weights = bundle.shipped_weights(manifest.network)
    if not weights.is_file() or bundle.file_sha256(weights) != manifest.weights_sha256:
        return "whose weights are not at hand (edgeseg parity takes them with --reference)"
    return ""
