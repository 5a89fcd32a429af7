"""`edgeseg infer ARCHIVE` killed at random moments and run again until all is done: is anything half, lost, twice?

    python benchmarks/interruptions_batch.py [--kills 100] [--seed 1] [--work FOLDER] [--json FILE]

Four kinds of rounds by turns, each over a small archive until a run has ended by itself:

- new: one run after the other into an empty folder;
- replaced: the folder holds results of other options, which the runs replace;
- shards: two processes at once, each with its half of the archive, into the same folder;
- twins: two processes at once, both with the whole archive, into the same folder.

SIGKILL comes at a moment drawn evenly from the time that an undisturbed run takes. After every kill each report has to
stand beside all the files that it lists, and every report that was complete before has to be the same file still.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "tiff" / "TCGA_HT_7884_19980913"
SLICES = range(12, 17)
KINDS: dict[str, list[tuple[str, ...]]] = {
    "new": [()],
    "replaced": [()],
    "shards": [("--shard", "1/2"), ("--shard", "2/2")],
    "twins": [(), ()],
}
"""Options of the processes that run at once."""
FEWER = ("--format", "masks", "--format", "report")


def main() -> None:
    """Print the figures and keep them; leave with 1 where something was half, lost or done twice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--studies", type=int, default=4)
    parser.add_argument("--work", type=Path, help="folder for archive and results; a temporary one without it")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "interruptions_batch.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        archive = Path(work) / "archive"
        names = [make_study(archive / f"study-{number}", number) for number in range(arguments.studies)]
        trial = Trial(archive, Path(work), names, random.Random(arguments.seed))
        trial.prepare()
        for kind in itertools.cycle(KINDS):
            if trial.kills >= arguments.kills:
                break
            trial.round(kind)
            print(f"{trial.kills} kills, {trial.rounds.total()} rounds, {len(trial.problems)} problems", flush=True)
    figures = trial.figures()
    print(json.dumps(figures, indent=2))
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if trial.problems else 0)


def make_study(folder: Path, number: int) -> str:
    """Five slices of the example, their values shifted by the number; returns the study's name."""
    folder.mkdir(parents=True)
    for k in SLICES:
        pixels = np.asarray(Image.open(EXAMPLE / f"{EXAMPLE.name}_{k}.tif")).astype(np.int16)
        shifted = np.where(pixels > 0, pixels + number, 0).clip(0, 255).astype(np.uint8)
        Image.fromarray(shifted).save(folder / f"{folder.name}_{k}.tif")
    return folder.name


@dataclass
class Trial:
    """Rounds of killed runs over one archive, and what was found."""

    archive: Path
    work: Path
    names: list[str]
    draw: random.Random
    usual_s: float = 0.0
    expected: dict[str, str] = field(default_factory=dict)
    kills: int = 0
    rounds: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        """An undisturbed run of each kind of results: how long it takes, and what has to come out."""
        started = time.monotonic()
        _wait(self._start(self.work / "whole", ()))
        self.usual_s = time.monotonic() - started
        self.expected = _content(self.work / "whole")
        _wait(self._start(self.work / "fewer", FEWER))

    def round(self, kind: str) -> None:
        """Kill runs into one output folder until one ends by itself, then look at what came out."""
        output = self.work / "output"
        shutil.rmtree(output, ignore_errors=True)
        if kind == "replaced":
            shutil.copytree(self.work / "fewer", output)
        first = {name: _identity(output / name) for name in self.names}
        seen: dict[str, tuple[int, ...]] = {}
        while not self._attempt(output, kind):
            self._look(output, kind, first, seen)
        self._look(output, kind, first, seen)
        left = sorted(path.name for path in output.iterdir())
        if left != sorted(self.names) or _content(output) != self.expected:
            self.problems.append(f"{kind}: the results differ from those of an undisturbed run: {left}")
        self.rounds[kind] += 1

    def _attempt(self, output: Path, kind: str) -> bool:
        """Start the kind's processes and kill each at its moment; whether all had ended by themselves before."""
        running = [self._start(output, options) for options in KINDS[kind]]
        started, left = time.monotonic(), dict(enumerate(running))
        at = {number: self.draw.uniform(0, self.usual_s * len(running)) for number in left}
        whole = True
        while left:
            for number, process in list(left.items()):
                if process.poll() is None and time.monotonic() - started >= at[number]:
                    moment = self._moment(output)
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    if process.returncode == -signal.SIGKILL:
                        self.kills, whole = self.kills + 1, False
                        self.moments[moment] += 1
                if process.poll() is not None:
                    if process.returncode not in (0, -signal.SIGKILL):
                        self.problems.append(f"{kind}: a run left with {process.returncode}")
                    del left[number]
            time.sleep(0.005)
        return whole

    def _moment(self, output: Path) -> str:
        """What a run was about when it was killed."""
        inside = list(output.iterdir()) if output.is_dir() else []
        if any((path / ".publishing.json").exists() for path in inside):
            return "replacing results"
        if any(path.name.endswith(".part") for path in inside):
            return "at a study"
        return "between studies, starting or ending"

    def _look(
        self, output: Path, kind: str, first: dict[str, tuple[int, ...]], seen: dict[str, tuple[int, ...]]
    ) -> None:
        """Check what a kill left: every report beside its files, and those that were new before untouched."""
        for name in self.names:
            folder, identity = output / name, _identity(output / name)
            if name in seen and identity != seen[name]:
                self.problems.append(f"{kind}: {name} was done twice, or lost")
            if not identity:
                if folder.exists() and kind != "replaced":
                    self.problems.append(f"{kind}: {name} has a folder without a report")
                continue
            listed = json.loads((folder / "report.json").read_text(encoding="utf-8"))["files"]
            missing = [file for file in listed if not (folder / file).is_file() or not (folder / file).stat().st_size]
            if missing:
                self.problems.append(f"{kind}: {name} has a report without {missing[0]}")
            if identity != first[name]:
                seen[name] = identity

    def _start(self, output: Path, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from edgeseg.cli import main; main()", "infer", str(self.archive)]
        out = subprocess.DEVNULL
        return subprocess.Popen([*command, "-o", str(output), *options], stdout=out, stderr=out)

    def figures(self) -> dict[str, Any]:
        """What was done and found."""
        return {
            "kills": self.kills,
            "studies": len(self.names),
            "undisturbed_s": round(self.usual_s, 2),
            "rounds": dict(self.rounds),
            "killed": dict(self.moments),
            "problems": self.problems,
        }


def _wait(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise SystemExit(f"an undisturbed run left with {process.returncode}")


def _identity(folder: Path) -> tuple[int, ...]:
    """What tells a report file from another one at its place; nothing where there is none."""
    try:
        found = (folder / "report.json").stat()
    except FileNotFoundError:
        return ()
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _content(output: Path) -> dict[str, str]:
    """Hash of every file but for the times in reports."""
    hashes = {}
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.name == "report.json":
            report = json.loads(content)
            del report["timings_ms"]
            content = json.dumps(report).encode()
        hashes[path.relative_to(output).as_posix()] = hashlib.sha256(content).hexdigest()
    return hashes


if __name__ == "__main__":
    main()
