"""The networks that a recipe may ask for: an allow-list, so that no other code is ever run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medseg.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_MONAI_NETS = "monai.networks.nets"

ALLOWED_NETWORKS = (
    "AttentionUnet",
    "BasicUNet",
    "BasicUNetPlusPlus",
    "DynUNet",
    "SegResNet",
    "SegResNetDS",
    "SegResNetVAE",
    "SwinUNETR",
    "UNet",
    "UNETR",
    "VNet",
)
"""Classes of `monai.networks.nets` that map an image to class scores of the same size."""

_OTHER_SPELLINGS = {"Unet": "UNet", "unet": "UNet", "AttentionUNet": "AttentionUnet"}


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
            "medseg runs no other code",
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
        ModelError: `UNKNOWN_NETWORK`, or `BAD_NETWORK` where the arguments do not make one.
    """
    name = network_name(target)
    import inspect

    from monai.networks import nets

    constructor = getattr(nets, name)
    known = inspect.signature(constructor).parameters
    kept = {key: value for key, value in arguments.items() if key in known}
    dropped = tuple(
        f"{name} of the installed MONAI has no argument {key!r}: left out"
        for key in arguments
        if key not in known
    )
    try:
        return constructor(**kept), dropped
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AssertionError) as error:
        raise ModelError(
            "BAD_NETWORK", f"expected arguments that make a {name}, got others ({error}); repair the recipe"
        ) from error
