"""A model of several parts, one part after another: the sums of one part in memory instead of all.

Joined parts (`medseg.models.parts`) answer every window together, and the classes of all are summed: 118
numbers a voxel for TotalSegmentator. Where that takes more memory than there is, the parts take turns, and
the best score of a voxel so far is kept beside its label. The labels are the same: the best of the parts'
best is the best of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from medseg.labels import LabelSet
from medseg.progress import Progress

if TYPE_CHECKING:
    from medseg.inference.settings import InferenceSettings
    from medseg.inference.stream import Listener
    from medseg.models.joined_network import JoinedNetwork
    from medseg.models.loading import Model


def turns_of(model: Model, settings: InferenceSettings) -> tuple[Model, ...]:
    """A model as models that can take turns; the model alone where they cannot.

    They cannot where something looks at all classes together: an activation before the way home, the
    largest piece of a class, the entropy of all, the check of an int8 network.

    Args:
        model: of any kind.
        settings: of the run.
    """
    from medseg.models.joined_network import JoinedNetwork

    card = model.card
    looks_at_all = (
        (card.activation == "softmax" and card.home == "scores-linear")
        or card.threshold is not None
        or bool(card.keep_largest)
        or settings.uncertainty
        or settings.precision == "int8"
    )
    if looks_at_all or not isinstance(model.network, JoinedNetwork):
        return (model,)
    return tuple(_models(model, model.network.turns()))


def _models(model: Model, networks: Sequence[JoinedNetwork]) -> Iterator[Model]:
    """Each part with its own channels of the joined card."""
    first = 1
    for network in networks:
        ids = (0, *model.card.output_ids[first : first + network.classes])
        labels = LabelSet(tuple(label for label in model.card.labels if label.id in ids))
        yield replace(model, card=replace(model.card, output_ids=ids, labels=labels), network=network)
        first += network.classes


def listener_of_turn(listener: Listener, number: int, count: int) -> Listener:
    """Reports of one turn as part of all.

    Args:
        listener: to the whole run.
        number: of the turn, from 0.
        count: of turns.
    """

    def report(progress: Progress) -> None:
        done, total = number * progress.total + progress.done, count * progress.total
        listener.progress(replace(progress, done=done, total=total))

    return replace(listener, progress=report, note=listener.note if number == 0 else "")
