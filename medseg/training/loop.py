"""What the bundled brain model learns: structures of synthetic heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from medseg.training.brain_labels import BRAIN_STRUCTURES, HeadLabels, HeadMap
from medseg.training.head_synthesis import SynthesisSettings, synthesise
from medseg.training.loss import dice_and_cross_entropy
from medseg.training.optimise import optimise
from medseg.training.recipe import TrainingRecipe


@dataclass(frozen=True)
class HeadData:
    """Label maps to learn from and to check on, with the tables of their labels."""

    labels: HeadLabels
    training: Sequence[HeadMap]
    validation: Sequence[HeadMap]


def build_network(recipe: TrainingRecipe) -> UNet:
    """The network of the recipe: one image channel in, background and structures out.

    BatchNorm, not InstanceNorm: the statistics must not depend on what a window happens to show.
    """
    network = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=len(BRAIN_STRUCTURES) + 1,
        channels=recipe.channels,
        strides=recipe.strides,
        num_res_units=0,
        norm="batch",
    )
    # torch's stubs lack this overload of `to`, which halves the time of a step on a CPU.
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]


@torch.inference_mode()
def validation_dice(
    network: nn.Module, data: HeadData, settings: SynthesisSettings, *, per_map: int, seed: int
) -> npt.NDArray[np.float64]:
    """Hard Dice of every structure on synthetic images of the validation maps.

    Args:
        network: `(1, 1, R, A, S)` image to `(1, classes, R, A, S)` logits.
        data: its `validation` maps are used.
        settings: how the images are made.
        per_map: images of each map.
        seed: the same seed gives the same images.

    Returns:
        `(images, structures)`; NaN where a structure does not occur in the window.
    """
    network.eval()
    rows = []
    for index, head in enumerate(data.validation):
        for repeat in range(per_map):
            rng = np.random.default_rng([seed, index, repeat])
            image, truth = synthesise(head, data.labels, rng, settings)
            rows.append(_hard_dice(_forward(network, image)[0].argmax(0), truth))
    return np.stack(rows)


def _hard_dice(found: Tensor, truth: Tensor) -> npt.NDArray[np.float64]:
    classes = len(BRAIN_STRUCTURES) + 1
    both = torch.bincount(found.reshape(-1) * classes + truth.reshape(-1), minlength=classes**2)
    table = both.reshape(classes, classes).double().numpy()
    size = table.sum(0)[1:]
    dice = 2 * np.diag(table)[1:] / np.maximum(table.sum(1)[1:] + size, 1)
    return np.where(size > 0, dice, np.nan)


def _forward(network: nn.Module, image: Tensor) -> Tensor:
    batch = image[None, None].to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits: Tensor = network(batch)
    return logits


class _HeadTask:
    """Structures of synthetic heads, one head a step; see `medseg.training.optimise.Task`."""

    def __init__(self, data: HeadData, recipe: TrainingRecipe) -> None:
        self.data, self.recipe = data, recipe

    def build(self) -> nn.Module:
        """The network of the recipe."""
        return build_network(self.recipe)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        """Loss on one synthetic head."""
        rng = np.random.default_rng([self.recipe.seed, step])
        head = self.data.training[int(rng.integers(len(self.data.training)))]
        image, target = synthesise(head, self.data.labels, rng, self.recipe.synthesis_at(step))
        return dice_and_cross_entropy(_forward(network, image), target[None])

    def check(self, network: nn.Module) -> dict[str, float]:
        """Mean Dice on synthetic images of the validation maps."""
        hard = replace(self.recipe.synthesis, contrast_width=1.0, spoil=1.0)
        any_contrast = validation_dice(network, self.data, hard, per_map=2, seed=1)
        t1 = replace(self.recipe.synthesis, contrast_width=0.0, spoil=0.3)
        t1_like = validation_dice(network, self.data, t1, per_map=1, seed=2)
        return {
            "dice_any_contrast": float(np.nanmean(any_contrast)),
            "dice_t1_like": float(np.nanmean(t1_like)),
        }


def train(
    data: HeadData,
    recipe: TrainingRecipe,
    folder: Path,
    report: Callable[[str], None],
    initial: nn.Module | None = None,
) -> nn.Module:
    """Train, or go on with, the network of a recipe; see `medseg.training.optimise.optimise`.

    Args:
        data: label maps.
        recipe: all choices.
        folder: where checkpoint and log live; made if missing.
        report: told one line per check.
        initial: network to start from; of random weights if left out.

    Returns:
        The network with the averaged weights, in evaluation mode.
    """
    return optimise(_HeadTask(data, recipe), recipe, folder, report, initial)
