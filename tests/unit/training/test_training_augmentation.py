from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from edgeseg.training import augmentation, config
from edgeseg.training.augmentation import augment

if TYPE_CHECKING:
    import torch

ALL = config.Augmentation(
    rotation_deg=15.0, scale=(0.8, 1.2), shift=0.06, gain=(0.75, 1.35), gamma=(0.85, 1.2), missing_sequence=0.2
)
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
    flipped, flipped_masks = augment(slices, masks, config.Augmentation(), _generator())
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


@pytest.mark.parametrize("strategy", ["Soft", "Medium", "Hard", "Custom"])
@pytest.mark.parametrize("crop_px", [0, 32])
def test_rows_of_a_batch_are_changed_alone_as_with_the_others(strategy: Any, crop_px: int) -> None:
    import torch

    settings = replace(ALL, strategy=strategy, crop_px=crop_px)
    draws = augmentation.draw(8, settings, _generator())
    whole = augmentation.apply(*_batch(), draws, settings)
    chosen = torch.tensor([6, 1, 3])
    own = [part[chosen] for part in _batch()]
    for found, expected in zip(augmentation.apply(own[0], own[1], draws.rows(chosen), settings), whole, strict=True):
        assert torch.equal(found, expected[chosen])
        assert found.shape[-2:] == (crop_px or 64, crop_px or 64)
        assert found.dtype == torch.float32


@pytest.mark.parametrize("strategy", ["Medium", "Hard"])
def test_a_strategy_moves_slice_and_mask_together(strategy: Any) -> None:
    import torch

    slices, masks = _batch(count=60)
    settings = replace(STILL, strategy=strategy)
    draws = augmentation.draw(60, settings, _generator())
    untouched = replace(draws, holes=draws.holes[:, :0], tone=torch.tensor([1.0, 0.0]).repeat(60, 1))
    moved, moved_masks = augmentation.apply(slices, masks, untouched, settings)
    assert torch.equal(moved[:, 1:2] > 0.5, moved_masks > 0)
    assert set(moved_masks.flatten().tolist()) == {0.0, 1.0}
    areas = moved_masks.sum((1, 2, 3))
    assert len(set(areas.tolist())) > (20 if strategy == "Medium" else 40)


def test_medium_shifts_scales_and_rotates_half_of_the_slices() -> None:
    settings = replace(STILL, strategy="Medium")
    drawn = augmentation.draw(4000, settings, _generator()).strategy
    taken = (drawn[:, 0] != 0).numpy()
    assert 0.46 < taken.mean() < 0.54
    assert (drawn[~taken].numpy() == [0, 1, 0, 0]).all()
    for column, low, high in ((0, -45, 45), (1, 0.9, 1.1), (2, -0.0625, 0.0625), (3, -0.0625, 0.0625)):
        values = drawn[taken, column].numpy()
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high


def test_what_is_outside_is_mirrored_under_a_strategy_alone() -> None:
    import torch

    slices, masks = torch.ones(40, 3, 64, 64), torch.zeros(40, 1, 64, 64)
    settings = replace(STILL, rotation_deg=45.0)
    black, _ = augment(slices, masks, settings, _generator())
    assert float(black.min()) == 0
    draws = augmentation.draw(40, replace(settings, strategy="Medium"), _generator())
    mirrored, _ = augmentation.apply(
        slices, masks, replace(draws, holes=draws.holes[:, :0]), replace(settings, strategy="Medium")
    )
    torch.testing.assert_close(mirrored, slices)


def test_half_of_the_slices_have_eight_holes_and_masks_none() -> None:
    import torch

    slices, masks = torch.ones(400, 3, 256, 256), torch.ones(400, 1, 256, 256)
    settings = replace(STILL, strategy="Medium")
    draws = augmentation.draw(400, settings, _generator())
    resting = torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat(400, 1)
    holed, whole = augmentation.apply(
        slices[:60], masks[:60], replace(draws, strategy=resting).rows(slice(60)), settings
    )
    assert torch.equal(whole, masks[:60])
    assert torch.equal(holed[:, 0], holed[:, 2])
    black = (holed[:, 0] == 0).sum((1, 2))
    assert int(black.max()) == 8 * 8 * 8
    assert bool(((black == 0) | (black > 5 * 64)).all())
    assert 0.42 < float((draws.holes[:, 0, 0] >= 0).float().mean()) < 0.58


