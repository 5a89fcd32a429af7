from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import backends, bundle, model_repository
from edgeseg.backends.triton import SHA256
from edgeseg.errors import EngineError, InputError, OutputError, ParityError
from edgeseg.types import Manifest

onnx = pytest.importorskip("onnx", reason="the [export] extra is not installed")
schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="Triton's schema comes with its client")
text_format = pytest.importorskip("google.protobuf.text_format", reason="protobuf is not installed")

Bundle = Callable[..., Path]
PLAN = b"a plan"
FACTS = {
    "file": "model.plan",
    "sha256": "",
    "runtime": "tensorrt",
    "version": "10.9.0",
    "max_batch": 6,
    "dla_core": None,
    "capabilities": [],
    "version_compatible": False,
    "hardware_compatible": False,
}


def _parsed(folder: Path) -> Any:
    """The configuration, by Triton's own schema: an unknown field or a value of another type is an error."""
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig())


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def written(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """A copy of the small network's bundle whose manifest says something else; with a plan when it names one."""

    def write(**changes: Any) -> Path:
        manifest, content = bundle.read(tiny_bundle)
        others = {}
        if plan := changes.get("plan"):
            others["model.plan"] = PLAN
            changes["plan"] = {**plan, "sha256": hashlib.sha256(PLAN).hexdigest()}
        folder = tmp_path / "bundle"
        bundle.write(folder, replace(manifest, files={}, **changes), content, others)
        return folder

    return write


def test_the_configuration_is_of_tritons_schema_and_of_the_network_file(tiny_bundle: Path, tmp_path: Path) -> None:
    found = model_repository.export(tiny_bundle, tmp_path / "models")
    assert found.folder == tmp_path / "models" / "tiny-fp32"
    assert _files(tmp_path / "models") == ["tiny-fp32/1/model.onnx", "tiny-fp32/config.pbtxt"]
    config = _parsed(found.folder)
    assert (config.name, config.backend, config.max_batch_size) == ("tiny-fp32", "onnxruntime", 8)
    assert config.HasField("dynamic_batching")
    assert [group.kind for group in config.instance_group] == [schema.ModelInstanceGroup.KIND_AUTO]
    graph = onnx.load(found.folder / "1" / "model.onnx").graph
    _compare(config.input, graph.input, {onnx.TensorProto.UINT8: schema.TYPE_UINT8})
    _compare(config.output, graph.output, {onnx.TensorProto.FLOAT: schema.TYPE_FP32})


def _compare(configured: Any, in_file: Any, kinds: dict[int, int]) -> None:
    """Names, types, and shapes behind the batch, which is free in the file."""
    (one,), (other,) = configured, in_file
    kind = other.type.tensor_type
    assert (one.name, one.data_type) == (other.name, kinds[kind.elem_type])
    batch, *dims = kind.shape.dim
    assert batch.dim_param
    assert list(one.dims) == [dim.dim_value for dim in dims]


def test_the_network_file_is_the_bundles_and_the_manifest_goes_along(tiny_bundle: Path, tmp_path: Path) -> None:
    found = model_repository.export(tiny_bundle, tmp_path)
    manifest, content = bundle.read(tiny_bundle)
    assert (found.folder / "1" / "model.onnx").read_bytes() == content
    told = {key: value.string_value for key, value in _parsed(found.folder).parameters.items()}
    assert told == {
        "edgeseg.name": manifest.name,
        SHA256: manifest.sha256,
        "edgeseg.weights_sha256": manifest.weights_sha256,
        "edgeseg.precision": "fp32",
        "edgeseg.threshold": str(manifest.threshold),
        "edgeseg.preprocessing_version": "1",
        "edgeseg.licence": manifest.licence,
    }


def test_cuda_is_kept_from_tf32(tiny_bundle: Path, tmp_path: Path) -> None:
    config = _parsed(model_repository.export(tiny_bundle, tmp_path).folder)
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
    assert not config.optimization.HasField("graph")


def test_openvino_gets_its_own_files_with_the_same_logits(tiny_bundle: Path, tmp_path: Path) -> None:
    import openvino

    found = model_repository.export(tiny_bundle, tmp_path, "openvino", allow_unverified=True)
    assert _files(found.folder) == ["1/model.bin", "1/model.xml", "config.pbtxt"]
    config = _parsed(found.folder)
    assert (config.backend, config.max_batch_size, config.HasField("dynamic_batching")) == ("openvino", 0, False)
    assert config.parameters["INFERENCE_PRECISION_HINT"].string_value == "f32"
    network = openvino.Core().read_model(found.folder / "1" / "model.xml")
    for configured, port in ((config.input, network.inputs), (config.output, network.outputs)):
        (one,), (other,) = configured, port
        assert one.name in other.names
        assert list(one.dims) == [-1, *(part.get_length() for part in list(other.partial_shape)[1:])]
    compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    slices = np.random.default_rng(6).integers(0, 256, (2, 3, 256, 256)).astype(np.uint8)
    manifest, content = bundle.read(tiny_bundle)
    with backends.open_engine(manifest, content, "openvino") as engine:
        assert np.array_equal(compiled([slices])[0], engine.predict_logits(slices))


def test_openvino_takes_its_own_precision_there_which_the_gate_refuses(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"BF16 .*--platform onnx"):
        model_repository.export(tiny_bundle, tmp_path / "models", "openvino")
    assert not (tmp_path / "models").exists()


def test_a_plan_goes_to_tensorrt(written: Bundle, tmp_path: Path) -> None:
    folder = written(runtimes=("tensorrt", "onnxruntime"), plan=FACTS, inference_precision="f16")
    found = model_repository.export(folder, tmp_path / "models")
    assert (found.platform, _files(found.folder)) == ("tensorrt", ["1/model.plan", "config.pbtxt"])
    assert (found.folder / "1" / "model.plan").read_bytes() == PLAN
    config = _parsed(found.folder)
    assert (config.backend, config.max_batch_size) == ("tensorrt", 6)
    assert [group.kind for group in config.instance_group] == [schema.ModelInstanceGroup.KIND_GPU]
    assert config.parameters[SHA256].string_value == found.manifest.sha256


def test_the_signed_spelling_runs_unoptimised(written: Bundle, tmp_path: Path) -> None:
    folder = written(runtimes=("tensorrt", "onnxruntime"), plan=FACTS, calibration={"spelling": "signed"})
    config = _parsed(model_repository.export(folder, tmp_path / "models", "onnx").folder)
    assert config.optimization.graph.level == 2
    with pytest.raises(InputError, match="not for Triton's openvino: export it with --platform tensorrt or onnx"):
        model_repository.export(folder, tmp_path / "models", "openvino")


@pytest.mark.parametrize(
    ("changes", "platform", "said"),
    [
        ({}, "tensorrt", "tiny-fp32 is for openvino or onnxruntime, not for Triton's tensorrt"),
        ({}, "caffe", "--platform takes tensorrt, onnx, openvino, not caffe"),
        ({"runtimes": ("tensorrt-rtx",), "plan": {**FACTS, "runtime": "tensorrt-rtx"}}, None, "not for Triton"),
        ({"runtimes": ("tensorrt",), "plan": {**FACTS, "dla_core": 0}}, None, "DLA"),
        ({"name": "../elsewhere"}, None, "cannot be the name of a folder"),
    ],
)
def test_what_triton_cannot_serve_is_refused(
    changes: dict[str, Any], platform: str | None, said: str, written: Bundle, tmp_path: Path
) -> None:
    folder = written(**changes)
    with pytest.raises(InputError, match=said):
        model_repository.export(folder, tmp_path / "models", platform)
    assert not (tmp_path / "models").exists()


def test_the_parity_gate_holds(written: Bundle, tmp_path: Path) -> None:
    models = tmp_path / "models"
    folder = written(parity=None)
    with pytest.raises(ParityError, match="never compared"):
        model_repository.export(folder, models)
    assert not models.exists()
    assert model_repository.export(folder, models, allow_unverified=True).folder.is_dir()


def test_damage_is_seen_before_anything_is_written(written: Bundle, tmp_path: Path) -> None:
    folder = written()
    content = bytearray((folder / "model.onnx").read_bytes())
    content[1000] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(EngineError, match="damaged"):
        model_repository.export(folder, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_an_earlier_model_is_left_alone(tiny_bundle: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "tiny-fp32" / "config.pbtxt"
    earlier.parent.mkdir()
    earlier.write_text("mine")
    with pytest.raises(OutputError, match="exists: delete it"):
        model_repository.export(tiny_bundle, tmp_path)
    assert _files(tmp_path) == ["tiny-fp32/config.pbtxt"]
    assert earlier.read_text() == "mine"


def test_nothing_is_left_of_what_cannot_be_written_whole(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, content: Any) -> int:
        if path.name == "config.pbtxt":
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        model_repository.export(tiny_bundle, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_of_another_user_may_read_it(tiny_bundle: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    assert model_repository.export(tiny_bundle, tmp_path).folder.stat().st_mode == plain.stat().st_mode


def test_text_is_quoted_as_protobuf_has_it(shipped: tuple[Manifest, bytes]) -> None:
    licence = 'mine "and" yours \\ é\nall'
    text = model_repository.configuration(replace(shipped[0], licence=licence), "onnx")
    assert text_format.Parse(text, schema.ModelConfig()).parameters["edgeseg.licence"].string_value == licence


def test_the_shipped_engines_can_be_exported(tmp_path: Path) -> None:
    for folder in bundle.shipped():
        config = _parsed(model_repository.export(folder, tmp_path).folder)
        assert json.loads((folder / "manifest.json").read_text())["sha256"] == config.parameters[SHA256].string_value
