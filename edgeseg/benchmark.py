"""Engines side by side in one process: time a slice, memory, cold start, and the same network in other runtimes.

Engines take turns, round by round, so that what slows the machine down slows all alike; a ratio between two of them is
taken within each round, and its median is reported. Times are the host's, from bytes to logits; an engine on a GPU has
its copies and its network timed apart besides, by the GPU's own clock, and is held against the GPU's roofline.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import backends, bundle, contenders, machine, roofline
from edgeseg.contenders import EAGER, GPU_COMPILED, GRAPHED, ONNX_RUNTIME, Contender
from edgeseg.device import DeviceTimes
from edgeseg.errors import EdgesegError, InputError
from edgeseg.roofline import Counted, Pass, Peak
from edgeseg.types import ByteArray, Speed

BATCHES = (1, 2, 4, 8, 16)
REFERENCES, GPU_REFERENCES = (EAGER, ONNX_RUNTIME), (GRAPHED, GPU_COMPILED)
"""What ratios are against, on a CPU and on a GPU."""
_PROBES = 3
"""Rounds in which the best batch is looked for."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Timing:
    """Time a slice at one batch: median and 95th percentile over the rounds, in ms; slices a second of the median."""

    batch: int
    median_ms: float
    p95_ms: float
    slices_per_second: float


@dataclass(frozen=True)
class OnGpu:
    """What the GPU's own clock says of an engine.

    Parameters
    ----------
    single, best
        A pass of one slice, and of the best batch or as much of it as the engine takes at once.
    peak
        The most that the GPU can do; None where the driver or our table does not say.
    compute_ratios
        How many times as fast as each of `GPU_REFERENCES` the network alone is, a slice of the best pass.
    """

    single: Pass
    best: Pass
    peak: Peak | None
    compute_ratios: dict[str, float]


@dataclass(frozen=True)
class Figures:
    """What was measured of one engine.

    Parameters
    ----------
    name, network
        The bundle's or the peer's name, and the network's.
    peer
        Whether it is the same network in another runtime, for comparison.
    runtime, device, inference_precision
        As the engine says.
    cold_start_ms
        Opening and the first slice, in ms; the runtime's package was imported before.
    memory_mb
        Growth of the resident set from before opening to the peak while each batch ran once; None where unknown.
    single, best
        At batch 1, and at the batch with the least time a slice.
    ratios
        How many times the slices a second of each of `REFERENCES` and `GPU_REFERENCES`, both at their best batch.
    counted
        Operations and bytes of its network file at the best batch; None where onnx is missing.
    on_gpu
        None on a CPU.
    """

    name: str
    network: str
    peer: bool
    runtime: str
    device: str
    inference_precision: str
    cold_start_ms: float
    memory_mb: float | None
    single: Timing
    best: Timing
    ratios: dict[str, float]
    counted: Counted | None = None
    on_gpu: OnGpu | None = None


@dataclass(frozen=True)
class Report:
    """Figures of all engines; ``left_out`` has one sentence for each peer that did not run."""

    machine: dict[str, Any]
    threads: int
    rounds: int
    engines: tuple[Figures, ...]
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def benchmark(
    folders: Sequence[Path],
    rounds: int = 20,
    threads: int | None = None,
    backend: str | None = None,
    record: bool = False,
    progress: Progress = lambda *_: None,
) -> Report:
    """Measure bundles and their peers by turns.

    Parameters
    ----------
    folders
        Bundles.
    rounds
        Turns of each engine, after those in which its best batch is found.
    threads
        Of the CPU, for every engine; None takes all cores that this process may use.
    backend
        As in `edgeseg.backends.open_engine`, for the bundles.
    record
        Write its speed into each bundle's manifest.
    progress
        Called with what is done, how many steps are done, and how many there are.

    Raises
    ------
    InputError
        When there is no bundle, one is given twice, or one whose speed is to be recorded is signed.
    EngineError
        When a bundle is damaged or cannot be run.
    BackendMissing
        When a bundle's runtime is not installed.
    """
    if not folders:
        raise InputError("no engine to measure: give a bundle's folder")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("a bundle is given twice: give each once")
    for folder in folders if record else ():
        bundle.check_recordable(folder)
    threads = threads or machine.cores()
    bundles = [contenders.of_bundle(folder, backend, threads) for folder in folders]
    added, left_out = contenders.peers([one.manifest for one in bundles], threads)
    figures, failed = _measure([*bundles, *added], rounds, progress)
    report = Report(machine.facts(), threads, rounds, tuple(figures), (*left_out, *failed))
    if record:
        for folder, one in zip(folders, figures, strict=False):
            bundle.record_speed(folder, _speed(one, report))
    return report


