"""The doctor: what is well, what is not, and a remedy for each of the latter."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata, util
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeseg import bundle, doctor


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


def test_no_engine_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _engines(tmp_path, monkeypatch)
    assert not _finding("shipped engines").well


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
