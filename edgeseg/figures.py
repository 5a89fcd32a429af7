"""Figures of an evaluation: by patient, over all patients with intervals, and as rows of text. No files, no images."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from edgeseg.errors import BackendMissing, InputError

Interval = tuple[float, float]

CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 0


@dataclass(frozen=True)
class PatientFigures:
    """Figures of one patient: counts and sums, so that patients can be pooled, and the means that follow from them.

    Parameters
    ----------
    patient
        Name of the patient's folder.
    dice
        Dice of the whole volume, 0..1; 1 when nothing is drawn and nothing marked.
    slices, abnormal_slices
        All slices, and those whose drawn mask is not empty.
    missed_slices
        Abnormal slices in which nothing is marked; they have no surface distance and are left out of its mean.
    false_positive_slices
        Slices without abnormality in which at least one pixel is marked.
    drawn_px, marked_px
        Volume of the drawn and of the marked mask: pixels, summed over the slices.
    iou_sum, iou_abnormal_sum
        Sum of the slices' IoU, over all slices (two empty masks agree at 1) and over the abnormal ones.
    surface_distance_sum_px
        Sum of the slices' 95 % surface distances, over the slices where both masks are not empty, in pixels.
    """

    patient: str
    dice: float
    slices: int
    abnormal_slices: int
    missed_slices: int
    false_positive_slices: int
    drawn_px: int
    marked_px: int
    iou_sum: float
    iou_abnormal_sum: float
    surface_distance_sum_px: float

    @property
    def empty_slices(self) -> int:
        """Slices without abnormality."""
        return self.slices - self.abnormal_slices

    @property
    def compared_slices(self) -> int:
        """Slices where both masks are not empty: those that have a surface distance."""
        return self.abnormal_slices - self.missed_slices

    @property
    def iou_all(self) -> float | None:
        """Mean IoU over all slices, 0..1."""
        return _share(self.iou_sum, self.slices)

    @property
    def iou_abnormal(self) -> float | None:
        """Mean IoU over the abnormal slices, 0..1; None without such slices."""
        return _share(self.iou_abnormal_sum, self.abnormal_slices)

    @property
    def surface_distance_px(self) -> float | None:
        """Mean 95 % surface distance over the compared slices, in pixels; None without such slices."""
        return _share(self.surface_distance_sum_px, self.compared_slices)

    @property
    def false_positive_share(self) -> float | None:
        """False-positive slices among those without abnormality, 0..1; None without such slices."""
        return _share(self.false_positive_slices, self.empty_slices)

    @property
    def volume_difference(self) -> float | None:
        """Marked less drawn volume, as a share of the drawn one; None when nothing is drawn."""
        return _share(self.marked_px - self.drawn_px, self.drawn_px)

    def to_json(self) -> dict[str, Any]:
        """Plain values: what is kept and what follows from it."""
        return {**asdict(self), **{name: getattr(self, name) for name in _FOLLOWING}}


_FOLLOWING = (
    "empty_slices",
    "compared_slices",
    "iou_all",
    "iou_abnormal",
    "surface_distance_px",
    "false_positive_share",
    "volume_difference",
)


@dataclass(frozen=True)
class Evaluation:
    """Figures of all patients.

    Parameters
    ----------
    subject
        What was evaluated: name, precision, runtime.
    threshold
        Probability at and above which a pixel is marked; None where pooled evaluations had different ones.
    sequences
        What the network was given: ``all``, ``no-post`` or ``flair``.
    dice_mean, dice_median, dice_worst
        Over patients, 0..1.
    iou_abnormal, iou_all
        Mean IoU over all patients' abnormal slices (None without such slices) and over all their slices.
    surface_distance_px
        Mean 95 % surface distance over all slices where both masks are not empty, in pixels; None without such slices.
    drawn_px, marked_px, volume_difference
        Volumes in pixels, summed over patients, and marked less drawn as a share of drawn; None when nothing is drawn.
    volume_difference_absolute
        Mean over patients of the absolute value of their own volume difference: here over- and undermarking do not
        cancel. None when nothing is drawn.
    abnormal_slices, missed_slices
        Slices with an abnormality, and those of them in which nothing is marked.
    empty_slices, false_positive_slices, false_positive_share
        Slices without abnormality, those of them with a marked pixel, and their share, 0..1; None without such slices.
    intervals
        95 % bootstrap intervals (low, high) of `dice_mean`, `dice_median`, `iou_abnormal`, `surface_distance_px` and
        `false_positive_share`; None with fewer than two patients that contribute.
    patients
        One entry a patient.
    """

    subject: str
    threshold: float | None
    sequences: str
    dice_mean: float
    dice_median: float
    dice_worst: float
    iou_abnormal: float | None
    iou_all: float
    surface_distance_px: float | None
    drawn_px: int
    marked_px: int
    volume_difference: float | None
    volume_difference_absolute: float | None
    abnormal_slices: int
    missed_slices: int
    empty_slices: int
    false_positive_slices: int
    false_positive_share: float | None
    intervals: dict[str, Interval | None]
    patients: tuple[PatientFigures, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are written; `from_json` reads them."""
        return {**asdict(self), "patients": [patient.to_json() for patient in self.patients]}


