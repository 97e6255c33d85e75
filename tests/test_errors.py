"""Laws of the error family."""

from __future__ import annotations

import inspect
import pickle

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
