"""Two engines over the same slices: do they make the same masks? Arrays only; the gate that a bundle has to pass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeseg import metrics, preprocess
from edgeseg.types import Agreement, BoolArray, FloatArray, ParityReport, Part

LEAST_PART_PX = 20
"""Parts of a mask up to this many pixels are not counted as lost or invented abnormalities."""


@dataclass(frozen=True)
class Tolerance:
    """What parity demands.

    Parameters
    ----------
    differing_share
        Largest share, 0..1, of pixels whose mask may differ.
    mean, fifth_percentile, worst
        Smallest IoU between the two masks, over the slices in which either has more than ``least_px``.
    dice_loss_mean, dice_loss_worst
        Largest loss of Dice against the drawn masks, on the mean and for any one patient.
    least_px
        Pixels that a slice's larger mask must exceed to count.
    lost_px
        Most pixels that a lost abnormality may have: a part of the reference's mask, 8-connected in its slice, that the
        other mask does not touch.
    """

    differing_share: float
    mean: float
    fifth_percentile: float
    worst: float
    dice_loss_mean: float
    dice_loss_worst: float
    least_px: int = 0
    lost_px: int = 100


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(1e-6, 0.9999, 0.999, 0.95, 0.0001, 0.0005),
    "fp16": Tolerance(1e-4, 0.995, 0.985, 0.75, 0.0005, 0.003),
    "int8": Tolerance(1e-2, 0.985, 0.95, 0.5, 0.003, 0.03, least_px=50),
}
"""By precision of the network file."""


@dataclass(frozen=True)
class PatientLogits:
    """One patient's slices through both engines.

    Parameters
    ----------
    name
        The patient.
    reference, candidate
        float32 (slice, 1, H, W): logits of the PyTorch model and of the engine.
    drawn
        bool (slice, H, W): drawn masks; None where there are none.
    slice_names
        One for each slice.
    """

    name: str
    reference: FloatArray
    candidate: FloatArray
    drawn: BoolArray | None
    slice_names: tuple[str, ...]


def compare(patients: list[PatientLogits], threshold: float, tolerance: Tolerance, reference_name: str) -> ParityReport:
    """Compare masks slice by slice and patient by patient, and give a verdict.

    Parameters
    ----------
    patients
        Logits of both engines.
    threshold
        Probability at and above which a pixel is marked.
    tolerance
        What is demanded, from `TOLERANCES`.
    reference_name
        What the engine is compared with, for the report.

    Raises
    ------
    ValueError
        When there is nothing to compare.
    """
    if not patients:
        raise ValueError("no patients to compare: parity needs at least one")
    cut = np.float32(np.log(threshold / (1 - threshold)))
    ious: list[float] = []
    names: list[str] = []
    changes: dict[str, float] = {}
    lost, invented = _alone(patients, cut)
    differing = pixels = slices = empty = 0
    largest = 0.0
    for patient in patients:
        ours, theirs = patient.candidate[:, 0] >= cut, patient.reference[:, 0] >= cut
        largest = max(largest, float(np.abs(patient.candidate - patient.reference).max()))
        differing += int(np.count_nonzero(ours != theirs))
        pixels, slices = pixels + ours.size, slices + len(ours)
        larger = np.maximum(ours.sum(axis=(1, 2)), theirs.sum(axis=(1, 2)))
        empty += int(np.count_nonzero(larger == 0))
        for k in np.flatnonzero(larger > tolerance.least_px):
            ious.append(metrics.iou(ours[k], theirs[k]))
            names.append(patient.slice_names[k])
        if patient.drawn is not None:
            changes[patient.name] = metrics.dice(ours, patient.drawn) - metrics.dice(theirs, patient.drawn)
    agreement = _agreement(ious, names)
    mean_change, worst_change, worst_patient = _changes(changes)
    failures = _failures(agreement, differing / pixels, mean_change, worst_change, lost, tolerance)
    return ParityReport(
        agreement=agreement,
        slices=slices,
        pixels=pixels,
        differing_pixels=differing,
        largest_logit_difference=largest,
        dice_change_mean=mean_change,
        dice_change_worst=worst_change,
        worst_patient=worst_patient,
        passed=not failures,
        failures=failures,
        reference=reference_name,
        empty_slices=empty,
        lost=lost,
        invented=invented,
    )


def _changes(changes: dict[str, float]) -> tuple[float | None, float | None, str | None]:
    """Mean and lowest of the patients' changes, and the patient of the lowest."""
    if not changes:
        return None, None, None
    worst = min(changes, key=lambda name: changes[name])
    return float(np.mean(list(changes.values()))), changes[worst], worst


