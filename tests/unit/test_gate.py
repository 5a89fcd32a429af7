"""The gate's own steps: studies on their own grid, with and without drawn masks, and the picture."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg import build, gate, parity
from edgeseg.errors import BackendMissing, InputError, OutputError, StudyError

PATIENTS = ("TCGA_XX_0000_20000101", "TCGA_XX_0001_20000101")


@pytest.fixture
def wide(lgg_folder: Path, tmp_path: Path) -> Path:
    """Two patients of the synthetic set, enlarged to slices of 400 x 320 pixels."""
    for source in (lgg_folder / "kaggle_3m" / name for name in PATIENTS):
        (tmp_path / "wide" / source.name).mkdir(parents=True)
        for path in source.iterdir():
            nearest = "_mask" in path.name
            with Image.open(path) as image:
                method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
                image.resize((400, 320), method).save(tmp_path / "wide" / source.name / path.name)
    return tmp_path / "wide"


def test_a_study_of_another_size_is_compared_on_its_own_grid(
    tiny_bundle: Path, tiny_weights: Path, wide: Path, tmp_path: Path
) -> None:
    report = build.check_parity(tiny_bundle, tiny_weights, wide, picture=tmp_path / "worst.png")
    assert report.passed, report.failures
    assert report.slices == 10
    assert report.at_source is not None
    assert report.at_source.slices == 10
    assert report.at_source.mean > 0.9999
    assert report.against_drawn is not None
    assert (report.against_drawn.patients, report.against_drawn.slices_without) == (2, 4)
    with Image.open(tmp_path / "worst.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 800


def test_an_own_dicom_study_needs_no_drawn_masks(tiny_bundle: Path, tiny_weights: Path, example_dicom: Path) -> None:
    report = build.check_parity(tiny_bundle, tiny_weights, example_dicom)
    assert report.passed, report.failures
    assert (report.against_drawn, report.dice_change_mean) == (None, None)
    assert report.volume is not None
    assert report.volume.unit == "ml"
    assert " slice " in report.agreement.worst_slice
    assert report.by_patient is not None
    assert report.by_patient.patients == 1


def test_a_folder_that_holds_nothing_to_compare(tiny_bundle: Path, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(StudyError, match="holds no MR images"):
        build.check_parity(tiny_bundle, tiny_weights, tmp_path)
    with pytest.raises(StudyError, match="does not exist"):
        build.check_parity(tiny_bundle, tiny_weights, tmp_path / "nowhere")


def test_studies_are_chosen_by_name(
    tiny_bundle: Path, tiny_weights: Path, example_dicom: Path, lgg_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no study nobody among the 1 of --data"):
        build.check_parity(tiny_bundle, tiny_weights, example_dicom, patients=("nobody",))
    for name in PATIENTS:
        (tmp_path / name).mkdir()
        for path in (lgg_folder / "kaggle_3m" / name).glob("*[0-9].tif"):
            shutil.copy(path, tmp_path / name)
    report = build.check_parity(tiny_bundle, tiny_weights, tmp_path, patients=PATIENTS[1:])
    assert (report.slices, report.by_patient and report.by_patient.worst_patient) == (5, PATIENTS[1])


def test_a_build_leaves_its_picture_beside_the_verdict(tiny_bundle: Path) -> None:
    names = {path.name for path in tiny_bundle.iterdir()}
    assert names == {"manifest.json", "model.onnx", "parity.json", "parity.png"}


def test_a_picture_of_nothing_takes_an_earlier_one_away(tmp_path: Path) -> None:
    path = tmp_path / gate.PICTURE
    path.write_bytes(b"earlier")
    report = None
    gate.save_picture(gate.Verdict(report, None), path)  # type: ignore[arg-type]
    assert not path.exists()
    with pytest.raises(OutputError, match="cannot write the picture"):
        gate.save_picture(gate.Verdict(report, b"png"), tmp_path)  # type: ignore[arg-type]


def test_the_mask_goes_back_to_the_grid_that_it_came_from() -> None:
    from edgeseg import preprocess

    square = preprocess.grid_mapping((3, 256, 256), None, 256)
    wide = preprocess.grid_mapping((3, 320, 400), None, 256)
    assert preprocess.keeps_grid(square)
    assert not preprocess.keeps_grid(wide)
    logits = np.full((3, 1, 256, 256), -4, np.float32)
    logits[:, :, 100:150, 100:150] = 4
    assert np.array_equal(preprocess.to_grid(logits, square), logits[:, 0])
    assert preprocess.to_grid(logits, wide).shape == (3, 320, 400)


# --- which runtimes judge


@pytest.fixture
def every_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """FP32 engines have to pass on all of their runtimes, as INT8 ones do."""
    monkeypatch.setitem(parity.TOLERANCES, "fp32", replace(parity.TOLERANCES["fp32"], every_runtime=True))


@pytest.mark.usefixtures("every_runtime")
def test_every_runtime_judges_and_the_report_says_which(
    tiny_bundle: Path, tiny_weights: Path, lgg_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (tiny_bundle, tiny_weights, lgg_folder)
    both = build.check_parity(*given, patients=PATIENTS[:1])
    assert [name.split()[0] for name in both.judged_on] == ["OpenVINO", "ONNX"]
    one = build.check_parity(*given, "onnxruntime", PATIENTS[:1])
    assert [name.split()[0] for name in one.judged_on] == ["ONNX"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert [name.split()[0] for name in build.check_parity(*given, patients=PATIENTS[:1]).judged_on] == ["OpenVINO"]
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendMissing, match="the backend openvino is not installed"):
        build.check_parity(*given, patients=PATIENTS[:1])
