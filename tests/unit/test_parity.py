from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeseg import parity
from edgeseg.types import BoolArray, FloatArray

LOOSE = parity.Tolerance(1.0, 0.0, 0.0, 0.0, 1.0, 1.0)
STRICT = parity.TOLERANCES["fp32"]


def _logits(*marked: BoolArray) -> FloatArray:
    return np.asarray(np.where(np.stack(marked), 4, -4)[:, None], dtype=np.float32)


def _square(size: int, top: int = 4) -> BoolArray:
    mask = np.zeros((64, 64), np.bool_)
    mask[top : top + size, 4 : 4 + size] = True
    return mask


EMPTY = _square(0)


def _patient(
    reference: FloatArray, candidate: FloatArray, drawn: BoolArray | None = None, name: str = "A"
) -> parity.PatientLogits:
    names = tuple(f"{name}_{k + 1}" for k in range(len(reference)))
    return parity.PatientLogits(name, reference, candidate, drawn, names)


def test_identical_engines_pass() -> None:
    logits = _logits(_square(10), EMPTY, _square(20))
    report = parity.compare([_patient(logits, logits.copy(), logits[:, 0] > 0)], 0.5, STRICT, "PyTorch")
    assert report.passed
    assert report.failures == ()
    assert (report.slices, report.pixels, report.differing_pixels) == (3, 3 * 64 * 64, 0)
    assert (report.agreement.mean, report.agreement.worst, report.agreement.slices) == (1, 1, 2)
    assert (report.dice_change_mean, report.dice_change_worst, report.largest_logit_difference) == (0, 0, 0)
    assert report.reference == "PyTorch"


def test_every_missed_tolerance_is_a_sentence() -> None:
    reference, candidate = _logits(_square(10), _square(20)), _logits(_square(10), _square(16))
    report = parity.compare([_patient(reference, candidate, reference[:, 0] > 0)], 0.5, STRICT, "PyTorch")
    assert not report.passed
    assert report.differing_pixels == 400 - 256
    said = "\n".join(report.failures)
    assert len(report.failures) == 6
    for words in ("of the pixels differ", "mean agreement", "5th percentile", "worst (A_2)", "Dice falls by"):
        assert words in said
    assert f"{144 / 8192:.2e} of the pixels differ, at most 1e-06 may" in report.failures


def test_agreement_by_hand() -> None:
    ious = [1.0, 0.64, 0.25, 0.81]
    reference = _logits(*[_square(20)] * 4, EMPTY)
    candidate = _logits(_square(20), _square(16), _square(10), _square(18), EMPTY)
    report = parity.compare([_patient(reference, candidate)], 0.5, LOOSE, "PyTorch")
    assert report.agreement.mean == pytest.approx(np.mean(ious))
    assert report.agreement.fifth_percentile == pytest.approx(np.percentile(ious, 5))
    assert report.agreement.worst == pytest.approx(0.25)
    assert report.agreement.worst_slice == "A_3"
    assert report.agreement.slices == 4
    assert report.passed


def test_slices_that_neither_engine_marks_do_not_raise_the_agreement() -> None:
    reference, candidate = _logits(_square(20), *[EMPTY] * 50), _logits(_square(10), *[EMPTY] * 50)
    report = parity.compare([_patient(reference, candidate)], 0.5, LOOSE, "PyTorch")
    assert report.agreement.mean == pytest.approx(0.25)


def test_a_slice_that_one_engine_marks_counts_as_zero() -> None:
    report = parity.compare([_patient(_logits(EMPTY), _logits(_square(2)))], 0.5, LOOSE, "PyTorch")
    assert (report.agreement.worst, report.agreement.slices) == (0, 1)


def test_engines_that_mark_nothing_are_not_verified() -> None:
    report = parity.compare([_patient(_logits(EMPTY), _logits(EMPTY))], 0.5, LOOSE, "PyTorch")
    assert not report.passed
    assert "neither engine marks anything" in report.failures[0]


def test_dice_against_the_drawn_masks() -> None:
    drawn = np.stack([_square(20)])
    better = _patient(_logits(_square(10)), _logits(_square(20)), drawn, "better")
    worse = _patient(_logits(_square(20)), _logits(_square(10)), drawn, "worse")
    same = _patient(_logits(_square(20)), _logits(_square(20)), None, "undrawn")
    fall = 1 - 2 * 100 / 500
    report = parity.compare([better, worse, same], 0.5, LOOSE, "PyTorch")
    assert report.dice_change_mean == pytest.approx(0)
    assert report.dice_change_worst == pytest.approx(-fall)
    assert report.worst_patient == "worse"
    strict = replace(LOOSE, dice_loss_worst=fall - 0.01)
    failures = parity.compare([better, worse, same], 0.5, strict, "PyTorch").failures
    assert failures == (f"Dice falls by {fall:.4f} (worst patient), at most {fall - 0.01} may be lost",)


