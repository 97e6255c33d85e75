"""What a training run needs to be told; kept with the weights so that it can be repeated."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from medseg.training.growth import FULL_LEVEL
from medseg.training.head_synthesis import SynthesisSettings
from medseg.training.optimise import polynomial_rate


@dataclass(frozen=True)
class TrainingRecipe:
    """All choices of one run of `medseg.training.loop.train`.

    Attributes:
        channels: features of the U-Net's levels.
        strides: down-sampling between them, one fewer than `channels`.
        steps: optimiser steps, one synthetic head each.
        learning_rate: at its highest, after warm-up.
        warm_up_steps: steps of linear rise; afterwards it falls as (1 - done)^0.9.
        averaging: decay of the running mean of the weights, which is what is kept.
        easy_fraction: share of the run with T1-like contrast only.
        widening_fraction: share of the run over which contrast grows to full width.
        frozen_fraction: share of the run after which BatchNorm keeps its running statistics. One
            head a step gives statistics of that head alone, which is not what is used later.
        frozen_slowdown: factor on the learning rate from then on.
        small_shape: voxels of a smaller window, which makes steps cheaper.
        small_between: shares of the run between which the smaller window is used; start and
            end see windows as the inferer will show them.
        scanner_like_share: share of the steps whose contrasts are half as wide, nearer to scanners'.
        check_every: steps between validations and checkpoints.
        seed: start of every random choice.
    """

    channels: tuple[int, ...] = (32, 32, 64, 64, 128, 128, 256)
    strides: tuple[int, ...] = (2, 1, 2, 1, 2, 1)
    steps: int = 5600
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    warm_up_steps: int = 100
    averaging: float = 0.995
    easy_fraction: float = 0.107
    widening_fraction: float = 0.3125
    frozen_fraction: float = 0.491
    frozen_slowdown: float = 0.6
    small_shape: tuple[int, int, int] = (80, 96, 80)
    small_between: tuple[float, float] = (0.268, 0.95)
    scanner_like_share: float = 0.0
    check_every: int = 250
    seed: int = 0
    synthesis: SynthesisSettings = field(default_factory=SynthesisSettings)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        slow = self.frozen_slowdown if self.is_frozen_at(step) else 1.0
        return polynomial_rate(self.learning_rate, step, self.steps, self.warm_up_steps) * slow

    def is_frozen_at(self, step: int) -> bool:
        """Whether BatchNorm keeps its statistics at a step."""
        return step >= round(self.frozen_fraction * self.steps)

    def synthesis_at(self, step: int) -> SynthesisSettings:
        """How images are made at a step: size of the window, width of contrasts, spoiling."""
        done, (first, last) = step / self.steps, self.small_between
        shape = self.small_shape if first <= done < last else self.synthesis.shape
        difficulty = self.difficulty_at(step)
        if (step * 37) % 100 < 100 * self.scanner_like_share:
            difficulty *= 0.5
        return replace(
            self.synthesis,
            shape=shape,
            contrast_width=difficulty * self.synthesis.contrast_width,
            spoil=(0.3 + 0.7 * difficulty) * self.synthesis.spoil,
        )

    def difficulty_at(self, step: int) -> float:
        """Width of contrasts at a step: 0 while easy, 1 from the end of the widening on."""
        done = step / self.steps - self.easy_fraction
        if done >= self.widening_fraction:
            return 1.0
        return min(1.0, max(0.0, done / self.widening_fraction))


STRIDED = TrainingRecipe()
"""First stage: a cheap network whose first layer is strided learns where things are."""

FULL_RESOLUTION = TrainingRecipe(
    channels=(FULL_LEVEL, *STRIDED.channels),
    strides=(1, *STRIDED.strides),
    steps=800,
    learning_rate=1e-3,
    warm_up_steps=50,
    easy_fraction=0.0,
    widening_fraction=0.0,
    frozen_fraction=0.0,
    frozen_slowdown=1.0,
    small_between=(0.0, 1.0),
    check_every=200,
    seed=1,
)
"""Second stage: the same network, grown by a level that sees every voxel, learns borders."""

SCANNER_LIKE = replace(
    FULL_RESOLUTION,
    steps=300,
    learning_rate=5e-4,
    warm_up_steps=20,
    check_every=100,
    synthesis=SynthesisSettings(contrast_width=0.5, spoil=0.7),
    seed=2,
)
"""Third stage: contrasts nearer to those that scanners make."""

LONG = replace(
    FULL_RESOLUTION,
    steps=4000,
    learning_rate=1.5e-3,
    averaging=0.998,
    check_every=250,
    scanner_like_share=0.4,
    seed=3,
)
"""Fourth stage: all contrasts again, many of them scanners', for longer."""
