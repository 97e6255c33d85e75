"""Weights from a file into a network, without running what the file may hold."""

from __future__ import annotations

import hashlib
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.errors import ModelError
from medseg.models.atlas import Atlas

if TYPE_CHECKING:
    from torch import Tensor, nn

_WRAPPERS = ("state_dict", "model", "network_weights")
"""Keys under which training programs put the state dict beside other things."""

_PREFIXES = ("module.", "_orig_mod.")
"""What data-parallel and compiled training put before every key."""

_LOAD_ERRORS = (
    AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    struct.error,
)  # fmt: skip
"""What torch raises for damaged files beside `UnpicklingError`: it promises no type."""


@dataclass(frozen=True, eq=False)
class BuiltNetwork:
    """A network with its weights, on the CPU.

    Attributes:
        network: `(1, in_channels, i, j, k)` float32 to `(1, out_channels, i, j, k)`.
        members: further networks of the same card (folds of a cross-validation).
        masks: of a detector: the network that draws objects in their boxes.
        notes: what was left out or changed on the way.
        atlas: of a model that has one.
    """

    network: nn.Module
    members: tuple[nn.Module, ...] = ()
    masks: nn.Module | None = None
    notes: tuple[str, ...] = ()
    atlas: Atlas | None = None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 of some files together; of a single one its own.

    Raises:
        ModelError: `WEIGHTS_MISSING`.
    """
    for path in paths:
        _require_file(path)
    sums = [file_sha256(path) for path in paths]
    return sums[0] if len(sums) == 1 else hashlib.sha256(" ".join(sums).encode()).hexdigest()


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ModelError(
            "WEIGHTS_MISSING", f"expected weights in {path.name}, got no such file; install the model again"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a `.safetensors` file, or of a `.pt`/`.pth` checkpoint.

    Checkpoints are read with `weights_only=True`, so a pickle cannot run anything; beside tensors only
    numpy's numbers are let in.

    Raises:
        ModelError: `WEIGHTS_MISSING`, `WEIGHTS_CORRUPTED`, or `NOT_WEIGHTS` where the file holds no
            table of tensors.
    """
    if path.suffix != ".safetensors":
        return _state_dict(read_checkpoint(path), path.name)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _require_file(path)
    try:
        return _state_dict(load_file(path), path.name)
    except (SafetensorError, *_LOAD_ERRORS) as error:
        if isinstance(error, ModelError):
            raise
        raise _corrupted(path) from error


def read_checkpoint(path: Path, *, only_glance: bool = False) -> object:
    """What a `.pt`/`.pth` file holds: tables, lists, words, numbers, tensors, arrays of numpy.

    Read with `weights_only=True`, so a pickle cannot run anything.

    Args:
        path: of the file.
        only_glance: leave the numbers of tensors on the disk, unchecked, until they are asked for.

    Raises:
        ModelError: `WEIGHTS_MISSING`, `WEIGHTS_CORRUPTED`, `CODE_REFUSED`.
    """
    import torch

    _require_file(path)
    is_zip = zipfile.is_zipfile(path)
    try:
        if not only_glance:
            _check_sums(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_scalars()):
            # torch asks to be told of pickles that no torch wrote; they are refused below
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            content: object = torch.load(
                path, map_location="cpu", weights_only=True, mmap=only_glance and is_zip
            )
    except pickle.UnpicklingError as error:
        if is_zip:
            raise ModelError(
                "CODE_REFUSED",
                f"expected plain tensors in {path.name}, got a pickle that asks for other code; "
                "save it again as a state dict or as safetensors",
            ) from error
        raise _corrupted(path) from error
    except _LOAD_ERRORS as error:
        raise _corrupted(path) from error
    return content


def read_arrays(path: Path) -> Any:
    """What a small `.pt` file holds, with every array and tensor as a list of numbers.

    Raises:
        ModelError: as `read_checkpoint`.
    """
    return _as_lists(read_checkpoint(path))


def _as_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_lists(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_lists(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _numpy_scalars() -> list[Any]:
    """What a pickle needs for numpy's numbers and arrays of them, of which training logs are full."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    kinds = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
    # The second name is that of numpy before 2.0.
    array = np.zeros(0).__reduce__()[0]
    return [
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        array,
        (array, "numpy.core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        *(type(np.dtype(k)) for k in kinds),
    ]


def _check_sums(path: Path) -> None:
    """Return if a checkpoint is no zip, or every part of it has its check sum, at which torch does not look.

    Raises:
        ModelError: `WEIGHTS_CORRUPTED`.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise _corrupted(path) from error
    if damaged is not None:
        raise _corrupted(path)


def _corrupted(path: Path) -> ModelError:
    return ModelError(
        "WEIGHTS_CORRUPTED",
        f"expected a whole checkpoint in {path.name}, got a damaged file; install the model again",
    )


def _state_dict(content: object, file_name: str) -> dict[str, Tensor]:
    import torch

    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    is_table = isinstance(content, Mapping) and all(isinstance(v, torch.Tensor) for v in content.values())
    if not is_table or not content or not isinstance(content, Mapping):
        raise ModelError(
            "NOT_WEIGHTS",
            f"expected a table of tensors in {file_name}, got {type(content).__name__}; save its state dict",
        )
    table: dict[str, Tensor] = {}
    for key, tensor in content.items():
        name = str(key)
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        table[name] = tensor
    return table


def load_into(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a network, all of them or none.

    A network on torch's `meta` device takes the tensors themselves; another one, their numbers.

    Raises:
        ModelError: `WEIGHTS_MISMATCH`, naming keys that lack, are too many, or differ in shape;
            `WEIGHTS_NOT_FINITE`, weights that are no numbers.
    """
    wanted = network.state_dict()
    missing = sorted(set(wanted) - set(weights))
    unknown = sorted(set(weights) - set(wanted))
    shapes = [
        f"{key} {tuple(weights[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted
        if key in weights and weights[key].shape != wanted[key].shape
    ]
    findings = (("missing", missing), ("unknown", unknown), ("other shape", shapes))
    parts = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in findings if keys]
    if parts:
        raise ModelError(
            "WEIGHTS_MISMATCH",
            f"expected the weights of this network, got {'; '.join(parts)}; they belong to another network",
        )
    broken = [key for key, value in weights.items() if not bool(value.isfinite().all())]
    if broken:
        raise ModelError(
            "WEIGHTS_NOT_FINITE",
            f"expected finite weights, got NaN or infinity in {_some(broken)}; train or download them again",
        )
    network.load_state_dict(dict(weights), assign=any(tensor.is_meta for tensor in wanted.values()))


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (", …" if len(keys) > 4 else "")
