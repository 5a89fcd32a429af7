"""The benchmark: turns, best batch, ratios, what is left out, and peers that are the same network."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg import backends, benchmark, bundle, contenders, model
from edgeseg.contenders import Contender
from edgeseg.device import DeviceLimits, DeviceTimes
from edgeseg.errors import EngineError, InputError
from edgeseg.roofline import Layer
from edgeseg.types import ByteArray, FloatArray, Manifest


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """The shipped engine's manifest."""
    return bundle.read_manifest(bundle.find(bundle.DEFAULT_ENGINE))


class Clock:
    """Time as engines spend it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[tuple[str, int]] = []

    def perf_counter(self) -> float:
        return self.now


class Timed(backends.Engine):
    """Takes ``fixed`` seconds a call and ``each`` a slice, times ``slow`` of the round; at most ``most`` at once."""

    runtime, device, inference_precision = "fake 1", "CPU", "f32"

    def __init__(self, name: str, clock: Clock, fixed: float, each: float, most: int = 16) -> None:
        self._name, self._clock, self._fixed, self._each, self._most = name, clock, fixed, each, most
        clock.now += 0.5

    def _run(self, slices: ByteArray) -> FloatArray:
        if len(slices) > self._most:
            raise RuntimeError("too many")
        slow = 1 + len(self._clock.log) // 40  # the machine gets slower all the time
        self._clock.now += slow * (self._fixed + self._each * len(slices))
        self._clock.log.append((self._name, len(slices)))
        return np.zeros((len(slices), 1, *slices.shape[2:]), np.float32)

    def _release(self) -> None:
        self._clock.log.append((self._name, 0))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The benchmark's clock."""
    clock = Clock()
    monkeypatch.setattr(benchmark, "time", clock)
    return clock


def _contender(manifest: Manifest, name: str, engine: Callable[[], backends.Engine], peer: bool) -> Contender:
    return Contender(name, manifest, engine, None if peer else Path(name))


def test_engines_take_turns_and_ratios_are_of_the_same_round(manifest: Manifest, clock: Clock) -> None:
    both = [
        _contender(manifest, "mine", lambda: Timed("mine", clock, 0.01, 0.01), False),
        _contender(manifest, contenders.EAGER, lambda: Timed("eager", clock, 0.0, 0.04, most=4), True),
    ]
    (mine, eager), failed = benchmark._measure(both, 3, lambda *_: None)
    assert failed == []
    assert (mine.best.batch, mine.peer, eager.peer) == (16, False, True)
    assert eager.best.batch in (1, 2, 4), "it cannot run more"
    assert mine.cold_start_ms == pytest.approx(1000 * (0.5 + 0.02))
    assert mine.best.slices_per_second == pytest.approx(1000 / mine.best.median_ms, rel=1e-2)
    assert mine.single.p95_ms >= mine.single.median_ms > mine.best.median_ms
    assert list(mine.ratios) == [contenders.EAGER]
    assert mine.ratios[contenders.EAGER] == pytest.approx(0.04 / (0.17 / 16), rel=0.35)
    assert eager.ratios == {}
    turns = [name for name, count in clock.log if count]
    last = turns[-8:] if eager.best.batch > 1 else turns[-6:]
    assert last[:4] == ["mine"] * 4
    assert set(last[4:]) == {"eager"}
    assert clock.log[-2:] == [("eager", 0), ("mine", 0)], "all are closed"


class OnCard(Timed):
    """An engine on a GPU, whose network takes ``network_ms`` a slice by its own clock; at most 8 slices at once."""

    device = "Card (compute capability 8.9)"

    def __init__(self, name: str, clock: Clock, each: float, network_ms: float) -> None:
        super().__init__(name, clock, 0.0, each)
        self._network_ms = network_ms

    def limits(self) -> DeviceLimits:
        return DeviceLimits("8.9", 128, 2_520_000, 10_501_000, 384)

    def _time(self, slices: ByteArray) -> DeviceTimes:
        count = min(8, len(slices))
        return DeviceTimes(count, 0.5 * count, self._network_ms * count, 0.25 * count)


