"""Pictures of a run: learning rate, losses and the metric by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(history: list[dict[str, Any]], metric: str, path: Path) -> None:
    """Draw losses and metric of a run's epochs into a PNG.

    Parameters
    ----------
    history
        From `edgeseg.training.loop.fit`.
    metric
        ``IoU`` or ``Dice``: drawn over the validation slices with an abnormality.
    path
        Where the PNG goes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    epochs = [epoch["number"] for epoch in history]
    checked = [epoch for epoch in history if epoch["validation"]]
    numbers = [epoch["number"] for epoch in checked]
    left.plot(epochs, [epoch["train_loss"] for epoch in history], "o-", label="training")
    left.plot(numbers, [epoch["validation"]["loss"] for epoch in checked], "s-", label="validation")
    left.set(title="Loss (BCE + Dice)", xlabel="epoch")
    left.legend()
    key = metric.lower()
    middle.plot(numbers, [epoch["validation"][key] for epoch in checked], "o-", label=f"{metric}, abnormal slices")
    middle.plot(numbers, [epoch["validation"]["dice_patient"] for epoch in checked], "s-", label="Dice, patients")
    middle.set(title="Validation", xlabel="epoch", ylim=(0, 1))
    middle.legend()
    right.semilogy(epochs, [max(epoch["learning_rate"], 1e-12) for epoch in history], "o-")
    right.set(title="Learning rate at the epoch's last step", xlabel="epoch")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=110)
