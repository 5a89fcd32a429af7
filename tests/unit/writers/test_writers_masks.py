"""Masks as TIFF, and which formats a study can have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from edgeseg.errors import InputError, StudyError
from edgeseg.types import Segmentation, Study, Volume
from edgeseg.writers import ReportFacts, default_formats, write

FACTS = ReportFacts(engine={"name": "test-fp32", "sha256": "00"}, preprocessing={}, threshold=0.5)
Source = Literal["dicom", "tiff", "nifti"]


def _study(source: Source = "tiff", stems: tuple[str, ...] = ("p_1", "p_2", "p_10")) -> tuple[Segmentation, Study]:
    mask = np.zeros((3, 8, 12), dtype=bool)
    mask[1, 2:5, 3:9] = True
    voxels = np.arange(mask.size, dtype=np.float32).reshape(mask.shape)
    areas = tuple(int(area) for area in mask.sum(axis=(1, 2)))
    study = Study("p", "p", source, Volume(voxels, None, stems), None, None, {})
    return Segmentation(mask, mask.astype(np.float32), areas, None, None), study


def test_masks_are_8_bit_0_or_255_and_named_after_their_slices(tmp_path: Path) -> None:
    """The LGG set's own style, for every slice."""
    segmentation, study = _study()
    files = write(segmentation, study, ["masks"], tmp_path, FACTS)
    assert files == ["masks/p_1_mask.tif", "masks/p_2_mask.tif", "masks/p_10_mask.tif"]
    for file, expected in zip(files, segmentation.mask, strict=True):
        with Image.open(tmp_path / file) as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), expected * 255)


def test_two_slices_of_one_name_are_refused(tmp_path: Path) -> None:
    """One mask would overwrite the other."""
    segmentation, study = _study(stems=("a", "b", "a"))
    with pytest.raises(StudyError, match="two slices are named a"):
        write(segmentation, study, ["masks"], tmp_path, FACTS)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("tiff", ("masks", "overlay", "html", "report")),
        ("nifti", ("nifti", "overlay", "html", "report")),
        ("dicom", ("nifti", "dicom-seg", "dicom-sr", "overlay", "html", "report")),
    ],
)
def test_default_formats(source: Source, expected: tuple[str, ...]) -> None:
    """Each kind of study gets what it can have."""
    assert default_formats(_study(source)[1]) == expected


def test_a_format_that_the_study_cannot_have_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """The message says what the study can have."""
    segmentation, study = _study()
    with pytest.raises(
        InputError, match=r"TIFF study cannot have.*dicom-seg: choose among masks, overlay, html, report"
    ):
        write(segmentation, study, ["masks", "dicom-seg"], tmp_path, FACTS)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    """The message lists the formats."""
    segmentation, study = _study()
    with pytest.raises(InputError, match="unknown output format jpeg: choose among masks, nifti"):
        write(segmentation, study, ["jpeg"], tmp_path, FACTS)
