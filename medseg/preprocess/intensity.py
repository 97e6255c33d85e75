"""Intensity steps carried out: array in, new float32 array out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.models.intensity_steps import (
    FixedRange,
    FromLowest,
    IntensityStep,
    MinMax,
    PercentileRange,
    Shift,
    Sigmoid,
    SoftLimit,
    Threshold,
    ZScore,
)

FloatArray = npt.NDArray[np.float32]


def apply_intensity(
    array: npt.NDArray[Any], steps: Sequence[IntensityStep], counted: npt.NDArray[np.bool_] | None = None
) -> FloatArray:
    """Carry out steps in order.

    Args:
        array: `(i, j, k)` finite real numbers.
        steps: from a card.
        counted: voxels that count for a `ZScore` with `filled`; those that are not 0 if not given.

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
                if step.nonzero:
                    _standardise(result, counted if step.filled and counted is not None else result != 0)
                else:
                    _standardise(result, None)
            case Shift() | Threshold() | FromLowest() | Sigmoid() | SoftLimit():
                result = _by_voxel(result, step)
    return result


def _by_voxel(array: FloatArray, step: Shift | Threshold | FromLowest | Sigmoid | SoftLimit) -> FloatArray:
    """Steps that are one formula; written into the same memory."""
    match step:
        case Shift():
            array -= np.float32(step.subtract)
            array /= np.float32(step.divide)
        case Threshold():
            dropped = array <= step.limit if step.keep_above else array >= step.limit
            array[dropped] = step.value
        case FromLowest():
            std = float(array.std(dtype=np.float64, ddof=1)) if array.size > 1 else 1.0
            array -= array.min()
            array /= np.float32(std if std > 0 else 1.0)
        case Sigmoid():
            np.tanh(array / np.float32(2), out=array)  # 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2
            array += np.float32(1)
            array /= np.float32(2)
        case SoftLimit():
            np.tanh(array / np.float32(step.limit), out=array)
            array *= np.float32(step.limit)
    return array


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


def _standardise(array: FloatArray, counted: npt.NDArray[np.bool_] | None) -> None:
    """In place, the voxels counted or all; a standard deviation of 0 counts as 1, as in MONAI.

    Sums are in float64, plane by plane: no second volume is made.
    """
    masks = np.broadcast_to(True, array.shape) if counted is None else counted
    parts = list(zip(array, masks, strict=True))
    count = sum(int(where.sum()) for _, where in parts)
    if count == 0:
        return
    mean = sum(float(plane.sum(dtype=np.float64, where=where)) for plane, where in parts) / count
    squares = sum(float(((plane[where].astype(np.float64) - mean) ** 2).sum()) for plane, where in parts)
    std = math.sqrt(squares / count)
    for plane, where in parts:
        plane[where] = (plane[where].astype(np.float64) - mean) / (std if std > 0 else 1.0)
