"""`deploy/batch.sh` and `deploy/slurm-array.sh`, run as a scanner's host and SLURM run them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

QUICK = ("--format", "masks", "--format", "report")
SCRIPTS = ("batch.sh", "slurm-array.sh")
Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """An executable that is `edgeseg`, whatever is installed."""
    path = tmp_path / "edgeseg"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from edgeseg.cli import main; main()" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def script(repository: Path, command: Path) -> Script:
    """Run a script of deploy/ with settings added to the environment."""

    def run(name: str, *arguments: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        environment = {**kept, "EDGESEG": str(command), "EDGESEG_QUIET_S": "0", **settings}
        line = [str(repository / "deploy" / name), *map(str, arguments)]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def archive(tmp_path: Path, example_tiff: Path) -> Path:
    """Two studies of five slices."""
    root = tmp_path / "in"
    for name in ("a", "b"):
        _study(root / name, example_tiff)
    return root


def _study(folder: Path, example: Path) -> None:
    folder.mkdir(parents=True)
    for k in range(12, 17):
        shutil.copy(example / f"{example.name}_{k}.tif", folder / f"head_{k}.tif")


def _done(output: Path) -> list[str]:
    return sorted(path.parent.name for path in output.glob("*/report.json"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(name: str, repository: Path) -> None:
    check = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if check is None:
        pytest.skip("shellcheck comes with the extra dev")
    run = subprocess.run([check, str(repository / "deploy" / name)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert os.access(repository / "deploy" / name, os.X_OK)


# --- batch.sh

needs_flock = pytest.mark.skipif(shutil.which("flock") is None, reason="batch.sh needs flock (util-linux)")


@needs_flock
def test_new_studies_go_in_and_results_come_out(
    script: Script, archive: Path, tmp_path: Path, example_tiff: Path
) -> None:
    output = tmp_path / "out"
    first = script("batch.sh", archive, output, *QUICK)
    assert (first.returncode, first.stdout, first.stderr) == (0, "", "")
    assert _done(output) == ["a", "b"]
    _study(archive / "c", example_tiff)
    (archive / "c" / "head_14.tif").unlink()
    second = script("batch.sh", archive, output, *QUICK)
    assert (second.returncode, second.stdout, second.stderr) == (3, "", "")
    log = (output / "batch.log").read_text()
    assert log.count(" started\n") == 2
    assert log.count(" ended with exit code 0\n") == 1
    assert log.endswith(" ended with exit code 3\n")
    assert log.count("already done") == 2
    assert "error: 1 of 3 studies are not done: c" in log


@needs_flock
def test_an_empty_folder_is_nothing_to_do(script: Script, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    run = script("batch.sh", tmp_path / "in", tmp_path / "out", EDGESEG_LOG=str(tmp_path / "my.log"))
    assert (run.returncode, run.stderr) == (0, "")
    assert (tmp_path / "my.log").read_text().endswith(" nothing there\n")
    assert not (tmp_path / "out" / "batch.log").exists()


@needs_flock
def test_a_folder_without_images_is_exit_code_2(script: Script, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "letter.pdf").write_bytes(b"%PDF")
    assert script("batch.sh", tmp_path / "in", tmp_path / "out").returncode == 2
    assert "holds no MR images" in (tmp_path / "out" / "batch.log").read_text()


@needs_flock
def test_one_run_at_a_time(script: Script, archive: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    with (output / ".batch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = script("batch.sh", archive, output)
        waited = script("batch.sh", archive, output, EDGESEG_WAIT_S="1")
    assert (refused.returncode, waited.returncode) == (75, 75)
    log = (output / "batch.log").read_text()
    assert (log.count("another run is at work"), "started" in log) == (2, False)


@needs_flock
def test_it_waits_until_nothing_changes_any_more(script: Script, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "letter.pdf").write_bytes(b"%PDF")
    started = time.time()
    assert script("batch.sh", tmp_path / "in", tmp_path / "out", EDGESEG_QUIET_S="3").returncode == 2
    assert time.time() - started >= 2


@needs_flock
def test_a_place_that_cannot_be_written_to(script: Script, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    assert script("batch.sh", archive, tmp_path / "file" / "out").returncode == 2


@pytest.mark.parametrize("arguments", [(), ("missing", "out"), ("in",)])
def test_wrong_usage_of_batch(arguments: tuple[str, ...], script: Script) -> None:
    run = script("batch.sh", *arguments)
    assert (run.returncode, run.stderr.startswith("usage: batch.sh IN OUT")) == (64, True)


# --- slurm-array.sh


def _task(number: int, first: int, last: int, count: int) -> dict[str, str]:
    """What SLURM tells a task of an array."""
    named = {"ID": number, "MIN": first, "MAX": last, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in named.items()}


def test_an_array_does_every_study_once(script: Script, archive: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    runs = [script("slurm-array.sh", archive, output, *QUICK, **_task(k, 1, 3, 3)) for k in (1, 2, 3)]
    assert [run.returncode for run in runs] == [0, 0, 0]
    rows = [line.split()[0] for run in runs for line in run.stdout.splitlines() if line.startswith((" a ", " b "))]
    assert sorted(rows) == ["a", "b"]
    assert _done(output) == ["a", "b"]


def test_a_task_with_a_bad_study_leaves_with_its_exit_code(script: Script, archive: Path, tmp_path: Path) -> None:
    (archive / "a" / "head_14.tif").unlink()
    run = script("slurm-array.sh", archive, tmp_path / "out", *QUICK, **_task(1, 1, 1, 1))
    assert (run.returncode, "1 of 2 studies are not done: a" in run.stderr) == (3, True)


@pytest.mark.parametrize("task", [_task(0, 0, 1, 2), _task(3, 3, 3, 1), _task(1, 1, 3, 2)])
def test_tasks_that_are_not_all_are_refused(
    task: dict[str, str], script: Script, archive: Path, tmp_path: Path
) -> None:
    run = script("slurm-array.sh", archive, tmp_path / "out", **task)
    assert (run.returncode, "EDGESEG_SHARDS" in run.stderr) == (64, True)
    assert not (tmp_path / "out").exists()


def test_some_tasks_alone_are_told_how_many_shares_there_are(script: Script, archive: Path, tmp_path: Path) -> None:
    run = script("slurm-array.sh", archive, tmp_path / "out", EDGESEG_SHARDS="2", **_task(3, 3, 3, 1))
    assert (run.returncode, "not 3/2" in run.stderr) == (2, True)
    runs = [
        script("slurm-array.sh", archive, tmp_path / "out", *QUICK, EDGESEG_SHARDS="2", **_task(k, k, k, 1))
        for k in (1, 2)
    ]
    assert [run.returncode for run in runs] == [0, 0]
    assert _done(tmp_path / "out") == ["a", "b"]


def test_wrong_usage_of_the_array(script: Script) -> None:
    run = script("slurm-array.sh", "in", "out")
    assert (run.returncode, run.stderr.startswith("usage: sbatch slurm-array.sh")) == (64, True)
