"""Fine-tune a model of objects, such as `nuclei`, on images that a user annotated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medseg.errors import ModelError, VolumeError
from medseg.models.card import Card
from medseg.models.loading import Model
from medseg.objects import with_diameter
from medseg.progress import CancelToken, Progress, ProgressCallback, silent
from medseg.result import hash_volume
from medseg.training.annotated import Pair, on_grid, typical_diameter_mm
from medseg.training.nuclei import (
    build_network,
    synthetic_sample,
    window_loss,
    window_of,
)
from medseg.training.nuclei_publish import LEAST_DEPTH, write_object_bundle
from medseg.training.nuclei_recipe import NucleiRecipe
from medseg.training.optimise import optimise, read_log, write_logs
from medseg.training.settings import FineTuneSettings
from medseg.training.workplace import threads, workplace

STAGE = "train"
"""Name of the stage in progress reports; a unit is a step of the optimiser."""

ZOOMS = (0.87, 1.0, 1.15)
"""Sizes at which annotated objects are shown, since those of other images differ a little."""


@dataclass(frozen=True)
class FineTuned:
    """What came out.

    Attributes:
        folder: the bundle.
        images: how many were learned from.
        objects: how many they hold together.
        diameter_mm: of a typical one; the model expects it from now on.
    """

    folder: Path
    images: int
    objects: int
    diameter_mm: float


class _AnnotatedTask:
    """Foreground and distance from annotated images, and some synthetic ones."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        recipe: NucleiRecipe,
        settings: FineTuneSettings,
        sizes: Sequence[Card],
        watchers: tuple[ProgressCallback, CancelToken | None],
    ) -> None:
        self.recipe, self.settings, self._watchers = recipe, settings, watchers
        self._shown = [[on_grid(pair, card, recipe.window) for card in sizes] for pair in pairs]

    def build(self) -> nn.Module:
        """The network of the recipe."""
        return build_network(self.recipe)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        """Loss on windows of annotated images, and of synthetic ones."""
        progress, cancel = self._watchers
        if cancel is not None:
            cancel.check()
        progress(Progress(STAGE, step, self.recipe.steps))
        rng = np.random.default_rng([self.recipe.seed, step])
        samples = []
        for number in range(self.recipe.batch):
            if number < self.settings.synthetic_windows:
                seed = (self.recipe.seed, step, number)
                samples.append(synthetic_sample(self.recipe.synthesis, seed, jitter=True))
            else:
                zooms = self._shown[int(rng.integers(len(self._shown)))]
                samples.append(zooms[int(rng.integers(len(zooms)))].sample(rng))
        return window_loss(network, [window_of(one, self.recipe.window, rng) for one in samples])

    @torch.inference_mode()
    def check(self, network: nn.Module) -> dict[str, float]:
        """Loss on windows of the annotated images that are always the same."""
        rng = np.random.default_rng(1)
        samples = [zooms[1].sample(None) for zooms in self._shown for _ in range(4)]
        losses = [float(window_loss(network, [window_of(one, self.recipe.window, rng)])) for one in samples]
        return {"training_loss": float(np.mean(losses))}


def fine_tune(
    model: Model,
    pairs: Sequence[Pair],
    folder: str | Path,
    settings: FineTuneSettings | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> FineTuned:
    """Go on training a model of objects on annotated images, and write it as a bundle.

    BatchNorm keeps its statistics: a few windows would give worse ones. Work in progress lies in
    `FOLDER.partial`; the same call goes on from the last checkpoint.

    Args:
        model: one whose card has a `separation`, such as `nuclei`.
        pairs: images with all their objects (`read_pairs`).
        folder: bundle to make.
        settings: how.
        progress: told before every step.
        cancel: looked at before every step.

    Returns:
        Where the bundle is, and what it was made of.

    Raises:
        ModelError: `NO_OBJECTS_LEARNED`, the model learned no objects.
        VolumeError: `NO_OBJECTS`, nothing is drawn in any image.
        WriteError: the folder exists already, or cannot be written.
        ReadError: `TRAINING_CHANGED`, what lies in progress was begun with other images or settings.
        CancelledError: a stop was asked for; what was done is kept.
    """
    settings, folder = settings or FineTuneSettings(), Path(folder)
    recipe = _recipe(model, settings)
    diameter = typical_diameter_mm(pairs)
    if not diameter:
        raise VolumeError(
            "NO_OBJECTS",
            "expected images whose objects are numbered from 1 on, got background alone; draw some objects",
        )
    objects = sum(len(np.unique(pair.labels.array[pair.labels.array > 0])) for pair in pairs)
    about = {
        "name": folder.name,
        "version": "1",
        "changelog": {"1": f"fine-tuned from {model.card.name} {model.card.version}"},
        "task": "Instance segmentation of objects in 3D microscopy",
        "description": f"{model.card.name} {model.card.version}, fine-tuned on {len(pairs)} image(s) with "
        f"{objects} objects of about {1000 * diameter:.3g} um",
    }
    history = {"from": model.card.name, "from_sha256": model.weights_sha256, **asdict(settings)}
    sizes = {"diameter_mm": diameter, "least_depth": LEAST_DEPTH}
    with workplace(folder, _words(model, pairs, settings)) as partial, threads(settings.threads):
        cards = [with_diameter(model, diameter / zoom).card for zoom in ZOOMS]
        task = _AnnotatedTask(pairs, recipe, settings, cards, (progress, cancel))
        network = optimise(task, recipe, partial / "run", _unheard, model.network)
        progress(Progress(STAGE, recipe.steps, recipe.steps))
        write_object_bundle(network, recipe, partial / "bundle", about, sizes, history)
        write_logs(read_log(partial / "run" / "log.csv"), partial / "bundle" / "docs")
    return FineTuned(folder, len(pairs), objects, diameter)


def _recipe(model: Model, settings: FineTuneSettings) -> NucleiRecipe:
    """The network of a model, and how it goes on.

    Raises:
        ModelError: it learned no objects.
    """
    arguments = model.card.network.arguments
    if model.card.separation is None or not {"channels", "strides"} <= set(arguments):
        raise ModelError(
            "NO_OBJECTS_LEARNED",
            f"expected a model of objects such as nuclei, got {model.card.name}; start from another",
        )
    return NucleiRecipe(
        channels=tuple(arguments["channels"]),
        strides=tuple(arguments["strides"]),
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warm_up_steps=20,
        averaging=0.98,
        frozen_fraction=0.0,
        frozen_slowdown=1.0,
        check_every=50,
        seed=settings.seed,
    )


def _words(model: Model, pairs: Sequence[Pair], settings: FineTuneSettings) -> str:
    """Everything that decides what a training gives."""
    hashes = [hash_volume(volume) for pair in pairs for volume in (pair.image, pair.labels)]
    images = hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    return json.dumps({"model": model.weights_sha256, "images": images, "settings": asdict(settings)})


def _unheard(_line: str) -> None:
    """The log is on disk; progress says the rest."""
