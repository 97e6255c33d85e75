"""nnU-Net's U-Net of plain convolutions (Isensee et al., Nature Methods 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.models.conv_blocks import ConvStack, EncoderDecoder, LayerStyle, Stage, UNetDecoder, skips_of


class PlainConvUNet(EncoderDecoder):
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
            PlainConvEncoder(in_channels, stages, style), UNetDecoder(stages, decoder_counts, classes, style)
        )


class PlainConvEncoder(nn.Module):
    """Stages of convolutions, each beginning with a stride.

    Args:
        in_channels: of the image.
        stages: the finest first.
        style: of all convolution blocks.
    """

    def __init__(self, in_channels: int, stages: Sequence[Stage], style: LayerStyle) -> None:
        super().__init__()
        self.stages = nn.Sequential()
        for stage in stages:
            self.stages.append(nn.Sequential(ConvStack(in_channels, stage, stage.blocks, style)))
            in_channels = stage.features

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of every stage, the finest first."""
        return skips_of(self.stages, image)
