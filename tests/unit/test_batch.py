"""Many studies: a bad one never stops the others, and a place that cannot be written stops all."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import weakref
from pathlib import Path

import pytest

from edgeseg import batch, readers, results, segment
from edgeseg.errors import InputError, OutputError, StudyError
from edgeseg.types import Study, Volume


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


def test_an_outcome_is_told_while_later_studies_are_at_work(
    studies: Path, tmp_path: Path, default_engine: segment.OpenEngine, example_tiff: Path
) -> None:
    for number in range(8):
        shutil.copytree(example_tiff, studies / f"d-{number}")
    outcomes = batch.run(readers.find_studies(studies), default_engine, tmp_path / "out", segment.Options(("masks",)))
    first = next(outcomes)
    assert first.result is not None
    assert (first.result.folder / first.result.files[0]).is_file()
    assert not (tmp_path / "out" / "d-7").exists()


def test_a_run_that_is_left_clears_away_what_it_had_begun(
    studies: Path, tmp_path: Path, default_engine: segment.OpenEngine, example_tiff: Path
) -> None:
    for number in range(8):
        shutil.copytree(example_tiff, studies / f"d-{number}")
    outcomes = batch.run(readers.find_studies(studies), default_engine, tmp_path / "out", segment.Options(("masks",)))
    next(outcomes)
    del outcomes
    assert not list((tmp_path / "out").glob(".*"))


def test_the_line_writes_what_the_simple_way_writes_bit_for_bit(
    studies: Path, tmp_path: Path, default_engine: segment.OpenEngine, example_dicom: Path
) -> None:
    shutil.copytree(example_dicom, studies / "dicom")
    found = readers.find_studies(studies)
    outcomes = {outcome.name: outcome for outcome in batch.run(found, default_engine, tmp_path / "line")}
    compared = 0
    for files in found:
        if outcomes[files.name].error is None:
            simple = segment.segment(files, default_engine, tmp_path / "simple").folder
            written = sorted(path.relative_to(simple) for path in simple.rglob("*") if path.is_file())
            line = tmp_path / "line" / files.name
            assert sorted(path.relative_to(line) for path in line.rglob("*") if path.is_file()) == written
            for name in written:
                if name.name == "report.json":
                    ours, theirs = (json.loads((folder / name).read_text()) for folder in (line, simple))
                    assert {**ours, "timings_ms": None} == {**theirs, "timings_ms": None}
                elif name.name != "report.html":  # it shows the times
                    assert (line / name).read_bytes() == (simple / name).read_bytes(), name
                    compared += 1
    assert compared > 20


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


# --- what is done already


def _reports(output: Path) -> dict[str, tuple[int, int]]:
    """Each report's inode and time: unlike when it was written again."""
    found = {path.parent.name: path.stat() for path in output.glob("*/report.json")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


QUICK = segment.Options(("masks", "report"))


def test_a_second_run_does_only_what_is_not_done(
    studies: Path, tmp_path: Path, default_engine: segment.OpenEngine, example_tiff: Path
) -> None:
    output = tmp_path / "out"
    first = list(batch.run(readers.find_studies(studies), default_engine, output, QUICK))
    written = _reports(output)
    shutil.copy(example_tiff / f"{example_tiff.name}_14.tif", studies / "b-bad")  # mended
    second = list(batch.run(readers.find_studies(studies), default_engine, output, QUICK))
    assert [outcome.result and outcome.result.already for outcome in second] == [True, False, True]
    assert {name: written[name] for name in ("a-good", "c-good")} == written
    assert {**_reports(output), **written} == _reports(output)
    assert first[0].result is not None
    assert second[0].result is not None
    assert second[0].result.folder == first[0].result.folder
    assert second[0].result.files == first[0].result.files
    assert second[0].result.report()["slices"] == first[0].result.report()["slices"]


@pytest.mark.parametrize("change", ["options", "input", "results", "again"])
def test_what_is_done_is_done_again(
    change: str, studies: Path, tmp_path: Path, default_engine: segment.OpenEngine
) -> None:
    def run(options: segment.Options = QUICK, again: bool = False) -> batch.Finished:
        (outcome,) = batch.run(readers.find_studies(studies / "a-good"), default_engine, tmp_path, options, again=again)
        assert outcome.result is not None
        return outcome.result

    run()
    assert run().already
    if change == "input":
        slices = sorted((studies / "a-good").iterdir())
        slices[0].write_bytes(slices[1].read_bytes())
    elif change == "results":
        next((tmp_path / "a-good" / "masks").iterdir()).unlink()
    done = run(segment.Options(("report",)) if change == "options" else QUICK, again=change == "again")
    assert not done.already
    assert {path.relative_to(done.folder).as_posix() for path in done.folder.rglob("*.*")} == set(done.files)
    assert done.report()["fingerprint"] == json.loads((done.folder / "report.json").read_text())["fingerprint"]


def test_without_a_report_nothing_counts_as_done(
    studies: Path, tmp_path: Path, default_engine: segment.OpenEngine
) -> None:
    for _ in range(2):
        found = readers.find_studies(studies / "a-good")
        (outcome,) = batch.run(found, default_engine, tmp_path, segment.Options(("masks",)))
        assert outcome.result is not None
        assert not outcome.result.already


def test_two_runs_at_once_do_each_study_once(studies: Path, tmp_path: Path, default_engine: segment.OpenEngine) -> None:
    found = readers.find_studies(studies / "a-good")
    done: list[bool] = []

    def run() -> None:
        for outcome in batch.run(found, default_engine, tmp_path, QUICK):
            assert outcome.result is not None
            done.append(outcome.result.already)

    first = batch.run(found, default_engine, tmp_path, QUICK)
    with results.staging(tmp_path, "a-good"):  # the other one is at work, and will have finished first
        waiting = threading.Thread(target=run)
        waiting.start()
        waiting.join(0.5)
        assert not done
    waiting.join()
    assert done == [False]
    (second,) = first
    assert second.result is not None
    assert second.result.already


def test_what_a_killed_run_left_is_cleared_away(
    studies: Path, tmp_path: Path, default_engine: segment.OpenEngine
) -> None:
    (tmp_path / ".gone-0123abcd.part" / "files").mkdir(parents=True)
    list(batch.run(readers.find_studies(studies / "a-good"), default_engine, tmp_path, QUICK))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_nothing_that_is_kept_holds_voxels(studies: Path, tmp_path: Path, default_engine: segment.OpenEngine) -> None:
    volumes: list[weakref.ref[Volume]] = []
    read = readers.read_study
    broken = iter((False, True, True))

    def spy(files: readers.StudyFiles, selection: readers.Selection) -> Study:
        study = read(files, selection)
        volumes.append(weakref.ref(study.flair))
        if next(broken):
            raise StudyError("read, and then found to be odd")
        return study

    (studies / "b-bad").rename(tmp_path / "aside")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "read_study", spy)
        kept = list(batch.run(readers.find_studies(studies), default_engine, tmp_path / "out", QUICK))
    assert [outcome.error is None for outcome in kept] == [True, False]
    gc.collect()
    assert len(volumes) == 2
    assert [volume() for volume in volumes] == [None, None]


