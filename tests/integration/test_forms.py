"""The same patient in every form of file: the same masks."""

from __future__ import annotations

from pathlib import Path

import forms
import numpy as np
import pytest

import examples
from edgeseg import metrics, segment
from edgeseg.types import BoolArray

SAME = 0.98
LOSSY = {"DICOM, JPEG extended": 0.98, "DICOM, JPEG-LS, near-lossless": 0.98, "DICOM, JPEG 2000, lossy": 0.98}
LOSSY["DICOM, JPEG baseline"] = 0.9
"""What the masks of files that lost something agree by."""


@pytest.fixture(scope="module")
def tiff_mask(
    example_tiff: Path, default_engine: segment.OpenEngine, tmp_path_factory: pytest.TempPathFactory
) -> BoolArray:
    return examples.mask(example_tiff, default_engine, tmp_path_factory.mktemp("tiff"))


@pytest.mark.parametrize("form", examples.made())
def test_every_form_has_the_mask_of_the_tiff_slices(
    form: str, tmp_path: Path, default_engine: segment.OpenEngine, tiff_mask: BoolArray
) -> None:
    mask = examples.mask(examples.made()[form](tmp_path / "in"), default_engine, tmp_path / "out")
    assert metrics.iou(mask, tiff_mask) >= LOSSY.get(form, SAME)
    assert metrics.iou(mask[:, :, ::-1], tiff_mask) < 0.5  # so a flip would be seen
    if form.removeprefix("DICOM, ") in {**forms.NATIVE, **forms.LOSSLESS}:
        np.testing.assert_array_equal(mask, tiff_mask)