def summarise(subject: str, threshold: float | None, sequences: str, patients: Sequence[PatientFigures]) -> Evaluation:
    """Figures over all patients and their intervals, from the patients' own.

    Raises
    ------
    InputError
        When there is no patient, or one is there twice.
    BackendMissing
        When SciPy, which draws the bootstrap samples, is not installed.
    """
    if not patients:
        raise InputError("there is no patient to evaluate")
    name, times = Counter(patient.patient for patient in patients).most_common(1)[0]
    if times > 1:
        raise InputError(f"the patient {name} is evaluated {times} times: give each patient once")
    differences = [abs(p.volume_difference) for p in patients if p.volume_difference is not None]
    drawn, marked = _sum(patients, "drawn_px"), _sum(patients, "marked_px")
    dices = [patient.dice for patient in patients]
    return Evaluation(
        subject=subject,
        threshold=threshold,
        sequences=sequences,
        dice_mean=float(np.mean(dices)),
        dice_median=float(np.median(dices)),
        dice_worst=min(dices),
        iou_abnormal=_ratio(patients, "iou_abnormal_sum", "abnormal_slices"),
        iou_all=_sum(patients, "iou_sum") / _sum(patients, "slices"),
        surface_distance_px=_ratio(patients, "surface_distance_sum_px", "compared_slices"),
        drawn_px=drawn,
        marked_px=marked,
        volume_difference=_share(marked - drawn, drawn),
        volume_difference_absolute=float(np.mean(differences)) if differences else None,
        abnormal_slices=_sum(patients, "abnormal_slices"),
        missed_slices=_sum(patients, "missed_slices"),
        empty_slices=_sum(patients, "empty_slices"),
        false_positive_slices=_sum(patients, "false_positive_slices"),
        false_positive_share=_ratio(patients, "false_positive_slices", "empty_slices"),
        intervals=_intervals(patients),
        patients=tuple(patients),
    )


def combine(evaluations: Sequence[Evaluation], subject: str) -> Evaluation:
    """Pool the patients of evaluations that share none, as the folds of a cross-validation.

    Raises
    ------
    InputError
        When a patient is in two of them, or they were given different sequences.
    """
    sequences = sorted({evaluation.sequences for evaluation in evaluations})
    if len(sequences) > 1:
        raise InputError(f"evaluations with {' and with '.join(sequences)} sequences cannot be pooled: give one kind")
    thresholds = {evaluation.threshold for evaluation in evaluations}
    threshold = thresholds.pop() if len(thresholds) == 1 else None
    pooled = [patient for evaluation in evaluations for patient in evaluation.patients]
    return summarise(subject, threshold, sequences[0] if sequences else "all", pooled)


def from_json(content: Mapping[str, Any]) -> Evaluation:
    """The evaluation that `Evaluation.to_json` wrote; patients' means are not read, they follow from the sums.

    Raises
    ------
    InputError
        When a figure is missing or has a value that no evaluation gives.
    """
    try:
        kept = {field.name: content[field.name] for field in fields(Evaluation)}
        kept["patients"] = tuple(_patient_from_json(row) for row in content["patients"])
        kept["intervals"] = {name: ends and (ends[0], ends[1]) for name, ends in content["intervals"].items()}
        return Evaluation(**kept)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"these are no figures that this edgeseg wrote ({type(error).__name__}: {error}): "
            "write them again with edgeseg evaluate --json"
        ) from error


def _patient_from_json(row: Mapping[str, Any]) -> PatientFigures:
    kept = {field.name: row[field.name] for field in fields(PatientFigures)}
    wrong = [name for name, value in kept.items() if name != "patient" and not (math.isfinite(value) and value >= 0)]
    if wrong or not kept["slices"] or not isinstance(kept["patient"], str):
        raise ValueError(f"{wrong[0] if wrong else 'slices'} of {kept['patient']}")
    return PatientFigures(**kept)


