"""The networks that a recipe may ask for: an allow-list, so that no other code is ever run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medseg.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_MONAI_NETS = "monai.networks.nets"

ALLOWED_NETWORKS = (
    "AHNet",
    "AttentionUnet",
    "BasicUNet",
    "BasicUNetPlusPlus",
    "DiNTS",
    "DynUNet",
    "FlexibleUNet",
    "HighResNet",
    "MedNeXt",
    "SegResNet",
    "SegResNetDS",
    "SegResNetVAE",
    "SwinUNETR",
    "UNet",
    "UNETR",
    "VNet",
)
"""Classes of `monai.networks.nets` that map an image to class scores of the same size."""

_OTHER_SPELLINGS = {"Unet": "UNet", "unet": "UNet", "AttentionUNet": "AttentionUnet", "DynUnet": "DynUNet"}

_ALLOWED_PARTS = ("TopologyInstance",)
"""Classes that stand among a network's arguments."""


def network_name(target: str) -> str:
    """The allowed class that a recipe's `_target_` means.

    Args:
        target: such as `"UNet"`, `"monai.networks.nets.UNet"`, `"monai.networks.nets.unet.UNet"`.

    Raises:
        ModelError: `UNKNOWN_NETWORK`, the class is not on the list.
    """
    module, _, name = target.rpartition(".")
    name = _OTHER_SPELLINGS.get(name, name)
    from_monai = module in ("", "monai.networks.nets") or module.startswith(_MONAI_NETS + ".")
    if name not in ALLOWED_NETWORKS or not from_monai:
        raise ModelError(
            "UNKNOWN_NETWORK",
            f"expected one of {', '.join(ALLOWED_NETWORKS)} of monai.networks.nets, got {target!r}; "
            "medseg runs no other code, unless you trust its author and give --trust-code",
        )
    return name


def build_network(target: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, tuple[str, ...]]:
    """Construct a network with random weights.

    Arguments that its class no longer has are dropped.

    Args:
        target: the class, as `network_name` reads it.
        arguments: keyword arguments, plain values.

    Returns:
        The network, and a sentence for each argument that was dropped.

    Raises:
        ModelError: `UNKNOWN_NETWORK`, `BAD_NETWORK` where the arguments do not make one,
            `PACKAGE_MISSING` where MONAI needs another package for it.
    """
    name = network_name(target)
    return _made(name, arguments)


def without_devices(definition: Any) -> Any:
    """A recipe without the devices that it names: networks are made on the CPU and moved afterwards."""
    if isinstance(definition, Mapping):
        return {key: without_devices(value) for key, value in definition.items() if key != "device"}
    if isinstance(definition, list):
        return [without_devices(value) for value in definition]
    return definition


def _made(name: str, arguments: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """An object of a class of MONAI's networks, and what was left out."""
    import inspect
    import io
    from contextlib import redirect_stdout

    from monai.networks import nets

    constructor = getattr(nets, name)
    known = inspect.signature(constructor).parameters
    notes = [
        f"{name} of the installed MONAI has no argument {key!r}: left out"
        for key in arguments
        if key not in known
    ]
    kept = {}
    for key, value in arguments.items():
        if key in known:
            kept[key], more = _argument(key, value)
            notes += more
    try:
        with redirect_stdout(io.StringIO()):  # some of them print
            return constructor(**kept), tuple(notes)
    except ImportError as error:
        raise ModelError(
            "PACKAGE_MISSING",
            f"expected what MONAI's {name} needs, got {error}; install it, such as with pip install einops",
        ) from error
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AssertionError) as error:
        raise ModelError(
            "BAD_NETWORK", f"expected arguments that make a {name}, got others ({error}); repair the recipe"
        ) from error


def _argument(key: str, value: Any) -> tuple[Any, tuple[str, ...]]:
    """An argument as its class wants it: a part made, a table of numbers as an array."""
    if isinstance(value, Mapping) and "_target_" in value:
        target = str(value["_target_"])
        if target.removeprefix(_MONAI_NETS + ".") not in _ALLOWED_PARTS:
            raise ModelError(
                "UNKNOWN_NETWORK",
                f"expected one of {', '.join(_ALLOWED_PARTS)} of {_MONAI_NETS} for {key!r}, got {target!r}; "
                "medseg runs no other code",
            )
        parts = {name: part for name, part in value.items() if not name.startswith("_")}
        return _made(target.removeprefix(_MONAI_NETS + "."), parts)
    if key == "arch_code":  # DiNTS: which paths and which operations were found
        import numpy as np

        return [np.array(table) for table in value], ()
    if key == "node_a":
        import torch

        return torch.tensor(value), ()
    return value, ()
