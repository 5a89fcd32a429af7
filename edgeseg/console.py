"""The one place that prints: tables and progress for people, JSON and plain lines for scripts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from textwrap import indent
from typing import Any

NOTICE = "Non-commercial research use only. Not a medical device."

_STEPS = {
    "read": "reading",
    "preprocess": "preprocessing",
    "network": "running the network",
    "postprocess": "postprocessing",
    "write": "writing",
}


class Console:
    """Messages go to standard error, results to standard output; ``as_json`` leaves only JSON on the latter."""

    def __init__(self, as_json: bool = False) -> None:
        from rich.console import Console as Rich

        self.as_json = as_json
        self._out = Rich(highlight=False, markup=False, emoji=False)
        self._err = Rich(stderr=True, highlight=False, markup=False, emoji=False)

    def say(self, message: str) -> None:
        """Print a line for people."""
        self._err.print(message, soft_wrap=not self._err.is_terminal)

    def warn(self, message: str) -> None:
        """Print a line that a person should read."""
        self._err.print(f"warning: {message}", style="yellow", soft_wrap=not self._err.is_terminal)

    def fail(self, message: str) -> None:
        """Print why something did not work."""
        self._err.print(f"error: {message}", style="red", soft_wrap=not self._err.is_terminal)

    def result(self, content: dict[str, Any]) -> None:
        """Print the result as JSON on standard output."""
        sys.stdout.write(json.dumps(content, indent=2) + "\n")

    def table(self, title: str, columns: list[str], rows: list[list[str]], aside: bool = False) -> None:
        """Print a table; columns after the first whose cells are all numbers stand to the right.

        ``aside`` is for what is not the result: it goes where the messages go.
        """
        from rich import box
        from rich.table import Table

        table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for k, column in enumerate(columns):
            numbers = k > 0 and all(_is_number(row[k]) for row in rows)
            table.add_column(column, justify="right" if numbers else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        (self._err if aside else self._out).print(table)

    @contextmanager
    def steps(self, name: str) -> Iterator[Any]:
        """Show which step a study is at; yields a function that takes the step's name."""
        if not self._err.is_terminal:
            yield lambda _: None
            return
        from rich.markup import escape

        with self._err.status(escape(name)) as status:
            yield lambda step: status.update(f"{escape(name)}: {_STEPS.get(step, step)}")

    @contextmanager
    def counting(self, what: str) -> Iterator[Any]:
        """Show progress through a known number of things; yields a function of (name, done, total)."""
        if not self._err.is_terminal:
            yield lambda *_: None
            return
        from rich.markup import escape
        from rich.progress import Progress

        with Progress(console=self._err, transient=True) as progress:
            task = progress.add_task(what)
            yield lambda name, done, total: progress.update(
                task, description=f"{what} {escape(name)}", completed=done, total=total
            )

    @contextmanager
    def training(self) -> Iterator[Any]:
        """Show a training run: a bar with loss, IoU, speed and time left on a terminal, a line an epoch elsewhere."""
        pace = _Pace()
        bar = _TrainingBar(self._err) if self._err.is_terminal else None

        def update(event: Any) -> None:
            pace.update(event)
            if bar:
                bar.update(event, pace)
            if hasattr(event, "number"):
                self.say(epoch_line(event, short=True) if bar else epoch_line(event, pace.left()))

        with bar.progress if bar else nullcontext():
            yield update


class JsonList:
    """A JSON object on standard output whose first field is a list: each item is written at once, and none is kept."""

    def __init__(self, name: str) -> None:
        self._before = f'{{\n  "{name}": ['
        self._empty = True

    def add(self, item: dict[str, Any]) -> None:
        """Write the next item of the list."""
        sys.stdout.write(f"{self._before}\n{indent(json.dumps(item, indent=2), '    ')}")
        sys.stdout.flush()
        self._before, self._empty = ",", False

    def close(self, **rest: Any) -> None:
        """End the list, write the object's other fields and end it."""
        sys.stdout.write(f"{self._before}]" if self._empty else "\n  ]")
        for name, value in rest.items():
            sys.stdout.write(f',\n  "{name}": {indent(json.dumps(value, indent=2), "  ").lstrip()}')
        sys.stdout.write("\n}\n")


class _Pace:
    """How fast a run takes its steps: slices a second of late, and the time left at the pace since its first step."""

    _MEMORY = 0.95
    """Weight of what was before each step: the speed is that of about the last 20."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._last = self._seconds = self._slices = 0.0
        self._to_go = (0, 0)

    def update(self, event: Any) -> None:
        """Take a step or an epoch; validation, which ends with the epoch, counts for the time left alone."""
        now = time.monotonic()
        if hasattr(event, "steps"):
            if self._first is None or event.step <= self._to_go[0]:  # the first step, or the next fold's
                self._first = event.step, now
            else:
                self._seconds = self._MEMORY * self._seconds + now - self._last
                self._slices = self._MEMORY * self._slices + event.slices
            self._to_go = event.step, event.steps
        self._last = now

    def slices_per_second(self) -> float | None:
        """Training slices a second; None before the second step."""
        return self._slices / self._seconds if self._seconds > 0 else None

    def left(self) -> str:
        """Time left in words; nothing before the second step and after the last."""
        step, steps = self._to_go
        if self._first is None or step <= self._first[0] or step >= steps:
            return ""
        return _duration((self._last - self._first[1]) / (step - self._first[0]) * (steps - step))


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 120 * 60 else f"{seconds / 3600:.1f} h"


class _TrainingBar:
    """Progress through all optimiser steps, with the last loss and IoU, speed and time left; 80 columns hold it."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]} IoU {task.fields[iou]}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self._task = self.progress.add_task("", total=None, epoch="1", loss="-", iou="-", speed="", left="")

    def update(self, event: Any, pace: _Pace) -> None:
        if hasattr(event, "steps"):
            speed = pace.slices_per_second()
            self.progress.update(
                self._task,
                completed=event.step,
                total=event.steps,
                epoch=str(event.epoch),
                loss=f"{event.loss:.4f}",
                speed="" if speed is None else f"{speed:.{1 if speed < 100 else 0}f} slices/s",
                left=f"{left} left" if (left := pace.left()) else "",
            )
        elif event.validation is not None:
            self.progress.update(self._task, iou=f"{event.validation.iou:.4f}")


def epoch_line(epoch: Any, left: str = "", short: bool = False) -> str:
    """One line for an epoch's figures, with the time left in words; the short one fits a terminal of 80 columns."""
    found = epoch.validation
    if short:
        line = f"epoch {epoch.number}: loss {epoch.train_loss:.4f}"
        if found is not None:
            line += f", validation {found.loss:.4f}, IoU {found.iou:.4f}, Dice {found.dice_patient:.4f}"
            if found.false_positive_share is not None:
                line += f", FP {found.false_positive_share:.1%}"
        return line
    line = f"{time.strftime('%H:%M:%S')} epoch {epoch.number}: training loss {epoch.train_loss:.5f}"
    if found is not None:
        line += f", validation loss {found.loss:.5f}, IoU {found.iou:.5f}, Dice by patient {found.dice_patient:.4f}"
        if found.false_positive_share is not None:
            line += f", false positives {found.false_positive_share:.1%}"
    line += f", {epoch.slices_per_second:.1f} slices/s"
    return f"{line}, about {left} left" if left else line


def _is_number(text: str) -> bool:
    return text == "-" or text.rstrip("%").replace(".", "", 1).replace("-", "", 1).isdigit()
