"""Items as bytes are what pydicom writes, and what it reads."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import readers
from edgeseg.preprocess import SMALLEST_ISLAND
from edgeseg.types import Segmentation
from edgeseg.writers import dicom_seg, dicom_sr, secondary_capture
from edgeseg.writers.dicom_items import encoded, set_items
from edgeseg.writers.dicom_object import item
from edgeseg.writers.report import ReportFacts

FACTS = ReportFacts({"name": "n", "sha256": "0" * 64}, {"smallest_island": SMALLEST_ISLAND}, 0.5)

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "a text": {"CodeMeaning": "Brain"},
    "a text of odd length": {"CodeValue": "odd", "SpatialLocationsPreserved": "YES"},
    "identifiers": {"ReferencedSOPInstanceUID": "1.2.3", "ReferencedSOPClassUID": "1.2.34"},
    "numbers": {"DimensionIndexValues": [1, 70000], "ReferencedSegmentNumber": 1, "ReferencedFrameNumber": 12},
    "places": {"ImagePositionPatient": ["-10.50", "1e2", "0"]},
    "places of odd length": {"ImagePositionPatient": [-10.5, 20.0, 3.25]},
    "tags out of order": {"ReferencedFrameNumber": 1, "CodeMeaning": "b", "CodeValue": "a"},
    "nothing": {},
}


def _written(dataset: Any) -> bytes:
    """Return a dataset as pydicom writes it, explicit little endian."""
    from pydicom.filebase import DicomIO
    from pydicom.filewriter import write_dataset

    content = io.BytesIO()
    file = DicomIO(content)
    file.is_implicit_VR, file.is_little_endian = False, True
    write_dataset(file, dataset)
    return content.getvalue()


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_item_is_as_pydicom_writes_it(name: str) -> None:
    from pydicom import Dataset

    simple = item(**ATTRIBUTES[name])
    given = encoded(**{**ATTRIBUTES[name], **{element.keyword: element.value for element in simple}})
    nested = encoded(SourceImageSequence=[given, given], DerivationCodeSequence=[])
    made = Dataset()
    set_items(made, "DerivationImageSequence", [nested])
    alike = Dataset()
    alike.DerivationImageSequence = [item(SourceImageSequence=[simple, simple], DerivationCodeSequence=[])]
    assert _written(made) == _written(alike)
    assert made == alike


@pytest.mark.parametrize("made", [dicom_seg, dicom_sr, secondary_capture], ids=lambda module: module.__name__)
def test_objects_are_the_same_when_pydicom_writes_every_element(made: Any, example_dicom: Path) -> None:
    study = readers.read_study(readers.find_studies(example_dicom)[0], readers.AUTOMATIC)
    mask = np.zeros(study.flair.voxels.shape, dtype=bool)
    mask[3:5, 40:60, 50:80] = True
    found = Segmentation(mask, mask.astype(np.float32), tuple(mask.sum(axis=(1, 2)).tolist()), 1.0, None)
    dataset = made.to_dataset(mask if made is dicom_seg else found, study, FACTS)
    quick = _written(dataset)
    dataset.walk(lambda *_: None)  # which reads every element
    dataset.set_original_encoding(None, None)
    assert _written(dataset) == quick


def test_an_attribute_that_dicom_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match="ImagePositionOfPatient"):
        encoded(ImagePositionOfPatient=[0, 0, 0])
