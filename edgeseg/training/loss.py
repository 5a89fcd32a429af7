"""The loss of the published run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def bce_dice(
    logits: torch.Tensor, masks: torch.Tensor, total: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums
) -> torch.Tensor:
    """Binary cross-entropy on logits plus Dice loss over the batch, weighted 1 and 1.

    Dice loss is 1 - 2 sum(p m) / (sum(p) + sum(m)) with p the probability and m the mask, over all pixels of the batch
    (Milletari et al., V-Net, 2016, in the linear form); a batch without abnormality has none.

    Parameters
    ----------
    logits, masks
        float32 (N, 1, H, W); masks 0..1.
    total
        Adds up sums over the processes that share the batch.
    """
    import torch
    from torch.nn import functional

    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="sum")
    probability = logits.sigmoid()
    sums = [cross_entropy, (probability * masks).sum(), probability.sum(), masks.sum(), masks.new_tensor(masks.numel())]
    cross_entropy, overlap, marked, drawn, pixels = total(torch.stack(sums)).unbind()
    dice = 2 * overlap / (marked + drawn).clamp_min(1e-7)
    return cross_entropy / pixels + (1 - dice) * (drawn > 0)