def test_a_gpus_own_clock_and_its_roofline(manifest: Manifest, clock: Clock) -> None:
    layer = Layer("c", "int8", 10**11, 10**6, 10**6)
    on_card = [
        Contender("mine", manifest, lambda: OnCard("mine", clock, 0.01, 1.0), Path("mine"), (layer,)),
        Contender(contenders.GRAPHED, manifest, lambda: OnCard("graphs", clock, 0.02, 3.0)),
        _contender(manifest, contenders.EAGER, lambda: Timed("eager", clock, 0.0, 0.04), True),
    ]
    (mine, graphs, eager), failed = benchmark._measure(on_card, 3, lambda *_: None)
    assert failed == []
    assert eager.on_gpu is None
    assert mine.on_gpu is not None
    assert graphs.on_gpu is not None
    single, best = mine.on_gpu.single, mine.on_gpu.best
    assert (single.batch, single.upload_ms, single.compute_ms, single.download_ms) == (1, 0.5, 1.0, 0.25)
    assert best.compute_ms == best.batch * 1.0
    assert single.roofline_ms == pytest.approx(1000 * 1e11 / 660.6e12, rel=1e-3)
    assert single.memory_share == 0.0
    assert graphs.on_gpu.best.roofline_ms is None, "its layers were not counted"
    assert mine.on_gpu.compute_ratios == {contenders.GRAPHED: 3.0}
    assert mine.ratios[contenders.GRAPHED] == pytest.approx(2.0, rel=0.35)
    assert mine.counted is not None
    assert mine.counted.giga_operations == 100.0
    report = benchmark.Report({"cpu": "a processor"}, 1, 3, (mine, graphs, eager), ())
    rows = benchmark.gpu_rows(report, manifest.network)
    assert [row[0] for row in rows] == ["mine", "mine", contenders.GRAPHED, contenders.GRAPHED]
    assert all(len(row) == len(benchmark.GPU_COLUMNS) for row in rows)
    assert rows[1][5] == "3.00\n-"
    assert json.loads(json.dumps(report.to_json()))["engines"][0]["on_gpu"]["single"]["compute_ms"] == 1.0
    assert benchmark._speed(mine, report).cpu == "Card (compute capability 8.9)"
    assert benchmark._speed(eager, report).cpu == "a processor"


def test_a_plan_without_pytorchs_gpu_says_that_its_peers_are_missing(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "peers_of", lambda *_: [])
    _, left_out = contenders.peers([replace(manifest, plan={"runtime": "tensorrt"})], 1)
    assert left_out == ["a plan runs without PyTorch's FP16 beside it: that needs a PyTorch which finds the GPU"]
    assert contenders.peers([manifest], 1) == ([], [])


