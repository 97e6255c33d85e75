"""A training that starts from a model: its network, its grid, its classes, and then new ones.

What the model knows and the new labels do not show is not forgotten: where a new label map says background,
the model's own answer stands in for the classes that only it knows (pseudo-labels, as in Douillard et al.,
PLOP, CVPR 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from medseg.errors import ModelError
from medseg.inference.predict import predict
from medseg.inference.settings import InferenceSettings
from medseg.models.bundle_config import find_recipe, read_json
from medseg.models.card import Card
from medseg.models.loading import Model, load_model
from medseg.models.networks import without_devices
from medseg.models.registry import find_model
from medseg.training.case_reading import CaseData
from medseg.training.dataset_check import CheckedDataset, described
from medseg.training.plan import FACTORS, Plan, Shape
from medseg.training.prepared import Complete
from medseg.training.transfer import Transfer, transfer_weights
from medseg.volume import LabelVolume

GENTLE_RATE = 1e-3
"""Highest learning rate: a third of that of a network that knows nothing."""

ROOMY = 2
"""Patches may be so many times larger than those of a new plan: the network learned from large ones."""

USUAL_FACTOR = 16
"""What sides of a patch stay multiples of, where the network is not in `plan.FACTORS`."""

_SCALINGS = ("ScaleIntensity", "NormalizeIntensity")


@dataclass(frozen=True, eq=False)
class Start:
    """Where a training starts.

    Attributes:
        folder: of the model.
        model: on the device of the training.
        network: its class and arguments, as its bundle writes them.
        scaling: its transform of intensities, without keys.
    """

    folder: Path
    model: Model
    network: Mapping[str, Any]
    scaling: Mapping[str, Any]

    @property
    def card(self) -> Card:
        """What the model says of itself."""
        return self.model.card

    @property
    def has_objects(self) -> bool:
        """Whether its answers are depth and foreground, or boxes, and not classes."""
        return self.card.separation is not None or self.card.detection is not None

    @property
    def words(self) -> str:
        """What tells this model from others."""
        return f"{self.card.sha256} {self.model.weights_sha256}"

    def continued(self, dataset: CheckedDataset) -> CheckedDataset:
        """A dataset whose classes are those of the model, in their order, and then its own new ones.

        A class of the same name is the same class. A new one keeps its id where the model has not taken it.
        Colours and codes are the model's, where it states any.
        Datasets of objects, and models of objects, have no classes in common.
        """
        if dataset.has_objects or self.has_objects:
            return dataset
        names = {i: self.card.labels.find(i).name for i in self.card.output_ids if i != 0}
        known = {name.casefold(): i for i, name in names.items()}
        file_ids = {}
        for file_id, name in dataset.class_names.items():
            same = known.get(name.casefold())
            free = file_id if file_id not in names else max(names) + 1
            file_ids[file_id] = free if same is None else same
            names.setdefault(file_ids[file_id], name)
        drawn = frozenset(file_ids[i] for i in dataset.class_names if i not in dataset.unlabelled)
        unlabelled = frozenset(names) - drawn
        looks = {**dataset.described, **described(self.card.labels)}
        return replace(dataset, class_names=names, file_ids=file_ids, unlabelled=unlabelled, described=looks)

    def planned(self, plan: Plan) -> Plan:
        """The plan of a dataset, with the model's network, and with its grid where both learn classes.

        Raises:
            ModelError: `CANNOT_CONTINUE`, the model takes other images.
        """
        require_images(self.card, plan.network["in_channels"])
        network = {**self.network, "out_channels": plan.network["out_channels"]}
        rate = min(plan.learning_rate, GENTLE_RATE)
        if plan.has_objects or self.has_objects:
            return replace(plan, network=network, learning_rate=rate)
        if self.card.spacing_mm is None or self.card.threshold is not None:
            raise ModelError(
                "CANNOT_CONTINUE",
                f"expected a model of one class per voxel on a spacing that it states, got {self.card.name}; "
                "train a new one",
            )
        return replace(
            plan,
            network=network,
            learning_rate=rate,
            orientation=self.card.orientation,
            spacing_mm=self.card.spacing_mm,
            intensity=dict(self.scaling),
            patch=halved(self.card.window.size, ROOMY * math.prod(plan.patch), self._divisor),
        )

    @property
    def _divisor(self) -> int:
        return FACTORS.get(self.card.network.target.rpartition(".")[2], USUAL_FACTOR)

    def into(self, network: nn.Module, answers: int) -> Transfer:
        """Give a network what the model knows; classes come on top of it, another head is new.

        Args:
            network: of the plan; written into.
            answers: its channels.
        """
        before = self.card.out_channels
        channels = None if self.has_objects or answers < before else (before, answers)
        return transfer_weights(self.model.network.state_dict(), network, channels)

    def completion(self, dataset: CheckedDataset) -> Complete | None:
        """What puts the model's own answer where a case's labels say background.

        Args:
            dataset: of `continued`.

        Returns:
            None where its labels show every class.
        """
        if not dataset.unlabelled:
            return None
        settings = InferenceSettings(device=self.model.device, backend="torch", sanity="off")

        def complete(truth: LabelVolume, data: CaseData) -> LabelVolume:
            found = predict(list(data.images), self.model, settings).array
            is_free = (truth.array == 0) & np.isin(found, list(dataset.unlabelled))
            return replace(truth, array=np.where(is_free, found, truth.array).astype(truth.array.dtype))

        return complete


def require_images(card: Card, images: int) -> None:
    """Return if a model takes as many images as each case has.

    Raises:
        ModelError: `CANNOT_CONTINUE`.
    """
    if images != card.in_channels:
        raise ModelError(
            "CANNOT_CONTINUE",
            f"expected {card.in_channels} image(s) of each case, as {card.name} takes, got {images}; start "
            "from another model",
        )


def read_start(name_or_path: str | Path, device: str) -> Start:
    """Load a model to start from.

    Args:
        name_or_path: a bundled or installed model, or the folder of one.
        device: of the training.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelError: `CANNOT_CONTINUE`, it is no MONAI bundle with one network of known class and one scaling
            of intensities; or it is damaged.
    """
    model = load_model(name_or_path, device=device)
    folder = find_model(name_or_path)
    recipe = read_json(find_recipe(folder / "configs")) if (folder / "configs").is_dir() else {}
    network = without_devices(recipe.get("network_def", {}))
    steps = recipe.get("preprocessing", {}).get("transforms", [])
    scalings = [step for step in steps if str(step.get("_target_", "")).startswith(_SCALINGS)]
    if "out_channels" not in network or len(scalings) != 1:
        raise ModelError(
            "CANNOT_CONTINUE",
            "expected a MONAI bundle with a network_def of given out_channels and one intensity scaling, "
            f"got {model.card.name}; train a new model, or start from one that medseg trained",
        )
    scaling = {key: value for key, value in scalings[0].items() if key != "keys"}
    return Start(folder, model, network, scaling)


def halved(sides: Sequence[int], most_voxels: int, divisor: int) -> Shape:
    """A window with its longest sides halved until it holds few enough voxels, as far as a network allows.

    Args:
        sides: voxels.
        most_voxels: of the result, if possible.
        divisor: of which every halved side stays a multiple.
    """
    result = list(sides)
    while math.prod(result) > most_voxels:
        able = [axis for axis in range(3) if result[axis] % (2 * divisor) == 0]
        if not able:
            break
        longest = max(able, key=lambda axis: result[axis])
        result[longest] //= 2
    return result[0], result[1], result[2]
