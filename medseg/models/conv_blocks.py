"""Blocks that nnU-Net's networks are made of, with the keys of its state dicts.

Its package `dynamic_network_architectures` lists a convolution twice (`conv` and `all_modules.0`) and
the encoder again inside the decoder. Here everything has one name, the one in `all_modules` and outside
of the decoder; `single_names` leaves the others out of a state dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Triple = tuple[int, int, int]

ACTIVATIONS: dict[str, Any] = {"LeakyReLU": nn.LeakyReLU, "ReLU": nn.ReLU, "ELU": nn.ELU, "SiLU": nn.SiLU}
"""Activations by name; all of them work in place."""

NORMS: dict[str, Any] = {"InstanceNorm3d": nn.InstanceNorm3d, "BatchNorm3d": nn.BatchNorm3d}
"""Normalisations by name."""


def single_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of nnU-Net without the second names of its tensors."""
    result = {}
    for name, tensor in weights.items():
        block, _, rest = name.rpartition(".conv." if ".conv." in name else ".norm.")
        is_second = bool(rest) and f"{block}.all_modules.0.weight" in weights
        if not is_second and not name.startswith("decoder.encoder."):
            result[name] = tensor
    return result


@dataclass(frozen=True)
class LayerStyle:
    """What all convolution blocks of a network have in common.

    Attributes:
        bias: whether convolutions add a bias.
        norm: a name of `NORMS`, or empty for none.
        norm_eps: added to the variance.
        norm_affine: whether it learns scale and shift.
        has_dropout: whether training had a dropout layer after the convolution; it does nothing here
            but take a number among the keys.
        activation: a name of `ACTIVATIONS`, or empty for none.
        slope: of `LeakyReLU` below 0.
        activation_first: whether the activation comes before the normalisation.
    """

    bias: bool = True
    norm: Literal["InstanceNorm3d", "BatchNorm3d", ""] = "InstanceNorm3d"
    norm_eps: float = 1e-5
    norm_affine: bool = True
    has_dropout: bool = False
    activation: str = "LeakyReLU"
    slope: float = 0.01
    activation_first: bool = False

    def make_activation(self) -> nn.Module:
        """A new activation; the identity where there is none."""
        if not self.activation:
            return nn.Identity()
        own = {"negative_slope": self.slope} if self.activation == "LeakyReLU" else {}
        module: nn.Module = ACTIVATIONS[self.activation](inplace=True, **own)
        return module


@dataclass(frozen=True)
class Stage:
    """One resolution of a U-Net.

    Attributes:
        features: channels.
        kernel: voxels of the convolutions' kernel, odd.
        stride: step of its first convolution.
        blocks: number of convolutions, or of residual blocks, of the encoder.
    """

    features: int
    kernel: Triple
    stride: Triple
    blocks: int


class ConvBlock(nn.Module):
    """Convolution, normalisation, activation.

    Args:
        channels: in and out.
        kernel: voxels.
        stride: step.
        style: of the network; its activation is left out where `is_linear`.
        is_linear: whether the block ends with the normalisation, and has no dropout.
        bias: other than the style's, where given.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        kernel: Triple,
        stride: Triple,
        style: LayerStyle,
        *,
        is_linear: bool = False,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        i, j, k = ((n - 1) // 2 for n in kernel)
        has_bias = style.bias if bias is None else bias
        steps: list[nn.Module] = [nn.Conv3d(*channels, kernel, stride, (i, j, k), bias=has_bias)]
        if style.has_dropout and not is_linear:
            steps.append(nn.Identity())
        if style.norm:
            steps.append(NORMS[style.norm](channels[1], eps=style.norm_eps, affine=style.norm_affine))
        if style.activation and not is_linear:
            steps.append(style.make_activation())
            if style.activation_first and style.norm:
                steps[-1], steps[-2] = steps[-2], steps[-1]
        self.all_modules = nn.Sequential(*steps)

    def forward(self, image: Tensor) -> Tensor:
        """`(1, channels, i, j, k)` to the same with other channels, smaller by the stride."""
        answer: Tensor = self.all_modules(image)
        return answer


class ConvStack(nn.Module):
    """Convolution blocks one after another; the first one strides.

    Args:
        in_channels: of the first block.
        stage: features, kernel and stride.
        count: number of blocks.
        style: of the network.
    """

    def __init__(self, in_channels: int, stage: Stage, count: int, style: LayerStyle) -> None:
        super().__init__()
        blocks = [ConvBlock((in_channels, stage.features), stage.kernel, stage.stride, style)]
        inner = (stage.features, stage.features)
        blocks += [ConvBlock(inner, stage.kernel, (1, 1, 1), style) for _ in range(count - 1)]
        self.convs = nn.Sequential(*blocks)

    def forward(self, image: Tensor) -> Tensor:
        """`(1, channels, i, j, k)` to the same with other channels, smaller by the stride."""
        answer: Tensor = self.convs(image)
        return answer


class UNetDecoder(nn.Module):
    """The way back up: transposed convolution, skip, convolutions; class scores at full resolution.

    Args:
        stages: of the encoder, the finest first.
        counts: convolutions of each stage of the decoder, the coarsest first.
        classes: output channels.
        style: of the network.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        counts: Sequence[int],
        classes: int,
        style: LayerStyle,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.transpconvs = nn.ModuleList()
        self.seg_layers = nn.ModuleList()
        for below, stage, count in zip(stages[:0:-1], stages[-2::-1], counts, strict=True):
            up = nn.ConvTranspose3d(
                below.features, stage.features, below.stride, below.stride, bias=style.bias
            )
            self.transpconvs.append(up)
            same_size = Stage(stage.features, stage.kernel, (1, 1, 1), count)
            self.stages.append(ConvStack(2 * stage.features, same_size, count, style))
            # Training scored every resolution; only the last layer is run.
            self.seg_layers.append(nn.Conv3d(stage.features, classes, 1))

    def forward(self, skips: list[Tensor]) -> Tensor:
        """Features of the encoder, the finest first, to `(1, classes, i, j, k)`."""
        image = skips.pop()
        for up, stage in zip(self.transpconvs, self.stages, strict=True):
            image = torch.cat((up(image), skips.pop()), 1)
            image = stage(image)
        scores: Tensor = self.seg_layers[-1](image)
        return scores


class EncoderDecoder(nn.Module):
    """A U-Net of any encoder of `stages`.

    Args:
        encoder: image to features of every stage, the finest first.
        decoder: these features to scores.
    """

    def __init__(self, encoder: nn.Module, decoder: UNetDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, image: Tensor) -> Tensor:
        """`(1, in_channels, i, j, k)` to scores `(1, classes, i, j, k)`."""
        scores: Tensor = self.decoder(self.encoder(image))
        return scores


def skips_of(stages: nn.Sequential, image: Tensor) -> list[Tensor]:
    """What each stage gives, the first one first; every stage takes what the one before gave."""
    skips = []
    for stage in stages:
        image = stage(image)
        skips.append(image)
    return skips
