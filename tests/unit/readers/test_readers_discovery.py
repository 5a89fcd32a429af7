"""What studies a path holds, and what is said when it holds none."""

from __future__ import annotations

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


def test_names_are_unique_and_do_not_hang_on_neighbours(tmp_path: Path) -> None:
    for parent in ("b", "c"):
        shutil.copytree(TIFF, tmp_path / parent / "head")
    names = {study.root.parent.name: study.name for study in find_studies(tmp_path)}
    assert names["b"] == "head"
    assert names["c"].startswith("head-")
    shutil.copytree(TIFF, tmp_path / "bb" / "head")
    assert {study.root.parent.name: study.name for study in find_studies(tmp_path)}["c"] == names["c"]


def test_results_and_hidden_folders_are_no_studies(tmp_path: Path) -> None:
    shutil.copytree(TIFF, tmp_path / "head")
    for folder in ("edgeseg-output/head/masks", ".cache", "results/masks"):
        shutil.copytree(TIFF, tmp_path / folder)
    (tmp_path / "results" / "report.json").write_text('{"schema_version": 1, "edgeseg_version": "0"}')
    assert [study.name for study in find_studies(tmp_path)] == ["head"]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, "is empty"),
        ({"scan.dcm": b"this is text"}, r"scan.dcm is a text file, not DICOM"),
        ({"a": b"", "b": b""}, r"a is empty, and 1 more like it"),
        ({"a": b"\0\1\2"}, r"a is not DICOM"),
        ({"a": b"\0" * 128 + b"DICM"}, r"truncated in its header"),
        ({"readme.txt": b"hello", "picture.png": b"x"}, r"2 files were found \(.png, .txt\)"),
    ],
)
def test_nothing_usable(tmp_path: Path, files: dict[str, bytes], found: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError, match=found) as error:
        find_studies(tmp_path)
    assert "give a folder with DICOM files" in str(error.value)


def test_a_path_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="does not exist"):
        find_studies(tmp_path / "nowhere")


def test_the_room_imports_no_imaging_library() -> None:
    code = "import sys, edgeseg.readers; print([m for m in ('SimpleITK', 'pydicom', 'highdicom') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
