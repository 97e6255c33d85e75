"""What `brain-lesions` learns: a detector and the network that draws masks in its boxes, together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from medseg.instances.boxes import CHANNELS, INSIDE, Boxes, box_overlaps, decode_boxes, suppress
from medseg.instances.crops import crop_inputs, crop_truth
from medseg.training.brain_labels import HeadLabels, HeadMap
from medseg.training.lesion_loss import detection_loss, detection_targets, mask_loss
from medseg.training.lesion_synthesis import LesionSample, LesionSettings, synthesise_lesions
from medseg.training.loop import HeadData
from medseg.training.optimise import polynomial_rate

DETECTOR_CHANNELS = (16, 32, 32, 64, 64, 128, 128, 256)
"""Features of the detector's levels: those of `brain-mri`, whose weights it starts from."""

DETECTOR_STRIDES = (1, 2, 1, 2, 1, 2, 1)
DETECTOR_NORM: tuple[str, dict[str, bool]] = ("instance", {"affine": True})
"""Normalised by what a window shows: with one head a step, running statistics of a BatchNorm stay too far
from those that are learned with, and nothing is found."""

MASK_CHANNELS = (8, 16, 32, 64)
MASK_STRIDES = (1, 2, 2)


@dataclass(frozen=True)
class LesionRecipe:
    """All choices of one run of `train_lesions`.

    Attributes:
        steps: optimiser steps, one synthetic head each.
        learning_rate: of new layers at its highest, after warm-up.
        warm_up_steps: steps of linear rise; afterwards it falls as (1 - done)^0.9.
        averaging: decay of the running mean of the weights, which is what is kept.
        contrast_width: least and greatest width of the heads' contrasts, drawn anew for every head.
        spoil: least and greatest spoiling, likewise.
        easy_fraction: share of the run over which contrasts, spoiling and lesions grow to full difficulty.
        shape: voxels of a training window.
        last_shape: voxels of one at the end of the run, nearer to those of inference.
        last_share: part of the run for that.
        check_every: steps between validations and checkpoints.
        seed: start of every random choice.
        lesions: how heads and lesions are made.
    """

    steps: int = 1750
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warm_up_steps: int = 20
    averaging: float = 0.99
    contrast_width: tuple[float, float] = (0.0, 0.4)
    spoil: tuple[float, float] = (0.1, 0.7)
    easy_fraction: float = 0.7
    shape: tuple[int, int, int] = (64, 80, 64)
    last_shape: tuple[int, int, int] = (80, 96, 80)
    last_share: float = 0.1
    check_every: int = 200
    seed: int = 0
    lesions: LesionSettings = field(default_factory=LesionSettings)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return polynomial_rate(self.learning_rate, step, self.steps, self.warm_up_steps)

    def is_frozen_at(self, _step: int) -> bool:
        """Whether BatchNorm keeps its statistics at a step; there is none."""
        return False

    def shape_at(self, step: int) -> tuple[int, int, int]:
        """Voxels of the window of a step."""
        return self.shape if step < (1 - self.last_share) * self.steps else self.last_shape

    def lesions_at(self, step: int, rng: np.random.Generator) -> LesionSettings:
        """How head and lesions of a step are made: large, clear lesions in clean T1-like heads first."""
        hard = min(1.0, (step + 1) / max(1.0, self.easy_fraction * self.steps))
        (low, high), (clean, spoilt) = self.contrast_width, self.spoil
        head = replace(
            self.lesions.head,
            shape=self.shape_at(step),
            contrast_width=float(rng.uniform(low, low + hard * (high - low))),
            spoil=float(rng.uniform(clean, clean + hard * (spoilt - clean))),
        )
        smallest, largest = self.lesions.diameter_mm
        easy = 1 - hard
        return replace(
            self.lesions,
            head=head,
            diameter_mm=(smallest + easy * (largest / 3 - smallest), largest),
            least_contrast=self.lesions.least_contrast + 0.15 * easy,
        )


