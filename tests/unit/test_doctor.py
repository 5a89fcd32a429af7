"""The doctor: what is well, what is not, and a remedy for each of the latter."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from importlib import metadata, util
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeseg import backends, bundle, doctor
from edgeseg.errors import BackendMissing, EdgesegError, EngineError, InputError, ParityError


def _finding(what: str) -> doctor.Finding:
    (found,) = [finding for finding in doctor.examine() if finding.what == what]
    return found


def test_the_edge_path_is_well_here() -> None:
    findings = {finding.what: finding for finding in doctor.examine()}
    assert findings["OpenVINO"].well
    assert "CPU" in findings["OpenVINO"].found
    assert findings[bundle.DEFAULT_ENGINE].well
    assert all(findings[name].well for name in ("JPEG, JPEG lossless (gdcm)", "JPEG-LS (CharLS)"))


def test_what_is_well_needs_no_remedy_and_what_is_not_has_one() -> None:
    for finding in doctor.examine():
        assert finding.found
        assert bool(finding.remedy) != finding.well


@pytest.mark.parametrize(
    ("module", "what", "remedy"),
    [
        ("gdcm", "JPEG, JPEG lossless (gdcm)", "pip install python-gdcm"),
        ("torch", "PyTorch, to train", "pip install 'edgeseg[train]'"),
        ("onnxruntime", "ONNX Runtime", "pip install 'edgeseg[export]'"),
    ],
)
def test_what_is_missing(module: str, what: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == module else find(name))
    (found,) = [finding for finding in doctor.examine() if what in finding.what]
    assert not found.well
    assert "not installed" in found.found
    assert found.remedy == remedy


def test_a_module_without_a_distribution_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def unknown(name: str) -> str:
        if name == "python-gdcm":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", unknown)
    found = _finding("JPEG, JPEG lossless (gdcm)")
    assert found.well
    assert "unknown" in found.found


def _engines(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        shutil.copytree(bundle.find(bundle.DEFAULT_ENGINE), folder / name)
    monkeypatch.setattr(bundle, "shipped", lambda: sorted(path for path in folder.iterdir()))


def test_a_damaged_engine_is_named_and_the_others_are_still_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _engines(tmp_path, monkeypatch, "bad", "good")
    network = tmp_path / "bad" / "model.onnx"
    content: Any = bytearray(network.read_bytes())
    content[len(content) // 2] ^= 1
    network.write_bytes(content)
    found = _finding("bad")
    assert (found.well, found.found) == (False, "damaged")
    assert "install edgeseg again" in found.remedy
    assert _finding("good").well
    with pytest.raises(EngineError, match="bad is not well"):
        doctor.check(doctor.examine())


def test_no_engine_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _engines(tmp_path, monkeypatch)
    assert not _finding("shipped engines").well
    with pytest.raises(EngineError, match="none found"):
        doctor.check(doctor.examine())


def test_an_engine_that_has_not_passed_parity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, content = bundle.read(bundle.find(bundle.DEFAULT_ENGINE))
    bundle.write(tmp_path / "mine", replace(manifest, parity=None), content)
    monkeypatch.setattr(bundle, "shipped", lambda: [tmp_path / "mine"])
    with pytest.raises(ParityError, match="parity not passed"):
        doctor.check(doctor.examine())


# --- what is needed


def test_extras_are_not_needed_unless_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    missing = ("torch", "onnx", "onnxruntime", "tensorrt")
    monkeypatch.setattr(util, "find_spec", lambda name: None if name in missing else find(name))
    doctor.check(doctor.examine())
    with pytest.raises(BackendMissing, match="ONNX Runtime is not well"):
        doctor.check(doctor.examine(["onnx runtime"]))
    with pytest.raises(InputError, match="does not look at abacus: give one of OpenVINO"):
        doctor.examine(["abacus"])


def test_a_missing_decoder_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "openjpeg" else find(name))
    with pytest.raises(BackendMissing, match="JPEG 2000"):
        doctor.check(doctor.examine())


@pytest.mark.parametrize("error", [EngineError("refuses it"), RuntimeError("no plugin\nsecond line"), OSError()])
def test_an_openvino_that_cannot_run_is_not_well(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(backends, "open_engine", fail)
    found = _finding("OpenVINO")
    assert found.found == (str(error) or "OSError").splitlines()[0]
    with pytest.raises(BackendMissing, match="OpenVINO is not well"):
        doctor.check(doctor.examine())


def test_an_openvino_that_is_half_removed_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", ModuleType("openvino"))
    assert "no attribute 'Core'" in _finding("OpenVINO").found
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not _finding("OpenVINO").well


def _tensorrt(monkeypatch: pytest.MonkeyPatch, version: str | None, *others: str) -> None:
    """A module `tensorrt` that says its version, or has none as where its libraries are missing, and other modules."""
    module = ModuleType("tensorrt")
    if version:
        module.__dict__["__version__"] = version
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    find = util.find_spec
    own = ("tensorrt", "pycuda", "cuda")

    def found(name: str) -> ModuleSpec | None:
        room = name.split(".")[0]
        if room in own:
            return ModuleSpec(name, None) if room in ("tensorrt", *others) else None
        return find(name)

    monkeypatch.setattr(util, "find_spec", found)


@pytest.mark.parametrize("binding", ["pycuda", "cuda"])
def test_tensorrt_and_a_way_to_reach_cuda(binding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _tensorrt(monkeypatch, "10.3.0", binding)
    found = _finding("TensorRT")
    assert (found.well, found.found) == (True, "10.3.0")
    doctor.check(doctor.examine(["TensorRT"]))


@pytest.mark.parametrize(
    ("version", "found", "remedy"),
    [("10.3.0", "without pycuda or cuda-python", "pip install cuda-python"), (None, "__version__", "--runtime nvidia")],
)
def test_a_tensorrt_that_cannot_be_used(
    version: str | None, found: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tensorrt(monkeypatch, version)
    finding = _finding("TensorRT")
    assert not finding.well
    assert found in finding.found
    assert remedy in finding.remedy
    doctor.check(doctor.examine())
    with pytest.raises(EdgesegError, match="TensorRT is not well"):
        doctor.check(doctor.examine(["TensorRT"]))


def test_what_nvidia_gpus_need_is_looked_at() -> None:
    for what in ("TensorRT", "TensorRT for RTX", "CUDA binding, to run plans", "NVIDIA GPU"):
        found = _finding(what)
        assert found.found
        assert bool(found.remedy) != found.well


def test_an_old_tensorrt_is_told_apart_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = "8.6.2"  # type: ignore[attr-defined]
    old.__spec__ = ModuleSpec("tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    found = _finding("TensorRT")
    assert not found.well
    assert "8.6.2 is installed, edgeseg takes 10.3 or newer" in found.found
    assert "JetPack 6.1" in found.remedy
