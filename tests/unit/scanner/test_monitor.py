"""What a service says of itself: lines of JSON, Prometheus' text format, and a health page."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgeseg.errors import InputError, OutputError
from edgeseg.scanner import monitor as monitoring
from edgeseg.scanner.jobs import Queue
from edgeseg.scanner.monitor import Health, Monitor, serve


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    """An empty queue."""
    with Queue(tmp_path / "queue.sqlite") as queue:
        yield queue


@pytest.fixture
def health(queue: Queue, tmp_path: Path) -> Health:
    """Of a service that has done nothing yet."""
    return Health(Monitor(io.StringIO()), queue, {"output": tmp_path})


def _get(port: int | None, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_an_event_is_one_line_of_json() -> None:
    stream = io.StringIO()
    Monitor(stream).event("study_done", study="4445b19b6d01", seconds=1.5)
    Monitor(stream).event("strange", text="two\nlines \N{SNOWMAN}")
    first, second = stream.getvalue().splitlines()
    line = json.loads(first)
    assert line.pop("time").endswith("+00:00")
    assert line == {"event": "study_done", "study": "4445b19b6d01", "seconds": 1.5}
    assert json.loads(second)["text"] == "two\nlines \N{SNOWMAN}"


def test_metrics_are_what_prometheus_reads(queue: Queue, tmp_path: Path) -> None:
    monitor = Monitor(io.StringIO())
    monitor.count("edgeseg_studies_total", outcome="done")
    monitor.count("edgeseg_studies_total", 2, outcome='odd "name"')
    monitor.count("edgeseg_instances_received_total", 60)
    for seconds in (0.5, 1.0, 3.0, 1000.0):
        monitor.took(seconds)
    queue.add("k", tmp_path, "d", "watch")
    found = _samples(Health(monitor, queue, {"output": tmp_path}).metrics())
    assert found["edgeseg_studies_total", (("outcome", "done"),)] == 1
    assert found["edgeseg_studies_total", (("outcome", 'odd "name"'),)] == 2
    assert found["edgeseg_instances_received_total", ()] == 60
    buckets = {bound: found["edgeseg_study_seconds_bucket", (("le", bound),)] for bound in ("1", "2", "5", "+Inf")}
    assert buckets == {"1": 2, "2": 2, "5": 3, "+Inf": 4}
    assert found["edgeseg_study_seconds_sum", ()] == 1004.5
    assert found["edgeseg_study_seconds_count", ()] == 4
    assert found["edgeseg_jobs", (("state", "waiting"),)] == 1
    assert found["edgeseg_jobs", (("state", "failed"),)] == 0
    assert found["edgeseg_deliveries_waiting", ()] == 0
    assert found["edgeseg_healthy", ()] == 1
    assert found["edgeseg_free_bytes", (("of", "output"),)] > 0


def test_a_metric_that_nobody_explained() -> None:
    with pytest.raises(ValueError, match="no metric is named"):
        Monitor().count("edgeseg_surprises_total")


def test_the_pages(health: Health) -> None:
    with serve(health, 0) as port:
        status, text = _get(port, "/health")
        assert (status, json.loads(text)) == (200, {"status": "ok", "problems": []})
        status, text = _get(port, "/metrics")
        assert status == 200
        assert ("edgeseg_healthy", ()) in _samples(text)
        assert _get(port, "/else")[0] == 404
    with pytest.raises(urllib.error.URLError):
        _get(port, "/health")


def _lost(*_: Any) -> None:
    raise OutputError("cannot use the queue: disk is full")


def test_unwell(health: Health, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.problems() == []
    monkeypatch.setattr(monitoring, "LEAST_FREE_MB", 1e12)
    assert "MB left" in health.problems()[0]
    monkeypatch.undo()
    monkeypatch.setattr(Queue, "check", _lost)
    monkeypatch.setattr(Queue, "counts", _lost)
    monkeypatch.setattr(Monitor, "silence_s", lambda _: 1e6)
    gone = Health(Monitor(), queue, {"output": tmp_path / "gone"})
    assert [sentence.split(" (")[0] for sentence in gone.problems()] == [
        "the output folder cannot be reached",
        "the queue cannot be written to",
        "the worker has been silent for 1000000 s",
    ]
    assert str(tmp_path) not in " ".join(gone.problems())
    with serve(gone, 0) as port:
        assert _get(port, "/health")[0] == 503
        status, text = _get(port, "/metrics")
    assert status == 200
    assert _samples(text)["edgeseg_healthy", ()] == 0


def test_a_port_that_is_taken(health: Health) -> None:
    with serve(health, 0) as port, pytest.raises(InputError, match="give another with --metrics-port"):  # noqa: SIM117
        with serve(health, port):
            pass


def test_no_port_asks_nothing(health: Health) -> None:
    with serve(health, None) as port:
        assert port is None
