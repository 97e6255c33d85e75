"""Make the bundled model `nuclei` again.

    python -m medseg.training.nuclei RUN_FOLDER

Everything that it learns from is drawn on the way. The run can be stopped and started again at any
time; `RUN_FOLDER/bundle` is written at the end.
"""

from __future__ import annotations

import argparse
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from medseg.training.instance_target import CHANNELS, foreground_and_distance, normalised_distance
from medseg.training.nuclei_synthesis import NucleiSettings, synthesise_nuclei
from medseg.training.optimise import optimise

_log = logging.getLogger(__name__)

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
        rise = min(1.0, (step + 1) / self.warm_up_steps)
        fall: float = (1 - step / self.steps) ** 0.9
        slow = self.frozen_slowdown if self.is_frozen_at(step) else 1.0
        return self.learning_rate * rise * fall * slow

    def is_frozen_at(self, step: int) -> bool:
        """Whether BatchNorm keeps its statistics at a step."""
        return step >= round(self.frozen_fraction * self.steps)


@dataclass(frozen=True)
class Sample:
    """What a network sees, and what it should say.

    Attributes:
        image: `(i, j, k)` float32, in 0..1.
        labels: `(i, j, k)` int32 object ids.
        distance: `(i, j, k)` float32 of `normalised_distance`.
    """

    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    distance: npt.NDArray[np.float32]


def scaled(image: npt.NDArray[np.float32], rng: np.random.Generator | None = None) -> npt.NDArray[np.float32]:
    """Intensities between two percentiles to 0..1, with `rng` not quite so, as a crop of more would be."""
    (lower, upper), gamma = PERCENTILES, 1.0
    if rng is not None:
        lower, upper = rng.uniform(0.1, 4.0), 100 - np.exp(rng.uniform(np.log(0.02), np.log(1.5)))
        gamma = np.exp(rng.normal(0, 0.2))
    low, high = np.percentile(image[::2, ::2, ::2], (lower, upper))
    parts = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    return np.asarray(parts**gamma, dtype=np.float32)


class NucleiTask:
    """Foreground and distance from synthetic images."""

    def __init__(self, recipe: NucleiRecipe) -> None:
        self.recipe = recipe
        self._drawn: OrderedDict[int, Sample] = OrderedDict()

    def build(self) -> nn.Module:
        """The network of the recipe: BatchNorm, so that an answer does not depend on the window."""
        return build_network(self.recipe)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        """Loss on crops of the newest image and of those before."""
        rng = np.random.default_rng([self.recipe.seed, step, 1])
        crops = [self._crop(self._sample(max(0, step - back)), rng) for back in range(self.recipe.batch)]
        image, distance, foreground = (
            torch.from_numpy(np.stack(parts)) for parts in zip(*crops, strict=True)
        )
        return foreground_and_distance(
            forward(network, image[:, None]), foreground, distance, torch.ones_like(foreground)
        )

    @torch.inference_mode()
    def check(self, network: nn.Module) -> dict[str, float]:
        """Loss on images that are always the same."""
        losses = []
        for number in range(8):
            rng = np.random.default_rng([987_654, number])
            image, labels = synthesise_nuclei(rng, self.recipe.synthesis)
            where = torch.from_numpy((labels > 0).astype(np.float32))[None]
            depth = torch.from_numpy(normalised_distance(labels))[None]
            logits = forward(network, torch.from_numpy(scaled(image))[None, None])
            losses.append(float(foreground_and_distance(logits, where, depth, torch.ones_like(where))))
        return {"validation_loss": float(np.mean(losses))}

    def _sample(self, number: int) -> Sample:
        if number not in self._drawn:
            rng = np.random.default_rng([self.recipe.seed, number])
            image, labels = synthesise_nuclei(rng, self.recipe.synthesis)
            self._drawn[number] = Sample(scaled(image, rng), labels, normalised_distance(labels))
            while len(self._drawn) > self.recipe.batch:
                self._drawn.popitem(last=False)
        return self._drawn[number]

    def _crop(self, sample: Sample, rng: np.random.Generator) -> list[npt.NDArray[np.float32]]:
        """A window of a sample, turned and mirrored: image, distance, foreground."""
        size = self.recipe.window
        starts = [int(rng.integers(n - size + 1)) for n in sample.image.shape]
        box = tuple(slice(a, a + size) for a in starts)
        axes = rng.permutation(3)
        mirrored = tuple(slice(None, None, int(rng.choice([-1, 1]))) for _ in range(3))
        foreground = (sample.labels > 0).astype(np.float32)
        return [
            np.ascontiguousarray(part[box].transpose(axes)[mirrored])
            for part in (sample.image, sample.distance, foreground)
        ]


def build_network(recipe: NucleiRecipe) -> UNet:
    """The network of a recipe: one image channel in, `CHANNELS` out."""
    network = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=len(CHANNELS),
        channels=recipe.channels,
        strides=recipe.strides,
        num_res_units=0,
        norm="batch",
    )
    # torch's stubs lack this overload of `to`, which halves the time of a step on a CPU.
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]


def forward(network: nn.Module, image: Tensor) -> Tensor:
    """`(batch, 2, i, j, k)` logits of `(batch, 1, i, j, k)` images, in bfloat16 where that is safe."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits: Tensor = network(image.to(memory_format=torch.channels_last_3d))
    return logits


def main() -> None:
    """Train and write the bundle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    optimise(NucleiTask(NucleiRecipe()), NucleiRecipe(), arguments.folder, _log.info)


if __name__ == "__main__":
    main()
