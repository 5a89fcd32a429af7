"""Results on disk: whole or not there at any moment, known again when done, and one process at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeseg import results
from edgeseg.errors import OutputError


def _stage(folder: Path, mark: str = "", **files: str) -> Path:
    (folder / "masks").mkdir(parents=True)
    listed = []
    for name, content in files.items():
        path = folder / "masks" / f"{name}.tif"
        path.write_text(content)
        listed.append(f"masks/{name}.tif")
    (folder / "report.json").write_text(json.dumps({"fingerprint": mark, "files": [*listed, "report.json"]}))
    return folder


def _below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- publish


def test_a_second_run_drops_what_the_first_listed_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    results.publish(_stage(tmp_path / "one", a="1", b="1"), folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "masks" / "mine.tif").write_text("mine")
    results.publish(_stage(tmp_path / "two", b="2", c="2"), folder)
    assert _below(folder) == {"masks/b.tif", "masks/c.tif", "masks/mine.tif", "notes.txt", "report.json"}
    assert (folder / "masks" / "b.tif").read_text() == "2"


@pytest.mark.parametrize("listed", ["../outside.txt", "masks/../../outside.txt", "ABSOLUTE", "way/outside.txt"])
@pytest.mark.parametrize("source", ["report.json", ".publishing.json"])
def test_nothing_outside_the_folder_is_ever_dropped(tmp_path: Path, listed: str, source: str) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("precious")
    folder = tmp_path / "study"
    (folder / "masks").mkdir(parents=True)
    (folder / "way").symlink_to(tmp_path)
    name = str(outside) if listed == "ABSOLUTE" else listed
    (folder / source).write_text(json.dumps({"files": [name]}))
    results.publish(_stage(tmp_path / "stage", a="1"), folder)
    assert outside.read_text() == "precious"
    assert _below(folder) >= {"masks/a.tif", "report.json"}


_ODD = ["", "[]", "null", '{"files": 3}', '{"files": [".", "", "masks", null, 7]}', '{"files": ["\\u0000"]}']


@pytest.mark.parametrize("report", [*_ODD, "[" * 100_000, '{"files": ["%s"]}' % ("x" * 5000)])
def test_an_earlier_report_that_is_odd_does_no_harm(tmp_path: Path, report: str) -> None:
    folder = tmp_path / "study"
    (folder / "masks").mkdir(parents=True)
    (folder / "masks" / "mine.tif").write_text("mine")
    (folder / "report.json").write_text(report)
    assert results.finished(folder, "f") is None
    results.publish(_stage(tmp_path / "stage", a="1"), folder)
    assert _below(folder) == {"masks/a.tif", "masks/mine.tif", "report.json"}


def test_a_new_place_is_taken_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    rename = Path.rename

    def spy(self: Path, target: Path) -> Path:
        moved.append(target.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", spy)
    monkeypatch.delattr(Path, "replace")
    results.publish(_stage(tmp_path / "stage", z="1", a="1"), tmp_path / "study")
    assert moved == ["study"]
    assert _below(tmp_path / "study") == {"masks/a.tif", "masks/z.tif", "report.json"}


def test_where_something_stands_the_report_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes.txt").write_text("mine")
    moved: list[str] = []
    replace = Path.replace

    def spy(self: Path, target: Path) -> Path:
        moved.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    results.publish(_stage(tmp_path / "stage", z="1", a="1"), tmp_path / "study")
    assert moved == [".publishing.json", "a.tif", "z.tif", "report.json"]


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "study").symlink_to(tmp_path / "elsewhere")
    results.publish(_stage(tmp_path / "stage", a="1"), tmp_path / "study")
    assert _below(tmp_path / "elsewhere") == {"masks/a.tif", "report.json"}
    assert (tmp_path / "study").is_symlink()


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "study").write_text("here first")
    with pytest.raises(NotADirectoryError):
        results.publish(_stage(tmp_path / "stage", a="1"), tmp_path / "study")
    assert (tmp_path / "study").read_text() == "here first"


# --- killed at every step


class _Killed(BaseException):
    """What stands for SIGKILL: no code of ours handles it."""


@contextmanager
def _killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Raise before the given change of the disk; yields the names of those that were reached."""
    reached: list[str] = []

    def watched(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            reached.append(name)
            if len(reached) == step:
                raise _Killed
            return change(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "unlink", "mkdir", "write_text"):
            patch.setattr(Path, name, watched(name, getattr(Path, name)))
        yield reached


def _publish_killed(stage: Path, folder: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether publishing was killed: false when it has fewer steps."""
    with _killed_at(step, monkeypatch):
        try:
            results.publish(stage, folder)
        except _Killed:
            return True
    return False


def test_a_kill_at_any_step_leaves_a_report_only_beside_all_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, killed = 0, True
    while killed:
        step += 1
        folder = tmp_path / f"{step}" / "study"
        folder.parent.mkdir()
        results.publish(_stage(folder.parent / "one", "first", a="1", b="1"), folder)
        (folder / "notes.txt").write_text("mine")
        killed = _publish_killed(_stage(folder.parent / "two", "second", b="2", c="2"), folder, step, monkeypatch)
        if (folder / "report.json").exists():
            mark = json.loads((folder / "report.json").read_text())["fingerprint"]
            names, content = {"first": ("ab", "1"), "second": ("bc", "2")}[mark]
            assert results.finished(folder, mark) is not None
            assert [(folder / "masks" / f"{name}.tif").read_text() for name in names] == [content] * 2
        # A run with other results than either completes it, and nothing of the first two stays.
        results.publish(_stage(folder.parent / "three", "third", d="3"), folder)
        assert _below(folder) == {"masks/d.tif", "notes.txt", "report.json"}
        assert results.finished(folder, "third") is not None
    assert step > 8


def test_a_kill_in_a_new_place_leaves_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _publish_killed(_stage(tmp_path / "one", a="1"), tmp_path / "study", 1, monkeypatch)
    assert not (tmp_path / "study").exists()
    assert not _publish_killed(_stage(tmp_path / "two", a="1"), tmp_path / "study", 2, monkeypatch)


# --- finished


def test_finished_needs_the_fingerprint_and_every_file(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    assert results.finished(folder, "f") is None
    results.publish(_stage(tmp_path / "stage", "f", a="1", b="1"), folder)
    report = results.finished(folder, "f")
    assert report is not None
    assert report["files"] == ["masks/a.tif", "masks/b.tif", "report.json"]
    assert results.finished(folder, "g") is None
    (folder / "masks" / "b.tif").unlink()
    assert results.finished(folder, "f") is None


def test_a_report_without_a_fingerprint_is_not_finished(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"files": ["report.json"]}))
    assert results.finished(tmp_path, "") is None


# --- staging


def test_staging_keeps_a_folder_that_was_there(tmp_path: Path) -> None:
    with results.staging(tmp_path, "x" * 300) as stage:
        assert stage.parent.parent == tmp_path
        assert stage.parent.name.startswith(".")
        (stage / "file").write_text("half")
    assert tmp_path.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_staging_drops_the_folders_that_it_made_and_nobody_used(tmp_path: Path) -> None:
    with results.staging(tmp_path / "a" / "b", "x"):
        (tmp_path / "a" / "mine.txt").write_text("mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "mine.txt"]


@pytest.mark.parametrize("place", ["afile", "afile/below"])
def test_a_file_where_the_output_folder_should_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "afile").write_text("here first")
    with (
        pytest.raises(OutputError, match=r"cannot write to .*: give another folder"),
        results.staging(tmp_path / place, "a"),
    ):
        pass
    assert (tmp_path / "afile").read_text() == "here first"


def test_results_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with results.staging(tmp_path, "study") as stage:
            (stage / "file").write_text("whole")
            results.publish(stage, tmp_path / "study")
    finally:
        os.umask(before)
    assert (tmp_path / "study").stat().st_mode & 0o777 == 0o750


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with results.staging(tmp_path, "study") as stage:
            order.append(f"second, {len(list(stage.iterdir()))} files")

    with results.staging(tmp_path, "study") as stage:
        (stage / "file").write_text("half")
        other = threading.Thread(target=second)
        other.start()
        other.join(0.3)
        order.append("first")
    other.join()
    assert order == ["first", "second, 0 files"]
    assert list(tmp_path.iterdir()) == []


def test_different_studies_do_not_wait(tmp_path: Path) -> None:
    with results.staging(tmp_path, "a") as a, results.staging(tmp_path, "b") as b:
        assert a != b


def test_many_at_the_same_study_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with results.staging(tmp_path, "study") as stage:
                inside.append(1)
                most.append(len(inside))
                (stage / "file").write_text("x")
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (160, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_is_cleared_away_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    is_dir = Path.is_dir

    def gone_at_first(path: Path) -> bool:
        if path.name.endswith(".part") and not asked:
            asked.append(path)
            path.rmdir()
        return is_dir(path)

    with results.staging(tmp_path, "study") as stage:
        part = stage.parent
    part.mkdir()
    monkeypatch.setattr(Path, "is_dir", gone_at_first)
    with results.staging(tmp_path, "study") as stage:
        assert stage.parent == part
    assert asked == [part]


def test_what_is_no_folder_in_place_of_a_stage_is_said(tmp_path: Path) -> None:
    with results.staging(tmp_path, "study") as stage:
        part = stage.parent
    part.write_text("in the way")
    with pytest.raises(OutputError, match="cannot write to"), results.staging(tmp_path, "study"):
        pass
    part.unlink()
    part.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="cannot write to"), results.staging(tmp_path, "study"):
        pass


# --- what killed processes leave


_HOLD = """
import sys
from pathlib import Path
from edgeseg import results
with results.staging(Path(sys.argv[1]), sys.argv[2]) as stage:
    (stage / "half.tif").write_text("half")
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _holder(output: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a study's stage."""
    arguments = [sys.executable, "-c", _HOLD, str(output), name]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_sweep_clears_what_the_dead_left_and_keeps_what_the_living_hold(tmp_path: Path) -> None:
    with _holder(tmp_path, "living") as living, _holder(tmp_path, "dead") as dead:
        dead.kill()
        dead.wait()
        (tmp_path / "mine.part").mkdir()
        (tmp_path / ".mine.part").mkdir()
        (tmp_path / ".killed-0123abcd.part").mkdir()  # before it could lock
        assert len(list(tmp_path.iterdir())) == 5
        results.sweep(tmp_path)
        kept = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
        assert kept == [".living", ".mine.part", "mine.part"]
        living.kill()
        living.wait()
        results.sweep(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2


def test_a_sweep_of_nothing(tmp_path: Path) -> None:
    results.sweep(tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    results.sweep(tmp_path / "file")
    assert not (tmp_path / "missing").exists()


def test_the_next_run_of_a_study_takes_over_what_a_killed_one_left(tmp_path: Path) -> None:
    with _holder(tmp_path, "study") as dead:
        dead.kill()
        dead.wait()
    with results.staging(tmp_path, "study") as stage:
        assert list(stage.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_does_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with results.staging(tmp_path, "study") as stage:
        results.sweep(tmp_path)
        assert stage.is_dir()
        (stage / "file").write_text("whole")
        results.publish(stage, tmp_path / "study")
    assert [path.name for path in tmp_path.iterdir()] == ["study"]
