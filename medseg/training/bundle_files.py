"""The files of a MONAI bundle, for every model that is trained here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from torch import nn

from medseg.files import write_json
from medseg.training.optimise import write_state

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
    write_weights(network, folder / "models" / "model.pt")
    for name, content in (("metadata", metadata), ("inference", inference), ("recipe", recipe)):
        write_json(folder / "configs" / f"{name}.json", content)


def write_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights, on the CPU and each in memory of its own."""
    write_state({key: value.cpu().contiguous() for key, value in network.state_dict().items()}, path)


def bundle_metadata(
    about: Mapping[str, Any],
    *,
    modality: str,
    images: Sequence[str],
    shape: Sequence[int | str],
    channels: Mapping[str, str],
    own: Mapping[str, Any],
) -> Config:
    """`configs/metadata.json`.

    Args:
        about: name, version, changelog, task, description, references; authors, copyright and license
            where they are not those of the bundled models.
        modality: of the images.
        images: what each input channel shows.
        shape: that the network takes along each axis, such as `"8*n"` or 48.
        channels: name of every output channel.
        own: the block that medseg reads and MONAI ignores.
    """
    seen = {
        "type": "image",
        "format": "magnitude",
        "modality": modality,
        "num_channels": len(images),
        "spatial_shape": list(shape),
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": True,
        "channel_def": {str(n): name for n, name in enumerate(images)},
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
        "authors": "The medseg developers",
        "copyright": "Copyright (c) The medseg developers",
        "license": "Apache-2.0",
        **about,
        "network_data_format": {"inputs": {"image": seen}, "outputs": {"pred": scores}},
        "medseg": dict(own),
    }


def percentiles(lower: float, upper: float) -> Config:
    """The transform that makes 0 and 1 of two percentiles of an image, and clips what lies beyond."""
    return {
        "_target_": "ScaleIntensityRangePercentilesd",
        "lower": lower,
        "upper": upper,
        "b_min": 0.0,
        "b_max": 1.0,
        "clip": True,
    }


def preprocessing(spacing_mm: Sequence[float], scaling: Config, orientation: str | None) -> list[Config]:
    """From a file to the network.

    Args:
        spacing_mm: of the network's grid.
        scaling: transform of intensities, without its keys.
        orientation: axis codes of the network's grid; None keeps the file's.
    """
    turned = (
        [] if orientation is None else [{"_target_": "Orientationd", "keys": "image", "axcodes": orientation}]
    )
    return [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        *turned,
        {"_target_": "Spacingd", "keys": "image", "pixdim": list(spacing_mm), "mode": "bilinear"},
        {"_target_": scaling["_target_"], "keys": "image", **scaling},
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
    overlap: float = 0.5,
) -> Config:
    """`configs/inference.json`.

    Args:
        network: `_target_` and arguments.
        window: voxels of a window.
        before: steps of `preprocessing`.
        after: steps of `postprocessing`.
        padding: how an image smaller than a window is filled up; None keeps MONAI's, zeros.
        overlap: part of a window that the next one shares.
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
            "overlap": overlap,
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


def ensemble_config(inference: Config, member_files: Sequence[str]) -> Config:
    """The configuration with further networks of the same kind, whose answers are averaged.

    Args:
        inference: of `inference_config`.
        member_files: weights of the others, such as `"models/fold_1.pt"`.
    """
    names = ["network", *(f"network_{n}" for n in range(1, len(member_files) + 1))]
    keys = [f"pred_{n}" for n in range(len(names))]
    config = dict(inference)
    loaders = list(config["handlers"])
    for name, file in zip(names[1:], member_files, strict=True):
        config[f"{name}_def"] = config["network_def"]
        config[name] = f"$@{name}_def.to(@device)"
        own = {"load_path": f"$@bundle_root + '/{file}'", "load_dict": {"model": f"@{name}"}}
        loaders.append(loaders[0] | own)
    mean = {"_target_": "MeanEnsembled", "keys": keys, "output_key": "pred"}
    after = config["postprocessing"]["transforms"]
    evaluator = {k: v for k, v in config["evaluator"].items() if k != "network"}
    return config | {
        "handlers": loaders,
        "postprocessing": config["postprocessing"] | {"transforms": [mean, *after]},
        "evaluator": evaluator
        | {
            "_target_": "EnsembleEvaluator",
            "networks": [f"@{name}" for name in names],
            "pred_keys": keys,
        },
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
