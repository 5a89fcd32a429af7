"""Figures over patients, by hand and against an independent bootstrap."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from edgeseg import figures
from edgeseg.errors import BackendMissing, InputError
from edgeseg.figures import Evaluation, PatientFigures


def _patient(name: str, dice: float = 0.8, abnormal: int = 10, empty: int = 20, false: int = 2) -> PatientFigures:
    missed = 2 if abnormal else 0
    return PatientFigures(
        patient=name,
        dice=dice,
        slices=abnormal + empty,
        abnormal_slices=abnormal,
        missed_slices=missed,
        false_positive_slices=false,
        drawn_px=1000 * abnormal,
        marked_px=1100 * abnormal + false,
        iou_sum=0.7 * abnormal + empty - false,
        iou_abnormal_sum=0.7 * abnormal,
        surface_distance_sum_px=3.0 * (abnormal - missed),
    )


def _cohort(count: int, seed: int = 3) -> list[PatientFigures]:
    draw = np.random.default_rng(seed)
    patients = []
    for k in range(count):
        abnormal, empty = int(draw.integers(3, 25)), int(draw.integers(5, 40))
        one = _patient(f"P{k}", float(draw.uniform(0.2, 0.95)), abnormal, empty, int(draw.integers(0, 4)))
        overlap, distance = draw.uniform(0.2, 0.9) * abnormal, draw.uniform(1, 20) * one.compared_slices
        patients.append(replace(one, iou_abnormal_sum=float(overlap), surface_distance_sum_px=float(distance)))
    return patients


def _summary(*patients: PatientFigures, subject: str = "s", threshold: float = 0.5) -> Evaluation:
    return figures.summarise(subject, threshold, "all", patients)


def test_figures_that_follow_from_a_patients_sums() -> None:
    patient = _patient("A")
    assert (patient.empty_slices, patient.compared_slices) == (20, 8)
    assert patient.iou_abnormal == pytest.approx(0.7)
    assert patient.iou_all == pytest.approx((7 + 18) / 30)
    assert patient.surface_distance_px == pytest.approx(3)
    assert patient.false_positive_share == pytest.approx(0.1)
    assert patient.volume_difference == pytest.approx((11002 - 10000) / 10000)


def test_what_has_no_slices_has_no_figure() -> None:
    healthy = _patient("A", abnormal=0, false=0)
    assert healthy.iou_abnormal is None
    assert healthy.surface_distance_px is None
    assert healthy.volume_difference is None
    only = _patient("B", empty=0, false=0)
    assert only.false_positive_share is None
    none_abnormal, none_empty = _summary(healthy), _summary(only)
    assert (none_abnormal.iou_abnormal, none_abnormal.surface_distance_px) == (None, None)
    assert (none_abnormal.volume_difference, none_abnormal.volume_difference_absolute) == (None, None)
    assert none_abnormal.false_positive_share == 0
    assert none_empty.false_positive_share is None
    assert none_empty.iou_abnormal == pytest.approx(0.7)


def test_over_all_patients_slices_are_pooled_and_volumes_summed() -> None:
    large, small = _patient("A", dice=0.9, abnormal=20), replace(_patient("B", dice=0.5), marked_px=7000)
    found = _summary(large, small)
    assert [found.dice_mean, found.dice_median, found.dice_worst] == pytest.approx([0.7, 0.7, 0.5])
    assert (found.abnormal_slices, found.missed_slices) == (30, 4)
    assert (found.empty_slices, found.false_positive_slices) == (40, 4)
    assert (found.drawn_px, found.marked_px) == (30000, 22002 + 7000)
    assert found.volume_difference == pytest.approx(-998 / 30000)
    assert found.volume_difference_absolute == pytest.approx((2002 / 20000 + 0.3) / 2)
    uneven = _summary(replace(large, surface_distance_sum_px=18.0), small)
    assert uneven.surface_distance_px == pytest.approx((18 + 24) / (18 + 8))


def test_intervals_agree_with_an_independent_bootstrap() -> None:
    patients = _cohort(40)
    found = _summary(*patients)
    draw = np.random.default_rng(99)
    rows = draw.integers(0, 40, (20000, 40))

    def of(name: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        values: np.ndarray[tuple[int, int], np.dtype[np.float64]] = np.array([getattr(p, name) for p in patients])[rows]
        return values

    expected = {
        "dice_mean": of("dice").mean(1),
        "dice_median": np.median(of("dice"), axis=1),
        "iou_abnormal": of("iou_abnormal_sum").sum(1) / of("abnormal_slices").sum(1),
        "surface_distance_px": of("surface_distance_sum_px").sum(1) / of("compared_slices").sum(1),
        "false_positive_share": of("false_positive_slices").sum(1) / of("empty_slices").sum(1),
    }
    assert expected.keys() == found.intervals.keys()
    for name, resampled in expected.items():
        interval = found.intervals[name]
        assert interval is not None
        assert interval[0] < getattr(found, name) < interval[1]
        assert interval == pytest.approx(tuple(np.percentile(resampled, (2.5, 97.5))), abs=0.08 * resampled.std()), name


def test_intervals_are_the_same_each_time() -> None:
    patients = _cohort(12)
    assert _summary(*patients).intervals == _summary(*patients).intervals


def test_patients_without_such_slices_have_no_say_in_an_interval() -> None:
    two = [_patient("A"), replace(_patient("B"), iou_abnormal_sum=3.0, surface_distance_sum_px=80.0)]
    healthy = [_patient(f"H{k}", abnormal=0) for k in range(20)]
    alone, among = _summary(*two), _summary(*two, *healthy)
    assert among.intervals["iou_abnormal"] == alone.intervals["iou_abnormal"] == pytest.approx((0.3, 0.7))
    assert among.intervals["surface_distance_px"] == pytest.approx((3, 10))
    one = _summary(two[0], *healthy)
    assert one.intervals["iou_abnormal"] is None
    assert one.intervals["dice_mean"] is not None


def test_one_patient_has_no_interval() -> None:
    assert set(_summary(_patient("A")).intervals.values()) == {None}


def test_pooled_folds_are_the_evaluation_of_all_their_patients() -> None:
    patients = _cohort(15)
    folds = [_summary(*patients[k::5], subject=f"fold {k}") for k in range(5)]
    pooled = figures.combine(folds, "five folds")
    together = [patient for k in range(5) for patient in patients[k::5]]
    assert pooled == figures.summarise("five folds", 0.5, "all", together)
    assert pooled.dice_mean == pytest.approx(np.mean([patient.dice for patient in patients]))
    other = replace(folds[4], threshold=0.4)
    assert figures.combine([*folds[:4], other], "s").threshold is None


def test_what_cannot_be_pooled_is_refused() -> None:
    one, two = _summary(_patient("A"), _patient("B")), _summary(_patient("C"), _patient("B"))
    with pytest.raises(InputError, match="the patient B is evaluated 2 times"):
        figures.combine([one, two], "s")
    with pytest.raises(InputError, match="with all and with flair sequences"):
        figures.combine([one, replace(_summary(_patient("C")), sequences="flair")], "s")
    with pytest.raises(InputError, match="no patient"):
        figures.combine([], "s")


@pytest.mark.parametrize("patients", [_cohort(5), [_patient("A", abnormal=0, empty=4)], [_patient("A", empty=0)]])
def test_json_is_read_back_as_it_was_written(patients: list[PatientFigures]) -> None:
    found = _summary(*patients)
    content = json.loads(json.dumps(found.to_json()))
    assert content["patients"][0]["iou_abnormal"] == found.patients[0].iou_abnormal
    assert figures.from_json(content) == found


@pytest.mark.parametrize("fault", ["no patients", "no intervals", "text", "negative", "nan", "no slices", "a list"])
def test_json_of_something_else_is_refused(fault: str) -> None:
    content = json.loads(json.dumps(_summary(*_cohort(3)).to_json()))
    row = content["patients"][1]
    if fault == "no patients":
        del content["patients"]
    elif fault == "no intervals":
        content["intervals"] = [1, 2]
    elif fault == "a list":
        content = [content]
    else:
        name, value = {
            "text": ("dice", "0.8"),
            "negative": ("drawn_px", -1),
            "nan": ("iou_sum", float("nan")),
            "no slices": ("slices", 0),
        }[fault]
        row[name] = value
    with pytest.raises(InputError, match="no figures that this edgeseg wrote"):
        figures.from_json(content)


def test_csv_has_a_row_a_patient_with_all_figures() -> None:
    healthy = _patient("B, second", abnormal=0)
    rows = list(csv.DictReader(io.StringIO(figures.to_csv(_summary(_patient("A"), healthy)))))
    assert [row["patient"] for row in rows] == ["A", "B, second"]
    assert rows[0].keys() == healthy.to_json().keys()
    assert float(rows[0]["surface_distance_px"]) == pytest.approx(3)
    assert rows[1]["iou_abnormal"] == ""


def test_rows_for_people() -> None:
    found = _summary(_patient("A", dice=0.9), _patient("B", dice=0.7))
    assert figures.patient_rows(found)[0] == ["A", "0.9000", "0.7000", "3.0", "10%", "2", "2"]
    assert len(figures.PATIENT_COLUMNS) == 7
    summary = dict(figures.summary_rows(found))
    assert summary["Dice, mean over patients"] == "0.800 (0.700 to 0.900)"
    assert summary["  left out: abnormal slices with nothing marked"] == "4 of 20"
    assert summary["false positives, 4 of 40 empty slices"] == "10.0% (10.0% to 10.0%)"
    healthy = figures.summary_rows(_summary(_patient("A", abnormal=0)))
    assert dict(healthy)["IoU, mean over slices with an abnormality"] == "-"


def test_intervals_need_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(BackendMissing, match=r"pip install 'edgeseg\[evaluate\]'"):
        _summary(_patient("A"), _patient("B"))
