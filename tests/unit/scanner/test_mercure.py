"""mercure's contract: images and task.json in, DICOM under mercure's names and result.json out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Edgeseg

from edgeseg.errors import ConfigError
from edgeseg.scanner import mercure

PATIENT = "CANARY^PATIENT"
TASK: dict[str, Any] = {
    "id": "a5c8e9b2-0000-0000-0000-000000000000",
    "info": {
        "action": "process",
        "uid": "1.2.3",
        "uid_type": "study",
        "triggered_rules": {"flair": True},
        "applied_rule": "flair",
        "patient_name": PATIENT,
        "mrn": "CANARY-MRN",
        "acc": "CANARY-ACC",
        "mercure_version": "0.3.0",
        "mercure_appliance": "mercure",
        "mercure_server": "ubuntu",
    },
    "dispatch": {},
    "process": {"module_name": "edgeseg", "module_config": None, "settings": {}, "retain_input_images": False},
    "study": {},
}

Laid = Callable[..., tuple[Path, Path]]


@pytest.fixture
def laid(tmp_path: Path, example_dicom: Path) -> Laid:
    """Two folders, as mercure lays them out before it starts a module."""
    import pydicom

    def lay(settings: Any = None, series: tuple[str, ...] = ("flair", "pre", "post")) -> tuple[Path, Path]:
        given, wanted = tmp_path / "in", tmp_path / "out"
        given.mkdir()
        wanted.mkdir()
        for source in [path for name in series for path in sorted((example_dicom / name).iterdir())]:
            header = pydicom.dcmread(source, stop_before_pixels=True)
            target = given / f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}.dcm"
            shutil.copy(source, target)
            tags = {"PatientName": PATIENT, "SeriesInstanceUID": header.SeriesInstanceUID}
            target.with_suffix(".tags").write_text(json.dumps(tags))
        task = {**TASK, "process": {**TASK["process"], "settings": settings or {}}}
        (given / "task.json").write_text(json.dumps(task, indent=4))
        return given, wanted

    return lay


def test_a_study(laid: Laid, edgeseg: Edgeseg, monkeypatch: pytest.MonkeyPatch) -> None:
    import pydicom

    given, wanted = laid()
    before = sorted(given.iterdir())
    monkeypatch.setenv("MERCURE_IN_DIR", str(given))
    monkeypatch.setenv("MERCURE_OUT_DIR", str(wanted))
    run = edgeseg("watch", "--once")
    assert run.code == 0, run.err
    assert sorted(given.iterdir()) == before
    files = sorted(path.name for path in wanted.iterdir())
    assert files[-1] == "result.json"
    assert len(files) > 1
    for name in files[:-1]:
        found = pydicom.dcmread(wanted / name)
        assert name == f"{found.SeriesInstanceUID}#{found.SOPInstanceUID}.dcm"
    (result,) = json.loads((wanted / "result.json").read_text())["edgeseg"].values()
    assert sorted(result["files"]) == files[:-1]  # UIDs are hashes: their order says nothing
    assert result["volume_ml"] > 0
    assert result["warnings"] == []
    said = run.out + run.err + (wanted / "result.json").read_text()
    assert "CANARY" not in said


def test_the_sites_settings(laid: Laid, edgeseg: Edgeseg) -> None:
    given, wanted = laid({"engine": "lgg-unet-efficientnet-lite0-fp16", "formats": "dicom-seg, report"})
    run = edgeseg("watch", given, "-o", wanted, "--once")
    assert run.code == 0, run.err
    (result,) = json.loads((wanted / "result.json").read_text())["edgeseg"].values()
    assert result["engine"] == "lgg-unet-efficientnet-lite0-fp16"
    assert len(result["files"]) == 1


def test_a_task_that_cannot_be_done_fails(laid: Laid, edgeseg: Edgeseg) -> None:
    given, wanted = laid(series=("post",))
    run = edgeseg("watch", given, "-o", wanted, "--once")
    assert run.code == 2
    assert [path.name for path in wanted.iterdir()] == ["result.json"]
    (result,) = json.loads((wanted / "result.json").read_text())["edgeseg"].values()
    assert "FLAIR" in result["error"]
    assert str(given) not in result["error"]


def test_formats_without_dicom_give_mercure_nothing_to_send(laid: Laid, edgeseg: Edgeseg) -> None:
    given, wanted = laid({"formats": ["report"]})
    run = edgeseg("watch", given, "-o", wanted, "--once")
    assert run.code == 2
    assert "no DICOM result was written" in run.err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sigma": 7}, "hold sigma: edgeseg knows engine"),
        ({"engine": 5}, "the setting engine of task.json is 5"),
        ({"formats": [1]}, "the setting formats"),
        ("text", "no table of settings"),
    ],
)
def test_settings_that_are_none(laid: Laid, settings: Any, said: str) -> None:
    given, _ = laid(settings)
    with pytest.raises(ConfigError, match=said):
        mercure.read_settings(given)


def test_several_steps(laid: Laid) -> None:
    given, _ = laid()
    task = {**TASK, "process": [{**TASK["process"], "settings": {"device": "cpu"}}]}
    (given / "task.json").write_text(json.dumps(task))
    assert mercure.read_settings(given) == mercure.Settings(device="cpu")


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"name": "a task of something else"}'])
def test_folders_that_are_not_mercures(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "task.json").write_text(content)
    assert mercure.read_settings(tmp_path) is None