class LesionNetworks(nn.Module):
    """The two networks, trained as one.

    Attributes:
        detector: `(1, 1, i, j, k)` image to `(1, 8, i, j, k)` maps.
        masks: `(n, 3, s, s, s)` crops to `(n, 1, s, s, s)` logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.detector = UNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=CHANNELS,
            channels=DETECTOR_CHANNELS,
            strides=DETECTOR_STRIDES,
            num_res_units=0,
            norm=DETECTOR_NORM,
        )
        self.masks = UNet(
            spatial_dims=3,
            in_channels=3,
            out_channels=1,
            channels=MASK_CHANNELS,
            strides=MASK_STRIDES,
            num_res_units=0,
            norm="instance",
        )
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # missing in the stubs


def as_lesion_networks(network: nn.Module) -> LesionNetworks:
    """The same module, known to be the two networks.

    Raises:
        TypeError: it is another.
    """
    if not isinstance(network, LesionNetworks):
        raise TypeError(f"expected LesionNetworks, got {type(network).__name__}; build them by the task")
    return network


@torch.no_grad()
def start_from(networks: LesionNetworks, brain_weights: dict[str, Tensor]) -> None:
    """Give the detector what `brain-mri` knows of heads; its last layer starts nearly silent."""
    own = networks.detector.state_dict()
    for name, value in brain_weights.items():
        if name in own and own[name].shape == value.shape:
            own[name].copy_(value)
    own["model.2.conv.weight"].mul_(0.1)
    own["model.2.conv.bias"].zero_()
    own["model.2.conv.bias"][0] = -4.0
    own["model.2.conv.bias"][INSIDE] = -3.0


def detect(networks: LesionNetworks, image: Tensor) -> Tensor:
    """Maps `(8, i, j, k)` of one image `(i, j, k)`, float32."""
    batch = image[None, None].to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps: Tensor = networks.detector(batch)
    return maps[0].float()


def draw(
    heads: Sequence[HeadMap], labels: HeadLabels, recipe: LesionRecipe, step: int
) -> tuple[LesionSample, np.random.Generator]:
    """The head of a step, and the generator for what else is drawn in it."""
    rng = np.random.default_rng([recipe.seed, step])
    head = heads[int(rng.integers(len(heads)))]
    return synthesise_lesions(head, labels, rng, recipe.lesions_at(step, rng)), rng


@dataclass(frozen=True, eq=False)
class LesionTask:
    """Lesions in synthetic heads, for `medseg.training.optimise.optimise`.

    Attributes:
        data: label maps.
        recipe: all choices.
    """

    data: HeadData
    recipe: LesionRecipe

    def build(self) -> LesionNetworks:
        """Both networks with random weights."""
        return LesionNetworks()

    def loss(self, network: nn.Module, step: int) -> Tensor:
        """Loss of detector and masks on the head of a step."""
        networks = as_lesion_networks(network)
        sample, rng = draw(self.data.training, self.data.labels, self.recipe, step)
        spacing = self.recipe.lesions.head.spacing_mm
        maps = detect(networks, sample.image)
        targets = detection_targets(sample.boxes, self.recipe.shape_at(step), spacing)
        masks = _mask_loss(networks, maps.detach(), sample, rng, spacing)
        return detection_loss(maps, sample.objects, targets) + masks

    def check(self, network: nn.Module) -> dict[str, float]:
        """Figures on some heads that are not learned from."""
        return check_lesions(as_lesion_networks(network), self.data, self.recipe, count=6, seed=1)


def _mask_loss(
    networks: LesionNetworks, maps: Tensor, sample: LesionSample, rng: np.random.Generator, spacing: float
) -> Tensor:
    """Loss of the masks in true boxes, moved a little, and in boxes that the detector finds."""
    boxes, owners = _training_boxes(maps, sample, rng, spacing)
    if not len(owners):
        return maps.new_zeros(())
    start, stop = boxes
    inputs = crop_inputs(sample.image, maps[INSIDE], start, stop, (spacing,) * 3)
    truth = crop_truth(sample.objects, owners, start, stop, (spacing,) * 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits: Tensor = networks.masks(inputs.to(memory_format=torch.channels_last_3d))
    return mask_loss(logits[:, 0].float(), truth)


def _training_boxes(
    maps: Tensor, sample: LesionSample, rng: np.random.Generator, spacing: float
) -> tuple[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], npt.NDArray[np.int64]]:
    """Corners in voxels, and the object of each box; 0 where a box holds none."""
    true_start, true_stop = _corners(sample)
    sides = true_stop - true_start
    middle = (true_start + true_stop) / 2 + rng.normal(0, 0.08, sides.shape) * sides
    half = sides / 2 * np.exp(rng.normal(0, 0.15, sides.shape))
    found = _found(maps, spacing)
    overlap = box_overlaps(found.start, found.stop, true_start, true_stop)
    owner = np.zeros(len(found), dtype=np.int64)
    if len(true_start):
        owner = np.where(overlap.max(axis=1) >= 0.1, overlap.argmax(axis=1) + 1, 0)
    corners = (
        np.concatenate([middle - half, found.start]),
        np.concatenate([middle + half, found.stop]),
    )
    return corners, np.concatenate([np.arange(1, len(sides) + 1), owner])


def _corners(sample: LesionSample) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lower and upper corners of the true boxes, in voxels."""
    corners = sample.boxes.astype(np.float64) - 0.5
    return corners[:, :3], corners[:, 3:]


