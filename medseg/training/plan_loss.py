"""What a planned network is judged by: Dice and cross entropy, at every depth that it answers from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medseg.training.instance_target import foreground_and_distance
from medseg.training.loss import dice_and_cross_entropy

BLOB_SHARE = 0.5
"""Weight of the mean over blobs beside the loss of all voxels (Kofler et al. have 1 beside 2)."""


def answers(network_output: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The answers of a network, the finest first: `(batch, channels, i, j, k)` each.

    MONAI's DynUNet stacks those of its depths along a second axis while it trains; SegResNetDS lists them.
    """
    if not isinstance(network_output, Tensor):
        return tuple(network_output)
    return network_output.unbind(1) if network_output.ndim == 6 else (network_output,)


def planned_loss(
    kind: str, output: Tensor | Sequence[Tensor], target: Tensor, depth: Tensor | None = None
) -> Tensor:
    """Loss of all answers of a network, each depth counting half of the one above (Lee et al., AISTATS 2015).

    Args:
        kind: `"dice-ce"`, `"blob"` or `"objects"`.
        output: of the network.
        target: `(batch, i, j, k)` int64 channels; of objects 0 or 1.
        depth: `(batch, i, j, k)` depth inside objects, for `"objects"`.

    Returns:
        Scalar.
    """
    found = answers(output)
    weights = [0.5**n for n in range(len(found))]
    losses = [_single(kind, answer, target, depth) for answer in found]
    return torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum() / sum(weights)


def _single(kind: str, logits: Tensor, target: Tensor, depth: Tensor | None) -> Tensor:
    if kind == "objects" and depth is not None:
        known = torch.ones_like(depth)
        return foreground_and_distance(logits, target.float(), depth, known)
    loss = dice_and_cross_entropy(logits, target)
    return loss + BLOB_SHARE * blob_loss(logits, target) if kind == "blob" else loss


def blob_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean soft Dice loss of every piece of the foreground by itself, so that small ones count as large ones.

    A piece is compared where it lies and where nothing is; voxels of other pieces do not count (Kofler
    et al., blob loss, IPMI 2023).

    Args:
        logits: `(batch, channels, i, j, k)`; channel 0 is background.
        target: `(batch, i, j, k)` channels.

    Returns:
        Scalar; 0 where no sample has a piece.
    """
    import cc3d

    inside = 1 - logits.float().softmax(dim=1)[:, 0]
    losses = []
    for p, truth in zip(inside, target, strict=True):
        pieces = cc3d.connected_components((truth > 0).cpu().numpy(), connectivity=26)
        count = int(pieces.max())
        if count == 0:
            continue
        where = torch.from_numpy(pieces.astype(np.int64)).reshape(-1).to(p.device)
        sums = torch.zeros(count + 1, device=p.device).index_add(0, where, p.reshape(-1))
        sizes = torch.bincount(where, minlength=count + 1)
        dice = (2 * sums[1:] + 1) / (sums[1:] + sums[0] + sizes[1:] + 1)
        losses.append(1 - dice)
    return torch.cat(losses).mean() if losses else logits.new_zeros(())
