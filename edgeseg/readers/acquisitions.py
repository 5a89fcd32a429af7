"""Series that were acquired more than once: one acquisition is taken, and which one is said.

Nothing is split unless several images lie at the same place: scanners number interleaved halves of one stack, and
slices of one stack have times of their own.
"""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeseg.readers.series import Frame, Series

SAME_PLACE = 0.1
"""Part of the slice distance below which two images lie at the same place."""

_Part = list[Frame]


@dataclass(frozen=True)
class Acquired:
    """A series of one acquisition, and a sentence on what was left aside ("" where nothing was)."""

    series: Series
    note: str = ""


def separate(series: Series) -> tuple[Acquired, ...]:
    """Take a series apart into its acquisitions, where it holds several.

    Parameters
    ----------
    series
        Parallel frames in any order.

    Returns
    -------
    tuple of Acquired
        Before and after contrast where the frames say so, each the later of the acquisitions that cover every place.
        The series itself, untouched, where no place comes twice, or where nothing tells the acquisitions apart.
    """
    if _most_at_a_place(series.frames) < 2:
        return (Acquired(series),)
    agents = _by(series.frames, lambda frame: frame.moment.agent)
    if len(agents) > 1 and all(_covers(part, series.frames) for part in agents):
        return tuple(acquired for part in agents for acquired in separate(_series_of(part, series)))
    parts = _acquisitions(series.frames)
    whole = [part for part in parts if _covers(part, series.frames)]
    if not whole:
        return (Acquired(series),)
    taken = max(whole, key=lambda part: max(_when(frame) for frame in part))
    note = (
        f"{series.facts.label} holds {len(parts)} acquisitions: the last one that is complete was taken "
        f"({len(taken)} slices), and {len(series.frames) - len(taken)} images were left aside"
    )
    return (Acquired(_series_of(taken, series), note),)


def without_copies(frames: Sequence[Frame]) -> tuple[tuple[Frame, ...], int]:
    """Leave out files that hold the same pixels at the same place as another file, under another UID.

    Returns
    -------
    frames
        Without the copies.
    copies
        How many were left out.
    """
    if _most_at_a_place(frames) < 2:
        return tuple(frames), 0
    kept: dict[tuple[Hashable, ...], Frame] = {}
    for number, frame in enumerate(sorted(frames, key=lambda one: (_when(one), one.instance_uid))):
        pixels = _pixels_sha256(frame) if frame.index is None else None
        place = tuple(np.round(frame.position_mm, 2).tolist())
        kept.setdefault((place, pixels if pixels is not None else number), frame)
    return tuple(kept.values()), len(frames) - len(kept)


def _acquisitions(frames: Sequence[Frame]) -> list[_Part]:
    """One list of frames for each acquisition, by the first mark that tells them all apart; empty where none does."""
    marks: tuple[Callable[[Frame], Hashable], ...] = (
        lambda frame: frame.moment.position,
        lambda frame: frame.moment.number,
        lambda frame: frame.path if frame.index is not None else None,
    )
    most = _most_at_a_place(frames)
    for mark in marks:
        parts = _by(frames, mark)
        if len(parts) == most and all(_most_at_a_place(part) == 1 for part in parts):
            return parts
    return _by_time(frames, most)


def _by_time(frames: Sequence[Frame], most: int) -> list[_Part]:
    """Acquisitions that follow each other: a new one begins where a place comes again."""
    parts: list[_Part] = [[]]
    for _, group in itertools.groupby(sorted(frames, key=_when), key=lambda frame: frame.moment.time):
        together = list(group)
        if parts[-1] and _most_at_a_place([*parts[-1], *together]) > 1:
            parts.append([])
        parts[-1] += together
    return parts if len(parts) == most and all(_most_at_a_place(part) == 1 for part in parts) else []


def _by(frames: Sequence[Frame], mark: Callable[[Frame], Hashable]) -> list[_Part]:
    parts: dict[Hashable, _Part] = {}
    for frame in frames:
        parts.setdefault(mark(frame), []).append(frame)
    return list(parts.values())


def _when(frame: Frame) -> tuple[str, int, int]:
    moment = frame.moment
    return moment.time, moment.position or moment.number or 0, moment.instance or 0


def _places(frames: Sequence[Frame]) -> list[int]:
    """How many frames lie at each place along the slice normal."""
    along = np.sort([frames[0].normal @ frame.position_mm for frame in frames])
    distances = np.diff(along)
    apart = distances[distances > 1e-2]
    usual = float(np.median(apart)) if apart.size else 1.0
    starts = np.flatnonzero(np.concatenate(([True], distances > SAME_PLACE * usual)))
    return [int(n) for n in np.diff(np.append(starts, len(along)))]


def _most_at_a_place(frames: Sequence[Frame]) -> int:
    return max(_places(frames))


def _covers(part: Sequence[Frame], frames: Sequence[Frame]) -> bool:
    return len(_places(part)) == len(_places(frames))


def _series_of(frames: Sequence[Frame], series: Series) -> Series:
    first = min(frame.moment.time for frame in frames)
    facts = replace(series.facts, slices=len(frames), acquired=first, agent=frames[0].moment.agent)
    return Series(tuple(frames), facts, series.mosaic)


def _pixels_sha256(frame: Frame) -> str | None:
    """Hash of a file's pixels as they are stored; None where they cannot be read."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return hashlib.sha256(pydicom.dcmread(frame.path, force=True).PixelData).hexdigest()
    except Exception:  # reading the series says what is wrong
        return None
