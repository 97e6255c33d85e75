"""The record of a run is plain data that says what ran and names nobody."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import geometries

from medseg.geometry import Geometry
from medseg.result import (
    RunRecord,
    hash_volume,
    peak_memory_bytes,
    plain_data,
    settings_data,
    software_versions,
)
from medseg.volume import LabelVolume, Volume


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Options:
    overlap_fraction: float = 0.5
    model: Path = Path("/home/somebody/model.pt")
    ids: frozenset[int] = frozenset({3, 1})
    colour: Colour = Colour.RED


def test_record_survives_json() -> None:
    record = RunRecord(
        input_name="t1.nii.gz",
        settings=settings_data(Options(), None),
        versions=software_versions(),
        seconds={"read": np.float32(0.5).item(), "segment": 2.0},
        peak_memory_bytes=peak_memory_bytes(),
        warnings=("thick slices",),
    )
    data = json.loads(json.dumps(record.as_data(), allow_nan=False))
    assert data["settings"] == {
        "Options": {"overlap_fraction": 0.5, "model": "model.pt", "ids": [1, 3], "colour": "red"}
    }
    assert list(data["seconds"]) == ["read", "segment"]
    assert data["versions"]["numpy"] == np.__version__
    assert data["warnings"] == ["thick slices"]
    assert "somebody" not in json.dumps(data)


def test_plain_data_turns_numpy_and_odd_numbers_into_json() -> None:
    value = {1: np.arange(3), "x": (np.uint64(2**63), math.nan, math.inf, np.bool_(True)), "none": None}
    assert plain_data(value) == {"1": [0, 1, 2], "x": [2**63, None, None, True], "none": None}


def test_peak_memory_is_at_least_what_is_held() -> None:
    held = np.ones(4_000_000)
    peak = peak_memory_bytes()
    assert peak is None or peak > held.nbytes


@given(grid=geometries(least=2, most=5))
@settings(deadline=None, max_examples=20)
def test_hash_sees_voxels_type_and_grid_but_not_memory_order(grid: Geometry) -> None:
    array = np.random.default_rng(1).integers(0, 9, grid.shape).astype(np.int16)
    base = hash_volume(Volume(array, grid))
    assert base == hash_volume(Volume(np.asfortranarray(array), grid, modality="MR", source="b"))
    assert base == hash_volume(LabelVolume(array.astype(">i2"), grid))
    changed = array.copy()
    changed[-1, -1, -1] += 1
    others = [
        Volume(changed, grid),
        Volume(array.astype(np.int32), grid),
        Volume(array, grid.pad((0, 0, 0), (1, 0, 0)).crop((1, 0, 0), np.add(grid.shape, (1, 0, 0)).tolist())),
    ]
    assert base not in {hash_volume(v) for v in others}


def test_versions_load_nothing_heavy() -> None:
    versions = software_versions()
    assert versions["python"].startswith("3.")
    assert "medseg" in versions or "numpy" in versions
    with pytest.raises(KeyError):
        versions["no such package"]
