"""The files of a MONAI bundle, for every model that is trained here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from torch import nn

Config = dict[str, Any]


def write_bundle(
    folder: Path, network: nn.Module, metadata: Config, inference: Config, recipe: Config
) -> None:
    """Write a bundle; files of the same name are replaced.

    `LICENSE` and the model card `docs/README.md` are written by hand and left alone.

    Args:
        folder: bundle to make.
        network: with the weights to publish.
        metadata: of `bundle_metadata`.
        inference: of `inference_config`.
        recipe: how the weights came to be; kept beside them.
    """
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    torch.save(weights, folder / "models" / "model.pt")
    for name, content in (("metadata", metadata), ("inference", inference), ("recipe", recipe)):
        text = json.dumps(content, indent=2) + "\n"
        (folder / "configs" / f"{name}.json").write_text(text, encoding="utf-8")


def bundle_metadata(
    about: Mapping[str, Any],
    *,
    modality: str,
    image: str,
    divisor: int,
    channels: Mapping[str, str],
    own: Mapping[str, Any],
) -> Config:
    """`configs/metadata.json`.

    Args:
        about: name, version, changelog, task, description, references, licence.
        modality: of the image.
        image: what the image shows.
        divisor: shapes that the network takes are multiples of it.
        channels: name of every output channel.
        own: the block that medseg reads and MONAI ignores.
    """
    seen = {
        "type": "image",
        "format": "magnitude",
        "modality": modality,
        "num_channels": 1,
        "spatial_shape": [f"{divisor}*n"] * 3,
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": True,
        "channel_def": {"0": image},
    }
    scores = seen | {
        "format": "segmentation",
        "num_channels": len(channels),
        "value_range": [0, len(channels) - 1],
        "channel_def": dict(channels),
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-assets/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": "5.3.0"},
        **about,
        "authors": "The medseg developers",
        "copyright": "Copyright (c) The medseg developers",
        "license": "Apache-2.0",
        "network_data_format": {"inputs": {"image": seen}, "outputs": {"pred": scores}},
        "medseg": dict(own),
    }


def preprocessing(
    spacing_mm: float, percentiles: tuple[float, float], orientation: str | None
) -> list[Config]:
    """From a file to the network.

    Args:
        spacing_mm: of the network's isotropic grid.
        percentiles: of the image that become 0 and 1; what lies beyond is clipped.
        orientation: axis codes of the network's grid; None keeps the file's.
    """
    turned = (
        [] if orientation is None else [{"_target_": "Orientationd", "keys": "image", "axcodes": orientation}]
    )
    return [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        *turned,
        {"_target_": "Spacingd", "keys": "image", "pixdim": [spacing_mm] * 3, "mode": "bilinear"},
        {
            "_target_": "ScaleIntensityRangePercentilesd",
            "keys": "image",
            "lower": percentiles[0],
            "upper": percentiles[1],
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": True,
        },
        {"_target_": "EnsureTyped", "keys": "image"},
    ]


def postprocessing(activation: Config, decision: Config) -> list[Config]:
    """From scores to labels on the scan's own grid.

    Args:
        activation: arguments of `Activationsd`.
        decision: arguments of `AsDiscreted`.
    """
    return [
        {"_target_": "Activationsd", "keys": "pred", **activation},
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", **decision},
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "resample": False},
    ]


def inference_config(
    network: Config,
    window: Sequence[int],
    before: Sequence[Config],
    after: Sequence[Config],
    padding: str | None = None,
) -> Config:
    """`configs/inference.json`.

    Args:
        network: `_target_` and arguments.
        window: voxels of a window.
        before: steps of `preprocessing`.
        after: steps of `postprocessing`.
        padding: how an image smaller than a window is filled up; None keeps MONAI's, zeros.
    """
    return {
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "dataset_dir": ".",
        "datalist": [],
        "output_dir": "$@bundle_root + '/eval'",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": list(before)},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(window),
            "sw_batch_size": 1,
            "overlap": 0.5,
            "mode": "gaussian",
            **({} if padding is None else {"padding_mode": padding}),
        },
        "postprocessing": {"_target_": "Compose", "transforms": list(after)},
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


def unet(out_channels: int, channels: Sequence[int], strides: Sequence[int]) -> Config:
    """MONAI's U-Net with BatchNorm and one image channel, as a configuration."""
    return {
        "_target_": "monai.networks.nets.UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": out_channels,
        "channels": list(channels),
        "strides": list(strides),
        "num_res_units": 0,
        "norm": "batch",
    }
