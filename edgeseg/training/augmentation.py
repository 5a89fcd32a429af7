"""Random changes of a training batch, on the batch's own device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgeseg.training.config import Augmentation

if TYPE_CHECKING:
    import torch


def augment(
    slices: torch.Tensor, masks: torch.Tensor, settings: Augmentation, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change each slice and its mask alike.

    Parameters
    ----------
    slices
        float32 (N, 3, H, W), 0..1, channels pre, FLAIR, post.
    masks
        float32 (N, 1, H, W), 0 or 1.
    settings
        Ranges and probabilities.
    generator
        CPU generator that every draw comes from: the same state gives the same batch.
    """
    slices = _change_intensities(slices, settings, generator)
    slices = _drop_sequences(slices, settings.missing_sequence, generator)
    return _move(slices, masks, settings, generator)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    import torch

    return low + (high - low) * torch.rand(count, generator=generator)


def _log_uniform(count: int, bounds: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    return _uniform(count, math.log(bounds[0]), math.log(bounds[1]), generator).exp()


def _drop_sequences(slices: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Put FLAIR in place of post-contrast, and in half of these slices of pre-contrast too."""
    import torch

    if probability == 0:
        return slices
    draw = torch.rand(len(slices), generator=generator).to(slices.device)
    flair = slices[:, 1]
    keep_post = (draw >= probability)[:, None, None]
    keep_pre = (draw >= probability / 2)[:, None, None]
    pre = torch.where(keep_pre, slices[:, 0], flair)
    post = torch.where(keep_post, slices[:, 2], flair)
    return torch.stack([pre, flair, post], dim=1)


def _change_intensities(slices: torch.Tensor, settings: Augmentation, generator: torch.Generator) -> torch.Tensor:
    if settings.gain == (1.0, 1.0) and settings.gamma == (1.0, 1.0):
        return slices
    count, channels = slices.shape[:2]
    gain = _log_uniform(count * channels, settings.gain, generator)
    gamma = _log_uniform(count, settings.gamma, generator)
    gain = gain.view(count, channels, 1, 1).to(slices.device)
    return ((slices * gain).clamp(0, 1)) ** gamma.view(count, 1, 1, 1).to(slices.device)


def _move(
    slices: torch.Tensor, masks: torch.Tensor, settings: Augmentation, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch
    from torch.nn import functional

    count = len(slices)
    size = settings.crop_px or slices.shape[-1]
    flip = 1 - 2 * (torch.rand(count, generator=generator) < settings.flip).float()
    if settings.rotation_deg == 0 and settings.scale == (1.0, 1.0) and settings.shift == 0 and size == slices.shape[-1]:
        flipped = (flip < 0).view(-1, 1, 1, 1).to(slices.device)
        return torch.where(flipped, slices.flip(-1), slices), torch.where(flipped, masks.flip(-1), masks)
    angle = torch.deg2rad(_uniform(count, -settings.rotation_deg, settings.rotation_deg, generator))
    share = size / slices.shape[-1]
    zoom = share / _uniform(count, *settings.scale, generator)  # the grid maps output to input
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift = 2 * settings.shift + 1 - share
    across, down = (_uniform(count, -shift, shift, generator) for _ in range(2))
    rows = [torch.stack([cosine * flip, -sine, across], 1), torch.stack([sine * flip, cosine, down], 1)]
    theta = torch.stack(rows, 1).to(slices.device)
    grid = functional.affine_grid(theta, [*slices.shape[:2], size, size], align_corners=False)
    both = functional.grid_sample(torch.cat([slices, masks], 1), grid, align_corners=False)
    return both[:, :-1], (both[:, -1:] > 0.5).float()
