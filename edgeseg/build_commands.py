"""The command that builds engines, and what it shares with the commands that check them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer

from edgeseg.console import Console
from edgeseg.errors import EngineError, InputError, ParityError

if TYPE_CHECKING:
    from edgeseg.build import Precision
    from edgeseg.export.plan import PlanOptions
    from edgeseg.ladder import Recipe
    from edgeseg.types import Manifest

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Patients = Annotated[
    Optional[Path],  # noqa: UP045  Typer reads annotations at run time on Python 3.10
    typer.Option("--patients", help="Text file with one patient a line; all patients without it."),
]
_NO_MEMORY = ("allocate memory", "bad_alloc", "bad allocation", "out of memory", "not enough memory")
Backend = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--backend", help="openvino, onnxruntime, tensorrt or tensorrt-rtx."),
]


def build_engine(
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            help="weights.safetensors of a run, or for TensorRT a bundle or its model.onnx; the default network's "
            "shipped weights without it."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder.")] = ...,  # type: ignore[assignment]
    fp32: Annotated[bool, typer.Option("--fp32", help="Keep the weights in FP32.")] = False,
    fp16: Annotated[
        bool,
        typer.Option("--fp16", help="Store the weights in FP16, compute in FP32 (TensorRT: in FP16). [default]"),
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise the convolutions that the masks bear.")] = False,
    method: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="INT8 ranges: min-max, entropy or percentile. [default: min-max]"),
    ] = None,
    calibration: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="INT8: folder of studies to calibrate on; the shipped calibration slices without it."),
    ] = None,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="INT8: fine-tune the weights if the masks need it.")
    ] = False,
    backend: Backend = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--data",
            help="LGG folder, or your own studies, that parity is checked on; the shipped parity slices without it.",
        ),
    ] = None,
    patients: Patients = None,
    max_batch: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="TensorRT: most slices at once. [default: 8]"),
    ] = None,
    workspace_mb: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--workspace-mb", min=1, help="TensorRT: most memory for a layer's work, in MiB."),
    ] = None,
    dla: Annotated[Optional[int], typer.Option(min=0, help="tensorrt: this DLA core. FP16 only.")] = None,  # noqa: UP045
    capability: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="tensorrt-rtx: compute capability to build for, such as 8.9; may be repeated."),
    ] = None,
    timing_cache: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="tensorrt: file of layer times, read where it exists and written afterwards."),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="TensorRT: let later versions run the plan.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="tensorrt: let other GPUs of capability 8.0 and newer run it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export a network to a bundle, or compile that of a bundle, and check its masks against the PyTorch model's."""
    from edgeseg import backends, build, bundle, recompile

    if backend not in (None, *backends.BACKENDS):
        raise InputError(f"there is no backend {backend}: give {', '.join(backends.BACKENDS)}")
    if fp32 + fp16 + int8 > 1:
        raise InputError("--fp32, --fp16 and --int8 exclude each other: give one")
    console = Console(as_json)
    wanted: build.Precision | None = "fp32" if fp32 else "int8" if int8 else "fp16" if fp16 else None
    source = recompile.bundle_of(weights) if weights else None
    precision = recompile.precision_of(source, wanted) if source else wanted or "fp16"
    given = {
        "max_batch": max_batch,
        "workspace_mb": workspace_mb,
        "dla_core": dla,
        "capabilities": tuple(capability or ()),
        "timing_cache": timing_cache,
        "version_compatible": version_compatible,
        "hardware_compatible": hardware_compatible,
    }
    plan, chosen, say = _plan_options(backend, precision, given), names(patients), console.say
    recipe = _recipe(precision if source is None else None, method, calibration, finetune)
    if source is not None and plan is None:
        raise InputError(f"{weights} is a bundle, which other runtimes take as it is: give --backend tensorrt")
    with _enough_memory():
        if source is None or plan is None:
            trained = weights or bundle.shipped_weights()
            manifest = build.build_engine(trained, precision, data, output, backend, chosen, say, recipe, plan)
        else:
            manifest = recompile.recompile(source, plan, data, output, chosen, say)
    _print_built(console, manifest)


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Say what a failed allocation means: PyTorch and OpenVINO report it as a RuntimeError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in _NO_MEMORY):
            raise
        raise EngineError(
            "this machine has too little memory to build the engine, and a bundle at -o is as it was: close other "
            "programs, or build on a larger machine"
        ) from error


def _recipe(precision: Precision | None, method: str | None, calibration: Path | None, finetune: bool) -> Recipe:
    """How an INT8 network arises.

    Raises
    ------
    InputError
        When options of INT8 were given for another precision, or for a network that is quantised already.
    """
    from edgeseg.ladder import Recipe

    given = [
        name for name, value in (("method", method), ("calibration", calibration), ("finetune", finetune)) if value
    ]
    if given and precision != "int8":
        raise InputError(f"--{given[0]} is for weights that become --int8: give that too, or leave it out")
    return Recipe(method or "min-max", calibration, finetune)


def _print_built(console: Console, manifest: Manifest) -> None:
    """The verdict, and that a plan has not run; why there is no verdict has been said."""
    if manifest.parity is None:
        if console.as_json:
            console.result({"name": manifest.name, "parity": None})
        return
    print_parity(console, manifest.name, manifest.parity)
    if not manifest.verified_on_device:
        console.warn("the plan has not run yet: run edgeseg parity on the machine that it is for before edgeseg infer")


def _plan_options(backend: str | None, precision: Precision, offered: dict[str, Any]) -> PlanOptions | None:
    """What a plan is built for; None for backends that run the network file itself.

    Raises
    ------
    InputError
        When options of TensorRT were given for another backend, or do not fit each other.
    """
    runtimes: dict[str | None, Literal["tensorrt", "tensorrt-rtx"]]
    runtimes = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}
    runtime = runtimes.get(backend)
    given = {name: value for name, value in offered.items() if value not in (None, ()) and value is not False}
    if runtime is None:
        if given:
            option = {"dla_core": "dla", "capabilities": "capability"}.get(min(given), min(given)).replace("_", "-")
            raise InputError(
                f"--{option} is for --backend tensorrt or tensorrt-rtx: give one of these, or leave it out"
            )
        return None
    from edgeseg.export import plan

    options = plan.PlanOptions(runtime, precision, **given)
    plan.check_options(options)
    return options


def print_parity(console: Console, name: str, report: Any) -> None:
    """Print a parity report.

    Raises
    ------
    ParityError
        When it says that parity failed.
    """
    from edgeseg import parity as comparison

    if console.as_json:
        console.result(comparison.to_json(report))
    else:
        console.table(f"{name} against {report.reference}", ["parity", ""], comparison.figures(report))
    if not report.passed:
        raise ParityError(f"{name} fails parity: {'; '.join(report.failures)}")


def names(path: Path | None) -> tuple[str, ...]:
    """Names of patients, one a line; none for None.

    Raises
    ------
    InputError
        When the file cannot be read.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"no readable list of patients at {path}: give a text file with one name a line") from error
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
