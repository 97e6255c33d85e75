"""Intensity steps equal MONAI's on the same array."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from monai.transforms.intensity.array import (
    NormalizeIntensity,
    ScaleIntensity,
    ScaleIntensityRange,
    ScaleIntensityRangePercentiles,
)

from medseg.errors import ModelError
from medseg.models.intensity_steps import FixedRange, IntensityStep, MinMax, PercentileRange, ZScore
from medseg.preprocess.intensity import apply_intensity

PAIRS = [
    (FixedRange(-57, 164, 0, 1, clip=True), ScaleIntensityRange(-57, 164, 0, 1, clip=True)),
    (FixedRange(-57, 164, -1, 2), ScaleIntensityRange(-57, 164, -1, 2)),
    (PercentileRange(0.5, 99.5, 0, 1, clip=True), ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)),
    (PercentileRange(5, 80, -1, 1), ScaleIntensityRangePercentiles(5, 80, -1, 1)),
    (ZScore(), NormalizeIntensity()),
    (ZScore(nonzero=True), NormalizeIntensity(nonzero=True)),
    (MinMax(-1, 1), ScaleIntensity(-1, 1)),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_equals_monai(ours: IntensityStep, theirs: object) -> None:
    array = np.random.default_rng(0).normal(60, 120, (11, 9, 7)).astype(np.float32)
    array[:4] = 0
    expected = np.asarray(theirs(torch.from_numpy(array.copy())[None]))[0]  # type: ignore[operator]  # a transform
    assert np.allclose(apply_intensity(array, [ours]), expected, atol=1e-5)


def test_steps_run_in_order_and_leave_the_source_alone() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    result = apply_intensity(array, [ZScore(), MinMax(0, 10)])
    assert result.dtype == np.float32
    assert np.allclose(result.ravel(), np.linspace(0, 10, 24), atol=1e-5)
    assert np.array_equal(array.ravel(), np.arange(24))


@pytest.mark.parametrize("nonzero", [False, True])
def test_standardising_makes_no_second_volume(nonzero: bool) -> None:
    array = np.random.default_rng(0).normal(60, 120, (64, 128, 128)).astype(np.float32)
    tracemalloc.start()
    try:
        apply_intensity(array, [ZScore(nonzero=nonzero)])
        assert tracemalloc.get_traced_memory()[1] < 1.5 * array.nbytes
    finally:
        tracemalloc.stop()


def test_equal_percentiles_only_shift() -> None:
    array = np.zeros((10, 10, 10), dtype=np.float32)
    array[0, 0, 0] = 5
    assert np.allclose(apply_intensity(array, [PercentileRange(1, 90)]), array)


def test_steps_that_cannot_be_are_refused() -> None:
    for make in (lambda: FixedRange(3, 3), lambda: PercentileRange(60, 40), lambda: MinMax(float("nan"))):
        with pytest.raises(ModelError) as caught:
            make()
        assert caught.value.code == "BAD_CARD"
