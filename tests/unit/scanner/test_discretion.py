"""Messages for logs and queue quote neither paths nor the texts of a DICOM study."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgeseg import readers
from edgeseg.scanner.discretion import withhold


@pytest.fixture
def study(tmp_path: Path, example_dicom: Path) -> readers.StudyFiles:
    """A DICOM study in folders that name a patient, with texts in its headers."""
    import pydicom

    folder = tmp_path / "DOE_JOHN" / "1970-01-01"
    shutil.copytree(example_dicom / "flair", folder / "FLAIR of John Doe")
    path = next((folder / "FLAIR of John Doe").iterdir())
    header = pydicom.dcmread(path)
    header.PatientName = "DOE^JOHN"
    header.SeriesDescription = "t2 for Dr. Who"
    header.PatientComments = "afraid of machines"
    header.save_as(path)
    (found,) = readers.find_studies(folder)
    return found


def test_paths_and_texts_are_left_out(study: readers.StudyFiles) -> None:
    import pydicom

    file = study.files[0]
    header = pydicom.dcmread(file, stop_before_pixels=True)
    said = withhold(
        f"{study.root} holds no FLAIR ({file.name} in FLAIR of John Doe, {header.SeriesInstanceUID}; DOE^JOHN, "
        "'t2 for Dr. Who', afraid of machines): see /elsewhere/of/DOE. Slice 2 of 15 is missing: export it again",
        study,
    )
    for text in ("DOE", "John", "Who", "afraid", "1970", file.name, str(header.SeriesInstanceUID), "elsewhere"):
        assert text not in said
    for text in ("holds no FLAIR", "Slice 2 of 15 is missing: export it again"):
        assert text in said


def test_the_users_own_names_stay(study: readers.StudyFiles) -> None:
    message = f"{study.root} holds no FLAIR"
    assert withhold(message, replace(study, kind="nifti")) == message


def test_files_that_are_gone(study: readers.StudyFiles) -> None:
    shutil.rmtree(study.root)
    assert "DOE" not in withhold(f"{study.files[0]} cannot be read", study)
