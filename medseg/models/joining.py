"""Loaded models joined into one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from medseg.errors import ModelError
from medseg.labels import LabelSet
from medseg.models.loading import Model
from medseg.models.parts import join_cards


def join_models(models: Sequence[Model], *, name: str = "joined", labels: LabelSet | None = None) -> Model:
    """One model made of parts with classes of their own on one grid; see `medseg.models.parts`.

    Args:
        models: two or more, on one device. Intensity steps may differ if they are fixed ranges.
        name: of the joined card.
        labels: ids, colours and codes of the classes, by name. Where it is not given, the parts' own ids
            stay if no two are equal, else classes are numbered in the order of the parts.

    Returns:
        A model that is used like any other.

    Raises:
        ModelError: `PARTS_DIFFER`, parts of several grids, recipes or devices; `PARTS_OVERLAP`, a class of
            two parts; `LABELS_MISMATCH`, a class that `labels` does not name.
    """
    joint = join_cards([model.card for model in models], name=name, labels=labels)
    devices = {model.device for model in models}
    if len(devices) > 1:
        raise ModelError("PARTS_DIFFER", f"expected parts on one device, got {sorted(devices)}; load them so")
    network = joint.network([(model.network, *model.members) for model in models])
    hashes = " ".join(model.weights_sha256 for model in models)
    return Model(joint.card, network, devices.pop(), hashlib.sha256(hashes.encode()).hexdigest())
