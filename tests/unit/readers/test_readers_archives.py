"""Zip archives: studies in them, limits, and what an archive must not be able to do."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import seeds

from edgeseg.errors import StudyError
from edgeseg.readers import archives, find_studies, read_study
from edgeseg.types import Study

TIFF = seeds.REPOSITORY / "examples" / "tiff" / "TCGA_HT_7884_19980913"


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary files go to a folder of the test's own, which has to be empty at its end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert not list(folder.iterdir())


def _zip(target: Path, *folders: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", compression) as file:
        for folder in folders:
            for path in sorted(folder.rglob("*")):
                file.write(path, Path(folder.name) / path.relative_to(folder))
    return target


def _read(path: Path) -> Study:
    (files,) = find_studies(path)
    return read_study(files)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_dicom_study_in_an_archive_is_the_study(compression: int, tmp_path: Path) -> None:
    folder = seeds.small_series(tmp_path / "study")
    study, expected = _read(_zip(tmp_path / "a.zip", folder, compression=compression)), _read(folder)
    np.testing.assert_array_equal(study.flair.voxels, expected.flair.voxels)
    assert (study.name, study.uid) == (expected.name, expected.uid)
    assert len(study.headers) == seeds.SLICES


def test_a_tiff_study_is_named_by_its_archive(tmp_path: Path) -> None:
    (files,) = find_studies(_zip(tmp_path / "head of monday.ZIP", TIFF))
    assert files.name == "head of monday"
    study = read_study(files)
    assert (study.name, study.uid, study.source) == (files.name, files.name, "tiff")
    np.testing.assert_array_equal(study.flair.voxels, _read(TIFF).flair.voxels)


def test_slices_at_the_top_of_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as file:
        for path in TIFF.iterdir():
            file.write(path, path.name)
    assert _read(tmp_path / "flat.zip").name == "flat"


def test_archives_lie_in_a_folder_of_studies(tmp_path: Path) -> None:
    shutil.copytree(TIFF, tmp_path / "in" / "folder")
    _zip(tmp_path / "in" / "archive.zip", TIFF)
    (tmp_path / "in" / "below").mkdir()
    _zip(tmp_path / "in" / "below" / "archive.zip", TIFF)
    dicom = seeds.small_series(tmp_path / "dicom")
    _zip(tmp_path / "in" / "study.zip", dicom)
    studies = find_studies(tmp_path / "in")
    assert {study.name for study in studies if study.kind == "tiff"} == {"archive", "below_archive", "folder"}
    assert len(studies) == 4
    assert {read_study(study).source for study in studies} == {"tiff", "dicom"}


def test_several_studies_in_one_archive(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(TIFF, tmp_path / "in" / name)
    names = [study.name for study in find_studies(_zip(tmp_path / "two.zip", tmp_path / "in"))]
    assert names == ["two_in_a", "two_in_b"]


def test_an_archive_of_a_study_that_lies_beside_it_counts_once(tmp_path: Path) -> None:
    folder = seeds.small_series(tmp_path / "in" / "study")
    _zip(tmp_path / "in" / "study.zip", folder)
    (files,) = find_studies(tmp_path / "in")
    assert files.root == folder


def test_archives_without_images_are_left_aside_beside_a_study(tmp_path: Path) -> None:
    shutil.copytree(TIFF, tmp_path / "in" / "head")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("no image")
    _zip(tmp_path / "in" / "letters.zip", tmp_path / "letters")
    assert [study.name for study in find_studies(tmp_path / "in")] == ["head"]


def test_errors_name_the_archive_and_no_temporary_folder(tmp_path: Path) -> None:
    folder = seeds.small_series(tmp_path / "study")
    (folder / "3").write_bytes((folder / "3").read_bytes()[:-200])
    archive = _zip(tmp_path / "a.zip", folder)
    with pytest.raises(StudyError, match="pixels that cannot") as error:
        _read(archive)
    assert str(archive / "study" / "3") in error.value.identified
    assert "temporary" not in error.value.identified
    assert str(tmp_path) not in str(error.value)


def _member(target: Path, name: str, mode: int = 0, flags: int = 0) -> Path:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(target, "w") as file:
        file.writestr(info, "../../outside")
    if flags:  # in the table of contents and before the member itself
        content = bytearray(target.read_bytes())
        content[6] |= flags
        content[content.rindex(b"PK\x01\x02") + 8] |= flags
        target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("name", "mode", "flags", "found"),
    [
        ("../outside.dcm", 0, 0, "climbs out of the archive"),
        ("a/../../outside.dcm", 0, 0, "climbs out of the archive"),
        ("/tmp/outside.dcm", 0, 0, "climbs out of the archive"),
        ("..\\outside.dcm", 0, 0, "climbs out of the archive"),
        ("C:\\outside.dcm", 0, 0, "climbs out of the archive"),
        ("link.dcm", stat.S_IFLNK | 0o777, 0, "holds a link"),
        ("secret.dcm", 0, 1, "is encrypted: unpack it yourself"),
    ],
)
def test_archives_that_must_not_be_unpacked(name: str, mode: int, flags: int, found: str, tmp_path: Path) -> None:
    archive = _member(tmp_path / "a.zip", name, mode, flags)
    with pytest.raises(StudyError, match=found):
        _read(archive)
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "temporary"}


def test_a_bad_archive_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    _member(tmp_path / "in" / "bad.zip", "../outside.dcm")
    _zip(tmp_path / "in" / "good.zip", TIFF)
    bad, good = find_studies(tmp_path / "in")
    assert read_study(good).name == "good"
    with pytest.raises(StudyError, match="climbs out"):
        read_study(bad)


def test_a_truncated_archive(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", TIFF)
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(StudyError, match=r"cannot be unpacked .*damaged.*: copy it again"):
        _read(archive)


def test_a_file_that_is_damaged_inside(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", TIFF)
    content = bytearray(archive.read_bytes())
    content[2000] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(StudyError, match=r"cannot be unpacked .*damaged.*: copy it again"):
        _read(archive)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file, file.open("a.dcm", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(StudyError, match=r"would become \d+ times larger, which no images do"):
        _read(tmp_path / "bomb.zip")


def test_limits_on_count_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _zip(tmp_path / "a.zip", TIFF)
    monkeypatch.setattr(archives, "MOST_FILES", 20)
    with pytest.raises(StudyError, match="holds 30 files, and edgeseg takes 20 at most"):
        _read(archive)
    monkeypatch.undo()
    monkeypatch.setattr(archives, "MOST_BYTES", 1000)
    with pytest.raises(StudyError, match="GB unpacked, and edgeseg takes"):
        _read(archive)


def test_an_archive_that_was_changed_between_finding_and_reading(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "a.zip", TIFF)
    (files,) = find_studies(archive)
    _zip(archive, seeds.small_series(tmp_path / "other"))
    with pytest.raises(StudyError, match="has changed since its studies were looked for"):
        read_study(files)


def test_an_archive_without_images(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("no image")
    with pytest.raises(StudyError, match="the file was unpacked and holds no MR images"):
        find_studies(_zip(tmp_path / "a.zip", tmp_path / "letters"))


def test_no_room_to_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StudyError, match=r"cannot be unpacked .* TMPDIR"):
        _read(_zip(tmp_path / "a.zip", TIFF))
