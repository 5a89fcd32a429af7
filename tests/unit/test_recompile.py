"""Plans from the network file of another bundle, with and without PyTorch."""

from __future__ import annotations

import shutil
import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from edgeseg import backends, build, bundle, parity, preprocess, recompile, segment
from edgeseg.backends.onnxruntime import OnnxRuntimeEngine
from edgeseg.errors import BackendMissing, EngineError, InputError, ParityError
from edgeseg.export import plan
from edgeseg.export.plan import PlanOptions
from edgeseg.readers import lgg, slices
from edgeseg.types import ByteArray, FloatArray, Manifest, Preprocessing

PATIENTS = ("TCGA_XX_0000_20000101",)
RTX = PlanOptions("tensorrt-rtx", "fp16", capabilities=("8.9",))


@pytest.fixture
def rtx() -> None:
    """Plans can be built here, for GPUs that are not."""
    if not util.find_spec("tensorrt_rtx"):
        pytest.skip("plans are built by the extra tensorrt-rtx")


@pytest.fixture
def given(lgg_folder: Path) -> ByteArray:
    """A patient's network input."""
    return preprocess.to_network(lgg.read_study(lgg.index(lgg_folder)[4]), Preprocessing("stored")).slices


def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


def _logits(folder: Path, given: ByteArray, backend: str) -> FloatArray:
    with backends.open_engine(*bundle.read(folder, backend=backend), backend) as engine:
        return engine.predict_logits(given)


