"""The loss of semantic training: cross entropy plus soft Dice, without a one-hot volume."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def dice_and_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of cross entropy and soft Dice loss over the classes that occur.

    Both terms read one softmax; the one-hot target is replaced by an indexed sum, which saves
    a tensor of classes x voxels. Dice as in Milletari et al., 3DV 2016 (without the squares).

    Args:
        logits: `(batch, classes, i, j, k)`, best in channels-last memory.
        target: `(batch, i, j, k)` int64 class of every voxel.

    Returns:
        Scalar.
    """
    classes = logits.shape[1]
    scores = logits.movedim(1, -1).reshape(-1, classes).float()
    truth = target.reshape(-1)
    log_p = F.log_softmax(scores, dim=1)
    cross_entropy = F.nll_loss(log_p, truth)
    p = log_p.exp()
    hits = torch.zeros(classes, device=p.device).index_add(0, truth, p.gather(1, truth[:, None])[:, 0])
    size = torch.bincount(truth, minlength=classes).float()
    dice = (2 * hits + 1) / (p.sum(0) + size + 1)
    present = size > 0
    return cross_entropy + 1 - dice[present].mean()
