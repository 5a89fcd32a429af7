"""Two engines over the same slices: do they make the same masks? Arrays only; the gate that a bundle has to pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from edgeseg.tally import LEAST_PART_PX, PatientLogits, SourceMasks, Tally, cut, marked
from edgeseg.verdict import Agreement, ParityReport, Part, PatientAgreement, VolumeDifference

__all__ = ["TOLERANCES", "PatientLogits", "SourceMasks", "Tolerance", "compare", "cut", "figures", "marked", "to_json"]


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
    every_runtime
        Whether an engine has to pass on every runtime that it is for: in INT8 they round in other places, and masks
        that one keeps the other may lose.
    """

    differing_share: float
    mean: float
    fifth_percentile: float
    worst: float
    dice_loss_mean: float
    dice_loss_worst: float
    least_px: int = 0
    lost_px: int = 100
    every_runtime: bool = False


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(1e-6, 0.9999, 0.999, 0.95, 0.0001, 0.0005),
    "fp16": Tolerance(1e-4, 0.995, 0.985, 0.75, 0.0005, 0.003),
    "int8": Tolerance(1e-2, 0.985, 0.95, 0.5, 0.003, 0.03, least_px=50, every_runtime=True),
}
"""By precision of the network file."""


def compare(
    patients: Iterable[PatientLogits], threshold: float, tolerance: Tolerance, reference_name: str
) -> ParityReport:
    """Compare masks slice by slice and patient by patient, and give a verdict.

    Parameters
    ----------
    patients
        Logits of both engines; each patient's are looked at once and let go.
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
    tally = Tally(cut(threshold), tolerance.least_px)
    for patient in patients:
        tally.add(patient)
    if not tally.network.slices:
        raise ValueError("no patients to compare: parity needs at least one")
    agreement, at_source = tally.network.agreement(), tally.source.agreement() if tally.source.slices else None
    differing_share = tally.network.differing / tally.network.pixels
    mean_change, worst_change, worst_patient = tally.dice_changes()
    failures = (
        *_failures(agreement, differing_share, mean_change, worst_change, tuple(tally.lost), tolerance),
        *(_too_low(at_source, tolerance, " at the source's resolution") if at_source else ()),
    )
    return ParityReport(
        agreement=agreement,
        slices=tally.network.slices,
        pixels=tally.network.pixels,
        differing_pixels=tally.network.differing,
        largest_logit_difference=tally.largest_difference,
        dice_change_mean=mean_change,
        dice_change_worst=worst_change,
        worst_patient=worst_patient,
        passed=not failures,
        failures=failures,
        reference=reference_name,
        empty_slices=tally.network.empty,
        lost=tuple(tally.lost),
        invented=tuple(tally.invented),
        by_patient=tally.by_patient(),
        at_source=at_source,
        against_drawn=tally.against_drawn(),
        volume=tally.volume(),
    )


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
    failures += _too_low(agreement, tolerance)
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


def _too_low(agreement: Agreement, tolerance: Tolerance, where: str = "") -> list[str]:
    return [
        f"{what} agreement{where} is {value:.4f}, at least {bound} is needed"
        for what, value, bound in (
            ("mean", agreement.mean, tolerance.mean),
            ("5th percentile of", agreement.fifth_percentile, tolerance.fifth_percentile),
            (f"worst ({agreement.worst_slice})", agreement.worst, tolerance.worst),
        )
        if value < bound
    ]


def to_json(report: ParityReport) -> dict[str, Any]:
    """Plain values of a report."""
    return asdict(report)


def figures(report: ParityReport) -> list[list[str]]:
    """A report's figures as a table: what, and its value in words."""
    difference = report.largest_logit_difference
    return [
        *_spread("agreement of the masks (IoU), mean", "slice", report.agreement),
        *_patients(report.by_patient),
        *_source(report.at_source),
        ["pixels that differ", f"{report.differing_pixels:,} of {report.pixels:,}"],
        ["largest difference of the logits", "-" if difference is None else f"{difference:.2e}"],
        *_drawn(report),
        *_volume(report.volume),
        ["slices where both masks are empty", f"{report.empty_slices} of {report.slices}"],
        [f"abnormalities over {LEAST_PART_PX} px lost", _parts(report.lost)],
        [f"abnormalities over {LEAST_PART_PX} px invented", _parts(report.invented)],
        ["judged on", ", ".join(report.judged_on) or "-"],
        ["verdict", "passed" if report.passed else "FAILED"],
    ]


def _spread(title: str, what: str, found: Agreement) -> list[list[str]]:
    return [
        [title, f"{found.mean:.6f}"],
        ["  5th percentile", f"{found.fifth_percentile:.6f}"],
        [f"  worst {what} ({found.worst_slice})", f"{found.worst:.6f}"],
    ]


def _patients(found: PatientAgreement | None) -> list[list[str]]:
    if found is None:
        return []
    as_slices = Agreement(found.mean, found.fifth_percentile, found.worst, found.worst_patient, found.patients)
    return _spread(f"by patient ({found.patients}), mean", "patient", as_slices)


def _source(found: Agreement | None) -> list[list[str]]:
    if found is None:
        return [["at the source's resolution", "the same grid, the same figures"]]
    return _spread(f"at the source's resolution ({found.slices} slices), mean", "slice", found)


def _drawn(report: ParityReport) -> list[list[str]]:
    """Against the drawn masks; a line that there were none."""
    found, mean, worst = report.against_drawn, report.dice_change_mean, report.dice_change_worst
    if mean is None or worst is None:
        return [["against drawn masks", "-"]]
    rows = [["Dice against drawn masks, change of the mean", f"{mean:+.6f}"]]
    rows.append([f"  worst patient ({report.worst_patient})", f"{worst:+.6f}"])
    if found is not None:
        rows += [
            ["  Dice: model, engine", f"{found.dice_model:.4f}, {found.dice_engine:.4f}"],
            ["  IoU: model, engine", f"{found.iou_model:.4f}, {found.iou_engine:.4f}"],
            [
                f"  marked of {found.slices_without} slices with nothing drawn",
                f"{found.marked_model}, {found.marked_engine}",
            ],
        ]
    return rows


def _volume(found: VolumeDifference | None) -> list[list[str]]:
    if found is None:
        return []
    amount = f"{found.worst_amount:+,.0f} px" if found.unit == "px" else f"{found.worst_amount:+.2f} ml"
    return [
        ["volume, mean difference by patient", f"{found.mean_percent:.3f} %"],
        [f"  largest ({found.worst_patient})", f"{found.worst_percent:+.3f} % ({amount})"],
    ]


def _parts(parts: tuple[Part, ...]) -> str:
    if not parts:
        return "0"
    largest = max(parts, key=lambda part: part.pixels)
    return f"{len(parts)}, the largest {largest.pixels} px ({largest.slice_name})"
