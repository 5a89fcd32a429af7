"""A service from start to end: engine, queue, worker, metrics and signals around what brings the studies."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from edgeseg import __version__, segment
from edgeseg.errors import InputError, OutputError
from edgeseg.scanner.monitor import Health, Monitor, serve
from edgeseg.scanner.worker import PAUSE_S, Worker, sole_worker
from edgeseg.writers import FORMATS
from edgeseg.writers.report import NOTICE


@dataclass(frozen=True)
class Place:
    """Where a service keeps and says things.

    Parameters
    ----------
    state, output
        Folder of the queue, and folder that the studies' own folders go into.
    metrics_port, metrics_host
        Where ``/metrics`` and ``/health`` are answered; None answers nowhere.
    """

    state: Path
    output: Path
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"


@contextmanager
def service(
    place: Place, engine: Callable[[], AbstractContextManager[segment.OpenEngine]], options: segment.Options
) -> Iterator[Worker]:
    """Open everything that a service needs, and close it at the end.

    Parameters
    ----------
    place
        Where it keeps and says things.
    engine
        Opens the engine.
    options
        As in `edgeseg.segment.segment`.

    Yields
    ------
    Worker
        Started; its `stop` is set by SIGTERM and Ctrl-C.

    Raises
    ------
    InputError
        When a format is unknown, another process works from the state folder, or the address cannot be listened on.
    OutputError
        When state or output cannot be written to.
    """
    unknown = sorted(set(options.formats or ()) - set(FORMATS))
    if unknown:
        raise InputError(f"unknown output format {', '.join(unknown)}: choose among {', '.join(FORMATS)}")
    monitor = Monitor()
    with sole_worker(place.state) as queue, stopped_by_signals() as stop, engine() as opened:
        worker = Worker(queue, opened, place.output, options, monitor, stop=stop)
        worker.start()
        health = Health(monitor, queue, {"output": place.output, "state": place.state})
        with serve(health, place.metrics_port, place.metrics_host) as port:
            facts = {"version": __version__, "engine": opened.manifest.name, "device": opened.engine.device}
            monitor.event("started", **facts, metrics_port=port, notice=NOTICE)
            yield worker
            monitor.event("stopped")


def run(worker: Worker, feed: Callable[[], bool], poll_s: float, once: bool = False) -> None:
    """Feed the queue and work it off, by turns, until the worker's `stop` is set and the current study is done.

    Parameters
    ----------
    worker
        Started already.
    feed
        Looks for studies that are complete; returns whether everything there is queued.
    poll_s
        Seconds between looks when there is nothing to do.
    once
        End when everything is queued and worked off.

    Raises
    ------
    OutputError
        With ``once``, when results or the queue cannot be written.
    """
    while not worker.stop.is_set():
        try:
            settled = feed()
        except OutputError as error:
            worker.hinder(error)
            settled = False
        if worker.step():
            continue
        if once and worker.problem:
            raise OutputError(f"{worker.problem}: make space, or give another folder with -o or --state")
        if once and settled and not worker.queue.counts()["waiting"]:
            return
        worker.stop.wait(PAUSE_S if worker.problem else poll_s)


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and the first Ctrl-C set: the current study is finished; a second Ctrl-C ends at once."""
    stop = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    earlier = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
