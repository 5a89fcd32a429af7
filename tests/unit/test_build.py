from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgeseg import backends, build, bundle, gate, model, nvidia, parity, preprocess, segment
from edgeseg.backends.onnxruntime import OnnxRuntimeEngine
from edgeseg.errors import EngineError, InputError, ParityError
from edgeseg.ladder import Recipe
from edgeseg.readers import lgg, slices
from edgeseg.types import Manifest, Preprocessing

PATIENTS = ("TCGA_XX_0000_20000101", "TCGA_XX_0001_20000101")


@pytest.fixture
def exported(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The small network's file, which the exporter hands out without exporting again."""
    from edgeseg.export import graph

    content = bundle.read(tiny_bundle)[1]
    monkeypatch.setattr(graph, "to_onnx", lambda *_, **__: content)
    return content


def _resaved(weights: Path, path: Path, **facts: str) -> Path:
    network, own = model.load(weights)
    model.save_weights(network, path, {**own, **facts})
    return path


def test_an_fp32_bundle_from_end_to_end(tiny_bundle: Path, tiny_weights: Path) -> None:
    manifest, _ = bundle.read(tiny_bundle)
    assert (manifest.name, manifest.network) == ("tiny-fp32", "tiny")
    assert (manifest.architecture, manifest.encoder) == ("Linknet", "tu-test_resnet")
    assert manifest.weights_sha256 == bundle.file_sha256(tiny_weights)
    assert (manifest.precision, manifest.inference_precision) == ("fp32", "f32")
    assert manifest.preprocessing.intensity == "stored"
    assert manifest.input == {"name": "slices", "dtype": "uint8", "shape": ["batch", 3, 256, 256]}
    assert {"edgeseg", "torch", "onnx", "onnxsim"} <= manifest.tools.keys()
    report = manifest.parity
    assert report is not None
    assert report.passed, report.failures
    assert (report.slices, report.pixels) == (10, 10 * 256 * 256)
    assert report.agreement.slices == 10
    assert report.largest_logit_difference is not None
    assert 0 < report.largest_logit_difference < 1e-3
    assert report.worst_patient in PATIENTS
    assert manifest.weights_sha256[:12] in report.reference


def test_an_fp16_bundle_holds_half_and_computes_the_same(tiny_bundle: Path, tiny_bundle_fp16: Path) -> None:
    manifest, content = bundle.read(tiny_bundle_fp16)
    assert (manifest.name, manifest.precision, manifest.inference_precision) == ("tiny-fp16", "fp16", "f32")
    assert len(content) < 0.6 * len(bundle.read(tiny_bundle)[1])
    assert manifest.parity is not None
    assert manifest.parity.passed, manifest.parity.failures
    assert manifest.parity.differing_pixels <= 1


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_parity_is_checked_again_on_either_runtime(
    backend: str, tiny_bundle: Path, tiny_weights: Path, lgg_folder: Path
) -> None:
    report = build.check_parity(tiny_bundle, tiny_weights, lgg_folder, backend, PATIENTS[:1])
    assert report.passed, report.failures
    assert report.slices == 5


def test_other_weights_are_no_reference(
    tiny_bundle: Path, tiny_weights: Path, lgg_folder: Path, tmp_path: Path
) -> None:
    other = _resaved(tiny_weights, tmp_path / "other.safetensors", name="other")
    with pytest.raises(InputError, match="not the weights that tiny-fp32 was exported from"):
        build.check_parity(tiny_bundle, other, lgg_folder)


def test_a_damaged_bundle_is_not_compared(
    tiny_bundle: Path, tiny_weights: Path, lgg_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 4
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(EngineError, match="is damaged"):
        build.check_parity(folder, tiny_weights, lgg_folder)


def test_a_network_file_that_is_not_the_model_fails_and_is_not_served(
    exported: bytes, tiny_weights: Path, lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import numpy_helper

    from edgeseg.export import graph

    network = onnx.load_from_string(exported)
    (bias,) = [i for i in network.graph.initializer if i.name.endswith("segmentation_head.0.bias")]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 0.1, bias.name))
    monkeypatch.setattr(graph, "to_onnx", lambda *_, **__: network.SerializeToString())
    manifest = build.build_engine(tiny_weights, "fp32", lgg_folder, tmp_path / "bad", patients=PATIENTS[:1])
    assert manifest.parity is not None
    assert not manifest.parity.passed
    assert any("of the pixels differ" in failure for failure in manifest.parity.failures)
    assert bundle.read(tmp_path / "bad")[0] == manifest
    assert (tmp_path / "bad" / "parity.json").is_file()
    with pytest.raises(ParityError, match="failed parity"), segment.open_engine(str(tmp_path / "bad")):
        pass
    with segment.open_engine(str(tmp_path / "bad"), allow_unverified=True) as opened:
        assert opened.manifest == manifest


def test_each_precision_has_its_own_tolerance(
    exported: bytes, tiny_weights: Path, lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exported
    impossible = parity.Tolerance(-1.0, 2.0, 2.0, 2.0, 1.0, 1.0)
    monkeypatch.setitem(parity.TOLERANCES, "fp32", impossible)
    verdicts = {}
    for precision in ("fp32", "fp16"):
        chosen: Any = precision
        manifest = build.build_engine(tiny_weights, chosen, lgg_folder, tmp_path / precision, patients=PATIENTS[:1])
        assert manifest.parity is not None
        verdicts[precision] = manifest.parity.passed
    assert verdicts == {"fp32": False, "fp16": True}


def test_the_weights_say_intensities_and_threshold(
    exported: bytes, tiny_weights: Path, lgg_folder: Path, tmp_path: Path
) -> None:
    assert exported
    weights = _resaved(tiny_weights, tmp_path / "w.safetensors", intensity="volume", threshold="0.3")
    said: list[str] = []
    manifest = build.build_engine(
        weights, "fp32", lgg_folder, tmp_path / "b", "onnxruntime", PATIENTS[:1], report=said.append
    )
    assert (manifest.preprocessing.intensity, manifest.threshold) == ("volume", 0.3)
    assert len(said) == 2


def test_unknown_intensities_are_refused(tiny_weights: Path, lgg_folder: Path, tmp_path: Path) -> None:
    weights = _resaved(tiny_weights, tmp_path / "w.safetensors", intensity="zscore")
    with pytest.raises(InputError, match="'zscore'"):
        build.build_engine(weights, "fp32", lgg_folder, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_unknown_patient_leaves_no_bundle(
    exported: bytes, tiny_weights: Path, lgg_folder: Path, tmp_path: Path
) -> None:
    assert exported
    with pytest.raises(InputError, match="no patient nobody"):
        build.build_engine(tiny_weights, "fp32", lgg_folder, tmp_path / "b", patients=("nobody",))
    assert not (tmp_path / "b").exists()


@pytest.fixture
def asked(lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which shipped slices were read; they are a patient's of the small set, so that calibration is quick."""
    patient = lgg.index(lgg_folder)[4]
    given = preprocess.to_network(lgg.read_study(patient), Preprocessing("stored")).slices
    few = slices.Slices(tuple(p.stem for p in patient.images), (patient.name,) * len(given), given, None)
    uses: list[str] = []
    monkeypatch.setattr(slices, "read", lambda use, _: uses.append(use) or few)  # type: ignore[func-returns-value]
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path))
    return uses


def _points(content: bytes) -> set[tuple[str, int]]:
    """Types and zero points of what a network file quantises."""
    import onnx
    from onnx import numpy_helper

    network = onnx.load_from_string(content)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in network.graph.initializer}
    points = [values[n.input[2]] for n in network.graph.node if n.op_type == "QuantizeLinear"]
    return {(str(point.dtype), int(point)) for point in points}


def test_an_int8_bundle_climbs_the_ladder_and_says_what_it_did(
    asked: list[str], tiny_weights: Path, lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.TOLERANCES, "int8", parity.Tolerance(0.0, 1.0, 1.0, 1.0, 0.0, 0.0))
    said: list[str] = []
    manifest = build.build_engine(
        tiny_weights, "int8", lgg_folder, tmp_path / "int8", patients=PATIENTS[:1], report=said.append
    )
    assert asked == ["calibration"], "parity slices are read by the gate alone"
    read, content = bundle.read(tmp_path / "int8")
    assert read == manifest
    assert (read.name, read.precision, read.runtimes) == ("tiny-int8", "int8", ("openvino", "onnxruntime"))
    assert read.calibration is not None
    assert (read.calibration["method"], read.calibration["slices"], read.calibration["patients"]) == ("min-max", 5, 1)
    kept, rungs = read.calibration["kept"], read.calibration["rungs"]
    assert len(rungs) > 1, "nothing satisfies this tolerance, so the second rung was taken"
    assert (rungs[0]["kept"], rungs[-1]["kept"]) == (0, len(kept))
    assert any(line.startswith("with 0 convolutions kept, parity fails") for line in said)
    assert read.parity is not None
    assert not read.parity.passed
    assert _points(content) == {("uint8", 128)}
    assert read.calibration["spelling"] == "unsigned"
    with pytest.raises(ParityError), segment.open_engine(str(tmp_path / "int8")):
        pass


@pytest.mark.usefixtures("asked")
def test_an_int8_bundle_has_to_pass_on_every_runtime_that_it_is_for(
    tiny_weights: Path, lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lenient = parity.Tolerance(1.0, 0.0, 0.0, 0.0, 1.0, 1.0, lost_px=1 << 16, every_runtime=True)
    monkeypatch.setitem(parity.TOLERANCES, "int8", lenient)
    judge, judged = gate.judge, list[str]()

    def fails_on_onnx_runtime(engine: backends.Engine, *rest: Any) -> gate.Verdict:
        judged.append(engine.runtime.split()[0])
        verdict = judge(engine, *rest)
        if judged[-1] == "OpenVINO":
            return verdict
        return replace(verdict, report=replace(verdict.report, passed=False, failures=("it differs",)))

    monkeypatch.setattr(gate, "judge", fails_on_onnx_runtime)
    to_int8 = partial(build.build_engine, tiny_weights, "int8", lgg_folder, tmp_path / "int8", patients=PATIENTS[:1])
    manifest = to_int8()
    assert judged[:2] == ["OpenVINO", "ONNX"]
    assert manifest.parity is not None
    assert not manifest.parity.passed
    assert manifest.parity.failures[0].startswith("it differs (ONNX Runtime")
    judged.clear()
    named = to_int8(backend="openvino")
    assert judged == ["OpenVINO"]
    assert named.parity is not None
    assert named.parity.passed
    assert (named.runtimes, len(named.parity.judged_on)) == (("openvino",), 1), "the other has not judged it"
    assert bundle.read(tmp_path / "int8")[0] == named


def test_parity_is_not_checked_on_what_calibrated(tiny_weights: Path, lgg_folder: Path, tmp_path: Path) -> None:
    recipe = Recipe(calibration=lgg_folder)
    with pytest.raises(InputError, match="is given for calibration and for parity"):
        build.build_engine(tiny_weights, "int8", lgg_folder, tmp_path / "engine", recipe=recipe)


def test_patients_without_a_folder_and_an_unknown_method_are_refused_at_once(
    tiny_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="give both, or neither"):
        build.build_engine(tiny_weights, "fp16", None, tmp_path / "engine", patients=PATIENTS)
    with pytest.raises(InputError, match="give both, or neither"):
        build.check_parity(tmp_path, tiny_weights, None, patients=PATIENTS)
    with pytest.raises(InputError, match="no calibration method 'median'"):
        build.build_engine(tiny_weights, "int8", None, tmp_path / "engine", recipe=Recipe("median"))
    assert not (tmp_path / "engine").exists()


# --- plans


class _OnDevice(OnnxRuntimeEngine):
    """Stands for a GPU that runs plans: it runs the network file of the plan's bundle."""

    network = b""
    plans: tuple[bytes, ...] = ()

    def __init__(self, content: bytes, manifest: Manifest, device: str = "auto", threads: int | None = None) -> None:
        _OnDevice.plans += (content,)
        super().__init__(self.network, manifest, device, threads)


@pytest.fixture
def planned(exported: bytes, tiny_weights: Path, lgg_folder: Path, tmp_path: Path) -> Path:
    """A bundle whose plan was built for 8.9 on a machine that cannot run it."""
    pytest.importorskip("tensorrt_rtx", reason="plans are built by the extra tensorrt-rtx")
    from edgeseg.backends import cuda
    from edgeseg.export.plan import PlanOptions

    assert exported
    with contextlib.suppress(EngineError, ImportError):
        cuda.open_gpu().close()
        pytest.skip("this machine has a GPU: its plans are judged where they run")
    options = PlanOptions("tensorrt-rtx", "fp32", capabilities=("8.9",))
    build.build_engine(tiny_weights, "fp32", lgg_folder, tmp_path / "rtx", patients=PATIENTS[:1], plan=options)
    return tmp_path / "rtx"


def test_a_plan_that_cannot_run_here_is_judged_by_its_network_file_and_not_served(planned: Path) -> None:
    manifest, content = bundle.read(planned)
    assert content == (planned / "model.plan").read_bytes()
    assert bundle.read(planned, backend="onnxruntime")[1] == (planned / "model.onnx").read_bytes()
    assert (manifest.name, manifest.precision, manifest.inference_precision) == ("tiny-fp32", "fp32", "f32")
    assert manifest.runtimes == ("tensorrt-rtx", "onnxruntime")
    assert manifest.plan is not None
    assert (manifest.plan["file"], manifest.plan["capabilities"], manifest.plan["gpu"]) == ("model.plan", ["8.9"], None)
    assert manifest.parity is not None
    assert manifest.parity.passed, manifest.parity.failures
    assert not manifest.verified_on_device
    with pytest.raises(ParityError, match="run edgeseg parity on this machine"), segment.open_engine(str(planned)):
        pass


def test_parity_of_the_network_file_is_no_proof_for_the_plan_and_parity_of_the_plan_is(
    planned: Path, tiny_weights: Path, lgg_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.check_parity(planned, tiny_weights, lgg_folder, "onnxruntime", PATIENTS[:1]).passed
    assert not bundle.read(planned)[0].verified_on_device
    monkeypatch.setattr(_OnDevice, "network", (planned / "model.onnx").read_bytes())
    monkeypatch.setattr(_OnDevice, "plans", ())
    monkeypatch.setitem(backends.BACKENDS, "tensorrt-rtx", (f"{_OnDevice.__module__}:_OnDevice", ""))
    with monkeypatch.context() as strict:
        strict.setitem(parity.TOLERANCES, "fp32", parity.Tolerance(-1.0, 2.0, 2.0, 2.0, 1.0, 1.0))
        assert not build.check_parity(planned, tiny_weights, lgg_folder, None, PATIENTS[:1]).passed
    assert not bundle.read(planned)[0].verified_on_device
    assert build.check_parity(planned, tiny_weights, lgg_folder, None, PATIENTS[:1]).passed
    assert bundle.read(planned)[0].verified_on_device
    assert set(_OnDevice.plans) == {(planned / "model.plan").read_bytes()}
    with segment.open_engine(str(planned)) as opened:
        assert opened.manifest.verified_on_device


def test_a_plan_that_runs_here_is_judged_itself(
    exported: bytes, tiny_weights: Path, lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseg.export import plan
    from edgeseg.export.plan import Layers, Plan, PlanOptions

    monkeypatch.setattr(_OnDevice, "network", exported)
    monkeypatch.setattr(_OnDevice, "plans", ())
    monkeypatch.setitem(backends.BACKENDS, "tensorrt", (f"{_OnDevice.__module__}:_OnDevice", ""))
    monkeypatch.setattr(nvidia, "load", lambda _: None)
    built = Plan(b"plan", "10.7.0", 0, Layers(9, 0), PlanOptions("tensorrt", "fp32"))
    monkeypatch.setattr(plan, "build_plan", lambda *_: built)
    monkeypatch.setattr(build, "_gpu", lambda: {"gpu": "Card", "gpu_capability": "8.9"})
    manifest = build.build_engine(
        tiny_weights, "fp32", lgg_folder, tmp_path / "b", patients=PATIENTS[:1], plan=built.options
    )
    assert _OnDevice.plans == (b"plan",)
    assert manifest.verified_on_device
    assert manifest.inference_precision == "f32"
    assert manifest.plan is not None
    assert (manifest.plan["gpu"], manifest.plan["layers"]) == ("Card", {"total": 9, "int8": 0})
    assert bundle.read(tmp_path / "b") == (manifest, b"plan")


LENIENT = parity.Tolerance(1.0, 0.0, 0.0, 0.0, 1.0, 1.0, lost_px=1 << 16)


def test_an_int8_plan_is_built_of_the_signed_spelling_with_the_rest_in_fp16(
    asked: list[str], tiny_weights: Path, lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="plans are built by the extra tensorrt-rtx")
    import onnx

    from edgeseg.export.plan import PlanOptions

    monkeypatch.setitem(parity.TOLERANCES, "int8", LENIENT)
    options = PlanOptions("tensorrt-rtx", "int8", capabilities=("8.9",))
    said: list[str] = []
    written = build.build_engine(
        tiny_weights, "int8", lgg_folder, tmp_path / "b", None, PATIENTS[:1], said.append, plan=options
    )
    assert asked == ["calibration"]
    manifest, plan = bundle.read(tmp_path / "b")
    assert manifest == written
    assert set(manifest.files) == {"model.plan", "parity.json", "parity.png"}
    assert manifest.plan is not None
    assert manifest.plan["sha256"] == manifest.files["model.plan"]
    assert manifest.calibration is not None
    assert (manifest.precision, manifest.calibration["spelling"]) == ("int8", "signed")
    content = bundle.read(tmp_path / "b", backend="onnxruntime")[1]
    assert _points(content) == {("int8", 0)}
    network = onnx.load_from_string(content).graph
    kinds = [node.op_type for node in network.node]
    assert manifest.plan["qdq_pairs"] == kinds.count("QuantizeLinear") > 20
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in network.initializer}
    assert len(plan) < 20_000_000
    if not manifest.verified_on_device:
        assert manifest.plan["layers"] is None or manifest.plan["gpu"] is None
        assert any("ONNX Runtime judges the network file" in line for line in said)
        with pytest.raises(ParityError, match="run edgeseg parity"), segment.open_engine(str(tmp_path / "b")):
            pass


def test_an_int8_plan_without_int8_layers_is_no_bundle(
    asked: list[str], tiny_weights: Path, lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="plans are built by the extra tensorrt-rtx")
    from edgeseg.export import plan

    monkeypatch.setattr(plan, "_inspect", lambda *_: plan.Layers(31, 0))
    options = plan.PlanOptions("tensorrt-rtx", "int8", capabilities=("8.9",))
    with pytest.raises(EngineError, match="none of the plan's 31 layers is INT8"):
        build.build_engine(tiny_weights, "int8", lgg_folder, tmp_path / "b", None, PATIENTS[:1], plan=options)
    assert asked == ["calibration"]
    assert not (tmp_path / "b").exists()


def test_the_verdict_of_an_int8_plan_is_its_own_where_it_runs(
    asked: list[str], tiny_weights: Path, lgg_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseg.export import plan

    def build_plan(content: bytes, options: plan.PlanOptions) -> plan.Plan:
        monkeypatch.setattr(_OnDevice, "network", content)
        return plan.Plan(b"plan", "10.7.0", 40, plan.Layers(60, 33), options)

    monkeypatch.setattr(_OnDevice, "plans", ())
    monkeypatch.setitem(backends.BACKENDS, "tensorrt", (f"{_OnDevice.__module__}:_OnDevice", ""))
    monkeypatch.setattr(nvidia, "load", lambda _: None)
    monkeypatch.setattr(plan, "build_plan", build_plan)
    monkeypatch.setattr(build, "_gpu", lambda: {"gpu": "Card", "gpu_capability": "8.7"})
    monkeypatch.setitem(parity.TOLERANCES, "int8", LENIENT)
    options = plan.PlanOptions("tensorrt", "int8")
    manifest = build.build_engine(tiny_weights, "int8", lgg_folder, tmp_path / "b", None, PATIENTS[:1], plan=options)
    assert (asked, _OnDevice.plans) == (["calibration"], (b"plan",))
    assert manifest.verified_on_device
    assert manifest.plan is not None
    assert manifest.plan["layers"] == {"total": 60, "int8": 33}
