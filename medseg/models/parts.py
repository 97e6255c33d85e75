"""Several models of one grid as one: TotalSegmentator's 117 structures, for example, are five networks.

Every window is read once and shown to each part. A part answers for its own classes and calls all else
background, so its odds of a class against its background are what it knows of that class. The score of a
class is the logarithm of these odds and that of background is 0. Were the parts independent witnesses,
this would be the exact joint probability up to a factor: P(class) times, for every other part,
P(background). Hence

- where one part alone claims a voxel, the label is that part's own;
- where several do, the surer one wins, whatever the order of the parts ("later part wins" is what others do);
- where none does, the label is background.

Odds are linear in the answers, so that they may be averaged over windows and folds before the decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medseg.errors import ModelError
from medseg.labels import Label, LabelSet
from medseg.models.card import Card, NetworkRecipe
from medseg.models.intensity_steps import FixedRange, IntensityStep

if TYPE_CHECKING:
    from torch import nn

    from medseg.models.joined_network import PartSteps

SHARED = (
    "in_channels", "channel_names", "orientation", "spacing_mm", "window", "home", "resampling", "crop",
    "foreground",
)  # fmt: skip
"""What all parts must agree in, since the scan is prepared once and answers go home together."""

_LATER = "intensity steps, which differ between the parts, are carried out after the resampling"

OUTSIDE = -1e30
"""Stands in padding for "no scan here" where each part scales intensities by itself."""


@dataclass(frozen=True, eq=False)
class Joint:
    """What parts are together.

    Attributes:
        card: of the joined model.
        channels: number of channels of each part, its background included.
        backgrounds: which of them is background.
        steps: intensity steps of each part, where they differ; else empty.
        padding: what padding is after the steps of the parts; None where the card's own steps make it.
    """

    card: Card
    channels: tuple[int, ...]
    backgrounds: tuple[int, ...]
    steps: tuple[PartSteps, ...]
    padding: float | None

    def network(self, parts: Sequence[Sequence[nn.Module]]) -> nn.Module:
        """One network of all parts.

        Args:
            parts: for each part its networks, whose answers are averaged.
        """
        from medseg.models.joined_network import JoinedNetwork

        return JoinedNetwork(parts, self.channels, self.backgrounds, self.steps, self.padding).eval()


def join_cards(cards: Sequence[Card], *, name: str = "joined", labels: LabelSet | None = None) -> Joint:
    """One card of the cards of parts.

    Args:
        cards: two or more. Intensity steps may differ if they are fixed ranges.
        name: of the joined card.
        labels: ids, colours and codes of the classes, by name. Where it is not given, the parts' own ids
            stay if no two are equal, else classes are numbered in the order of the parts.

    Raises:
        ModelError: `PARTS_DIFFER`, parts of several grids or recipes; `PARTS_OVERLAP`, a class of two
            parts; `LABELS_MISMATCH`, a class that `labels` does not name.
    """
    if len(cards) < 2:
        raise ModelError("PARTS_DIFFER", f"expected two or more parts, got {len(cards)}; name each")
    first = cards[0]
    for card in cards:
        _require_joinable(card, first)
    ids = _joined_ids(cards, labels)
    steps, inner = _joined_steps(cards)
    mirrors = {card.mirror_axes for card in cards}
    modalities = {card.modality for card in cards}
    told = (_LATER,) if inner and first.resampling.intensity_first else ()
    joined = replace(
        first,
        name=name,
        version=", ".join(dict.fromkeys(card.version for card in cards if card.version)),
        description="Parts: " + ", ".join(card.name for card in cards),
        licence="; ".join(dict.fromkeys(card.licence for card in cards if card.licence)),
        modality=first.modality if len(modalities) == 1 else "",
        labels=LabelSet(tuple(label for part in ids for label in part.values())),
        output_ids=(0, *(part[i].id for part, card in zip(ids, cards, strict=True) for i in _classes(card))),
        intensity=(),
        channel_intensity=steps,
        window=replace(first.window, padding_value=OUTSIDE) if inner else first.window,
        activation="softmax" if first.activation == "softmax" else "none",
        mirror_axes=first.mirror_axes if len(mirrors) == 1 else (),
        keep_largest=tuple(
            part[i].id for part, card in zip(ids, cards, strict=True) for i in card.keep_largest
        ),
        network=NetworkRecipe(
            "medseg.models.joined_network.JoinedNetwork", {"parts": [card.sha256 for card in cards]}, "parts"
        ),
        notes=tuple(dict.fromkeys((*told, *(note for card in cards for note in card.notes)))),
    )
    backgrounds = tuple(card.output_ids.index(0) for card in cards)
    channels = tuple(card.out_channels for card in cards)
    return Joint(joined, channels, backgrounds, inner, first.window.padding_value if inner else None)


def _classes(card: Card) -> list[int]:
    """Ids of a part's channels but background, in their order."""
    return [label_id for label_id in card.output_ids if label_id != 0]


def _require_joinable(card: Card, first: Card) -> None:
    kind = card.threshold is None and card.detection is None and card.separation is None
    if not kind or card.output_ids.count(0) != 1:
        raise ModelError(
            "PARTS_DIFFER",
            "expected parts of one background channel each, of which the highest score decides, "
            f"got {card.name} of another kind; run it by itself",
        )
    for name in SHARED:
        if getattr(card, name) != getattr(first, name):
            raise ModelError(
                "PARTS_DIFFER",
                f"expected parts of one {name}, got {getattr(first, name)} in {first.name} and "
                f"{getattr(card, name)} in {card.name}; run them one after the other",
            )


def _joined_ids(cards: Sequence[Card], labels: LabelSet | None) -> list[dict[int, Label]]:
    """For each part: its own label id -> the label in the joined model."""
    own = [label for card in cards for label in card.labels]
    names = [label.name.strip().lower() for label in own]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ModelError(
            "PARTS_OVERLAP",
            f"expected classes of one part each, got {', '.join(twice[:6])} in several; leave one part out",
        )
    if labels is not None:
        known = {label.name.strip().lower(): label for label in labels}
        unnamed = [name for name in names if name not in known]
        if unnamed:
            raise ModelError(
                "LABELS_MISMATCH",
                f"expected ids for all classes, got none for {', '.join(unnamed[:6])}; add them",
            )
        return [{label.id: known[label.name.strip().lower()] for label in card.labels} for card in cards]
    if len({label.id for label in own}) == len(own):
        return [{label.id: label for label in card.labels} for card in cards]
    numbers = iter(range(1, len(own) + 1))
    return [{label.id: replace(label, id=next(numbers)) for label in card.labels} for card in cards]


def _joined_steps(
    cards: Sequence[Card],
) -> tuple[tuple[tuple[IntensityStep, ...], ...], tuple[PartSteps, ...]]:
    """Steps of each input image that all parts share; or none, and those of each part and image."""
    steps = [tuple(card.steps(channel) for channel in range(card.in_channels)) for card in cards]
    if len(set(steps)) == 1:
        return steps[0], ()
    ranges = [
        tuple(tuple(step for step in image if isinstance(step, FixedRange)) for image in part)
        for part in steps
    ]
    padded = {(card.window.padding_mode, card.window.padding_value) for card in cards}
    if ranges != steps or {mode for mode, _ in padded} != {"constant"}:
        raise ModelError(
            "PARTS_DIFFER",
            "expected intensity steps that are the same in all parts, or fixed ranges, got others; "
            "run the parts one after the other",
        )
    return tuple(() for _ in steps[0]), tuple(ranges)
