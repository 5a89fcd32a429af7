"""What a folder holds, as names, sizes and times: how a study that is still being written is told from a whole one."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

Facts = tuple[int, int]
"""Size in bytes, time of the last change in ns since 1970."""
_UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", ".download", ".incomplete", "~")
_RSYNC = re.compile(r"\..+\.[A-Za-z0-9]{6}")


def is_unfinished(name: str) -> bool:
    """Whether a file is named as copies that go on are: ``a.dcm.part``, rsync's ``.a.dcm.Xy12Zq``, ``~a.dcm``."""
    return name.startswith("~") or name.lower().endswith(_UNFINISHED) or bool(_RSYNC.fullmatch(name))


def listing(folder: Path, deep: bool = True) -> dict[Path, Facts]:
    """List files.

    Parameters
    ----------
    folder
        What is listed.
    deep
        Its subfolders too.

    Returns
    -------
    dict
        File -> its facts. Links to folders are not followed.

    Raises
    ------
    OSError
        When a folder cannot be listed, as when a network share has gone: an empty answer would be taken for the truth.
    """
    found: dict[Path, Facts] = {}
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if deep:
                        waiting.append(entry.path)
                    continue
                try:
                    facts = entry.stat()
                except FileNotFoundError:  # renamed meanwhile, or a link to nothing: the next look says which
                    continue
                found[Path(entry.path)] = (facts.st_size, facts.st_mtime_ns)
    return found


def content_digest(files: Iterable[Path], folder: Path) -> str:
    """Hash of the names, sizes and times of files as they are now; one that is gone counts as such.

    Parameters
    ----------
    files
        The files.
    folder
        Names are relative to it.

    Returns
    -------
    str
        As `digest` gives it.
    """
    facts = {}
    for path in files:
        try:
            found = path.stat()
            facts[path] = (found.st_size, found.st_mtime_ns)
        except OSError:
            facts[path] = (-1, 0)
    return digest(facts, folder)


def digest(facts: Mapping[Path, Facts], folder: Path) -> str:
    """Hash of the names, sizes and times of files: another one when any was added, removed or written.

    Times count in whole seconds: network shares and copies round them.

    Parameters
    ----------
    facts
        File -> size in bytes, time of the last change in ns.
    folder
        Names are relative to it.

    Returns
    -------
    str
        SHA-256 in hex.
    """
    lines = (f"{os.path.relpath(path, folder)}\0{size}\0{ns // 10**9}" for path, (size, ns) in facts.items())
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()
