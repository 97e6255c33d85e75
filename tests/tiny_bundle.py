"""A tiny MONAI bundle with random but fixed weights, for every test that needs a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TINY_NAMES = {1: "left blob", 2: "right blob", 3: "rest"}
TINY_IDS = {1: 10, 2: 49, 3: 24}
"""Channel to label id: they differ, as in the bundled brain model."""


def tiny_metadata() -> dict[str, Any]:
    """What `configs/metadata.json` of the tiny bundle holds."""
    image = {"type": "image", "modality": "MR", "num_channels": 1, "channel_def": {"0": "image"}}
    names = {"0": "background"} | {str(c): name for c, name in TINY_NAMES.items()}
    pred = {"type": "image", "format": "segmentation", "num_channels": 4, "channel_def": names}
    return {
        "version": "0.0.1",
        "monai_version": "1.5.0",
        "pytorch_version": "2.10.0",
        "numpy_version": "2.0.0",
        "required_packages_version": {},
        "name": "tiny",
        "task": "tests",
        "description": "random weights for tests",
        "authors": "The medseg developers",
        "copyright": "The medseg developers",
        "license": "Apache-2.0",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
        "medseg": {
            "label_ids": {str(c): i for c, i in TINY_IDS.items()},
            "colours": {"10": [0, 118, 14]},
            "codes": {"10": {"scheme": "SCT", "value": "85637007", "meaning": "Blob"}},
        },
    }


def tiny_inference(spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> dict[str, Any]:
    """What `configs/inference.json` of the tiny bundle holds."""
    scale = {"lower": 0.5, "upper": 99.5, "b_min": 0.0, "b_max": 1.0, "clip": True}
    return {
        "device": "$torch.device('cpu')",
        "network_def": {
            "_target_": "monai.networks.nets.UNet",
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 4,
            "channels": [4, 8],
            "strides": [2],
            "num_res_units": 0,
            "norm": "batch",
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "image", "pixdim": list(spacing_mm), "mode": "bilinear"},
                {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", **scale},
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [16, 16, 16],
            "sw_batch_size": 1,
            "overlap": 0.5,
            "mode": "gaussian",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
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
            ],
        },
        "run": ["$@evaluator.run()"],
    }


def write_tiny_bundle(
    folder: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    inference: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Write the bundle into `folder` (made if missing) and return it.

    Args:
        folder: bundle to make; its name is the model's in the user's folder.
        metadata: keys that replace those of `tiny_metadata`.
        inference: keys that replace those of `tiny_inference`; the network must be buildable.
        seed: of the weights.
    """
    import torch

    from medseg.models.networks import build_network

    recipe = tiny_inference() | dict(inference or {})
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(tiny_metadata() | dict(metadata or {})))
    (folder / "configs" / "inference.json").write_text(json.dumps(recipe))
    (folder / "LICENSE").write_text("Apache License 2.0\n")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        arguments = {k: v for k, v in recipe["network_def"].items() if not k.startswith("_")}
        network, _ = build_network(recipe["network_def"]["_target_"], arguments)
        for parameter in network.parameters():
            parameter.data.normal_(0.0, 0.5)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def write_pair_bundle(folder: Path) -> Path:
    """The tiny bundle for two images, `T1` and `FLAIR`, each scaled by its own percentiles."""
    metadata, inference = tiny_metadata(), tiny_inference()
    image = {"type": "image", "num_channels": 2, "channel_def": {"0": "T1", "1": "FLAIR"}, "modality": "MR"}
    formats = metadata["network_data_format"] | {"inputs": {"image": image}}
    inference["network_def"]["in_channels"] = 2
    for step in inference["preprocessing"]["transforms"]:
        if step["_target_"].startswith("ScaleIntensity"):
            step["channel_wise"] = True
    return write_tiny_bundle(folder, metadata={"network_data_format": formats}, inference=inference)
