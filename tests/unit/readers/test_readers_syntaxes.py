"""Every transfer syntax: the same voxels as the uncompressed file, or a warning where the compression loses some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forms
import numpy as np
import pytest
import seeds

from edgeseg.errors import StudyError
from edgeseg.readers import find_studies, read_study
from edgeseg.types import Study

EXTENDED_LOSS = 40
"""Largest difference of JPEG extended at DCMTK's own quality, of values up to 4095."""


def _read(path: Path) -> Study:
    (files,) = find_studies(path)
    return read_study(files)


def _converted(folder: Path, form: str, **elements: Any) -> tuple[Study, Study]:
    """The study as it was and in another form."""
    missing = forms.missing_encoder(form)
    if missing is not None:
        pytest.skip(f"{missing} is not installed, which writes {form}")
    plain = seeds.small_series(folder / "plain", **elements)
    return _read(plain), _read(forms.convert_folder(plain, folder / "converted", form))


@pytest.mark.parametrize("form", [*forms.NATIVE, *forms.LOSSLESS])
def test_lossless_files_hold_the_same_voxels(form: str, tmp_path: Path) -> None:
    plain, converted = _converted(tmp_path, form)
    np.testing.assert_array_equal(converted.flair.voxels, plain.flair.voxels)
    assert converted.flair.instance_ids == plain.flair.instance_ids
    assert all("loss" in warning for warning in converted.warnings)
    assert bool(converted.warnings) == (form == "HTJ2K, perhaps lossy")  # a header has to promise that nothing is lost


@pytest.mark.parametrize(
    "form", [*forms.NATIVE, "RLE", "JPEG lossless, first-order prediction", "JPEG-LS", "JPEG 2000"]
)
def test_signed_voxels_stay_signed(form: str, tmp_path: Path) -> None:
    def signed(dataset: Any, _: int) -> None:
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
        dataset.PixelData = (dataset.pixel_array.astype("<i2") - 200).tobytes()

    plain, converted = _converted(tmp_path, form, change=signed)
    assert plain.flair.voxels.min() < 0
    np.testing.assert_array_equal(converted.flair.voxels, plain.flair.voxels)


@pytest.mark.parametrize("form", [f for f in forms.LOSSY if f != "JPEG baseline"])
def test_lossy_files_are_read_with_a_warning(form: str, tmp_path: Path) -> None:
    plain, converted = _converted(tmp_path, form)
    difference = np.abs(converted.flair.voxels - plain.flair.voxels).max()
    assert 0 < difference <= EXTENDED_LOSS
    (warning,) = converted.warnings
    assert "was compressed with loss" in warning


def test_jpeg_baseline_keeps_eight_bits_and_is_read_with_a_warning(tmp_path: Path) -> None:
    plain, converted = _converted(tmp_path, "JPEG baseline")
    assert np.corrcoef(plain.flair.voxels.ravel(), converted.flair.voxels.ravel())[0, 1] > 0.99
    assert "compressed with loss (JPEG Baseline" in converted.warnings[0]


def test_a_file_that_was_compressed_with_loss_before_says_so(tmp_path: Path) -> None:
    study = _read(seeds.small_series(tmp_path, LossyImageCompression="01"))
    assert "compressed with loss (an earlier step)" in study.warnings[0]


def test_a_decoder_that_is_not_installed_is_named_by_its_syntax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pydicom.pixels.decoders import JPEG2000LosslessDecoder, gdcm

    plain = seeds.small_series(tmp_path / "plain")
    forms.convert_folder(plain, tmp_path / "j2k", "JPEG 2000")
    monkeypatch.setattr(JPEG2000LosslessDecoder, "_available", {})
    monkeypatch.setattr(gdcm, "DECODER_DEPENDENCIES", {})
    with pytest.raises(StudyError, match=r"compressed as JPEG 2000 .* which edgeseg cannot decode here: export it as"):
        _read(tmp_path / "j2k")


def test_files_of_one_series_may_be_compressed_in_several_ways(tmp_path: Path) -> None:
    plain = seeds.small_series(tmp_path / "plain")
    for path, form in zip(sorted(plain.iterdir()), ["RLE", "JPEG-LS", "JPEG 2000", "deflated"] * 2, strict=False):
        forms.convert(path, tmp_path / "mixed" / path.name, form)
    np.testing.assert_array_equal(_read(tmp_path / "mixed").flair.voxels, _read(plain).flair.voxels)
