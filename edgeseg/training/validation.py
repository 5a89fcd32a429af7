"""Figures of a network on slices with drawn masks, in the middle of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeseg import metrics, model
from edgeseg.training.batches import Preparation
from edgeseg.training.dataset import SliceSet
from edgeseg.training.loss import bce_dice
from edgeseg.types import BoolArray

if TYPE_CHECKING:
    import torch
    from torch import nn

_BATCH = 16


@dataclass(frozen=True)
class Validation:
    """Figures of an epoch on the validation slices.

    Parameters
    ----------
    loss
        BCE plus Dice loss, mean over the batches.
    iou, dice
        Mean over the slices whose drawn mask is not empty.
    dice_patient
        Dice of whole volumes, mean over the patients.
    false_positive_share
        Share, 0..1, of the slices without abnormality in which at least one pixel is marked; None without such slices.
    """

    loss: float
    iou: float
    dice: float
    dice_patient: float
    false_positive_share: float | None


def half_type(device: torch.device, half: str) -> torch.dtype:
    """The 16-bit type of mixed precision: BF16 on a CPU; on a GPU the one that the configuration names."""
    import torch

    return torch.bfloat16 if device.type == "cpu" or half == "bfloat16" else torch.float16


def validate(network: nn.Module, data: SliceSet, ready: Preparation) -> Validation:
    """Figures of the network on these slices, none of them dropped; the processes of a run share the batches."""
    network.eval()
    starts = range(0, len(data), _BATCH)
    own = [_batch(network, data, start, ready) for start in starts[ready.processes.rank :: ready.processes.count]]
    parts = sorted(ready.processes.gather(own), key=lambda part: part[0])
    loss = float(np.mean([part[1] for part in parts]))
    return _figures(loss, np.concatenate([part[2] for part in parts]), data)


def _batch(network: nn.Module, data: SliceSet, start: int, ready: Preparation) -> tuple[int, float, BoolArray]:
    """First slice, loss, and marked pixels of a batch."""
    import torch

    config = ready.config
    with torch.inference_mode():
        slices, masks = ready.for_validation(data, np.arange(start, min(start + _BATCH, len(data))))
        dtype = half_type(slices.device, config.half)
        with torch.autocast(slices.device.type, dtype, enabled=config.mixed_precision_validation):
            logits = model.flipped_mean(network, slices, config.flips)
        threshold = math.log(config.threshold / (1 - config.threshold))
        return start, float(bce_dice(logits, masks)), (logits[:, 0] >= threshold).cpu().numpy()


def _figures(loss: float, marked: BoolArray, data: SliceSet) -> Validation:
    abnormal = np.flatnonzero(data.masks.any(axis=(1, 2)))
    empty = np.flatnonzero(~data.masks.any(axis=(1, 2)))
    patients = [data.patients == number for number in np.unique(data.patients)]
    return Validation(
        loss=loss,
        iou=float(np.mean([metrics.iou(marked[k], data.masks[k]) for k in abnormal])),
        dice=float(np.mean([metrics.dice(marked[k], data.masks[k]) for k in abnormal])),
        dice_patient=float(np.mean([metrics.dice(marked[own], data.masks[own]) for own in patients])),
        false_positive_share=float(marked[empty].any(axis=(1, 2)).mean()) if len(empty) else None,
    )
