"""The command that segments a study, or a folder of studies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from edgeseg import lean
from edgeseg.build_commands import Backend, Json
from edgeseg.console import NOTICE, Console, JsonList
from edgeseg.engine_commands import RequireSignature, SiteRules
from edgeseg.errors import EdgesegError, InputError, OutputError, PartialFailure

if TYPE_CHECKING:
    from edgeseg.batch import Outcome


_SERIES = "A series by number, SeriesInstanceUID or file name (* and ? stand for any text)"


@lean.imports()
def infer(
    study: Annotated[Path, typer.Argument(help="A study's folder (DICOM, TIFF or NIfTI), or a folder of studies.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Results go to OUTPUT/<study>/.")] = Path(
        "edgeseg-output"
    ),
    engine: Annotated[str, typer.Option(help="A bundle's folder or the name of a shipped one.")] = "",
    formats: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--format",
            help="masks, nifti, dicom-seg, dicom-sr, secondary-capture, overlay, html, report; may be repeated. "
            "[default: all that the study can have but secondary-capture]",
        ),
    ] = None,
    flair: Annotated[Optional[str], typer.Option(help=f"{_SERIES}. [default: by the rules]")] = None,  # noqa: UP045
    pre: Annotated[Optional[str], typer.Option(help="The same for T1 before contrast; none: FLAIR stands in.")] = None,  # noqa: UP045
    post: Annotated[Optional[str], typer.Option(help="The same for T1 after contrast; none: FLAIR stands in.")] = None,  # noqa: UP045
    rules: SiteRules = None,
    backend: Backend = None,
    device: Annotated[str, typer.Option(help="auto, cpu, or the runtime's own name of a device.")] = "auto",
    allow_unverified: Annotated[bool, typer.Option(help="Serve an engine that has not passed parity.")] = False,
    public_key: RequireSignature = None,
    triton: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--triton", metavar="URL", help="Run the network on this Triton server (http://HOST:8000)."),
    ] = None,
    which: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--shard", metavar="I/N", help="Only part I, from 1, of N: one task of a job array."),
    ] = None,
    address: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--cluster", metavar="ADDRESS", help="Share studies out on a Ray cluster: auto, HOST:PORT, local."
        ),
    ] = None,
    cores: Annotated[int, typer.Option(min=1, help="Of each worker of --cluster.")] = 1,
    again: Annotated[bool, typer.Option("--again", help="Do also what an earlier run has done already.")] = False,
    identified: Annotated[
        bool, typer.Option("--identified", help="Name patients, folders and files in reports, messages and JSON.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Segment a study, or a folder of studies; what is done already is left as it is."""
    from edgeseg import batch, bundle, readers, segment

    if cores > 1 and not address:
        raise InputError("--cores is for the workers of a cluster: give --cluster too")
    if triton and address:
        raise InputError("--cluster opens engines of its own, and --triton has one on a server: give one of the two")
    console = Console(as_json)
    selection = readers.Selection(flair, pre, post, readers.load_rules(rules) if rules else None)
    with _telling(identified):
        found = readers.find_studies(study)
        segment.check_selection(selection, found)
        segment.check_output(study, [files.root for files in found], [files.name for files in found], output)
    studies = batch.shard(found, which) if which else found
    console.say(NOTICE)
    summary = _Summary(console, len(studies), output)
    if studies:
        options = segment.Options(tuple(formats) if formats else None, selection, identified)
        named = (engine or bundle.DEFAULT_ENGINE, backend, device, allow_unverified, public_key)
        with _telling(identified), ExitStack() as stack:
            say = stack.enter_context(console.steps(study.name))
            if address:
                from edgeseg import cluster

                workers = cluster.workers(address, cores, *named)
                shared = cluster.run(studies, workers, output, options, say, console.warn, again)
                outcomes: Iterator[Outcome] = stack.enter_context(closing(shared))
            else:
                opened = stack.enter_context(segment.open_engine(*named, triton=triton))
                outcomes = batch.run(studies, opened, output, options, say, again)
            for outcome in outcomes:
                summary.note(outcome)
    else:
        console.say(f"Shard {which} holds none of the {len(found)} studies")
    summary.conclude()


