"""What the face promises: every name is there, documented, typed, and raises what it says."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import medseg
from medseg import errors

FACE = Path(medseg.__file__)
NAMES = [name for name in medseg.__all__ if name != "__version__"]
ROOMS = sorted(p for p in FACE.parent.rglob("*.py") if "cli" not in p.parts)
KNOWN_ERRORS = {name for name, _ in inspect.getmembers(errors, inspect.isclass)}
BUILTIN_ERRORS = {name for name in dir(builtins) if name.endswith("Error")}


def functions_and_classes(path: Path) -> list[tuple[str, ast.AST]]:
    """Everything public that a module defines, methods of public classes too."""
    found: list[tuple[str, ast.AST]] = []

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                found.append((f"{prefix}{node.name}", node))
                if isinstance(node, ast.ClassDef):
                    look(node.body, f"{prefix}{node.name}.")

    look(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found


def module_id(path: Path) -> str:
    return path.relative_to(FACE.parent.parent).as_posix()


# ---------------------------------------------------------------------- the face


def test_the_three_places_of_a_public_name_agree() -> None:
    tree = ast.parse(FACE.read_text(encoding="utf-8"))
    for_editors = {
        f"{node.module}:{alias.asname or alias.name}"
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    table = {f"{home}:{name}" for name, home in medseg._HOME.items()}
    assert for_editors == table
    assert set(NAMES) == set(medseg._HOME)
    assert set(dir(medseg)) == set(medseg.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    thing = getattr(medseg, name)
    if isinstance(thing, type) or callable(thing):
        assert inspect.getdoc(thing), f"{name} says nothing"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = medseg.no_such_name


@pytest.mark.parametrize("name", NAMES)
def test_every_public_signature_is_typed(name: str) -> None:
    thing = getattr(medseg, name)
    functions: list[Any] = [thing] if inspect.isfunction(thing) else []
    if inspect.isclass(thing):
        members = inspect.getmembers(thing, inspect.isfunction)
        functions = [f for name, f in members if f.__module__.startswith("medseg.") and name[:2] != "__"]
    for function in functions:
        hints = function.__annotations__
        wanted = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
        assert "return" in hints, f"{function.__qualname__} returns something unnamed"
        assert set(wanted) <= set(hints), f"{function.__qualname__}: {set(wanted) - set(hints)}"


def test_no_module_and_public_name_are_confused() -> None:
    rooms = {p.stem for p in FACE.parent.glob("*.py")} | {p.name for p in FACE.parent.iterdir() if p.is_dir()}
    assert not rooms & set(NAMES)


def test_the_errors_of_the_family_are_public() -> None:
    family = {name for name in KNOWN_ERRORS if issubclass(getattr(errors, name), errors.MedsegError)}
    assert family <= set(NAMES)


# ---------------------------------------------------------------------- every room


@pytest.mark.parametrize("path", ROOMS, ids=module_id)
def test_everything_public_is_documented(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "the module says nothing"
    silent = [
        name
        for name, node in functions_and_classes(path)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not ast.get_docstring(node)
    ]
    assert not silent


@pytest.mark.parametrize("path", ROOMS, ids=module_id)
def test_raises_sections_name_errors_of_the_family(path: Path) -> None:
    for name, node in functions_and_classes(path):
        text = ast.get_docstring(node) if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else None
        section = re.search(r"^Raises:\n((?:[ ]+.*\n?|\n)+)", text or "", re.MULTILINE)
        if section:
            named = re.findall(r"^    (\w+):", section.group(1), re.MULTILINE)
            assert named, f"{name}: an empty Raises section"
            assert set(named) <= KNOWN_ERRORS | BUILTIN_ERRORS, f"{name} raises {named}"


@pytest.mark.parametrize("path", ROOMS, ids=module_id)
def test_what_a_function_raises_itself_stands_in_its_docstring(path: Path) -> None:
    for name, node in functions_and_classes(path):
        if not isinstance(node, ast.FunctionDef):
            continue
        raised = {
            each.exc.func.id
            for each in ast.walk(node)
            if isinstance(each, ast.Raise)
            and isinstance(each.exc, ast.Call)
            and isinstance(each.exc.func, ast.Name)
        } & KNOWN_ERRORS
        text = ast.get_docstring(node) or ""
        missing = {kind for kind in raised if kind not in text}
        assert not missing, f"{name} raises {missing} and does not say so"


CODES = re.compile(r"^[A-Z][A-Z0-9_]*[A-Z0-9]$")


@pytest.mark.parametrize("path", ROOMS, ids=module_id)
def test_codes_are_words_in_capitals(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KNOWN_ERRORS
        ):
            continue
        if node.args and isinstance(node.args[0], ast.Constant):
            assert CODES.match(str(node.args[0].value)), node.args[0].value


def test_type_hints_of_the_values_can_be_resolved() -> None:
    for name in ("Geometry", "Volume", "LabelVolume", "InstanceVolume", "Label", "LabelSet", "Progress"):
        assert get_type_hints(getattr(medseg, name))
