"""A folder that studies are copied into: each is queued when it has been quiet for a while."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeseg import readers
from edgeseg.errors import InputError, StudyError
from edgeseg.scanner.jobs import Job, Queue
from edgeseg.scanner.listing import Facts, content_digest, digest, is_unfinished, listing
from edgeseg.scanner.monitor import Monitor

PATIENCE = 10
"""A file that is named as unfinished, or cannot be opened, holds its study up for so many quiet times: copies stall."""
_LONGEST_POLL_S = 5.0
_SHARE = 5.0
"""A look at a slow share is followed by at least so many times its own length without one."""


@dataclass
class _Unit:
    """Files that are looked at together: those of one subfolder, or those directly in the watched folder."""

    facts: dict[Path, Facts] = field(default_factory=dict)
    since: dict[Path, float] = field(default_factory=dict)
    examined: dict[Path, Facts] | None = None
    looked: float = float("-inf")
    removed: float = float("-inf")
    studies: dict[str, readers.StudyFiles] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    unreadable: bool = False

    def update(self, found: dict[Path, Facts], now: float) -> None:
        """Remember what is there, since when each file is as it is, and when one went."""
        if self.facts.keys() - found.keys():
            self.removed = now
        self.since = {path: self.since[path] if self.facts.get(path) == facts else now for path, facts in found.items()}
        self.facts = found

    def quiet(self, paths: Iterable[Path], now: float, quiet_s: float) -> bool:
        """Whether files have been as they are for long enough."""
        return all(
            path in self.since and now - self.since[path] >= quiet_s * (PATIENCE if is_unfinished(path.name) else 1)
            for path in paths
        )

    @property
    def settled(self) -> bool:
        """Whether what is there is what was examined."""
        return not self.facts or self.examined == self.facts


class Watcher:
    """Watches a folder by polling, which works on every network share.

    Parameters
    ----------
    folder
        Studies lie in subfolders of it, at any depth, or directly in it.
    queue, monitor
        Where complete studies go, and what is told of them.
    quiet_s
        Seconds without a change after which a study counts as complete.

    Raises
    ------
    InputError
        When there is no such folder.
    """

    def __init__(self, folder: Path, queue: Queue, monitor: Monitor, quiet_s: float = 30.0) -> None:
        check_folder(folder)
        self.folder, self._queue, self._monitor, self._quiet_s = folder.absolute(), queue, monitor, quiet_s
        self.poll_s = min(max(quiet_s / 4, 0.05), _LONGEST_POLL_S)
        self._units: dict[str, _Unit] = {}
        self._studies: dict[str, readers.StudyFiles] = {}
        self._queued: dict[str, str] = {}
        self._next, self._settled, self._reached = float("-inf"), False, True

    def scan(self) -> bool:
        """Look at the folder, unless the last look was just now, and queue what is complete.

        Returns
        -------
        bool
            Whether everything in it was quiet and is queued.

        Raises
        ------
        OutputError
            When the queue cannot be written to.
        """
        started = time.monotonic()
        if started < self._next:
            return self._settled
        self._settled = False
        try:
            for name in self._names():
                self._look(name, started)
            self._note(None)
        except OSError as error:
            self._note(error.strerror or type(error).__name__)
        else:
            self._queue_complete()
            self._settled = all(unit.settled for unit in self._units.values())
        finally:
            self._next = time.monotonic() + max(self.poll_s, _SHARE * (time.monotonic() - started))
        return self._settled

    def find(self, job: Job) -> readers.StudyFiles | None:
        """Give a job's files: those that were examined, or what lies in its folder after a restart."""
        known = self._studies.get(job.key)
        if known and known.root == job.folder and content_digest(known.files, job.folder) == job.digest:
            return known
        return self._find(job.folder, job.folder == self.folder).get(job.key) or self._find(job.folder).get(job.key)

    def _note(self, reason: str | None) -> None:
        """Say once that the folder cannot be listed, and once that it can be again."""
        if reason and self._reached:
            self._monitor.event("folder_unreachable", reason=reason)
        elif not reason and not self._reached:
            self._monitor.event("folder_reached")
        self._reached = not reason

    def _names(self) -> list[str]:
        """The units: subfolders' names, and "" for the files directly in the folder."""
        with os.scandir(self.folder) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        for gone in set(self._units) - {"", *folders}:
            del self._units[gone]
        return ["", *folders]

    def _look(self, name: str, now: float) -> None:
        """Look at one unit, and find its studies when it is quiet.

        Files directly in the watched folder may belong to many studies: one that arrives must not hold up the others.
        """
        unit, flat = self._units.setdefault(name, _Unit()), not name
        try:
            unit.update(listing(self.folder / name, deep=not flat), now)
        except OSError as error:
            self._units[name] = _Unit(unreadable=True)
            if not unit.unreadable:
                self._monitor.event("subfolder_unreadable", reason=error.strerror or type(error).__name__)
            return
        unit.unreadable = False
        if unit.settled:
            return
        unit.ready = set()  # what was found is not what is there
        if now - max(unit.looked, unit.removed) < self._quiet_s:
            return
        quiet = [path for path in unit.facts if unit.quiet([path], now, self._quiet_s)]
        if not quiet or (not flat and len(quiet) < len(unit.facts)):
            return
        unit.looked = now
        unit.studies = self._find(self.folder / name, flat)
        unit.ready = {key for key, files in unit.studies.items() if self._is_ready(unit, files, now)}
        whole = len(quiet) == len(unit.facts) and len(unit.ready) == len(unit.studies)
        unit.examined = unit.facts if whole else None
        if whole and not unit.studies:
            self._monitor.event("no_study", files=len(unit.facts))

    def _is_ready(self, unit: _Unit, files: readers.StudyFiles, now: float) -> bool:
        if not unit.quiet((*files.files, *files.skipped), now, self._quiet_s):
            return False
        locked = [path for path in files.skipped if not _opens(path)]
        return unit.quiet(locked, now, PATIENCE * self._quiet_s)

    def _find(self, place: Path, flat: bool = False) -> dict[str, readers.StudyFiles]:
        """Studies by key; ``flat`` leaves out what lies in subfolders."""
        try:
            found = readers.find_studies(place)
        except StudyError:
            return {}
        kept = []
        for files in found:
            own = tuple(
                path for path in files.files if not is_unfinished(path.name) and (not flat or path.parent == place)
            )
            if own:
                kept.append(replace(files, files=own, root=place if flat else files.root))
        names = Counter(self._key(files) for files in kept)
        keyed = {}
        for files in kept:
            key = self._key(files)
            key = f"{key}-{files.kind}" if names[key] > 1 else key
            keyed[key] = replace(files, name=key)
        return keyed

    def _key(self, files: readers.StudyFiles) -> str:
        """A study's name: DICOM's hash of its UID; for others the path below the watched folder, each its own."""
        parts = Path(os.path.relpath(files.root, self.folder)).parts
        path_digits = hashlib.sha256(os.fsencode(Path(*parts))).hexdigest()
        if files.kind == "dicom":
            return files.name if files.uid else path_digits[:12]
        name = "_".join(parts or (self.folder.name or "study",)).encode("utf-8", "replace").decode()
        return f"{name}-{path_digits[:6]}" if len(parts) > 1 and any("_" in part for part in parts) else name

    def _queue_complete(self) -> None:
        """Queue every study that is ready wherever it lies: a DICOM study's series may lie in several subfolders."""
        parts: dict[str, list[tuple[_Unit, readers.StudyFiles]]] = {}
        for unit in self._units.values():
            for key, files in unit.studies.items():
                parts.setdefault(key, []).append((unit, files))
        self._studies = {key: _merged([files for _, files in places]) for key, places in parts.items()}
        for key, places in parts.items():
            if not all(key in unit.ready for unit, _ in places):
                continue
            study = self._studies[key]
            facts = {path: unit.facts.get(path, (-1, 0)) for unit, files in places for path in files.files}
            found = digest(facts, study.root)
            if self._queued.get(key) != found:
                if self._queue.add(key, study.root, found, "watch"):
                    self._monitor.event("study_queued", study=key, files=len(study.files))
                self._queued[key] = found


def check_folder(folder: Path) -> None:
    """Refuse what cannot be watched.

    Raises
    ------
    InputError
        When there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the one that studies are copied into")


def _merged(parts: list[readers.StudyFiles]) -> readers.StudyFiles:
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        root=Path(os.path.commonpath([part.root for part in parts])),
        files=tuple(sorted(path for part in parts for path in part.files)),
        warnings=tuple(warning for part in parts for warning in part.warnings),
        skipped=tuple(path for part in parts for path in part.skipped),
    )


def _opens(path: Path) -> bool:
    try:
        path.open("rb").close()
    except OSError:
        return False
    return True
