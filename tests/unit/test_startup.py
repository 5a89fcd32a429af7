"""Where a start's time goes: what is read from the marks, and one real start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseg import bundle, startup
from edgeseg.errors import EngineError, InputError
from edgeseg.trace import COMMAND, MARK

MS = 1_000_000


def _mark(ms: int, what: str, phase: str) -> str:
    return f"{MARK} {ms * MS} {what} {phase}"


def _import(ms: float, name: str) -> str:
    return f"import time: {round(ms * 1000):9} | {round(ms * 1000):10} |   {name}"


def test_imports_are_told_from_the_phase_that_they_happened_in() -> None:
    lines = [
        "import time: self [us] | cumulative | imported package",
        _import(5, "site"),
        _mark(1020, "begin", COMMAND),
        _import(3, "edgeseg.cli"),
        _mark(1030, "begin", "find the study"),
        _import(4, "pydicom.dataset"),
        _import(2, "pydicom"),
        "a sentence for people",
        _mark(1050, "end", "find the study"),
        _mark(1060, "end", COMMAND),
    ]
    run = startup.parse(lines, 1000 * MS, 1063 * MS)
    assert run.total_ms == 63
    found = {name: ms for name, ms in run.phases_ms.items() if ms}
    assert found == {
        startup.START: 20,  # with what Python imports for itself
        startup.IMPORTS: 9,
        "find the study": 14,
        COMMAND: 17,
        startup.END: 3,
    }
    assert run.imports_ms == {"edgeseg": 3, "pydicom": 6}
    assert run.modules == {"edgeseg": 1, "pydicom": 2}


def test_a_phase_within_another_has_its_own_time() -> None:
    lines = [
        _mark(10, "begin", COMMAND),
        _mark(20, "begin", "open the engine"),
        _mark(25, "begin", "verify the engine"),
        _mark(28, "end", "verify the engine"),
        _mark(40, "end", "open the engine"),
        _mark(41, "end", COMMAND),
    ]
    run = startup.parse(lines, 0, 41 * MS)
    assert (run.phases_ms["open the engine"], run.phases_ms["verify the engine"]) == (17, 3)
    assert sum(run.phases_ms.values()) == run.total_ms


def test_phases_that_overlap_are_counted_once() -> None:
    lines = [
        _mark(0, "begin", COMMAND),
        _mark(10, "begin", "network"),
        _mark(20, "begin", "write"),
        _mark(30, "end", "network"),
        _mark(45, "end", "write"),
        _mark(50, "end", COMMAND),
    ]
    run = startup.parse(lines, 0, 50 * MS)
    assert (run.phases_ms["network"], run.phases_ms["write"]) == (10, 25)
    assert sum(run.phases_ms.values()) == run.total_ms


def test_one_start_of_each_kind(edgeseg: Callable[..., Any], example_tiff: Path, tiny_bundle: Path) -> None:
    run = edgeseg("benchmark", tiny_bundle, "--startup", "--study", example_tiff, "--rounds", 1, "--json")
    assert run.code == 0
    found = run.json
    assert (found["engine"], found["study"], found["rounds"]) == (tiny_bundle.name, example_tiff.name, 1)
    assert found["plain_ms"] > 0
    for one in (found["first"], found["later"]):
        assert list(one["phases_ms"]) == list(startup.ORDER)
        # every phase is found where it is: one that has been renamed would be 0
        assert [name for name, ms in one["phases_ms"].items() if ms <= 0] == []
        assert sum(one["phases_ms"].values()) == pytest.approx(one["total_ms"], abs=1)
        assert {"edgeseg", "numpy", "openvino"} <= one["imports_ms"].keys()


def test_the_tables_hold_every_phase_and_all_imports() -> None:
    run = startup.Run(
        100.0,
        dict.fromkeys(startup.ORDER, 2.0),
        {f"package{k}": 1.0 + k for k in range(20)},
        {f"package{k}": k for k in range(20)},
    )
    report = startup.Report({}, "engine", "study", 3, 90.0, run, run)
    assert [row[0] for row in startup.rows(report)] == [*startup.ORDER, "all of it", "unwatched"]
    rows = startup.package_rows(report)
    assert rows[0] == ["package19", "19", "20.0"]
    assert rows[-1] == ["others", str(sum(range(8))), "36.0"]
    assert {len(row) for row in startup.rows(report)} == {len(startup.COLUMNS)}


def test_several_studies_or_engines_are_refused(
    edgeseg: Callable[..., Any], example_tiff: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / "studies" / name).mkdir(parents=True)
        for file in example_tiff.glob("*.tif"):
            (tmp_path / "studies" / name / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="2 studies were found"):
        startup.measure(bundle.DEFAULT_ENGINE, tmp_path / "studies", 1)
    run = edgeseg("benchmark", "a", "b", "--startup")
    assert run.code == 2
    assert "one engine" in run.err


def test_a_start_that_fails_says_why(example_dicom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.startup._TRACED", "import sys; sys.stderr.write('error: no room'); sys.exit(2)")
    with pytest.raises(EngineError, match="left with 2: error: no room"):
        startup.measure(bundle.DEFAULT_ENGINE, example_dicom, 1)
