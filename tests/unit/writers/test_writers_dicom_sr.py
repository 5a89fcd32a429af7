"""Structured Report: what it says, and that foreign readers understand it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import readers
from edgeseg.types import BoolArray, Segmentation, Study
from edgeseg.writers import ReportFacts, write

ENGINE = {"name": "test-fp32", "sha256": "ab" * 32, "parity": "passed"}
FACTS = ReportFacts(engine=ENGINE, preprocessing={}, threshold=0.25, algorithm_version="0.1.0")


@pytest.fixture(scope="module")
def study(example_dicom: Path) -> Study:
    """The example patient: 15 slices of 256 x 256."""
    (files,) = readers.find_studies(example_dicom)
    return readers.read_study(files)


def _segmentation(study: Study, mask: BoolArray) -> Segmentation:
    areas = tuple(int(area) for area in mask.sum(axis=(1, 2)))
    assert study.flair.geometry is not None
    return Segmentation(mask, mask.astype(np.float32), areas, sum(areas) * study.flair.geometry.voxel_ml, None)


def _write(study: Study, folder: Path, marked: bool = True, facts: ReportFacts = FACTS) -> Path:
    mask = np.zeros(study.flair.voxels.shape, dtype=bool)
    mask[4, 100:110, 60:100] = mask[5, 100:105, 60:90] = marked
    assert write(_segmentation(study, mask), study, ["dicom-sr"], folder, facts) == ["segmentation.dcm", "report.dcm"]
    return folder / "report.dcm"


def _items(dataset: Any) -> dict[str, list[Any]]:
    """Return all content items below, by the meaning of their name."""
    found: dict[str, list[Any]] = {}
    for item in dataset.get("ContentSequence", []):
        found.setdefault(item.ConceptNameCodeSequence[0].CodeMeaning, []).append(item)
        for name, items in _items(item).items():
            found.setdefault(name, []).extend(items)
    return found


def test_measurements_through_highdicom(study: Study, tmp_path: Path) -> None:
    """Values, units, methods, finding, and the segment and images that they are of."""
    import highdicom
    import pydicom

    report = highdicom.sr.srread(_write(study, tmp_path))
    seg = pydicom.dcmread(tmp_path / "segmentation.dcm")
    assert isinstance(report.content, highdicom.sr.MeasurementReport)
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    volume, diameter = group.get_measurements()
    geometry = study.flair.geometry
    assert geometry is not None
    pixel_mm = geometry.spacing_mm[1]
    assert (volume.name.value, volume.unit.value, volume.method.value) == ("118565006", "mL", "126030")
    assert volume.value == pytest.approx((400 + 150) * geometry.voxel_ml, abs=1e-3)
    assert (diameter.name.value, diameter.unit.value, diameter.derivation.value) == ("103339001", "mm", "56851009")
    assert diameter.value == pytest.approx(np.hypot(40, 9) * pixel_mm, abs=1e-3)
    (image,) = diameter.referenced_images
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == study.flair.instance_ids[4]
    assert group.finding_type.value == seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue
    assert group.tracking_uid == seg.SegmentSequence[0].TrackingUID
    segment = group.referenced_segment[0].ReferencedSOPSequence[0]
    assert segment.ReferencedSOPInstanceUID == seg.SOPInstanceUID
    assert segment.ReferencedSegmentNumber == 1


def test_evidence_is_the_seg_and_every_flair_image(study: Study, tmp_path: Path) -> None:
    """By series, as a PACS wants it, all of the same study."""
    import pydicom

    report = pydicom.dcmread(_write(study, tmp_path))
    seg = pydicom.dcmread(tmp_path / "segmentation.dcm")
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    assert evidence.StudyInstanceUID == report.StudyInstanceUID == study.uid
    flair, result = evidence.ReferencedSeriesSequence
    uids = [item.ReferencedSOPInstanceUID for item in flair.ReferencedSOPSequence]
    assert (flair.SeriesInstanceUID, uids) == (study.headers[0].SeriesInstanceUID, list(study.flair.instance_ids))
    assert result.SeriesInstanceUID == seg.SeriesInstanceUID != report.SeriesInstanceUID
    assert [item.ReferencedSOPInstanceUID for item in result.ReferencedSOPSequence] == [seg.SOPInstanceUID]


def test_it_says_which_engine_and_for_what_and_names_no_person(study: Study, tmp_path: Path) -> None:
    """Algorithm, device as the observer, notice, and states that leave no doubt."""
    import pydicom

    report = pydicom.dcmread(_write(study, tmp_path))
    items = _items(report)
    assert [item.TextValue for item in items["Algorithm Name"]] == ["edgeseg test-fp32"]
    assert [item.TextValue for item in items["Algorithm Version"]] == ["0.1.0"]
    parameters = [f"engine_sha256={'ab' * 32}", "parity=passed", "threshold=0.25"]
    assert [item.TextValue for item in items["Algorithm Parameters"]] == parameters
    assert items["Observer Type"][0].ConceptCodeSequence[0].CodeMeaning == "Device"
    assert items["Comment"][0].TextValue == "Non-commercial research use only. Not a medical device."
    assert "research only" in report.SeriesDescription
    flags = (report.PreliminaryFlag, report.CompletionFlag, report.VerificationFlag)
    assert flags == ("PRELIMINARY", "COMPLETE", "UNVERIFIED")
    assert not [name for name in items if "Person" in name]
    assert not report.get("VerifyingObserverSequence")


def test_nothing_found_is_a_valid_report_of_zeros(
    study: Study, tmp_path: Path, dicom_errors: Callable[[Path], list[str]]
) -> None:
    """0 ml and 0 mm, measured on no slice."""
    import highdicom

    path = _write(study, tmp_path, marked=False)
    assert dicom_errors(path) == []
    (group,) = highdicom.sr.srread(path).content.get_volumetric_roi_measurement_groups()
    assert [measured.value for measured in group.get_measurements()] == [0.0, 0.0]
    assert "Source of Measurement" not in _items(group[0])


@pytest.mark.parametrize("marked", [True, False])
def test_dsrdump_reads_it(marked: bool, study: Study, tmp_path: Path) -> None:
    """DCMTK checks the content tree's rules while it reads."""
    tool = shutil.which("dsrdump")
    if tool is None:
        pytest.skip("dsrdump is missing: apt-get install dcmtk")
    path = _write(study, tmp_path, marked)
    result = subprocess.run([tool, str(path)], capture_output=True, text=True, timeout=60)
    complaints = [
        line for line in result.stderr.splitlines() if "does not support this Specific Character Set" not in line
    ]
    assert (result.returncode, complaints) == (0, [])
    assert result.stdout.startswith("Comprehensive SR Document")
    assert 'NUM:(,,"Long axis")' in result.stdout


