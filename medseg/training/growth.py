"""Give a trained U-Net a level at full resolution without forgetting what it knows.

A U-Net whose first convolution is strided is cheap and learns where things are; its last layer
draws borders only as well as one linear map of coarse features can. `grow` puts a level around it
that sees every voxel. The grown network starts from nearly the same answers.
"""

from __future__ import annotations

import torch
from torch import nn

FULL_LEVEL = 16
"""Features of the new level."""

INNER = "model.1.submodule."
"""Where the old network's layers lie in the grown one."""


@torch.no_grad()
def grow(small: nn.Module, grown: nn.Module) -> None:
    """Carry the weights of a strided U-Net into one with a further level of stride 1 around it.

    The new stem hands the image on in its first feature. The old last layer is replaced by its
    best approximation through `FULL_LEVEL` features (singular value decomposition over classes),
    and the new last layer turns them back into classes. New normalisations and activations start
    as the identity.

    Args:
        small: channels `(c, …)`, first stride 2, no residual units.
        grown: channels `(FULL_LEVEL, c, …)`, strides `(1, 2, …)`; written into.
    """
    old, new = small.state_dict(), grown.state_dict()
    for name, value in old.items():
        place = new.get(INNER + name.removeprefix("model."))
        if place is not None and place.shape == value.shape and not name.startswith("model.2."):
            place.copy_(value)
    stem = new[INNER + "0.conv.weight"]
    stem.mul_(0.1)
    stem[:, :1] = old["model.0.conv.weight"]
    entry = new["model.0.conv.weight"]
    entry[0] = 0.0
    entry[0, 0, 1, 1, 1] = 1.0
    new["model.0.conv.bias"].zero_()

    kernel, bias = old["model.2.conv.weight"], old["model.2.conv.bias"]
    _, _, basis = torch.linalg.svd(kernel.movedim(1, -1).reshape(-1, kernel.shape[1]), full_matrices=False)
    basis = basis[:FULL_LEVEL]
    rank = len(basis)
    new[INNER + "2.conv.weight"][:, :rank] = torch.einsum("acxyz,fc->afxyz", kernel, basis)
    new[INNER + "2.conv.bias"].zero_()
    last = new["model.2.conv.weight"]  # of a transposed convolution: (in, out, 3, 3, 3)
    last.mul_(0.1)
    last[FULL_LEVEL:] = 0.0
    last[FULL_LEVEL : FULL_LEVEL + rank, :, 1, 1, 1] = basis
    new["model.2.conv.bias"].copy_(bias)
    for layer in (INNER + "2.adn.", "model.0.adn."):
        new[layer + "N.running_mean"].zero_()
        new[layer + "N.running_var"].fill_(1.0)
    new[INNER + "2.adn.A.weight"].fill_(1.0)
