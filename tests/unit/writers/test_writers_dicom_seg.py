"""DICOM SEG: what is taken over from headers as scanners leave them, and that nothing depends on the clock."""

from __future__ import annotations

import datetime
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import StudyError
from edgeseg.types import BoolArray, Geometry, Segmentation, Study, Volume
from edgeseg.writers import ReportFacts, write
from edgeseg.writers.dicom_seg import to_dataset

FACTS = ReportFacts(
    engine={"name": "test-fp32", "sha256": "ab" * 32}, preprocessing={}, threshold=0.5, algorithm_version="0.1.0"
)
GEOMETRY = Geometry(np.array([-10.0, -20.0, 5.0]), np.array([5.0, 0.9, 0.8]), np.eye(3)[:, ::-1].copy())
SHAPE = (6, 16, 24)


def _mask() -> BoolArray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[1, 2:6, 3:9] = mask[4, 7:9, 10:20] = True
    return mask


def _bare_header() -> Any:
    """Return what every MR image has, and no more."""
    from pydicom import Dataset

    header = Dataset()
    header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = "1.2.1", "1.2.2", "1.2.3"
    header.PatientName, header.PatientID, header.Modality = "Doe^Jane", "4711", "MR"
    header.Rows, header.Columns = SHAPE[1:]
    return header


def _classic(**attributes: Any) -> tuple[Any, ...]:
    """Return one header for each slice; an attribute of None is taken out."""
    headers = []
    for index in range(SHAPE[0]):
        header = _bare_header()
        header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", f"1.2.2.{index + 1}"
        header.ImagePositionPatient = [-10.0, -20.0, 5.0 + 5 * index]
        header.ImageOrientationPatient, header.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.9, 0.8]
        for keyword, value in attributes.items():
            if value is None:
                delattr(header, keyword)
            else:
                header.add_new(keyword, _vr(keyword), value)
        headers.append(header)
    return tuple(headers)


def _vr(keyword: str) -> str:
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(keyword)
    assert tag is not None
    return str(dictionary_VR(tag))


def _enhanced(order: Sequence[int]) -> tuple[Any, ...]:
    """Return one multi-frame header, its frames in this order of slices, measures and orientation per frame."""
    from pydicom import Dataset

    header = _bare_header()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.2.1"
    header.NumberOfFrames = len(order)
    header.SharedFunctionalGroupsSequence = [Dataset()]
    frames = []
    for index in order:
        frame, measures, position, axes = Dataset(), Dataset(), Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness = [0.9, 0.8], 4.0
        position.ImagePositionPatient = [-10.0, -20.0, 5.0 + 5 * index]
        axes.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        frame.PixelMeasuresSequence, frame.PlanePositionSequence = [measures], [position]
        frame.PlaneOrientationSequence = [axes]
        frames.append(frame)
    header.PerFrameFunctionalGroupsSequence = frames
    return (header,)


def _study(headers: tuple[Any, ...], geometry: Geometry | None = GEOMETRY) -> Study:
    ids = tuple(str(header.SOPInstanceUID) for header in headers) if len(headers) > 1 else ("1.2.2.1",) * SHAPE[0]
    flair = Volume(np.zeros(SHAPE, np.float32), geometry, ids)
    return Study("1.2.1", "0123456789ab", "dicom", flair, None, None, {}, headers)


