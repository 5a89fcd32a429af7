"""Known motions between real sequences: are they found and mended, and what does an aligned study cost?

    python benchmarks/alignment.py LGG_FOLDER [--every N] [--nifti FOLDER] [--json FILE]

The motion is put into the T1's geometry, so that no voxel is interpolated: its headers are wrong by exactly that much.
TIFF slices say nothing of spacing: 0.9375 mm in the plane is assumed, and 150 mm from first to last slice, 7 mm apart
at most. How well a T1 lies before it is moved is not known either: what registration finds between the two as they
are (the rest) is taken off, and given apart. Where rest and motion together come to less than 2 mm, there is nothing
to mend. An aligned study is FLAIR with both T1s on its grid; its cost is the processor's time of ``reference`` and both
``align`` calls, in one thread, which other work on the machine does not lengthen as it does the time on the wall.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.readers import alignment, lgg, nifti
from edgeseg.readers.glance import reference
from edgeseg.types import Geometry, Vector, Volume

SHIFT_MM, TURN_DEG = 15.0, 10.0
FEWEST_MM = 3.0
Motion = tuple[Vector, Vector]
"""Matrix (3, 3) and shift in mm (3,): a point of FLAIR to the T1's point that belongs there."""


def main() -> None:
    """Print the figures and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--every", type=int, default=8, help="motions are tried on every n-th patient [default: 8]")
    parser.add_argument("--nifti", type=Path, help="a study whose headers are wrong: flair, t1, t1 post as NIfTI")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "alignment.json")
    arguments = parser.parse_args()
    patients = lgg.index(arguments.data)
    aligned, moved = Aligned(), Moved()
    for number, patient in enumerate(patients):
        flair, *t1s = volumes(patient)
        aligned.add(flair, t1s)
        if number % arguments.every == 0:
            for t1 in t1s:
                moved.add(flair, t1)
        print(f"{number + 1} of {len(patients)}", end="\r", flush=True)
    figures: dict[str, Any] = {"aligned": aligned.figures(), "moved": moved.figures()}
    if arguments.nifti:
        figures["wrong_headers"] = wrong_headers(arguments.nifti)
    print(json.dumps(figures, indent=2))
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def volumes(patient: lgg.Patient) -> list[Volume]:
    """FLAIR and the T1s of a patient that are there, on a grid of assumed spacing."""
    study = lgg.read_study(patient)
    count = study.flair.voxels.shape[0]
    distance = min(150.0 / count, 7.0)
    origin = np.array([-119.5, -119.5, -distance * (count - 1) / 2])
    grid = Geometry(origin, np.array([distance, 0.9375, 0.9375]), np.eye(3)[:, ::-1])
    return [Volume(v.voxels, grid, v.instance_ids) for v in (study.flair, study.pre, study.post) if v is not None]


@dataclass
class Aligned:
    """Studies as they are: which T1s were touched or registered, and the cost of a study in ms."""

    cost_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)
    shift_mm: list[float] = field(default_factory=list)
    registered: int = 0
    touched: int = 0

    def add(self, flair: Volume, t1s: list[Volume]) -> None:
        """Align a study's T1s, and keep both kinds of time."""
        started = time.process_time(), time.perf_counter()
        seen = reference(flair)
        found = [alignment.align(t1, flair, seen) for t1 in t1s]
        if len(t1s) == 2:
            self.cost_ms.append(1000 * (time.process_time() - started[0]))
            self.wall_ms.append(1000 * (time.perf_counter() - started[1]))
        self.shift_mm += [one.alignment.shift_mm for one in found]
        self.registered += sum(one.alignment.similarity_after is not None for one in found)
        self.touched += sum(one.volume is not t1 for one, t1 in zip(found, t1s, strict=True))

    def figures(self) -> dict[str, Any]:
        """Counts, and medians and extremes."""
        return {
            "t1s": len(self.shift_mm),
            "touched": self.touched,
            "registration_run": self.registered,
            "glance_shift_mm": _spread(self.shift_mm),
            "studies_with_both_t1s": len(self.cost_ms),
            "cost_ms": _spread(self.cost_ms),
            "on_the_wall_ms": _spread(self.wall_ms),
        }


