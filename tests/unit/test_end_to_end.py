"""The whole way beside the engine alone: what is counted, what it is made of, and the command that shows it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgeseg import end_to_end, segment
from edgeseg.errors import StudyError

QUICK = segment.Options(("masks", "report"))


@pytest.fixture(autouse=True)
def _shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "LEAST_SLICES", 40)
    monkeypatch.setattr(end_to_end, "_ALONE_S", 0.01)


@pytest.fixture
def archive(tmp_path: Path, example_tiff: Path) -> Path:
    for name in ("a", "b"):
        shutil.copytree(example_tiff, tmp_path / "archive" / name)
    return tmp_path / "archive"


def test_what_the_whole_way_is_made_of(archive: Path, default_engine: segment.OpenEngine) -> None:
    report = end_to_end.measure(archive, default_engine.manifest.name, options=QUICK, rounds=2)
    assert (report.studies, report.slices, report.rounds) == (4, 60, 2), "twice the archive makes 40 slices and more"
    assert {step.name for step in report.steps} == set(end_to_end.STEPS)
    assert all(step.ms > 0 for step in report.steps), report.steps
    (network,) = (step for step in report.steps if step.name == "network")
    assert report.network_busy == network.share
    assert 0 < report.network_busy <= 1
    whole_ms = 1000 / report.slices_per_second
    for stage in set(end_to_end.STEPS.values()):
        assert sum(step.ms for step in report.steps if step.stage == stage) <= 1.2 * whole_ms, "a stage is one thread"
    ratio = report.slices_per_second / report.engine_slices_per_second
    assert report.end_to_end_over_engine == pytest.approx(ratio, rel=0.5), "medians of turns, not of each"


def test_a_study_that_fails_ends_it(
    archive: Path, default_engine: segment.OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise StudyError("its files are gone")

    monkeypatch.setattr(segment, "finish", broken)
    with pytest.raises(StudyError, match="gone"):
        end_to_end.measure(archive, default_engine.manifest.name, options=QUICK, rounds=1)


def test_a_round_takes_the_time_of_all_its_studies_into_account(default_engine: segment.OpenEngine) -> None:
    steps = dict.fromkeys(end_to_end.STEPS, 1.0)
    turns = [end_to_end._Turn(10.0, steps, 0.04), end_to_end._Turn(20.0, steps, 0.04)]
    report = end_to_end._report(turns, default_engine, QUICK, 4, 100, None)
    assert report.slices_per_second == 7.5
    assert report.engine_slices_per_second == 25.0
    assert report.end_to_end_over_engine == 0.3, "of 0.4 and 0.2"
    assert {(step.ms, step.share) for step in report.steps} == {(10.0, 0.075)}
    assert "0.30 of it; the network is at work 8 % of the time" in end_to_end.sentence(report)
    assert end_to_end.sentence(replace(report, peak_mb=432.1)).endswith("; at most 432 MB")


def test_the_command(archive: Path, edgeseg: Any, tmp_path: Path) -> None:
    given = ("benchmark", "--end-to-end", archive, "--format", "masks", "--format", "report", "--rounds", 1)
    shown = edgeseg(*given, "--chart", tmp_path / "way.png")
    assert shown.code == 0
    assert "From folder to files" in shown.out
    assert all(line_length <= 80 for line_length in map(len, shown.out.splitlines()))
    with Image.open(tmp_path / "way.png") as image:
        assert image.width == 1200
    result = edgeseg(*given, "--json")
    assert json.loads(result.out)["end_to_end_over_engine"] > 0
    refused = edgeseg("benchmark", "one", "two", "--end-to-end", archive)
    assert (refused.code, "measured with one engine, not with 2" in refused.err) == (2, True)
    missing = edgeseg("benchmark", "--end-to-end", tmp_path / "nothing")
    assert missing.code == 2
