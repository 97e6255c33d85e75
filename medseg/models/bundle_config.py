"""The recipe of a MONAI bundle, read as data: references, macros and plain expressions, never Python.

The language is MONAI's (`docs/source/config_syntax.md`), in JSON or YAML: `@id::key` (older `@id#key`)
refers to another value, `%file::key` copies one, `$…` is Python. Of the last, what published bundles
write is read by `medseg.models.expressions`, and only where a value is needed.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import ModelError
from medseg.models.expressions import Unreadable, evaluate

RECIPE_SUFFIXES = (".json", ".yaml", ".yml")

_REFERENCE = re.compile(r"^\$?\s*@([\w.]+(?:(?:::|#)[\w.]+)*)\s*$")
_DEEPEST = 40
_MOST_PARTS = 100_000
"""Values that a recipe may come to with all references replaced; ten that stand for ten others, six deep,
are a million."""
_LARGEST_FILE_BYTES = 32 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """One table from a JSON file; one that ends in `.yaml` or `.yml` is read as YAML.

    Raises:
        ModelError: `BUNDLE_INCOMPLETE` if the file is missing, `BAD_BUNDLE` if it is no table.
    """
    if not path.is_file():
        raise ModelError(
            "BUNDLE_INCOMPLETE", f"expected {path.parent.name}/{path.name} in the bundle, got no such file"
        )
    if path.stat().st_size > _LARGEST_FILE_BYTES:
        raise ModelError("BAD_BUNDLE", f"expected a recipe in {path.name}, got a file above 32 MB")
    return parse_content(path.read_bytes(), path.name)


def parse_content(content: bytes, name: str) -> dict[str, Any]:
    """One table from the bytes of a JSON or YAML file.

    Args:
        content: at most some megabytes.
        name: of the file; decides by its ending.

    Raises:
        ModelError: `BAD_BUNDLE`.
    """
    kind = "YAML" if name.endswith((".yaml", ".yml")) else "JSON"
    try:
        table = (_from_yaml if kind == "YAML" else json.loads)(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            "BAD_BUNDLE", f"expected {kind} in {name}, got something else ({error}); repair the file"
        ) from error
    if not isinstance(table, dict):
        raise ModelError(
            "BAD_BUNDLE", f"expected a {kind} object in {name}, got {type(table).__name__}; repair it"
        )
    return table


def _from_yaml(text: str) -> Any:
    """Plain values alone: no Python objects, and no aliases, which multiply."""
    import yaml

    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, yaml.SafeLoader)):
            raise ModelError("BAD_BUNDLE", "expected YAML without aliases (*name), got some; write them out")
        return yaml.load(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from error


def find_recipe(configs: Path) -> Path:
    """The recipe for inference in a bundle's `configs` folder.

    `inference.json`, `.yaml` or `.yml`; else the one other file whose name begins with `inference`.

    Raises:
        ModelError: `BUNDLE_INCOMPLETE`, there is none, or several and none of them so named.
    """
    for suffix in RECIPE_SUFFIXES:
        if (configs / f"inference{suffix}").is_file():
            return configs / f"inference{suffix}"
    others = sorted(
        path for path in configs.glob("inference*") if path.suffix in RECIPE_SUFFIXES and path.is_file()
    )
    others = [path for path in others if not path.stem.endswith("_trt")]
    if len(others) != 1:
        found = ", ".join(path.name for path in others[:8]) or "none"
        raise ModelError(
            "BUNDLE_INCOMPLETE",
            f"expected {configs.name}/inference.json or .yaml in the bundle, got {found}; name one so",
        )
    return others[0]


@dataclass(frozen=True)
class PythonCode:
    """Stands where a recipe has an expression that is not read; harmless until its value is needed.

    Attributes:
        where: its key.
        expression: without the leading `$`.
        reason: what of it is not read.
        trusted: gives the value of a key by running the bundle's code; None runs none.
    """

    where: str
    expression: str = ""
    reason: str = "Python code"
    trusted: Callable[[str], Any] | None = None


def plain(value: Any) -> Any:
    """The value without any code: as it stands, or with what trusted code gave in its place.

    Raises:
        ModelError: `CODE_REFUSED`, naming the key; `TRUSTED_CODE_FAILED`.
    """
    if isinstance(value, PythonCode):
        if value.trusted is None:
            raise refused(value.where, value.reason)
        return value.trusted(value.where)
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value


def refused(where: str, reason: str) -> ModelError:
    """The error for a value that only running the bundle's code could tell."""
    return ModelError(
        "CODE_REFUSED",
        f"expected plain data at {where!r}, got {reason}; medseg runs no code of a model: write the value "
        "itself there, or give --trust-code if you trust its author",
    )


@dataclass(frozen=True)
class BundleConfig:
    """A bundle's inference recipe.

    Attributes:
        root: the whole content of the recipe.
        folder: where it lies; `%file` looks here and nowhere else. None looks nowhere.
        trusted: gives the value of a key by running the bundle's code; None runs none.
        load: gives the arrays that a file of the bundle holds, as lists; None reads none.
    """

    root: Mapping[str, Any]
    folder: Path | None
    trusted: Callable[[str], Any] | None = None
    load: Callable[[str], Any] | None = None

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
        value = self.raw(key)
        return plain(value) if isinstance(value, PythonCode) else value

    def raw(self, key: str) -> Any:
        """As `value`, but code itself is given as `PythonCode`.

        Raises:
            ModelError: `BUNDLE_INCOMPLETE` and `BAD_BUNDLE`, as `value`.
        """
        if key not in self.root:
            raise ModelError("BUNDLE_INCOMPLETE", f"expected {key!r} in the recipe, got none; add it")
        return self._resolve(self.root[key], key, 0, itertools.count())

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
            return self._evaluated(value[1:].strip(), where, depth, parts)
        return value

    def _evaluated(self, expression: str, where: str, depth: int, parts: Iterator[int]) -> Any:
        """The value of an expression, or `PythonCode` where it is not read."""

        def resolve(name: str) -> Any:
            keys = name.split("::")
            found = self._resolve(_walk(self.root, keys, where), name, depth + 1, parts)
            if isinstance(found, PythonCode):
                raise Unreadable(found.reason)
            return found

        try:
            return evaluate(expression, resolve, self.load)
        except Unreadable as error:
            return PythonCode(where, expression, str(error), self.trusted)

    def _copied(self, address: str, where: str) -> Any:
        """What `%file::key` or `%key` stands for."""
        parts = re.split(r"::|#", address)
        if not parts[0].endswith(RECIPE_SUFFIXES):
            return _walk(self.root, parts, where)
        name = Path(parts[0]).name
        if self.folder is None:
            raise ModelError("BAD_BUNDLE", f"expected {where!r} written out, got a copy from {name!r}")
        return _walk(read_json(self.folder / name), parts[1:], where)


def refuse_hostile_code(content: Any, where: str = "") -> None:
    """Return if no expression reaches for Python's inner names, as no honest recipe does.

    Expressions elsewhere in the recipe are merely never run; these are refused even unused.

    Raises:
        ModelError: `CODE_REFUSED`, naming the key.
    """
    for place, expression in _expressions(content, where):
        if "__" in expression:
            raise refused(place, "code that reaches for Python's inner names")


def _expressions(content: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _expressions(value, f"{where}::{key}" if where else str(key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _expressions(value, f"{where}::{index}")
    elif isinstance(content, str) and content.startswith("$"):
        yield where, content[1:]


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
