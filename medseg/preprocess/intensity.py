"""Intensity steps carried out: array in, new float32 array out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.models.intensity_steps import FixedRange, IntensityStep, MinMax, PercentileRange, ZScore

FloatArray = npt.NDArray[np.float32]


def apply_intensity(array: npt.NDArray[Any], steps: Sequence[IntensityStep]) -> FloatArray:
    """Carry out steps in order.

    Args:
        array: `(i, j, k)` finite real numbers.
        steps: from a card.

    Returns:
        `(i, j, k)` float32, a new array.
    """
    result = np.array(array, dtype=np.float32, order="C")
    for step in steps:
        match step:
            case FixedRange():
                _map_range(result, (step.input_min, step.input_max), (step.output_min, step.output_max))
                _clip(result, step)
            case PercentileRange():
                low, high = np.percentile(result, (step.lower_percent, step.upper_percent))
                _map_range(result, (float(low), float(high)), (step.output_min, step.output_max))
                _clip(result, step)
            case MinMax():
                ends = (float(result.min()), float(result.max()))
                _map_range(result, ends, (step.output_min, step.output_max))
            case ZScore():
                _standardise(result, only_nonzero=step.nonzero)
    return result


def _map_range(array: FloatArray, source: tuple[float, float], target: tuple[float, float]) -> None:
    """In place; a source range of no width is only shifted, as MONAI's `ScaleIntensityRange` does."""
    width = source[1] - source[0]
    array -= np.float32(source[0])
    if width != 0:
        array *= np.float32((target[1] - target[0]) / width)
    array += np.float32(target[0])


def _clip(array: FloatArray, step: FixedRange | PercentileRange) -> None:
    if step.clip:
        ends = sorted((step.output_min, step.output_max))
        np.clip(array, ends[0], ends[1], out=array)


def _standardise(array: FloatArray, *, only_nonzero: bool) -> None:
    """In place; a standard deviation of 0 counts as 1, as in MONAI's `NormalizeIntensity`.

    Sums are in float64, plane by plane: no second volume is made.
    """
    parts = [(plane, plane != 0 if only_nonzero else np.ones(plane.shape, dtype=bool)) for plane in array]
    count = sum(int(where.sum()) for _, where in parts)
    if count == 0:
        return
    mean = sum(float(plane.sum(dtype=np.float64, where=where)) for plane, where in parts) / count
    squares = sum(float(((plane[where].astype(np.float64) - mean) ** 2).sum()) for plane, where in parts)
    std = math.sqrt(squares / count)
    for plane, where in parts:
        plane[where] = (plane[where].astype(np.float64) - mean) / (std if std > 0 else 1.0)
