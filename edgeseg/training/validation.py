"""Figures of a network on slices with drawn masks, in the middle of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeseg import metrics, model
from edgeseg.training.batches import Preparation
from edgeseg.training.dataset import Numbers, SliceSet
from edgeseg.training.loss import bce_dice
from edgeseg.training.precision import half_type

if TYPE_CHECKING:
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


def validate(network: nn.Module, data: SliceSet, ready: Preparation) -> Validation:
    """Figures of the network on these slices, none of them dropped; the processes of a run share the batches."""
    network.eval()
    starts = range(0, len(data), _BATCH)
    own = [_batch(network, data, start, ready) for start in starts[ready.processes.rank :: ready.processes.count]]
    parts = sorted(ready.processes.gather(own), key=lambda part: part[0])
    loss = float(np.mean([part[1] for part in parts]))
    return _figures(loss, np.concatenate([part[2] for part in parts]), data)


def _batch(network: nn.Module, data: SliceSet, start: int, ready: Preparation) -> tuple[int, float, Numbers]:
    """First slice, loss, and each slice's pixels, as `_figures` takes them, of a batch."""
    import torch

    config = ready.config
    with torch.inference_mode():
        slices, masks = ready.for_validation(data, np.arange(start, min(start + _BATCH, len(data))))
        dtype = half_type(slices.device, config.half)
        with torch.autocast(slices.device.type, dtype, enabled=config.mixed_precision_validation):
            logits = model.flipped_mean(network, slices, config.flips)
        threshold = math.log(config.threshold / (1 - config.threshold))
        marked, drawn = logits >= threshold, masks >= 0.5
        pixels = [area.sum((1, 2, 3)) for area in (marked & drawn, marked, drawn)]
        return start, float(bce_dice(logits, masks)), torch.stack(pixels, 1).cpu().numpy()


def _figures(loss: float, pixels: Numbers, data: SliceSet) -> Validation:
    """Figures from each slice's counts (slice, 3): pixels in both masks, in the marked one, and in the drawn one."""
    both, marked, drawn = pixels.T
    abnormal = drawn > 0
    patients = [metrics.dice_of_counts(*pixels[data.patients == k].sum(axis=0)) for k in np.unique(data.patients)]
    union = marked + drawn - both
    return Validation(
        loss=loss,
        iou=float(np.mean(both[abnormal] / union[abnormal])),
        dice=float(np.mean([metrics.dice_of_counts(*row) for row in pixels[abnormal]])),
        dice_patient=float(np.mean(patients)),
        false_positive_share=None if abnormal.all() else float((marked[~abnormal] > 0).mean()),
    )
