from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edgeseg.training import config
from edgeseg.training.augmentation import augment

if TYPE_CHECKING:
    import torch

ALL = config.Augmentation(0.5, 15.0, (0.8, 1.2), 0.06, (0.75, 1.35), (0.85, 1.2), 0.2)
STILL = config.Augmentation(flip=0.0)


def _generator(seed: int = 1) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)


def _batch(count: int = 8, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Off-centre rectangles: FLAIR is the mask itself, pre and post are noise."""
    import torch

    masks = torch.zeros(count, 1, size, size)
    masks[:, :, 12:34, 20:28] = 1
    slices = torch.rand(count, 3, size, size, generator=_generator(9))
    slices[:, 1:2] = masks
    return slices, masks


def test_the_same_generator_gives_the_same_batch() -> None:
    import torch

    first, again, other = (augment(*_batch(), ALL, _generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_the_batch_itself_is_left_alone() -> None:
    import torch

    slices, masks = _batch()
    augment(slices, masks, ALL, _generator())
    assert torch.equal(slices, _batch()[0])
    assert torch.equal(masks, _batch()[1])


def test_the_mask_moves_with_its_slice() -> None:
    import torch

    slices, masks = _batch()
    moving = replace(ALL, gain=(1.0, 1.0), gamma=(1.0, 1.0))
    moved, moved_masks = augment(slices, masks, moving, _generator())
    assert torch.equal(moved[:, 1:2] > 0.5, moved_masks > 0)
    assert set(moved_masks.flatten().tolist()) == {0.0, 1.0}
    assert all(not torch.equal(a, b) for a, b in zip(moved_masks, masks, strict=True))
    assert len({tuple(mask.flatten().tolist()) for mask in moved_masks}) == len(masks)


def test_the_seed_flips_left_and_right_and_does_nothing_else() -> None:
    import torch

    slices, masks = _batch(count=400, size=16 * 3)
    flipped, flipped_masks = augment(slices, masks, config.load().augmentation, _generator())
    same = (flipped == slices).flatten(1).all(1)
    mirrored = (flipped == slices.flip(-1)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 160 < int(mirrored.sum()) < 240
    assert torch.equal(flipped_masks[mirrored], masks[mirrored].flip(-1))
    assert torch.equal(flipped_masks[same], masks[same])


def test_settings_at_rest_change_nothing() -> None:
    import torch

    slices, masks = _batch()
    rested, rested_masks = augment(slices, masks, STILL, _generator())
    assert torch.equal(rested, slices)
    assert torch.equal(rested_masks, masks)


def test_flair_stands_in_for_what_is_missing() -> None:
    import torch

    slices, masks = _batch(count=400)
    changed, _ = augment(slices, masks, replace(STILL, missing_sequence=0.4), _generator())
    flair = slices[:, 1]
    assert torch.equal(changed[:, 1], flair)
    without_post = (changed[:, 2] == flair).flatten(1).all(1)
    without_pre = (changed[:, 0] == flair).flatten(1).all(1)
    assert 0.32 < float(without_post.float().mean()) < 0.48
    assert 0.14 < float(without_pre.float().mean()) < 0.26
    assert bool((without_post | ~without_pre).all())
    assert torch.equal(changed[~without_post, 2], slices[~without_post, 2])
    assert torch.equal(changed[~without_pre, 0], slices[~without_pre, 0])


def test_a_fixed_gain_and_gamma_are_applied_exactly() -> None:
    import torch

    slices, masks = _batch()
    changed, same_masks = augment(slices, masks, replace(STILL, gain=(1.3, 1.3), gamma=(2.0, 2.0)), _generator())
    torch.testing.assert_close(changed, (slices * 1.3).clamp(0, 1) ** 2)
    assert torch.equal(same_masks, masks)


def test_gain_is_drawn_for_each_channel_within_its_range() -> None:
    import torch

    slices, masks = torch.full((200, 3, 4, 4), 0.5), torch.zeros(200, 1, 4, 4)
    changed, _ = augment(slices, masks, replace(STILL, gain=(0.5, 1.5)), _generator())
    gains = changed[:, :, 0, 0] / 0.5
    assert torch.equal(changed, changed[:, :, :1, :1].expand_as(changed))
    assert float(gains.min()) >= 0.5
    assert float(gains.max()) <= 1.5
    assert float(gains.max() - gains.min()) > 0.9
    assert not torch.equal(gains[:, 0], gains[:, 1])


def test_gamma_is_drawn_for_each_slice_within_its_range() -> None:
    import torch

    slices, masks = torch.full((200, 3, 4, 4), 0.5), torch.zeros(200, 1, 4, 4)
    changed, _ = augment(slices, masks, replace(STILL, gamma=(0.8, 1.25)), _generator())
    gammas = changed[:, :, 0, 0].log() / torch.tensor(0.5).log()
    assert float(gammas.min()) >= 0.8 - 1e-5
    assert float(gammas.max()) <= 1.25 + 1e-5
    assert torch.equal(changed[:, 0], changed[:, 1])


@pytest.mark.parametrize("scale", [0.8, 1.2])
def test_a_scale_above_one_makes_heads_larger(scale: float) -> None:
    import torch

    masks = torch.zeros(1, 1, 128, 128)
    masks[:, :, 44:84, 44:84] = 1
    _, scaled = augment(masks.expand(1, 3, 128, 128), masks, replace(STILL, scale=(scale, scale)), _generator())
    assert float(scaled.sum() / masks.sum()) == pytest.approx(scale**2, rel=0.05)


def test_rotation_keeps_the_area() -> None:
    slices, masks = _batch()
    _, rotated = augment(slices, masks, replace(STILL, rotation_deg=90.0), _generator())
    for before, after in zip(masks, rotated, strict=True):
        assert float(after.sum()) == pytest.approx(float(before.sum()), rel=0.1)
    assert any(bool((before != after).any()) for before, after in zip(masks, rotated, strict=True))


def test_a_shift_is_a_share_of_the_side() -> None:
    import torch

    masks = torch.zeros(300, 1, 40, 40)
    masks[:, :, 18:22, 18:22] = 1
    _, moved = augment(masks.expand(300, 3, 40, 40), masks, replace(STILL, shift=0.25), _generator())
    rows = (moved[:, 0].sum(2) * torch.arange(40)).sum(1) / moved.sum((1, 2, 3)) - 19.5
    assert 9 < float(rows.abs().max()) < 10.6
    assert torch.equal(moved.sum((1, 2, 3)) > 0, torch.ones(300, dtype=torch.bool))
