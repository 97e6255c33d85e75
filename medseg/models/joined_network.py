"""The network of a model of several parts; see `medseg.models.parts`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.intensity_steps import FixedRange

PartSteps = tuple[tuple[FixedRange, ...], ...]
"""For every input image of a part, the ranges that are mapped one after another."""


class JoinedNetwork(nn.Module):
    """Odds of every class of every part against the part's own background.

    Args:
        parts: for each part its networks, whose answers are averaged.
        channels: number of channels of each part, its background included.
        backgrounds: which of them is background.
        steps: intensity steps of each part, where they differ; else empty.
        padding: value after the steps of voxels that are padding; None where there are no steps.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[nn.Module]],
        channels: Sequence[int],
        backgrounds: Sequence[int],
        steps: Sequence[PartSteps] = (),
        padding: float | None = None,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.ModuleList(networks) for networks in parts)
        self._networks = [list(networks) for networks in parts]
        self._channels = tuple(channels)
        self._backgrounds = tuple(backgrounds)
        self._steps = tuple(steps)
        self._padding = padding
        numbers = [n for n, count in enumerate(channels, start=1) for _ in range(count - 1)]
        self.register_buffer("part_of_channel", torch.tensor([0, *numbers]))

    def forward(self, image: Tensor) -> Tensor:
        """`(n, in_channels, i, j, k)` to `(n, 1 + classes, i, j, k)`; the first channel is 0."""
        odds = [torch.zeros_like(image[:, :1])]
        for number, background in enumerate(self._backgrounds):
            scores = self._answer(number, image)
            none = scores[:, background : background + 1]
            kept = [scores[:, :background], scores[:, background + 1 :]]
            odds += [some - none for some in kept if some.shape[1]]
        return torch.cat(odds, dim=1)

    @property
    def classes(self) -> int:
        """How many the parts have together, without background."""
        return sum(self._channels) - len(self._channels)

    def turns(self) -> tuple[JoinedNetwork, ...]:
        """Each part by itself, with the same networks: `(n, 1 + its classes, i, j, k)`, the first is 0."""
        return tuple(
            JoinedNetwork(
                (networks,),
                (self._channels[number],),
                (self._backgrounds[number],),
                self._steps[number : number + 1],
                self._padding,
            ).eval()
            for number, networks in enumerate(self._networks)
        )

    def _answer(self, number: int, image: Tensor) -> Tensor:
        """Averaged scores of one part; each network has its own copy, into which it may write."""
        answers = []
        for network in self._networks[number]:
            given = self._scaled(number, image) if self._steps else image.clone()
            output: Tensor | Sequence[Tensor] = network(given)
            answers.append(output if isinstance(output, Tensor) else output[0])
        return answers[0] if len(answers) == 1 else torch.stack(answers).mean(0)

    def _scaled(self, number: int, image: Tensor) -> Tensor:
        """The image as one part wants it, in the same arithmetic as `medseg.preprocess.intensity`."""
        scaled = image.clone()
        for channel, steps in enumerate(self._steps[number]):
            values = scaled[:, channel]
            for step in steps:
                factor = (step.output_max - step.output_min) / (step.input_max - step.input_min)
                values.sub_(step.input_min).mul_(factor).add_(step.output_min)
                if step.clip:
                    values.clamp_(
                        min(step.output_min, step.output_max), max(step.output_min, step.output_max)
                    )
        if self._padding is None:
            return scaled
        return torch.where(image < -1e29, torch.full_like(scaled, self._padding), scaled)
