"""DICOM files with malformed headers, and file names that hold a patient's name: on the example's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeseg.errors import StudyError
from edgeseg.readers import find_studies, read_study
from edgeseg.types import Study

EXAMPLE = Path(__file__).parents[3] / "examples" / "dicom" / "example-study"


def _write_series(folder: Path, series: str = "1", **elements: Any) -> Path:
    """Write the example's FLAIR series under another number, with these elements; one of None is empty."""
    import pydicom

    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted((EXAMPLE / "flair").iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{series}.{number + 1}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SeriesNumber = "1.2.3", f"1.2.3.{series}", series
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        dataset.save_as(folder / f"{series}-{number:02}", enforce_file_format=True)
    return folder


def _read(path: Path) -> Study:
    (files,) = find_studies(path)
    return read_study(files)


def test_no_path_or_file_name_reaches_warnings_and_reasons(tmp_path: Path) -> None:
    """They are in report.json, which people send on."""
    folder = _write_series(tmp_path / "DOE_JOHN" / "study")
    t1: dict[str, Any] = {"SeriesDescription": "t1", "EchoTime": 14, "RepetitionTime": 500, "InversionTime": None}
    _write_series(folder, series="2", **t1)
    _write_series(folder, series="3", **t1, ContrastBolusAgent="gadolinium", RescaleSlope=77, RescaleIntercept=0)
    for number, path in enumerate(sorted(folder.iterdir())):
        content = path.read_bytes()
        if path.name.startswith("2-"):
            content = content[:-100]
        path.with_name(f"DOE_JOHN_{number}.dcm").write_bytes(content.replace(b"77.0", b"x1.0"))
        path.unlink()
    (folder / "DOE_JOHN.dcm").write_text("not DICOM at all")
    study = _read(tmp_path)
    said = [*study.warnings, *(origin.reason for origin in study.channels.values())]
    assert len(study.warnings) == 3
    assert any("one file has a header that can be read and pixels that cannot" in warning for warning in said)
    assert any("one file has a rescale slope" in warning for warning in said)
    assert not any("DOE" in text or "JOHN" in text or str(tmp_path) in text for text in said)
    assert not any("DOE" in name for name in (*study.flair.instance_ids, study.name))


def _replaced(folder: Path, found: bytes, malformed: bytes, files: int = 15) -> Path:
    """Put a malformed value of the same length into some files."""
    for path in sorted(folder.iterdir())[:files]:
        content = path.read_bytes()
        assert found in content
        path.write_bytes(content.replace(found, malformed))
    return folder


def test_a_series_number_with_a_letter_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = _replaced(_write_series(tmp_path, series="44"), b"IS\x02\x0044", b"IS\x02\x004a")
    assert _read(folder).channels["flair"].series.startswith("series 4 (")
    assert (
        _read(_replaced(folder, b"IS\x02\x004a", b"IS\x02\x00a4"))
        .channels["flair"]
        .series.startswith("series without number (")
    )


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(
    "change",
    [
        {"ImageOrientationPatient": [1, 0, 0, 0, 1]},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"PixelSpacing": None},
        {"PixelSpacing": [0, 0]},
        {"ImagePositionPatient": [1, 2]},
    ],
)
def test_malformed_places_are_refused_or_left_aside_with_a_warning(tmp_path: Path, change: dict[str, Any]) -> None:
    _write_series(tmp_path / "bad", series="2", **change)
    with pytest.raises(StudyError, match="missing or not valid"):
        _read(tmp_path)
    _write_series(tmp_path / "good")
    (warning,) = _read(tmp_path).warnings
    assert warning == "15 images say nothing valid of position, orientation or pixel spacing: left aside"


def test_a_rescale_slope_that_is_no_number_is_refused(tmp_path: Path) -> None:
    folder = _write_series(tmp_path, RescaleSlope=77, RescaleIntercept=0)
    with pytest.raises(StudyError, match="rescale slope, an intercept or a table that cannot be applied"):
        _read(_replaced(folder, b"77.0", b"x1.0", files=1))
