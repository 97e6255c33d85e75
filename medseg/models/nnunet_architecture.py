"""nnU-Net's description of a network, old and new, lowered to arguments of our own modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medseg.errors import ModelError
from medseg.models.nnunet_plans import Axes, Table, bad_plans, listed, number, refused, table, whole

if TYPE_CHECKING:
    from torch import nn

NETWORKS = {
    "PlainConvUNet": "medseg.models.plain_conv_unet.PlainConvUNet",
    "ResidualEncoderUNet": "medseg.models.residual_encoder_unet.ResidualEncoderUNet",
}
"""nnU-Net's class to ours."""

_BLOCK_COUNTS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
_MOST_STAGES = 12
_MOST_FEATURES = 8192
_IGNORED = frozenset({"deep_supervision", "norm_op_kwargs", "nonlin_kwargs", "dropout_op_kwargs"})


def read_architecture(configuration: Table, axes: Axes) -> tuple[str, dict[str, Any]]:
    """The network of a configuration.

    Args:
        configuration: with `architecture`, or with the keys of plans before nnU-Net 2.4.
        axes: brings kernels and strides into the order i, j, k.

    Returns:
        Class name of our own module, and its arguments but for the channels, plain JSON values.

    Raises:
        ModelError: `UNKNOWN_NETWORK`, `UNSUPPORTED_RECIPE` or `BAD_NNUNET`.
    """
    if "architecture" in configuration:
        architecture = table(configuration["architecture"], "architecture")
        name = str(architecture.get("network_class_name")).rpartition(".")[2]
        arguments = table(architecture.get("arch_kwargs"), "arch_kwargs")
    else:
        name = str(configuration.get("UNet_class_name"))
        arguments = _from_old_plans(configuration, name)
    if name not in NETWORKS:
        raise ModelError(
            "UNKNOWN_NETWORK",
            f"expected one of {', '.join(NETWORKS)}, got {name!r:.60}; medseg runs no other code",
        )
    return NETWORKS[name], {
        "stages": _stages(arguments, _BLOCK_COUNTS[name], axes),
        "decoder_counts": _decoder_counts(arguments),
        "style": _style(arguments, name),
        "turn": list(axes.turn),
    }


def _from_old_plans(configuration: Table, name: str) -> dict[str, Any]:
    """Plans before nnU-Net 2.4 in the words of later ones."""
    counts = listed(configuration.get("n_conv_per_stage_encoder"), "counts of convolutions")
    base = whole(configuration.get("UNet_base_num_features"), "UNet_base_num_features", 1, _MOST_FEATURES)
    most = whole(configuration.get("unet_max_num_features"), "unet_max_num_features", 1, _MOST_FEATURES)
    return {
        "n_stages": len(counts),
        "features_per_stage": [min(base * 2**stage, most) for stage in range(min(len(counts), _MOST_STAGES))],
        "conv_op": "Conv3d",
        "kernel_sizes": configuration.get("conv_kernel_sizes"),
        "strides": configuration.get("pool_op_kernel_sizes"),
        _BLOCK_COUNTS.get(name, "n_conv_per_stage"): counts,
        "n_conv_per_stage_decoder": configuration.get("n_conv_per_stage_decoder"),
        "conv_bias": True,
        "norm_op": "InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "LeakyReLU",
    }


def _spread(value: Any, count: int, what: str) -> Sequence[Any]:
    """One value for each stage; a single one counts for all."""
    return [value] * count if isinstance(value, int) else listed(value, what, count)


