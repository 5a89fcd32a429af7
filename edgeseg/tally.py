"""What differs between two engines' masks, counted slice by slice and patient by patient. Arrays only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgeseg import metrics, preprocess
from edgeseg.types import BoolArray, FloatArray
from edgeseg.verdict import Agreement, Overlap, Part, PatientAgreement, VolumeDifference

LEAST_PART_PX = 20
"""Parts of a mask up to this many pixels are not counted as lost or invented abnormalities."""


@dataclass(frozen=True)
class SourceMasks:
    """Both engines' masks on a study's own grid, where that is not the network's.

    Parameters
    ----------
    reference, candidate
        bool (slice, row, column): masks of the PyTorch model and of the engine.
    slice_names
        One for each slice.
    """

    reference: BoolArray
    candidate: BoolArray
    slice_names: tuple[str, ...]


@dataclass(frozen=True)
class PatientLogits:
    """One patient's slices through both engines.

    Parameters
    ----------
    name
        The patient.
    reference
        float32 (slice, 1, H, W), logits of the PyTorch model; or bool of this shape, its recorded masks.
    candidate
        float32 (slice, 1, H, W), logits of the engine.
    drawn
        bool (slice, row, column) on the study's own grid: drawn masks; None where there are none.
    slice_names
        One for each slice.
    source
        Both masks on the study's own grid; None where that is the network's.
    voxel_ml
        Volume of a voxel of the study's own grid; None where it is not known.
    """

    name: str
    reference: FloatArray | BoolArray
    candidate: FloatArray
    drawn: BoolArray | None
    slice_names: tuple[str, ...]
    source: SourceMasks | None = None
    voxel_ml: float | None = None


def cut(threshold: float) -> np.float32:
    """The logit at and above which a pixel is marked, for a threshold that is a probability, 0..1."""
    limit: np.float32 = np.float32(np.log(threshold / (1 - threshold)))
    return limit


def marked(outputs: FloatArray | BoolArray, limit: np.float32) -> BoolArray:
    """Masks, bool (slice, H, W), of logits or of recorded masks, both (slice, 1, H, W)."""
    return np.asarray(outputs[:, 0] if outputs.dtype == np.bool_ else outputs[:, 0] >= limit, dtype=np.bool_)


@dataclass
class SliceTally:
    """Slices of one kind of grid: how many, what differs, and the IoU of those that either engine marks.

    Parameters
    ----------
    slices, pixels, differing, empty
        Slices and pixels looked at, pixels that differ, slices in which both masks are empty.
    ious, names
        Of the slices that count.
    """

    slices: int = 0
    pixels: int = 0
    differing: int = 0
    empty: int = 0
    ious: list[float] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, ours: BoolArray, theirs: BoolArray, names: tuple[str, ...], least_px: float) -> None:
        """Count slices; those whose larger mask has more than ``least_px`` count for the agreement."""
        larger = np.maximum(ours.sum(axis=(1, 2)), theirs.sum(axis=(1, 2)))
        self.slices += len(ours)
        self.pixels += ours.size
        self.differing += int(np.count_nonzero(ours != theirs))
        self.empty += int(np.count_nonzero(larger == 0))
        for k in np.flatnonzero(larger > least_px):
            self.ious.append(metrics.iou(ours[k], theirs[k]))
            self.names.append(names[k])

    def agreement(self) -> Agreement:
        """Mean, 5th percentile and worst; 1 where no slice counts."""
        if not self.ious:
            return Agreement(1.0, 1.0, 1.0, "", 0)
        return Agreement(*_spread(self.ious, self.names), len(self.ious))


@dataclass
class Tally:
    """Everything that a parity report says, counted while patients are added one by one.

    Parameters
    ----------
    limit
        The logit at and above which a pixel is marked.
    least_px
        Pixels of a network slice that its larger mask must exceed to count; on another grid the same share of a slice.
    """

    limit: np.float32
    least_px: int = 0
    network: SliceTally = field(default_factory=SliceTally)
    source: SliceTally = field(default_factory=SliceTally)
    largest_difference: float | None = 0.0
    lost: list[Part] = field(default_factory=list)
    invented: list[Part] = field(default_factory=list)
    _ious: dict[str, float] = field(default_factory=dict)
    _drawn: dict[str, _Drawn] = field(default_factory=dict)
    _volumes: dict[str, VolumeDifference] = field(default_factory=dict)

    def add(self, patient: PatientLogits) -> None:
        """Count a patient."""
        recorded = patient.reference.dtype == np.bool_
        ours, theirs = (marked(outputs, self.limit) for outputs in (patient.candidate, patient.reference))
        if recorded or self.largest_difference is None:
            self.largest_difference = None
        else:
            found = float(np.abs(patient.candidate - patient.reference).max())
            self.largest_difference = max(self.largest_difference, found)
        self.network.add(ours, theirs, patient.slice_names, self.least_px)
        for k, name in enumerate(patient.slice_names):
            self.lost += _untouched(theirs[k], ours[k], name)
            self.invented += _untouched(ours[k], theirs[k], name)
        if ours.any() or theirs.any():
            self._ious[patient.name] = metrics.iou(ours, theirs)
        if patient.source is not None:
            share = patient.source.candidate[0].size / ours[0].size
            ours, theirs = patient.source.candidate, patient.source.reference
            self.source.add(ours, theirs, patient.source.slice_names, self.least_px * share)
        self._add_volume(patient, ours, theirs)
        if patient.drawn is not None:
            self._drawn[patient.name] = _Drawn.of(ours, theirs, patient.drawn)

    def _add_volume(self, patient: PatientLogits, ours: BoolArray, theirs: BoolArray) -> None:
        """Count the volumes' difference; a patient of whom neither engine marks anything does not count."""
        own, other = int(np.count_nonzero(ours)), int(np.count_nonzero(theirs))
        if own or other:
            percent = 100 * (own - other) / other if other else 100.0
            unit: Literal["ml", "px"] = "px" if patient.voxel_ml is None else "ml"
            amount = (own - other) * (1.0 if patient.voxel_ml is None else patient.voxel_ml)
            self._volumes[patient.name] = VolumeDifference(abs(percent), percent, patient.name, amount, unit)

    def by_patient(self) -> PatientAgreement | None:
        """Agreement of whole patients; None where neither engine marks anything."""
        if not self._ious:
            return None
        return PatientAgreement(*_spread(list(self._ious.values()), list(self._ious)), len(self._ious))

    def dice_changes(self) -> tuple[float | None, float | None, str | None]:
        """Dice of the engine less the model's: mean over patients, the lowest, and its patient."""
        if not self._drawn:
            return None, None, None
        changes = {name: found.dice[1] - found.dice[0] for name, found in self._drawn.items()}
        worst = min(changes, key=lambda name: changes[name])
        return float(np.mean(list(changes.values()))), changes[worst], worst

    def against_drawn(self) -> Overlap | None:
        """Both engines against the drawn masks; None where there are none."""
        found = list(self._drawn.values())
        if not found:
            return None
        dice = np.mean([one.dice for one in found], axis=0)
        iou = np.mean([one.iou for one in found], axis=0)
        without, model, engine = np.sum([one.without for one in found], axis=0)
        return Overlap(
            *(float(dice[0]), float(dice[1]), float(iou[0]), float(iou[1])),
            len(found),
            *(int(without), int(model), int(engine)),
        )

    def volume(self) -> VolumeDifference | None:
        """The mean over patients, and the largest difference; None where neither engine marks anything."""
        if not self._volumes:
            return None
        worst = max(self._volumes.values(), key=lambda one: one.mean_percent)
        mean = float(np.mean([one.mean_percent for one in self._volumes.values()]))
        return VolumeDifference(mean, worst.worst_percent, worst.worst_patient, worst.worst_amount, worst.unit)


