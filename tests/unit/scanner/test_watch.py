"""A watched folder: studies are queued when they are whole, and only then; names quote no patient."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeseg.errors import InputError
from edgeseg.scanner import watch
from edgeseg.scanner.jobs import Job, Queue
from edgeseg.scanner.listing import Facts, listing
from edgeseg.scanner.monitor import Monitor
from edgeseg.scanner.watch import PATIENCE, Watcher

QUIET_S = 30.0
DICOM_KEY = "4445b19b6d01"


@dataclass
class Watched:
    """A watched folder whose time is the test's."""

    folder: Path
    queue: Queue
    log: io.StringIO
    watcher: Watcher
    now: float = 0.0

    def after(self, seconds: float) -> bool:
        """Look again so much later."""
        self.now += seconds
        return self.watcher.scan()

    @property
    def waiting(self) -> dict[str, Path]:
        """Key -> folder of what is queued."""
        return {job.key: job.folder for job in self.queue.jobs("waiting")}

    @property
    def events(self) -> list[str]:
        """Names of the events so far."""
        return [json.loads(line)["event"] for line in self.log.getvalue().splitlines()]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """An empty folder, watched."""
    folder, log = tmp_path / "in", io.StringIO()
    folder.mkdir()
    with Queue(tmp_path / "queue.sqlite") as queue:
        found = Watched(folder, queue, log, Watcher(folder, queue, Monitor(log), QUIET_S))
        found.watcher.poll_s = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: found.now)
        yield found


@pytest.fixture
def tiff(example_tiff: Path, tmp_path: Path) -> Path:
    """Five slices."""
    (tmp_path / "tiff").mkdir()
    for k in range(12, 17):
        shutil.copy(example_tiff / f"{example_tiff.name}_{k}.tif", tmp_path / "tiff")
    return tmp_path / "tiff"


def _claimed(queue: Queue) -> Job:
    job = queue.claim()
    assert job is not None
    return job


def test_a_study_is_queued_when_it_has_been_quiet(watched: Watched, tiff: Path) -> None:
    assert watched.after(0)
    shutil.copytree(tiff, watched.folder / "sub-01")
    assert not watched.after(10)
    assert not watched.after(QUIET_S - 1)
    assert watched.waiting == {}
    assert watched.after(1)
    assert watched.waiting == {"sub-01": watched.folder / "sub-01"}
    assert watched.after(1000)
    assert watched.events == ["study_queued"]


def test_a_file_that_grows_starts_the_clock_again(watched: Watched, tiff: Path) -> None:
    shutil.copytree(tiff, watched.folder / "sub-01")
    growing = watched.folder / "sub-01" / "case_17.tif"
    for _ in range(5):
        with growing.open("ab") as file:
            file.write(b"part")
        assert not watched.after(QUIET_S - 1)
    growing.unlink()
    watched.after(QUIET_S - 1)
    assert watched.after(QUIET_S)
    assert list(watched.waiting) == ["sub-01"]


def test_only_the_time_of_a_file_changes(watched: Watched, tiff: Path) -> None:
    shutil.copytree(tiff, watched.folder / "sub-01")
    watched.after(0)
    file = next((watched.folder / "sub-01").iterdir())
    os.utime(file, (1e9, 1e9))
    assert not watched.after(QUIET_S)
    assert watched.after(QUIET_S)


@pytest.mark.parametrize("name", ["case_17.tif.part", "case_17.tif.tmp", ".case_17.tif.Xy12Zq", "~case_17.tif"])
def test_a_copy_that_goes_on_under_another_name(watched: Watched, tiff: Path, name: str) -> None:
    shutil.copytree(tiff, watched.folder / "sub-01")
    unfinished = watched.folder / "sub-01" / name
    unfinished.write_bytes(b"half a slice")
    watched.after(0)
    assert not watched.after(2 * QUIET_S), "it is not taken while the copy may go on"
    unfinished.rename(watched.folder / "sub-01" / "notes.txt")
    assert not watched.after(QUIET_S - 1)
    assert watched.after(QUIET_S)
    assert list(watched.waiting) == ["sub-01"]


def test_a_copy_that_never_ended_is_left_aside(watched: Watched, example_dicom: Path) -> None:
    shutil.copytree(example_dicom, watched.folder / "study")
    source = next((watched.folder / "study" / "flair").iterdir())
    shutil.copy(source, source.with_name("copy.dcm.part"))
    watched.after(0)
    assert watched.after(PATIENCE * QUIET_S)
    files = watched.watcher.find(_claimed(watched.queue))
    assert files is not None
    assert not [path for path in files.files if path.name.endswith(".part")]


def test_late_instances_make_a_new_job(watched: Watched, example_dicom: Path) -> None:
    shutil.copytree(example_dicom / "flair", watched.folder / "study" / "flair")
    watched.after(0)
    watched.after(QUIET_S)
    watched.queue.finish(_claimed(watched.queue), watched.folder)
    shutil.copytree(example_dicom / "post", watched.folder / "study" / "post")
    watched.after(1)
    assert watched.waiting == {}
    watched.after(QUIET_S)
    assert list(watched.waiting) == [DICOM_KEY]


def test_files_that_are_taken_away(watched: Watched, tiff: Path) -> None:
    shutil.copytree(tiff, watched.folder / "sub-01")
    watched.after(0)
    watched.after(QUIET_S)
    watched.queue.finish(_claimed(watched.queue), watched.folder)
    watched.after(10 * QUIET_S)
    for path in sorted((watched.folder / "sub-01").iterdir()):
        path.unlink()
        watched.after(QUIET_S - 1)
        assert watched.waiting == {}, "a study that is being deleted is not a new one"
    shutil.rmtree(watched.folder / "sub-01")
    watched.after(1)
    assert watched.after(QUIET_S)
    assert len(watched.queue.jobs()) == 1


