"""Engines side by side in one process: time a slice, memory, cold start, and the same network in other runtimes.

Engines take turns, round by round, so that what slows the machine down slows all alike; a ratio between two of them is
taken within each round, and its median is reported. What is measured is the CPU.
"""

from __future__ import annotations

import gc
import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg import backends, bundle, machine
from edgeseg.errors import BackendMissing, EdgesegError, InputError
from edgeseg.types import ByteArray, Manifest, Speed

BATCHES = (1, 2, 4, 8, 16)
EAGER, COMPILED, ONNX_RUNTIME, OPENVINO = "PyTorch eager", "PyTorch compiled", "ONNX Runtime FP32", "OpenVINO FP32"
REFERENCES = (EAGER, ONNX_RUNTIME)
"""What ratios are against."""
_PROBES = 3
"""Rounds in which the best batch is looked for."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Contender:
    """What takes part: its name, the manifest of its network, how it is opened, its folder (None for a peer)."""

    name: str
    manifest: Manifest
    open: Callable[[], backends.Engine]
    folder: Path | None = None


@dataclass(frozen=True)
class Timing:
    """Time a slice at one batch: median and 95th percentile over the rounds, in ms; slices a second of the median."""

    batch: int
    median_ms: float
    p95_ms: float
    slices_per_second: float


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
        How many times the slices a second of each of `REFERENCES`, both at their best batch.
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
    contenders = [_contender(folder, backend, threads) for folder in folders]
    added, left_out = _peers([contender.manifest for contender in contenders], threads)
    figures, failed = _measure([*contenders, *added], rounds, progress)
    report = Report(machine.facts(), threads, rounds, tuple(figures), (*left_out, *failed))
    if record:
        for folder, one in zip(folders, figures, strict=False):
            bundle.record_speed(folder, _speed(one, report))
    return report


def _speed(figures: Figures, report: Report) -> Speed:
    best = figures.best
    single_ms, cpu = figures.single.median_ms, report.machine["cpu"]
    return Speed(best.slices_per_second, best.batch, single_ms, figures.runtime, cpu, report.threads)


def _contender(folder: Path, backend: str | None, threads: int) -> Contender:
    def open_() -> backends.Engine:
        return backends.open_engine(*bundle.read(folder, backend=backend), backend, threads=threads)

    manifest, _ = bundle.read(folder)
    return Contender(manifest.name, manifest, open_, folder)


def _peers(manifests: Sequence[Manifest], threads: int) -> tuple[list[Contender], list[str]]:
    """The networks of these manifests in other runtimes, and a sentence for each network that has none."""
    found: list[Contender] = []
    left_out: list[str] = []
    for manifest in {manifest.network: manifest for manifest in manifests}.values():
        try:
            found += _peers_of(manifest, threads)
        except BackendMissing as error:
            left_out.append(f"{manifest.network} runs without peers: {error}")
            break
        except EdgesegError as error:
            left_out.append(f"{manifest.network} runs without peers: {error}")
    return found, left_out


def _peers_of(manifest: Manifest, threads: int) -> list[Contender]:
    from edgeseg import model
    from edgeseg.backends.pytorch import PyTorchEngine
    from edgeseg.export import graph

    weights = bundle.shipped_weights(manifest.network)
    content = graph.to_onnx(model.runnable(*model.load(weights)), manifest.preprocessing.size_px)
    digest = hashlib.sha256(content).hexdigest()
    single = replace(manifest, precision="fp32", inference_precision="f32", sha256=digest)

    def eager() -> backends.Engine:
        return PyTorchEngine(model.runnable(*model.load(weights)), threads)

    def compiled() -> backends.Engine:
        import torch

        return PyTorchEngine(torch.compile(model.runnable(*model.load(weights))), threads)  # type: ignore[arg-type]

    def in_runtime(backend: str) -> Callable[[], backends.Engine]:
        given = replace(single, runtimes=(backend,))
        return lambda: backends.open_engine(given, content, backend, "cpu", threads)

    return [
        Contender(EAGER, manifest, eager),
        Contender(COMPILED, manifest, compiled),
        Contender(ONNX_RUNTIME, manifest, in_runtime("onnxruntime")),
        Contender(OPENVINO, manifest, in_runtime("openvino")),
    ]


@dataclass
class _Running:
    """An engine that is open, what it cost to open, and seconds a slice of each round by batch."""

    contender: Contender
    engine: backends.Engine
    cold_start_s: float
    memory_mb: float | None
    seconds: dict[int, list[float]]
    best: int = 1


def _measure(contenders: list[Contender], rounds: int, progress: Progress) -> tuple[list[Figures], list[str]]:
    size = max(contender.manifest.preprocessing.size_px for contender in contenders)
    slices = np.random.default_rng(0).integers(0, 256, (max(BATCHES), 3, size, size), dtype=np.uint8)
    running: list[_Running] = []
    failed: list[str] = []
    steps = len(contenders) + _PROBES + rounds
    with ExitStack() as opened:
        for k, contender in enumerate(contenders):
            progress(contender.name, k, steps)
            try:
                running.append(_start(contender, slices, opened))
            except Exception as error:  # torch.compile fails in as many ways as it has parts
                if contender.folder is not None:
                    raise
                said = (str(error).strip() or type(error).__name__).splitlines()[0]
                failed.append(f"{contender.name} of {contender.manifest.network} is left out: {said}")
        for k in range(_PROBES + rounds):
            progress("rounds", len(contenders) + k, steps)
            if k == _PROBES:
                _settle(running)
            for one in running:
                for batch in one.seconds:
                    one.seconds[batch].append(_time(one.engine, slices, batch))
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
    return _Running(contender, engine, cold_start, memory, {batch: [] for batch in batches})


def _settle(running: list[_Running]) -> None:
    """Choose each engine's best batch by the probes; the rounds that count are at batch 1 and there alone."""
    for one in running:
        one.best = min(one.seconds, key=lambda batch: statistics.median(one.seconds[batch]))
        one.seconds = {batch: [] for batch in sorted({1, one.best})}


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
    )


def _is_reference(other: _Running, one: _Running) -> bool:
    """Whether ``one`` is compared with ``other``: a peer of its own network that is named in `REFERENCES`."""
    theirs, ours = other.contender, one.contender
    of_network = theirs.folder is None and theirs.manifest.network == ours.manifest.network
    return of_network and theirs.name in REFERENCES and other is not one


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
            "\n".join(f"{one.ratios[name]:.2f}" if name in one.ratios else "-" for name in REFERENCES),
            f"{one.cold_start_ms / 1000:.2f}\n{'-' if one.memory_mb is None else f'{one.memory_mb:.0f} MB'}",
        ]
        for one in report.engines
        if one.network == network
    ]


COLUMNS = ["engine", "1, ms\n95 %", "best\n95 %", "per s\nbatch", "eager\nORT", "cold s\nmemory"]
"""Of `rows`, two lines to each cell."""
LEGEND = (
    "ms a slice at batch 1 and at the best batch, median and 95th percentile; slices a second and the best batch; "
    f"times the rate of {EAGER} and of {ONNX_RUNTIME}; seconds to open and run one slice, growth of memory"
)
