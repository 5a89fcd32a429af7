"""The published run's facts, and a run beside it."""

from __future__ import annotations

import pytest

from edgeseg.training import published


def test_the_learning_rate_starts_at_its_peak_and_ends_at_zero() -> None:
    assert published.learning_rate(0) == 1e-3
    assert published.learning_rate(1) == pytest.approx(9.999787e-4, abs=5e-11)
    assert published.learning_rate(170) == pytest.approx(5e-4)
    assert published.learning_rate(published.STEPS) == 0
    for step in (-1, 341):
        with pytest.raises(ValueError, match="0 to 340"):
            published.learning_rate(step)


def test_the_facts_agree_with_each_other() -> None:
    assert published.STEPS == 340
    assert published.TRAINING_SLICES // published.BATCH_SIZE == published.STEPS_PER_EPOCH
    assert published.TRAINING_SLICES + published.VALIDATION_SLICES == 1373
    assert len(published.VALIDATION_LOSS) == len(published.VALIDATION_IOU) == published.EPOCHS


def _history(*validated: int, epochs: int) -> list[dict[str, object]]:
    figures = {"loss": 0.25, "iou": 0.75}
    return [{"number": n, "validation": figures if n in validated else None} for n in range(1, epochs + 1)]


def test_a_run_stands_beside_the_published_one() -> None:
    rows = published.compare(_history(1, 2, 3, 4, 5, epochs=5))
    assert [row.epoch for row in rows] == [1, 2, 3, 4, 5]
    assert [row.published_iou for row in rows] == list(published.VALIDATION_IOU)
    assert rows[-1].iou_difference == pytest.approx(0.75 - 0.72783)
    assert rows[-1].loss_difference == pytest.approx(0.25 - 0.18871)
    assert rows[-1].cells() == ["5", "0.25000", "0.18871", "+0.06129", "0.75000", "0.72783", "+0.02217"]
    assert rows[0].cells()[3] == "-0.34148"
    assert len(published.COLUMNS) == len(rows[0].cells())


def test_what_either_lacks_is_left_open() -> None:
    rows = published.compare(_history(2, 6, 8, epochs=8))
    assert [row.epoch for row in rows] == [1, 2, 3, 4, 5, 8]
    assert rows[0].cells() == ["1", "-", "0.59148", "-", "-", "0.55086", "-"]
    assert rows[-1].cells() == ["8", "0.25000", "-", "-", "0.75000", "-", "-"]
    assert [row.iou for row in published.compare([])] == [None] * 5


def test_another_protocol_is_said() -> None:
    assert published.protocol("resnet34", 5, 1099, 274, 16, by_patient=False) == ""
    said = published.protocol("mit_b0", 8, 2000, 274, 16, by_patient=True)
    assert "8 epochs instead of 5" in said
    assert "2,000 training slices instead of 1,099" in said
    assert "by patient" in said
    assert "validation slices" not in said
    assert "batch" not in said
