"""nnU-Net's U-Net with a residual encoder (Isensee et al., MICCAI 2024: nnU-Net Revisited)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.models.conv_blocks import (
    ConvBlock,
    ConvStack,
    EncoderDecoder,
    LayerStyle,
    Stage,
    UNetDecoder,
    skips_of,
)


class ResidualEncoderUNet(EncoderDecoder):
    """The same network as `dynamic_network_architectures`' class of that name.

    Its keys are those of a checkpoint after `single_names`.

    Args:
        in_channels: of the image.
        classes: output channels.
        stages: of the encoder, the finest first.
        decoder_counts: convolutions of each stage of the decoder, the coarsest first.
        style: of all convolution blocks.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        stages: Sequence[Stage],
        decoder_counts: Sequence[int],
        style: LayerStyle,
    ) -> None:
        super().__init__(
            ResidualEncoder(in_channels, stages, style), UNetDecoder(stages, decoder_counts, classes, style)
        )


class ResidualEncoder(nn.Module):
    """A stem of one convolution, then stages of residual blocks.

    Args:
        in_channels: of the image.
        stages: the finest first.
        style: of all convolution blocks.
    """

    def __init__(self, in_channels: int, stages: Sequence[Stage], style: LayerStyle) -> None:
        super().__init__()
        first = stages[0]
        self.stem = ConvStack(in_channels, Stage(first.features, first.kernel, (1, 1, 1), 1), 1, style)
        self.stages = nn.Sequential()
        channels = first.features
        for stage in stages:
            self.stages.append(ResidualStack(channels, stage, style))
            channels = stage.features

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of every stage, the finest first."""
        return skips_of(self.stages, self.stem(image))


class ResidualStack(nn.Module):
    """Residual blocks one after another; the first one strides.

    Args:
        in_channels: of the first block.
        stage: features, kernel, stride, number of blocks.
        style: of the network.
    """

    def __init__(self, in_channels: int, stage: Stage, style: LayerStyle) -> None:
        super().__init__()
        self.blocks = nn.Sequential(ResidualBlock(in_channels, stage, style))
        inner = Stage(stage.features, stage.kernel, (1, 1, 1), 1)
        for _ in range(stage.blocks - 1):
            self.blocks.append(ResidualBlock(stage.features, inner, style))

    def forward(self, image: Tensor) -> Tensor:
        """`(1, channels, i, j, k)` to the same with other channels, smaller by the stride."""
        answer: Tensor = self.blocks(image)
        return answer


class ResidualBlock(nn.Module):
    """Two convolutions beside a short cut of average pooling and a 1 x 1 x 1 convolution.

    The block of ResNet-D (He et al., CVPR 2019: Bag of Tricks).

    Args:
        in_channels: of the image.
        stage: features, kernel, stride.
        style: of the network.
    """

    def __init__(self, in_channels: int, stage: Stage, style: LayerStyle) -> None:
        super().__init__()
        inner = (stage.features, stage.features)
        self.conv1 = ConvBlock((in_channels, stage.features), stage.kernel, stage.stride, style)
        self.conv2 = ConvBlock(inner, stage.kernel, (1, 1, 1), style, is_linear=True)
        self.nonlin2 = style.make_activation()
        short_cut: list[nn.Module] = []
        if stage.stride != (1, 1, 1):
            short_cut.append(nn.AvgPool3d(stage.stride, stage.stride))
        if in_channels != stage.features:
            channels = (in_channels, stage.features)
            one = (1, 1, 1)
            short_cut.append(ConvBlock(channels, one, one, style, is_linear=True, bias=False))
        self.skip = nn.Sequential(*short_cut)

    def forward(self, image: Tensor) -> Tensor:
        """`(1, channels, i, j, k)` to the same with other channels, smaller by the stride."""
        answer: Tensor = self.conv2(self.conv1(image))
        answer += self.skip(image)
        result: Tensor = self.nonlin2(answer)
        return result
