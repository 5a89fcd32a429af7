"""Random changes of a training batch: drawn on the CPU for the whole batch, applied on the batch's own device.

A strategy (Hydrogen Torch's Soft, Medium, Hard) picks ranges and probabilities; our own settings combine with it. The
published app names the strategies' steps and not their numbers: the numbers are the defaults of Albumentations 1.1.0,
which its configurations are written for (https://albumentations.ai, transforms of the same names).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from edgeseg.training.config import Augmentation

if TYPE_CHECKING:
    import torch

STEPS: dict[str, tuple[str, ...]] = {
    "Soft": (),
    "Medium": ("ShiftScaleRotate", "CoarseDropout"),
    "Hard": ("RandomResizedCrop", "ShiftScaleRotate", "CoarseDropout", "RandomBrightnessContrast"),
    "Custom": (),
}
"""What each strategy does beside the flip. The resize of Soft and Medium happens at reading; a custom pipeline is
`edgeseg.training.pipelines`'s, before this, and has its own flips."""
PROBABILITY = 0.5
"""Of ShiftScaleRotate, CoarseDropout and RandomBrightnessContrast, each on its own; the crop is always taken."""
SHIFT, SCALE, ROTATE_DEG = 0.0625, 0.1, 45.0
HOLES, HOLE_PX = 8, 8
CROP_AREA, CROP_RATIO, CROP_ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
BRIGHTNESS, CONTRAST = 0.2, 0.2


@dataclass(frozen=True)
class Draws:
    """What was drawn for each slice of a batch; the first axis of every tensor is the slice, all are on the CPU.

    Parameters
    ----------
    gain, gamma
        float32 (N, 3), (N,): factor of each channel, exponent.
    missing
        float32 (N,), 0..1: below the setting, FLAIR stands in for post-contrast, below half of it for pre-contrast too.
    flip
        bool (N,): left and right.
    own, strategy
        float32 (N, 4): angle in degrees, scale, and place across and down. Of ``own`` the places are 0..1 between the
        ends of what the settings allow, of ``strategy`` they are shares of the side.
    box
        float32 (N, 4): left, top, width and height of the random resized crop, as shares of the sides.
    holes
        float32 (N, holes, 2): place down and across, 0..1, of each hole; negative where there is none.
    tone
        float32 (N, 2): contrast's factor and brightness, which is added.
    """

    gain: torch.Tensor
    gamma: torch.Tensor
    missing: torch.Tensor
    flip: torch.Tensor
    own: torch.Tensor
    strategy: torch.Tensor
    box: torch.Tensor
    holes: torch.Tensor
    tone: torch.Tensor

    def rows(self, index: torch.Tensor | slice) -> Draws:
        """The draws of some slices of the batch, in the order of ``index``."""
        return Draws(*(getattr(self, field.name)[index] for field in fields(self)))


