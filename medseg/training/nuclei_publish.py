"""From trained weights to the bundle `nuclei`, or to a bundle that was fine-tuned from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from medseg.training.bundle_files import (
    bundle_metadata,
    inference_config,
    percentiles,
    postprocessing,
    preprocessing,
    unet,
    write_bundle,
)
from medseg.training.instance_target import CHANNELS
from medseg.training.nuclei_recipe import PERCENTILES, NucleiRecipe

NUCLEI_BUNDLE_VERSION = "0.1.0"
WINDOW = (64, 64, 64)
DIAMETER_VOXELS = 12.0
LEAST_DEPTH = 0.4
"""Of models that saw the user's own images: doubtful objects count more than in others."""

USUAL_DIAMETER_MM = 0.009
"""For programs that know no other spacing than the bundle's own: a nucleus of 9 um."""


def write_nuclei_bundle(network: nn.Module, recipe: NucleiRecipe, folder: Path) -> None:
    """Write the `nuclei` bundle.

    Args:
        network: with the weights to publish.
        recipe: how they were trained.
        folder: bundle to make.
    """
    about = {
        "name": "nuclei",
        "version": NUCLEI_BUNDLE_VERSION,
        "changelog": {NUCLEI_BUNDLE_VERSION: "first version"},
        "task": "Instance segmentation of nuclei in 3D fluorescence microscopy",
        "description": "Nuclei of any size, touching ones told apart, learned from synthetic images alone",
    }
    write_object_bundle(network, recipe, folder, about, {}, asdict(recipe))


def separation(diameter_mm: float = 0.0, least_depth: float = 0.5) -> dict[str, Any]:
    """How depth becomes objects, as the `medseg` block of the metadata says it; see `LearnedDistance`."""
    return {
        "height": "learned-distance",
        "diameter_voxels": DIAMETER_VOXELS,
        "diameter_mm": diameter_mm,
        "persistence": 0.1,
        "least_depth": least_depth,
    }


def write_object_bundle(
    network: nn.Module,
    recipe: NucleiRecipe,
    folder: Path,
    about: Mapping[str, Any],
    sizes: Mapping[str, float],
    history: Mapping[str, Any],
) -> None:
    """Write a bundle whose network answers depth and foreground.

    Args:
        network: of the recipe, with weights.
        recipe: describes the network.
        folder: bundle to make.
        about: name, version, changelog, task, description.
        sizes: fields of `LearnedDistance` that differ from its defaults.
        history: how the weights came to be.
    """
    spacing = (sizes.get("diameter_mm") or USUAL_DIAMETER_MM) / DIAMETER_VOXELS
    inference = inference_config(
        unet(len(CHANNELS), recipe.channels, recipe.strides),
        WINDOW,
        preprocessing([spacing] * 3, percentiles(*PERCENTILES), None),
        postprocessing({"sigmoid": True}, {"threshold": 0.5}),
        padding="replicate",  # zeros would look like the end of a nucleus
    )
    metadata = bundle_metadata(
        {"references": ["Schmidt et al., Cell detection with star-convex polygons, MICCAI 2018"], **about},
        modality="fluorescence microscopy",
        images=("stained nuclei, bright on dark",),
        shape=["8*n"] * 3,
        channels={"0": "depth in the nucleus", "1": "nucleus"},
        own={
            "label_ids": {"0": 0, "1": 1},
            "separation": separation(**sizes),
        },
    )
    write_bundle(folder, network, metadata, inference, dict(history))