@dataclass(frozen=True)
class _Drawn:
    """One patient against the drawn masks.

    ``dice`` and ``iou`` are of the model and the engine; ``without`` counts the slices in which nothing is drawn, and
    how many of them the model and the engine mark.
    """

    dice: tuple[float, float]
    iou: tuple[float, float]
    without: tuple[int, int, int]

    @staticmethod
    def of(ours: BoolArray, theirs: BoolArray, drawn: BoolArray) -> _Drawn:
        """Masks of the engine, of the model, and the drawn ones: bool (slice, row, column)."""
        without = ~drawn.any(axis=(1, 2))
        model, engine = (int(mask[without].any(axis=(1, 2)).sum()) for mask in (theirs, ours))
        return _Drawn(
            (metrics.dice(theirs, drawn), metrics.dice(ours, drawn)),
            (metrics.iou(theirs, drawn), metrics.iou(ours, drawn)),
            (int(without.sum()), model, engine),
        )


def _spread(values: list[float], names: list[str]) -> tuple[float, float, float, str]:
    """Mean, 5th percentile, lowest, and the name of the lowest."""
    k = int(np.argmin(values))
    return float(np.mean(values)), float(np.percentile(values, 5)), values[k], names[k]


def _untouched(mask: BoolArray, other: BoolArray, name: str) -> list[Part]:
    """Parts of one slice's mask over `LEAST_PART_PX`, 8-connected, that the other mask does not touch."""
    if not mask.any():
        return []
    labels = preprocess.parts(mask)
    pixels = np.bincount(labels.ravel())
    touched = np.bincount(labels[other], minlength=len(pixels))
    alone = [k for k in range(1, len(pixels)) if pixels[k] > LEAST_PART_PX and not touched[k]]
    return [Part(name, int(pixels[k])) for k in alone]