def test_holes_are_whole_and_reach_the_borders() -> None:
    import torch

    places = torch.tensor([[[0.0, 0.0]], [[1.0 - 2**-24, 1.0 - 2**-24]], [[-1.0, -1.0]]])
    top, bottom, none = augmentation._holes(places, (20, 30))
    assert (int(top.sum()), int(bottom.sum()), int(none.sum())) == (64, 64, 0)
    assert bool(top[:8, :8].all())
    assert bool(bottom[12:, 22:].all())


def test_the_crop_of_hard_is_a_box_inside_the_slice() -> None:
    import torch

    left, top, width, height = augmentation.draw(4000, replace(STILL, strategy="Hard"), _generator()).box.unbind(1)
    assert float(torch.stack([left, top]).min()) >= 0
    assert float((left + width).max()) <= 1 + 1e-6
    assert float((top + height).max()) <= 1 + 1e-6
    area, ratio = width * height, width / height
    assert 0.08 - 1e-6 <= float(area.min()) < 0.1
    assert 0.95 < float(area.max()) <= 1
    assert 0.75 - 1e-5 <= float(ratio.min()) < 0.76
    assert 1.32 < float(ratio.max()) <= 4 / 3 + 1e-5


def test_the_crop_of_hard_fills_the_slice() -> None:
    import torch

    masks = torch.zeros(1, 1, 64, 64)
    masks[:, :, 16:32, 32:64] = 1
    settings = replace(STILL, strategy="Hard")
    draws = augmentation.draw(1, settings, _generator())
    resting = {"strategy": torch.tensor([[0.0, 1.0, 0.0, 0.0]]), "tone": torch.tensor([[1.0, 0.0]])}
    still = replace(draws, box=torch.tensor([[0.5, 0.25, 0.5, 0.25]]), holes=draws.holes[:, :0], **resting)
    cropped, cropped_mask = augmentation.apply(masks.repeat(1, 3, 1, 1), masks, still, settings)
    assert bool((cropped_mask[:, :, 2:-2, 2:-2] == 1).all())
    assert bool((cropped[:, :, 2:-2, 2:-2] > 0.999).all())
    assert bool((cropped[:, :, ::63, ::63] < 1).all()), "what lies around the box reaches in by half a pixel"


def test_hard_changes_brightness_and_contrast_of_half_of_the_slices() -> None:
    import torch

    contrast, brightness = augmentation.draw(4000, replace(STILL, strategy="Hard"), _generator()).tone.unbind(1)
    taken = contrast != 1
    assert 0.46 < float(taken.float().mean()) < 0.54
    assert bool((brightness[~taken] == 0).all())
    assert 0.8 <= float(contrast.min()) < 0.81
    assert 0.19 < float(brightness.max()) <= 0.2
    slices, masks = _batch(400)
    changed, _ = augment(slices, masks, replace(STILL, strategy="Hard"), _generator())
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert torch.isfinite(changed).all()


def test_a_custom_pipeline_has_its_own_flips() -> None:
    import torch

    slices, masks = _batch()
    same, _ = augment(slices, masks, config.Augmentation(strategy="Custom"), _generator())
    assert torch.equal(same, slices)


def test_a_turn_is_a_turn_in_a_slice_that_is_not_square() -> None:
    import torch

    masks = torch.zeros(1, 1, 60, 120)
    masks[:, :, 20:40, 58:62] = 1
    draws = augmentation.draw(1, replace(STILL, rotation_deg=90.0), _generator())
    turned = replace(draws, own=torch.tensor([[90.0, 1.0, 0.5, 0.5]]))
    _, moved = augmentation.apply(masks.repeat(1, 3, 1, 1), masks, turned, replace(STILL, rotation_deg=90.0))
    expected = torch.zeros(1, 1, 60, 120)
    expected[:, :, 28:32, 50:70] = 1
    assert torch.equal(moved, expected)


def test_own_settings_at_rest_leave_the_strategys_draws_as_they_are() -> None:
    import torch

    state = _generator()
    augmentation.draw(5, config.Augmentation(), state)
    assert torch.equal(state.get_state(), _drawn(5).get_state())


def _drawn(count: int) -> torch.Generator:
    """A generator that only the flips have been drawn from."""
    import torch

    generator = _generator()
    torch.rand(count, generator=generator)
    return generator