@contextmanager
def _telling(identified: bool) -> Iterator[None]:
    """Let errors name folders and files where the user asked for it."""
    try:
        yield
    except EdgesegError as error:
        if identified:
            error.reveal()
        raise


class _Summary:
    """What is said of the studies, one by one and at the end; of each it keeps a row, not its voxels or its report."""

    def __init__(self, console: Console, studies: int, output: Path) -> None:
        self._console, self._studies, self._output = console, studies, output
        self._list = JsonList("studies") if console.as_json else None
        self._rows: list[list[str]] = []
        self._failed: list[Outcome] = []
        self._folder = output
        self._pages = 0

    def note(self, outcome: Outcome) -> None:
        """Say what became of a study."""
        if outcome.result is None:
            self._failed.append(outcome)
            if self._studies > 1 and not isinstance(outcome.error, OutputError):
                named = outcome.root is None or str(outcome.root) in str(outcome.error)
                self._console.fail(f"{outcome.name if named else outcome.root}: {outcome.error}")
            return
        report, already = outcome.result.report(), outcome.result.already
        for warning in report["warnings"]:
            self._console.warn(f"{outcome.name}: {warning}")
        if already:
            self._console.say(f"{outcome.name}: already done")
        elif self._studies > 1:
            self._console.say(f"{outcome.name}: {report['marked_slices']} of {len(report['slices'])} slices marked")
        self._folder = outcome.result.folder
        self._rows.append(_row(report, already))
        self._pages += "report.html" in report["files"]
        if self._list is not None:
            self._list.add({"folder": str(self._folder), "already_done": already, **report})

    def conclude(self) -> None:
        """Print what was found; a single study's error, or that some of several failed, is raised."""
        if self._list is not None:
            self._list.close(failed=[_failure(outcome) for outcome in self._failed])
        elif self._rows:
            columns = ["study", "slices", "marked", "ml", "T1 pre", "T1 post", "s"]
            self._console.table("FLAIR abnormality", columns, self._rows)
            self._console.say(self._where())
        self._raise()

    def _where(self) -> str:
        """What to open: a single study's page, or the folder that holds the results."""
        if len(self._rows) == 1:
            return f"Report: {self._folder}/report.html" if self._pages else f"Results: {self._folder}"
        everywhere = self._pages == len(self._rows)
        return f"Results: {self._output}" + (", with a report.html in each study's folder" if everywhere else "")

    def _raise(self) -> None:
        last = self._failed[-1].error if self._failed else None
        done = len(self._rows)
        if isinstance(last, OutputError) and self._studies > 1:
            raise OutputError(f"{last}; {done} of {self._studies} studies are done, and another run does the others")
        if last is not None and self._studies == 1:
            raise last
        if last is not None and not done:
            raise InputError(f"none of {self._studies} studies could be segmented: see above")
        if last is not None:
            names = ", ".join(outcome.name for outcome in self._failed)
            hint = " (--identified says in which folders)" if any(one.root is None for one in self._failed) else ""
            raise PartialFailure(f"{len(self._failed)} of {self._studies} studies are not done: {names}{hint}")


def _failure(outcome: Outcome) -> dict[str, str | None]:
    path = None if outcome.root is None else str(outcome.root)
    return {"study": outcome.name, "path": path, "error": str(outcome.error)}


def _row(report: dict[str, Any], already: bool) -> list[str]:
    """A study's row of the table; one that an earlier run did took no time."""
    return [
        report["study"]["name"],
        str(len(report["slices"])),
        str(report["marked_slices"]),
        "-" if report["volume_ml"] is None else f"{report['volume_ml']:.1f}",
        *("own" if report["channels"][t1]["filled_with"] == "own" else "FLAIR" for t1 in ("pre", "post")),
        "-" if already else f"{sum(report['timings_ms'].values()) / 1000:.1f}",
    ]
