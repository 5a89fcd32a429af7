"""SIGKILL at random moments of `edgeseg watch`: what is partial, lost or done twice.

    python benchmarks/interruptions.py [--kills 100] [--seed 5] [--json FILE]

Small studies are copied, file by file, into a watched folder while the service is killed and started again. After each
kill every result is compared with that of a run that nobody interrupted, and the queue's file is checked; at the end
the service may finish, and every study has to be there, done once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "tiff" / "TCGA_HT_7884_19980913"
SLICES = range(12, 17)
QUIET_S = 0.3
LONGEST_LIFE = 2.5
"""Of a service that is killed, in cold runs of a single study: start and end of studies are hit alike."""
COMMAND = [sys.executable, "-c", "from edgeseg.cli import main; main()"]
FORMATS = ["--format", "masks", "--format", "report"]


def main() -> None:
    """Print the figures and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "interruptions.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = interrupt(Path(folder), arguments.kills, arguments.seed)
    figures = {"cpu": f"{os.cpu_count()} cores, {platform.machine()}", "seed": arguments.seed, **figures}
    for key, value in figures.items():
        print(f"{key:26} {value}")
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


@dataclass
class Trial:
    """A service that is killed again and again, and what was seen of it."""

    folder: Path
    draw: random.Random
    reference: dict[str, bytes] = field(default_factory=dict)
    cold_s: float = 0.0
    studies: list[str] = field(default_factory=list)
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    partial: set[str] = field(default_factory=set)
    twice: set[str] = field(default_factory=set)
    damaged_queues: int = 0
    moments: Counter[str] = field(default_factory=Counter)

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the service."""
        arguments = ["watch", "in", "-o", "out", "--state", "state", "--quiet", str(QUIET_S), *FORMATS, *more]
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen([*COMMAND, *arguments], cwd=self.folder, stderr=log)

    def copy(self, until: float) -> None:
        """Copy a study into the watched folder, file by file, until it is there or the time is over."""
        name = f"study-{len(self.studies):04d}"
        self.studies.append(name)
        folder = self.folder / "in" / name
        folder.mkdir()
        for k in SLICES:
            shutil.copy(EXAMPLE / f"{EXAMPLE.name}_{k}.tif", folder)
            if time.monotonic() < until:
                time.sleep(self.draw.uniform(0, QUIET_S / 2))

    def look(self) -> None:
        """Compare every result with the reference, and check the queue."""
        for folder in (path for path in (self.folder / "out").glob("*") if not path.name.startswith(".")):
            report = folder / "report.json"
            masks = {path.name: path.read_bytes() for path in folder.glob("masks/*")}
            if not report.is_file() or masks != self.reference or set(_listed(report)) != _files(folder):
                self.partial.add(folder.name)
                continue
            facts = (report.stat().st_ino, report.stat().st_mtime_ns)
            if self.seen.setdefault(folder.name, facts) != facts:
                self.twice.add(folder.name)

    def state_at_death(self) -> str:
        """What the queue says was going on, and whether its file is whole."""
        if not (self.folder / "state" / "queue.sqlite").is_file():
            return "starting"
        connection = sqlite3.connect(self.folder / "state" / "queue.sqlite")
        try:
            whole = connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            self.damaged_queues += not whole
            running = connection.execute("SELECT COUNT(*) FROM jobs WHERE state='running'").fetchone()[0]
        finally:
            connection.close()
        if running:
            return "a study ran"
        return "idle or starting"


def interrupt(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Kill the service at random moments, let it finish, and count.

    Parameters
    ----------
    folder
        An empty folder to work in.
    kills
        How often.
    seed
        Of the moments.
    """
    trial = Trial(folder, random.Random(seed))
    (folder / "in").mkdir()
    started = time.monotonic()
    trial.reference = _uninterrupted(folder)
    trial.cold_s = time.monotonic() - started
    for _ in range(kills):
        process = trial.start()
        death = time.monotonic() + trial.draw.uniform(0, LONGEST_LIFE * trial.cold_s)
        for _ in range(trial.draw.randint(0, 2)):
            trial.copy(death)
        time.sleep(max(0.0, death - time.monotonic()))
        process.kill()
        process.wait()
        trial.moments[trial.state_at_death()] += 1
        trial.look()
    trial.copy(time.monotonic())
    code = trial.start("--once").wait()
    trial.look()
    return {"kills": kills, **_count(trial), "exit_code_at_the_end": code}


def _count(trial: Trial) -> dict[str, object]:
    connection = sqlite3.connect(trial.folder / "state" / "queue.sqlite")
    rows = connection.execute("SELECT key, state, attempts FROM jobs").fetchall()
    connection.close()
    done = {key for key, state, _ in rows if state == "done"}
    log = (trial.folder / "log").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in log if line.startswith("{") and line.endswith("}")]
    made = Counter(event["study"] for event in events if event["event"] == "study_done" and not event["already"])
    return {
        "kills_while_a_study_ran": trial.moments["a study ran"],
        "studies": len(trial.studies),
        "partial_results": len(trial.partial),
        "studies_lost": len(set(trial.studies) - (done & set(trial.seen))),
        "results_written_twice": len(trial.twice),
        "studies_done_twice": sum(number > 1 for number in made.values()),
        "jobs_more_than_studies": len(rows) - len(trial.studies),
        "damaged_queues": trial.damaged_queues,
        "leftovers": len(list((trial.folder / "out").glob(".*"))),
        "attempts": dict(sorted(Counter(str(attempts) for _, _, attempts in rows).items())),
    }


def _uninterrupted(folder: Path) -> dict[str, bytes]:
    """Masks of a run that nobody interrupts, by name."""
    study = folder / "reference"
    study.mkdir()
    for k in SLICES:
        shutil.copy(EXAMPLE / f"{EXAMPLE.name}_{k}.tif", study)
    subprocess.run([*COMMAND, "infer", str(study), "-o", str(folder / "expected"), *FORMATS], check=True)
    return {path.name: path.read_bytes() for path in (folder / "expected" / "reference" / "masks").iterdir()}


def _listed(report: Path) -> list[str]:
    return [str(name) for name in json.loads(report.read_text(encoding="utf-8"))["files"]]


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
