"""A run's charts: learning rate by step, losses by step and epoch, the metric by epoch; the published run over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.training import published as theirs
from edgeseg.training.records import StepRow

_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#555555"
_PUBLISHED = {"color": _GREY, "linestyle": "--", "linewidth": 1.3, "zorder": 3}
_FEW = 30
"""Epochs up to which each has its own mark."""


def draw(
    history: Sequence[Mapping[str, Any]],
    steps: Sequence[StepRow],
    metric: str,
    path: Path,
    published: bool = False,
) -> None:
    """Draw a run's learning rate, losses and metric into a PNG.

    Parameters
    ----------
    history
        One dict an epoch, as `edgeseg.training.records.write` takes them; ``validation`` may be None.
    steps
        One row an optimiser step: number, epoch, learning rate, loss.
    metric
        ``IoU`` or ``Dice``: drawn over the slices with an abnormality.
    path
        Where the PNG goes: beside it first, then renamed.
    published
        Draw the published run's learning rate, validation loss and IoU over it, in dashed grey.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    checked = [epoch for epoch in history if epoch["validation"]]
    _draw_rate(left, steps, published)
    _draw_losses(middle, steps, checked, published)
    _draw_metric(right, history, checked, metric, published)
    last = max([epoch["number"] for epoch in history] + [theirs.EPOCHS] * published)
    middle.set_xlim(0, last * 1.04)
    right.set_xlim(0, last * 1.04)
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.set_ylim(bottom=0)
        if len(axes.lines) > 1:
            axes.legend(framealpha=0.9)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=120, format="png")
    part.replace(path)


def _draw_rate(axes: Any, steps: Sequence[StepRow], published: bool) -> None:
    axes.set(title="Learning rate", xlabel="optimiser step", ylabel="learning rate of the step")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)
    if steps:
        look = {"linewidth": 4, "alpha": 0.5} if published else {"linewidth": 2}
        numbers, rates = [row[0] for row in steps], [row[2] for row in steps]
        axes.plot(numbers, rates, color=_BLUE, marker=_mark(steps), label="this run", **look)
    if published:
        rates = [theirs.learning_rate(step) for step in range(theirs.STEPS)]
        axes.plot(range(1, theirs.STEPS + 1), rates, **_PUBLISHED, label="published run")


def _draw_losses(axes: Any, steps: Sequence[StepRow], checked: Sequence[Mapping[str, Any]], published: bool) -> None:
    axes.set(title="Loss (BCE + Dice)", xlabel="epoch", ylabel="loss")
    if steps:
        places, losses = _epochs_done(steps), np.array([row[3] for row in steps])
        look = {"alpha": 0.25, "linewidth": 0.8, "marker": _mark(steps)}
        axes.plot(places, losses, color=_BLUE, label="training, each step", **look)
        window = max(5, len(steps) // 100)
        if len(steps) > window:
            label = f"training, mean of {window} steps"
            axes.plot(places[window - 1 :], _running_mean(losses, window), color=_BLUE, label=label)
    _plot_epochs(axes, checked, [epoch["validation"]["loss"] for epoch in checked], _ORANGE, "s", "validation")
    if published:
        numbers = range(1, theirs.EPOCHS + 1)
        axes.plot(numbers, theirs.VALIDATION_LOSS, marker="x", **_PUBLISHED, label="published run, validation")


def _draw_metric(
    axes: Any,
    history: Sequence[Mapping[str, Any]],
    checked: Sequence[Mapping[str, Any]],
    metric: str,
    published: bool,
) -> None:
    key = metric.lower()
    axes.set(
        title="Agreement with the drawn masks",
        xlabel="epoch",
        ylabel="overlap, 0 to 1",
        ylim=(0, 1),
    )
    measured = [epoch for epoch in history if epoch.get("training")]
    own = [epoch["training"][key] for epoch in measured]
    _plot_epochs(axes, measured, own, _BLUE, "^", f"{metric}, abnormal slices, training")
    _plot_epochs(
        axes, checked, [e["validation"][key] for e in checked], _ORANGE, "s", f"{metric}, abnormal slices, validation"
    )
    by_patient = [epoch["validation"]["dice_patient"] for epoch in checked]
    _plot_epochs(axes, checked, by_patient, _GREEN, "o", "Dice by patient, validation")
    if published:
        numbers = range(1, theirs.EPOCHS + 1)
        axes.plot(numbers, theirs.VALIDATION_IOU, marker="x", **_PUBLISHED, label="published run, IoU")
    if not checked:
        axes.text(0.5, 0.5, "no epoch was validated", ha="center", transform=axes.transAxes, color=_GREY)


def _plot_epochs(
    axes: Any, epochs: Sequence[Mapping[str, Any]], values: Sequence[float], color: str, mark: str, label: str
) -> None:
    """Plot a figure of the epochs that have it, with marks where there are few."""
    if epochs:
        marker = mark if len(epochs) <= _FEW else None
        axes.plot([epoch["number"] for epoch in epochs], values, color=color, marker=marker, label=label)


def _mark(steps: Sequence[StepRow]) -> str | None:
    return "o" if len(steps) == 1 else None


def _epochs_done(steps: Sequence[StepRow]) -> npt.NDArray[np.float64]:
    """Where steps stand on the axis of epochs: an epoch's last step at its number, the others evenly before it."""
    epochs = np.array([row[1] for row in steps])
    _, first, counts = np.unique(epochs, return_index=True, return_counts=True)
    within = np.arange(len(steps)) - np.repeat(first, counts) + 1
    return np.asarray(epochs - 1 + within / np.repeat(counts, counts))


def _running_mean(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Mean of each value and those before it, ``window`` in all; shorter than ``values`` by ``window - 1``."""
    return np.convolve(values, np.full(window, 1 / window), mode="valid")
