"""DICOMDIR: followed where it is what was given, with what it lists and what is missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import seeds

from edgeseg.errors import StudyError
from edgeseg.readers import find_studies, read_study


def _disk(folder: Path, *series: Path) -> Path:
    """A disk as hospitals burn them; its DICOMDIR."""
    if shutil.which("dcmmkdir") is None:
        pytest.skip("dcmmkdir (Debian package dcmtk) is not installed, which writes DICOMDIRs")
    for number, one in enumerate(series):
        for path in sorted(one.iterdir()):
            target = folder / "IMAGES" / f"SE{number}" / f"IM{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    command = ["dcmmkdir", "-q", "+I", "+r", "+id", str(folder), "+D", str(folder / "DICOMDIR")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "DICOMDIR"


def test_its_files_are_read_and_no_others(tmp_path: Path) -> None:
    plain = seeds.small_series(tmp_path / "plain")
    directory = _disk(tmp_path / "disk", plain)
    shutil.copytree(seeds.small_series(tmp_path / "other", StudyInstanceUID="1.2.9"), tmp_path / "disk" / "OTHER")
    (files,) = find_studies(directory)
    study = read_study(files)
    assert not study.warnings
    (expected,) = find_studies(plain)
    np.testing.assert_array_equal(study.flair.voxels, read_study(expected).flair.voxels)


def test_a_folder_with_one_is_read_as_found(tmp_path: Path) -> None:
    directory = _disk(tmp_path / "disk", seeds.small_series(tmp_path / "plain"))
    directory.write_bytes(b"damaged")
    (files,) = find_studies(tmp_path / "disk")
    assert not read_study(files).warnings


def test_small_letters_on_the_disk(tmp_path: Path) -> None:
    directory = _disk(tmp_path / "disk", seeds.small_series(tmp_path / "plain"))
    for path in sorted((tmp_path / "disk").rglob("*"), reverse=True):
        path.rename(path.with_name(path.name.lower()))
    (files,) = find_studies(directory.with_name("dicomdir"))
    assert len(files.files) == seeds.SLICES


def test_missing_files_are_counted(tmp_path: Path) -> None:
    other = seeds.small_series(tmp_path / "other", series="2", StudyInstanceUID="1.2.9", SeriesDescription="t1")
    directory = _disk(tmp_path / "disk", seeds.small_series(tmp_path / "plain", series="1"), other)
    first, second = find_studies(directory)
    gone = first.files[0] if first.uid != "1.2.9" else second.files[0]
    gone.unlink()
    study = next(study for study in find_studies(directory) if study.uid != "1.2.9")
    assert study.warnings == ("1 of 6 files that the DICOMDIR lists for the study are missing",)
    for path in next(study for study in (first, second) if study.uid == "1.2.9").files:
        path.unlink()
    (lost,) = [study for study in find_studies(directory) if study.problem]
    with pytest.raises(StudyError, match="lists 6 files of a study, and none of them is there: copy the whole disk"):
        read_study(lost)


def test_nothing_of_what_it_lists_is_there(tmp_path: Path) -> None:
    directory = _disk(tmp_path / "disk", seeds.small_series(tmp_path / "plain"))
    shutil.copy(directory, tmp_path / "DICOMDIR")
    with pytest.raises(StudyError, match="lists 6 files, none of which is there: copy the whole disk"):
        find_studies(tmp_path / "DICOMDIR")


def test_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\1\2\3")
    with pytest.raises(StudyError, match="cannot be read as a DICOMDIR: copy it again, or give the folder"):
        find_studies(tmp_path / "DICOMDIR")


def test_one_that_climbs_out_of_its_folder(tmp_path: Path) -> None:
    import pydicom

    directory = _disk(tmp_path / "disk", seeds.small_series(tmp_path / "plain"))
    dataset = pydicom.dcmread(directory)
    for record in dataset.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            with pytest.warns(UserWarning, match="Invalid value"):
                record.ReferencedFileID = ["..", "plain", "0"]
    dataset.save_as(directory)
    with pytest.raises(StudyError, match="lists a file outside its own folder: do not trust it"):
        find_studies(directory)


def test_pydicoms_own() -> None:
    import pydicom.data

    directory = Path(str(pydicom.data.get_testdata_file("DICOMDIR", download=False)))
    assert len(find_studies(directory)) == 6