def _speed(figures: Figures, report: Report) -> Speed:
    best = figures.best
    ran_on = figures.device if figures.on_gpu else report.machine["cpu"]
    single_ms = figures.single.median_ms
    return Speed(best.slices_per_second, best.batch, single_ms, figures.runtime, ran_on, report.threads)


@dataclass
class _Running:
    """An engine that is open, what it cost to open, and by batch seconds a slice and a GPU's passes of each round."""

    contender: Contender
    engine: backends.Engine
    cold_start_s: float
    memory_mb: float | None
    seconds: dict[int, list[float]]
    passes: dict[int, list[DeviceTimes]]
    best: int = 1


def _measure(taking_part: list[Contender], rounds: int, progress: Progress) -> tuple[list[Figures], list[str]]:
    size = max(contender.manifest.preprocessing.size_px for contender in taking_part)
    slices = np.random.default_rng(0).integers(0, 256, (max(BATCHES), 3, size, size), dtype=np.uint8)
    running: list[_Running] = []
    failed: list[str] = []
    steps = len(taking_part) + _PROBES + rounds
    with ExitStack() as opened:
        for k, contender in enumerate(taking_part):
            progress(contender.name, k, steps)
            try:
                running.append(_start(contender, slices, opened))
            except Exception as error:  # torch.compile fails in as many ways as it has parts
                if contender.folder is not None:
                    raise
                said = (str(error).strip() or type(error).__name__).splitlines()[0]
                failed.append(f"{contender.name} of {contender.manifest.network} is left out: {said}")
        for k in range(_PROBES + rounds):
            progress("rounds", len(taking_part) + k, steps)
            if k == _PROBES:
                _settle(running)
            for one in running:
                _take_turn(one, slices)
    return [_figures(one, running) for one in running], failed


def _start(contender: Contender, slices: ByteArray, opened: ExitStack) -> _Running:
    """Open an engine, and run each batch once; a batch that it cannot run is left out."""
    gc.collect()
    known = machine.reset_peak()
    before = machine.resident_mb()
    started = time.perf_counter()
    engine = opened.enter_context(contender.open())
    _run(engine, slices, 1)
    cold_start = time.perf_counter() - started
    batches = [1]
    for batch in BATCHES[1:]:
        try:
            _run(engine, slices, batch)
        except EdgesegError:
            break
        batches.append(batch)
    peak = machine.resident_mb(peak=True)
    memory = peak - before if known and peak is not None and before is not None else None
    return _Running(
        contender, engine, cold_start, memory, {batch: [] for batch in batches}, {batch: [] for batch in batches}
    )


def _settle(running: list[_Running]) -> None:
    """Choose each engine's best batch by the probes; the rounds that count are at batch 1 and there alone."""
    for one in running:
        one.best = min(one.seconds, key=lambda batch: statistics.median(one.seconds[batch]))
        kept = sorted({1, one.best})
        one.seconds, one.passes = {batch: [] for batch in kept}, {batch: [] for batch in kept}


def _take_turn(one: _Running, slices: ByteArray) -> None:
    for batch in one.seconds:
        one.seconds[batch].append(_time(one.engine, slices, batch))
        timed = one.engine.time_steps(slices[:batch])
        one.passes[batch] += [timed] if timed else []


def _time(engine: backends.Engine, slices: ByteArray, batch: int) -> float:
    """Seconds a slice. One run before does not count: another engine has had caches and threads since the last turn."""
    _run(engine, slices, batch)
    started = time.perf_counter()
    _run(engine, slices, batch)
    return (time.perf_counter() - started) / batch


def _run(engine: backends.Engine, slices: ByteArray, batch: int) -> None:
    engine.batch = batch
    engine.predict_logits(slices[:batch])


def _figures(one: _Running, running: list[_Running]) -> Figures:
    manifest, engine = one.contender.manifest, one.engine
    return Figures(
        name=one.contender.name,
        network=manifest.network,
        peer=one.contender.folder is None,
        runtime=engine.runtime,
        device=engine.device,
        inference_precision=engine.inference_precision,
        cold_start_ms=round(1000 * one.cold_start_s, 1),
        memory_mb=None if one.memory_mb is None else round(one.memory_mb, 1),
        single=_timing(1, one.seconds[1]),
        best=_timing(one.best, one.seconds[one.best]),
        ratios={other.contender.name: _ratio(one, other) for other in running if _is_reference(other, one)},
        counted=_counted(one),
        on_gpu=_on_gpu(one, running),
    )


def _counted(one: _Running) -> Counted | None:
    layers, each = one.contender.layers, statistics.median(one.seconds[one.best])
    return roofline.counted(layers, one.best, 1 / each) if layers else None


