"""What an nnU-Net checkpoint says beside its weights, read without torch and without running anything.

A checkpoint is a zip with one pickle, whose tensors lie in other members. The pickle is taken apart
by a reader that puts an inert placeholder in place of every tensor and number object, and refuses
every name that such checkpoints do not need.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import ModelError

MAX_PICKLE_BYTES = 512 * 2**20
"""A checkpoint's pickle holds keys, a training log and plans: a few MB."""

_INERT = frozenset({
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
    ("torch.storage", "_load_from_bytes"), ("torch", "device"), ("torch", "Size"),
    ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"), ("numpy", "dtype"),
    ("_codecs", "encode"),
})  # fmt: skip
"""Names that stand for a placeholder; storages and types of torch and numpy come on top."""

_BROKEN = (
    pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, AttributeError, EOFError,
    LookupError, MemoryError, NotImplementedError, OSError, RecursionError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
"""What the standard library raises for damaged pickles and zips."""


@dataclass(frozen=True)
class CheckpointHeader:
    """What a checkpoint says of its training.

    Attributes:
        configuration: such as `"3d_fullres"`; empty where it does not say.
        trainer: class name of the trainer.
        mirror_axes: the network's axes along which it was trained with mirroring.
    """

    configuration: str
    trainer: str
    mirror_axes: tuple[int, ...]


class _Placeholder:
    """Takes any construction and any state, keeps nothing, does nothing."""

    def __new__(cls, *_arguments: object, **_named: object) -> _Placeholder:
        return super().__new__(cls)

    def __setstate__(self, _state: object) -> None:
        """Drop the state."""


class _Reader(pickle.Unpickler):
    """Reads names, numbers and words; everything else becomes a placeholder or is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """An ordered table, a placeholder, or a refusal."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        is_type = module in ("torch", "torch.storage") and name.endswith("Storage")
        is_type = is_type or (module == "numpy.dtypes" and name.endswith("DType"))
        if is_type or (module, name) in _INERT:
            return _Placeholder
        raise ModelError(
            "CODE_REFUSED",
            f"expected tensors, numbers and words in a checkpoint, got {module}.{name}, which could run "
            "code; save it again with nnU-Net",
        )

    def persistent_load(self, _storage: object) -> Any:
        """Nothing, in place of a tensor's numbers."""
        return None


def read_header(path: Path) -> CheckpointHeader:
    """What the checkpoint at a path says of its training.

    Raises:
        ModelError: `WEIGHTS_MISSING`, `WEIGHTS_CORRUPTED`, `CODE_REFUSED`, or `NOT_WEIGHTS` where the
            file is no checkpoint of nnU-Net v2.
    """
    if not path.is_file():
        raise ModelError(
            "WEIGHTS_MISSING", f"expected weights in {path.name}, got no such file; install the model again"
        )
    try:
        content = _Reader(io.BytesIO(_pickle_bytes(path))).load()
    except ModelError:
        raise
    except _BROKEN as error:
        raise ModelError(
            "WEIGHTS_CORRUPTED",
            f"expected a whole checkpoint in {path.name}, got a damaged file; install the model again",
        ) from error
    if not isinstance(content, Mapping) or not isinstance(content.get("network_weights"), Mapping):
        raise ModelError(
            "NOT_WEIGHTS",
            f"expected network_weights in {path.name}, as nnU-Net v2 writes them, got none; "
            "name the folder of a model that nnU-Net v2 trained",
        )
    arguments = content.get("init_args")
    configuration = arguments.get("configuration") if isinstance(arguments, Mapping) else None
    axes = content.get("inference_allowed_mirroring_axes") or ()
    is_fine = isinstance(axes, (list, tuple)) and all(type(axis) is int and 0 <= axis < 3 for axis in axes)
    if not is_fine:
        raise ModelError(
            "BAD_NNUNET", f"expected mirroring axes from 0 to 2 in {path.name}, got others; train it again"
        )
    trainer = content.get("trainer_name")
    return CheckpointHeader(
        configuration if isinstance(configuration, str) else "",
        trainer if isinstance(trainer, str) else "",
        tuple(sorted(set(axes))),
    )


def _pickle_bytes(path: Path) -> bytes:
    with zipfile.ZipFile(path) as parts:
        pickles = [part for part in parts.infolist() if part.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise zipfile.BadZipFile(f"expected one pickle of a sane size, got {len(pickles)} pickles")
        return parts.read(pickles[0])
