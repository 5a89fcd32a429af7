"""What is printed where: results on standard output, messages on standard error, names as they are."""

from __future__ import annotations

import json
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest

from edgeseg import console as console_module
from edgeseg.console import Console, JsonList, epoch_line

ODD = "a[/b] [bold]:warning: [1]"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")


def test_messages_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say("a line")
    console.warn("look")
    console.fail("no")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "a line\nwarning: look\nerror: no\n"


def test_a_long_message_stays_on_one_line_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Console().fail("word " * 100)
    assert capsys.readouterr().err.count("\n") == 1


def test_json_is_pure(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    console.say("for people")
    console.result({"volume_ml": 1.5, "name": ODD})
    assert json.loads(capsys.readouterr().out) == {"volume_ml": 1.5, "name": ODD}


@pytest.mark.usefixtures("terminal")
def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say(ODD)
    console.fail(ODD)
    console.table(ODD, [ODD], [[ODD]])
    printed = capsys.readouterr()
    assert printed.err.count(ODD) == 2
    assert printed.out.count(ODD) == 3


@pytest.mark.usefixtures("terminal")
def test_progress_takes_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with console.steps(ODD) as say:
        say("read")
        say("unheard of")
    with console.counting("evaluating") as progress:
        progress(ODD, 1, 2)
    assert capsys.readouterr().out == ""


def test_progress_is_silent_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with console.steps("x") as say, console.counting("evaluating") as progress:
        say("read")
        progress("patient", 1, 2)
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


def test_numbers_stand_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    Console().table("t", ["name", "ml", "text"], [["a", "1.5", "x"], ["b", "123.25", "longer"], ["c", "-", "y"]])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if line.strip().startswith(("a ", "b ", "c "))]
    ends = [row.index(cell) + len(cell) for row, cell in zip(rows, ("1.5", "123.25", "-"), strict=True)]
    assert len(set(ends)) == 1
    assert len({row.index(cell) for row, cell in zip(rows, ("x", "longer", "y"), strict=True)}) == 1


VALIDATION = SimpleNamespace(loss=0.25, iou=0.75, dice_patient=0.8, false_positive_share=0.02)
EPOCH = SimpleNamespace(number=3, train_loss=0.5, validation=VALIDATION, slices_per_second=12.0)


def _step(step: int, steps: int = 10) -> SimpleNamespace:
    return SimpleNamespace(step=step, steps=steps, epoch=3, loss=0.5, slices=16)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that training sees, in seconds: its last number."""
    times = [0.0]
    monkeypatch.setattr(console_module, "time", SimpleNamespace(monotonic=lambda: times[-1], strftime=time.strftime))
    return times


def test_training_prints_a_line_an_epoch_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().training() as update:
        update(_step(1))
        update(EPOCH)
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    for word in ("epoch 3", "IoU 0.75", "false positives 2.0%", "12.0 slices/s"):
        assert word in printed
    assert "left" not in printed, "one step tells nothing about the pace"
    assert "IoU" not in epoch_line(SimpleNamespace(**{**vars(EPOCH), "validation": None}))


def test_the_time_left_counts_validation_and_what_a_resumed_run_had_done(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Console().training() as update:
        for step in (61, 62, 63):
            clock.append(10.0 * step)
            update(_step(step, steps=100))
        clock.append(clock[-1] + 20)
        update(EPOCH)
        for step in (99, 100):
            update(_step(step, steps=100))
        update(EPOCH)
    first, last = capsys.readouterr().err.splitlines()
    assert first.endswith("about 12 min left"), "37 steps at 20 s, the validation shared out among them"
    assert "left" not in last


@pytest.mark.parametrize(("seconds", "words"), [(12.3, "12 s"), (150, "2 min"), (7100, "118 min"), (9000, "2.5 h")])
def test_time_left_is_said_in_words(
    capsys: pytest.CaptureFixture[str], clock: list[float], seconds: float, words: str
) -> None:
    with Console().training() as update:
        update(_step(1, steps=3))
        clock.append(seconds)
        update(_step(2, steps=3))
        update(EPOCH)
    assert f"about {words} left" in capsys.readouterr().err


@pytest.mark.usefixtures("terminal")
def test_training_fits_a_terminal(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    validation = SimpleNamespace(**{**vars(VALIDATION), "false_positive_share": 0.123})
    with Console().training() as update:
        for step in (13598, 13599):
            clock.append(clock[-1] + 1.0)
            update(SimpleNamespace(step=step, steps=13600, epoch=200, loss=12.345678, slices=16))
        update(SimpleNamespace(**{**vars(EPOCH), "number": 200, "validation": validation}))
    printed = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    lines = [line for line in re.split(r"[\r\n]+", printed) if line.strip()]
    assert max(map(len, lines)) <= 80
    assert all(line.startswith("epoch ") for line in lines), "nothing is broken over two lines"
    assert "epoch 200: loss 0.5000, validation 0.2500, IoU 0.7500, Dice 0.8000, FP 12.3%" in printed
    for word in ("13599/13600", "loss 12.3457", "IoU 0.7500", "16.0 slices/s", "1 s left"):
        assert word in printed


@pytest.mark.usefixtures("terminal")
def test_the_speed_is_that_of_the_steps_alone(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Console().training() as update:
        for step in (1, 2, 3):
            clock.append(clock[-1] + 2.0)
            update(_step(step))
        clock.append(clock[-1] + 1000.0)
        update(EPOCH)
        clock.append(clock[-1] + 2.0)
        update(_step(4))
    assert "8.0 slices/s" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)


@pytest.mark.parametrize("items", [[], [{"a": 1}], [{"a": [1, {"b": "\u00fc\n"}]}, {"c": None}]])
def test_a_list_is_written_item_by_item_as_a_whole_result_is(
    items: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    listed = JsonList("studies")
    written = [capsys.readouterr().out]
    for item in items:
        listed.add(item)
        written.append(capsys.readouterr().out)
    listed.close(failed=[{"study": "x"}])
    assert [bool(part) for part in written] == [False] + [True] * len(items)
    Console(as_json=True).result({"studies": items, "failed": [{"study": "x"}]})
    after, whole = capsys.readouterr().out.split("\n}\n{", 1)
    assert "".join(written) + after == "{" + whole.removesuffix("\n}\n")
