"""Small models as nnU-Net v2 writes them, with seeded weights; no nnunetv2 is needed to make them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg.models.nnunet_architecture import make_network, read_architecture
from medseg.models.nnunet_plans import Axes

FOLDER = "nnUNetTrainer__nnUNetPlans__3d_fullres"
HEAD_SCALE = 8.0
"""Random features differ little from voxel to voxel; a steep head makes labels vary."""


def architecture(
    kind: str = "PlainConvUNet",
    *,
    kernels: Sequence[Sequence[int]] = ((3, 3, 3), (3, 3, 3)),
    strides: Sequence[Sequence[int]] = ((1, 1, 1), (2, 2, 2)),
) -> dict[str, Any]:
    """The block `architecture` of new plans, small."""
    count = len(kernels)
    blocks = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}[kind]
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": count,
            "features_per_stage": [4 * 2**stage for stage in range(count)],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [list(kernel) for kernel in kernels],
            "strides": [list(stride) for stride in strides],
            blocks: [2] * count,
            "n_conv_per_stage_decoder": [1] * (count - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def old_architecture(kind: str = "PlainConvUNet") -> dict[str, Any]:
    """The same network in the words of plans before nnU-Net 2.4; keys of the configuration itself."""
    return {
        "UNet_class_name": kind,
        "UNet_base_num_features": 4,
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": [2, 2],
        "n_conv_per_stage_decoder": [1],
        "num_pool_per_axis": [1, 1, 1],
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
        "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    }


def configuration(
    spacing: Sequence[float] = (3.0, 2.0, 2.0),
    patch: Sequence[int] = (16, 24, 20),
    *,
    normalisation: Sequence[str] = ("CTNormalization",),
    masked: Sequence[bool] | None = None,
    network: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A configuration `3d_fullres`; spacing and patch are (z, y, x)."""
    image = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [40.0, 60.0, 60.0],
        "spacing": list(spacing),
        "normalization_schemes": list(normalisation),
        "use_mask_for_norm": [False] * len(normalisation) if masked is None else list(masked),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": image,
        "resampling_fn_seg_kwargs": {**image, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**image, "order": 1},
        "batch_dice": False,
        **({"architecture": architecture()} if network is None else network),
    }


def plans(config: Mapping[str, Any], *, transpose: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """`plans.json`; `3d_fullres` is told by way of a configuration that it inherits from."""
    channels = len(config["normalization_schemes"])
    seen = {"mean": 60.0, "std": 80.0, "median": 50.0, "min": -1000.0, "max": 1500.0}
    seen |= {"percentile_00_5": -200.0, "percentile_99_5": 300.0}
    return {
        "dataset_name": "Dataset900_Tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 2.0, 2.0],
        "original_median_shape_after_transp": [40, 60, 60],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": [int(i) for i in np.argsort(transpose)],
        "configurations": {
            "parent": dict(config),
            "3d_fullres": {"inherits_from": "parent"},
            "2d": {**config, "patch_size": [32, 32], "spacing": [2.0, 2.0]},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): seen for i in range(channels)},
    }


def dataset(
    labels: Mapping[str, Any] | None = None,
    channels: Sequence[str] = ("CT",),
    order: Sequence[int] | None = None,
) -> dict[str, Any]:
    """`dataset.json`."""
    names = {"background": 0, "liver": 1, "spleen": 2, "ignore": 3} if labels is None else dict(labels)
    told: dict[str, Any] = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": names,
        "numTraining": 3,
        "file_ending": ".nii.gz",
        "licence": "CC BY 4.0",
    }
    return told if order is None else {**told, "regions_class_order": list(order)}


def weights(config: Mapping[str, Any], channels: int, classes: int, seed: int) -> dict[str, torch.Tensor]:
    """A state dict with seeded numbers, its kernels along nnU-Net's own axes, with its second names."""
    target, arguments = read_architecture(config, Axes((0, 1, 2)))
    network = make_network(target, {"in_channels": channels, "classes": classes, **arguments})
    rng = np.random.default_rng(seed)
    table = {}
    for name, tensor in network.state_dict().items():
        table[name] = _numbers(name, tuple(tensor.shape), rng)
    for name in list(table):
        for number, second in (("0", "conv"), ("1", "norm")):
            table[name.replace(f"all_modules.{number}.", f"{second}.")] = table[name]
    inside = {f"decoder.{name}": value for name, value in table.items() if name.startswith("encoder.")}
    return {**table, **inside}


def _numbers(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> torch.Tensor:
    values = rng.standard_normal(shape)
    if len(shape) == 5:
        fan_in = int(np.prod(shape[1:]))
        values *= np.sqrt(2 / fan_in) * (HEAD_SCALE if "seg_layers" in name else 1.0)
    else:
        values = 1 + 0.1 * values if name.endswith("all_modules.1.weight") else 0.1 * values
    return torch.from_numpy(values.astype(np.float32))


def write_nnunet(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    told: Mapping[str, Any] | None = None,
    *,
    transpose: Sequence[int] = (0, 1, 2),
    folds: Sequence[int] = (0,),
    mirror: tuple[int, ...] | None = None,
) -> Path:
    """A folder as nnU-Net v2 leaves it after training.

    Args:
        folder: parent of the new folder; the dataset's.
        config: of `configuration`.
        told: of `dataset`.
        transpose: of `plans`.
        folds: seed of each is its number.
        mirror: `inference_allowed_mirroring_axes`.
    """
    config = configuration() if config is None else config
    told = dataset() if told is None else told
    place = folder / FOLDER
    place.mkdir(parents=True)
    written = plans(config, transpose=transpose)
    (place / "plans.json").write_text(json.dumps(written), encoding="utf-8")
    (place / "dataset.json").write_text(json.dumps(told), encoding="utf-8")
    classes = len(told.get("regions_class_order") or [n for n in told["labels"] if n != "ignore"])
    for fold in folds:
        (place / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": weights(config, len(told["channel_names"]), classes, fold),
            "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5)], "epoch_end_timestamps": [1.5]},
            "_best_ema": np.float64(0.5),
            "current_epoch": 1,
            "init_args": {
                "plans": written,
                "configuration": "3d_fullres",
                "fold": fold,
                "dataset_json": dict(told),
                "device": torch.device("cpu"),
            },
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": mirror,
        }
        torch.save(checkpoint, place / f"fold_{fold}" / "checkpoint_final.pth")
    return place