def _agreement(ious: list[float], names: list[str]) -> Agreement:
    if not ious:
        return Agreement(1.0, 1.0, 1.0, "", 0)
    k = int(np.argmin(ious))
    return Agreement(float(np.mean(ious)), float(np.percentile(ious, 5)), ious[k], names[k], len(ious))


def _failures(
    agreement: Agreement,
    differing_share: float,
    dice_change_mean: float | None,
    dice_change_worst: float | None,
    lost: tuple[Part, ...],
    tolerance: Tolerance,
) -> tuple[str, ...]:
    failures = []
    if agreement.slices == 0:
        failures.append("neither engine marks anything in these slices: give slices with an abnormality")
    if differing_share > tolerance.differing_share:
        failures.append(f"{differing_share:.2e} of the pixels differ, at most {tolerance.differing_share:.0e} may")
    for what, value, bound in (
        ("mean", agreement.mean, tolerance.mean),
        ("5th percentile of", agreement.fifth_percentile, tolerance.fifth_percentile),
        (f"worst ({agreement.worst_slice})", agreement.worst, tolerance.worst),
    ):
        if value < bound:
            failures.append(f"{what} agreement is {value:.4f}, at least {bound} is needed")
    for what, change, allowed in (
        ("mean over patients", dice_change_mean, tolerance.dice_loss_mean),
        ("worst patient", dice_change_worst, tolerance.dice_loss_worst),
    ):
        if change is not None and -change > allowed:
            failures.append(f"Dice falls by {-change:.4f} ({what}), at most {allowed} may be lost")
    large = [part for part in lost if part.pixels > tolerance.lost_px]
    if large:
        names = ", ".join(f"{part.slice_name} ({part.pixels} px)" for part in large[:5])
        failures.append(f"{len(large)} abnormalities over {tolerance.lost_px} px are lost: {names}")
    return tuple(failures)


def _alone(patients: list[PatientLogits], cut: np.float32) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Parts of the reference's masks that the candidate's do not touch, and the other way round."""
    lost: list[Part] = []
    invented: list[Part] = []
    for patient in patients:
        for k, name in enumerate(patient.slice_names):
            ours, theirs = patient.candidate[k, 0] >= cut, patient.reference[k, 0] >= cut
            lost += _untouched(theirs, ours, name)
            invented += _untouched(ours, theirs, name)
    return tuple(lost), tuple(invented)


def _untouched(mask: BoolArray, other: BoolArray, name: str) -> list[Part]:
    """Parts of one slice's mask over `LEAST_PART_PX`, 8-connected, that the other mask does not touch."""
    if not mask.any():
        return []
    labels = preprocess.parts(mask)
    pixels = np.bincount(labels.ravel())
    touched = np.bincount(labels[other], minlength=len(pixels))
    alone = [k for k in range(1, len(pixels)) if pixels[k] > LEAST_PART_PX and not touched[k]]
    return [Part(name, int(pixels[k])) for k in alone]


def to_json(report: ParityReport) -> dict[str, Any]:
    """Plain values of a report."""
    return asdict(report)


def figures(report: ParityReport) -> list[list[str]]:
    """A report's figures as a table: what, and its value in words."""
    agreement, change = report.agreement, report.dice_change_worst
    return [
        ["agreement of the masks (IoU), mean", f"{agreement.mean:.6f}"],
        ["  5th percentile", f"{agreement.fifth_percentile:.6f}"],
        [f"  worst slice ({agreement.worst_slice})", f"{agreement.worst:.6f}"],
        ["pixels that differ", f"{report.differing_pixels} of {report.pixels:,}"],
        ["largest difference of the logits", f"{report.largest_logit_difference:.2e}"],
        ["Dice against drawn masks, change of the mean", f"{report.dice_change_mean:+.6f}"],
        [f"  worst patient ({report.worst_patient})", "-" if change is None else f"{change:+.6f}"],
        ["slices where both masks are empty", f"{report.empty_slices} of {report.slices}"],
        [f"abnormalities over {LEAST_PART_PX} px lost", _parts(report.lost)],
        [f"abnormalities over {LEAST_PART_PX} px invented", _parts(report.invented)],
        ["verdict", "passed" if report.passed else "FAILED"],
    ]


def _parts(parts: tuple[Part, ...]) -> str:
    if not parts:
        return "0"
    largest = max(parts, key=lambda part: part.pixels)
    return f"{len(parts)}, the largest {largest.pixels} px ({largest.slice_name})"