def to_csv(evaluation: Evaluation) -> str:
    """One line a patient with all its figures, after a line of their names; what is None is left empty."""
    rows = [patient.to_json() for patient in evaluation.patients]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _intervals(patients: Sequence[PatientFigures]) -> dict[str, Interval | None]:
    dices = _column(patients, "dice")
    return {
        "dice_mean": _bootstrap(np.mean, dices),
        "dice_median": _bootstrap(np.median, dices),
        "iou_abnormal": _bootstrap_ratio(patients, "iou_abnormal_sum", "abnormal_slices"),
        "surface_distance_px": _bootstrap_ratio(patients, "surface_distance_sum_px", "compared_slices"),
        "false_positive_share": _bootstrap_ratio(patients, "false_positive_slices", "empty_slices"),
    }


def _bootstrap_ratio(patients: Sequence[PatientFigures], part: str, whole: str) -> Interval | None:
    """Interval of a ratio of sums over patients; those without a slice of this kind have no say in it."""
    counted = [patient for patient in patients if getattr(patient, whole)]
    parts, wholes = _column(counted, part), _column(counted, whole)
    return _bootstrap(lambda p, w, axis: p.sum(axis=axis) / w.sum(axis=axis), parts, wholes)


def _bootstrap(statistic: Callable[..., Any], *columns: np.ndarray[Any, Any]) -> Interval | None:
    """Percentile bootstrap over patients (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    ``columns`` are float64 (patient,); a resample draws whole patients, with replacement. None with fewer than two.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise BackendMissing("intervals need SciPy, which is not installed: pip install 'edgeseg[evaluate]'") from error
    if len(columns[0]) < 2:
        return None
    found = stats.bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1000,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _column(patients: Sequence[PatientFigures], name: str) -> np.ndarray[Any, Any]:
    return np.array([getattr(patient, name) for patient in patients], dtype=np.float64)


def _sum(patients: Sequence[PatientFigures], name: str) -> Any:
    return sum(getattr(patient, name) for patient in patients)


def _ratio(patients: Sequence[PatientFigures], part: str, whole: str) -> float | None:
    return _share(_sum(patients, part), _sum(patients, whole))


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


PATIENT_COLUMNS = ["patient", "Dice", "IoU", "95 %\npx", "volume", "slices\nmissed", "false\npos."]
"""Heads of `patient_rows`; two lines keep a table within 80 characters."""


def patient_rows(evaluation: Evaluation) -> list[list[str]]:
    """One row a patient, under `PATIENT_COLUMNS`; volume is the difference, marked less drawn."""
    return [
        [
            p.patient,
            f"{p.dice:.4f}",
            _text(p.iou_abnormal, ".4f"),
            _text(p.surface_distance_px, ".1f"),
            _text(p.volume_difference, ".0%"),
            str(p.missed_slices),
            str(p.false_positive_slices),
        ]
        for p in evaluation.patients
    ]


def summary_rows(evaluation: Evaluation) -> list[list[str]]:
    """Name and value of each figure over all patients, with its interval in brackets."""
    e = evaluation
    return [
        ["Dice, mean over patients", _with_interval(e, "dice_mean", ".3f")],
        ["Dice, median", _with_interval(e, "dice_median", ".3f")],
        ["Dice, worst", f"{e.dice_worst:.3f}"],
        ["IoU, mean over slices with an abnormality", _with_interval(e, "iou_abnormal", ".3f")],
        ["IoU, mean over all slices", f"{e.iou_all:.3f}"],
        ["95 % surface distance, mean over slices, px", _with_interval(e, "surface_distance_px", ".1f")],
        ["  left out: abnormal slices with nothing marked", f"{e.missed_slices} of {e.abnormal_slices}"],
        ["volume, marked less drawn", _text(e.volume_difference, ".1%")],
        ["  absolute, mean over patients", _text(e.volume_difference_absolute, ".1%")],
        [
            f"false positives, {e.false_positive_slices} of {e.empty_slices} empty slices",
            _with_interval(e, "false_positive_share", ".1%"),
        ],
    ]


def _with_interval(evaluation: Evaluation, name: str, spec: str) -> str:
    text, ends = _text(getattr(evaluation, name), spec), evaluation.intervals[name]
    return text if ends is None else f"{text} ({ends[0]:{spec}} to {ends[1]:{spec}})"


def _text(value: float | None, spec: str) -> str:
    return "-" if value is None else f"{value:{spec}}"
