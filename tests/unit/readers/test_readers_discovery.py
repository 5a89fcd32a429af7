"""What studies a path holds, and what is said when it holds none."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg.errors import StudyError
from edgeseg.readers import find_studies, read_study

EXAMPLES = Path(__file__).parents[3] / "examples"
TIFF = EXAMPLES / "tiff" / "TCGA_HT_7884_19980913"


def test_a_folder_of_several_kinds() -> None:
    studies = find_studies(EXAMPLES)
    assert [(study.kind, len(study.files)) for study in studies] == [("dicom", 45), ("tiff", 30)]
    assert studies[1].name == TIFF.name


def test_one_bad_study_does_not_hide_the_others(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "dicom", tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a_1.tif").write_text("no image")
    (tmp_path / "bad" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM\x02\x00")
    bad, good = find_studies(tmp_path)
    assert (bad.kind, good.kind) == ("tiff", "dicom")
    assert not good.warnings
    with pytest.raises(StudyError, match="cannot be read as a TIFF"):
        read_study(bad)


def test_every_member_of_a_clash_is_named_by_its_own_path(tmp_path: Path) -> None:
    for parent in ("sub-02", "sub-03"):
        shutil.copytree(TIFF, tmp_path / parent / "anat")
    assert [study.name for study in find_studies(tmp_path)] == ["sub-02_anat", "sub-03_anat"]
    shutil.copytree(TIFF, tmp_path / "sub-01" / "anat")
    assert [study.name for study in find_studies(tmp_path)] == ["sub-01_anat", "sub-02_anat", "sub-03_anat"]


def test_paths_that_clash_too_get_digits_all_of_them(tmp_path: Path) -> None:
    for folder in ("a/b_c/head", "a_b/c/head", "d/head"):
        shutil.copytree(TIFF, tmp_path / folder)
    first, second, third = (study.name for study in find_studies(tmp_path))
    assert first.startswith("a_b_c_head-")
    assert second.startswith("a_b_c_head-")
    assert first != second
    assert third == "d_head"


def test_results_and_hidden_folders_are_no_studies(tmp_path: Path) -> None:
    shutil.copytree(TIFF, tmp_path / "head")
    for folder in ("edgeseg-output/head/masks", ".cache", "results/masks"):
        shutil.copytree(TIFF, tmp_path / folder)
    (tmp_path / "results" / "report.json").write_text('{"schema_version": 1, "edgeseg_version": "0"}')
    assert [study.name for study in find_studies(tmp_path)] == ["head"]


@pytest.mark.parametrize("place", ["edgeseg-output", "edgeseg-output/head", "."])
def test_results_alone_are_said_to_be_results(tmp_path: Path, place: str) -> None:
    shutil.copytree(TIFF, tmp_path / "edgeseg-output" / "head" / "masks")
    report = tmp_path / "edgeseg-output" / "head" / "report.json"
    report.write_text('{"schema_version": 1, "edgeseg_version": "0"}')
    with pytest.raises(StudyError, match="holds results of edgeseg, not a study: give a folder"):
        find_studies(tmp_path / place)


def test_results_beside_the_slices_do_not_hide_them(tmp_path: Path) -> None:
    shutil.copytree(TIFF, tmp_path / "head")
    shutil.copytree(TIFF, tmp_path / "head" / "masks")
    (tmp_path / "head" / "report.json").write_text('{"schema_version": 1, "edgeseg_version": "0"}')
    assert [study.name for study in find_studies(tmp_path / "head")] == ["head"]


@pytest.mark.parametrize(
    ("files", "found", "named"),
    [
        ({}, "is empty", ""),
        ({"scan.dcm": b"this is text"}, r"one file is a text file, not DICOM", "scan.dcm is a text file"),
        ({"a": b"", "b": b""}, r"one file is empty, and 1 more like it", "(a is empty"),
        ({"a": b"\0\1\2"}, r"one file is not DICOM", "(a is not DICOM"),
        ({"a": b"\0" * 128 + b"DICM"}, r"truncated in its header", "(a is DICOM, but"),
        ({"readme.txt": b"hello", "picture.png": b"x"}, r"2 files were found \(.png, .txt\)", ""),
    ],
)
def test_nothing_usable(tmp_path: Path, files: dict[str, bytes], found: str, named: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError, match=found) as error:
        find_studies(tmp_path)
    assert "give a folder with DICOM files" in str(error.value)
    assert str(error.value).startswith("the folder ")
    assert error.value.identified.startswith(f"{tmp_path} ")
    assert named in error.value.identified


def test_folders_of_unreadable_files_are_named_by_digits(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "dicom", tmp_path / "good")
    for name in ("DOE^JOHN", "ROE^JANE"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "IM1.dcm").write_text("no image")
    studies = find_studies(tmp_path)
    names = [study.name for study in studies if not study.uid]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"unreadable-[0-9a-f]{6}", name) for name in names)
    assert names == [study.name for study in find_studies(tmp_path) if not study.uid]


def test_a_path_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="does not exist"):
        find_studies(tmp_path / "nowhere")


def test_the_room_imports_no_imaging_library() -> None:
    code = "import sys, edgeseg.readers; print([m for m in ('SimpleITK', 'pydicom', 'highdicom') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
