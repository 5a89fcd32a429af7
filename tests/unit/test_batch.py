"""Many studies: a bad one never stops the others, and a place that cannot be written stops all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeseg import batch, readers, segment
from edgeseg.errors import OutputError, StudyError


@pytest.fixture
def studies(tmp_path: Path, example_tiff: Path) -> Path:
    """A bad study between two good ones of five slices."""
    root = tmp_path / "in"
    for name in ("a-good", "b-bad", "c-good"):
        (root / name).mkdir(parents=True)
        for k in range(12, 17):
            shutil.copy(example_tiff / f"{example_tiff.name}_{k}.tif", root / name)
    (root / "b-bad" / f"{example_tiff.name}_14.tif").unlink()
    return root


def test_a_bad_study_among_good_ones(studies: Path, tmp_path: Path, default_engine: segment.OpenEngine) -> None:
    found = readers.find_studies(studies)
    outcomes = list(batch.run(found, default_engine, tmp_path / "out", segment.Options(("masks", "report"))))
    assert [outcome.name for outcome in outcomes] == ["a-good", "b-bad", "c-good"]
    assert [outcome.root for outcome in outcomes] == [studies / outcome.name for outcome in outcomes]
    first, bad, last = outcomes
    assert bad.result is None
    assert isinstance(bad.error, StudyError)
    assert "number 14 is missing" in str(bad.error)
    for good in (first, last):
        assert good.error is None
        assert good.result is not None
        assert (good.result.folder / "report.json").is_file()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-good", "c-good"]


def test_studies_are_segmented_one_by_one(studies: Path, tmp_path: Path, default_engine: segment.OpenEngine) -> None:
    outcomes = batch.run(readers.find_studies(studies), default_engine, tmp_path / "out", segment.Options(("masks",)))
    next(outcomes)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a-good"]


def test_a_place_that_cannot_be_written_stops_all(
    studies: Path, tmp_path: Path, default_engine: segment.OpenEngine
) -> None:
    (tmp_path / "out").write_text("a file stands here")
    (only,) = batch.run(readers.find_studies(studies), default_engine, tmp_path / "out")
    assert isinstance(only.error, OutputError)
    assert "cannot write to" in str(only.error)


def test_an_unexpected_error_stops_its_own_study_alone(
    studies: Path, tmp_path: Path, default_engine: segment.OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(readers, "read_study", broken)
    found = readers.find_studies(studies)
    for identified, said in ((False, "ZeroDivisionError: please"), (True, "ZeroDivisionError: by nothing; please")):
        options = segment.Options(identified=identified)
        outcomes = list(batch.run(found, default_engine, tmp_path / "out", options))
        assert len(outcomes) == len(found)
        for outcome in outcomes:
            assert outcome.error is not None
            assert outcome.error.exit_code == 1
            assert f"unexpected {said}" in str(outcome.error)
