"""Arguments of networks for a plan: levels, widths, patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from medseg.errors import SettingsError
from medseg.models.networks import network_target
from medseg.training.settings import NETWORK_NAMES

Shape = tuple[int, int, int]
Levels = tuple[Sequence[Shape], Sequence[Shape], Sequence[int]]
"""Strides, kernels and features of every level; the first stride is 1."""


def _dyn_unet(levels: Levels) -> dict[str, Any]:
    strides, kernels, features = levels
    return {
        "kernel_size": [list(kernel) for kernel in kernels],
        "strides": [list(stride) for stride in strides],
        "upsample_kernel_size": [list(stride) for stride in strides[1:]],
        "filters": list(features),
        "norm_name": ["INSTANCE", {"affine": True}],
        "deep_supervision": True,
        "deep_supr_num": min(2, len(strides) - 2),
    }


def _unet(levels: Levels) -> dict[str, Any]:
    """One convolution a level; the bottom has as many features as the level above it."""
    strides, _, features = levels
    return {
        "channels": [*features, features[-1]],
        "strides": [list(stride) if len(set(stride)) > 1 else stride[0] for stride in strides],
        "num_res_units": 0,
        "norm": "instance",
    }


def _seg_resnet(levels: Levels) -> dict[str, Any]:
    depth = min(4, len(levels[0]))
    return {
        "init_filters": levels[2][0] // 2,
        "blocks_down": [1, 2, 2, 4][:depth],
        "blocks_up": [1] * (depth - 1),
    }


def _swin_unetr(levels: Levels) -> dict[str, Any]:
    return {"feature_size": 24 if levels[2][0] >= 32 else 12}


def _mednext(levels: Levels) -> dict[str, Any]:
    return {"init_filters": levels[2][0]}


def _segformer3d(levels: Levels) -> dict[str, Any]:
    """As published (Perera et al. 2024), of half its width where the first level is narrow."""
    if levels[2][0] >= 32:
        return {}
    return {"features": [16, 32, 80, 128], "decoder_features": 128}


NETWORKS: dict[str, Callable[[Levels], dict[str, Any]]] = dict(
    zip(NETWORK_NAMES, (_dyn_unet, _unet, _seg_resnet, _swin_unetr, _mednext, _segformer3d), strict=True)
)
"""What a plan may ask for; `DynUNet` is nnU-Net's own."""


def network_arguments(name: str, channels: tuple[int, int], levels: Levels) -> dict[str, Any]:
    """A network as a bundle writes it: its class and arguments.

    Args:
        name: one of `NETWORKS`.
        channels: images in, scores out.
        levels: of a U-Net.

    Raises:
        SettingsError: `BAD_SETTING`, no such network.
    """
    if name not in NETWORKS:
        raise SettingsError("BAD_SETTING", f"expected one of {', '.join(NETWORKS)}, got {name!r}; choose one")
    target = network_target(name)
    own = {"in_channels": channels[0], "out_channels": channels[1]}
    dimensions = {"spatial_dims": 3} if target.startswith("monai.") else {}
    return {"_target_": target} | dimensions | own | NETWORKS[name](levels)
