"""The JSON of a MONAI bundle, read as data: references and literals, never Python.

The language is MONAI's (`docs/source/config_syntax.md`): `@id::key` (older `@id#key`) refers to
another value, `%file::key` copies one, `$…` is Python. Of the last only references (`$@x`) and
literals (`$None`, `$[1, 2]`) are understood, and only where a value is needed.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import ModelError

_REFERENCE = re.compile(r"^\$?\s*@([\w.]+(?:(?:::|#)[\w.]+)*)\s*$")
_DEEPEST = 40
_MOST_PARTS = 100_000
"""Values that a recipe may come to with all references replaced; ten that stand for ten others, six deep,
are a million."""
_LARGEST_FILE_BYTES = 32 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object from a file.

    Raises:
        ModelError: `BUNDLE_INCOMPLETE` if the file is missing, `BAD_BUNDLE` if it is no JSON object.
    """
    if not path.is_file():
        raise ModelError(
            "BUNDLE_INCOMPLETE", f"expected {path.parent.name}/{path.name} in the bundle, got no such file"
        )
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise ModelError("BAD_BUNDLE", f"expected a recipe in {path.name}, got a file above 32 MB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            "BAD_BUNDLE", f"expected JSON in {path.name}, got something else ({error}); repair the file"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(
            "BAD_BUNDLE", f"expected a JSON object in {path.name}, got {type(content).__name__}; repair it"
        )
    return content


@dataclass(frozen=True)
class PythonCode:
    """Stands where a recipe has an expression that is not read; harmless until its value is needed.

    Attributes:
        where: its key.
    """

    where: str


def plain(value: Any) -> Any:
    """The value itself, if no part of it is code.

    Raises:
        ModelError: `CODE_REFUSED`, naming the key.
    """
    if isinstance(value, PythonCode):
        raise _refused(value.where)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for part in parts:
        plain(part)
    return value


@dataclass(frozen=True)
class BundleConfig:
    """A bundle's inference recipe.

    Attributes:
        root: the whole content of `configs/inference.json`.
        folder: where it lies; `%file` looks here and nowhere else.
    """

    root: Mapping[str, Any]
    folder: Path

    def has(self, key: str) -> bool:
        """Whether the recipe's outermost object has a key."""
        return key in self.root

    def value(self, key: str) -> Any:
        """The value of an outermost key with every reference in it replaced.

        Parts of it may be `PythonCode`; `plain` refuses them where they count.

        Raises:
            ModelError: `BUNDLE_INCOMPLETE` without that key, `CODE_REFUSED` if it is code itself,
                `BAD_BUNDLE` for a reference that leads nowhere or in a circle.
        """
        if key not in self.root:
            raise ModelError("BUNDLE_INCOMPLETE", f"expected {key!r} in inference.json, got none; add it")
        value = self._resolve(self.root[key], key, 0, itertools.count())
        return plain(value) if isinstance(value, PythonCode) else value

    def _resolve(self, value: Any, where: str, depth: int, parts: Iterator[int]) -> Any:
        """A value with every reference in it replaced by what it refers to.

        Args:
            value: JSON value.
            where: its place in the recipe, for messages.
            depth: references followed so far.
            parts: counts the values met, so that references cannot multiply without end.

        Raises:
            ModelError: `BAD_BUNDLE`, a reference that leads nowhere or in a circle, or too many of them.
        """
        if depth > _DEEPEST:
            raise ModelError("BAD_BUNDLE", f"expected a value at {where!r}, got references in a circle")
        if next(parts) >= _MOST_PARTS:
            raise ModelError(
                "BAD_BUNDLE",
                f"expected at most {_MOST_PARTS} values, got more by references at {where!r}; repair it",
            )
        if isinstance(value, Mapping):
            return {k: self._resolve(v, f"{where}::{k}", depth + 1, parts) for k, v in value.items()}
        if isinstance(value, list):
            return [self._resolve(v, f"{where}::{n}", depth + 1, parts) for n, v in enumerate(value)]
        return self._resolve_text(value, where, depth, parts) if isinstance(value, str) else value

    def _resolve_text(self, value: str, where: str, depth: int, parts: Iterator[int]) -> Any:
        if reference := _REFERENCE.match(value):
            target = re.split(r"::|#", reference.group(1))
            return self._resolve(_walk(self.root, target, where), "::".join(target), depth + 1, parts)
        if value.startswith("%"):
            return self._resolve(self._copied(value[1:], where), where, depth + 1, parts)
        if value.startswith("$"):
            return _literal(value[1:], where)
        return value

    def _copied(self, address: str, where: str) -> Any:
        """What `%file::key` or `%key` stands for."""
        parts = re.split(r"::|#", address)
        if not parts[0].endswith(".json"):
            return _walk(self.root, parts, where)
        name = Path(parts[0]).name
        return _walk(read_json(self.folder / name), parts[1:], where)


def refuse_hostile_code(content: Any, where: str = "") -> None:
    """Return if no expression reaches for Python's inner names, as no honest recipe does.

    Expressions elsewhere in the recipe are merely never run; these are refused even unused.

    Raises:
        ModelError: `CODE_REFUSED`, naming the key.
    """
    for place, expression in _expressions(content, where):
        if "__" in expression:
            raise _refused(place)


def _expressions(content: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _expressions(value, f"{where}::{key}" if where else str(key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _expressions(value, f"{where}::{index}")
    elif isinstance(content, str) and content.startswith("$"):
        yield where, content[1:]


def _refused(where: str) -> ModelError:
    return ModelError(
        "CODE_REFUSED",
        f"expected plain data at {where!r}, got Python code; medseg runs none: write the value itself there",
    )


def _literal(expression: str, where: str) -> Any:
    try:
        return ast.literal_eval(expression.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return PythonCode(where)


def _walk(content: Any, keys: list[str], where: str) -> Any:
    for key in keys:
        if isinstance(content, Mapping) and key in content:
            content = content[key]
        elif isinstance(content, list) and key.isdigit() and int(key) < len(content):
            content = content[int(key)]
        else:
            raise ModelError(
                "BAD_BUNDLE",
                f"expected {'::'.join(keys)!r} for the reference at {where!r}, got no such value; repair it",
            )
    return content
