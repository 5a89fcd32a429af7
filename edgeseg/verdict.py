"""What comparing two engines' masks finds: the parts of a parity report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Agreement:
    """How well two sets of masks agree, slice by slice (IoU; two empty masks agree at 1)."""

    mean: float
    fifth_percentile: float
    worst: float
    worst_slice: str
    slices: int


@dataclass(frozen=True)
class PatientAgreement:
    """How well two sets of masks agree, patient by patient: IoU over all of a patient's slices at once.

    Parameters
    ----------
    mean, fifth_percentile, worst
        IoU, 0..1, over the patients of whom either engine marks anything.
    worst_patient
        The patient of ``worst``.
    patients
        How many these are.
    """

    mean: float
    fifth_percentile: float
    worst: float
    worst_patient: str
    patients: int


@dataclass(frozen=True)
class Overlap:
    """The model and the engine against drawn masks, at the source's resolution.

    Parameters
    ----------
    dice_model, dice_engine, iou_model, iou_engine
        Means over patients, 0..1, each over all of a patient's slices at once.
    patients
        Patients with drawn masks.
    slices_without
        Slices in which nothing is drawn.
    marked_model, marked_engine
        How many of these each of them marks nevertheless.
    """

    dice_model: float
    dice_engine: float
    iou_model: float
    iou_engine: float
    patients: int
    slices_without: int
    marked_model: int
    marked_engine: int


@dataclass(frozen=True)
class VolumeDifference:
    """The engine's volume less the model's, patient by patient, at the source's resolution.

    Parameters
    ----------
    mean_percent
        Mean over patients of the difference's size, in percent of the model's volume; 100 where the model marks nothing
        and the engine does.
    worst_percent
        The largest in size, with its sign.
    worst_patient
        Its patient.
    worst_amount, unit
        The same in ml, or in pixels where the files give no geometry.
    """

    mean_percent: float
    worst_percent: float
    worst_patient: str
    worst_amount: float
    unit: Literal["ml", "px"]


@dataclass(frozen=True)
class Part:
    """A connected part of one slice's mask."""

    slice_name: str
    pixels: int


@dataclass(frozen=True)
class ParityReport:
    """An engine against the PyTorch model, over the same slices.

    Parameters
    ----------
    agreement
        Over slices in which either mask is not empty.
    slices, pixels, differing_pixels
        What was compared, and the pixels whose mask differs.
    largest_logit_difference
        Largest absolute difference of the logits; None against recorded masks.
    dice_change_mean, dice_change_worst
        Dice of the engine less Dice of the model against the drawn masks, mean over patients and the patient that
        lost most; None where no drawn masks were at hand.
    worst_patient
        The patient of ``dice_change_worst``.
    passed
        The verdict.
    failures
        One sentence for each tolerance that was missed.
    reference
        What the engine was compared with.
    empty_slices
        Slices in which both masks are empty.
    lost, invented
        Parts of the model's masks that the engine's do not touch, and of the engine's that the model's do not.
    by_patient
        Agreement of whole patients; None in reports of an earlier edgeseg.
    at_source
        Agreement over the slices of the studies' own grid, of those studies whose grid is not the network's; None where
        every study's is, so that ``agreement`` is that of the source already.
    against_drawn
        None where no drawn masks were at hand.
    volume
        None in reports of an earlier edgeseg.
    judged_on
        The runtimes that ran, the first to fail last; the figures are that one's, or the first one's when none failed.
        Empty in reports of an earlier edgeseg.
    """

    agreement: Agreement
    slices: int
    pixels: int
    differing_pixels: int
    largest_logit_difference: float | None
    dice_change_mean: float | None
    dice_change_worst: float | None
    worst_patient: str | None
    passed: bool
    failures: tuple[str, ...]
    reference: str
    empty_slices: int = 0
    lost: tuple[Part, ...] = ()
    invented: tuple[Part, ...] = ()
    by_patient: PatientAgreement | None = None
    at_source: Agreement | None = None
    against_drawn: Overlap | None = None
    volume: VolumeDifference | None = None
    judged_on: tuple[str, ...] = ()
