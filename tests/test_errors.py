"""Laws of the error family."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from medseg import errors
from medseg.errors import CancelledError, MedsegError, ReadError

FAMILY = [thing for _, thing in inspect.getmembers(errors, inspect.isclass) if issubclass(thing, MedsegError)]


@pytest.mark.parametrize("kind", FAMILY)
def test_message_and_code_survive_a_process_boundary(kind: type[MedsegError]) -> None:
    error = pickle.loads(pickle.dumps(kind("SOME_CODE", "expected a, got b; do c")))  # noqa: S301  (our own bytes)
    assert type(error) is kind
    assert error.code == "SOME_CODE"
    assert str(error) == "expected a, got b; do c"


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_is_caught_by_the_one_base(kind: type[MedsegError]) -> None:
    with pytest.raises(MedsegError, match="cure"):
        raise kind("X", "cure")


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.GeometryError, ValueError),
        (errors.VolumeError, ValueError),
        (errors.SettingsError, ValueError),
        (errors.ReadError, OSError),
        (errors.WriteError, OSError),
        (errors.ModelNotFoundError, LookupError),
        (errors.ModelError, ValueError),
        (errors.DeviceMemoryError, MemoryError),
    ],
)
def test_each_error_has_its_builtin_parent(kind: type[MedsegError], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)


def test_an_error_of_a_file_does_not_borrow_an_errno() -> None:
    error = ReadError("NOT_FOUND", "expected a file, got none; check the name")
    assert error.errno is None
    assert error.filename is None


def test_a_cancellation_needs_no_words() -> None:
    assert CancelledError().code == "CANCELLED"
    assert str(CancelledError())


ROOT = Path(__file__).resolve().parents[1]
KINDS = {kind.__name__ for kind in FAMILY}


def codes_in(path: Path) -> Iterator[str]:
    """Codes of the errors that a module makes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(code)), *_]) if name in KINDS:
                yield code


def test_every_code_stands_in_the_docs() -> None:
    told = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")))
    folders = (ROOT / "medseg", ROOT / "napari_plugin")
    used = {code for folder in folders for path in folder.rglob("*.py") for code in codes_in(path)}
    assert len(used) > 100
    assert sorted(used - told) == []