def _errors(path: Path) -> list[str]:
    """Return what dciodvfy calls an error; an empty list where it is not installed (another test says so)."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        return []
    result = subprocess.run([tool, str(path)], capture_output=True, text=True, timeout=60)
    return [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Error")]


def _write(mask: BoolArray, study: Study, folder: Path) -> Path:
    segmentation = Segmentation(mask, mask.astype(np.float32), (0,) * SHAPE[0], 0.0, None)
    assert write(segmentation, study, ["dicom-seg"], folder, FACTS) == ["segmentation.dcm"]
    return folder / "segmentation.dcm"


def _places(path: Path) -> dict[float, BoolArray]:
    """Return the frames of a SEG by the z of their position."""
    import pydicom

    dataset = pydicom.dcmread(path)
    frames = dataset.PerFrameFunctionalGroupsSequence
    heights = [float(frame.PlanePositionSequence[0].ImagePositionPatient[2]) for frame in frames]
    return {height: pixels > 0 for height, pixels in zip(heights, dataset.pixel_array, strict=True)}


DIRTY: dict[str, dict[str, Any]] = {
    "nothing but the least": {},
    "no patient at all": {"PatientName": None, "PatientID": None},
    "zeros for dates": {"StudyDate": "00000000", "StudyTime": "000000.000000", "PatientBirthDate": "00000000"},
    "an unknown sex": {"PatientSex": "X", "StudyID": "an identifier of more than sixteen characters"},
    "no frame of reference": {"FrameOfReferenceUID": None},
    "a slice distance that is wrong": {"SpacingBetweenSlices": "-1", "SliceThickness": "3"},
    "lossy source": {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": "10",
        "LossyImageCompressionMethod": "ISO_10918_1",
    },
}


@pytest.mark.filterwarnings("ignore:(Invalid value for VR|The value length):UserWarning")
@pytest.mark.parametrize("name", DIRTY)
def test_headers_as_scanners_leave_them_give_a_valid_seg(name: str, tmp_path: Path) -> None:
    """The validator finds no error, and the mask is whole."""
    path = _write(_mask(), _study(_classic(**DIRTY[name])), tmp_path)
    assert _errors(path) == []
    for index, expected in enumerate(_mask()):
        np.testing.assert_array_equal(_places(path)[5.0 + 5 * index], expected)


@pytest.mark.filterwarnings("ignore:Invalid value for VR AS:UserWarning")
def test_an_age_that_is_no_age_is_left_out(tmp_path: Path) -> None:
    """``42`` stays behind, ``042Y`` comes along; the source's headers are not touched."""
    import pydicom

    for age, expected in (("42", None), ("042Y", "042Y")):
        headers = _classic(PatientAge=age)
        path = _write(_mask(), _study(headers), tmp_path)
        assert pydicom.dcmread(path).get("PatientAge") == expected
        assert headers[0].PatientAge == age
        assert "AccessionNumber" not in headers[0]
        assert _errors(path) == []


def test_a_name_with_accents_comes_along(tmp_path: Path) -> None:
    """Read in the source's character set, written in UTF-8."""
    import pydicom

    headers = _classic(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Zoë")
    source = tmp_path / "source.dcm"
    headers[0].save_as(source, implicit_vr=False, little_endian=True)
    read_back = pydicom.dcmread(source, force=True)
    path = _write(_mask(), _study((read_back, *headers[1:])), tmp_path)
    assert str(pydicom.dcmread(path).PatientName) == "Müller^Zoë"
    assert _errors(path) == []


def test_seg_says_what_it_is() -> None:
    """Codes, qualification, algorithm, and where it belongs."""
    dataset = to_dataset(_mask(), _study(_classic(SeriesNumber=5, SeriesDate="20200102", SeriesTime="030405")), FACTS)
    segment = dataset.SegmentSequence[0]
    assert segment.SegmentLabel == "FLAIR abnormality"
    for code in (segment.SegmentedPropertyCategoryCodeSequence, segment.SegmentedPropertyTypeCodeSequence):
        assert (code[0].CodeValue, code[0].CodingSchemeDesignator) == ("49755003", "SCT")
    assert segment.AnatomicRegionSequence[0].CodeValue == "12738006"
    assert segment.SegmentAlgorithmName == "edgeseg test-fp32"
    assert dataset.SegmentationType == "BINARY"
    assert dataset.ContentQualification == "RESEARCH"
    assert len(dataset.ContentLabel) <= 16
    assert dataset.PatientName == "Doe^Jane"
    assert (dataset.StudyInstanceUID, dataset.FrameOfReferenceUID) == ("1.2.1", "1.2.3")
    assert [str(dataset[key].value) for key in ("SeriesNumber", "ContentDate", "ContentTime")] == [
        "9005",
        "20200102",
        "030405",
    ]
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.2"


def test_an_empty_mask_is_a_valid_seg_of_empty_frames(tmp_path: Path) -> None:
    """Nothing found is a result too."""
    path = _write(np.zeros(SHAPE, dtype=bool), _study(_classic()), tmp_path)
    assert _errors(path) == []
    places = _places(path)
    assert len(places) == SHAPE[0]
    assert not any(pixels.any() for pixels in places.values())


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 3, 1, 0, 2, 4), (7, 0, 1, 2, 3, 4, 5, 6)])
def test_enhanced_mr_with_frames_in_any_order(order: tuple[int, ...], tmp_path: Path) -> None:
    """Every frame lies at its slice and names the source's frame; more frames than slices are no harm."""
    import pydicom

    study = _study(_enhanced(order))
    path = _write(_mask(), study, tmp_path)
    assert _errors(path) == []
    for index, expected in enumerate(_mask()):
        np.testing.assert_array_equal(_places(path)[5.0 + 5 * index], expected)
    for frame in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        height = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        number = int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        assert order[number - 1] == round((height - 5) / 5)
    assert "PixelMeasuresSequence" in study.headers[0].PerFrameFunctionalGroupsSequence[0]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing comes from the clock or from chance: the file does not hold today's date either."""
    contents = [_write(_mask(), _study(_classic()), tmp_path).read_bytes() for _ in range(2)]
    assert contents[0] == contents[1]
    assert f"{datetime.datetime.now():%Y%m%d}".encode() not in contents[0]


