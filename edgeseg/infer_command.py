"""The command that segments a study, or a folder of studies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from edgeseg.build_commands import Backend, Json
from edgeseg.console import NOTICE, Console
from edgeseg.engine_commands import RequireSignature
from edgeseg.errors import EdgesegError, InputError, OutputError, PartialFailure

if TYPE_CHECKING:
    from edgeseg.batch import Outcome


def infer(
    study: Annotated[Path, typer.Argument(help="A study's folder (DICOM, TIFF or NIfTI), or a folder of studies.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Results go to OUTPUT/<study>/.")] = Path(
        "edgeseg-output"
    ),
    engine: Annotated[str, typer.Option(help="A bundle's folder or the name of a shipped one.")] = "",
    formats: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--format", help="masks, nifti, dicom-seg, overlay, html, report; may be repeated. [default: all]"
        ),
    ] = None,
    backend: Backend = None,
    device: Annotated[str, typer.Option(help="auto, cpu, or the runtime's own name of a device.")] = "auto",
    allow_unverified: Annotated[bool, typer.Option(help="Serve an engine that has not passed parity.")] = False,
    public_key: RequireSignature = None,
    identified: Annotated[
        bool, typer.Option("--identified", help="Name patients, folders and files in reports, messages and JSON.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Segment a study, or a folder of studies."""
    from edgeseg import batch, bundle, readers, segment

    console = Console(as_json)
    with _telling(identified):
        studies = readers.find_studies(study)
        segment.check_output(study, [found.root for found in studies], [found.name for found in studies], output)
    console.say(NOTICE)
    options = segment.Options(formats=tuple(formats) if formats else None, identified=identified)
    name = engine or bundle.DEFAULT_ENGINE
    with segment.open_engine(name, backend, device, allow_unverified, public_key) as opened:
        reports: list[dict[str, Any]] = []
        failed: list[Outcome] = []
        with console.steps(study.name) as say:
            for outcome in batch.run(studies, opened, output, options, say):
                _note(console, outcome, len(studies), reports, failed)
    _conclude(console, reports, failed, len(studies), output)


@contextmanager
def _telling(identified: bool) -> Iterator[None]:
    """Let errors name folders and files where the user asked for it."""
    try:
        yield
    except EdgesegError as error:
        if identified:
            error.reveal()
        raise


def _note(
    console: Console, outcome: Outcome, studies: int, reports: list[dict[str, Any]], failed: list[Outcome]
) -> None:
    """Say what became of a study and keep what the end needs of it: not its voxels."""
    if outcome.result is None:
        failed.append(outcome)
        if studies > 1:
            said = str(outcome.error)
            named = outcome.root is None or str(outcome.root) in said
            console.fail(f"{outcome.name if named else outcome.root}: {said}")
        return
    report = {"folder": str(outcome.result.folder), **outcome.result.report()}
    for warning in report["warnings"]:
        console.warn(f"{outcome.name}: {warning}")
    if studies > 1:
        console.say(f"{outcome.name}: {report['marked_slices']} of {len(report['slices'])} slices marked")
    reports.append(report)


def _conclude(
    console: Console, reports: list[dict[str, Any]], failed: list[Outcome], studies: int, output: Path
) -> None:
    """Print what was found; a single study's error, or that some of several failed, is raised."""
    if console.as_json:
        failures = [{"study": f.name, "path": f.root and str(f.root), "error": str(f.error)} for f in failed]
        console.result({"studies": reports, "failed": failures})
    elif reports:
        _print_reports(console, reports, output)
    last = failed[-1].error if failed else None
    if last is not None and (studies == 1 or (isinstance(last, OutputError) and not reports)):
        raise last
    if failed and not reports:
        raise InputError(f"none of {studies} studies could be segmented: see above")
    if failed:
        names = ", ".join(outcome.name for outcome in failed)
        hint = " (--identified says in which folders)" if any(outcome.root is None for outcome in failed) else ""
        raise PartialFailure(f"{studies - len(reports)} of {studies} studies are not done: {names}{hint}")


def _print_reports(console: Console, reports: list[dict[str, Any]], output: Path) -> None:
    rows = [
        [
            report["study"]["name"],
            str(len(report["slices"])),
            str(report["marked_slices"]),
            "-" if report["volume_ml"] is None else f"{report['volume_ml']:.1f}",
            *("own" if report["channels"][t1]["filled_with"] == "own" else "FLAIR" for t1 in ("pre", "post")),
            f"{sum(report['timings_ms'].values()) / 1000:.1f}",
        ]
        for report in reports
    ]
    console.table("FLAIR abnormality", ["study", "slices", "marked", "ml", "T1 pre", "T1 post", "s"], rows)
    console.say(_where(reports, output))


def _where(reports: list[dict[str, Any]], output: Path) -> str:
    """What to open: a single study's page, or the folder that holds the results."""
    folder, pages = reports[0]["folder"], ["report.html" in report["files"] for report in reports]
    if len(reports) == 1:
        return f"Report: {folder}/report.html" if pages[0] else f"Results: {folder}"
    return f"Results: {output}" + (", with a report.html in each study's folder" if all(pages) else "")
