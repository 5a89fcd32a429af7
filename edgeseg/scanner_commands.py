"""The commands of the scanner side: what takes studies by itself, and what became of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from edgeseg.build_commands import Json
from edgeseg.console import Console
from edgeseg.errors import InputError

if TYPE_CHECKING:
    from edgeseg.scanner.jobs import Delivery, Job

State = Annotated[Path, typer.Option("--state", help="Folder of the queue; on a local disk.")]
DEFAULT_STATE = Path("edgeseg-state")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("jobs")(list_jobs)


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
    columns = ["study", "state", "tries", "from", "added", "s", "results or error"]
    console.table("Studies", columns, [_row(job) for job in found])
    if deliveries:
        columns = ["study", "to", "state", "tries", "next try", "error"]
        console.table("Deliveries", columns, [_delivery_row(delivery) for delivery in deliveries])


def _row(job: Job) -> list[str]:
    seconds = "-" if job.started is None or job.ended is None else f"{job.ended - job.started:.1f}"
    said = job.error or (str(job.results) if job.results else "-")
    return [job.key, job.state, str(job.attempts), job.source, _clock(job.added), seconds, said]


def _delivery_row(delivery: Delivery) -> list[str]:
    waits = delivery.state == "waiting"
    return [
        delivery.job.key,
        delivery.destination,
        delivery.state,
        str(delivery.attempts),
        _clock(delivery.next_attempt) if waits else "-",
        delivery.error or "-",
    ]


def _clock(seconds: float) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(seconds))


def _to_json(item: Job | Delivery) -> dict[str, Any]:
    """Plain values: paths as text, a delivery's study by its key."""
    plain: dict[str, Any] = dict(vars(item))
    if "job" in plain:
        plain["job"] = plain["job"].key
    return {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}
