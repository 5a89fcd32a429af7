"""From recognised series to a `Study`: FLAIR is needed, a T1 that cannot be used is left out and said so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from edgeseg.errors import StudyError
from edgeseg.readers import alignment, geometry
from edgeseg.readers.choice import AUTOMATIC, Choice, Selection, choose
from edgeseg.readers.glance import Reference, reference
from edgeseg.readers.sequences import SeriesFacts
from edgeseg.types import ChannelName, ChannelOrigin, Study, Volume

VOXEL_MM = (0.01, 50.0)
"""Smallest and largest side of a voxel."""
LONGEST_SIDE = 100
"""How many times longer than the shortest side of a field of view the longest may be."""
TILTED_DEG = 30.0
"""Tilt of the planes that the network sees against axial ones, in degrees, from which a person is told."""


class UnreadableFile(StudyError):
    """A file that cannot be used; only ``identified`` names it.

    Parameters
    ----------
    path
        The file.
    problem
        What is wrong with it, as the rest of a sentence that begins with the file.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"one file {problem}", f"{path} {problem}")


def assemble(
    *,
    uid: str,
    name: str,
    source: Literal["dicom", "nifti"],
    series: Sequence[SeriesFacts],
    load: Callable[[int], Volume],
    warnings: Sequence[str] = (),
    selection: Selection = AUTOMATIC,
) -> Study:
    """Choose the three sequences, read them, and bring T1s onto the FLAIR grid.

    Parameters
    ----------
    uid, name, source
        As in `Study`.
    series
        What is known of each series.
    load
        Reads the volume of the series at a position of `series`; raises StudyError where it cannot be used.
    warnings
        Sentences that the study carries already.
    selection
        Which series the user named, and the rules for the others.

    Returns
    -------
    Study
        Without headers.

    Raises
    ------
    StudyError
        No series is FLAIR, or the FLAIR series cannot be used.
    """
    choice = choose(series, selection)
    chosen = choice.series["flair"]
    if chosen is None:  # pragma: no cover - choose() raises instead
        raise StudyError("no FLAIR among the series")
    flair = _load(chosen, series, load)
    origins = {
        "flair": ChannelOrigin("own", series[chosen].label, choice.reasons["flair"], None, choice.scores["flair"])
    }
    notes = [*warnings, *choice.warnings, *_tilted(flair)]
    seen = reference(flair)
    pre, origins["pre"] = _t1("pre", choice, series, load, (flair, seen), notes)
    post, origins["post"] = _t1("post", choice, series, load, (flair, seen), notes)
    channels: dict[ChannelName, ChannelOrigin] = {name: origins[name] for name in ("pre", "flair", "post")}
    return Study(
        uid=uid,
        name=name,
        source=source,
        flair=flair,
        pre=pre,
        post=post,
        channels=channels,
        warnings=tuple(notes),
        considered=choice.considered,
        rules=choice.rules,
    )


def _load(position: int, series: Sequence[SeriesFacts], load: Callable[[int], Volume]) -> Volume:
    """Read a series, and refuse one whose voxels or field of view no scanner makes: its header is damaged."""
    volume = load(position)
    if volume.geometry is None:
        return volume
    spacing = volume.geometry.spacing_mm
    extent = spacing * volume.voxels.shape
    sizes = bool(np.isfinite(spacing).all() and (spacing >= VOXEL_MM[0]).all() and (spacing <= VOXEL_MM[1]).all())
    places = bool(np.isfinite(volume.geometry.origin_mm).all() and np.isfinite(volume.geometry.direction).all())
    if not sizes or not places or extent.max() > LONGEST_SIDE * extent.min():
        said = " x ".join(f"{mm:.3g}" for mm in spacing)
        counts = " x ".join(str(n) for n in volume.voxels.shape)
        raise StudyError(
            f"{series[position].label} says that it has {counts} voxels of {said} mm (slice, row, column), which is "
            "no head: its header is damaged, so export the series again"
        )
    return volume


def _tilted(flair: Volume) -> list[str]:
    """What a person should read of a FLAIR whose planes nearest to axial ones are far from them."""
    tilt = 0.0 if flair.geometry is None else geometry.tilt_deg(flair.geometry)
    if tilt < TILTED_DEG:
        return []
    return [
        f"the FLAIR planes nearest to axial are tilted by {tilt:.0f} degrees, and the network learned from axial ones: "
        "look at the mask with care"
    ]


def _t1(
    channel: Literal["pre", "post"],
    choice: Choice,
    series: Sequence[SeriesFacts],
    load: Callable[[int], Volume],
    onto: tuple[Volume, Reference],
    notes: list[str],
) -> tuple[Volume | None, ChannelOrigin]:
    """One T1 on the FLAIR grid, or None with the reason; what a person should read is added to the notes."""
    chosen, reason, score = choice.series[channel], choice.reasons[channel], choice.scores[channel]
    if chosen is None:
        return None, ChannelOrigin("flair", "", reason)
    label = series[chosen].label
    try:
        moving = _load(chosen, series, load)
    except StudyError as error:
        notes.append(f"the T1 in {label} was left out: {error}")
        return None, ChannelOrigin("flair", label, f"{reason}; it was left out because it cannot be read", None, score)
    aligned = alignment.align(moving, *onto)
    if aligned.alignment.method in ("registered", "left out"):
        notes.append(f"the T1 in {label}: {aligned.clause}")
    filled: Literal["own", "flair"] = "flair" if aligned.volume is None else "own"
    return aligned.volume, ChannelOrigin(filled, label, f"{reason}; {aligned.clause}", aligned.alignment, score)
