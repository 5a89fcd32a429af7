"""--flair, --pre, --post and --rules on the command line, and what the report says of the choice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Edgeseg


def _report(edgeseg: Edgeseg, *arguments: str | Path) -> dict[str, Any]:
    run = edgeseg("infer", *arguments, "--format", "report", "--json", "-o", "out")
    assert run.code == 0, run.err
    (report,) = run.json["studies"]
    assert isinstance(report, dict)
    return report


def test_the_report_shows_scores_and_every_series(edgeseg: Edgeseg, example_dicom: Path) -> None:
    report = _report(edgeseg, example_dicom)
    assert report["selection"]["rules"] == "built-in"
    considered = report["selection"]["considered"]
    assert {one["kind"]: one["channel"] for one in considered} == {
        "FLAIR": "flair",
        "T1 before contrast": "pre",
        "T1 after contrast": "post",
    }
    for one in considered:
        assert report["channels"][one["channel"]]["score"] == one["score"] > 3


def test_series_are_named_and_left_out(edgeseg: Edgeseg, example_dicom: Path) -> None:
    report = _report(edgeseg, example_dicom, "--flair", "3", "--pre", "none", "--post", "2")
    assert report["channels"]["post"]["series"].startswith("series 2 (")
    assert report["channels"]["pre"]["reason"] == "left out with --pre none"
    assert "was named with --post, and by the rules it is no T1 after contrast" in report["warnings"][0]


def test_an_unknown_name_lists_what_there_is(edgeseg: Edgeseg, example_dicom: Path) -> None:
    run = edgeseg("infer", example_dicom, "--flair", "99")
    assert run.code == 2
    said = " ".join(run.err.split())
    assert "--flair 99 fits none of the study's series. There are: series" in said
    assert "AX" not in said


def test_a_series_is_not_named_for_several_studies(edgeseg: Edgeseg, example_dicom: Path, tmp_path: Path) -> None:
    shutil.copytree(example_dicom, tmp_path / "many" / "a")
    (tmp_path / "many" / "b").mkdir()
    shutil.copy(next((example_dicom / "flair").iterdir()), tmp_path / "many" / "b" / "x.dcm")
    (tmp_path / "many" / "b" / "x.dcm").write_bytes(
        (tmp_path / "many" / "b" / "x.dcm").read_bytes().replace(b"2.25.", b"2.26.")
    )
    run = edgeseg("infer", tmp_path / "many", "--flair", "3")
    assert run.code == 2
    assert "2 studies were found, each with series of its own" in " ".join(run.err.split())


def test_a_sites_rules_are_used_and_named(edgeseg: Edgeseg, example_dicom: Path, tmp_path: Path) -> None:
    ours = {"kind": "other", "points": 90, "says": "ours", "when": {"text": ["^ax t1$"]}}
    rules = {"format": 1, "rules": {"ours": ours}}
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(rules), encoding="utf-8")
    report = _report(edgeseg, example_dicom, "--rules", path)
    assert report["selection"]["rules"].startswith("site ")
    assert report["channels"]["pre"]["filled_with"] == "flair"
    assert "other" in {one["kind"] for one in report["selection"]["considered"]}


@pytest.mark.parametrize("command", ["watch", "receive"])
def test_services_refuse_wrong_rules_at_their_start(command: str, edgeseg: Edgeseg, tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('{"format": 1, "enough": 0}', encoding="utf-8")
    (tmp_path / "in").mkdir()
    run = edgeseg(command, *([tmp_path / "in"] if command == "watch" else ["--port", "0"]), "--rules", path)
    assert run.code == 2
    assert "enough is 0, where a whole number" in " ".join(run.err.split())


def test_a_watched_folder_takes_a_sites_rules(edgeseg: Edgeseg, example_dicom: Path, tmp_path: Path) -> None:
    ours = {"kind": "other", "points": 90, "says": "ours", "when": {"text": ["^ax t1$"]}}
    (tmp_path / "rules.json").write_text(json.dumps({"format": 1, "rules": {"ours": ours}}), encoding="utf-8")
    shutil.copytree(example_dicom, tmp_path / "in" / "study")
    given = ("--rules", tmp_path / "rules.json", "--format", "report", "--once", "--quiet", "0")
    run = edgeseg("watch", tmp_path / "in", "-o", tmp_path / "out", *given)
    assert run.code == 0, run.err
    (report,) = (tmp_path / "out").glob("*/report.json")
    content = json.loads(report.read_text(encoding="utf-8"))
    assert content["selection"]["rules"].startswith("site ")
    assert content["channels"]["pre"]["filled_with"] == "flair"


def test_rules_that_are_wrong_are_refused_before_anything_is_read(edgeseg: Edgeseg, tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('{"format": 1, "rules": {"ours": {"kind": "T9"}}}', encoding="utf-8")
    run = edgeseg("infer", tmp_path / "nowhere", "--rules", path)
    assert run.code == 2
    assert "rule ours: lacks the field points" in " ".join(run.err.split())