@dataclass
class Moved:
    """Known motions: how many were found, and what was left of them in mm and degrees."""

    left_mm: list[float] = field(default_factory=list)
    left_deg: list[float] = field(default_factory=list)
    rest_mm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    small_mm: list[float] = field(default_factory=list)
    missed_mm: list[float] = field(default_factory=list)
    motions: int = 0

    def add(self, flair: Volume, t1: Volume) -> None:
        """Move a T1 by each known motion and bring it back."""
        seen = reference(flair)
        rest = _parts(alignment.register(t1, flair))
        self.rest_mm.append(_distance(rest, (np.eye(3), np.zeros(3)), seen.head)[0])
        for motion in motions():
            turned = moved_by(t1, motion)
            started = time.process_time()
            result = alignment.align(turned, flair, seen)
            self.seconds.append(time.process_time() - started)
            self.motions += 1
            truth = _after(motion, rest)
            if result.motion is None:
                whole_mm = _distance(truth, (np.eye(3), np.zeros(3)), seen.head)[0]
                (self.small_mm if whole_mm < alignment.ALIGNED_MM else self.missed_mm).append(whole_mm)
                continue
            left_mm, left_deg = _distance(_parts(result.motion), truth, seen.head)
            self.left_mm.append(left_mm)
            self.left_deg.append(left_deg)

    def figures(self) -> dict[str, Any]:
        """Counts, and medians and extremes."""
        return {
            "t1s": len(self.rest_mm),
            "motions": self.motions,
            "not_mended_mm": [_short(value) for value in self.missed_mm],
            "nothing_to_mend_mm": [_short(value) for value in self.small_mm],
            "left_mm": _spread(self.left_mm),
            "left_deg": _spread(self.left_deg),
            "rest_before_moving_mm": _spread(self.rest_mm),
            "cost_s": _spread(self.seconds),
        }


def motions() -> list[Motion]:
    """Corners of what is promised, its axes, and small motions."""
    diagonal = np.ones(3) / np.sqrt(3)
    corners = [np.array(signs) * diagonal for signs in itertools.product((-1, 1), repeat=3)]
    found = [
        *((_turn(axis, TURN_DEG), SHIFT_MM * corner) for axis, corner in zip(corners[::-1], corners, strict=True)),
        *((_turn(np.eye(3)[k], TURN_DEG), SHIFT_MM * np.eye(3)[2]) for k in range(3)),
        *((_turn(-np.eye(3)[k], TURN_DEG), -SHIFT_MM * np.eye(3)[2]) for k in range(3)),
    ]
    return [*found, *((np.eye(3), FEWEST_MM * np.eye(3)[k]) for k in range(3)), (_turn(np.eye(3)[2], 5.0), np.zeros(3))]


def moved_by(volume: Volume, motion: Motion) -> Volume:
    """The same voxels, with headers that are wrong by a motion."""
    if volume.geometry is None:
        raise ValueError("a volume without geometry cannot be moved")
    matrix, shift = motion
    grid = volume.geometry
    geometry_ = Geometry(matrix @ grid.origin_mm + shift, grid.spacing_mm, matrix @ grid.direction)
    return Volume(volume.voxels, geometry_, volume.instance_ids)


def wrong_headers(folder: Path) -> list[dict[str, Any]]:
    """What is found of a study whose headers are wrong, of the same with mended headers, and of these moved anew."""
    paths = sorted(folder.glob("*.nii.gz"))
    flair = nifti.read_volume(next(path for path in paths if "flair" in path.name))
    seen, found = reference(flair), []
    for path in paths:
        if "t1" in path.name:
            moving = nifti.read_volume(path)
            result = alignment.align(moving, flair, seen)
            facts: dict[str, Any] = {"file": path.name, **{k: _short(v) for k, v in vars(result.alignment).items()}}
            if result.motion is not None:
                matrix, shift = _parts(result.motion)
                mended = moved_by(moving, (matrix.T, -matrix.T @ shift))
                again, moved = Aligned(), Moved()
                again.add(flair, [mended, mended])
                moved.add(flair, mended)
                facts["mended"] = {"registered": again.registered, "two_of_it_cost_ms": _short(again.cost_ms[0])}
                facts["moved"] = moved.figures()
            found.append(facts)
    return found


def _turn(axis: Vector, angle_deg: float) -> Vector:
    """Rotation about a unit vector, shape (3, 3)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(angle_deg)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _parts(motion: Any) -> Motion:
    matrix = np.asarray(motion.GetMatrix()).reshape(3, 3)
    return matrix, np.asarray(motion.TransformPoint((0.0, 0.0, 0.0)))


def _after(second: Motion, first: Motion) -> Motion:
    return second[0] @ first[0], second[0] @ first[1] + second[1]


def _distance(found: Motion, truth: Motion, points: Vector) -> tuple[float, float]:
    """Mean distance of the head's points in mm, and the angle between the two rotations."""
    apart = points @ (found[0] - truth[0]).T + found[1] - truth[1]
    cosine = (np.trace(found[0] @ truth[0].T) - 1) / 2
    return float(np.linalg.norm(apart, axis=1).mean()), float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _spread(values: list[float]) -> dict[str, float]:
    median, high = np.percentile(values, (50, 95)) if values else (float("nan"), float("nan"))
    return {"median": _short(median), "p95": _short(high), "worst": _short(max(values, default=float("nan")))}


def _short(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