def _found(maps: Tensor, spacing: float, threshold: float = 0.1, most: int = 5) -> Boxes:
    return suppress(decode_boxes(maps.numpy(), (spacing,) * 3, threshold).take(slice(0, 50)), 0.3).take(
        slice(0, most)
    )


@torch.inference_mode()
def check_lesions(
    networks: LesionNetworks, data: HeadData, recipe: LesionRecipe, *, count: int, seed: int
) -> dict[str, float]:
    """Quick figures on heads that are not learned from.

    Returns:
        `found`: share of lesions with a box of IoU 0.1 and score 0.3; `false_per_head`: boxes of that
        score without; `dice_inside`: of the map of lesions; `dice_masks`: mean of the masks in the right
        boxes.
    """
    networks.eval()
    hits = false = targets = 0
    inside, masks = [], []
    held_out = replace(recipe, seed=1_000_003 + seed, easy_fraction=0.0)
    spacing = recipe.lesions.head.spacing_mm
    for step in range(count):
        sample, _ = draw(data.validation, data.labels, held_out, step)
        maps = detect(networks, sample.image)
        found = _found(maps, spacing, threshold=0.3, most=20)
        start, stop = _corners(sample)
        right = box_overlaps(found.start, found.stop, start, stop) >= 0.1
        hits += int(right.any(axis=0).sum())
        false += int((~right.any(axis=1)).sum())
        targets += len(start)
        if len(start):
            inside.append(_dice(maps[INSIDE] > 0, sample.objects > 0))
        which = np.flatnonzero(right.any(axis=1))
        if len(which):
            owners = right[which].argmax(axis=1) + 1
            where = (found.start[which], found.stop[which], (spacing,) * 3)
            logits = networks.masks(crop_inputs(sample.image, maps[INSIDE], *where))[:, 0]
            truth = crop_truth(sample.objects, owners, *where)
            masks += [_dice(a > 0, b > 0.5) for a, b in zip(logits, truth, strict=True)]
    return {
        "found": hits / max(targets, 1),
        "false_per_head": false / count,
        "dice_inside": float(np.mean(inside)) if inside else float("nan"),
        "dice_masks": float(np.mean(masks)) if masks else float("nan"),
    }


def _dice(found: Tensor, truth: Tensor) -> float:
    return float(2 * (found & truth).sum() / max(int(found.sum() + truth.sum()), 1))
