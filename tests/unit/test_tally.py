"""What differs between masks, counted by hand: patients, drawn masks, volumes, and the studies' own grids."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeseg import parity
from edgeseg.tally import PatientLogits, SourceMasks
from edgeseg.types import BoolArray, FloatArray
from edgeseg.verdict import Agreement, Overlap, PatientAgreement, VolumeDifference

LOOSE = parity.Tolerance(1.0, 0.0, 0.0, 0.0, 1.0, 1.0)


def _near(value: Any) -> Any:
    """About this, and to a type checker anything."""
    return pytest.approx(value)


def _square(size: int, whole: int = 64) -> BoolArray:
    mask = np.zeros((whole, whole), np.bool_)
    mask[4 : 4 + size, 4 : 4 + size] = True
    return mask


def _logits(*masks: BoolArray) -> FloatArray:
    return np.asarray(np.where(np.stack(masks), 4, -4)[:, None], dtype=np.float32)


def _patient(name: str, reference: list[int], candidate: list[int], drawn: list[int] | None = None) -> PatientLogits:
    """Slices with a square of these sides."""
    return PatientLogits(
        name,
        _logits(*map(_square, reference)),
        _logits(*map(_square, candidate)),
        None if drawn is None else np.stack([_square(size) for size in drawn]),
        tuple(f"{name}_{k + 1}" for k in range(len(reference))),
    )


HALVED = _patient("halved", [20, 20, 0], [20, 0, 0], [20, 10, 0])
GROWN = _patient("grown", [10, 0], [20, 2], [0, 0])
NOTHING = _patient("nothing", [0, 0], [0, 0], [0, 10])


def test_agreement_by_patient() -> None:
    report = parity.compare([HALVED, GROWN, NOTHING], 0.5, LOOSE, "PyTorch")
    ious = [400 / 800, 100 / 404]
    expected = PatientAgreement(float(np.mean(ious)), float(np.percentile(ious, 5)), ious[1], "grown", 2)
    assert report.by_patient == expected
    assert parity.compare([NOTHING], 0.5, LOOSE, "PyTorch").by_patient is None


def test_both_against_the_drawn_masks() -> None:
    report = parity.compare([HALVED, GROWN, NOTHING], 0.5, LOOSE, "PyTorch")
    dice_model = np.mean([2 * 500 / (800 + 500), 0, 0])
    dice_engine = np.mean([2 * 400 / (400 + 500), 0, 0])
    found = report.against_drawn
    assert found == Overlap(
        _near(dice_model),
        _near(dice_engine),
        _near(np.mean([500 / 800, 0, 0])),
        _near(np.mean([400 / 500, 0, 0])),
        patients=3,
        slices_without=4,
        marked_model=1,
        marked_engine=2,
    )
    assert parity.compare([_patient("A", [9], [9])], 0.5, LOOSE, "PyTorch").against_drawn is None


def test_volumes_in_pixels_and_in_ml() -> None:
    report = parity.compare([HALVED, GROWN, NOTHING], 0.5, LOOSE, "PyTorch")
    assert report.volume == VolumeDifference((50 + 304) / 2, 304.0, "grown", 304.0, "px")
    with_geometry = replace(HALVED, voxel_ml=0.005)
    volume = parity.compare([with_geometry], 0.5, LOOSE, "PyTorch").volume
    assert volume == VolumeDifference(50.0, -50.0, "halved", _near(-2.0), "ml")
    invented = parity.compare([_patient("A", [0], [5])], 0.5, LOOSE, "PyTorch").volume
    assert invented == VolumeDifference(100.0, 100.0, "A", 25.0, "px")
    assert parity.compare([NOTHING], 0.5, LOOSE, "PyTorch").volume is None


def test_masks_on_the_studies_own_grid_are_judged_too() -> None:
    same = _patient("A", [20], [20])
    own = SourceMasks(
        np.stack([_square(20, 128)] * 2), np.stack([_square(20, 128), _square(10, 128)]), ("own 1", "own 2")
    )
    drawn = np.stack([_square(20, 128)] * 2)
    patient = replace(same, source=own, drawn=drawn, voxel_ml=0.001)
    report = parity.compare([patient, _patient("B", [9], [9])], 0.5, parity.TOLERANCES["fp16"], "PyTorch")
    assert report.agreement == Agreement(1, 1, 1, "A_1", 2)
    assert report.at_source is not None
    assert (report.at_source.worst, report.at_source.worst_slice, report.at_source.slices) == (0.25, "own 2", 2)
    assert not report.passed
    assert "worst (own 2) agreement at the source's resolution is 0.2500, at least 0.75 is needed" in report.failures
    assert report.volume is not None
    assert (report.volume.worst_amount, report.volume.unit) == (_near(-0.3), "ml")
    assert report.against_drawn is not None
    assert (report.against_drawn.dice_model, report.against_drawn.patients) == (1, 1)
    assert report.slices == 2, "slices of the network"


def test_fewer_pixels_of_a_larger_grid_do_not_count() -> None:
    """50 px of a slice of 64 x 64 are 200 of one of 128 x 128."""
    own = SourceMasks(np.stack([_square(14, 128)]), np.stack([_square(5, 128)]), ("own",))
    patient = replace(_patient("A", [20], [20]), source=own)
    report = parity.compare([patient], 0.5, parity.TOLERANCES["int8"], "PyTorch")
    assert report.at_source == Agreement(1, 1, 1, "", 0)
    assert report.passed
    larger = replace(own, reference=np.stack([_square(15, 128)]))
    assert not parity.compare([replace(patient, source=larger)], 0.5, parity.TOLERANCES["int8"], "PyTorch").passed


def test_recorded_masks_stand_in_for_logits() -> None:
    recorded = replace(HALVED, reference=HALVED.reference > 0)
    live, masks = (parity.compare([one, GROWN], 0.5, LOOSE, "PyTorch") for one in (HALVED, recorded))
    assert masks.largest_logit_difference is None
    assert replace(masks, largest_logit_difference=live.largest_logit_difference) == live
    assert ["largest difference of the logits", "-"] in parity.figures(masks)


def test_a_report_without_drawn_masks_has_a_table() -> None:
    rows = dict(parity.figures(parity.compare([_patient("A", [9], [9])], 0.5, LOOSE, "PyTorch")))
    assert rows["against drawn masks"] == "-"
    assert rows["at the source's resolution"] == "the same grid, the same figures"
