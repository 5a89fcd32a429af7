"""Where the time of a cold `edgeseg infer` goes: phase by phase, and package by package of what it imports.

Each run is a fresh process with Python's own ``-X importtime``, in which `edgeseg.trace` marks the phases on the same
standard error, so that an import is told from the work of the phase that it happened in. Runs without any of that say
how long it takes undisturbed. The first start finds an empty cache, the others what the first left there.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeseg import bundle, cache, machine, readers
from edgeseg.errors import EngineError, InputError
from edgeseg.trace import COMMAND, MARK, PHASES

START, IMPORTS, END = "start Python", "imports", "end Python"
ORDER = (START, IMPORTS, *dict.fromkeys(phase for _, _, phase in PHASES), COMMAND, END)
COLUMNS = ["where the time goes", "first start, ms", "later starts, ms"]
PACKAGE_COLUMNS = ["imports", "modules", "ms"]
_PLAIN = "from edgeseg.cli import main; main()"
_TRACED = "from edgeseg.trace import main; main()"
_IMPORT = re.compile(r"import time: +(\d+) \| +\d+ \| *(\S+)")
_SHOWN = 12
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Run:
    """One traced start: its time in ms, by phase and by imported package, and each package's number of modules."""

    total_ms: float
    phases_ms: dict[str, float]
    imports_ms: dict[str, float] = field(default_factory=dict)
    modules: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What was measured.

    Parameters
    ----------
    machine
        From `edgeseg.machine.facts`.
    engine, study, rounds
        The bundle's name, the study's name in its results, and how many later starts of either kind there were.
    plain_ms
        Median time of a later start that nothing watches, from its beginning to its end.
    first, later
        The first start, and the medians of the later ones.
    """

    machine: dict[str, Any]
    engine: str
    study: str
    rounds: int
    plain_ms: float
    first: Run
    later: Run

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(engine: str, study: Path | None, rounds: int, progress: Progress = lambda *_: None) -> Report:
    """Start `edgeseg infer` once with an empty cache, then ``rounds`` times watched and as often unwatched, by turns.

    Parameters
    ----------
    engine
        A bundle's folder or the name of a shipped one.
    study
        A single study; None takes the example's.
    rounds
        At least 1.
    progress
        Called with a name, how many starts are done, and how many there are.

    Raises
    ------
    InputError
        When there is no such bundle or study, or more than one study.
    EngineError
        When a start fails.
    """
    name, study = bundle.find(engine).name, study or _example()
    found = readers.find_studies(study)
    if len(found) != 1:
        raise InputError(f"{len(found)} studies were found, and a start is measured with one: give one study's folder")
    watched: list[Run] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        arguments = [
            "infer",
            str(study.resolve()),
            "--engine",
            str(bundle.find(engine).resolve()),
            "--allow-unverified",
        ]
        for turn in range(rounds + 1):
            progress(name, turn, rounds + 1)
            watched.append(_watched(arguments, Path(work), f"watched-{turn}"))
            if turn:
                plain.append(_start(["-c", _PLAIN, *arguments], Path(work), f"plain-{turn}")[0])
    later = _median(watched[1:])
    return Report(machine.facts(), name, found[0].name, rounds, statistics.median(plain), watched[0], later)


def rows(report: Report) -> list[list[str]]:
    """The phases, in their order, with the sum and what it is undisturbed."""
    first, later = report.first, report.later
    lines = [[name, *(f"{run.phases_ms.get(name, 0.0):.0f}" for run in (first, later))] for name in ORDER]
    lines.append(["all of it", f"{first.total_ms:.0f}", f"{later.total_ms:.0f}"])
    return [*lines, ["unwatched", "", f"{report.plain_ms:.0f}"]]


def package_rows(report: Report) -> list[list[str]]:
    """The packages whose imports took longest, and all others together."""
    times, modules = report.later.imports_ms, report.later.modules
    longest = sorted(times, key=lambda name: -times[name])
    lines = [[name, str(modules[name]), f"{times[name]:.1f}"] for name in longest[:_SHOWN]]
    rest = longest[_SHOWN:]
    return [*lines, ["others", str(sum(modules[n] for n in rest)), f"{sum(times[n] for n in rest):.1f}"]]


def _example() -> Path:
    return bundle.example_data().parent / "dicom" / "example-study"


def _watched(arguments: Sequence[str], work: Path, output: str) -> Run:
    began = time.monotonic_ns()
    ms, said = _start(["-X", "importtime", "-c", _TRACED, *arguments], work, output)
    return parse(said.splitlines(), began, began + round(ms * 1e6))


def _start(arguments: Sequence[str], work: Path, output: str) -> tuple[float, str]:
    """One fresh process: its time in ms, and what it said on standard error."""
    command = [sys.executable, *arguments, "-o", str(work / output)]
    environment = {**os.environ, cache.VARIABLE: str(work / "cache")}
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    ms = 1000 * (time.perf_counter() - began)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if not line.startswith(("import time:", MARK))]
        raise EngineError(f"edgeseg infer left with {done.returncode}: {said[-1] if said else 'no word'}")
    return ms, done.stderr


def parse(lines: Sequence[str], began_ns: int, ended_ns: int) -> Run:
    """What the lines of `edgeseg.trace` and of ``-X importtime`` say.

    A phase's time is its own: that of imports counts as theirs, except for Python's own before the first mark.
    """
    phases = dict.fromkeys(ORDER, 0.0)
    imports: dict[str, float] = {}
    modules: dict[str, int] = {}
    within, since, imported = [START], began_ns, 0.0
    for line in lines:
        if (found := _IMPORT.match(line)) and len(within) > 1:
            took, package = int(found[1]) / 1000, found[2].split(".")[0]
            imports[package] = imports.get(package, 0.0) + took
            modules[package] = modules.get(package, 0) + 1
            imported += took
        elif line.startswith(MARK):
            _, at, what, phase = line.split(" ", 3)
            phases[within[-1]] += (int(at) - since) / 1e6 - imported
            phases[IMPORTS] += imported
            within, since, imported = _moved(within, what, phase), int(at), 0.0
    phases[within[-1]] += (ended_ns - since) / 1e6
    return Run((ended_ns - began_ns) / 1e6, phases, imports, modules)


def _moved(within: list[str], what: str, phase: str) -> list[str]:
    """The phases that enclose what comes after a mark, the innermost last."""
    if what == "begin":
        return [*within, phase]
    last = len(within) - 1 - within[::-1].index(phase)
    kept = [*within[:last], *within[last + 1 :]]
    return [END] if phase == COMMAND else kept


def _median(runs: Sequence[Run]) -> Run:
    """Medians; imports are those of the last run, whose packages are the same in all."""
    return Run(
        statistics.median(run.total_ms for run in runs),
        {name: statistics.median(run.phases_ms[name] for run in runs) for name in ORDER},
        {name: statistics.median(run.imports_ms.get(name, 0.0) for run in runs) for name in runs[-1].imports_ms},
        runs[-1].modules,
    )
