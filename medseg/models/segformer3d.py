"""SegFormer3D: a hierarchical transformer encoder with a decoder of pointwise layers alone.

Written from the papers: Perera, Navard, Yilmaz, "SegFormer3D: an Efficient Transformer for 3D Medical
Image Segmentation", CVPR workshops 2024 (4.5 million parameters as configured by default), which brings
to volumes what Xie et al., "SegFormer", NeurIPS 2021 do in the plane. There is no positional code: the
depthwise convolution between the two layers of each block tells a token where it lies, so the network
takes windows of any size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]

STRIDES = (4, 2, 2, 2)
"""By how much each stage is coarser than the one before; the first, than the image."""

EXPANSION = 4
"""Hidden features of a block's pointwise layers, in parts of its features."""


class SegFormer3D(nn.Module):
    """Class scores of a volume.

    Args:
        in_channels: of the image.
        out_channels: class scores of a voxel.
        features: of a token at every stage, each a multiple of its heads.
        depths: blocks of every stage.
        heads: of the attention at every stage.
        reductions: by how much keys and values are coarser than queries along each axis, at every stage.
        decoder_features: to which every stage is brought before all are joined.

    Raises:
        ValueError: stages of unequal number, or features that their heads do not divide.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        features: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (4, 2, 1, 1),
        decoder_features: int = 256,
    ) -> None:
        super().__init__()
        if {len(features), len(depths), len(heads), len(reductions)} != {len(STRIDES)}:
            raise ValueError(f"expected features, depths, heads and reductions of {len(STRIDES)} stages each")
        if any(width % count for width, count in zip(features, heads, strict=True)):
            raise ValueError(f"expected features that are multiples of heads, got {features} and {heads}")
        self.stages = nn.ModuleList()
        before = in_channels
        for width, depth, count, reduction, stride in zip(
            features, depths, heads, reductions, STRIDES, strict=True
        ):
            blocks = [Block(width, count, reduction) for _ in range(depth)]
            self.stages.append(Stage(before, width, stride, blocks))
            before = width
        self.decoder = Decoder(features, decoder_features, out_channels)

    def forward(self, image: Tensor) -> Tensor:
        """`(n, in_channels, i, j, k)` to scores `(n, out_channels, i, j, k)`; sizes from 16 voxels on."""
        maps = []
        here = image
        for stage in self.stages:
            here = stage(here)
            maps.append(here)
        return F.interpolate(self.decoder(maps), size=image.shape[2:], mode="trilinear", align_corners=False)


class Stage(nn.Module):
    """Overlapping patches of a finer map become tokens, which blocks then change.

    Args:
        in_channels: of the finer map.
        features: of a token.
        stride: voxels of the finer map from one patch to the next; a patch is almost twice as wide.
        blocks: of the transformer.
    """

    def __init__(self, in_channels: int, features: int, stride: int, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.embed = nn.Conv3d(in_channels, features, 2 * stride - 1, stride, padding=stride - 1)
        self.embed_norm = nn.LayerNorm(features)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(features)

    def forward(self, image: Tensor) -> Tensor:
        """`(n, in_channels, i, j, k)` to `(n, features, …)`, each axis shorter by the stride, rounded up."""
        grid = self.embed(image)
        shape = grid.shape[2:]
        tokens = self.embed_norm(_as_tokens(grid))
        for block in self.blocks:
            tokens = block(tokens, shape)
        return _as_grid(self.norm(tokens), shape)


class Block(nn.Module):
    """Attention, then pointwise layers with a depthwise convolution; each adds to what it is given.

    Args:
        features: of a token.
        heads: of the attention.
        reduction: of keys and values along each axis.
    """

    def __init__(self, features: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(features)
        self.attention = Attention(features, heads, reduction)
        self.mix_norm = nn.LayerNorm(features)
        self.mix = MixFeedForward(features)

    def forward(self, tokens: Tensor, shape: Shape) -> Tensor:
        """`(n, tokens, features)` of a grid of `shape` to the same."""
        tokens = tokens + self.attention(self.attention_norm(tokens), shape)
        changed: Tensor = tokens + self.mix(self.mix_norm(tokens), shape)
        return changed


class Attention(nn.Module):
    """Every token looks at all others, which are first gathered into fewer (sequence reduction).

    Args:
        features: of a token.
        heads: that share them.
        reduction: edge of the cube of tokens that becomes one key and value.
    """

    def __init__(self, features: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, features)
        self.key_value = nn.Linear(features, 2 * features)
        self.out = nn.Linear(features, features)
        self.reduce = nn.Conv3d(features, features, reduction, reduction) if reduction > 1 else None
        self.reduce_norm = nn.LayerNorm(features) if reduction > 1 else None

    def forward(self, tokens: Tensor, shape: Shape) -> Tensor:
        """`(n, tokens, features)` of a grid of `shape` to the same."""
        seen = tokens
        if self.reduce is not None and self.reduce_norm is not None:
            seen = self.reduce_norm(_as_tokens(self.reduce(_as_grid(tokens, shape))))
        query = self._split(self.query(tokens))
        key, value = (self._split(part) for part in self.key_value(seen).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(query, key, value)
        joined: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return joined

    def _split(self, tokens: Tensor) -> Tensor:
        """`(n, tokens, features)` to `(n, heads, tokens, features / heads)`."""
        number, count, features = tokens.shape
        return tokens.reshape(number, count, self.heads, features // self.heads).transpose(1, 2)


class MixFeedForward(nn.Module):
    """Two pointwise layers with a depthwise 3x3x3 convolution between them.

    Args:
        features: of a token.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        hidden = EXPANSION * features
        self.widen = nn.Linear(features, hidden)
        self.look_around = nn.Conv3d(hidden, hidden, 3, padding=1, groups=hidden)
        self.narrow = nn.Linear(hidden, features)

    def forward(self, tokens: Tensor, shape: Shape) -> Tensor:
        """`(n, tokens, features)` of a grid of `shape` to the same."""
        grid = self.look_around(_as_grid(self.widen(tokens), shape))
        narrowed: Tensor = self.narrow(F.gelu(_as_tokens(grid)))
        return narrowed


class Decoder(nn.Module):
    """All stages brought to one width and to the finest stage's grid, joined, and scored; no kernels.

    Args:
        features: of the stages, the finest first.
        width: to which they are brought.
        out_channels: class scores.
    """

    def __init__(self, features: Sequence[int], width: int, out_channels: int) -> None:
        super().__init__()
        self.unify = nn.ModuleList(nn.Conv3d(count, width, 1) for count in features)
        self.fuse = nn.Conv3d(width * len(features), width, 1, bias=False)
        self.norm = nn.InstanceNorm3d(width, affine=True)
        self.score = nn.Conv3d(width, out_channels, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of the stages, the finest first, to scores `(n, out_channels, …)` on the first one's grid."""
        size = maps[0].shape[2:]
        joined = [
            F.interpolate(unify(one), size=size, mode="trilinear", align_corners=False)
            for unify, one in zip(self.unify, maps, strict=True)
        ]
        scores: Tensor = self.score(F.relu(self.norm(self.fuse(torch.cat(joined, dim=1)))))
        return scores


def _as_tokens(grid: Tensor) -> Tensor:
    """`(n, features, i, j, k)` to `(n, i * j * k, features)`."""
    return grid.flatten(2).transpose(1, 2)


def _as_grid(tokens: Tensor, shape: Shape) -> Tensor:
    """The way back of `_as_tokens`."""
    number, _, features = tokens.shape
    return tokens.transpose(1, 2).reshape(number, features, *shape)
