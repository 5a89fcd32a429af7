"""The commands of the scanner side: what takes studies by itself, and what became of them."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from edgeseg.build_commands import Backend, Json
from edgeseg.console import NOTICE, Console
from edgeseg.engine_commands import RequireSignature, SiteRules
from edgeseg.errors import InputError, PartialFailure

if TYPE_CHECKING:
    from edgeseg import segment
    from edgeseg.scanner.destination import Sender
    from edgeseg.scanner.jobs import Delivery, Job
    from edgeseg.scanner.receive import Listener
    from edgeseg.scanner.worker import Worker

State = Annotated[Path, typer.Option("--state", help="Folder of the queue; on a local disk.")]
Engine = Annotated[str, typer.Option(help="A bundle's folder or the name of a shipped one.")]
Formats = Annotated[
    Optional[list[str]],  # noqa: UP045  Typer reads annotations at run time on Python 3.10
    typer.Option("--format", help="As in infer; may be repeated. [default: all]"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, or the runtime's own name of a device.")]
AllowUnverified = Annotated[bool, typer.Option(help="Serve an engine that has not passed parity.")]
MetricsPort = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=0, max=65535, help="Answer /metrics and /health there; 0 takes a free port."),
]
MetricsHost = Annotated[str, typer.Option(help="Address for --metrics-port.")]
Quiet = Annotated[
    float, typer.Option(min=0.0, metavar="SECONDS", help="A study is taken when nothing changed so long.")
]
DEFAULT_STATE = Path("edgeseg-state")
DEFAULT_QUIET_S = 30.0


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(watch)
    app.command()(receive)
    app.command("jobs")(list_jobs)


def watch(
    folder: Annotated[
        Path, typer.Argument(envvar="MERCURE_IN_DIR", help="Studies are copied into it: in subfolders, or flat.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", envvar="MERCURE_OUT_DIR", help="Results go to OUTPUT/<study>/.")
    ] = Path("edgeseg-output"),
    state: State = DEFAULT_STATE,
    quiet: Quiet = DEFAULT_QUIET_S,
    once: Annotated[bool, typer.Option("--once", help="Do what is there, and end.")] = False,
    engine: Engine = "",
    formats: Formats = None,
    rules: SiteRules = None,
    backend: Backend = None,
    device: Device = "auto",
    allow_unverified: AllowUnverified = False,
    public_key: RequireSignature = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
) -> None:
    """Segment each study that is copied into a folder; speaks mercure's contract too."""
    from edgeseg import bundle, segment
    from edgeseg.scanner import mercure, service
    from edgeseg.scanner.monitor import Monitor
    from edgeseg.scanner.watch import check_folder

    check_folder(folder)
    segment.check_output(folder, [], [], output)
    if state.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"the state folder {state} lies inside the watched {folder}: give another with --state")
    options = _options(formats, rules)
    settings = mercure.read_settings(folder)
    if settings:
        engine, backend = settings.engine or engine, settings.backend or backend
        device, options = settings.device or device, mercure.with_settings(options, settings)
    opening = partial(
        segment.open_engine, engine or bundle.DEFAULT_ENGINE, backend, device, allow_unverified, public_key
    )
    if settings:
        Console().say(NOTICE)
        with opening() as opened:
            mercure.run(folder, output, opened, options, Monitor())
        return
    place = service.Place(state, output, metrics_port, metrics_host)
    with service.service(place, opening, options) as worker:
        _watch(worker, folder, quiet, once)


def _options(formats: list[str] | None, rules: Path | None) -> segment.Options:
    """What is decided about every study that a service takes."""
    from edgeseg import readers, segment

    selection = readers.Selection(rules=readers.load_rules(rules)) if rules else readers.AUTOMATIC
    return segment.Options(tuple(formats) if formats else None, selection)


def _watch(worker: Worker, folder: Path, quiet: float, once: bool) -> None:
    """Watch until stopped, or once; failures are raised at the end of the latter."""
    from edgeseg.scanner import service
    from edgeseg.scanner.watch import Watcher

    watcher = Watcher(folder, worker.queue, worker.monitor, quiet)
    worker.find, worker.checked = watcher.find, True
    service.run(worker, watcher.scan, watcher.poll_s, once)
    if once and worker.failed and not worker.done:
        raise InputError(f"none of {worker.failed} studies could be segmented: edgeseg jobs says why")
    if once and worker.failed:
        raise PartialFailure(
            f"{worker.failed} of {worker.failed + worker.done} studies are not done: edgeseg jobs says why"
        )


