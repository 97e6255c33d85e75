"""Models made in memory: random networks, and one whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from medseg.labels import LabelSet
from medseg.models.card import Card, NetworkRecipe, SlidingWindow
from medseg.models.loading import Model

NAMES = {1: "one", 2: "two", 3: "three", 4: "four"}


def make_card(classes: int = 3, window: SlidingWindow | None = None, **changes: Any) -> Card:
    """A card of some classes beside background that keeps grid and intensities as they are."""
    card = Card(
        name="in memory",
        version="1",
        description="for tests",
        licence="Apache-2.0",
        modality="MR",
        labels=LabelSet.from_names({i: NAMES[i] for i in range(1, classes + 1)}),
        output_ids=tuple(range(classes + 1)),
        in_channels=1,
        orientation=None,
        spacing_mm=None,
        intensity=(),
        window=window or SlidingWindow((8, 8, 8), 0.5, "gaussian"),
        activation="softmax",
        home="scores-linear",
        network=NetworkRecipe("monai.networks.nets.UNet", {}, "models/model.pt"),
    )
    return replace(card, **changes)


def random_model(card: Card, seed: int = 0) -> Model:
    """Two random convolutions, so that an answer depends on where its window lies."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv3d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv3d(6, card.out_channels, 3, padding=1)
        )
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5)
    return Model(card, network.eval().requires_grad_(requires_grad=False))


class Threshold(nn.Module):
    """Class 1 where the intensity exceeds 0.5, by a wide and even margin."""

    def forward(self, image: Tensor) -> Tensor:
        """`(1, 1, i, j, k)` to `(1, 2, i, j, k)`."""
        return torch.cat((torch.zeros_like(image), 20 * (image - 0.5)), dim=1)


def threshold_model(**changes: Any) -> Model:
    """A model that labels what is brighter than 0.5."""
    return Model(make_card(1, **changes), Threshold().eval())
