"""The zip that a TorchScript file is: recognised, its small files read, its network loaded.

TorchScript is a language without files, processes or imports but for a few operators; a network that uses
one of these, or an operator that is not torch's own, is refused before it is loaded.
"""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_LARGEST_EXTRA_BYTES = 32 * 2**20
_LARGEST_CODE_BYTES = 64 * 2**20
_REACHES_OUT = re.compile(
    rb"\b(?:torch|ops\.aten)\.(?:from_file|save|load|_save|_load)\b|\bops\.(?!prim\b|aten\b)(\w+)"
)
_OWN_NAMESPACES = (b"quantized", b"_quantized", b"prepacked", b"inductor")
_BROKEN = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError)


def is_torchscript(path: Path) -> bool:
    """Whether a file is TorchScript; only its table of contents is looked at."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as parts:
            names = [name.partition("/")[2] for name in parts.namelist()]
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return False
    return "constants.pkl" in names and any(name.startswith("code/") for name in names)


def extra_files(path: Path) -> dict[str, bytes]:
    """Contents of the recipes below `extra/`, by name.

    Raises:
        ModelError: `WEIGHTS_CORRUPTED` or `BAD_BUNDLE`.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as parts:
            for part in parts.infolist():
                folder, _, name = part.filename.partition("/")[2].rpartition("/")
                if folder.split("/")[0] == "extra" and name.endswith((".json", ".yaml", ".yml")):
                    if part.file_size > _LARGEST_EXTRA_BYTES:
                        raise ModelError("BAD_BUNDLE", f"expected a recipe in extra/{name}, got above 32 MB")
                    found[name] = parts.read(part)
    except _BROKEN as error:
        raise _damaged(path) from error
    return found


def load_scripted(path: Path, *, trust_code: bool = False) -> nn.Module:
    """The network of a TorchScript file, on the CPU wherever it was saved.

    Args:
        path: of the file.
        trust_code: load it even if it uses operators that reach outside.

    Raises:
        ModelError: `WEIGHTS_CORRUPTED`; `CODE_REFUSED`, it uses an operator that could reach files.
    """
    import torch

    if not trust_code:
        _refuse_reaching_out(path)
    try:
        with warnings.catch_warnings():  # torch advises against TorchScript; models are published as such
            warnings.simplefilter("ignore", DeprecationWarning)
            network: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]  # torch.jit
    except (RuntimeError, ValueError, OSError) as error:
        raise _damaged(path) from error
    return network


def _damaged(path: Path) -> ModelError:
    return ModelError(
        "WEIGHTS_CORRUPTED",
        f"expected a whole TorchScript file in {path.name}, got a damaged one; install the model again",
    )


def _refuse_reaching_out(path: Path) -> None:
    """Return if the compiled code names no operator that reads or writes files, and none but torch's own."""
    try:
        with zipfile.ZipFile(path) as parts:
            if parts.testzip() is not None:
                raise _damaged(path)
            codes = [p for p in parts.infolist() if "/code/" in p.filename and p.filename.endswith(".py")]
            if sum(part.file_size for part in codes) > _LARGEST_CODE_BYTES:
                raise _damaged(path)
            for part in codes:
                for found in _REACHES_OUT.finditer(parts.read(part)):
                    if found.group(1) not in _OWN_NAMESPACES:
                        operator = found.group(0).decode("ascii", "replace")
                        raise ModelError(
                            "CODE_REFUSED",
                            f"expected a network in {path.name}, got one that calls {operator}, which could "
                            "reach files; give --trust-code if you trust its author",
                        )
    except _BROKEN as error:
        raise _damaged(path) from error
