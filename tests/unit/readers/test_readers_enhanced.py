"""Enhanced (multi-frame) MR: stacks, echoes, several instances, image types, scaling, compression, and damage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import forms
import numpy as np
import pytest
import seeds

from edgeseg.errors import StudyError
from edgeseg.readers import find_studies, read_study
from edgeseg.types import Study

if TYPE_CHECKING:
    from pydicom import Dataset


def _read(path: Path) -> Study:
    (files,) = find_studies(path)
    return read_study(files)


def _files(folder: Path, **arguments: Any) -> list[Path]:
    return sorted(seeds.small_series(folder, **arguments).iterdir())


def _changed(path: Path, target: Path | None = None, **elements: Any) -> Path:
    import pydicom

    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(target or path)
    return target or path


def test_it_holds_what_the_single_frames_hold(tmp_path: Path) -> None:
    files = _files(tmp_path / "classic", RescaleSlope=2, RescaleIntercept=-5)
    study, expected = _read(forms.enhanced(files[::-1], tmp_path / "enhanced")), _read(tmp_path / "classic")
    np.testing.assert_array_equal(study.flair.voxels, expected.flair.voxels)
    assert study.flair.geometry is not None
    assert expected.flair.geometry is not None
    np.testing.assert_allclose(study.flair.geometry.origin_mm, expected.flair.geometry.origin_mm)
    np.testing.assert_allclose(study.flair.geometry.spacing_mm, expected.flair.geometry.spacing_mm)


def test_highdicoms_legacy_converted_images_are_read(tmp_path: Path) -> None:
    import pydicom
    from highdicom.legacy import LegacyConvertedEnhancedMRImage
    from pydicom.uid import generate_uid

    files = _files(tmp_path / "classic")
    converted = LegacyConvertedEnhancedMRImage(
        [pydicom.dcmread(path) for path in files], generate_uid(), 99, generate_uid(), 1
    )
    converted.save_as(tmp_path / "legacy.dcm")
    study = _read(tmp_path / "legacy.dcm")
    np.testing.assert_array_equal(study.flair.voxels, _read(tmp_path / "classic").flair.voxels)


@pytest.mark.parametrize("form", ["RLE", "JPEG 2000", "JPEG-LS", "JPEG lossless, first-order prediction", "deflated"])
def test_it_may_be_compressed(form: str, tmp_path: Path) -> None:
    if forms.missing_encoder(form):
        pytest.skip(f"{forms.missing_encoder(form)} is not installed, which writes {form}")
    files = _files(tmp_path / "classic")
    plain = forms.enhanced(files, tmp_path / "enhanced" / "a")
    forms.convert(plain, tmp_path / "compressed" / "a", form)
    np.testing.assert_array_equal(_read(tmp_path / "compressed").flair.voxels, _read(plain).flair.voxels)


def test_a_series_in_several_instances(tmp_path: Path) -> None:
    """As concatenations are sent: each instance holds a part of the stack."""
    files = _files(tmp_path / "classic")
    for part in (0, 1):
        path = forms.enhanced(files[3 * part : 3 * part + 3], tmp_path / "parts" / str(part))
        _changed(path, SOPInstanceUID=f"1.2.3.{part}")
    study = _read(tmp_path / "parts")
    np.testing.assert_array_equal(study.flair.voxels, _read(tmp_path / "classic").flair.voxels)
    assert len(study.headers) == 2


def test_of_repeats_in_instances_of_their_own_the_later_is_taken(tmp_path: Path) -> None:
    files = _files(tmp_path / "classic")
    path = forms.enhanced(files, tmp_path / "both" / "first")
    _changed(path, AcquisitionDateTime="20200101101500")
    _changed(path, tmp_path / "both" / "second", SOPInstanceUID="1.2.9", AcquisitionDateTime="20200101102500")
    study = _read(tmp_path / "both")
    assert set(study.flair.instance_ids) == {"1.2.9"}
    assert "holds 2 acquisitions" in study.warnings[0]


def _echo(groups: Dataset, number: int) -> None:
    groups.MREchoSequence = [forms.item(EffectiveEchoTime=120.0 if number < seeds.SLICES else 20.0)]


def _stack(groups: Dataset, number: int) -> None:
    first = number < seeds.SLICES
    groups.FrameContentSequence[0].StackID = "1" if first else "2"
    if not first:
        place = groups.PlanePositionSequence[0]
        x, y, z = (float(v) for v in place.ImagePositionPatient)
        place.ImagePositionPatient = [x, y, z + 3]


def _types(groups: Dataset, number: int) -> None:
    kind = "M" if number < seeds.SLICES else "P"
    groups.MRImageFrameTypeSequence = [forms.item(FrameType=["ORIGINAL", "PRIMARY", kind, "NONE"])]


@pytest.mark.parametrize("change", [_echo, _stack, _types])
def test_echoes_stacks_and_image_types_are_told_apart(change: Any, tmp_path: Path) -> None:
    files = _files(tmp_path / "classic")
    study = _read(forms.enhanced([*files, *files], tmp_path / "enhanced", change))
    np.testing.assert_array_equal(study.flair.voxels, _read(tmp_path / "classic").flair.voxels)


def test_temporal_positions_are_told_apart(tmp_path: Path) -> None:
    def change(groups: Dataset, number: int) -> None:
        groups.FrameContentSequence[0].TemporalPositionIndex = 1 + number // seeds.SLICES

    files = _files(tmp_path / "classic")
    study = _read(forms.enhanced([*files, *files], tmp_path / "enhanced", change))
    assert study.flair.voxels.shape[0] == seeds.SLICES
    assert "holds 2 acquisitions" in study.warnings[0]


def test_philips_scaling_that_differs_from_frame_to_frame_is_undone(tmp_path: Path) -> None:
    """FP = (PV * RS + RI) / (RS * SS): Chenevert et al. 2014, PMC3998685."""

    def change(groups: Dataset, number: int) -> None:
        own = forms.item()
        own.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", 0.5 * (number + 1))
        groups.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [own])
        groups.PixelValueTransformationSequence[0].RescaleSlope = 4.0

    files = _files(tmp_path / "classic")
    study = _read(forms.enhanced(files, tmp_path / "enhanced", change))
    stored = _read(tmp_path / "classic").flair.voxels
    expected = stored / (0.5 * np.arange(1, seeds.SLICES + 1, dtype=np.float32))[:, None, None]
    np.testing.assert_allclose(study.flair.voxels, expected, rtol=1e-6)


def test_a_real_world_value_mapping_serves_where_there_is_no_rescale(tmp_path: Path) -> None:
    def change(groups: Dataset, number: int) -> None:
        del groups.PixelValueTransformationSequence
        groups.RealWorldValueMappingSequence = [
            forms.item(RealWorldValueSlope=0.5 + number, RealWorldValueIntercept=-1.0)
        ]

    files = _files(tmp_path / "classic")
    study = _read(forms.enhanced(files, tmp_path / "enhanced", change))
    slopes = (0.5 + np.arange(seeds.SLICES, dtype=np.float32))[:, None, None]
    np.testing.assert_allclose(study.flair.voxels, _read(tmp_path / "classic").flair.voxels * slopes - 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("elements", "found"),
    [
        ({"NumberOfFrames": 999_999_999}, "says that it holds 1024000 million voxels, and edgeseg takes 134 million"),
        ({"NumberOfFrames": 4}, "localizer"),
        ({"Rows": 64}, "header that can be read and pixels that cannot"),
    ],
)
def test_a_header_that_says_other_than_there_is(elements: dict[str, Any], found: str, tmp_path: Path) -> None:
    path = forms.enhanced(_files(tmp_path / "classic"), tmp_path / "enhanced")
    with pytest.raises(StudyError, match=found):
        _read(_changed(path, **elements))
