"""The service as a site runs it: a process of its own, signals, a lock, metrics, and what `edgeseg jobs` says."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Edgeseg

COMMAND = [sys.executable, "-c", "from edgeseg.cli import main; main()"]
FORMATS = ("--format", "masks", "--format", "report")


class Service:
    """`edgeseg watch` in a process."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.folder = folder
        (folder / "in").mkdir(exist_ok=True)
        arguments = ["watch", "in", "-o", "out", "--state", "state", "--quiet", "0.5", *FORMATS, *more]
        with (folder / "log").open("a") as log:
            self.process = subprocess.Popen([*COMMAND, *arguments], cwd=folder, stderr=log)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the log says; every line has to be JSON."""
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    def wait_for(self, name: str, number: int = 1) -> dict[str, Any]:
        """Wait for an event."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = [event for event in self.events if event["event"] == name]
            if len(found) >= number:
                return found[number - 1]
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended: {(self.folder / 'log').read_text()}")
            time.sleep(0.05)
        raise AssertionError(f"no {name}: {self.events}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start services that end with the test."""
    started: list[Service] = []

    def begin(*more: str) -> Service:
        started.append(Service(tmp_path, *more))
        return started[-1]

    yield begin
    for service in started:
        service.process.kill()
        service.process.wait()


@pytest.fixture
def put(tmp_path: Path, example_tiff: Path) -> Callable[[str], Path]:
    """Copy five slices into the watched folder."""

    def copy(name: str) -> Path:
        folder = tmp_path / "in" / name
        folder.mkdir(parents=True)
        for k in range(12, 17):
            shutil.copy(example_tiff / f"{example_tiff.name}_{k}.tif", folder)
        return folder

    return copy


def test_a_day_of_a_service(start: Start, put: Callable[[str], Path], tmp_path: Path, edgeseg: Edgeseg) -> None:
    service = start("--metrics-port", "0")
    port = service.wait_for("started")["metrics_port"]
    put("first")
    (put("bad") / "case_99.tif").write_bytes(b"no image")
    assert service.wait_for("study_done")["already"] is False
    service.wait_for("study_failed")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        metrics = answer.read().decode()
    assert 'edgeseg_studies_total{outcome="done"} 1' in metrics
    assert 'edgeseg_jobs{state="failed"} 1' in metrics
    again = edgeseg("watch", tmp_path / "in", "-o", tmp_path / "out", "--state", tmp_path / "state")
    assert again.code == 2
    assert "another edgeseg works from" in again.err
    assert service.end() == 0
    assert service.events[-1]["event"] == "stopped"

    listed = edgeseg("jobs", "--state", tmp_path / "state", "--json").json
    assert {job["key"]: job["state"] for job in listed["jobs"]} == {"first": "done", "bad": "failed"}
    table = edgeseg("jobs", "--state", tmp_path / "state")
    assert max(map(len, table.out.splitlines())) <= 80
    assert "failed" in table.out

    (tmp_path / "in" / "bad" / "case_99.tif").unlink()
    assert edgeseg("jobs", "--state", tmp_path / "state", "--retry", "bad").code == 0
    restarted = start("--once")
    assert restarted.process.wait(120) == 0
    done = [event["study"] for event in restarted.events if event["event"] == "study_done"]
    assert sorted(done) == ["bad", "first"], "what was done before the restart is not done again"


def test_sigterm_finishes_the_study_at_hand(start: Start, put: Callable[[str], Path], edgeseg: Edgeseg) -> None:
    service = start()
    service.wait_for("started")
    for name in ("a", "b", "c"):
        put(name)
    service.wait_for("study_started")
    assert service.end() == 0
    states = [job["state"] for job in edgeseg("jobs", "--state", service.folder / "state", "--json").json["jobs"]]
    assert "running" not in states
    assert "waiting" in states


def test_ctrl_c_is_a_clean_end(start: Start) -> None:
    service = start()
    service.wait_for("started")
    assert service.end(signal.SIGINT) == 0


def test_once_says_what_failed(start: Start, put: Callable[[str], Path], tmp_path: Path) -> None:
    (put("bad") / "case_99.tif").write_bytes(b"no image")
    assert start("--once").process.wait(120) == 2
    put("good")
    (put("worse") / "case_99.tif").write_bytes(b"no image")
    assert start("--once").process.wait(120) == 3
    assert "1 of 2 studies are not done" in (tmp_path / "log").read_text()


def test_places_that_cannot_be_used(edgeseg: Edgeseg, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert "lies inside" in edgeseg("watch", tmp_path / "in", "-o", tmp_path / "in" / "out").err
    state = edgeseg("watch", tmp_path / "in", "-o", tmp_path / "out", "--state", tmp_path / "in" / "state")
    assert (state.code, "the state folder" in state.err) == (2, True)
    none = edgeseg("watch", tmp_path / "none", "-o", tmp_path / "out", "--state", tmp_path / "state")
    assert (none.code, "is no folder" in none.err) == (2, True)
    for option in ("--engine", "--format"):
        unknown = edgeseg("watch", tmp_path / "in", "-o", tmp_path / "out", option, "nonsense")
        assert (unknown.code, "nonsense" in unknown.err) == (2, True)
    assert edgeseg("jobs", "--state", tmp_path / "none").code == 2


def _with_canaries(source: Path, target: Path, study: str) -> None:
    """Copy a DICOM series with a canary in every text of its headers, and in every name."""
    import pydicom

    target.mkdir(parents=True)
    for k, path in enumerate(sorted(source.iterdir())):
        header = pydicom.dcmread(path)
        texts = {"PN": "CANARY^NAME", "LO": "CANARY LO", "SH": "CANARY SH", "LT": "CANARY LT", "ST": "CANARY ST"}
        for element in header:
            if element.VR in texts and element.keyword != "SequenceName":
                element.value = texts[element.VR]
        header.PatientName, header.PatientID = "CANARY^NAME", "CANARY-ID"
        header.PatientComments, header.PatientBirthDate = "CANARY", "19010203"
        header.StudyInstanceUID = study
        header.save_as(target / f"CANARY_{k}.dcm")


def test_nothing_that_is_said_names_a_patient(edgeseg: Edgeseg, tmp_path: Path, example_dicom: Path) -> None:
    _with_canaries(example_dicom / "flair", tmp_path / "in" / "CANARY_JOHN" / "CANARY_MR", "1.2.3.4")
    _with_canaries(example_dicom / "pre", tmp_path / "in" / "CANARY_JANE", "1.2.3.5")
    places = ("-o", tmp_path / "out", "--state", tmp_path / "state")
    run = edgeseg("watch", tmp_path / "in", *places, "--once", "--quiet", "0", "--format", "report")
    assert run.code in (2, 3), run.err
    listed = [edgeseg("jobs", "--state", tmp_path / "state", *more) for more in ((), ("--json",))]
    said = run.err + "".join(one.out + one.err for one in listed)
    assert "study_failed" in said
    for text in ("CANARY", "19010203", "1.2.3.4", "1.2.3.5", str(tmp_path / "in")):
        assert text not in said