def test_dcmqi_reads_it(study: Study, tmp_path: Path) -> None:
    """The tid1500reader of dcmqi finds the same two measurements."""
    beside = Path(sys.executable).parent / "tid1500reader"
    tool = str(beside) if beside.exists() else shutil.which("tid1500reader")
    if tool is None:
        pytest.skip("dcmqi's tid1500reader is missing: pip install dcmqi")
    out = tmp_path / "report.json"
    command = [tool, "--inputDICOM", str(_write(study, tmp_path)), "--outputMetadata", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (group,) = json.loads(out.read_text(encoding="utf-8"))["Measurements"]
    found = [(item["quantity"]["CodeMeaning"], item["units"]["CodeValue"]) for item in group["measurementItems"]]
    assert found == [("Volume", "mL"), ("Long axis", "mm")]
    assert group["ReferencedSegment"] == 1


def test_json_report_says_the_same(study: Study, tmp_path: Path) -> None:
    """Volume and diameter of ``report.json`` are those of the Structured Report."""
    import highdicom

    mask = np.zeros(study.flair.voxels.shape, dtype=bool)
    mask[4, 100:110, 60:100] = True
    write(_segmentation(study, mask), study, ["dicom-sr", "report"], tmp_path, FACTS)
    said = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    (group,) = highdicom.sr.srread(tmp_path / "report.dcm").content.get_volumetric_roi_measurement_groups()
    measured = [float(item.value) for item in group.get_measurements()]
    assert [said["volume_ml"], said["largest_diameter_mm"]] == pytest.approx(measured)


def test_uids_follow_the_engine_and_its_parity(study: Study, tmp_path: Path) -> None:
    """An engine that lost its parity makes another report, in another series."""
    import pydicom

    unverified = replace(FACTS, engine={**ENGINE, "parity": "unverified"})
    uids = []
    for name, facts in (("first", FACTS), ("again", FACTS), ("unverified", unverified)):
        (tmp_path / name).mkdir()
        report = pydicom.dcmread(_write(study, tmp_path / name, facts=facts))
        uids.append((report.SOPInstanceUID, report.SeriesInstanceUID))
    assert uids[0] == uids[1]
    assert not set(uids[0]) & set(uids[2])


def test_what_is_not_needed_stays_behind(study: Study, tmp_path: Path) -> None:
    """Patient and study come along in all three files; who made the images, where, comments and private data do not."""
    from copy import deepcopy

    headers = deepcopy(study.headers)
    for header in headers:
        header.PatientID, header.PatientName = "4711", "Doe^Jane"
        header.InstitutionName = header.OperatorsName = header.PatientAddress = header.PatientComments = "canary"
        header.StationName = header.PerformingPhysicianName = header.ProtocolName = header.ImageComments = "canary"
        header.private_block(0x0011, "canary", create=True).add_new(1, "LO", "canary")
    mask = np.zeros(study.flair.voxels.shape, dtype=bool)
    formats = ["dicom-sr", "secondary-capture", "nifti", "report"]
    for name in write(_segmentation(study, mask), replace(study, headers=headers), formats, tmp_path, FACTS):
        content = (tmp_path / name).read_bytes()
        assert b"canary" not in content
        assert (b"4711" in content) == (b"Jane" in content) == name.endswith(".dcm"), name
