"""On a machine with an NVIDIA GPU: plans are built there, pass the gate, run studies, and beat PyTorch's FP16.

Elsewhere everything here is skipped, with what is missing as the reason.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeseg import backends, benchmark, build, bundle, contenders, nvidia
from edgeseg.backends import cuda
from edgeseg.device import DeviceLimits
from edgeseg.errors import BackendMissing, EngineError
from edgeseg.export.plan import PlanOptions

ROUNDS = 30


@pytest.fixture(scope="module")
def card() -> str:
    """The machine's first GPU, by its capability."""
    try:
        gpu = cuda.open_gpu()
    except (ImportError, EngineError) as error:
        pytest.skip(f"no NVIDIA GPU that can be used: {error}")
    gpu.close()
    return gpu.capability


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def runtime(request: pytest.FixtureRequest, card: str) -> str:
    """A runtime of plans that is installed and knows the card."""
    name = str(request.param)
    try:
        nvidia.load(name)
    except BackendMissing as error:
        pytest.skip(str(error))
    if name == "tensorrt-rtx" and card in ("8.7", "9.0"):
        pytest.skip(f"TensorRT for RTX has no plans for capability {card}")
    return name


@pytest.fixture(scope="module", params=["fp16", "int8"])
def plan(request: pytest.FixtureRequest, runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network, compiled on this machine from its weights and judged by the plan's own masks."""
    pytest.importorskip("torch", reason="the gate of a new plan needs PyTorch")
    folder = tmp_path_factory.mktemp(runtime) / str(request.param)
    options = PlanOptions(runtime, request.param)  # type: ignore[arg-type]
    build.build_engine(bundle.shipped_weights(), request.param, None, folder, plan=options)
    return folder


def test_the_plan_passes_the_gate_where_it_runs(plan: Path) -> None:
    manifest = bundle.read_manifest(plan)
    assert manifest.verified_on_device
    assert manifest.parity is not None
    assert manifest.parity.passed, manifest.parity.failures
    assert manifest.plan is not None
    assert manifest.plan["runtime"] in manifest.runtimes
    assert manifest.parity.judged_on
    assert manifest.parity.judged_on[0].startswith("TensorRT")


def test_logits_do_not_depend_on_the_batch(plan: Path) -> None:
    slices = np.random.default_rng(0).integers(0, 256, (19, 3, 256, 256), dtype=np.uint8)
    with backends.open_engine(*bundle.read(plan)) as engine:
        together = engine.predict_logits(slices)
        alone = np.concatenate([engine.predict_logits(slices[k : k + 1]) for k in range(len(slices))])
    marked = [logits >= 0 for logits in (together, alone)]
    assert np.mean(marked[0] != marked[1]) < 1e-3


def test_its_clock_and_its_driver_answer(plan: Path, card: str) -> None:
    slices = np.zeros((8, 3, 256, 256), np.uint8)
    with backends.open_engine(*bundle.read(plan)) as engine:
        found, limits = engine.time_steps(slices), engine.limits()
    assert found is not None
    assert found.batch == 8
    assert min(found.upload_ms, found.compute_ms, found.download_ms) > 0
    assert isinstance(limits, DeviceLimits)
    assert limits.capability == card
    assert limits.multiprocessors > 0


def test_it_beats_pytorchs_fp16_with_cuda_graphs(plan: Path) -> None:
    """By ratios within each round, of the whole way and of the network alone."""
    torch = pytest.importorskip("torch", reason="PyTorch is what it is compared with")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch finds no GPU: install one with CUDA")
    report = benchmark.benchmark([plan], rounds=ROUNDS)
    mine = report.engines[0]
    assert mine.on_gpu is not None
    assert mine.ratios[contenders.GRAPHED] > 1
    assert mine.on_gpu.compute_ratios[contenders.GRAPHED] > 1