def augment(
    slices: torch.Tensor, masks: torch.Tensor, settings: Augmentation, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """`draw` for the batch, and `apply`."""
    return apply(slices, masks, draw(len(slices), settings, generator), settings)


def draw(count: int, settings: Augmentation, generator: torch.Generator) -> Draws:
    """Draw for ``count`` slices; what the settings leave at rest takes nothing from the generator.

    Parameters
    ----------
    count
        Slices of the whole batch, of which a process may take its own rows.
    settings
        Ranges and probabilities.
    generator
        CPU generator: the same state gives the same draws, wherever they are applied.
    """
    import torch

    steps = STEPS[settings.strategy]
    gain, gamma = torch.ones(count, 3), torch.ones(count)
    if _changes_intensities(settings):
        gain = _log_uniform((count, 3), settings.gain, generator)
        gamma = _log_uniform((count,), settings.gamma, generator)
    missing = torch.rand(count, generator=generator) if settings.missing_sequence > 0 else torch.ones(count)
    flip = torch.zeros(count, dtype=torch.bool)
    if settings.strategy != "Custom":
        flip = torch.rand(count, generator=generator) < settings.flip
    own = torch.tensor([0.0, 1.0, 0.5, 0.5]).repeat(count, 1)
    if _moves(settings):
        turn = settings.rotation_deg
        bounds = ((-turn, turn), settings.scale, (0.0, 1.0), (0.0, 1.0))
        own = torch.stack([_uniform((count,), *pair, generator) for pair in bounds], 1)
    strategy = _draw_shift_scale_rotate(count, generator) if "ShiftScaleRotate" in steps else None
    box = _draw_box(count, generator) if "RandomResizedCrop" in steps else None
    holes = _draw_holes(count, generator) if "CoarseDropout" in steps else None
    tone = _draw_tone(count, generator) if "RandomBrightnessContrast" in steps else None
    return Draws(
        *(gain, gamma, missing, flip, own),
        strategy=torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat(count, 1) if strategy is None else strategy,
        box=torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(count, 1) if box is None else box,
        holes=torch.zeros(count, 0, 2) if holes is None else holes,
        tone=torch.tensor([1.0, 0.0]).repeat(count, 1) if tone is None else tone,
    )


def apply(
    slices: torch.Tensor, masks: torch.Tensor, draws: Draws, settings: Augmentation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change each slice and its mask as drawn, on their device.

    The order is: our own gain, gamma and missing sequence; one move for the crop, our own rotation, scale and shift,
    the flip, and the strategy's; holes in the slices alone; brightness and contrast.

    Parameters
    ----------
    slices
        float32 (N, 3, H, W), 0..1, channels pre, FLAIR, post; left as they are.
    masks
        float32 (N, 1, H, W), 0 or 1; left as they are.
    draws
        Of these N slices.
    settings
        That the draws were drawn for.

    Returns
    -------
    tuple
        Slices and masks of the same kinds, H and W being ``settings.crop_px`` where that is set.
    """
    slices = _drop_sequences(_change_intensities(slices, draws, settings), draws, settings)
    slices, masks = _move(slices, masks, draws, settings)
    if draws.holes.shape[1]:
        slices = slices.masked_fill(_holes(draws.holes.to(slices.device), slices.shape[-2:])[:, None], 0.0)
    if "RandomBrightnessContrast" in STEPS[settings.strategy]:
        contrast, brightness = draws.tone.to(slices.device)[:, :, None, None, None].unbind(1)
        slices = (slices * contrast + brightness).clamp(0, 1)
    return slices, masks


def _changes_intensities(settings: Augmentation) -> bool:
    return settings.gain != (1.0, 1.0) or settings.gamma != (1.0, 1.0)


def _moves(settings: Augmentation) -> bool:
    return settings.rotation_deg != 0 or settings.scale != (1.0, 1.0) or settings.shift != 0 or settings.crop_px != 0


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    import torch

    return low + (high - low) * torch.rand(shape, generator=generator)


def _log_uniform(shape: tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    return _uniform(shape, math.log(bounds[0]), math.log(bounds[1]), generator).exp()


def _taken(count: int, generator: torch.Generator) -> torch.Tensor:
    import torch

    return torch.rand(count, generator=generator) < PROBABILITY


def _draw_shift_scale_rotate(count: int, generator: torch.Generator) -> torch.Tensor:
    import torch

    taken = _taken(count, generator)[:, None]
    bounds = ((-ROTATE_DEG, ROTATE_DEG), (1 - SCALE, 1 + SCALE), (-SHIFT, SHIFT), (-SHIFT, SHIFT))
    drawn = torch.stack([_uniform((count,), *pair, generator) for pair in bounds], 1)
    return torch.where(taken, drawn, torch.tensor([0.0, 1.0, 0.0, 0.0]))


def _draw_box(count: int, generator: torch.Generator) -> torch.Tensor:
    """A box whose share of the area and ratio of sides are drawn until it fits, ten times; else the whole slice."""
    import torch

    area = _uniform((count, CROP_ATTEMPTS), *CROP_AREA, generator)
    ratio = _log_uniform((count, CROP_ATTEMPTS), CROP_RATIO, generator)
    place = torch.rand((count, 2), generator=generator)
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], -1)
    fits = (sides <= 1).all(-1)
    first = sides[torch.arange(count), fits.float().argmax(1)]
    size = torch.where(fits.any(1)[:, None], first, torch.ones(2))
    return torch.cat([place * (1 - size), size], 1)


def _draw_holes(count: int, generator: torch.Generator) -> torch.Tensor:
    import torch

    taken = _taken(count, generator)[:, None, None]
    return torch.where(taken, torch.rand((count, HOLES, 2), generator=generator), torch.tensor(-1.0))


def _draw_tone(count: int, generator: torch.Generator) -> torch.Tensor:
    import torch

    taken = _taken(count, generator)[:, None]
    drawn = [
        _uniform((count,), 1 - CONTRAST, 1 + CONTRAST, generator),
        _uniform((count,), -BRIGHTNESS, BRIGHTNESS, generator),
    ]
    return torch.where(taken, torch.stack(drawn, 1), torch.tensor([1.0, 0.0]))


def _change_intensities(slices: torch.Tensor, draws: Draws, settings: Augmentation) -> torch.Tensor:
    if not _changes_intensities(settings):
        return slices
    gain = draws.gain.to(slices.device)[:, :, None, None]
    return ((slices * gain).clamp(0, 1)) ** draws.gamma.to(slices.device)[:, None, None, None]


def _drop_sequences(slices: torch.Tensor, draws: Draws, settings: Augmentation) -> torch.Tensor:
    """Put FLAIR in place of post-contrast, and in half of these slices of pre-contrast too."""
    import torch

    if settings.missing_sequence == 0:
        return slices
    missing = draws.missing.to(slices.device)[:, None, None]
    flair = slices[:, 1]
    pre = torch.where(missing >= settings.missing_sequence / 2, slices[:, 0], flair)
    post = torch.where(missing >= settings.missing_sequence, slices[:, 2], flair)
    return torch.stack([pre, flair, post], dim=1)


def _move(
    slices: torch.Tensor, masks: torch.Tensor, draws: Draws, settings: Augmentation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample slices and masks once, through all moves together; outside is mirrored under a strategy, else black."""
    import torch
    from torch.nn import functional

    steps = STEPS[settings.strategy]
    if not steps and not _moves(settings):
        flipped = draws.flip.view(-1, 1, 1, 1).to(slices.device)
        return torch.where(flipped, slices.flip(-1), slices), torch.where(flipped, masks.flip(-1), masks)
    height, width = slices.shape[-2:]
    size = (settings.crop_px or height, settings.crop_px or width)
    theta = _own_move(draws, settings, height, width)
    if steps:
        angle, scale, across, down = draws.strategy.unbind(1)
        theta = _matrix(angle, 1 / scale, 1 / scale, 2 * across, 2 * down, height / width) @ theta
        left, top, share_across, share_down = draws.box.unbind(1)
        places = 2 * left + share_across - 1, 2 * top + share_down - 1
        theta = _matrix(torch.zeros_like(left), share_across, share_down, *places, height / width) @ theta
    grid = functional.affine_grid(theta[:, :2].to(slices), [*slices.shape[:2], *size], align_corners=False)
    outside = "reflection" if steps else "zeros"
    both = functional.grid_sample(torch.cat([slices, masks], 1), grid, padding_mode=outside, align_corners=False)
    return both[:, :-1], (both[:, -1:] > 0.5).float()


def _own_move(draws: Draws, settings: Augmentation, height: int, width: int) -> torch.Tensor:
    angle, scale, across, down = draws.own.unbind(1)
    flip = 1 - 2 * draws.flip.float()
    shares = [(settings.crop_px or side) / side for side in (width, height)]
    ends = [2 * settings.shift + 1 - share for share in shares]
    places = -ends[0] + 2 * ends[0] * across, -ends[1] + 2 * ends[1] * down
    return _matrix(angle, shares[0] / scale * flip, shares[1] / scale, *places, height / width)


def _matrix(
    angle_deg: torch.Tensor,
    across: torch.Tensor,
    down: torch.Tensor,
    right: torch.Tensor,
    below: torch.Tensor,
    aspect: float,
) -> torch.Tensor:
    """(N, 3, 3) from a place in the output to one in the input, -1..1 each: stretched, turned, moved.

    ``aspect`` is H / W: in a slice that is not square a turn is still a turn.
    """
    import torch

    cosine, sine = torch.cos(torch.deg2rad(angle_deg)), torch.sin(torch.deg2rad(angle_deg))
    zero, one = torch.zeros_like(cosine), torch.ones_like(cosine)
    rows = (
        (cosine * across, -sine * aspect * down, right),
        (sine / aspect * across, cosine * down, below),
        (zero, zero, one),
    )
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def _holes(places: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Bool (N, H, W): where the holes are, each wholly inside."""
    import torch

    inside = []
    for axis, side in enumerate(size):
        first = (places[..., axis] * (side - HOLE_PX + 1)).floor()[..., None]
        pixels = torch.arange(side, device=places.device)
        inside.append((pixels >= first) & (pixels < first + HOLE_PX) & (places[..., axis, None] >= 0))
    return torch.einsum("nkh,nkw->nhw", inside[0].float(), inside[1].float()) > 0
