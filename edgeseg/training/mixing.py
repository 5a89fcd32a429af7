"""Mixup and Cutmix: slices of a batch mixed with one another, and their masks alike.

Mixup (Zhang et al., 2018) takes ``r`` of a slice and ``1 - r`` of its partner, Cutmix (Yun et al., 2019) pastes a box
of ``1 - r`` of the area from the partner; ``r`` is drawn from Beta(concentration, concentration). What Hydrogen Torch
means by the other fields is not published, so they are taken plainly: ``probability`` is that of mixing a slice at all,
in each iteration on its own; ``iterations`` says how often a slice is mixed, each time with a slice of the batch as it
was before mixing; with ``corner`` the box stands in one of the slice's four corners; the target ``Ratio`` mixes the
masks as their slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from edgeseg.errors import ConfigError
from edgeseg.training.config import Mixing

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Mix:
    """What was drawn for each slice of a batch; all tensors are on the CPU.

    Parameters
    ----------
    kind
        What the draws mean.
    partners
        int64 (slice, iteration): which slice of the whole batch is mixed in.
    ratio
        float32 (slice, iteration), 0..1: how much of the slice itself stays; 1 where it is not mixed. For Cutmix it is
        the share of the area that the box, cut off at the border, leaves.
    boxes
        int64 (slice, iteration, 4): top, left, bottom, right of the pasted box in pixels, the last two not in it.
    """

    kind: Literal["Disabled", "Mixup", "Cutmix"]
    partners: torch.Tensor
    ratio: torch.Tensor
    boxes: torch.Tensor

    def rows(self, index: torch.Tensor | slice) -> Mix:
        """The draws of some slices; their partners are still numbers in the whole batch."""
        return Mix(self.kind, self.partners[index], self.ratio[index], self.boxes[index])


def draw(count: int, settings: Mixing, size: tuple[int, int], generator: torch.Generator) -> Mix:
    """Draw partners, ratios and boxes for a batch; ``Disabled`` takes nothing from the generator.

    Parameters
    ----------
    count
        Slices of the whole batch.
    settings
        Kind, concentration, probability, iterations, corner.
    size
        Height and width of the slices, as they will be mixed.
    generator
        CPU generator: the same state gives the same draws.

    Raises
    ------
    ConfigError
        When the target is another than ``Ratio``.
    """
    import torch

    if settings.kind == "Disabled":
        nothing = torch.zeros((count, 0), dtype=torch.int64)
        return Mix("Disabled", nothing, nothing.float(), nothing[..., None].expand(count, 0, 4))
    if settings.target != "Ratio":
        raise ConfigError(f"augmentation.mix_target is {settings.target!r}: supported is 'Ratio'")
    times = settings.iterations
    partners = torch.stack([torch.randperm(count, generator=generator) for _ in range(times)], 1)
    seed = int(torch.randint(2**62, (), generator=generator))
    rng = np.random.default_rng(seed)  # torch's Beta takes no generator
    ratio = rng.beta(settings.concentration, settings.concentration, (count, times))
    ratio[rng.random((count, times)) >= settings.probability] = 1.0
    boxes: npt.NDArray[np.int64] = np.zeros((count, times, 4), dtype=np.int64)
    if settings.kind == "Cutmix":
        boxes = _boxes(ratio, size, settings.corner, rng)
        ratio = 1 - (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) / (size[0] * size[1])
    return Mix(settings.kind, partners, torch.from_numpy(ratio).float(), torch.from_numpy(boxes))


def apply(
    slices: torch.Tensor, masks: torch.Tensor, mix: Mix, rows: torch.Tensor | slice = slice(None)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix slices of a batch; each iteration mixes in slices as they are given, so every row can be made on its own.

    Parameters
    ----------
    slices
        float32 (N, 3, H, W), 0..1: the whole batch, augmented; left as it is.
    masks
        float32 (N, 1, H, W), 0 or 1; left as they are.
    mix
        Of the whole batch.
    rows
        Which slices to return mixed: a process's own. All of them, where nothing is said.

    Returns
    -------
    tuple
        The rows' slices (n, 3, H, W) and masks (n, 1, H, W); masks are between 0 and 1 after Mixup.
    """
    import torch

    own = mix.rows(rows)
    both = torch.cat([slices, masks], 1)
    mixed = both[rows.to(both.device)] if isinstance(rows, torch.Tensor) else both[rows]
    for turn in range(own.partners.shape[1]):
        partners = both[own.partners[:, turn].to(both.device)]
        if mix.kind == "Cutmix":
            mixed = torch.where(_inside(own.boxes[:, turn].to(both.device), both.shape[-2:]), partners, mixed)
        else:
            mixed = partners.lerp(mixed, own.ratio[:, turn].to(both)[:, None, None, None])
    return mixed[:, :-1], mixed[:, -1:]


def _boxes(
    ratio: npt.NDArray[np.float64], size: tuple[int, int], corner: bool, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Boxes of 1 - ratio of the area and the slice's own aspect: about a place anywhere, cut off, or in a corner."""
    low, high = [], []
    for side in size:
        length = np.rint(side * np.sqrt(1 - ratio))
        if corner:
            first = np.where(rng.random(ratio.shape) < 0.5, 0, side - length)
        else:
            first = rng.integers(0, side, ratio.shape) - length // 2
        low.append(first.clip(0, side))
        high.append((first + length).clip(0, side))
    return np.stack([*low, *high], -1).astype(np.int64)


def _inside(boxes: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Bool (n, 1, H, W): the pixels of each box."""
    import torch

    down, across = (torch.arange(side, device=boxes.device) for side in size)
    top, left, bottom, right = boxes[:, :, None].unbind(1)
    rows, columns = (down >= top) & (down < bottom), (across >= left) & (across < right)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
