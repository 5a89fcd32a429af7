"""The example patient, as TIFF and as DICOM: found, the same in both, with and without T1, and the same twice."""

# mypy: untyped-calls-exclude="SimpleITK"
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg import metrics, readers, segment
from edgeseg.readers import lgg
from edgeseg.types import BoolArray


@pytest.fixture(scope="module")
def tiff_result(
    example_tiff: Path, default_engine: segment.OpenEngine, tmp_path_factory: pytest.TempPathFactory
) -> segment.Result:
    return _segment(example_tiff, default_engine, tmp_path_factory.mktemp("tiff"))


@pytest.fixture(scope="module")
def dicom_result(
    example_dicom: Path, default_engine: segment.OpenEngine, tmp_path_factory: pytest.TempPathFactory
) -> segment.Result:
    return _segment(example_dicom, default_engine, tmp_path_factory.mktemp("dicom"))


@pytest.fixture(scope="module")
def drawn(example_tiff: Path) -> BoolArray:
    """The drawn masks, (slice, row, column)."""
    (patient,) = lgg.index(example_tiff.parent)
    return lgg.read_masks(patient)


def _segment(study: Path, engine: segment.OpenEngine, output: Path) -> segment.Result:
    (files,) = readers.find_studies(study)
    return segment.segment(files, engine, output)


def _tiff_masks(result: segment.Result) -> BoolArray:
    files = sorted((result.folder / "masks").iterdir(), key=lambda path: int(path.stem.split("_")[-2]))
    return np.stack([np.asarray(Image.open(path)) == 255 for path in files])


def _nifti_mask(result: segment.Result) -> BoolArray:
    """The mask as SimpleITK reads it, slices from the feet to the head."""
    import SimpleITK

    image = SimpleITK.ReadImage(str(result.folder / "mask.nii.gz"))
    assert image.GetDirection()[8] == pytest.approx(1)
    return np.asarray(SimpleITK.GetArrayFromImage(image) == 1)


def test_the_abnormality_is_found(tiff_result: segment.Result, drawn: BoolArray) -> None:
    assert metrics.dice(_tiff_masks(tiff_result), drawn) > 0.8


def test_dicom_and_tiff_have_the_same_masks(
    tiff_result: segment.Result, dicom_result: segment.Result, drawn: BoolArray
) -> None:
    from_dicom = _nifti_mask(dicom_result)
    assert metrics.iou(from_dicom, _tiff_masks(tiff_result)) >= 0.98
    assert metrics.dice(from_dicom, drawn) > 0.8
    assert metrics.dice(from_dicom[:, :, ::-1], drawn) < 0.3  # so a flip would be seen


def test_both_are_read_as_the_same_channels(tiff_result: segment.Result, dicom_result: segment.Result) -> None:
    for result in (tiff_result, dicom_result):
        assert [result.study.channels[name].filled_with for name in ("pre", "flair", "post")] == ["own"] * 3
        assert result.study.warnings == ()
    assert tiff_result.segmentation.volume_ml is None
    report = json.loads((dicom_result.folder / "report.json").read_text())
    pixels = int(_nifti_mask(dicom_result).sum())
    assert report["volume_ml"] == pytest.approx(pixels * 0.9375**2 * 6.0 / 1000, rel=1e-3)
    assert sum(one["area_px"] for one in report["slices"]) == pixels
    assert sum(one["area_mm2"] for one in report["slices"]) == pytest.approx(pixels * 0.9375**2, abs=1)


def test_the_seg_is_the_mask_in_its_place(dicom_result: segment.Result) -> None:
    import pydicom
    import SimpleITK

    seg = pydicom.dcmread(dicom_result.folder / "segmentation.dcm")
    assert seg.Modality == "SEG"
    assert seg.StudyInstanceUID == dicom_result.study.uid
    whole = SimpleITK.ReadImage(str(dicom_result.folder / "mask.nii.gz"))
    expected = _nifti_mask(dicom_result)
    found = np.zeros_like(expected)
    for groups, frame in zip(seg.PerFrameFunctionalGroupsSequence, np.atleast_3d(seg.pixel_array), strict=True):
        place = [float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient]
        column, row, index = whole.TransformPhysicalPointToContinuousIndex(place)
        assert (column, row) == pytest.approx((0, 0), abs=1e-3)
        assert index == pytest.approx(round(index), abs=1e-3)
        found[round(index)] = frame > 0
    assert np.array_equal(found, expected)


def _flair_as_dicom(_: Path, example_dicom: Path, folder: Path) -> None:
    shutil.copytree(example_dicom / "flair", folder / "flair")


def _flair_as_tiff(example_tiff: Path, _: Path, folder: Path) -> None:
    for path in example_tiff.glob("*[0-9].tif"):
        flair = np.asarray(Image.open(path))[..., 1]
        Image.fromarray(np.repeat(flair[..., None], 3, axis=2)).save(folder / path.name)


def _flair_as_nifti(_: Path, example_dicom: Path, folder: Path) -> None:
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(example_dicom / "flair")))
    SimpleITK.WriteImage(reader.Execute(), str(folder / "head_flair.nii.gz"))


@pytest.mark.parametrize("make", [_flair_as_dicom, _flair_as_tiff, _flair_as_nifti])
def test_flair_alone_works_and_says_so(
    make: object,
    example_tiff: Path,
    example_dicom: Path,
    tmp_path: Path,
    default_engine: segment.OpenEngine,
    drawn: BoolArray,
) -> None:
    (tmp_path / "in").mkdir()
    assert callable(make)
    make(example_tiff, example_dicom, tmp_path / "in")
    result = _segment(tmp_path / "in", default_engine, tmp_path / "out")
    channels = json.loads((result.folder / "report.json").read_text())["channels"]
    assert [channels[name]["filled_with"] for name in ("pre", "flair", "post")] == ["flair", "own", "flair"]
    assert "T1" in channels["pre"]["reason"]
    found = _tiff_masks(result) if result.study.source == "tiff" else _nifti_mask(result)
    assert metrics.dice(found, drawn) > 0.7


def test_the_same_study_twice_gives_the_same_bytes(
    dicom_result: segment.Result,
    tiff_result: segment.Result,
    example_tiff: Path,
    example_dicom: Path,
    default_engine: segment.OpenEngine,
    tmp_path: Path,
) -> None:
    for study, first in ((example_tiff, tiff_result), (example_dicom, dicom_result)):
        second = _segment(study, default_engine, tmp_path)
        assert second.files == first.files
        for name in (name for name in first.files if name != "report.json"):  # the report holds times
            assert (second.folder / name).read_bytes() == (first.folder / name).read_bytes(), name


def test_names_and_order_of_files_change_nothing(
    example_tiff: Path, tmp_path: Path, default_engine: segment.OpenEngine, tiff_result: segment.Result
) -> None:
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for path in example_tiff.glob("*[0-9].tif"):
        shutil.copy(path, renamed / f"scan_{int(path.stem.split('_')[-1]) + 95}.TIFF")  # 101 to 115
    result = _segment(renamed, default_engine, tmp_path / "out")
    assert np.array_equal(_tiff_masks(result), _tiff_masks(tiff_result))