def test_without_drawn_masks_there_is_no_dice() -> None:
    report = parity.compare([_patient(_logits(_square(9)), _logits(_square(9)))], 0.5, STRICT, "PyTorch")
    assert (report.dice_change_mean, report.dice_change_worst, report.worst_patient) == (None, None, None)
    assert report.passed


@pytest.mark.parametrize(("threshold", "marked"), [(0.5, 2), (0.73, 2), (0.74, 1), (0.2, 3)])
def test_the_threshold_is_a_probability(threshold: float, marked: int) -> None:
    reference = np.full((1, 1, 1, 4), -9, np.float32)
    candidate = np.array([[[[-1.0, 1.0, 3.0, -9.0]]]], np.float32)  # probabilities 0.27, 0.731, 0.95, 0
    report = parity.compare([_patient(reference, candidate)], threshold, LOOSE, "PyTorch")
    assert report.differing_pixels == marked
    assert report.largest_logit_difference == 12


def test_the_bound_of_the_fp32_gate_is_a_pixel_in_a_million() -> None:
    reference = np.full((16, 1, 256, 256), 4, np.float32)
    for pixels, passed in ((1, True), (2, False)):
        candidate = reference.copy()
        candidate[0, 0, 0, :pixels] = -4
        assert parity.compare([_patient(reference, candidate)], 0.5, STRICT, "PyTorch").passed is passed


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="no patients"):
        parity.compare([], 0.5, STRICT, "PyTorch")


def _two(size: int, other: int) -> BoolArray:
    """Two squares that no corner joins."""
    mask = _square(size)
    mask[40 : 40 + other, 40 : 40 + other] = True
    return mask


def test_a_lost_abnormality_is_counted_and_a_large_one_fails() -> None:
    reference = _logits(_two(20, 12), _two(20, 6), _two(20, 3), EMPTY)
    candidate = _logits(_square(20), _square(20), _square(20), EMPTY)
    report = parity.compare([_patient(reference, candidate)], 0.5, LOOSE, "PyTorch")
    assert [(part.slice_name, part.pixels) for part in report.lost] == [("A_1", 144), ("A_2", 36)]
    assert report.invented == ()
    assert report.empty_slices == 1
    assert report.failures == ("1 abnormalities over 100 px are lost: A_1 (144 px)",)
    turned = parity.compare([_patient(candidate, reference)], 0.5, LOOSE, "PyTorch")
    assert (turned.lost, turned.invented) == ((), report.lost)
    assert turned.passed


def test_one_touching_pixel_is_enough_not_to_be_lost() -> None:
    mask = _square(20)
    mask[40, 40] = True
    report = parity.compare([_patient(_logits(_two(20, 12)), _logits(mask))], 0.5, LOOSE, "PyTorch")
    assert report.lost == ()


def test_int8_looks_at_slices_over_fifty_pixels() -> None:
    tolerance = parity.TOLERANCES["int8"]
    assert tolerance.least_px == 50
    reference, candidate = _logits(_square(30), _square(7)), _logits(_square(30), _square(5))
    report = parity.compare([_patient(reference, candidate)], 0.5, tolerance, "PyTorch")
    assert report.agreement.slices == 1
    assert report.passed


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda logits: np.roll(logits, 2, axis=2), "mean agreement"),  # the mask two pixels lower
        (lambda logits: np.full_like(logits, -4), "abnormalities over 100 px are lost"),  # a constant output
        (lambda logits: np.full_like(logits, 4), "of the pixels differ"),
        (lambda logits: logits * np.float32(-1), "of the pixels differ"),  # the weights' sign
    ],
)
def test_the_int8_gate_refuses_damage(damage: Any, said: str) -> None:
    reference = _logits(_square(20), _square(24), _square(30), EMPTY)
    whole = parity.compare([_patient(reference, reference.copy())], 0.5, parity.TOLERANCES["int8"], "PyTorch")
    assert whole.passed
    report = parity.compare([_patient(reference, damage(reference))], 0.5, parity.TOLERANCES["int8"], "PyTorch")
    assert not report.passed
    assert said in "\n".join(report.failures)
