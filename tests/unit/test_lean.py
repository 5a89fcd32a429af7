"""What a plain `edgeseg infer` must not import."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from edgeseg import lean

FORBIDDEN = (
    *lean.UNUSED,
    *("_gdcm", "absl", "numpy.testing", "openvino.tools", "openvino_telemetry", "urllib3"),
    *("albumentations", "cv2", "matplotlib", "onnx", "onnxruntime", "pandas", "safetensors", "scipy"),
    *("segmentation_models_pytorch", "timm", "torch", "torchvision"),
    *("cryptography", "highdicom", "nibabel", "prometheus_client", "pynetdicom", "ray", "tensorrt", "tensorrt_rtx"),
    *("PIL.TiffImagePlugin", "rich.progress", "rich.traceback", "xml.dom"),
    *("edgeseg.benchmark", "edgeseg.build", "edgeseg.doctor", "edgeseg.evaluate", "edgeseg.export", "edgeseg.figures"),
    *("edgeseg.model", "edgeseg.parity", "edgeseg.scanner", "edgeseg.startup", "edgeseg.tally", "edgeseg.training"),
    *("edgeseg.backends.onnxruntime", "edgeseg.backends.pytorch", "edgeseg.backends.tensorrt"),
    *("edgeseg.readers.lgg", "edgeseg.readers.recorded", "edgeseg.readers.slices", "edgeseg.readers.table"),
    *("edgeseg.writers.comparison", "edgeseg.writers.masks", "edgeseg.writers.secondary_capture"),
)
"""Packages and modules, each with all that is in it."""

_RUN = """
import json, sys
from edgeseg import cli
try:
    cli.main()
finally:
    print(json.dumps(sorted(name for name, module in sys.modules.items() if module is not None)), file=sys.stderr)
"""


def _imported(*arguments: str | Path) -> list[str]:
    command = [sys.executable, "-c", _RUN, "infer", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stderr.splitlines()[-1])
    return names


def _within(names: list[str], roots: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(name == root or name.startswith(f"{root}.") for root in roots)]


def test_infer_imports_nothing_that_it_does_not_use(example_dicom: Path, tmp_path: Path) -> None:
    names = _imported(example_dicom, "-o", tmp_path)
    assert _within(names, FORBIDDEN) == []
    assert {"openvino", "pydicom", "edgeseg.writers.dicom_seg"} <= set(names), "the list is that of a whole run"


def test_results_that_are_not_asked_for_are_not_imported(example_dicom: Path, tmp_path: Path) -> None:
    names = _imported(example_dicom, "-o", tmp_path, "--format", "report")
    assert _within(names, ("html", "edgeseg.writers.dicom_seg", "edgeseg.writers.html", "edgeseg.writers.nifti")) == []


def test_what_is_left_out_can_be_imported_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    with lean.imports(), pytest.raises(ModuleNotFoundError):
        import_module("tqdm")
    assert import_module("tqdm").tqdm


def test_what_was_imported_before_stays() -> None:
    tqdm = import_module("tqdm")
    with lean.imports():
        assert import_module("tqdm") is tqdm
    assert sys.modules["tqdm"] is tqdm