# --- shards


def _named(names: list[str]) -> list[readers.StudyFiles]:
    return [readers.StudyFiles(name, "tiff", Path(name), (), name) for name in names]


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 50])
def test_shards_hold_every_study_once(parts: int) -> None:
    names = [f"study-{number}" for number in range(200)]
    held = [batch.shard(_named(names), f"{part}/{parts}") for part in range(1, parts + 1)]
    assert sorted(files.name for shard in held for files in shard) == sorted(names)
    assert max(map(len, held)) < 200 / parts + 4 * (200 / parts) ** 0.5


def test_a_study_stays_in_its_shard_when_others_arrive() -> None:
    few, many = _named(["b", "d"]), _named(["a", "b", "c", "d", "e"])
    for part in ("1/3", "2/3", "3/3"):
        held = {files.name for files in batch.shard(few, part)}
        assert held == {files.name for files in batch.shard(many, part)} & {"b", "d"}


@pytest.mark.parametrize(
    "which", ["0/4", "5/4", "1/0", "0/0", "-1/4", "1", "1/", "/4", "a/b", "1/4/2", "1.5/4", "²/4", ""]
)
def test_a_shard_that_is_none(which: str) -> None:
    with pytest.raises(InputError, match="--shard takes a part and how many there are, from 1/8 to 8/8"):
        batch.shard(_named(["a"]), which)