def _int8(weights: Path, data: Path, folder: Path, given: ByteArray, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """A bundle in INT8 for OpenVINO, calibrated on few slices and passed whatever its masks are."""
    few = slices.Slices(tuple(map(str, range(len(given)))), ("A",) * len(given), given, None)
    monkeypatch.setattr(slices, "read", lambda *_: few)
    monkeypatch.setenv("EDGESEG_CACHE", str(folder.parent))
    monkeypatch.setitem(parity.TOLERANCES, "int8", parity.Tolerance(1.0, 0.0, 0.0, 0.0, 1.0, 1.0, lost_px=1 << 16))
    return build.build_engine(weights, "int8", data, folder, patients=PATIENTS)


# --- which bundle


def test_a_bundle_is_found_by_folder_network_file_and_name(tiny_bundle: Path, tiny_weights: Path) -> None:
    assert recompile.bundle_of(tiny_bundle) == tiny_bundle
    assert recompile.bundle_of(tiny_bundle / "model.onnx") == tiny_bundle
    assert recompile.bundle_of(Path(bundle.DEFAULT_ENGINE)) == bundle.find(bundle.DEFAULT_ENGINE)
    assert recompile.bundle_of(tiny_weights) is None
    assert recompile.bundle_of(tiny_weights.parent) is None


def test_a_network_file_without_its_manifest_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no network file"):
        recompile.bundle_of(tmp_path / "model.onnx")
    shutil.copy(tiny_bundle / "model.onnx", tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"has no manifest\.json beside it"):
        recompile.bundle_of(tmp_path / "model.onnx")
    shutil.copy(tiny_bundle / "manifest.json", tmp_path / "manifest.json")
    shutil.copy(tiny_bundle / "model.onnx", tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"is that of model\.onnx"):
        recompile.bundle_of(tmp_path / "other.onnx")


def test_precisions(tiny_bundle: Path, tiny_bundle_fp16: Path) -> None:
    assert recompile.precision_of(tiny_bundle, None) == "fp16"
    assert recompile.precision_of(tiny_bundle, "fp32") == "fp32"
    assert recompile.precision_of(tiny_bundle_fp16, "fp32") == "fp32", "it computes in FP32"
    with pytest.raises(InputError, match="holds FP16, of which no plan in INT8 can be made: give --fp16"):
        recompile.precision_of(tiny_bundle_fp16, "int8")


# --- with and without PyTorch


@pytest.mark.usefixtures("rtx")
def test_without_torch_the_plan_is_written_unverified_and_says_so(
    tiny_bundle_fp16: Path, tmp_path: Path, given: ByteArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_torch(monkeypatch)
    said: list[str] = []
    written = recompile.recompile(tiny_bundle_fp16, RTX, None, tmp_path / "b", report=said.append)
    manifest, content = bundle.read(tmp_path / "b")
    source = bundle.read_manifest(tiny_bundle_fp16)
    assert manifest == written
    assert (manifest.parity, manifest.verified_on_device, set(manifest.files)) == (None, False, {"model.plan"})
    assert (manifest.name, manifest.runtimes) == ("tiny-fp16", ("tensorrt-rtx", "onnxruntime"))
    assert (manifest.inference_precision, manifest.weights_sha256) == ("f16", source.weights_sha256)
    assert (manifest.preprocessing, manifest.threshold) == (source.preprocessing, source.threshold)
    assert content == (tmp_path / "b" / "model.plan").read_bytes()
    assert "was not compared with the PyTorch model, which is not installed here" in said[-1]
    with pytest.raises(ParityError, match="never compared"), segment.open_engine(str(tmp_path / "b")):
        pass
    half, single = _logits(tmp_path / "b", given, "onnxruntime"), _logits(tiny_bundle_fp16, given, "onnxruntime")
    assert 0 < np.abs(half - single).max() < 0.1, "FP16 arithmetic"


@pytest.mark.usefixtures("rtx")
def test_with_torch_and_weights_it_is_compared(
    tiny_bundle: Path, tiny_weights: Path, lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    recompile.recompile(tiny_bundle, RTX, lgg_folder, tmp_path / "a", PATIENTS, said.append)
    assert "whose weights are not at hand" in said[-1]
    monkeypatch.setattr(bundle, "shipped_weights", lambda _: tiny_weights)
    single = PlanOptions("tensorrt-rtx", "fp32", capabilities=("8.9",))
    manifest = recompile.recompile(tiny_bundle, single, lgg_folder, tmp_path / "b", PATIENTS)
    assert bundle.read(tmp_path / "b")[0] == manifest
    assert manifest.parity is not None
    assert manifest.parity.passed, manifest.parity.failures
    assert (manifest.plan or {})["gpu"] or not manifest.verified_on_device


@pytest.mark.usefixtures("rtx")
def test_a_plan_that_cannot_be_judged_leaves_the_earlier_bundle(
    tiny_bundle: Path, tiny_weights: Path, lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "b")
    before = {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    monkeypatch.setattr(bundle, "shipped_weights", lambda _: tiny_weights)
    with pytest.raises(InputError, match="no patient nobody"):
        recompile.recompile(tiny_bundle, RTX, lgg_folder, tmp_path / "b", ("nobody",))
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == before


@pytest.mark.usefixtures("rtx")
def test_a_file_that_computes_in_fp16_is_taken_as_it_is(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_torch(monkeypatch)
    once = recompile.recompile(tiny_bundle, RTX, None, tmp_path / "b")
    assert recompile.recompile(tmp_path / "b", RTX, None, tmp_path / "c").sha256 == once.sha256
    with pytest.raises(InputError, match="computes in FP16: give --fp16"):
        recompile.precision_of(tmp_path / "b", "fp32")


class _OnDevice(OnnxRuntimeEngine):
    """Stands for a GPU that runs plans: it runs the network file of the plan's bundle."""

    network = b""

    def __init__(self, _: bytes, manifest: Manifest, device: str = "auto", threads: int | None = None) -> None:
        super().__init__(self.network, manifest, device, threads)


@pytest.mark.parametrize("passes", [True, False])
def test_a_plan_that_runs_here_is_compared_itself(
    passes: bool,
    tiny_bundle: Path,
    tiny_weights: Path,
    lgg_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = PlanOptions("tensorrt", "fp32")
    made = plan.Plan(b"plan", "10.3.0", 0, plan.Layers(9, 0), options)
    monkeypatch.setattr(plan, "build_plan", lambda *_: made)
    monkeypatch.setattr(build, "_gpu", lambda: {"gpu": "Orin", "gpu_capability": "8.7"})
    monkeypatch.setattr(_OnDevice, "network", bundle.read(tiny_bundle)[1])
    monkeypatch.setitem(backends.BACKENDS, "tensorrt", (f"{_OnDevice.__module__}:_OnDevice", ""))
    monkeypatch.setattr(bundle, "shipped_weights", lambda _: tiny_weights)
    if not passes:
        monkeypatch.setitem(parity.TOLERANCES, "fp32", parity.Tolerance(-1.0, 2.0, 2.0, 2.0, 1.0, 1.0))
    manifest = recompile.recompile(tiny_bundle, options, lgg_folder, tmp_path / "b", PATIENTS)
    assert manifest.parity is not None
    assert (manifest.parity.passed, manifest.verified_on_device) == (passes, passes)
    assert bundle.read(tmp_path / "b") == (manifest, b"plan")


@pytest.mark.usefixtures("rtx")
def test_int8_is_spelled_anew(
    tiny_weights: Path, lgg_folder: Path, tmp_path: Path, given: ByteArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    _int8(tiny_weights, lgg_folder, tmp_path / "a", given, monkeypatch)
    assert recompile.precision_of(tmp_path / "a", None) == "int8"
    with pytest.raises(InputError, match="holds INT8, of which no plan in FP16 can be made: give --int8"):
        recompile.precision_of(tmp_path / "a", "fp16")
    _no_torch(monkeypatch)
    options = PlanOptions("tensorrt-rtx", "int8", capabilities=("8.9",))
    manifest = recompile.recompile(tmp_path / "a", options, None, tmp_path / "b")
    assert manifest.plan is not None
    assert manifest.plan["qdq_pairs"] > 20
    assert manifest.calibration is not None
    assert (manifest.precision, manifest.calibration["spelling"]) == ("int8", "signed")
    unsigned, signed = _logits(tmp_path / "a", given, "openvino"), _logits(tmp_path / "b", given, "onnxruntime")
    assert np.abs(signed - unsigned).mean() < 0.05 * np.abs(unsigned).mean()


# --- what cannot be


def test_a_bundle_is_not_made_of_itself_and_patients_need_a_folder(tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="give another folder with -o"):
        recompile.recompile(tiny_bundle, RTX, None, tiny_bundle)
    with pytest.raises(InputError, match="give both, or neither"):
        recompile.recompile(tiny_bundle, RTX, None, tiny_bundle, PATIENTS)


def test_a_damaged_bundle_is_not_compiled(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "a"))
    (folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(EngineError, match="is damaged"):
        recompile.recompile(folder, RTX, None, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_what_changes_the_precision_may_be_missing(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendMissing, match="needs onnx"):
        recompile.recompile(tiny_bundle, RTX, None, tmp_path / "b")
    with pytest.raises(BackendMissing, match="another spelling needs onnx"):
        recompile._converted(bundle.read_manifest(tiny_bundle), b"", "int8")
