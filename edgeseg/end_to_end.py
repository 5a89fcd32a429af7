"""From folder to files: how near the whole way comes to the engine alone, and which step the time goes to."""

from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeseg import batch, machine, readers, segment
from edgeseg.errors import EdgesegError
from edgeseg.types import ByteArray

STEPS = {"find": "find", "read": "before", "preprocess": "before", "network": "network"} | dict.fromkeys(
    ("postprocess", "write"), "after"
)
"""Each step, and which of the line's stages does it (`edgeseg.pipeline`); what is found before all of them."""
LEAST_SLICES = 200
"""Of a round: studies are taken several times until there are as many."""
_ALONE_SLICES, _ALONE_S = 64, 1.0
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Step:
    """One step of the way.

    Parameters
    ----------
    name, stage
        As in `STEPS`.
    ms
        Wall time of a slice in it, while the other stages are at work.
    share
        Part of the whole time in which it was at work, 0..1.
    """

    name: str
    stage: str
    ms: float
    share: float


@dataclass(frozen=True)
class Report:
    """The whole way beside the engine alone, by turns in one process.

    Parameters
    ----------
    machine
        From `edgeseg.machine.facts`.
    engine, runtime, formats
        What ran, and what was written; None for the formats that a study gets by itself.
    studies, slices
        Of one round.
    rounds
        Turns.
    slices_per_second, engine_slices_per_second
        Of the whole way and of the engine alone on arrays in memory: medians.
    end_to_end_over_engine
        The one over the other, turn by turn: the median.
    network_busy
        Part of the whole time in which the network was at work, 0..1.
    peak_mb
        Largest resident memory of the process on the whole way; None where the system does not say.
    steps
        Where the time goes; steps of different stages overlap.
    """

    machine: dict[str, Any]
    engine: str
    runtime: str
    formats: tuple[str, ...] | None
    studies: int
    slices: int
    rounds: int
    slices_per_second: float
    engine_slices_per_second: float
    end_to_end_over_engine: float
    network_busy: float
    peak_mb: float | None
    steps: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Turn:
    """Seconds of a round, of each step in it, and of the engine alone on as many slices, before and after."""

    seconds: float
    steps: dict[str, float]
    alone_s: float


def measure(
    path: Path,
    engine: str,
    backend: str | None = None,
    options: segment.Options = segment.DEFAULTS,
    rounds: int = 5,
    progress: Progress = lambda *_: None,
) -> Report:
    """Take studies the whole way, and their slices through the engine alone, by turns.

    Parameters
    ----------
    path
        A study, or a folder of studies.
    engine, backend
        As in `edgeseg.segment.open_engine`.
    options
        What is written.
    rounds
        Turns; one more before them does not count.
    progress
        Called with what is done, how many steps are done, and how many there are.

    Raises
    ------
    EdgesegError
        What `edgeseg.segment.open_engine` raises, or what the first study that fails does.
    """
    with segment.open_engine(engine, backend) as opened, tempfile.TemporaryDirectory() as folder:
        slices, counts = _slices(path, opened, options)
        times = max(1, -(-LEAST_SLICES // sum(counts)))
        turns = []
        machine.reset_peak()
        for number in range(rounds + 1):
            progress("the whole way", number, rounds + 1)
            turns.append(_turn(path, opened, options, Path(folder), times, slices))
        peak = machine.resident_mb(peak=True)
        return _report(turns[1:], opened, options, len(counts) * times, sum(counts) * times, peak)


def _slices(path: Path, opened: segment.OpenEngine, options: segment.Options) -> tuple[ByteArray, list[int]]:
    """Some of the studies' slices as the engine takes them, and how many slices each study has."""
    first, *others = readers.find_studies(path)
    given = segment.prepare(first, opened, options).given.slices
    counts = [len(given), *(len(segment.prepare(files, opened, options).given.slices) for files in others)]
    return given[:_ALONE_SLICES], counts


def _turn(
    path: Path, opened: segment.OpenEngine, options: segment.Options, folder: Path, times: int, slices: ByteArray
) -> _Turn:
    before = _alone_s(opened, slices)
    output = folder / "results"
    started = time.perf_counter()
    found = readers.find_studies(path)
    spent = {"find": times * (time.perf_counter() - started)}
    again = [replace(files, name=f"{files.name}-{k}") for k, files in itertools.product(range(times), found)]
    for report in _reports(batch.run(again, opened, output, options, again=True)):
        for step, ms in report["timings_ms"].items():
            spent[step] = spent.get(step, 0.0) + ms / 1000
    seconds = time.perf_counter() - started + spent["find"] * (1 - 1 / times)
    shutil.rmtree(output)
    return _Turn(seconds, spent, (before + _alone_s(opened, slices)) / 2)


def _reports(outcomes: Iterator[batch.Outcome]) -> Iterator[dict[str, Any]]:
    """Reports of studies that came to a good end; the first other one ends it."""
    for outcome in outcomes:
        if outcome.result is None:
            raise outcome.error or EdgesegError(f"{outcome.name} came to no end")
        yield outcome.result.report()


def _alone_s(opened: segment.OpenEngine, slices: ByteArray) -> float:
    """Seconds a slice of the engine alone, on arrays in memory."""
    opened.engine.predict_logits(slices)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < _ALONE_S:
        opened.engine.predict_logits(slices)
        done += len(slices)
    return (time.perf_counter() - started) / done


def _report(
    turns: list[_Turn],
    opened: segment.OpenEngine,
    options: segment.Options,
    studies: int,
    slices: int,
    peak_mb: float | None,
) -> Report:
    def typical(values: Iterator[float]) -> float:
        return statistics.median(values)

    def step(name: str) -> Step:
        ms = typical(1000 * turn.steps.get(name, 0.0) / slices for turn in turns)
        return Step(name, STEPS[name], round(ms, 3), round(typical(_share(turn, name) for turn in turns), 3))

    return Report(
        machine.facts(),
        opened.manifest.name,
        opened.engine.runtime,
        options.formats,
        studies,
        slices,
        len(turns),
        round(typical(slices / turn.seconds for turn in turns), 2),
        round(typical(1 / turn.alone_s for turn in turns), 2),
        round(typical(turn.alone_s * slices / turn.seconds for turn in turns), 3),
        round(typical(_share(turn, "network") for turn in turns), 3),
        None if peak_mb is None else round(peak_mb, 1),
        tuple(step(name) for name in STEPS),
    )


def _share(turn: _Turn, step: str) -> float:
    return turn.steps.get(step, 0.0) / turn.seconds


COLUMNS = ["step", "at the same time as", "ms a slice", "at work"]


def rows(report: Report) -> list[list[str]]:
    """The steps as a table with `COLUMNS`."""
    together = {"find": "nothing", "before": "network, after", "network": "before, after", "after": "before, network"}
    return [[step.name, together[step.stage], f"{step.ms:.2f}", f"{100 * step.share:.0f} %"] for step in report.steps]


def sentence(report: Report) -> str:
    """What it comes to."""
    memory = "" if report.peak_mb is None else f"; at most {report.peak_mb:.0f} MB"
    return (
        f"{report.slices_per_second:.1f} slices a second from folder to files, {report.engine_slices_per_second:.1f} "
        f"through the engine alone: {report.end_to_end_over_engine:.2f} of it; the network is at work "
        f"{100 * report.network_busy:.0f} % of the time{memory}"
    )
