"""The loss of the published run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def bce_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy on logits plus Dice loss over the batch, weighted 1 and 1.

    Dice loss is 1 - 2 sum(p m) / (sum(p) + sum(m)) with p the probability and m the mask, over all pixels of the batch
    (Milletari et al., V-Net, 2016, in the linear form); a batch without abnormality has none.

    Parameters
    ----------
    logits, masks
        float32 (N, 1, H, W); masks 0 or 1.
    """
    from torch.nn import functional

    logits = logits.float()
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, masks)
    probability = logits.sigmoid()
    marked = masks.sum()
    overlap = 2 * (probability * masks).sum() / (probability.sum() + marked).clamp_min(1e-7)
    return cross_entropy + (1 - overlap) * (marked > 0)
