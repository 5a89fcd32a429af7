"""The folder of what was received: an instance is kept under hashes, and is there whole and for good, or not at all.

``<root>/<study>/<instance>.dcm``: ``study`` is 12 hex digits of the hashed StudyInstanceUID, as in result folders,
``instance`` 32 of the hashed SOPInstanceUID. Nothing that a sender writes becomes a path. A study's time is its
folder's time of change, so a restart has nothing to remember.

An instance is written into ``<root>/.arriving``, under a name that was put on the disk before, in a batch. So one sync
of the file makes it safe, where a new name would need another one of its folder, and half the speed; then it is moved
to its place. Should the power fail before the move is on the disk, the file is whole in ``.arriving``, and `recover`
moves it again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from edgeseg.errors import OutputError

RESERVE_BYTES = 256 * 1024**2
"""Space that stays free for the queue and for results: a full disk stops what comes in, not what is under way."""
_ARRIVING = ".arriving"
_LEAVING = ".leaving"
_LOCK = ".lock"
_AHEAD = 64
"""Names that are put on the disk at once."""
_SUFFIX = ".dcm"


@dataclass(frozen=True)
class Arrived:
    """A study that has been quiet for long enough.

    Parameters
    ----------
    key
        Its folder's name: 12 hex digits of its hashed StudyInstanceUID.
    folder
        Where its instances lie.
    digest
        Hash of the names and sizes of its files: another one when more has come, not when the same came again.
    files
        How many there are.
    """

    key: str
    folder: Path
    digest: str
    files: int


class Incoming:
    """The folder of received studies, for any number of threads; one process stores, another may take and remove.

    Parameters
    ----------
    root
        The folder; made when it is not there.
    reserve
        Bytes that stay free on its disk.

    Raises
    ------
    OutputError
        The folder cannot be made or written.
    """

    def __init__(self, root: Path, reserve: int = RESERVE_BYTES) -> None:
        self.root = root
        self._reserve = reserve
        self._numbers = count()
        self._names: list[Path] = []
        self._naming = threading.Lock()
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        try:
            for place in (root / _ARRIVING, root / _LEAVING):
                place.mkdir(parents=True, exist_ok=True)
            self._lock_file = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            _sync(root)
            _sync(root.parent)
        except OSError as error:
            raise OutputError(
                f"cannot write to {root} ({error.strerror}): give a folder on a local disk that can be written, "
                "with --state"
            ) from error

    def recover(self, whole: Callable[[Path], tuple[str, str] | None]) -> int:
        """Move what an earlier process had written whole, remove what it had not: that was never acknowledged.

        Parameters
        ----------
        whole
            A file's StudyInstanceUID and SOPInstanceUID; None when it is not all there.

        Returns
        -------
        int
            How many were moved.
        """
        shutil.rmtree(self.root / _LEAVING, ignore_errors=True)
        (self.root / _LEAVING).mkdir(exist_ok=True)
        moved = 0
        for path in (self.root / _ARRIVING).iterdir():
            if path in self._names:
                continue
            if found := whole(path):
                self._place(path, *found)
                moved += 1
            else:
                path.unlink(missing_ok=True)
        return moved

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """One at a time, of all threads and processes: a study that is removed takes no new instance along."""
        with self._lock:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def store(self, study_uid: str, instance_uid: str, parts: Sequence[bytes | memoryview]) -> int:
        """Keep an instance; it is on the disk when this returns, and the same instance again takes its place.

        Parameters
        ----------
        study_uid, instance_uid
            StudyInstanceUID and SOPInstanceUID, any text.
        parts
            The file's bytes, in order.

        Returns
        -------
        int
            Bytes written.

        Raises
        ------
        OSError
            It could not be kept, and nothing of it is left: ``ENOSPC`` when the disk is full but for the reserve.
        """
        path = self._name()
        try:
            size = self._write(path, parts)
            self._place(path, study_uid, instance_uid)
        except BaseException:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        return size

    def _name(self) -> Path:
        """Give an empty file whose name is on the disk."""
        with self._naming:
            if not self._names:
                names = [self.root / _ARRIVING / f"{os.getpid()}-{next(self._numbers)}" for _ in range(_AHEAD)]
                try:
                    for path in names:
                        path.touch(mode=0o640, exist_ok=False)
                    _sync(self.root / _ARRIVING)
                except OSError:
                    for path in names:
                        path.unlink(missing_ok=True)
                    raise
                self._names = names
            return self._names.pop()

    def _write(self, path: Path, parts: Sequence[bytes | memoryview]) -> int:
        views = [memoryview(part) for part in parts]
        size = sum(view.nbytes for view in views)
        room = os.statvfs(self.root)
        if room.f_bavail * room.f_frsize < self._reserve + size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for view in views:
                written = 0
                while written < view.nbytes:  # one call may write less than all, on a disk that fills up for one
                    written += os.write(descriptor, view[written:])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return size

    def _place(self, path: Path, study_uid: str, instance_uid: str) -> None:
        """Move a file that is safe to its place."""
        place = self.root / study_name(study_uid) / f"{_hashed(instance_uid, 32)}{_SUFFIX}"
        with self._moving():
            try:
                path.replace(place)
            except FileNotFoundError:
                place.parent.mkdir(exist_ok=True)
                path.replace(place)

    def quiet(self, seconds: float, now: float) -> Iterator[Arrived]:
        """Studies to which nothing was added for ``seconds`` before ``now`` (since 1970), each once per change."""
        for folder, changed_ns in self._studies():
            age = now - changed_ns / 1e9
            if age < -1:  # the clock was set back: the study's time begins again
                with suppress(OSError):
                    os.utime(folder, (now, now))
            elif age >= seconds and self._seen.get(folder.name) != changed_ns:
                sizes = sorted((path.name, path.stat().st_size) for path in folder.iterdir())
                if sizes:
                    digest = hashlib.sha256(repr(sizes).encode()).hexdigest()
                    yield Arrived(folder.name, folder, digest, len(sizes))
                self._seen[folder.name] = changed_ns  # after the caller has dealt with it

    def remove_older(self, seconds: float, now: float, may_go: Callable[[Path], bool]) -> int:
        """Remove studies that `quiet` gave and that got nothing for ``seconds`` before ``now``, if they ``may_go``.

        Returns
        -------
        int
            How many were removed.
        """
        removed = 0
        for folder, changed_ns in self._studies():
            if now - changed_ns / 1e9 < seconds or self._seen.get(folder.name) != changed_ns or not may_go(folder):
                continue
            leaving = self.root / _LEAVING / f"{folder.name}-{next(self._numbers)}"
            with self._moving():
                if folder.stat().st_mtime_ns != changed_ns:
                    continue
                folder.rename(leaving)
            _sync(self.root)  # before it is emptied: half a study must not come back
            self._seen.pop(folder.name, None)
            shutil.rmtree(leaving, ignore_errors=True)
            removed += 1
        return removed

    def _studies(self) -> list[tuple[Path, int]]:
        """Folders of studies, and when each changed last (ns since 1970)."""
        with os.scandir(self.root) as entries:
            return [
                (Path(entry.path), entry.stat().st_mtime_ns)
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]


def study_name(study_uid: str) -> str:
    """A study's name without patient data: 12 hex digits of its hashed StudyInstanceUID."""
    return _hashed(study_uid, 12)


def _hashed(uid: str, digits: int) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:digits]


def _sync(folder: Path) -> None:
    """Put a folder's names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
