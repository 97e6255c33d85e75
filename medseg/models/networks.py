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

OWN_NETWORKS = {"SegFormer3D": "medseg.models.segformer3d"}
"""Classes of medseg that MONAI lacks, and where they are; of the same kind."""

_OTHER_SPELLINGS = {"Unet": "UNet", "unet": "UNet", "AttentionUNet": "AttentionUnet", "DynUnet": "DynUNet"}

_ALLOWED_PARTS = ("TopologyInstance",)
"""Classes that stand among a network's arguments."""


def network_target(target: str) -> str:
    """The allowed class that a recipe's `_target_` means, as a dotted name.

    Args:
        target: such as `"UNet"`, `"monai.networks.nets.UNet"`, `"monai.networks.nets.unet.UNet"`,
            `"SegFormer3D"`.

    Raises:
        ModelError: `UNKNOWN_NETWORK`, the class is not on the list.
    """
    module, _, name = target.rpartition(".")
    name = _OTHER_SPELLINGS.get(name, name)
    if name in OWN_NETWORKS and module in ("", OWN_NETWORKS[name]):
        return f"{OWN_NETWORKS[name]}.{name}"
    from_monai = module in ("", _MONAI_NETS) or module.startswith(_MONAI_NETS + ".")
    if name not in ALLOWED_NETWORKS or not from_monai:
        raise ModelError(
            "UNKNOWN_NETWORK",
            f"expected one of {', '.join((*ALLOWED_NETWORKS, *OWN_NETWORKS))} (of {_MONAI_NETS}, or "
            f"medseg's own), got {target!r}; medseg runs no other code, unless you trust its author and "
            "give --trust-code",
        )
    return f"{_MONAI_NETS}.{name}"


def build_network(target: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, tuple[str, ...]]:
    """Construct a network with random weights.

    Arguments that its class no longer has are dropped.

    Args:
        target: the class, as `network_target` reads it.
        arguments: keyword arguments, plain values.

    Returns:
        The network, and a sentence for each argument that was dropped.

    Raises:
        ModelError: `UNKNOWN_NETWORK`, `BAD_NETWORK` where the arguments do not make one,
            `PACKAGE_MISSING` where MONAI needs another package for it.
    """
    return _made(network_target(target), arguments)


def without_devices(definition: Any) -> Any:
    """A recipe without the devices that it names: networks are made on the CPU and moved afterwards."""
    if isinstance(definition, Mapping):
        return {key: without_devices(value) for key, value in definition.items() if key != "device"}
    if isinstance(definition, list):
        return [without_devices(value) for value in definition]
    return definition


def _made(target: str, arguments: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """An object of a class on the lists, and what was left out."""
    import importlib
    import inspect
    import io
    from contextlib import redirect_stdout

    module, _, name = target.rpartition(".")
    constructor = getattr(importlib.import_module(module), name)
    known = inspect.signature(constructor).parameters
    notes = [
        f"{name} as installed here has no argument {key!r}: left out" for key in arguments if key not in known
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
        return _made(f"{_MONAI_NETS}.{target.removeprefix(_MONAI_NETS + '.')}", parts)
    if key == "arch_code":  # DiNTS: which paths and which operations were found
        import numpy as np

        return [np.array(table) for table in value], ()
    if key == "node_a":
        import torch

        return torch.tensor(value), ()
    return value, ()