def receive(
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port to listen on; 0 takes a free one.")] = 11112,
    ae_title: Annotated[str, typer.Option(help="This host's AE title.")] = "EDGESEG",
    output: Annotated[Path, typer.Option("-o", "--output", help="Results go to OUTPUT/<study>/.")] = Path(
        "edgeseg-output"
    ),
    state: State = DEFAULT_STATE,
    quiet: Quiet = DEFAULT_QUIET_S,
    keep: Annotated[
        float, typer.Option(min=0.0, metavar="DAYS", help="Received studies that are done or failed go after so long.")
    ] = 1.0,
    allow_ae: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="TITLE", help="AE title that may send; may be repeated. [default: any]"),
    ] = None,
    allow_network: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="CIDR", help="Network that may connect; may be repeated. [default: any]"),
    ] = None,
    associations: Annotated[int, typer.Option(min=1, help="How many at once.")] = 10,
    largest_mb: Annotated[int, typer.Option(min=1, help="Largest instance; each association may hold one.")] = 256,
    tls_certificate: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="PEM file of this host's certificate: TLS alone is spoken then."),
    ] = None,
    tls_key: Annotated[Optional[Path], typer.Option(help="PEM file of its key.")] = None,  # noqa: UP045
    tls_ca: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="PEM file of the CA whose certificates peers have to show."),
    ] = None,
    send_to: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="DESTINATION",
            help="AE@HOST:PORT, AE@HOST:PORT/tls or https://HOST/dicom-web/studies; may be repeated.",
        ),
    ] = None,
    credentials: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            envvar="EDGESEG_CREDENTIALS", help="File of lines: HOST Bearer TOKEN, or HOST Basic USER:PASSWORD."
        ),
    ] = None,
    engine: Engine = "",
    formats: Formats = None,
    rules: SiteRules = None,
    backend: Backend = None,
    device: Device = "auto",
    allow_unverified: AllowUnverified = False,
    public_key: RequireSignature = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
) -> None:
    """Segment each study that is sent here by DICOM, and send its results on."""
    from edgeseg import bundle, segment
    from edgeseg.scanner import destination, receive, service
    from edgeseg.scanner.tls import Tls

    tls = Tls(tls_certificate, tls_key, tls_ca)
    networks = tuple(receive.network(text) for text in allow_network or ())
    own_tls = tls if tls_certificate or tls_key else None
    limits = (associations, largest_mb * 1024**2)
    listener = receive.Listener(port, ae_title, tuple(allow_ae or ()), networks, own_tls, *limits)
    for name in send_to or ():
        destination.check(name)
    sender = destination.Sender(ae_title, tls, destination.read_credentials(credentials) if credentials else {})
    options = _options(formats, rules)
    opening = partial(
        segment.open_engine, engine or bundle.DEFAULT_ENGINE, backend, device, allow_unverified, public_key
    )
    place = service.Place(state, output, metrics_port, metrics_host)
    with service.service(place, opening, options) as worker:
        worker.destinations = tuple(dict.fromkeys(send_to or ()))
        _receive(worker, listener, sender, state, quiet, keep * 86400)


def _receive(worker: Worker, listener: Listener, sender: Sender, state: Path, quiet_s: float, keep_s: float) -> None:
    """Receive, work and send on until stopped."""
    from edgeseg.scanner import intake, service
    from edgeseg.scanner.forward import Forwarder
    from edgeseg.scanner.incoming import Incoming
    from edgeseg.scanner.listening import Listening

    folder = intake.folder(state)
    if not listener.titles and not listener.networks:
        worker.monitor.event("anyone_may_send", mend="name peers with --allow-ae and --allow-network")
    taking = intake.Intake(Incoming(folder), worker.queue, worker.monitor, quiet_s, keep_s)
    forwarder = Forwarder(worker.queue, worker.monitor, worker.destinations, sender)
    with Listening(listener, folder, worker.monitor), forwarder:
        service.run(worker, taking.scan, intake.POLL_S)


def list_jobs(
    state: State = DEFAULT_STATE,
    retry: Annotated[
        Optional[str],  # noqa: UP045  Typer reads annotations at run time on Python 3.10
        typer.Option("--retry", metavar="STUDY", help="Put a failed study back."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the studies that wait, run, are done or failed, and the results to be sent on."""
    from edgeseg.scanner import jobs

    console = Console(as_json)
    if not (state / jobs.FILE).is_file():
        raise InputError(f"{state} holds no queue: give the folder of edgeseg watch or receive with --state")
    with jobs.Queue(state / jobs.FILE) as queue:
        if retry is not None:
            queue.retry(retry)
        found, deliveries = queue.jobs(), queue.deliveries()
    if as_json:
        listed = [_to_json(delivery) for delivery in deliveries]
        console.result({"jobs": [_to_json(job) for job in found], "deliveries": listed})
        return
    columns = ["study", "state", "tries", "from", "added", "s"]
    console.table("Studies", columns, [_row(job) for job in found])
    if deliveries:
        columns = ["study", "to", "state", "tries", "next try"]
        console.table("Deliveries", columns, [_delivery_row(delivery) for delivery in deliveries])
    wrong = [[job.key, job.error] for job in found if job.error]
    wrong += [[f"{item.job.key} to {item.destination}", item.error] for item in deliveries if item.error]
    if wrong:
        console.table("What went wrong", ["study", "why"], wrong)


def _row(job: Job) -> list[str]:
    seconds = "-" if job.started is None or job.ended is None else f"{job.ended - job.started:.1f}"
    return [job.key, job.state, str(job.attempts), job.source, _clock(job.added), seconds]


def _delivery_row(delivery: Delivery) -> list[str]:
    following = _clock(delivery.next_attempt) if delivery.state == "waiting" else "-"
    return [delivery.job.key, delivery.destination, delivery.state, str(delivery.attempts), following]


def _clock(seconds: float) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(seconds))


def _to_json(item: Job | Delivery) -> dict[str, Any]:
    """Plain values: a delivery's study by its key; not a study's own folder, which may name a patient."""
    plain: dict[str, Any] = {name: value for name, value in vars(item).items() if name != "folder"}
    if "job" in plain:
        plain["job"] = plain["job"].key
    return {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}