def _on_gpu(one: _Running, running: list[_Running]) -> OnGpu | None:
    if not one.passes[one.best]:
        return None
    limits, layers = one.engine.limits(), one.contender.layers
    peak = roofline.peak(limits) if limits else None
    single, best = (roofline.summed(one.passes[batch], layers, peak) for batch in (1, one.best))
    others = [other for other in running if _is_reference(other, one) and other.contender.name in GPU_REFERENCES]
    return OnGpu(single, best, peak, {other.contender.name: _compute_ratio(one, other) for other in others})


def _compute_ratio(one: _Running, other: _Running) -> float:
    """As `_ratio`, of the network alone by the GPU's clock."""
    pairs = zip(other.passes[other.best], one.passes[one.best], strict=True)
    return round(
        statistics.median(
            (theirs.compute_ms / theirs.batch) / (ours.compute_ms / ours.batch) for theirs, ours in pairs
        ),
        3,
    )


def _is_reference(other: _Running, one: _Running) -> bool:
    """Whether ``one`` is compared with ``other``: a peer of its own network that ratios are against."""
    theirs, ours = other.contender, one.contender
    of_network = theirs.folder is None and theirs.manifest.network == ours.manifest.network
    return of_network and theirs.name in (*REFERENCES, *GPU_REFERENCES) and other is not one


def _ratio(one: _Running, other: _Running) -> float:
    """How many times the other's slices a second, round by round, both at their best batch: the median."""
    pairs = zip(other.seconds[other.best], one.seconds[one.best], strict=True)
    return round(statistics.median(theirs / ours for theirs, ours in pairs), 3)


def _timing(batch: int, seconds: list[float]) -> Timing:
    median = statistics.median(seconds)
    high = float(np.percentile(seconds, 95))
    return Timing(batch, round(1000 * median, 3), round(1000 * high, 3), round(1 / median, 2))


def rows(report: Report, network: str) -> list[list[str]]:
    """A network's engines as a table with `COLUMNS`: 80 columns hold it."""
    return [
        [
            f"{one.name}\n  {one.runtime}, {one.inference_precision}",
            f"{one.single.median_ms:.1f}\n{one.single.p95_ms:.1f}",
            f"{one.best.median_ms:.1f}\n{one.best.p95_ms:.1f}",
            f"{one.best.slices_per_second:.1f}\nat {one.best.batch}",
            f"{one.counted.giga_operations_per_second:.0f}\n{one.counted.operations_per_byte:.0f}"
            if one.counted
            else "-",
            "\n".join(f"{one.ratios[name]:.2f}" if name in one.ratios else "-" for name in REFERENCES),
            f"{one.cold_start_ms / 1000:.2f}\n{'-' if one.memory_mb is None else f'{one.memory_mb:.0f}'}",
        ]
        for one in report.engines
        if one.network == network
    ]


def gpu_rows(report: Report, network: str) -> list[list[str]]:
    """What GPUs' own clocks say of a network's engines, with `GPU_COLUMNS`; none where none ran on one."""
    return [
        [
            one.name,
            f"{of.batch}",
            f"{of.upload_ms:.3f}\n{of.download_ms:.3f}",
            f"{of.compute_ms:.3f}\n{of.compute_p95_ms:.3f}",
            _against_roofline(of),
            "\n".join(f"{ratios[name]:.2f}" if name in ratios else "-" for name in GPU_REFERENCES),
        ]
        for one in report.engines
        if one.network == network and one.on_gpu
        for of, ratios in ((one.on_gpu.single, {}), (one.on_gpu.best, one.on_gpu.compute_ratios))
        if of is one.on_gpu.best or of.batch < one.on_gpu.best.batch
    ]


def _against_roofline(of: Pass) -> str:
    if of.roofline_ms is None or of.memory_share is None:
        return "-"
    return f"{of.roofline_ms:.3f}, {100 * of.roofline_ms / of.compute_ms:.0f} %\n{100 * of.memory_share:.0f} % memory"


COLUMNS = ["engine", "1, ms\n95 %", "best\n95 %", "per s\nbatch", "Gop\nop/B", "eager\nORT", "cold\nMB"]
"""Of `rows`, two lines to each cell."""
GPU_COLUMNS = ["on the GPU", "batch", "up\ndown", "network\n95 %", "roofline", "graphs\ncompiled"]
"""Of `gpu_rows`."""
LEGEND = (
    "ms a slice at batch 1 and at the best batch, median and 95th percentile; slices a second and the best batch; "
    "billions of operations of its convolutions a second, and operations to a byte moved; "
    f"times the rate of {EAGER} and of {ONNX_RUNTIME}; seconds to open and run one slice, growth of memory in MB"
)
GPU_LEGEND = (
    "by the GPU's clock, ms a batch: copy to the GPU and back, network alone (median, 95th percentile); the least time "
    "at the GPU's peak, its share of the network's, how much of it waits for memory; times the speed of the network in "
    f"{GRAPHED} and in {GPU_COMPILED}"
)
