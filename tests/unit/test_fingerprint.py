"""What a study's fingerprint hangs on, and what it does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import edgeseg
from edgeseg import fingerprint as rooms
from edgeseg import readers
from edgeseg.fingerprint import fingerprint
from edgeseg.readers.rules import built_in


@pytest.fixture
def study(tmp_path: Path, example_tiff: Path) -> readers.StudyFiles:
    """Five TIFF slices."""
    folder = tmp_path / "head"
    folder.mkdir()
    for k in range(12, 17):
        shutil.copy(example_tiff / f"{example_tiff.name}_{k}.tif", folder / f"head_{k}.tif")
    (found,) = readers.find_studies(folder)
    return found


def _add_a_byte(study: readers.StudyFiles) -> readers.StudyFiles:
    with study.files[2].open("ab") as file:
        file.write(b"\0")
    return study


def _rename_a_slice(study: readers.StudyFiles) -> readers.StudyFiles:
    moved = study.files[2].rename(study.root / "head_99.tif")
    return replace(study, files=(*study.files[:2], moved, *study.files[3:]))


def _swap_two_slices(study: readers.StudyFiles) -> readers.StudyFiles:
    one, two = study.files[0].read_bytes(), study.files[1].read_bytes()
    study.files[0].write_bytes(two)
    study.files[1].write_bytes(one)
    return study


@pytest.mark.parametrize(
    "change",
    [
        _add_a_byte,
        _rename_a_slice,
        _swap_two_slices,
        lambda study: replace(study, files=study.files[:-1]),
        lambda study: replace(study, name="other"),
        lambda study: replace(study, warnings=("a file was left aside",)),
    ],
)
def test_another_input(change: Callable[[readers.StudyFiles], readers.StudyFiles], study: readers.StudyFiles) -> None:
    before = fingerprint(study, {})
    assert fingerprint(study, {}) == before
    assert fingerprint(change(study), {}) != before


def test_when_files_were_written_does_not_count(study: readers.StudyFiles) -> None:
    before = fingerprint(study, {})
    study.files[0].write_bytes(study.files[0].read_bytes())
    assert fingerprint(study, {}) == before


def test_dicom_files_count_wherever_they_lie(example_dicom: Path, tmp_path: Path) -> None:
    (before,) = readers.find_studies(example_dicom)
    for k, path in enumerate(reversed(before.files)):
        place = tmp_path / "elsewhere" / f"{k % 4}" / f"{k:03d}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    (after,) = readers.find_studies(tmp_path / "elsewhere")
    assert fingerprint(before, {}) == fingerprint(after, {})
    after.files[0].write_bytes(after.files[0].read_bytes() + b"\0")
    assert fingerprint(before, {}) != fingerprint(after, {})


def test_a_sidecar_of_nifti_counts(tmp_path: Path) -> None:
    image = tmp_path / "a.nii.gz"
    image.write_bytes(b"voxels")
    study = readers.StudyFiles("a", "nifti", tmp_path, (image,), "a")
    alone = fingerprint(study, {})
    (tmp_path / "a.json").write_text('{"EchoTime": 0.1}')
    beside = fingerprint(study, {})
    (tmp_path / "a.json").write_text('{"EchoTime": 0.2}')
    assert len({alone, beside, fingerprint(study, {})}) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (readers.Selection(), readers.Selection(pre="none")),
        (readers.Selection(flair="3"), readers.Selection(flair="4")),
        (readers.Selection(rules=built_in()), readers.Selection(rules=replace(built_in(), enough=4))),
    ],
)
def test_another_choice_of_series(one: Any, other: Any, study: readers.StudyFiles) -> None:
    assert fingerprint(study, {"options": one}) == fingerprint(study, {"options": replace(one)})
    assert fingerprint(study, {"options": one}) != fingerprint(study, {"options": other})


@dataclass(frozen=True)
class _Options:
    formats: tuple[str, ...] | None = None
    rules: Path | None = None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"engine": {"sha256": "a"}}, {"engine": {"sha256": "b"}}),
        ({"threshold": 0.5}, {"threshold": 0.51}),
        ({"options": _Options()}, {"options": _Options(("masks",))}),
        ({"options": _Options(("masks",))}, {"options": _Options(("masks", "report"))}),
    ],
)
def test_another_way(one: dict[str, Any], other: dict[str, Any], study: readers.StudyFiles) -> None:
    assert fingerprint(study, one) == fingerprint(study, dict(one))
    assert fingerprint(study, one) != fingerprint(study, other)


def test_another_version(study: readers.StudyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(study, {})
    monkeypatch.setattr(rooms, "__version__", edgeseg.__version__ + ".1")
    assert fingerprint(study, {}) != before


def test_a_file_of_options_counts_by_its_content(study: readers.StudyFiles, tmp_path: Path) -> None:
    for name in ("one", "same"):
        (tmp_path / name).write_text("rules")
    before = fingerprint(study, {"options": _Options(rules=tmp_path / "one")})
    assert fingerprint(study, {"options": _Options(rules=tmp_path / "same")}) == before
    (tmp_path / "one").write_text("other rules")
    assert fingerprint(study, {"options": _Options(rules=tmp_path / "one")}) != before


def test_a_file_that_is_gone_is_left_to_the_reader(study: readers.StudyFiles) -> None:
    before = fingerprint(study, {})
    study.files[0].unlink()
    assert fingerprint(study, {}) != before
