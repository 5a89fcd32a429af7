from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from edgeseg.errors import ConfigError
from edgeseg.training import mixing
from edgeseg.training.config import Mixing

if TYPE_CHECKING:
    import torch

MIXUP, CUTMIX = Mixing(kind="Mixup"), Mixing(kind="Cutmix")
SIZE = (40, 60)


def _generator(seed: int = 1) -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(seed)


def _batch(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Slice k is all k / count, and its mask covers the first k columns."""
    import torch

    slices = (torch.arange(count) / count)[:, None, None, None].expand(count, 3, *SIZE).clone()
    masks = (torch.arange(SIZE[1]) < torch.arange(count)[:, None]).float()[:, None, None].expand(count, 1, *SIZE)
    return slices, masks.clone()


def test_disabled_changes_nothing_and_draws_nothing() -> None:
    import torch

    generator = _generator()
    mix = mixing.draw(6, Mixing(), SIZE, generator)
    assert torch.equal(generator.get_state(), _generator().get_state())
    for found, expected in zip(mixing.apply(*_batch(), mix), _batch(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX, replace(CUTMIX, corner=True)])
def test_the_generator_decides(settings: Mixing) -> None:
    import torch

    first, again, other = (mixing.apply(*_batch(), mixing.draw(6, settings, SIZE, _generator(s))) for s in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_mixup_takes_the_ratio_of_slice_and_mask() -> None:
    import torch

    slices, masks = _batch()
    mix = mixing.draw(6, MIXUP, SIZE, _generator())
    mixed, mixed_masks = mixing.apply(slices, masks, mix)
    ratio, partners = mix.ratio[:, 0, None, None, None], mix.partners[:, 0]
    torch.testing.assert_close(mixed, ratio * slices + (1 - ratio) * slices[partners])
    torch.testing.assert_close(mixed_masks, ratio * masks + (1 - ratio) * masks[partners])
    assert sorted(partners.tolist()) == list(range(6))
    assert 0 <= float(mixed_masks.min()) <= float(mixed_masks.max()) <= 1
    assert len(set(mixed_masks.flatten().tolist())) > 4
    assert torch.equal(slices, _batch()[0])
    assert torch.equal(masks, _batch()[1])


def test_cutmix_pastes_a_box_of_the_partner() -> None:
    import torch

    slices, masks = _batch(200)
    mix = mixing.draw(200, CUTMIX, SIZE, _generator())
    mixed, mixed_masks = mixing.apply(slices, masks, mix)
    for k, (top, left, bottom, right) in enumerate(mix.boxes[:, 0].tolist()):
        partner = int(mix.partners[k, 0])
        expected, expected_mask = slices[k].clone(), masks[k].clone()
        expected[:, top:bottom, left:right] = slices[partner, :, top:bottom, left:right]
        expected_mask[:, top:bottom, left:right] = masks[partner, :, top:bottom, left:right]
        assert torch.equal(mixed[k], expected)
        assert torch.equal(mixed_masks[k], expected_mask)
        assert float(mix.ratio[k, 0]) == pytest.approx(1 - (bottom - top) * (right - left) / (SIZE[0] * SIZE[1]))
    assert set(mixed_masks.flatten().tolist()) == {0.0, 1.0}
    assert len({tuple(box) for box in mix.boxes[:, 0].tolist()}) > 150


def test_boxes_have_the_slices_aspect_and_one_less_ratio_of_its_area() -> None:
    settings = replace(CUTMIX, corner=True)
    mix = mixing.draw(2000, settings, SIZE, _generator())
    top, left, bottom, right = mix.boxes[:, 0].unbind(1)
    assert bool((((top == 0) | (bottom == SIZE[0])) & ((left == 0) | (right == SIZE[1]))).all())
    part = (bottom - top) * 4 < SIZE[0] * 3  # of those that cannot be in two corners
    corners = {(int(a) > 0, int(b) > 0) for a, b in zip(top[part], left[part], strict=True)}
    assert len(corners) == 4
    assert bool((((bottom - top) * 3 - (right - left) * 2).abs() <= 3).all())
    assert 0.46 < float(mix.ratio.mean()) < 0.54


@pytest.mark.parametrize(("concentration", "spread"), [(0.2, 0.42), (1.0, 0.289), (8.0, 0.121)])
def test_the_ratio_is_of_the_beta_distribution(concentration: float, spread: float) -> None:
    ratio = mixing.draw(4000, replace(MIXUP, concentration=concentration), SIZE, _generator()).ratio
    assert float(ratio.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(ratio.std()) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX])
def test_a_slice_is_mixed_with_the_probability(settings: Mixing) -> None:
    import torch

    slices, masks = _batch(1000)
    mix = mixing.draw(1000, replace(settings, probability=0.3), SIZE, _generator())
    mixed, _ = mixing.apply(slices, masks, mix)
    changed = (mixed != slices).flatten(1).any(1)
    assert 0.25 < float(changed.float().mean()) < 0.35
    assert torch.equal(mixed[mix.ratio[:, 0] == 1], slices[mix.ratio[:, 0] == 1])
    none = mixing.apply(slices, masks, mixing.draw(1000, replace(settings, probability=0.0), SIZE, _generator()))
    assert torch.equal(none[0], slices)


def test_iterations_mix_again() -> None:
    import torch

    slices, masks = _batch()
    mix = mixing.draw(6, replace(MIXUP, iterations=2), SIZE, _generator())
    assert mix.partners.shape == mix.ratio.shape == (6, 2)
    mixed, mixed_masks = slices, masks
    for turn in range(2):
        ratio, partners = mix.ratio[:, turn, None, None, None], mix.partners[:, turn]
        mixed = ratio * mixed + (1 - ratio) * slices[partners]
        mixed_masks = ratio * mixed_masks + (1 - ratio) * masks[partners]
    torch.testing.assert_close(mixing.apply(slices, masks, mix)[0], mixed)
    torch.testing.assert_close(mixing.apply(slices, masks, mix)[1], mixed_masks)


@pytest.mark.parametrize("settings", [replace(MIXUP, iterations=3), replace(CUTMIX, iterations=2), Mixing()])
@pytest.mark.parametrize("rows", [slice(2, 5), [4, 0]])
def test_a_process_takes_its_own_rows(settings: Mixing, rows: Any) -> None:
    import torch

    mix = mixing.draw(6, settings, SIZE, _generator())
    index = rows if isinstance(rows, slice) else torch.tensor(rows)
    for own, whole in zip(mixing.apply(*_batch(), mix, index), mixing.apply(*_batch(), mix), strict=True):
        assert torch.equal(own, whole[index])


def test_another_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mix_target is 'Max': supported is 'Ratio'"):
        mixing.draw(6, replace(MIXUP, target="Max"), SIZE, _generator())


def test_a_batch_of_one_is_mixed_with_itself() -> None:
    import torch

    mixed, _ = mixing.apply(*_batch(1), mixing.draw(1, MIXUP, SIZE, _generator()))
    assert torch.equal(mixed, _batch(1)[0])
