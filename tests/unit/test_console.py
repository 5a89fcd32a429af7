"""What is printed where: results on standard output, messages on standard error, names as they are."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from edgeseg.console import Console, epoch_line

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


def test_training_prints_a_line_an_epoch_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    validation = SimpleNamespace(loss=0.25, iou=0.75, dice_patient=0.8, false_positive_share=0.02)
    epoch = SimpleNamespace(number=3, train_loss=0.5, validation=validation, slices_per_second=12.0)
    with Console().training() as update:
        update(SimpleNamespace(step=1, steps=10, epoch=1, loss=0.5))
        update(epoch)
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    for word in ("epoch 3", "IoU 0.75", "false positives 2.0%", "12.0 slices/s"):
        assert word in printed
    assert "IoU" not in epoch_line(SimpleNamespace(**{**vars(epoch), "validation": None}))