def test_a_subfolder_that_cannot_be_listed_stops_no_other(
    watched: Watched, tiff: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("locked", "open"):
        shutil.copytree(tiff, watched.folder / name)

    def locked(folder: Path, deep: bool = True) -> dict[Path, Facts]:
        if folder.name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listing(folder, deep)

    monkeypatch.setattr(watch, "listing", locked)
    watched.after(0)
    assert watched.after(QUIET_S)
    assert list(watched.waiting) == ["open"]
    assert watched.events == ["subfolder_unreadable", "study_queued"]


def test_series_of_one_study_in_several_subfolders(watched: Watched, example_dicom: Path) -> None:
    for series in ("flair", "pre", "post"):
        shutil.copytree(example_dicom / series, watched.folder / series)
    watched.after(0)
    assert watched.after(QUIET_S)
    assert watched.waiting == {DICOM_KEY: watched.folder}
    files = watched.watcher.find(_claimed(watched.queue))
    assert files is not None
    assert len(files.files) == sum(path.is_file() for path in example_dicom.rglob("*"))


def test_a_flat_folder_takes_one_study_while_another_arrives(watched: Watched, example_dicom: Path, tiff: Path) -> None:
    for series in ("flair", "pre"):
        for path in (example_dicom / series).iterdir():
            shutil.copy(path, watched.folder / f"{series}-{path.name}")
    watched.after(0)
    arriving = next(tiff.iterdir())
    shutil.copy(arriving, watched.folder)
    assert not watched.after(QUIET_S)
    assert watched.waiting == {DICOM_KEY: watched.folder}
    job = _claimed(watched.queue)
    files = watched.watcher.find(job)
    assert files is not None
    assert all(path.parent == watched.folder for path in files.files)
    assert watched.after(QUIET_S)
    assert list(watched.waiting) == ["in"]


def test_folders_of_the_same_name_have_results_of_their_own(watched: Watched, tiff: Path) -> None:
    for place in ("sub-01/anat", "sub-02/anat", "a_b/c", "a/b_c"):
        shutil.copytree(tiff, watched.folder / place)
    watched.after(0)
    assert watched.after(QUIET_S)
    assert {"sub-01_anat", "sub-02_anat"} <= set(watched.waiting)
    assert len(watched.waiting) == 4


def test_a_dicom_folder_is_never_quoted(watched: Watched, example_dicom: Path) -> None:
    shutil.copytree(example_dicom, watched.folder / "DOE_JOHN" / "MR")
    (watched.folder / "ROE_JANE").mkdir()
    (watched.folder / "ROE_JANE" / "damaged.dcm").write_bytes(b"\0\1 no DICOM")
    watched.after(0)
    assert watched.after(QUIET_S)
    assert DICOM_KEY in watched.waiting
    said = watched.log.getvalue() + " ".join(watched.waiting)
    assert "DOE" not in said
    assert "ROE" not in said


def test_a_folder_without_images_is_said_once(watched: Watched) -> None:
    (watched.folder / "letters").mkdir()
    (watched.folder / "letters" / "letter.pdf").write_bytes(b"%PDF")
    watched.after(0)
    for _ in range(3):
        assert watched.after(QUIET_S)
    assert watched.events == ["no_study"]
    assert watched.waiting == {}


def test_a_share_that_goes_and_comes_back(watched: Watched, tiff: Path) -> None:
    shutil.copytree(tiff, watched.folder / "sub-01")
    watched.after(0)
    watched.folder.rename(watched.folder.with_name("away"))
    for _ in range(3):
        assert not watched.after(QUIET_S)
    assert watched.waiting == {}
    watched.folder.with_name("away").rename(watched.folder)
    watched.after(QUIET_S)
    watched.after(QUIET_S)
    assert list(watched.waiting) == ["sub-01"]
    assert watched.events == ["folder_unreachable", "folder_reached", "study_queued"]


def test_after_a_restart_nothing_is_done_twice_or_lost(watched: Watched, tiff: Path) -> None:
    for name in ("done", "waits"):
        shutil.copytree(tiff, watched.folder / name)
    watched.after(0)
    watched.after(QUIET_S)
    watched.queue.finish(_claimed(watched.queue), watched.folder)
    after = Watcher(watched.folder, watched.queue, Monitor(watched.log), QUIET_S)
    job = _claimed(watched.queue)
    files = after.find(job)
    assert files is not None, "what was queued is known to be whole, and needs no second wait"
    assert (files.name, len(files.files)) == ("waits", 5)
    watched.watcher = after
    watched.after(1)
    assert watched.after(QUIET_S)
    assert watched.events == ["study_queued", "study_queued"]
    assert len(watched.queue.jobs()) == 2


def test_results_and_hidden_folders_are_no_studies(watched: Watched, tiff: Path) -> None:
    shutil.copytree(tiff, watched.folder / ".hidden")
    shutil.copytree(tiff, watched.folder / "results")
    (watched.folder / "results" / "report.json").write_text('{"edgeseg_version": "0"}')
    watched.after(0)
    watched.after(QUIET_S)
    assert "" not in watched.waiting
    assert ".hidden" not in watched.waiting


def test_no_folder(tmp_path: Path, watched: Watched) -> None:
    with pytest.raises(InputError, match="is no folder"):
        Watcher(tmp_path / "none", watched.queue, Monitor())