def _stages(arguments: Table, block_counts: str, axes: Axes) -> list[dict[str, Any]]:
    count = whole(arguments.get("n_stages"), "n_stages", 2, _MOST_STAGES)
    features = _spread(arguments.get("features_per_stage"), count, "features")
    kernels = _spread(arguments.get("kernel_sizes"), count, "kernels")
    strides = _spread(arguments.get("strides"), count, "strides")
    blocks = _spread(arguments.get(block_counts), count, block_counts)
    stages = []
    for stage in range(count):
        kernel = axes.triple(kernels[stage], "kernel sizes")
        if any(n % 2 == 0 for n in kernel):
            raise bad_plans("odd kernel sizes", kernel)
        stages.append({
            "features": whole(features[stage], "features", 1, _MOST_FEATURES),
            "kernel": list(kernel),
            "stride": list(axes.triple(strides[stage], "strides")),
            "blocks": whole(blocks[stage], block_counts, 1, 64),
        })  # fmt: skip
    return stages


def _decoder_counts(arguments: Table) -> list[int]:
    count = whole(arguments.get("n_stages"), "n_stages", 2, _MOST_STAGES) - 1
    counts = _spread(arguments.get("n_conv_per_stage_decoder"), count, "n_conv_per_stage_decoder")
    return [whole(n, "n_conv_per_stage_decoder", 1, 64) for n in counts]


def _short(value: Any) -> str:
    """Class name without its modules; empty for none."""
    return "" if value is None else str(value).rpartition(".")[2]


def _style(arguments: Table, name: str) -> dict[str, Any]:
    known = {
        "n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder", "conv_bias",
        "conv_op", "norm_op", "dropout_op", "nonlin", "nonlin_first", _BLOCK_COUNTS[name],
    }  # fmt: skip
    other = {key: value for key, value in arguments.items() if key not in known | _IGNORED}
    if strange := sorted(key for key, value in other.items() if value is not None and value != "BasicBlockD"):
        raise refused(f"a {name} with {', '.join(strange)[:80]}")
    conv, norm, activation = (_short(arguments.get(key)) for key in ("conv_op", "norm_op", "nonlin"))
    norms, activations = ("InstanceNorm3d", "BatchNorm3d", ""), ("LeakyReLU", "ReLU", "ELU", "SiLU", "")
    if conv != "Conv3d" or norm not in norms or activation not in activations:
        raise refused(f"a network of {conv!r:.40}, {norm!r:.40} and {activation!r:.40}")
    of_norm = table(arguments.get("norm_op_kwargs") or {}, "norm_op_kwargs")
    of_activation = table(arguments.get("nonlin_kwargs") or {}, "nonlin_kwargs")
    return {
        "bias": bool(arguments.get("conv_bias", False)),
        "norm": norm,
        "norm_eps": number(of_norm.get("eps", 1e-5), "eps"),
        # The defaults of torch: a batch norm learns scale and shift, an instance norm does not.
        "norm_affine": bool(of_norm.get("affine", norm == "BatchNorm3d")),
        "has_dropout": arguments.get("dropout_op") is not None,
        "activation": activation,
        "slope": number(of_activation.get("negative_slope", 0.01), "negative_slope"),
        "activation_first": bool(arguments.get("nonlin_first", False)),
    }


def make_network(target: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network without weights, on torch's `meta` device.

    Args:
        target: a value of `NETWORKS`.
        arguments: of `read_architecture`, with `in_channels` and `classes`.
    """
    import torch

    from medseg.models.conv_blocks import LayerStyle, Stage
    from medseg.models.plain_conv_unet import PlainConvUNet
    from medseg.models.residual_encoder_unet import ResidualEncoderUNet

    made: dict[str, Callable[..., nn.Module]] = {
        NETWORKS["PlainConvUNet"]: PlainConvUNet,
        NETWORKS["ResidualEncoderUNet"]: ResidualEncoderUNet,
    }
    stages = [
        Stage(one["features"], tuple(one["kernel"]), tuple(one["stride"]), one["blocks"])
        for one in arguments["stages"]
    ]
    with torch.device("meta"):
        return made[target](
            arguments["in_channels"],
            arguments["classes"],
            stages,
            arguments["decoder_counts"],
            LayerStyle(**arguments["style"]),
        )
