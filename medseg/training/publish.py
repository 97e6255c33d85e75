"""From trained weights to the bundle `brain-mri`: what a user, MONAI Label or Slicer can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from medseg.models.atlas import Atlas, write_atlas
from medseg.training.brain_labels import BRAIN_STRUCTURES
from medseg.training.bundle_files import (
    bundle_metadata,
    inference_config,
    percentiles,
    postprocessing,
    preprocessing,
    unet,
    write_bundle,
)
from medseg.training.recipe import TrainingRecipe

BRAIN_BUNDLE_VERSION = "0.2.0"

_TISSUE_COLOURS = {
    2: (245, 245, 245), 3: (205, 62, 78), 4: (120, 18, 134), 5: (196, 58, 250), 7: (220, 248, 164),
    8: (230, 148, 34), 10: (0, 118, 14), 11: (122, 186, 220), 12: (236, 13, 176), 13: (12, 48, 255),
    14: (204, 182, 142), 15: (42, 204, 164), 16: (119, 159, 176), 17: (220, 216, 20),
    18: (103, 255, 255), 24: (60, 60, 60), 26: (255, 165, 0), 28: (165, 42, 42),
}  # fmt: skip
"""Colours that FreeSurfer's users know, by left-sided id."""


ATLAS_FILE = "models/atlas.npz"


def write_brain_bundle(
    network: nn.Module, atlas: Atlas, recipes: Sequence[TrainingRecipe], folder: Path
) -> None:
    """Write the `brain-mri` bundle.

    Args:
        network: with the weights to publish.
        atlas: to publish beside them.
        recipes: the stages that it was trained by; kept beside the weights. The last one
            describes the network.
        folder: bundle to make; files of the same name are replaced. `LICENSE` and the model
            card `docs/README.md` are written by hand and left alone.
    """
    recipe = recipes[-1]
    inference = inference_config(
        unet(len(BRAIN_STRUCTURES) + 1, recipe.channels, recipe.strides),
        recipe.synthesis.shape,
        preprocessing([recipe.synthesis.spacing_mm] * 3, percentiles(0.5, 99.5), "RAS"),
        postprocessing({"softmax": True}, {"argmax": True}),
    )
    stages = {"stages": [asdict(stage) for stage in recipes]}
    write_bundle(folder, network, _metadata(), inference, stages)
    write_atlas(atlas, folder / ATLAS_FILE)


def _metadata() -> dict[str, Any]:
    colours = {**_TISSUE_COLOURS}
    lefts = {name: label for label, name in BRAIN_STRUCTURES}
    for label, name in BRAIN_STRUCTURES:
        if name.startswith("right "):
            colours[label] = _TISSUE_COLOURS[lefts[name.replace("right", "left", 1)]]
    channels = {"0": "background"} | {str(c): name for c, (_, name) in enumerate(BRAIN_STRUCTURES, start=1)}
    return bundle_metadata(
        {
            "name": "brain-mri",
            "version": BRAIN_BUNDLE_VERSION,
            "changelog": {
                "0.1.0": "first version, 2 mm",
                BRAIN_BUNDLE_VERSION: "4,000 steps more; an atlas that brings borders to the scan's own grid",
            },
            "task": "Segmentation of brain structures in head MRI of any contrast",
            "description": "32 labels of the brain and its fluid: a network at 2 mm and an atlas that is "
            "fitted to the scan, both learned from label maps alone",
            "references": [
                "Billot et al., SynthSeg: segmentation of any contrast, Medical Image Analysis 86, 2023",
                "Puonti et al., Fast and sequence-adaptive whole-brain segmentation, NeuroImage 143, 2016",
            ],
        },
        modality="MR",
        images=("head MRI of any contrast",),
        shape=["8*n"] * 3,
        channels=channels,
        own={
            "atlas": ATLAS_FILE,
            "label_ids": {str(c): label for c, (label, _) in enumerate(BRAIN_STRUCTURES, start=1)},
            "colours": {str(label): list(colours[label]) for label, _ in BRAIN_STRUCTURES},
        },
    )
