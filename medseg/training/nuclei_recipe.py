"""What the training run of the bundled model `nuclei` needs to be told; kept with the weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from medseg.training.nuclei_synthesis import NucleiSettings
from medseg.training.optimise import polynomial_rate

PERCENTILES = (1.0, 99.8)
"""Of an image that become 0 and 1."""


@dataclass(frozen=True)
class NucleiRecipe:
    """All choices of one run.

    Attributes:
        channels: features of the U-Net's levels.
        strides: down-sampling between them, one fewer than `channels`.
        window: voxels of a training sample along each axis.
        batch: samples of a step, each of another image.
        steps: optimiser steps; each adds one new image.
        learning_rate: at its highest, after warm-up.
        warm_up_steps: steps of linear rise; afterwards it falls as (1 - done)^0.9.
        averaging: decay of the running mean of the weights, which is what is kept.
        frozen_fraction: share of the run after which BatchNorm keeps its running statistics.
        frozen_slowdown: factor on the learning rate from then on.
        check_every: steps between validations and checkpoints.
        seed: start of every random choice.
        synthesis: what images look like.
    """

    channels: tuple[int, ...] = (16, 32, 48, 64, 64)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    window: int = 48
    batch: int = 4
    steps: int = 3600
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    warm_up_steps: int = 100
    averaging: float = 0.995
    frozen_fraction: float = 0.7
    frozen_slowdown: float = 0.6
    check_every: int = 200
    seed: int = 0
    synthesis: NucleiSettings = field(default_factory=NucleiSettings)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        slow = self.frozen_slowdown if self.is_frozen_at(step) else 1.0
        return polynomial_rate(self.learning_rate, step, self.steps, self.warm_up_steps) * slow

    def is_frozen_at(self, step: int) -> bool:
        """Whether BatchNorm keeps its statistics at a step."""
        return step >= round(self.frozen_fraction * self.steps)
