"""The command that measures: engines side by side, the whole way from folder to files, or where a start's time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgeseg.build_commands import Json
from edgeseg.console import Console
from edgeseg.engine_commands import Bundles
from edgeseg.errors import InputError

if TYPE_CHECKING:
    from edgeseg.benchmark import Report


def benchmark(
    folders: Bundles = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each engine.")] = 20,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Of the CPU, for every engine. [default: all cores]"),
    ] = None,
    backend: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--backend", help="The bundles' runtime; their first without it."),
    ] = None,
    chart: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--chart", metavar="FILE.png", help="Draw slices a second, or the steps of the whole way."),
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Write each bundle's speed into its manifest.")] = False,
    end_to_end: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--end-to-end", metavar="STUDY", help="Measure instead the whole way from folder to files."),
    ] = None,
    formats: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--format", help="What --end-to-end writes; may be repeated. [default: what infer writes]"),
    ] = None,
    startup: Annotated[
        bool, typer.Option("--startup", help="Show instead where the time of a fresh edgeseg infer goes.")
    ] = False,
    study: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--study", help="For --startup; the example without it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Time engines beside their peers, the whole way from folder to files, or a start."""
    from edgeseg import benchmark_chart

    console = Console(as_json)
    if chart:
        benchmark_chart.check(chart)
    if startup:
        _startup(console, folders, study, rounds)
    elif end_to_end:
        _end_to_end(console, folders, end_to_end, backend, formats, rounds, chart)
    else:
        _engines(console, folders, rounds, threads, backend, record, chart)


def _engines(
    console: Console,
    folders: list[str] | None,
    rounds: int,
    threads: int | None,
    backend: str | None,
    record: bool,
    chart: Path | None,
) -> None:
    from edgeseg import benchmark as timing
    from edgeseg import benchmark_chart, bundle

    found = [bundle.find(name) for name in folders or ()] or bundle.shipped()
    with console.counting("timing") as progress:
        report = timing.benchmark(found, rounds, threads, backend, record, progress)
    for sentence in report.left_out:
        console.warn(sentence)
    if console.as_json:
        console.result(report.to_json())
    else:
        _print_engines(console, report)
    if chart:
        benchmark_chart.draw(report.to_json(), chart)


def _print_engines(console: Console, report: Report) -> None:
    from edgeseg import benchmark as timing

    for network in dict.fromkeys(one.network for one in report.engines):
        console.table(network, timing.COLUMNS, timing.rows(report, network))
        if on_gpu := timing.gpu_rows(report, network):
            console.table(network, timing.GPU_COLUMNS, on_gpu)
    console.say(timing.LEGEND)
    for card in dict.fromkeys(one.device for one in report.engines if one.on_gpu):
        console.say(f"{card}: {timing.GPU_LEGEND}")
    sets = ", ".join(report.machine["instruction_sets"])
    console.say(f"{report.machine['cpu']} ({sets}), {report.threads} threads, {report.rounds} rounds")


def _end_to_end(
    console: Console,
    folders: list[str] | None,
    study: Path,
    backend: str | None,
    formats: list[str] | None,
    rounds: int,
    chart: Path | None,
) -> None:
    from edgeseg import benchmark_chart, end_to_end, segment

    options = segment.Options(tuple(formats) if formats else None)
    with console.counting("timing") as progress:
        report = end_to_end.measure(study, _only(folders, "the whole way"), backend, options, rounds, progress)
    if console.as_json:
        console.result(report.to_json())
    else:
        console.table(f"From folder to files, {report.engine}", end_to_end.COLUMNS, end_to_end.rows(report))
        console.say(end_to_end.sentence(report))
    if chart:
        benchmark_chart.draw_steps(report.to_json(), chart)


def _startup(console: Console, folders: list[str] | None, study: Path | None, rounds: int) -> None:
    from edgeseg import startup

    with console.counting("starting") as progress:
        report = startup.measure(_only(folders, "a start"), study, rounds, progress)
    if console.as_json:
        console.result(report.to_json())
        return
    console.table(f"edgeseg infer, {report.engine}", startup.COLUMNS, startup.rows(report))
    console.table("", startup.PACKAGE_COLUMNS, startup.package_rows(report))
    console.say(f"{report.machine['cpu']}, medians of {report.rounds} later starts, each a fresh process")


def _only(folders: list[str] | None, what: str) -> str:
    """The one bundle that is measured."""
    from edgeseg import bundle

    engines = folders or [bundle.DEFAULT_ENGINE]
    if len(engines) != 1:
        raise InputError(f"{what} is measured with one engine, not with {len(engines)}: name one")
    return engines[0]
