"""Every hostile input: the code that is promised, no other exception, no crash, bounded time and memory."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import hostile_places  # noqa: F401  its cases join the list
import numpy as np
import pytest
from hostile_dicom import CASES, Case

from medseg.errors import ReadError
from medseg.io.dicom_series import read_series

SECONDS = 10.0


def outcome(path: Path) -> tuple[str, tuple[int, ...]]:
    """(code, shape) of reading one place."""
    with warnings.catch_warnings():
        # Notices of what was assumed are not under test here.
        warnings.simplefilter("ignore")
        try:
            volume = read_series(path)
        except ReadError as error:
            return error.code, ()
    assert np.isfinite(volume.array).all()
    return "OK", volume.array.shape


def test_there_are_a_hundred_and_all_differ() -> None:
    assert len(CASES) >= 100
    assert len({c.name for c in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.encode("ascii", "replace").decode())
def test_hostile_input_gives_its_code(case: Case, tmp_path: Path) -> None:
    path = case.build(tmp_path)
    before = time.monotonic()
    code, shape = outcome(path)
    assert code == case.code
    assert time.monotonic() - before < SECONDS
    if code == "OK":
        assert shape == case.shape
