"""Losses beside the cross entropy of the classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from crackcam import distributed
from crackcam.data.synthetic.examples import COVERED, UNKNOWN

POSITIVE_WEIGHT = 3.0  # of a cell on a crack beside one that is not: cracks are rare


def mask_loss(evidence: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of the evidence for a crack, cell by cell, where the mask is known.

    In several processes each returns its part; their sum is the mean over all known cells.

    Args:
        evidence: (N, h, w) float32, logits.
        masks: (N, H, W) uint8 as in :class:`crackcam.data.synthetic.examples.Example`.
    """
    known = (masks < UNKNOWN).float()
    cover = masks * known / COVERED
    height, width = evidence.shape[1:]
    cover, known = (F.adaptive_avg_pool2d(values[:, None], (height, width))[:, 0] for values in (cover, known))
    known = (known == 1).float()
    # A hairline covers a quarter of a cell and is still a crack there.
    target = (2 * cover).clamp(max=1)
    losses = F.binary_cross_entropy_with_logits(
        evidence, target, reduction="none", pos_weight=torch.tensor(POSITIVE_WEIGHT, device=evidence.device)
    )
    return (losses * known).sum() / distributed.all_reduce(known.sum()).clamp(min=1)
