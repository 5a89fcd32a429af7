"""A de-identified copy of a study: another name, the same mask in the same place."""

# mypy: untyped-calls-exclude="SimpleITK"
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import readers, segment

REMOVED = (
    *("StudyDescription", "SeriesDescription", "ProtocolName", "SequenceName", "StudyDate", "SeriesDate"),
    *("AcquisitionDate", "ContentDate", "StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "StudyID"),
    *("AccessionNumber", "PatientBirthDate", "PatientSex", "InstitutionName", "PositionReferenceIndicator"),
)
"""What the basic profile of DICOM PS3.15 takes out, or empties, of an MR image."""


def _deidentified(example: Path, folder: Path) -> None:
    """A copy as de-identification leaves it: no names, dates, descriptions and private elements, and new UIDs."""
    import pydicom
    from pydicom.uid import generate_uid

    def change(dataset: Any, element: Any) -> None:
        if (element.VR == "UI" and element.keyword.endswith("InstanceUID")) or element.keyword == "FrameOfReferenceUID":
            element.value = generate_uid(entropy_srcs=["a site's secret", element.value])
        elif element.VR == "PN":
            element.value = ""
        elif element.keyword in REMOVED:
            del dataset[element.tag]

    folder.mkdir()
    for number, path in enumerate(sorted(example.glob("*/*.dcm"))):
        dataset = pydicom.dcmread(path)
        dataset.remove_private_tags()
        dataset.walk(change)
        dataset.PatientID, dataset.PatientIdentityRemoved = "", "YES"
        if "ContrastBolusAgent" in dataset:
            dataset.ContrastBolusAgent = "AGENT"  # the profile wants a dummy, since it says that there was one
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / f"{number:04d}")


@pytest.fixture(scope="module")
def both(
    example_dicom: Path, default_engine: segment.OpenEngine, tmp_path_factory: pytest.TempPathFactory
) -> tuple[segment.Result, segment.Result]:
    """The results of the example and of its de-identified copy."""
    root = tmp_path_factory.mktemp("deidentified")
    _deidentified(example_dicom, root / "copy")
    results = []
    for study in (example_dicom, root / "copy"):
        (files,) = readers.find_studies(study)
        results.append(segment.segment(files, default_engine, root / "out"))
    return results[0], results[1]


def test_the_copy_has_the_same_mask_in_the_same_place(both: tuple[segment.Result, segment.Result]) -> None:
    import SimpleITK

    whole, copy = both
    assert whole.segmentation.mask.any()
    assert np.array_equal(copy.segmentation.mask, whole.segmentation.mask)
    assert copy.segmentation.volume_ml == whole.segmentation.volume_ml
    images = [SimpleITK.ReadImage(str(result.folder / "mask.nii.gz")) for result in both]
    for name in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
        assert getattr(images[0], name)() == getattr(images[1], name)(), name
    assert (copy.folder / "mask.nii.gz").read_bytes() == (whole.folder / "mask.nii.gz").read_bytes()


def test_its_seg_lies_in_the_same_place_of_its_own_frame_of_reference(
    both: tuple[segment.Result, segment.Result],
) -> None:
    import pydicom

    whole, copy = (pydicom.dcmread(result.folder / "segmentation.dcm") for result in both)
    places = [
        [tuple(frame.PlanePositionSequence[0].ImagePositionPatient) for frame in seg.PerFrameFunctionalGroupsSequence]
        for seg in (whole, copy)
    ]
    assert places[0] == places[1]
    assert copy.pixel_array.tobytes() == whole.pixel_array.tobytes()
    assert copy.FrameOfReferenceUID != whole.FrameOfReferenceUID
    assert copy.FrameOfReferenceUID == both[1].study.headers[0].FrameOfReferenceUID
    assert copy.StudyInstanceUID == both[1].study.uid


def test_nothing_leads_back_to_the_original(both: tuple[segment.Result, segment.Result]) -> None:
    whole, copy = both
    assert copy.study.name != whole.study.name
    header = whole.study.headers[0]
    originals = [header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID, str(header.PatientName)]
    originals += [*whole.study.flair.instance_ids, whole.study.name, "EDGESEG-EXAMPLE"]
    for path in (path for path in copy.folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not [original for original in originals if original.encode() in content], path.name


def test_the_report_says_the_same(both: tuple[segment.Result, segment.Result]) -> None:
    first, second = (json.loads((result.folder / "report.json").read_text()) for result in both)
    for key in ("volume_ml", "marked_slices", "engine", "threshold"):
        assert first[key] == second[key]
    assert [one["filled_with"] for one in second["channels"].values()] == ["own"] * 3
    assert first["study"]["grid"] == second["study"]["grid"]