def test_where_pytorch_finds_a_gpu_its_fp16_takes_part(
    shipped: tuple[Manifest, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from edgeseg.export import graph

    content = graph.to_onnx(model.runnable(*model.load(bundle.shipped_weights())), 256)
    monkeypatch.setattr(graph, "to_onnx", lambda *_: content)
    names = []
    for found in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=found: found)
        names.append([one.name for one in contenders.peers_of(shipped[0], 1)])
    assert names[1][:-2] == names[0]
    assert names[1][-2:] == [contenders.GRAPHED, contenders.GPU_COMPILED]
    assert {layer.arithmetic for layer in contenders.peers_of(shipped[0], 1)[-1].layers} == {"f16"}


def test_a_peer_that_fails_is_left_out_with_its_reason(manifest: Manifest, clock: Clock) -> None:
    def broken() -> backends.Engine:
        raise AttributeError("no compiler\nand a long trace")

    mine = _contender(manifest, "mine", lambda: Timed("mine", clock, 0.01, 0.01), False)
    figures, failed = benchmark._measure(
        [mine, _contender(manifest, contenders.COMPILED, broken, True)], 1, lambda *_: None
    )
    assert [one.name for one in figures] == ["mine"]
    assert failed == [f"PyTorch compiled of {manifest.network} is left out: no compiler"]
    with pytest.raises(AttributeError):
        benchmark._measure([_contender(manifest, "mine", broken, False)], 1, lambda *_: None)


def test_no_bundle_and_one_bundle_twice(tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="no engine to measure"):
        benchmark.benchmark([])
    with pytest.raises(InputError, match="given twice"):
        benchmark.benchmark([tiny_bundle, tiny_bundle / ".." / tiny_bundle.name])


def test_a_bundle_that_does_not_open(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "peers", lambda *_: ([], []))
    manifest, _ = bundle.read(tiny_bundle)
    content = b"no network"
    bundle.write(tmp_path, replace(manifest, sha256=hashlib.sha256(content).hexdigest()), content)
    with pytest.raises(EngineError, match="refuses tiny-fp32"):
        benchmark.benchmark([tmp_path], rounds=1)


def test_without_torch_the_peers_are_left_out_with_one_sentence(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    found, left_out = contenders.peers([manifest, manifest], 1)
    assert found == []
    assert len(left_out) == 1
    assert "runs without peers" in left_out[0]
    assert "pip install" in left_out[0]


@pytest.fixture
def threads() -> int:
    """PyTorch's number of threads, which is the whole process's: it stays as it is."""
    import torch

    return torch.get_num_threads()


def test_the_peers_are_the_same_network(
    tiny_bundle: Path, tiny_weights: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def unavailable(_: object) -> None:
        raise RuntimeError("no compiler in this test")

    monkeypatch.setattr(torch, "compile", unavailable)
    monkeypatch.setattr(bundle, "shipped_weights", lambda _: tiny_weights)
    monkeypatch.setattr(benchmark, "BATCHES", (1, 2))
    seen: list[tuple[str, int, int]] = []
    report = benchmark.benchmark([tiny_bundle], 2, threads, progress=lambda *step: seen.append(step))
    names = [one.name for one in report.engines]
    assert names == ["tiny-fp32", contenders.EAGER, contenders.ONNX_RUNTIME, contenders.OPENVINO]
    assert report.left_out == ("PyTorch compiled of tiny is left out: no compiler in this test",)
    for one in report.engines:
        assert set(one.ratios) == set(benchmark.REFERENCES) - {one.name}
        assert all(ratio > 0 for ratio in one.ratios.values())
        assert one.best.batch in (1, 2)
        assert one.inference_precision == "f32"
        assert one.cold_start_ms > 0
    assert [step[1] for step in seen] == list(range(seen[0][2]))
    assert json.loads(json.dumps(report.to_json()))["engines"][0]["name"] == "tiny-fp32"

    logits = []
    manifest, content = bundle.read(tiny_bundle)
    slices = np.random.default_rng(1).integers(0, 256, (1, 3, 256, 256), dtype=np.uint8)
    for contender in contenders.peers_of(manifest, threads):
        if contender.name != contenders.COMPILED:
            with contender.open() as engine:
                logits.append(engine.predict_logits(slices))
    with backends.open_engine(manifest, content) as engine:
        assert all(np.allclose(engine.predict_logits(slices), one, atol=1e-3) for one in logits)


def test_the_rows_say_a_dash_for_what_is_not_known(manifest: Manifest, clock: Clock) -> None:
    mine = _contender(manifest, "mine", lambda: Timed("mine", clock, 0.01, 0.01), False)
    figures, _ = benchmark._measure([mine], 1, lambda *_: None)
    report = benchmark.Report({}, 1, 1, tuple(figures), ())
    (row,) = benchmark.rows(report, manifest.network)
    assert len(row) == len(benchmark.COLUMNS)
    assert row[0] == "mine\n  fake 1, f32"
    assert row[4:6] == ["-", "-\n-"]
    assert benchmark.gpu_rows(report, manifest.network) == []
    assert benchmark.rows(report, "another") == []
