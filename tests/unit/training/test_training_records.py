"""A run's figures as files: exact, whole, the same columns always; and TensorBoard's after a resumed run."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeseg.errors import BackendMissing
from edgeseg.training import records

VALIDATION = {"loss": 0.1 + 0.2, "iou": 1 / 3, "dice": 0.5, "dice_patient": 0.6, "false_positive_share": None}
STEPS: list[records.StepRow] = [(k + 1, k // 2 + 1, 1e-3 * math.cos(k), math.pi / (k + 1)) for k in range(4)]


def _epoch(number: int, validation: dict[str, Any] | None = None, training: dict[str, Any] | None = None) -> Any:
    return {
        "number": number,
        "train_loss": 0.7,
        "learning_rate": 1e-05,
        "seconds": 2.0,
        "slices_per_second": 8,
        "training": training,
        "validation": validation,
    }


def _metrics(run: Path) -> list[dict[str, str]]:
    with (run / records.METRICS).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _steps(run: Path) -> list[records.StepRow]:
    with (run / records.STEPS).open(encoding="utf-8", newline="") as file:
        return [
            (int(row["step"]), int(row["epoch"]), float(row["learning_rate"]), float(row["loss"]))
            for row in csv.DictReader(file)
        ]


def test_steps_read_back_as_they_were(tmp_path: Path) -> None:
    records.write(tmp_path, [_epoch(1), _epoch(2)], STEPS)
    assert _steps(tmp_path) == STEPS


def test_steps_that_diverged_read_back(tmp_path: Path) -> None:
    records.write(tmp_path, [], [(1, 1, 1e-3, math.inf), (2, 1, 1e-3, math.nan)])
    (_, _, _, first), (_, _, _, second) = _steps(tmp_path)
    assert first == math.inf
    assert math.isnan(second)


def test_the_log_holds_the_epochs(tmp_path: Path) -> None:
    history = [_epoch(1), _epoch(2, VALIDATION)]
    records.write(tmp_path, history, STEPS)
    lines = (tmp_path / records.LOG).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == history


def test_the_table_has_the_same_columns_whatever_was_measured(tmp_path: Path) -> None:
    records.write(tmp_path, [_epoch(1), _epoch(2, VALIDATION, {**VALIDATION, "iou": 0.25})], STEPS)
    first, second = _metrics(tmp_path)
    assert list(first) == [
        *("epoch", "train_loss", "learning_rate", "seconds", "slices_per_second", "train_iou", "train_dice"),
        *("validation_loss", "iou", "dice", "dice_patient", "false_positive_share"),
    ]
    assert (first["epoch"], first["train_loss"], first["learning_rate"]) == ("1", "0.7", "1e-05")
    assert (first["iou"], first["train_iou"], first["validation_loss"]) == ("", "", "")
    assert (float(second["iou"]), float(second["train_iou"])) == (1 / 3, 0.25)
    assert float(second["validation_loss"]) == 0.1 + 0.2
    assert second["false_positive_share"] == ""
    records.write(tmp_path, [], [])
    assert (tmp_path / records.METRICS).read_text(encoding="utf-8").strip().split(",") == list(first)


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    records.write(tmp_path, [_epoch(1)], STEPS)
    records.write(tmp_path, [_epoch(1), _epoch(2)], STEPS[:2])
    assert len(_metrics(tmp_path)) == 2
    assert len(_steps(tmp_path)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {records.LOG, records.METRICS, records.STEPS}


def _shown(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: each curve's points."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / records.BOARD))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_board_shows_steps_and_epochs(tmp_path: Path) -> None:
    with records.Board(tmp_path) as board:
        for row in STEPS[:2]:
            board.step(row)
        board.epoch(_epoch(1, VALIDATION))
    shown = _shown(tmp_path)
    assert [step for step, _ in shown["step/loss"]] == [1, 2]
    assert [value for _, value in shown["step/learning_rate"]] == pytest.approx([row[2] for row in STEPS[:2]])
    ((step, iou),) = shown["epoch/iou"]
    assert step == 2
    assert iou == pytest.approx(1 / 3)
    assert "epoch/train_iou" not in shown


def test_a_resumed_run_shows_no_step_twice(tmp_path: Path) -> None:
    with records.Board(tmp_path) as board:
        for row in STEPS[:2]:
            board.step(row)
        board.epoch(_epoch(1, VALIDATION))
        board.step(STEPS[2])  # of an epoch that was not finished
    with records.Board(tmp_path) as board:
        for row in STEPS[2:]:
            board.step((*row[:3], 9.0))
        board.epoch(_epoch(2, VALIDATION))
    shown = _shown(tmp_path)
    assert [step for step, _ in shown["step/loss"]] == [1, 2, 3, 4]
    assert [value for _, value in shown["step/loss"]][2:] == [9.0, 9.0]
    assert [step for step, _ in shown["epoch/iou"]] == [2, 4]


def test_without_tensorboard_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(BackendMissing, match=r"pip install 'edgeseg\[tensorboard\]'"):
        records.Board(tmp_path)
    assert not list(tmp_path.iterdir())
