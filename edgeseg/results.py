"""A study's results on disk: staged beside their place, moved there whole, and known again when they are done.

What holds at every moment, so also after ``kill -9`` or a power cut:

- a ``report.json`` stands only beside all the files that it lists;
- what is half written lies in a hidden folder ``.<study>-<digits>.part``, which the next run clears away;
- of two processes at the same study, one waits for the other.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgeseg.errors import OutputError

REPORT = "report.json"
_JOURNAL = ".publishing.json"
"""Names the files of a folder's earlier and new results while the one takes the other's place."""
_STAGE = re.compile(r"\..*-[0-9a-f]{8}\.part")
_LOCK, _FILES = "lock", "files"
_PATIENCE_S = 0.05
"""Between looks at a lock that another process has."""


@contextmanager
def staging(output: Path, name: str, stop: threading.Event | None = None) -> Iterator[Path]:
    """A folder beside the final one to write into; it is gone afterwards, whatever happened.

    A study is staged by one process at a time: another one waits here until it is done.

    Parameters
    ----------
    output
        Folder that the study's own folder goes into; it is made where it is missing.
    name
        The study's name.
    stop
        Ends the wait for another process when it is set.

    Raises
    ------
    OutputError
        When ``output`` cannot be written to, or the wait for another process was ended.
    """
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        part, lock = _claim(output, name, stop or threading.Event())
    except OSError as error:
        raise unwritable(output, error) from error
    try:
        yield part / _FILES
    finally:
        _clear(part)
        os.close(lock)
        for folder in made:
            with suppress(OSError):  # not empty: the results are in it, or another process has begun to use it
                folder.rmdir()


def sweep(output: Path) -> None:
    """Clear away what killed processes left staged; what a living one is at work on stays."""
    if not output.is_dir():
        return
    for part in sorted(output.iterdir()):
        if _STAGE.fullmatch(part.name) and part.is_dir() and not part.is_symlink():
            with suppress(OSError):
                lock = os.open(part / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    _flock(lock)
                    _clear(part)
                finally:
                    os.close(lock)


def publish(stage: Path, folder: Path) -> Path:
    """Move the files of ``stage`` to ``folder``, and drop what an earlier run left there.

    Where there is no such folder yet, the stage becomes it in one step. Else a journal names all files concerned, the
    earlier report goes first and the new one comes last. Only files that a report or journal lists are dropped;
    anything else in the folder stays.

    Parameters
    ----------
    stage
        From `staging`; its files are flushed to the disk before they are moved.
    folder
        The study's folder.
    """
    new = sorted(
        (path.relative_to(stage) for path in stage.rglob("*") if path.is_file()),
        key=lambda path: (path.name == REPORT, path),
    )
    for path in (*stage.rglob("*"), stage):
        _flush(path)
    try:
        stage.rename(folder)
    except OSError as error:
        if not (error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and folder.is_dir()):
            raise
        _replace(stage, folder, new)
    _flush(folder.parent)
    return folder


def finished(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The report of results that have this fingerprint and are all there; None where they are not.

    Parameters
    ----------
    folder
        The study's folder.
    fingerprint
        From `edgeseg.fingerprint`.
    """
    report = _listing(folder / REPORT)
    files = report.get("files")
    if report.get("fingerprint") != fingerprint or not isinstance(files, list):
        return None
    return report if all(_is_file_inside(folder, str(name)) for name in files) else None


def unwritable(output: Path, error: OSError) -> OutputError:
    """What to say of a folder that results cannot be written to."""
    cause = _cause(error)
    remedy = "give another folder with -o"
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = f"free some space, or {remedy}"
    reason = cause.strerror or str(cause).partition("\n")[0]
    return OutputError(f"cannot write to {output} ({reason}): {remedy}")


def _cause(error: OSError) -> OSError:
    """The system's own error: pydicom wraps it into one of several lines, without its number."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno is not None:
            return found
        found = found.__cause__ or found.__context__
    return error


def _claim(output: Path, name: str, stop: threading.Event) -> tuple[Path, int]:
    """Make the study's stage, locked and empty; a lock that was cleared away while we waited for it is taken again."""
    part = output / f".{name[:40]}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}.part"
    while True:
        if not _made(part):
            continue
        lock = -1
        try:
            lock = os.open(part / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            _wait_for(lock, stop)
            if os.path.samestat(os.fstat(lock), (part / _LOCK).stat()):
                shutil.rmtree(part / _FILES, ignore_errors=True)  # of a run that was killed
                (part / _FILES).mkdir()
                claimed, lock = lock, -1
                return part, claimed
        except FileNotFoundError:  # cleared away in between
            continue
        finally:
            if lock >= 0:
                os.close(lock)


def _made(part: Path) -> bool:
    """Make a stage's folder where there is none; False where another process cleared it away just then.

    `Path.mkdir` finds that the folder is there and then asks whether it is one: cleared away in between, it is neither.
    """
    try:
        part.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        if error.filename != str(part) or (os.path.lexists(part) and not part.is_dir()):
            raise  # something that is no folder stands in the way, and stays there
        return False
    return True


def _clear(part: Path) -> None:
    """Delete a stage, its lock last: whoever finds the folder without one may take it."""
    shutil.rmtree(part / _FILES, ignore_errors=True)
    with suppress(OSError):
        (part / _JOURNAL).unlink(missing_ok=True)
        (part / _LOCK).unlink()
        part.rmdir()


def _wait_for(lock: int, stop: threading.Event) -> None:
    """Lock an open file once no other process has it; on a file system without locks, do without."""
    while True:
        try:
            return _flock(lock)
        except BlockingIOError:
            if stop.wait(_PATIENCE_S):
                raise
        except OSError:
            return None


def _flock(lock: int) -> None:
    """Lock an open file for this process alone, or raise; the lock ends with the process, however that ends."""
    import fcntl

    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _replace(stage: Path, folder: Path, new: list[Path]) -> None:
    """Move files one by one into a folder that holds others, the report last."""
    names = {path.as_posix() for path in new}
    earlier = _earlier_files(folder)
    journal = stage.parent / _JOURNAL
    journal.write_text(json.dumps({"files": sorted(earlier | names)}), encoding="utf-8")
    _flush(journal)
    journal.replace(folder / _JOURNAL)
    (folder / REPORT).unlink(missing_ok=True)
    _flush(folder)
    for old in earlier - names:
        (folder / old).unlink(missing_ok=True)
    for path in new:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if path.name == REPORT:
            _flush(folder)
        (stage / path).replace(folder / path)
    (folder / _JOURNAL).unlink()
    _flush(folder)


def _flush(path: Path) -> None:
    """Have a file's bytes, or a folder's entries, on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _earlier_files(folder: Path) -> set[str]:
    """What the report, or the journal of a run that was killed, lists and is there."""
    files: set[str] = set()
    for source in (REPORT, _JOURNAL):
        listed = _listing(folder / source).get("files")
        files |= {str(name) for name in listed} if isinstance(listed, list) else set()
    return {name for name in files if _is_file_inside(folder, name)}


def _listing(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_file_inside(folder: Path, name: str) -> bool:
    try:
        place = (folder / name).resolve()
        return place.is_relative_to(folder.resolve()) and place.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
