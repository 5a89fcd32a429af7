"""A run's charts: what is drawn where, for runs of every length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg.training import charts, published
from edgeseg.training.records import StepRow

PER_EPOCH = 7


def _run(epochs: int, every: int = 1, trained: bool = False) -> tuple[list[dict[str, Any]], list[StepRow]]:
    """A run's epochs, each ``every``-th of them validated, and its steps."""
    steps = [(k + 1, k // PER_EPOCH + 1, 1e-3 / (k + 1), 1 / (k + 1)) for k in range(epochs * PER_EPOCH)]
    figures = {"loss": 0.3, "iou": 0.6, "dice": 0.7, "dice_patient": 0.8, "false_positive_share": None}
    return [
        {
            "number": number,
            "training": figures if trained else None,
            "validation": figures if every and number % every == 0 else None,
        }
        for number in range(1, epochs + 1)
    ], steps


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn, to look into."""
    from matplotlib.figure import Figure

    figures: list[Any] = []
    saved = Figure.savefig

    def savefig(figure: Any, *given: Any, **options: Any) -> None:
        figures.append(figure)
        saved(figure, *given, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def _lines(axes: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.lines}


@pytest.mark.parametrize("with_published", [False, True])
@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (3, 0), (5, 2), (200, 1)])
def test_every_run_gives_one_whole_png(tmp_path: Path, epochs: int, every: int, with_published: bool) -> None:
    charts.draw(*_run(epochs, every), "IoU", tmp_path / "charts.png", published=with_published)
    with Image.open(tmp_path / "charts.png") as picture:
        assert picture.width > 3 * picture.height
    assert [path.name for path in tmp_path.iterdir()] == ["charts.png"]


def test_a_run_of_a_single_step_is_drawn(tmp_path: Path, drawn: list[Any]) -> None:
    history, steps = _run(1)
    charts.draw(history, steps[:1], "Dice", tmp_path / "charts.png")
    assert drawn[0].axes[0].lines[0].get_marker() == "o"


def test_the_curves_hold_the_runs_figures(tmp_path: Path, drawn: list[Any]) -> None:
    history, steps = _run(4, every=2, trained=True)
    charts.draw(history, steps, "Dice", tmp_path / "charts.png")
    rate, loss, metric = drawn[0].axes
    assert rate.get_yscale() == "linear"
    assert rate.lines[0].get_ydata() == pytest.approx([row[2] for row in steps])
    assert list(rate.lines[0].get_xdata()) == list(range(1, 29))
    each, mean = _lines(loss)["training, each step"], _lines(loss)["training, mean of 5 steps"]
    assert each.get_xdata()[PER_EPOCH - 1 :: PER_EPOCH] == pytest.approx([1, 2, 3, 4])
    assert mean.get_ydata()[0] == pytest.approx(np.mean([row[3] for row in steps[:5]]))
    assert mean.get_xdata()[-1] == 4
    assert list(_lines(loss)["validation"].get_xdata()) == [2, 4]
    assert list(_lines(metric)["Dice, abnormal slices, validation"].get_ydata()) == [0.7, 0.7]
    assert list(_lines(metric)["Dice, abnormal slices, training"].get_xdata()) == [1, 2, 3, 4]
    assert list(_lines(metric)["Dice by patient, validation"].get_ydata()) == [0.8, 0.8]


def test_the_published_run_lies_over_it(tmp_path: Path, drawn: list[Any]) -> None:
    charts.draw(*_run(1), "IoU", tmp_path / "charts.png", published=True)
    rate, loss, metric = (_lines(axes) for axes in drawn[0].axes)
    theirs = rate["published run"]
    assert theirs.get_linestyle() == "--"
    assert (theirs.get_ydata()[0], len(theirs.get_ydata())) == (1e-3, 340)
    assert tuple(loss["published run, validation"].get_ydata()) == published.VALIDATION_LOSS
    assert tuple(metric["published run, IoU"].get_ydata()) == published.VALIDATION_IOU
    charts.draw(*_run(1), "IoU", tmp_path / "charts.png")
    assert not [label for axes in drawn[1].axes for label in _lines(axes) if "published" in label]


def test_a_run_that_was_not_validated_says_so(tmp_path: Path, drawn: list[Any]) -> None:
    charts.draw(*_run(2, every=0), "IoU", tmp_path / "charts.png")
    assert [text.get_text() for text in drawn[0].axes[2].texts] == ["no epoch was validated"]
