"""From trained weights to a MONAI bundle: what a user, MONAI Label or Slicer can run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from torch import nn

from medseg.training.brain_labels import BRAIN_STRUCTURES
from medseg.training.recipe import TrainingRecipe

BRAIN_BUNDLE_VERSION = "0.1.0"

_TISSUE_COLOURS = {
    2: (245, 245, 245), 3: (205, 62, 78), 4: (120, 18, 134), 5: (196, 58, 250), 7: (220, 248, 164),
    8: (230, 148, 34), 10: (0, 118, 14), 11: (122, 186, 220), 12: (236, 13, 176), 13: (12, 48, 255),
    14: (204, 182, 142), 15: (42, 204, 164), 16: (119, 159, 176), 17: (220, 216, 20),
    18: (103, 255, 255), 24: (60, 60, 60), 26: (255, 165, 0), 28: (165, 42, 42),
}  # fmt: skip
"""Colours that FreeSurfer's users know, by left-sided id."""


def write_brain_bundle(network: nn.Module, recipes: Sequence[TrainingRecipe], folder: Path) -> None:
    """Write the `brain-mri` bundle.

    Args:
        network: with the weights to publish.
        recipes: the stages that it was trained by; kept beside the weights. The last one
            describes the network.
        folder: bundle to make; files of the same name are replaced. `LICENSE` and the model
            card `docs/README.md` are written by hand and left alone.
    """
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    torch.save(weights, folder / "models" / "model.pt")
    _write_json(folder / "configs" / "metadata.json", _metadata())
    _write_json(folder / "configs" / "inference.json", _inference(recipes[-1]))
    _write_json(folder / "configs" / "recipe.json", {"stages": [asdict(recipe) for recipe in recipes]})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _metadata() -> dict[str, Any]:
    colours = {**_TISSUE_COLOURS}
    lefts = {name: label for label, name in BRAIN_STRUCTURES}
    for label, name in BRAIN_STRUCTURES:
        if name.startswith("right "):
            colours[label] = _TISSUE_COLOURS[lefts[name.replace("right", "left", 1)]]
    channels = {"0": "background"} | {str(c): name for c, (_, name) in enumerate(BRAIN_STRUCTURES, start=1)}
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": 1,
        "spatial_shape": ["8*n", "8*n", "8*n"],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": True,
        "channel_def": {"0": "head MRI of any contrast"},
    }
    scores = image | {
        "format": "segmentation",
        "num_channels": len(channels),
        "value_range": [0, len(channels) - 1],
        "channel_def": channels,
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-assets/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": BRAIN_BUNDLE_VERSION,
        "changelog": {BRAIN_BUNDLE_VERSION: "first version, 2 mm"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": "5.3.0"},
        "name": "brain-mri",
        "task": "Segmentation of brain structures in head MRI of any contrast",
        "description": "32 labels of the brain and its fluid at 2 mm, learned from synthetic images alone",
        "authors": "The medseg developers",
        "copyright": "Copyright (c) The medseg developers",
        "license": "Apache-2.0",
        "references": [
            "Billot et al., SynthSeg: brain segmentation of any contrast, Medical Image Analysis 86, 2023"
        ],
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": scores}},
        "medseg": {
            "label_ids": {str(c): label for c, (label, _) in enumerate(BRAIN_STRUCTURES, start=1)},
            "colours": {str(label): list(colours[label]) for label, _ in BRAIN_STRUCTURES},
        },
    }


def _preprocessing(spacing: list[float]) -> list[dict[str, Any]]:
    """From a file to the network."""
    return [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": spacing, "mode": "bilinear"},
        {
            "_target_": "ScaleIntensityRangePercentilesd",
            "keys": "image",
            "lower": 0.5,
            "upper": 99.5,
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": True,
        },
        {"_target_": "EnsureTyped", "keys": "image"},
    ]


def _postprocessing() -> list[dict[str, Any]]:
    """From scores to labels on the scan's own grid."""
    return [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "resample": False},
    ]


def _inference(recipe: TrainingRecipe) -> dict[str, Any]:
    spacing = [recipe.synthesis.spacing_mm] * 3
    return {
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "dataset_dir": ".",
        "datalist": [],
        "output_dir": "$@bundle_root + '/eval'",
        "network_def": {
            "_target_": "monai.networks.nets.UNet",
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": len(BRAIN_STRUCTURES) + 1,
            "channels": list(recipe.channels),
            "strides": list(recipe.strides),
            "num_res_units": 0,
            "norm": "batch",
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(spacing)},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(recipe.synthesis.shape),
            "sw_batch_size": 1,
            "overlap": 0.5,
            "mode": "gaussian",
        },
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing()},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$@evaluator.run()"],
    }
