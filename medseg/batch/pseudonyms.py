"""Names that may stand in paths, tables and logs: they tell nothing of a patient.

A name is the start of an HMAC-SHA256 over what identifies the input. The key lies in the output
folder, readable by its owner alone: whoever has it can tell which input got which name
(`medseg batch --plan`), nobody else can, not even by trying names out.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from medseg.errors import ReadError, WriteError

KEY_FILE = "names.key"
KEY_BYTES = 32
_NAME_DIGITS = 12
_SHORTEST_NAME = 3
_RESERVED = re.compile(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)(\.|$)")


def folder_key(folder: Path) -> bytes:
    """The key of an output folder; made on first use, mode 0600.

    Args:
        folder: exists and is writable.

    Raises:
        ReadError: `BAD_KEY`, the key file holds something else.
        WriteError: `NOT_WRITABLE`.
    """
    path = folder / KEY_FILE
    if not path.exists():
        _make_key(path)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise _bad_key() from error
    if len(key) != KEY_BYTES:
        raise _bad_key()
    return key


def _bad_key() -> ReadError:
    return ReadError(
        "BAD_KEY",
        f"expected {KEY_BYTES} bytes as hexadecimal digits in {KEY_FILE}, got something else; restore it, "
        "or take a new output folder",
    )


def _make_key(path: Path) -> None:
    part = path.with_name(f".{KEY_FILE}.{secrets.token_hex(6)}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _appear_once(part, path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WriteError("NOT_WRITABLE", f"expected a writable output folder, got: {reason}") from error


def _appear_once(part: Path, path: Path) -> None:
    """Give a file its name unless another process was first: one folder has one key."""
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        part.replace(path)
    part.unlink(missing_ok=True)


def pseudonym(key: bytes, words: Iterable[str]) -> str:
    """A name from words that identify an input; the same key and words give the same name.

    Args:
        key: from `folder_key`.
        words: such as study and series UID, or a path; never shown.
    """
    message = "\0".join(words).encode("utf-8", "surrogateescape")
    return "case-" + hmac.new(key, message, hashlib.sha256).hexdigest()[:_NAME_DIGITS]


def token(key: bytes, text: str) -> str:
    """A word that stands for a text, such as a path, in the ledger."""
    return hmac.new(key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def safe_name(text: str) -> str:
    """A text as a folder name of letters, digits, dot, dash and underscore; empty where none is left."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:80]
    return f"_{name}" if _RESERVED.match(name) else name


def without_names(text: str, files: Iterable[Path]) -> str:
    """A message without the names of input files, which may hold a patient's."""
    names = {word for path in files for word in (path.name, path.stem, ascii(path.name)[1:-1])}
    for name in sorted(names, key=len, reverse=True):
        if len(name) >= _SHORTEST_NAME:
            text = text.replace(name, "…")
    return text