def test_uids_follow_source_engine_and_mask() -> None:
    """The same series of results for one engine, another object for another mask, all different for another engine."""
    study, other_mask = _study(_classic()), _mask()
    other_mask[0, 0, 0] = True
    other_engine = ReportFacts(engine={"name": "test-fp32", "sha256": "cd" * 32}, preprocessing={}, threshold=0.5)
    first, second = to_dataset(_mask(), study, FACTS), to_dataset(other_mask, study, FACTS)
    third = to_dataset(_mask(), study, other_engine)
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != third.SeriesInstanceUID
    assert len({first.SOPInstanceUID, second.SOPInstanceUID, third.SOPInstanceUID}) == 3
    assert first.SOPInstanceUID.startswith("2.25.")
    assert len(first.SOPInstanceUID) <= 64


def test_headers_in_another_order_than_the_slices_do_no_harm(tmp_path: Path) -> None:
    """A slice finds its header by position."""
    path = _write(_mask(), _study(tuple(reversed(_classic()))), tmp_path)
    for index, expected in enumerate(_mask()):
        np.testing.assert_array_equal(_places(path)[5.0 + 5 * index], expected)


def test_a_grid_that_is_not_the_headers_is_refused() -> None:
    """A mask would land at the wrong place."""
    elsewhere = Geometry(GEOMETRY.origin_mm + 40.0, GEOMETRY.spacing_mm, GEOMETRY.direction)
    with pytest.raises(StudyError, match=r"slice 1 of study 0123456789ab lies .* mm from"):
        to_dataset(_mask(), _study(_classic(), elsewhere), FACTS)


def test_flair_over_several_multi_frame_instances(tmp_path: Path) -> None:
    """Each frame names the instance and the frame that it was drawn on."""
    import pydicom

    lower, upper = _enhanced((2, 0, 1))[0], _enhanced((3, 4, 5))[0]
    upper.SOPInstanceUID = "1.2.2.2"
    path = _write(_mask(), _study((lower, upper)), tmp_path)
    assert _errors(path) == []
    seg = pydicom.dcmread(path)
    sources = [f.DerivationImageSequence[0].SourceImageSequence[0] for f in seg.PerFrameFunctionalGroupsSequence]
    assert [(s.ReferencedSOPInstanceUID, s.ReferencedFrameNumber) for s in sources] == [
        ("1.2.2.1", 2),
        ("1.2.2.1", 3),
        ("1.2.2.1", 1),
        ("1.2.2.2", 1),
        ("1.2.2.2", 2),
        ("1.2.2.2", 3),
    ]
    instances = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert [instance.ReferencedSOPInstanceUID for instance in instances] == ["1.2.2.1", "1.2.2.2"]


@pytest.mark.parametrize("taken", ["PlanePositionSequence", "ImagePositionPatient"])
@pytest.mark.parametrize("number", [6, 5])
def test_a_frame_without_a_place(taken: str, number: int, tmp_path: Path) -> None:
    """One that is no slice does no harm; without a slice's own, the result would be misplaced."""
    headers = _enhanced((0, 1, 2, 3, 4, 5, 7))
    frame = headers[0].PerFrameFunctionalGroupsSequence[number]
    delattr(frame if taken in frame else frame.PlanePositionSequence[0], taken)
    if number == 6:
        assert len(_places(_write(_mask(), _study(headers), tmp_path))) == SHAPE[0]
    else:
        with pytest.raises(StudyError, match=r"slice 6 of study .* lies 5.0 mm from .*--format nifti"):
            to_dataset(_mask(), _study(headers), FACTS)


@pytest.mark.parametrize("taken", ["ImagePositionPatient", "SOPInstanceUID"])
def test_an_image_without_place_or_uid_is_refused(taken: str) -> None:
    """Classic images: a sentence for each."""
    study = _study(_classic())
    delattr(study.headers[2], taken)
    with pytest.raises(StudyError, match="--format nifti"):
        to_dataset(_mask(), study, FACTS)


def test_a_study_without_headers_is_refused() -> None:
    """A SEG belongs to a series."""
    with pytest.raises(StudyError, match="no DICOM headers"):
        to_dataset(_mask(), _study(_classic(), None), FACTS)
