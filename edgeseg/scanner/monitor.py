"""What a service says of itself: a JSON line an event, Prometheus metrics, and whether it is well.

Nothing of it names a patient: a study is its key.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TextIO

from edgeseg.errors import EdgesegError, InputError
from edgeseg.scanner.jobs import STATES, Queue

Value = str | int | float | bool | None
LEAST_FREE_MB = 200
"""Below this a disk counts as full, and no study is begun: a large study's results and their staged copy fit."""
LONGEST_SILENCE_S = 1800.0
"""Without a sign of life for so long, the worker counts as hung."""
SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histogram's buckets."""

_HELP = {
    "edgeseg_instances_received_total": "counter Instances that were received and are safely on disk.",
    "edgeseg_instances_refused_total": "counter Instances that were refused.",
    "edgeseg_studies_total": "counter Studies that ended since the start, by how.",
    "edgeseg_deliveries_total": "counter Attempts to send results on, by how they ended.",
    "edgeseg_study_seconds": "histogram Seconds that a study took.",
    "edgeseg_jobs": "gauge Studies in the queue, by state.",
    "edgeseg_deliveries_waiting": "gauge Results that are still to be sent on.",
    "edgeseg_free_bytes": "gauge Free space, by what it is for.",
    "edgeseg_healthy": "gauge 1 when the service is well.",
}


class Monitor:
    """Events and counters of one service; safe for threads.

    Parameters
    ----------
    stream
        Where the events go: standard error without it.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._buckets = [0] * (len(SECONDS) + 1)
        self._sum = 0.0
        self._beaten = time.monotonic()
        self.trouble: str | None = None
        """What else is not well, as a sentence."""

    def event(self, name: str, **fields: Value) -> None:
        """Write one line: ``time`` (UTC), ``event``, and what else is to be said, never a patient's data."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": name, **fields})
        with self._lock:
            stream = self._stream or sys.stderr
            stream.write(line + "\n")
            stream.flush()

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Add to a counter; its name has to stand in this module's table, which says what it means."""
        if name not in _HELP:
            raise ValueError(f"no metric is named {name}")
        with self._lock:
            self._counts[name, _labels(labels)] += amount

    def took(self, seconds: float) -> None:
        """Say how long a study took."""
        with self._lock:
            self._buckets[bisect_left(SECONDS, seconds)] += 1
            self._sum += seconds

    def beat(self) -> None:
        """Give a sign of life."""
        self._beaten = time.monotonic()

    def silence_s(self) -> float:
        """Seconds since the last sign of life."""
        return time.monotonic() - self._beaten

    def lines(self) -> list[str]:
        """Counters and histogram in Prometheus' text format."""
        with self._lock:
            counts, buckets, total = dict(self._counts), list(self._buckets), self._sum
        found = []
        for name in sorted({name for name, _ in counts}):
            samples = [(labels, value) for (counted, labels), value in sorted(counts.items()) if counted == name]
            found += _metric(name, samples)
        name = "edgeseg_study_seconds"
        found += _head(name)
        below = 0
        for bound, number in zip((*(f"{bound:g}" for bound in SECONDS), "+Inf"), buckets, strict=True):
            below += number
            found.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*found, f"{name}_sum {total:.3f}", f"{name}_count {below}"]


def _labels(labels: dict[str, str]) -> str:
    quoted = (f"{name}={json.dumps(value)}" for name, value in sorted(labels.items()))
    return f"{{{','.join(quoted)}}}" if labels else ""


def _head(name: str) -> list[str]:
    kind, _, text = _HELP[name].partition(" ")
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _metric(name: str, samples: Sequence[tuple[str, float]]) -> list[str]:
    return [*_head(name), *(f"{name}{labels} {value}" for labels, value in samples)]


class Health:
    """Whether a service is well: its worker lives, its queue can be written, its disks have space.

    Parameters
    ----------
    monitor, queue
        The service's own.
    folders
        Name -> folder that is written to; the names appear in what is said, the folders do not.
    """

    def __init__(self, monitor: Monitor, queue: Queue, folders: dict[str, Path]) -> None:
        self._monitor, self._queue, self._folders = monitor, queue, folders

    def problems(self) -> list[str]:
        """Sentences on what is not well; none when all is."""
        found = [sentence for name, folder in self._folders.items() if (sentence := space_problem(name, folder))]
        try:
            self._queue.check()
        except EdgesegError:
            found.append("the queue cannot be written to")
        if self._monitor.silence_s() > LONGEST_SILENCE_S:
            found.append(f"the worker has been silent for {self._monitor.silence_s():.0f} s")
        return [*found, *([self._monitor.trouble] if self._monitor.trouble else [])]

    def metrics(self) -> str:
        """Everything that Prometheus may know, in its text format."""
        lines, problems = self._monitor.lines(), self.problems()
        free = [(_labels({"of": name}), value) for name, value in self._free().items()]
        lines += _metric("edgeseg_free_bytes", free)
        lines += _metric("edgeseg_healthy", [("", int(not problems))])
        try:
            counts = self._queue.counts()
        except EdgesegError:
            counts = {}
        if counts:
            lines += _metric("edgeseg_jobs", [(_labels({"state": state}), counts[state]) for state in STATES])
            lines += _metric("edgeseg_deliveries_waiting", [("", counts["deliveries"])])
        return "\n".join(lines) + "\n"

    def _free(self) -> dict[str, int]:
        found = {}
        for name, folder in self._folders.items():
            try:
                found[name] = shutil.disk_usage(folder).free
            except OSError:
                continue
        return found


def space_problem(name: str, folder: Path) -> str | None:
    """Say why nothing should be written to a folder now: it is gone, or its disk is full; None when it is well."""
    try:
        free_mb = shutil.disk_usage(folder).free / 1e6
    except OSError as error:
        return f"the {name} folder cannot be reached ({error.strerror})"
    if free_mb < LEAST_FREE_MB:
        return f"the disk of the {name} folder has {free_mb:.0f} MB left and {LEAST_FREE_MB} are needed"
    return None


@contextmanager
def serve(health: Health, port: int | None, host: str = "127.0.0.1") -> Iterator[int | None]:
    """Answer ``/metrics`` and ``/health`` while the block runs.

    Parameters
    ----------
    health
        What is asked.
    port
        Port to listen on; 0 takes a free one, None listens to nothing.
    host
        Address to listen on.

    Yields
    ------
    int or None
        The port.

    Raises
    ------
    InputError
        When the address cannot be listened on.
    """
    if port is None:
        yield None
        return
    try:
        server = ThreadingHTTPServer((host, port), _handler(health))
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}, port {port} ({error}): give another with --metrics-port") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True, name="metrics")
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Two pages; everything else is not found."""

        timeout = 10

        def do_GET(self) -> None:
            """Answer."""
            if self.path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", health.metrics())
            elif self.path == "/health":
                problems = health.problems()
                said = json.dumps({"status": "unwell" if problems else "ok", "problems": problems})
                self._answer(503 if problems else 200, "application/json", said + "\n")
            else:
                self._answer(404, "text/plain", "see /metrics and /health\n")

        def _answer(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the log is for events."""

    return Handler
