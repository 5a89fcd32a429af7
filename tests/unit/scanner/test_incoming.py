"""The folder of received studies: whole or not at all, under hashes, taken when quiet, removed when old."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from edgeseg.errors import OutputError
from edgeseg.scanner.incoming import Incoming, study_name

DAY = 86400.0


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.dcm"))


def _age(folder: Path, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(folder, (when, when))


def test_an_instance_lies_under_hashes_and_whole(tmp_path: Path) -> None:
    kept = Incoming(tmp_path / "in")
    assert kept.store("1.2", "1.2.3", (b"head", memoryview(b"body"))) == 8
    (path,) = _files(kept.root)
    assert path.read_bytes() == b"headbody"
    assert path.parent.name == study_name("1.2") == hashlib.sha256(b"1.2").hexdigest()[:12]
    assert path.stem == hashlib.sha256(b"1.2.3").hexdigest()[:32]


def test_no_uid_leads_out_of_the_folder(tmp_path: Path) -> None:
    kept = Incoming(tmp_path / "deep" / "in")
    kept.store("../../..", "../../x", (b"a",))
    kept.store("/etc", "\0", (b"b",))
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and kept.root not in path.parents]
    assert not outside
    assert len(_files(kept.root)) == 2


def test_the_same_instance_twice_is_one_file_and_the_same_study(tmp_path: Path) -> None:
    kept = Incoming(tmp_path)
    kept.store("1", "1.1", (b"a",))
    (first,) = kept.quiet(0, time.time() + 1)
    kept.store("1", "1.1", (b"a",))
    (again,) = kept.quiet(0, time.time() + 1)
    assert len(_files(tmp_path)) == 1
    assert first.digest == again.digest
    kept.store("1", "1.2", (b"a",))
    (more,) = kept.quiet(0, time.time() + 1)
    assert more.digest != first.digest
    assert more.files == 2


def test_it_is_on_the_disk_under_a_name_that_is_before_it_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, done = Incoming(tmp_path), list[str]()
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(f"sync {path.name if path.is_dir() else path.read_text()}")

    def renamed(path: Path, target: Path) -> Path:
        moved = replace(path, target)
        done.append("move")
        return moved

    monkeypatch.setattr(os, "fsync", synced)
    kept.store("1", "1.1", (b"first",))
    assert done == ["sync .arriving", "sync first"]
    done.clear()
    monkeypatch.setattr(Path, "replace", renamed)
    for number in range(63):
        kept.store("1", str(number), (b"more",))
    assert done == ["sync more", "move"] * 63  # 64 names at once
    done.clear()
    kept.store("1", "1.65", (b"last",))
    assert done == ["sync .arriving", "sync last", "move"]


def test_a_full_disk_leaves_nothing_and_then_works_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, write = Incoming(tmp_path), os.write

    def full(descriptor: int, content: bytes) -> int:
        if len(content) > 3:
            return write(descriptor, content[:3])  # some of it fits
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space") as caught:
            kept.store("1", "1.1", (b"0123456789",))
    assert caught.value.errno == errno.ENOSPC
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
    kept.store("1", "1.1", (b"0123456789",))
    assert _files(tmp_path)[0].read_bytes() == b"0123456789"


def test_a_disk_that_takes_less_than_asked_gets_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:3]))
    Incoming(tmp_path).store("1", "1.1", (b"0123456789", b"abc"))
    assert _files(tmp_path)[0].read_bytes() == b"0123456789abc"


def test_the_reserve_stays_free(tmp_path: Path) -> None:
    kept = Incoming(tmp_path, reserve=2**60)
    with pytest.raises(OSError, match="No space") as caught:
        kept.store("1", "1.1", (b"a",))
    assert caught.value.errno == errno.ENOSPC


def test_a_rename_that_fails_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Incoming(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    with pytest.raises(OSError, match="I/O error"):
        kept.store("1", "1.1", (b"a",))
    assert not _files(tmp_path)


def test_what_an_earlier_process_left_is_moved_when_it_is_whole(tmp_path: Path) -> None:
    earlier = Incoming(tmp_path)
    earlier.store("1", "1.1", (b"a",))
    arriving = tmp_path / ".arriving"
    (arriving / "77-0").write_bytes(b"half")
    (arriving / "77-1").write_bytes(b"whole")  # as when the power fails before its move is on the disk
    (tmp_path / ".leaving" / "abc-1").mkdir()
    (tmp_path / ".leaving" / "abc-1" / "x.dcm").write_bytes(b"old")
    kept = Incoming(tmp_path)
    assert kept.recover(lambda path: ("2", "2.1") if path.read_bytes() == b"whole" else None) == 1
    assert sorted(path.read_bytes() for path in _files(tmp_path)) == [b"a", b"whole"]
    assert not list(arriving.iterdir())
    assert not list((tmp_path / ".leaving").iterdir())
    kept.store("2", "2.2", (b"b",))
    assert len(_files(tmp_path / study_name("2"))) == 2


def test_no_inodes_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, touch = Incoming(tmp_path), Path.touch

    def full(path: Path, mode: int, exist_ok: bool) -> None:
        if path.name.endswith("-9"):
            raise OSError(errno.ENOSPC, "No space left on device")
        touch(path, mode, exist_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", full)
        with pytest.raises(OSError, match="No space"):
            kept.store("1", "1.1", (b"a",))
    assert not list((tmp_path / ".arriving").iterdir())
    assert kept.store("1", "1.1", (b"a",)) == 1


def test_a_study_is_taken_once_it_is_quiet_and_again_when_more_comes(tmp_path: Path) -> None:
    kept = Incoming(tmp_path)
    kept.store("1", "1.1", (b"a",))
    now = time.time()
    assert not list(kept.quiet(30, now + 29))
    assert [study.key for study in kept.quiet(30, now + 31)] == [study_name("1")]
    assert not list(kept.quiet(30, now + 32))
    assert [study.files for study in Incoming(tmp_path).quiet(30, now + 32)] == [1]  # after a restart
    kept.store("1", "1.2", (b"a",))
    assert not list(kept.quiet(30, now + 25))
    assert [study.files for study in kept.quiet(30, now + 60)] == [2]


def test_a_study_that_the_caller_could_not_deal_with_comes_again(tmp_path: Path) -> None:
    kept = Incoming(tmp_path)
    kept.store("1", "1.1", (b"a",))
    assert next(kept.quiet(0, time.time() + 1))  # and no further: the caller's loop ended with an exception
    assert len(list(kept.quiet(0, time.time() + 1))) == 1


def test_a_clock_that_was_set_back_begins_the_time_again(tmp_path: Path) -> None:
    kept = Incoming(tmp_path)
    kept.store("1", "1.1", (b"a",))
    earlier = time.time() - 3600
    assert not list(kept.quiet(30, earlier))
    assert not list(kept.quiet(30, earlier + 29))
    assert len(list(kept.quiet(30, earlier + 31))) == 1


def test_an_empty_folder_is_no_study(tmp_path: Path) -> None:
    kept = Incoming(tmp_path)
    (tmp_path / "0123456789ab").mkdir()
    assert not list(kept.quiet(0, time.time() + 1))


def test_old_studies_go_but_not_those_that_may_not(tmp_path: Path) -> None:
    kept = Incoming(tmp_path)
    for study in ("old", "busy", "new", "never taken"):
        kept.store(study, "1", (b"a",))
    for study in ("old", "busy", "never taken"):
        _age(tmp_path / study_name(study), 2 * DAY)
    busy, untaken = tmp_path / study_name("busy"), tmp_path / study_name("never taken")
    for taken in kept.quiet(0, time.time() + 1):
        if taken.folder == untaken:
            kept.store("never taken", "2", (b"a",))  # changed since
            _age(untaken, 3 * DAY)
    assert kept.remove_older(DAY, time.time(), lambda folder: folder != busy) == 1
    assert {path.parent.name for path in _files(tmp_path)} == {study_name(s) for s in ("busy", "new", "never taken")}
    assert not list((tmp_path / ".leaving").iterdir())


def test_nothing_that_was_stored_is_removed_beside_it(tmp_path: Path) -> None:
    """One thread stores, the other removes all that it may, hundreds of times over."""
    storing, removing = Incoming(tmp_path), Incoming(tmp_path)
    kept, ended = list[str](), threading.Event()

    def store() -> None:
        for number in range(150):
            with contextlib.suppress(FileNotFoundError):  # removed before it was safe: not acknowledged
                storing.store("1", str(number), (b"a",))
                kept.append(str(number))
        ended.set()

    thread = threading.Thread(target=store)
    thread.start()
    removed = set[str]()

    def may_go(folder: Path) -> bool:
        removed.update(path.stem for path in folder.glob("*.dcm"))  # what is known to be there is what may be removed
        return True

    while not ended.is_set():
        list(removing.quiet(0, time.time() + 2))
        removing.remove_older(0, time.time() + 2, may_go)
    thread.join()
    left = {path.stem for path in _files(tmp_path)}
    assert {hashlib.sha256(uid.encode()).hexdigest()[:32] for uid in kept} <= left | removed
    assert len(kept) > 50


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--state"):
        Incoming(tmp_path / "file" / "in")
