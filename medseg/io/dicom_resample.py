"""Tilted and unevenly spaced slices -> an upright, even grid, by policy and on the record.

Every slice keeps the place that its header states. Within a plane of the new grid, a slice is shifted
by its own drift; between two slices, the shifted ones are blended by distance along the normal. A
uniformly tilted series keeps its slice planes, so nothing is blended across slices there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from medseg.geometry import FloatArray
from medseg.io.dicom_geometry import PLACE_TOLERANCE_MM, StackGeometry, resampling_step

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class UprightGrid:
    """An even grid around slices, in the axes of the first slice.

    Attributes:
        offsets_mm: place of each new plane along the normal, from the first slice.
        left: columns added in front (a negative number of columns is never cut off: at most 0).
        top: rows added in front, likewise at most 0.
        rows: of a new plane.
        columns: of a new plane.
        step_mm: distance of new planes.
    """

    offsets_mm: FloatArray
    left: int
    top: int
    rows: int
    columns: int
    step_mm: float


def upright_grid(
    stack: StackGeometry, rows: int, columns: int, pixel_spacing_mm: tuple[float, float]
) -> UprightGrid:
    """The grid that holds all slices where they are.

    Args:
        stack: how slices lie.
        rows: of a slice.
        columns: of a slice.
        pixel_spacing_mm: (between rows, between columns).
    """
    gaps = stack.gaps_mm
    if np.ptp(gaps) <= 2 * PLACE_TOLERANCE_MM:
        offsets = np.linspace(0, stack.offsets_mm[-1], len(stack.order))
    else:
        step = resampling_step(gaps)
        offsets = step * np.arange(max(2, math.floor(stack.offsets_mm[-1] / step + 0.5) + 1))
    across, down = stack.drift_mm[:, 0] / pixel_spacing_mm[1], stack.drift_mm[:, 1] / pixel_spacing_mm[0]
    left, top = math.floor(min(0.0, across.min()) + 1e-3), math.floor(min(0.0, down.min()) + 1e-3)
    right, bottom = math.ceil(max(0.0, across.max()) - 1e-3), math.ceil(max(0.0, down.max()) - 1e-3)
    return UprightGrid(
        offsets, left, top, rows + bottom - top, columns + right - left, float(offsets[1] - offsets[0])
    )


def resample_upright(
    slice_at: Callable[[int], Float32],
    stack: StackGeometry,
    grid: UprightGrid,
    pixel_spacing_mm: tuple[float, float],
    fill: float,
) -> Float32:
    """Slices on their upright grid.

    Args:
        slice_at: real values `(rows, columns)` of the n-th ordered slice.
        stack: how slices lie.
        grid: from `upright_grid`.
        pixel_spacing_mm: (between rows, between columns).
        fill: value where no slice reaches (beyond half a pixel of its outer centres).

    Returns:
        `(planes, rows, columns)`; planes beyond the last slice repeat it.
    """
    result: Float32 = np.empty((len(grid.offsets_mm), grid.rows, grid.columns), dtype=np.float32)

    @lru_cache(maxsize=2)
    def shifted(n: int) -> Float32:
        across = grid.left - stack.drift_mm[n, 0] / pixel_spacing_mm[1]
        down = grid.top - stack.drift_mm[n, 1] / pixel_spacing_mm[0]
        moved = _shift_rows(slice_at(n), down, grid.rows, fill)
        return _shift_rows(moved.T, across, grid.columns, fill).T

    offsets, last = stack.offsets_mm, len(stack.order) - 1
    for k, place in enumerate(grid.offsets_mm):
        lower = int(np.clip(np.searchsorted(offsets, place, side="right") - 1, 0, last))
        upper = min(lower + 1, last)
        weight = (place - offsets[lower]) / (offsets[upper] - offsets[lower]) if upper > lower else 0.0
        if weight < 1e-4:
            result[k] = shifted(lower)
        elif weight > 1 - 1e-4:
            result[k] = shifted(upper)
        else:
            result[k] = shifted(lower) * np.float32(1 - weight) + shifted(upper) * np.float32(weight)
    return result


def _shift_rows(plane: Float32, start: float, count: int, fill: float) -> Float32:
    """Rows at `start`, `start + 1`, …, linearly interpolated; `fill` beyond half a row of the outer ones."""
    rows = plane.shape[0]
    at = np.round(start + np.arange(count), 6)
    clamped = np.clip(at, 0, rows - 1)
    lower = np.floor(clamped).astype(np.intp)
    weight = (clamped - lower).astype(np.float32)[:, None]
    moved: Float32 = plane[lower]
    if weight.any():
        moved = moved + weight * (plane[np.minimum(lower + 1, rows - 1)] - moved)
    outside = (at < -0.5) | (at > rows - 0.5)
    if outside.any():
        moved = moved.copy() if moved is plane else moved
        moved[outside] = fill
    return moved
