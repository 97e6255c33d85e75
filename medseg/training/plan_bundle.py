"""A plan as the bundle that it will be: MONAI's configuration, and the card that medseg reads from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medseg.export.network import scripted_bytes, scripted_network
from medseg.files import whole_file
from medseg.models.bundle import lower_card
from medseg.models.bundle_config import BundleConfig
from medseg.models.card import Card, NetworkRecipe
from medseg.models.networks import build_network
from medseg.training.bundle_files import (
    bundle_metadata,
    ensemble_config,
    inference_config,
    postprocessing,
    preprocessing,
    write_bundle,
    write_weights,
)
from medseg.training.fingerprint import Fingerprint
from medseg.training.nuclei_publish import LEAST_DEPTH, separation
from medseg.training.plan import Plan

Config = dict[str, Any]
_ONLY_FOR_TRAINING = ("deep_supervision", "deep_supr_num")


@dataclass(frozen=True)
class BundleFiles:
    """Both files of a bundle.

    Attributes:
        metadata: `configs/metadata.json`.
        inference: `configs/inference.json`.
    """

    metadata: Config
    inference: Config

    @property
    def card(self) -> Card:
        """What medseg will read from these files."""
        definition = self.inference["network_def"]
        arguments = {name: value for name, value in definition.items() if not name.startswith("_")}
        network = NetworkRecipe(definition["_target_"], arguments, "models/model.pt")
        config = BundleConfig(self.inference, None)
        words = (str(self.metadata["name"]), str(self.metadata["license"]))
        return lower_card(self.metadata, config, network, words)


def bundle_files(plan: Plan, fingerprint: Fingerprint, about: Mapping[str, Any]) -> BundleFiles:
    """The configuration of a bundle.

    Args:
        plan: how it is learned.
        fingerprint: of the dataset; names classes, channels and modality.
        about: name, version, description, license, …
    """
    names = fingerprint.channel_names or tuple(f"image {n + 1}" for n in range(len(fingerprint.channels)))
    classes = {"0": "background"} | {str(n): one.name for n, one in enumerate(fingerprint.classes, start=1)}
    own: Config = {
        "label_ids": {str(n): one.id for n, one in enumerate(fingerprint.classes, start=1)},
        "colours": {str(one.id): list(one.colour) for one in fingerprint.classes if one.colour},
        "codes": {str(one.id): asdict(one.code) for one in fingerprint.classes if one.code},
    }
    after = postprocessing({"softmax": True}, {"argmax": True})
    if plan.has_objects:
        classes = {"0": "depth in the object", "1": "object"}
        own = {"label_ids": {"0": 0, "1": 1}, "separation": separation(plan.diameter_mm, LEAST_DEPTH)}
        after = postprocessing({"sigmoid": True}, {"threshold": 0.5})
    inference = inference_config(
        {k: v for k, v in plan.network.items() if k not in _ONLY_FOR_TRAINING},
        plan.patch,
        preprocessing(plan.spacing_mm, plan.intensity, plan.orientation),
        after,
        padding="replicate" if plan.has_objects else None,
        overlap=plan.overlap_fraction,
    )
    metadata = bundle_metadata(
        about,
        modality=fingerprint.modality or "not stated",
        images=names,
        shape=plan.patch,
        channels=classes,
        own=own,
    )
    return BundleFiles(metadata, inference)


def training_network(plan: Plan) -> nn.Module:
    """The network of a plan with random weights; it answers at every depth while it trains, if it can.

    Raises:
        ModelError: `UNKNOWN_NETWORK`, `BAD_NETWORK`, `PACKAGE_MISSING`.
    """
    arguments = {name: value for name, value in plan.network.items() if not name.startswith("_")}
    return build_network(plan.network["_target_"], arguments)[0]


def published_network(plan: Plan, trained: nn.Module) -> nn.Module:
    """The network as the bundle describes it: without the answers that only training needs.

    Args:
        plan: of the network.
        trained: of `training_network`.
    """
    arguments = {
        name: value
        for name, value in plan.network.items()
        if not name.startswith("_") and name not in _ONLY_FOR_TRAINING
    }
    network = build_network(plan.network["_target_"], arguments)[0]
    weights = trained.state_dict()
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network.eval()


def write_planned_bundle(
    folder: Path, networks: Sequence[nn.Module], plan: Plan, files: BundleFiles, history: Mapping[str, Any]
) -> None:
    """Write the bundle of a training.

    Args:
        folder: to make.
        networks: of `published_network`; several answer together.
        plan: how they were made; kept beside the weights.
        files: of `bundle_files`.
        history: what else to keep.
    """
    members = [f"models/fold_{n}.pt" for n in range(1, len(networks))]
    metadata, inference = files.metadata, files.inference
    if members:
        metadata = metadata | {"medseg": metadata["medseg"] | {"members": members}}
        inference = ensemble_config(inference, members)
    write_bundle(folder, networks[0], metadata, inference, {"plan": asdict(plan), **history})
    for file, network in zip(members, networks[1:], strict=True):
        write_weights(network, folder / file)


def write_torchscript(path: Path, networks: Sequence[nn.Module], plan: Plan, files: BundleFiles) -> None:
    """Write the networks as one TorchScript file with both files of the bundle in it, as MONAI does.

    Args:
        path: file to make.
        networks: whose answers are averaged.
        plan: of the networks.
        files: of `bundle_files`.

    Raises:
        WriteError: `DISK_FULL`, `NOT_WRITABLE`.
    """
    shape = (1, plan.network["in_channels"], *plan.patch)
    extra = {"metadata.json": files.metadata, "inference.json": files.inference}
    contents = {name: json.dumps(content).encode() for name, content in extra.items()}
    with whole_file(path) as stream:
        stream.write(scripted_bytes(scripted_network(networks, shape), contents))
