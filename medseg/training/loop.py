"""The training loop of the bundled brain model, on one page and resumable."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from medseg.training.brain_labels import BRAIN_STRUCTURES, HeadLabels, HeadMap
from medseg.training.growth import freeze_statistics
from medseg.training.head_synthesis import SynthesisSettings, synthesise
from medseg.training.loss import dice_and_cross_entropy
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


def train(
    data: HeadData,
    recipe: TrainingRecipe,
    folder: Path,
    report: Callable[[str], None],
    initial: UNet | None = None,
) -> UNet:
    """Train, or go on with, the network of a recipe.

    Every `check_every` steps the state goes to `folder/checkpoint.pt` (written aside, then
    moved) and a row to `folder/log.csv`. A second call with the same folder resumes.

    Args:
        data: label maps.
        recipe: all choices.
        folder: where checkpoint and log live; made if missing.
        report: told one line per check.
        initial: network to start from; of random weights if left out.

    Returns:
        The network with the averaged weights, in evaluation mode.

    Raises:
        FloatingPointError: the loss is no longer a number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    network, average = build_network(recipe), build_network(recipe)
    if initial is not None:
        network.load_state_dict(initial.state_dict())
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    checkpoint = folder / "checkpoint.pt"
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    losses: list[float] = []
    began = time.monotonic()
    for step in range(start, recipe.steps):
        if recipe.is_frozen_at(step) and not recipe.is_frozen_at(step - 1):
            _copy_statistics(average, network)
        losses.append(_step(network, optimiser, data, recipe, step))
        _move_average(average, network, min(recipe.averaging, (step + 1) / (step + 10)))
        if (step + 1) % recipe.check_every == 0 or step + 1 == recipe.steps:
            state = {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
            }
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
            seconds = (time.monotonic() - began) / len(losses)
            row = _check(average, data, recipe, step + 1, float(np.mean(losses)), seconds)
            _append(folder / "log.csv", row)
            report(", ".join(f"{name} {value:.4g}" for name, value in row.items()))
            losses, began = [], time.monotonic()
    average.eval()
    return average


def _step(
    network: nn.Module, optimiser: torch.optim.Optimizer, data: HeadData, recipe: TrainingRecipe, step: int
) -> float:
    """One synthetic head, one update; the step alone decides what is drawn, so a resume repeats it."""
    rng = np.random.default_rng([recipe.seed, step])
    head = data.training[int(rng.integers(len(data.training)))]
    image, target = synthesise(head, data.labels, rng, recipe.synthesis_at(step))
    network.train()
    if recipe.is_frozen_at(step):
        freeze_statistics(network)
    for group in optimiser.param_groups:
        group["lr"] = recipe.learning_rate_at(step)
    optimiser.zero_grad(set_to_none=True)
    loss = dice_and_cross_entropy(_forward(network, image), target[None])
    value = float(loss.detach())
    if not np.isfinite(value):
        raise FloatingPointError(f"step {step}: expected a finite loss, got {value}; lower the learning rate")
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimiser.step()
    return value


@torch.no_grad()
def _copy_statistics(source: nn.Module, target: nn.Module) -> None:
    """Take over the BatchNorm statistics of the averaged network, which follow many heads."""
    own = target.state_dict()
    for name, value in source.state_dict().items():
        if "running_" in name:
            own[name].copy_(value)


@torch.no_grad()
def blend(network: nn.Module, other: nn.Module, share: float) -> None:
    """Move every weight towards another network's, in place.

    Between two stages of one run this keeps the gains of both (Wortsman et al., WiSE-FT, CVPR 2022).

    Args:
        network: written into.
        other: of the same layers.
        share: 0 keeps `network`, 1 takes `other`.
    """
    _move_average(network, other, 1 - share)


@torch.no_grad()
def _move_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


def _check(
    network: nn.Module, data: HeadData, recipe: TrainingRecipe, step: int, loss: float, seconds: float
) -> dict[str, float]:
    hard = replace(recipe.synthesis, contrast_width=1.0, spoil=1.0)
    any_contrast = validation_dice(network, data, hard, per_map=2, seed=1)
    t1 = replace(recipe.synthesis, contrast_width=0.0, spoil=0.3)
    t1_like = validation_dice(network, data, t1, per_map=1, seed=2)
    return {
        "step": step,
        "loss": loss,
        "seconds_per_step": seconds,
        "learning_rate": recipe.learning_rate_at(step - 1),
        "dice_any_contrast": float(np.nanmean(any_contrast)),
        "dice_t1_like": float(np.nanmean(t1_like)),
    }


def _append(path: Path, row: dict[str, float]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)
