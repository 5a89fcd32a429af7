"""The published run that the training module reproduces: its facts, its learning rate, and a run beside it.

Source: h2oai/ht-catalog, use case 27, "Brain MRI Segmentation": card, configuration, log and charts of a run of
Hydrogen Torch v1.2.0. Its split is by slice: patients stand on both sides, and its figures flatter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ENCODER = "resnet34"
BATCH_SIZE = 16
EPOCHS = 5
STEPS_PER_EPOCH = 68
STEPS = EPOCHS * STEPS_PER_EPOCH
TRAINING_SLICES, VALIDATION_SLICES = 1_099, 274
LEARNING_RATE = 1e-3

VALIDATION_LOSS = (0.59148, 0.34981, 0.22882, 0.19084, 0.18871)
"""BCE plus Dice loss on the validation slices after each epoch."""

VALIDATION_IOU = (0.55086, 0.60758, 0.68981, 0.72499, 0.72783)
"""Mean IoU, 0..1, of the validation slices (all with an abnormality) after each epoch."""


class Row(NamedTuple):
    """An epoch of a run beside the published one's; None where one has no figure. A difference is ours less theirs."""

    epoch: int
    loss: float | None
    published_loss: float | None
    loss_difference: float | None
    iou: float | None
    published_iou: float | None
    iou_difference: float | None

    def cells(self) -> list[str]:
        """The row as text, under `COLUMNS`; ``-`` for what is missing."""
        signed = (self.loss_difference, self.iou_difference)
        loss, iou = ("-" if value is None else f"{value:+.5f}" for value in signed)
        return [
            str(self.epoch),
            *(_cell(value) for value in (self.loss, self.published_loss)),
            loss,
            *(_cell(value) for value in (self.iou, self.published_iou)),
            iou,
        ]


COLUMNS = ("epoch", "loss", "published", "difference", "IoU", "published", "difference")
"""Heads of `Row.cells`; loss and IoU are those of the validation slices with an abnormality."""


def learning_rate(step_taken: int) -> float:
    """Learning rate once ``step_taken`` steps are done, which the next step is taken with: 1e-3 at 0, 0 at 340.

    Raises
    ------
    ValueError
        When the published run has no such step.
    """
    if not 0 <= step_taken <= STEPS:
        raise ValueError(f"the published run has no step {step_taken}: expected 0 to {STEPS}")
    return 0.5 * (1 + math.cos(math.pi * step_taken / STEPS)) * LEARNING_RATE


def compare(history: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A run's validation beside the published one's: its five epochs, and the run's last one where it is a later one.

    Parameters
    ----------
    history
        The run's epochs, dicts with ``number`` and ``validation`` (None, or a dict with ``loss`` and ``iou``).
    """
    ours = {epoch["number"]: epoch["validation"] for epoch in history if epoch["validation"]}
    later = [number for number in sorted(ours)[-1:] if number > EPOCHS]
    return [_row(number, ours.get(number)) for number in (*range(1, EPOCHS + 1), *later)]


def protocol(
    encoder: str, epochs: int, training_slices: int, validation_slices: int, batch_size: int, by_patient: bool
) -> str:
    """Say in a sentence how a run's protocol differs from the published one; nothing (an empty text) where it does not.

    Parameters
    ----------
    encoder
        The run's.
    epochs, training_slices, validation_slices, batch_size
        Its counts.
    by_patient
        Whether the split keeps patients together.
    """
    differences = [
        f"{ours:,} {what} instead of {theirs:,}"
        for what, ours, theirs in (
            ("epochs", epochs, EPOCHS),
            ("training slices", training_slices, TRAINING_SLICES),
            ("validation slices", validation_slices, VALIDATION_SLICES),
            ("slices a batch", batch_size, BATCH_SIZE),
        )
        if ours != theirs
    ]
    if encoder != ENCODER:
        differences.insert(0, f"the encoder {encoder} instead of {ENCODER}")
    if by_patient:
        differences.append("a split by patient instead of by slice")
    return f"Not the published protocol: {', '.join(differences)}." if differences else ""


def _row(number: int, ours: Mapping[str, Any] | None) -> Row:
    known = number <= EPOCHS
    loss, iou = (ours["loss"], ours["iou"]) if ours else (None, None)
    their_loss = VALIDATION_LOSS[number - 1] if known else None
    their_iou = VALIDATION_IOU[number - 1] if known else None
    return Row(number, loss, their_loss, _difference(loss, their_loss), iou, their_iou, _difference(iou, their_iou))


def _difference(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"
