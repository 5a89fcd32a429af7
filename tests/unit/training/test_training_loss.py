from __future__ import annotations

import math

import pytest

from edgeseg.training.loss import bce_dice


def test_a_hand_made_value() -> None:
    import torch

    logits = torch.tensor([math.log(3), 0.0, -math.log(3), 0.0]).view(1, 1, 2, 2)  # p = 3/4, 1/2, 1/4, 1/2
    masks = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    cross_entropy = -(2 * math.log(0.75) + 2 * math.log(0.5)) / 4
    dice_loss = 1 - 2 * 1.25 / (2.0 + 2.0)
    assert float(bce_dice(logits, masks)) == pytest.approx(cross_entropy + dice_loss, rel=1e-6)


def test_dice_is_taken_over_the_whole_batch() -> None:
    import torch

    logits = torch.tensor([40.0, 40.0, 40.0, -40.0]).view(2, 1, 1, 2)
    masks = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(2, 1, 1, 2)
    assert float(bce_dice(logits, masks)) == pytest.approx(40 / 4 + 1 - 4 / 5, rel=1e-5)


def test_a_perfect_prediction_costs_nothing() -> None:
    import torch

    masks = (torch.arange(64).view(1, 1, 8, 8) % 3 == 0).float()
    assert float(bce_dice((masks - 0.5) * 60, masks)) == pytest.approx(0, abs=1e-6)
    assert float(bce_dice((0.5 - masks) * 60, masks)) > 10


def test_empty_masks_leave_the_cross_entropy_alone() -> None:
    import torch

    logits = torch.zeros(2, 1, 4, 4, requires_grad=True)
    loss = bce_dice(logits, torch.zeros(2, 1, 4, 4))
    assert float(loss.detach()) == pytest.approx(math.log(2))
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert float(bce_dice(torch.full((2, 1, 4, 4), -200.0), torch.zeros(2, 1, 4, 4))) == 0


def test_half_precision_logits_are_summed_in_single() -> None:
    import torch

    logits = torch.zeros(2, 1, 256, 256, dtype=torch.float16)
    masks = torch.ones(2, 1, 256, 256)  # sums of 131072 and 65536, beyond FP16
    assert float(bce_dice(logits, masks)) == pytest.approx(math.log(2) + 1 - 2 / 3, rel=1e-5)
