"""Small models of the formats that are one file: TorchScript and Auto3DSeg's checkpoint."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny_bundle import tiny_inference, tiny_metadata


def tiny_network(arguments: Mapping[str, Any] | None = None, seed: int = 0) -> Any:
    """The network of the tiny bundle with fixed random weights."""
    import torch

    from medseg.models.networks import build_network

    if arguments is None:
        arguments = {k: v for k, v in tiny_inference()["network_def"].items() if not k.startswith("_")}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network, _ = build_network("UNet", arguments)
        for parameter in network.parameters():
            parameter.data.normal_(0.0, 0.5)
    return network.eval()


def write_scripted(file: Path, *, extra: Mapping[str, str] | None = None, card: Any = None) -> Path:
    """A TorchScript file, with a bundle's files in it unless told otherwise.

    Args:
        file: to write.
        extra: files of its folder `extra/`; those of the tiny bundle if not given.
        card: written beside it, if given.
    """
    import torch

    with warnings.catch_warnings():  # torch advises against TorchScript; models are published as such
        warnings.simplefilter("ignore", DeprecationWarning)
        example = torch.zeros(1, 1, 16, 16, 16)
        traced = torch.jit.trace(tiny_network(), example)  # type: ignore[no-untyped-call]  # torch.jit
    if extra is None:
        extra = {"metadata.json": json.dumps(tiny_metadata()), "inference.json": json.dumps(tiny_inference())}
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(traced, file, _extra_files=dict(extra))
    if card is not None:
        (file.parent / f"{file.stem}.card.json").write_text(json.dumps(card))
    return file


def auto3dseg_config(**changes: Any) -> dict[str, Any]:
    """The `config` of a small Auto3DSeg checkpoint."""
    network = {
        "_target_": "SegResNetDS", "init_filters": 8, "blocks_down": [1, 1], "norm": "INSTANCE",
        "in_channels": 1, "out_channels": 3, "dsdepth": 2,
    }  # fmt: skip
    return {
        "bundle_root": "/models/segresnet_0",
        "network": network,
        "class_names": ["liver", "spleen"],
        "sigmoid": False,
        "orientation_ras": True,
        "crop_foreground": True,
        "resample": True,
        "resample_resolution": [2.0, 2.0, 2.5],
        "normalize_mode": "ct",
        "intensity_bounds": [-200, 300],
        "roi_size": [24, 24, 24],
        "modality": "ct",
    } | changes


def write_auto3dseg(file: Path, **changes: Any) -> Path:
    """An Auto3DSeg checkpoint with random weights; `changes` replace fields of its config."""
    import numpy as np
    import torch

    from medseg.models.networks import build_network

    config = auto3dseg_config(**changes)
    arguments = {k: v for k, v in config["network"].items() if not k.startswith("_")}
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network, _ = build_network(config["network"]["_target_"], arguments)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0.0, 0.4)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "state_dict": network.state_dict(),
        "config": config,
        "epoch": 3,
        "best_metric": np.float64(0.9),
    }
    torch.save(content, file)
    return file
