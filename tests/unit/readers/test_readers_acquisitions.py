"""Series that hold more than one stack: repeats, copies, contrast in one series, aborted scans, other patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeds

from edgeseg.errors import StudyError
from edgeseg.readers import find_studies, read_study
from edgeseg.types import Study

T1: dict[str, Any] = {"SeriesDescription": "t1", "EchoTime": 14, "RepetitionTime": 500, "InversionTime": None}


def _read(path: Path) -> Study:
    (files,) = find_studies(path)
    return read_study(files)


def _repeat(folder: Path, series: str = "1", **elements: Any) -> None:
    """A series under the same SeriesInstanceUID as any other repeat, with its own instances."""
    elements = {"SeriesInstanceUID": "1.2.3.1", "SeriesNumber": 1, **elements}
    seeds.small_series(folder, series=series, **elements)


def _brighter(dataset: Any, _: int) -> None:
    dataset.PixelData = (dataset.pixel_array + 1).astype("<u2").tobytes()


def _first_three(folder: Path, series: str) -> None:
    for number in range(3, seeds.SLICES):
        (folder / f"{series}{number}").unlink()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
        ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}),
        ({"AcquisitionNumber": 1, "AcquisitionTime": "101500"}, {"AcquisitionNumber": 1, "AcquisitionTime": "102500"}),
    ],
)
def test_of_two_acquisitions_the_later_is_taken(tmp_path: Path, first: dict[str, Any], second: dict[str, Any]) -> None:
    common = {"AcquisitionDate": "20200101", "AcquisitionTime": "101500"}
    _repeat(tmp_path, "1", **{**common, **first})
    _repeat(tmp_path, "2", **{**common, **second}, change=_brighter)
    study = _read(tmp_path)
    assert study.flair.instance_ids == tuple(f"1.2.3.2.{k}" for k in range(1, seeds.SLICES + 1))
    assert "holds 2 acquisitions: the last one that is complete was taken (6 slices), and 6 images" in study.warnings[0]


@pytest.mark.parametrize("aborted", ["1", "2"])
def test_an_aborted_acquisition_is_left_aside_before_and_after_the_whole_one(tmp_path: Path, aborted: str) -> None:
    for series in ("1", "2"):
        _repeat(
            tmp_path, series, AcquisitionNumber=series, AcquisitionDate="20200101", AcquisitionTime=f"10150{series}"
        )
    _first_three(tmp_path, aborted)
    study = _read(tmp_path)
    taken = "2" if aborted == "1" else "1"
    assert study.flair.instance_ids[0].startswith(f"1.2.3.{taken}.")
    assert "3 images were left aside" in study.warnings[0]


def test_slices_with_times_and_numbers_of_their_own_stay_together(tmp_path: Path) -> None:
    """Interleaved halves are numbered as two acquisitions, and 2D slices have a time each."""

    def interleaved(dataset: Any, number: int) -> None:
        dataset.AcquisitionNumber, dataset.AcquisitionTime = 1 + number % 2, f"1015{number % 2}{number}"

    study = _read(seeds.small_series(tmp_path, change=interleaved))
    assert study.flair.voxels.shape[0] == seeds.SLICES
    assert not study.warnings


def test_slices_of_interleaved_repeats_are_told_apart_by_time(tmp_path: Path) -> None:
    for series in ("1", "2"):

        def times(dataset: Any, number: int, minute: str = series) -> None:
            dataset.AcquisitionDate, dataset.AcquisitionTime = "20200101", f"10{minute}5{number:02}"
            dataset.AcquisitionNumber = 1

        _repeat(tmp_path, series, change=times)
    assert _read(tmp_path).flair.instance_ids[0] == "1.2.3.2.1"


def test_copies_under_other_uids_are_left_aside(tmp_path: Path) -> None:
    _repeat(tmp_path, "1")
    _repeat(tmp_path, "2")
    study = _read(tmp_path)
    assert study.flair.voxels.shape[0] == seeds.SLICES
    assert "6 files are copies of other images of series 1" in study.warnings[0]


def test_repeats_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    _repeat(tmp_path, "1")
    _repeat(tmp_path, "2", change=_brighter)
    with pytest.raises(StudyError, match=r"several images at the same place \(6 times\)"):
        _read(tmp_path)


def test_two_halves_of_a_head_that_overlap_are_not_taken_for_two_acquisitions(tmp_path: Path) -> None:
    _repeat(tmp_path, "1", AcquisitionNumber=1)
    _repeat(tmp_path, "2", AcquisitionNumber=2, change=_brighter)
    for gone in ("10", "11", "24", "25"):
        (tmp_path / gone).unlink()
    with pytest.raises(StudyError, match="several images at the same place"):
        _read(tmp_path)


def test_t1_before_and_after_contrast_in_one_series(tmp_path: Path) -> None:
    seeds.small_series(tmp_path, series="9")
    _repeat(tmp_path, "1", **T1, AcquisitionNumber=1)
    _repeat(tmp_path, "2", **T1, AcquisitionNumber=2, ContrastBolusAgent="gadobutrol", change=_brighter)
    study = _read(tmp_path)
    assert study.pre is not None
    assert study.post is not None
    np.testing.assert_array_equal(study.post.voxels, study.pre.voxels + 1)
    assert "contrast agent that its header names" in study.channels["post"].reason


def test_echo_times_that_differ_by_rounding_are_one_series(tmp_path: Path) -> None:
    def rounded(dataset: Any, number: int) -> None:
        dataset.EchoTime = 120 + 0.02 * number

    assert _read(seeds.small_series(tmp_path, change=rounded)).flair.voxels.shape[0] == seeds.SLICES


@pytest.mark.parametrize(
    ("elements", "found"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "NONE"]}, "derived image"),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER"]}, "derived image"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "derived image"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "derived image"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "6 images are mosaics, each of which holds all slices"),
    ],
)
def test_what_is_no_image_as_acquired(tmp_path: Path, elements: dict[str, Any], found: str) -> None:
    """Alone it is refused, beside the real series it is left aside."""
    seeds.small_series(tmp_path, series="2", **elements)
    with pytest.raises(StudyError, match=found):
        _read(tmp_path)
    seeds.small_series(tmp_path, series="1")
    assert _read(tmp_path).flair.instance_ids[0].startswith("1.2.3.1.")


def test_a_philips_series_of_magnitude_phase_real_and_imaginary_gives_its_magnitude(tmp_path: Path) -> None:
    for series, kind in enumerate("MPRI", 1):
        _repeat(tmp_path, str(series), ImageType=["ORIGINAL", "PRIMARY", f"{kind}_IR", kind, "IR"])
    assert _read(tmp_path).flair.instance_ids[0].startswith("1.2.3.1.")


def test_two_patients_under_one_study_uid_are_refused_without_their_names(tmp_path: Path) -> None:
    seeds.small_series(tmp_path, series="1", PatientID="DOE1")
    seeds.small_series(tmp_path, series="2", PatientID="DOE2")
    with pytest.raises(StudyError, match="2 patients share one StudyInstanceUID") as error:
        _read(tmp_path)
    assert "DOE" not in str(error.value)


def test_other_patients_and_modalities_in_one_folder_are_studies_of_their_own(tmp_path: Path) -> None:
    seeds.small_series(tmp_path, series="1", PatientID="A", StudyInstanceUID="1.2.3")
    seeds.small_series(tmp_path, series="2", PatientID="B", StudyInstanceUID="1.2.4")
    seeds.small_series(tmp_path, series="3", PatientID="A", StudyInstanceUID="1.2.3", Modality="CT")
    studies = find_studies(tmp_path)
    assert sorted(len(study.files) for study in studies) == [6, 12]
    assert all(read_study(files).flair.voxels.shape[0] == seeds.SLICES for files in studies)


def test_a_uid_with_path_characters_reaches_no_name(tmp_path: Path) -> None:
    climbing = b"../../../tmp/x"
    for path in seeds.small_series(tmp_path, StudyInstanceUID="1.2.3.4.5.6.78").iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.3.4.5.6.78", climbing))
    (files,) = find_studies(tmp_path)
    assert files.uid == climbing.decode()
    assert len(files.name) == 12
    assert set(files.name) <= set("0123456789abcdef")
