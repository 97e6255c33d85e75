"""What a plan learns: patches of prepared cases, drawn by the step alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medseg.errors import ReadError
from medseg.models.card import Card
from medseg.models.loading import Model
from medseg.progress import Progress
from medseg.training.augment import Augmentation, changed_intensities, cut, random_matrix, resampled
from medseg.training.dataset import Case
from medseg.training.dataset_check import CheckedDataset
from medseg.training.plan import Plan
from medseg.training.plan_bundle import published_network, training_network
from medseg.training.plan_loss import planned_loss
from medseg.training.prepared import Sample, load_sample
from medseg.training.scoring import Scored, Watch, class_means, score_cases
from medseg.training.start import Start

CHECK_OVERLAP = 0.25
"""Of windows while training; half of it less than the model's own saves most of the time."""

Patch = tuple[Tensor, Tensor, Tensor]
"""Image `(channels, i, j, k)`, target `(i, j, k)`, depth `(i, j, k)` or a single 0."""

Array = npt.NDArray[Any]


class PlanTask:
    """One fold of a plan; see `medseg.training.optimise.Task`.

    Args:
        plan: how.
        card: of the model to be.
        dataset: its cases are held out or learned from.
        split: a prepared folder for each case that is learned from, and the cases that are held out.
        seed: of this fold.
        device: where the network lives.
        watch: who listens.
    """

    def __init__(
        self,
        plan: Plan,
        card: Card,
        dataset: CheckedDataset,
        split: tuple[Sequence[Path], Sequence[Case]],
        seed: int,
        device: str = "cpu",
        watch: Watch | None = None,
    ) -> None:
        self.plan, self.card, self.dataset = plan, card, dataset
        self.prepared, self.held_out = [*split[0]], split[1]
        self.seed, self.device, self.watch = seed, device, watch or Watch()
        self.how = Augmentation(plan.spacing_mm, plan.mirror_axes)
        self.start: Start | None = None
        """What the network begins with; chance where None."""

    def build(self) -> nn.Module:
        """The network of the plan."""
        network = training_network(self.plan)
        if self.start is not None:
            self.start.into(network, self.plan.network["out_channels"])
        network = network.to(self.device)
        # torch's stubs lack this overload of `to`, which halves the time of a step on a CPU.
        return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]

    def loss(self, network: nn.Module, step: int) -> Tensor:
        """Loss on the patches of a step, which the step alone decides."""
        if self.watch.cancel is not None:
            self.watch.cancel.check()
        self.watch.progress(Progress("train", step, self.plan.steps))
        chance = np.random.default_rng([self.seed, step])
        drawn = [self._draw(chance) for _ in range(self.plan.batch)]
        image = torch.stack([one[0] for one in drawn]).to(memory_format=torch.channels_last_3d)
        target = torch.stack([one[1] for one in drawn])
        depth = torch.stack([one[2] for one in drawn]) if self.plan.has_objects else None
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.plan.bfloat16):
            output = network(image)
        return planned_loss(self.plan.loss, output, target, depth)

    def check(self, network: nn.Module) -> dict[str, float]:
        """Mean score of the held-out cases, and that of each class where they are few."""
        found = self.scores(network, CHECK_OVERLAP, self.plan.check_cases)
        if found and not any(one.prediction.array.any() for one in found):
            self.watch.tell("[NOTHING_FOUND] the network does not find any class in the held-out cases yet")
        means = class_means(found)
        if not means:
            return {}
        return {"score": float(np.mean(list(means.values())))} | {f"score {n}": x for n, x in means.items()}

    def scores(self, network: nn.Module, overlap: float | None = None, most: int = 0) -> list[Scored]:
        """Every held-out case through the engine, as the published model will do it.

        Args:
            network: of `build`.
            overlap: of windows; that of the card if left out.
            most: cases to look at; 0 for all.
        """
        model = Model(self.card, published_network(self.plan, network).to(self.device), self.device)
        cases = self.held_out[: most or None]
        return score_cases(model, self.dataset, cases, overlap, self.watch)

    def _draw(self, chance: np.random.Generator) -> Patch:
        """One patch: image, target, depth; a case that can no longer be read is set aside."""
        while True:
            place = self.prepared[int(chance.integers(len(self.prepared)))]
            try:
                return self._patch(load_sample(place), chance)
            except ReadError as error:
                self.prepared.remove(place)
                name = self.dataset.cases[int(place.name)].name
                self.watch.tell(f"[{error.code}] {name} could no longer be read and is set aside")
                if not self.prepared:
                    raise

    def _patch(self, sample: Sample, chance: np.random.Generator) -> Patch:
        plan, shape = self.plan, self.plan.patch
        matrix = random_matrix(self.how, chance)
        middle = _middle(sample, shape, chance, plan.foreground_share)
        part, place = cut(sample.image, middle, matrix, shape)
        if not np.isfinite(part).all():
            raise ReadError("CASE_LOST", "expected finite numbers in a prepared case, got others")
        image = resampled(self._tensor(part), place, matrix, shape, "bilinear")
        labels = self._flat(sample.target, middle, matrix, "nearest")
        depth = torch.zeros(())
        if sample.depth is not None:
            labels, depth = (labels > 0).long(), self._flat(sample.depth, middle, matrix, "bilinear")
        else:
            labels = labels.round().long()
        axes = [axis for axis in plan.mirror_axes if chance.random() < 0.5]
        image = changed_intensities(image, self.how, chance).flip([axis + 1 for axis in axes])
        return image, labels.flip(axes), depth.flip(axes) if depth.ndim else depth

    def _flat(self, array: Array, middle: Sequence[int], matrix: Array, mode: str) -> Tensor:
        part, place = cut(array[None], middle, matrix, self.plan.patch)
        return resampled(self._tensor(part), place, matrix, self.plan.patch, mode)[0]

    def _tensor(self, part: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)).to(self.device)


def _middle(
    sample: Sample, shape: Sequence[int], chance: np.random.Generator, foreground_share: float
) -> tuple[int, int, int]:
    """The voxel in the middle of a patch: of a class, or anywhere where the patch lies inside."""
    low = [min(n // 2, size // 2) for n, size in zip(shape, sample.target.shape, strict=True)]
    high = [max(a, size - n + a) for a, n, size in zip(low, shape, sample.target.shape, strict=True)]
    anywhere = chance.integers(low, np.array(high) + 1)
    which, where = chance.integers(2**31, size=2)
    if chance.random() < foreground_share and sample.places:
        voxels = sample.places[int(which) % len(sample.places)]
        anywhere = voxels[int(where) % len(voxels)]
    return int(anywhere[0]), int(anywhere[1]), int(anywhere[2])
