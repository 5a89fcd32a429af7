"""A run's figures as files: a line an epoch, tables of epochs and steps, and TensorBoard's where it is asked for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeseg.errors import BackendMissing

BEGUN = "run.json"
"""What a run drew and loaded when it began: the first line of its log."""
LOG, METRICS, STEPS, BOARD = "log.jsonl", "metrics.csv", "steps.csv", "tensorboard"

StepRow = tuple[int, int, float, float]
"""One optimiser step: its number in the run, its epoch (both from 1), the learning rate it was taken with, its loss."""

_STEP_COLUMNS = ("step", "epoch", "learning_rate", "loss")
_OF_EPOCH = ("train_loss", "learning_rate", "seconds", "slices_per_second")
_OF_TRAINING = ("iou", "dice")
_OF_VALIDATION = ("iou", "dice", "dice_patient", "false_positive_share")


def write(run: Path, history: Sequence[Mapping[str, Any]], steps: Sequence[StepRow]) -> None:
    """Write ``log.jsonl``, ``metrics.csv`` and ``steps.csv`` into a run's folder.

    Each is written beside its place and renamed, so whoever reads it finds a whole one. Floats are written such that
    they read back exactly; what an epoch does not have is an empty cell, and the columns are always the same.

    Parameters
    ----------
    run
        An existing folder; what ``run.json`` in it says is the log's first line.
    history
        One dict an epoch: ``number`` (from 1), ``train_loss``, ``learning_rate`` (of its last step), ``seconds``,
        ``slices_per_second``, ``training`` and ``validation`` (None, or a dict of the figures on those slices).
    steps
        One row an optimiser step, in order.

    Raises
    ------
    OSError
        When the folder cannot be written to.
    """
    head = [json.loads((run / BEGUN).read_text(encoding="utf-8"))] if (run / BEGUN).is_file() else []
    _replace(run / LOG, "".join(json.dumps(dict(line)) + "\n" for line in (*head, *history)))
    _replace(run / METRICS, _table([_flat(epoch) for epoch in history], tuple(_flat({}))))
    _replace(run / STEPS, _table([dict(zip(_STEP_COLUMNS, row, strict=True)) for row in steps], _STEP_COLUMNS))


def _flat(epoch: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch as one row: the columns of ``metrics.csv``, in their order."""
    training, validation = epoch.get("training") or {}, epoch.get("validation") or {}
    return {
        "epoch": epoch.get("number"),
        **{name: epoch.get(name) for name in _OF_EPOCH},
        **{f"train_{name}": training.get(name) for name in _OF_TRAINING},
        "validation_loss": validation.get("loss"),
        **{name: validation.get(name) for name in _OF_VALIDATION},
    }


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else repr(float(value))


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)


class Board:
    """A run's figures for TensorBoard, in the folder ``tensorboard`` of the run, over the number of the step.

    An epoch's figures stand at its last step. A resumed run begins at the step after its checkpoint: what the board
    shows from there on is hidden, and taken again. Use it in a with-statement, or `close` it.

    Parameters
    ----------
    run
        The run's folder.

    Raises
    ------
    BackendMissing
        When TensorBoard is not installed.
    """

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise BackendMissing("a log for TensorBoard needs it: pip install 'edgeseg[tensorboard]'") from error
        self._run, self._begin, self._last = run, SummaryWriter, 0
        self._writer: Any = None

    def step(self, row: StepRow) -> None:
        """Take one optimiser step."""
        if self._writer is None:
            purge = row[0] if (self._run / BOARD).is_dir() else None
            self._writer = self._begin(str(self._run / BOARD), purge_step=purge)
        self._last, _, rate, loss = row
        self._writer.add_scalar("step/learning_rate", rate, self._last)
        self._writer.add_scalar("step/loss", loss, self._last)

    def epoch(self, figures: Mapping[str, Any]) -> None:
        """Take one epoch, a dict as in `write`; it stands at the last step that was taken."""
        for name, value in _flat(figures).items():
            if value is not None and name not in ("epoch", "learning_rate"):
                self._writer.add_scalar(f"epoch/{name}", value, self._last)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
