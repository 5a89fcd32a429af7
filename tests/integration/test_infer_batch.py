"""`edgeseg infer` over many studies: what it skips, how work is shared out, odd names, a full disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeseg import batch, readers, writers

Edgeseg = Callable[..., Any]
"""The fixture `edgeseg`: arguments to how the command ended."""
QUICK = ("--format", "masks", "--format", "report")


@pytest.fixture
def archive(tmp_path: Path, example_tiff: Path) -> Path:
    """Three studies of five slices."""
    root = tmp_path / "in"
    for name in ("a", "b", "c"):
        _study(root / name, example_tiff)
    return root


def _study(folder: Path, example: Path) -> None:
    folder.mkdir(parents=True)
    for k in range(12, 17):
        shutil.copy(example / f"{example.name}_{k}.tif", folder / f"head_{k}.tif")


def _folders(output: Path) -> list[str]:
    """What lies in an output folder, after a check that each study is whole."""
    for path in output.iterdir():
        report = json.loads((path / "report.json").read_text())
        assert all((path / name).stat().st_size for name in report["files"])
    return sorted(path.name for path in output.iterdir())


def test_a_second_run_says_what_is_done_already(archive: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    arguments = ("infer", archive, "-o", tmp_path / "out", *QUICK)
    first = edgeseg(*arguments, "--json")
    assert (first.code, [study["already_done"] for study in first.json["studies"]]) == (0, [False] * 3)
    shutil.rmtree(tmp_path / "out" / "b")
    second = edgeseg(*arguments)
    assert second.code == 0
    assert second.err.splitlines()[1:] == [
        "a: already done",
        "b: 1 of 5 slices marked",
        "c: already done",
        f"Results: {tmp_path / 'out'}",
    ]
    seconds = {
        line.split()[0]: line.split()[-1] for line in second.out.splitlines() if line[:3] in (" a ", " b ", " c ")
    }
    assert [seconds[name] == "-" for name in "abc"] == [True, False, True]
    third = edgeseg(*arguments, "--json").json
    assert third["failed"] == []
    assert [study["already_done"] for study in third["studies"]] == [True] * 3
    for before, after in zip(first.json["studies"], third["studies"], strict=True):
        assert {**before, "already_done": True, "timings_ms": after["timings_ms"]} == after or after["study"] == "b"
    again = edgeseg("infer", archive / "a", "-o", tmp_path / "out", *QUICK, "--again", "--json").json
    assert [study["already_done"] for study in again["studies"]] == [False]


def test_shards_together_do_every_study_once(archive: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    runs = [
        edgeseg("infer", archive, "-o", tmp_path / "out", *QUICK, "--shard", f"{part}/4", "--json")
        for part in (1, 2, 3, 4)
    ]
    assert [run.code for run in runs] == [0] * 4
    assert sorted(study["study"]["name"] for run in runs for study in run.json["studies"]) == ["a", "b", "c"]
    empty = next(run for run in runs if not run.json["studies"])
    assert empty.json == {"studies": [], "failed": []}
    assert "holds none of the 3 studies" in empty.err
    assert _folders(tmp_path / "out") == ["a", "b", "c"]


@pytest.mark.parametrize("which", ["0/2", "3/2", "half"])
def test_a_shard_that_is_none_is_refused(which: str, archive: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    run = edgeseg("infer", archive, "-o", tmp_path / "out", "--shard", which)
    assert (run.code, f"from 1/8 to 8/8 for eight tasks; not {which}" in run.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_json_is_whole_when_some_fail(archive: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    for name in ("a", "c"):
        (archive / name / "head_14.tif").unlink()
    run = edgeseg("infer", archive, "-o", tmp_path / "out", *QUICK, "--json")
    assert run.code == 3
    assert [study["study"]["name"] for study in run.json["studies"]] == ["b"]
    assert [failed["study"] for failed in run.json["failed"]] == ["a", "c"]
    assert "2 of 3 studies are not done: a, c" in run.err


# --- names


ODD = [b"sp ace", "\u00fcml\u00e4ut".encode(), b"bad\xff\xfename", b"new\nline", b"esc\x1b[31m", b"-dash", b"star*?[a]"]


def test_results_of_odd_names_stay_inside_and_can_be_shown(
    example_tiff: Path, edgeseg: Edgeseg, tmp_path: Path
) -> None:
    root = tmp_path / "in"
    for name in (*ODD, b"x" * 250, b"deep/" + b"y" * 200 + b"/" + b"z" * 200 + b"/scan", b"deep/scan"):
        _study(root / os.fsdecode(name), example_tiff)
    names = [files.name for files in readers.find_studies(root)]
    assert len(set(names)) == len(ODD) + 3
    assert all(len(name.encode()) <= 200 and name.isprintable() for name in names)
    assert {"sp ace", "\u00fcml\u00e4ut", "-dash", "star*?[a]"} < set(names)
    run = edgeseg("infer", root, "-o", tmp_path / "out" / "deep", "--format", "report")
    assert run.code == 0
    assert _folders(tmp_path / "out" / "deep") == sorted(names)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["deep"]


@pytest.mark.parametrize("name", [".nii", "..nii", "...nii.gz"])
def test_a_name_that_would_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    (files,) = readers.find_studies(tmp_path / name)
    assert files.name.startswith("study-")
    assert (tmp_path / "out" / files.name).resolve().parent == (tmp_path / "out").resolve()


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 60 kB; `mount -o remount,size=...` makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own can be mounted by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_and_the_run_after_it(archive: Path, edgeseg: Edgeseg, small_disk: Path) -> None:
    full = edgeseg("infer", archive, "-o", small_disk, *QUICK)
    assert full.code == 2
    done = _folders(small_disk)
    assert len(done) < 3
    problem = full.err.splitlines()[-1]
    assert problem.startswith(
        f"error: cannot write to {small_disk} (No space left on device): free some space, or give"
    )
    assert problem.endswith(f"; {len(done)} of 3 studies are done, and another run does the others")
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    after = edgeseg("infer", archive, "-o", small_disk, *QUICK)
    assert (after.code, after.err.count("already done")) == (0, len(done))
    assert _folders(small_disk) == ["a", "b", "c"]


def test_a_disk_that_becomes_full_between_two_studies(
    archive: Path, edgeseg: Edgeseg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = writers.write
    calls: list[Path] = []

    def filling(found: Any, study: Any, formats: Any, stage: Path, facts: Any) -> list[str]:
        calls.append(stage)
        names = write(found, study, formats, stage, facts)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return names

    monkeypatch.setattr(writers, "write", filling)
    run = edgeseg("infer", archive, "-o", tmp_path / "out", *QUICK, "--json")
    assert (run.code, len(calls)) == (2, 2)
    assert [study["study"]["name"] for study in run.json["studies"]] == ["a"]
    assert [failed["study"] for failed in run.json["failed"]] == ["b"]
    assert "(No space left on device): free some space" in run.err
    assert run.err.count("error: ") == 1
    assert _folders(tmp_path / "out") == ["a"]
    after = edgeseg("infer", archive, "-o", tmp_path / "out", *QUICK)
    assert (after.code, _folders(tmp_path / "out")) == (0, ["a", "b", "c"])


def test_an_engine_is_opened_once_for_all(
    archive: Path, edgeseg: Edgeseg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[int] = []
    run = batch.run

    def spy(studies: Any, opened: Any, *rest: Any) -> Any:
        engines.append(len(studies))
        return run(studies, opened, *rest)

    monkeypatch.setattr(batch, "run", spy)
    assert edgeseg("infer", archive, "-o", tmp_path / "out", "--format", "report").code == 0
    assert engines == [3]
