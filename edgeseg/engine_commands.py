"""The commands about engines that are built already: list them, sign them, time them, export them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgeseg.build_commands import Json as _Json
from edgeseg.console import Console
from edgeseg.errors import InputError

if TYPE_CHECKING:
    from edgeseg.benchmark import Report
    from edgeseg.types import Manifest

_Bundles = Annotated[
    Optional[list[str]],  # noqa: UP045  Typer reads annotations at run time on Python 3.10
    typer.Argument(metavar="BUNDLE", help="Bundles' folders or names; the shipped ones without them."),
]
RequireSignature = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--require-signature", metavar="PUBLIC_KEY_FILE", help="Refuse a bundle that this Ed25519 key has not signed."
    ),
]

SiteRules = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--rules", metavar="FILE", help="A site's own rules for which series is which (JSON)."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (engines, benchmark, sign, export_triton):
        app.command()(command)


def engines(
    folders: _Bundles = None,
    public_key: RequireSignature = None,
    as_json: _Json = False,
) -> None:
    """List engines: precision, size, runtimes, parity, signature, speed."""
    from edgeseg import bundle

    console = Console(as_json)
    listed = []
    for folder in [bundle.find(name) for name in folders or ()] or bundle.shipped():
        manifest, content = bundle.read(folder, public_key)
        listed.append((folder, manifest, len(content) / 1e6, bundle.is_signed(folder)))
    if as_json:
        console.result(
            {
                "engines": [
                    {**bundle.to_json(manifest), "folder": str(folder), "size_mb": round(size, 3), "signed": signed}
                    for folder, manifest, size, signed in listed
                ]
            }
        )
        return
    rows = [
        [
            f"{manifest.name}\n  {', '.join(manifest.runtimes)}",
            manifest.precision,
            f"{size:.1f}",
            _parity(manifest),
            "yes" if signed else "no",
            f"{manifest.speed.slices_per_second:.0f}" if manifest.speed else "-",
        ]
        for _, manifest, size, signed in listed
    ]
    console.table("Engines", ["name, runtimes", "weights", "MB", "parity", "signed", "slices/s"], rows)


def _parity(manifest: Manifest) -> str:
    """Mean agreement and verdict, one below the other."""
    if manifest.parity is None:
        return "-\nnever"
    return f"{manifest.parity.agreement.mean:.4f}\n{'passed' if manifest.parity.passed else 'failed'}"


def benchmark(
    folders: _Bundles = None,
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
        typer.Option("--chart", metavar="FILE.png", help="Draw slices a second."),
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Write each bundle's speed into its manifest.")] = False,
    startup: Annotated[
        bool, typer.Option("--startup", help="Show instead where the time of a fresh edgeseg infer goes.")
    ] = False,
    study: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--study", help="For --startup; the example without it."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Time engines side by side, beside PyTorch, ONNX Runtime and OpenVINO; a plan on its GPU."""
    from edgeseg import benchmark as timing
    from edgeseg import benchmark_chart, bundle

    console = Console(as_json)
    if startup:
        _startup(console, folders or [bundle.DEFAULT_ENGINE], study, rounds)
        return
    if chart:
        benchmark_chart.check(chart)
    found = [bundle.find(name) for name in folders or ()] or bundle.shipped()
    with console.counting("timing") as progress:
        report = timing.benchmark(found, rounds, threads, backend, record, progress)
    for sentence in report.left_out:
        console.warn(sentence)
    if as_json:
        console.result(report.to_json())
    else:
        _print_benchmark(console, report)
    if chart:
        benchmark_chart.draw(report.to_json(), chart)


def _startup(console: Console, engines: list[str], study: Path | None, rounds: int) -> None:
    from edgeseg import startup

    if len(engines) != 1:
        raise InputError(f"a start is measured with one engine, not with {len(engines)}: name one")
    with console.counting("starting") as progress:
        report = startup.measure(engines[0], study, rounds, progress)
    if console.as_json:
        console.result(report.to_json())
        return
    console.table(f"edgeseg infer, {report.engine}", startup.COLUMNS, startup.rows(report))
    console.table("", startup.PACKAGE_COLUMNS, startup.package_rows(report))
    console.say(f"{report.machine['cpu']}, medians of {report.rounds} later starts, each a fresh process")


def _print_benchmark(console: Console, report: Report) -> None:
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


def sign(
    engine: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's folder or the name of a shipped one.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Ed25519 private key, PEM, without a password.")],
    as_json: _Json = False,
) -> None:
    """Sign a bundle: manifest.sig, over the manifest and so over the hash of every file."""
    from edgeseg import bundle

    console = Console(as_json)
    signature = bundle.sign(bundle.find(engine), key)
    if as_json:
        console.result({"signature": str(signature)})
    else:
        console.say(f"Signature: {signature}")


def export_triton(
    engine: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's folder or the name of a shipped one.")],
    repository: Annotated[
        Path, typer.Argument(metavar="DIR", help="Triton's model repository; may hold other models.")
    ],
    platform: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="tensorrt, onnx or openvino. [default: the first of them that the bundle is for]"),
    ] = None,
    allow_unverified: Annotated[bool, typer.Option(help="Export an engine that has not passed parity.")] = False,
    public_key: RequireSignature = None,
    as_json: _Json = False,
) -> None:
    """Write an engine as a model of Triton Inference Server, for edgeseg infer --triton."""
    from edgeseg import bundle, model_repository

    console = Console(as_json)
    found = model_repository.export(bundle.find(engine), repository, platform, allow_unverified, public_key)
    if as_json:
        told = {"folder": str(found.folder), "platform": found.platform}
        console.result({**told, "name": found.manifest.name, "sha256": found.manifest.sha256})
    else:
        console.say(f"Model for Triton's {found.platform}: {found.folder}")
