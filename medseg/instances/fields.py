"""Distance to the background and Gaussian smoothing, in mm, with bits that no block border changes.

Both look a stated number of voxels far and no further. Every value is made by the same float32
operations in the same order wherever it stands, so a block that is read with that margin gives
exactly what the whole volume gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg.instances.compiled import compiled

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_TILE = 64
GAUSSIAN_REACH = 3.0
"""Smoothing looks this many standard deviations far."""


# ---------------------------------------------------------------------- distance


def squared_steps(spacing_mm: float, size: int, limit_mm2: float) -> Float32Array:
    """`(n,)` squared length of 0, 1, 2, … steps along an axis, up to the last below a limit or `size` - 1."""
    steps = np.arange(size, dtype=np.float64) * spacing_mm
    squares: Float32Array = (steps * steps).astype(np.float32)
    return squares[: max(1, int(np.searchsorted(squares, np.float32(limit_mm2))))]


def distance_reach(spacing_mm: Sequence[float], cap_mm: float) -> tuple[int, int, int]:
    """How many voxels away a background voxel can matter to a distance below the cap."""
    i, j, k = (math.ceil(cap_mm / w) for w in spacing_mm)
    return i, j, k


def distance_to_background(mask: BoolArray, spacing_mm: Sequence[float], cap_mm: float) -> Float32Array:
    """Distance of each foreground voxel's centre to the nearest background voxel's centre.

    Exact (Felzenszwalb & Huttenlocher 2012: squared distances are minimised one axis after another;
    here each axis searches outward and stops as soon as steps alone are too long). Beyond the array
    there is neither foreground nor background.

    Args:
        mask: `(i, j, k)` foreground.
        spacing_mm: size of a voxel along each axis.
        cap_mm: larger distances are given as this; finite.

    Returns:
        `(i, j, k)` float32 in mm, 0 in the background.
    """
    limit = np.float32(cap_mm * cap_mm)
    i, j, k = mask.shape
    field: Float32Array = np.empty(mask.shape, dtype=np.float32)
    by_axis = [squared_steps(w, max(mask.shape), float(limit)) for w in spacing_mm]
    _start_along_rows(np.ascontiguousarray(mask), by_axis[2], limit, field)
    _search_along_middle(field, by_axis[1])
    _search_along_middle(field.reshape(1, i, j * k), by_axis[0])
    np.sqrt(field, out=field)
    return field


@compiled
def _start_along_rows(mask: BoolArray, squares: Float32Array, limit: np.float32, out: Float32Array) -> None:
    """First axis of the distance: rows are swept there and back."""
    far = len(squares)
    n0, n1, n2 = mask.shape
    for i in range(n0):
        for j in range(n1):
            steps = far
            for k in range(n2):
                steps = min(steps + 1, far) if mask[i, j, k] else 0
                out[i, j, k] = squares[steps] if steps < far else limit
            steps = far
            for k in range(n2 - 1, -1, -1):
                steps = min(steps + 1, far) if mask[i, j, k] else 0
                if steps < far and squares[steps] < out[i, j, k]:
                    out[i, j, k] = squares[steps]


@compiled
def _search_along_middle(field: Float32Array, squares: Float32Array) -> None:
    """Further axes of the distance, in place: `(a, n, b)` is searched along n."""
    outer, size, inner = field.shape
    column = np.empty((size, _TILE), dtype=np.float32)
    for a in range(outer):
        for left in range(0, inner, _TILE):
            width = min(_TILE, inner - left)
            for n in range(size):
                for b in range(width):
                    column[n, b] = field[a, n, left + b]
            for n in range(size):
                for b in range(width):
                    best = column[n, b]
                    step = 1
                    while step < len(squares) and squares[step] < best:
                        square = squares[step]
                        if n >= step:
                            best = min(best, column[n - step, b] + square)
                        if n + step < size:
                            best = min(best, column[n + step, b] + square)
                        step += 1
                    field[a, n, left + b] = best


# ---------------------------------------------------------------------- smoothing


def gaussian_weights(sigma_voxels: float) -> Float32Array:
    """`(r + 1,)` weights of the centre and of 1 … r voxels to either side; they add up to one."""
    radius = math.ceil(GAUSSIAN_REACH * sigma_voxels)
    steps = np.arange(radius + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (steps / sigma_voxels) ** 2) if radius else np.ones(1)
    total = weights[0] + 2 * weights[1:].sum()
    return np.asarray(weights / total, dtype=np.float32)


def smoothing_reach(spacing_mm: Sequence[float], sigma_mm: float) -> tuple[int, int, int]:
    """How many voxels away a value can matter to a smoothed one."""
    i, j, k = (math.ceil(GAUSSIAN_REACH * sigma_mm / w) for w in spacing_mm)
    return i, j, k


def smooth(field: Float32Array, spacing_mm: Sequence[float], sigma_mm: float) -> Float32Array:
    """Gaussian smoothing in place; the array's borders are mirrors.

    Args:
        field: `(i, j, k)`, contiguous; overwritten.
        spacing_mm: size of a voxel along each axis.
        sigma_mm: standard deviation; 0 leaves the field as it is.

    Returns:
        `field`.
    """
    if sigma_mm > 0:
        i, j, k = field.shape
        by_axis = [gaussian_weights(sigma_mm / w) for w in spacing_mm]
        if len(by_axis[0]) > 1:
            _smooth_along_middle(field.reshape(1, i, j * k), by_axis[0])
        if len(by_axis[1]) > 1:
            _smooth_along_middle(field, by_axis[1])
        if len(by_axis[2]) > 1:
            _smooth_along_rows(field.reshape(i * j, k), by_axis[2])
    return field


@compiled
def _mirrored(place: int, size: int) -> int:
    """Index within an axis of a place beyond its ends, the end voxels standing twice."""
    place = place % (2 * size)
    return place if place < size else 2 * size - 1 - place


@compiled
def _smooth_along_middle(field: Float32Array, weights: Float32Array) -> None:
    """`(a, n, b)` smoothed along n, in place."""
    outer, size, inner = field.shape
    radius = len(weights) - 1
    column = np.empty((size + 2 * radius, _TILE), dtype=np.float32)
    total = np.empty(_TILE, dtype=np.float32)
    for a in range(outer):
        for left in range(0, inner, _TILE):
            width = min(_TILE, inner - left)
            for n in range(size + 2 * radius):
                source = _mirrored(n - radius, size)
                for b in range(width):
                    column[n, b] = field[a, source, left + b]
            for n in range(size):
                for b in range(width):
                    total[b] = weights[0] * column[n + radius, b]
                for step in range(1, radius + 1):
                    for b in range(width):
                        pair = column[n + radius - step, b] + column[n + radius + step, b]
                        total[b] += weights[step] * pair
                for b in range(width):
                    field[a, n, left + b] = total[b]


@compiled
def _smooth_along_rows(field: Float32Array, weights: Float32Array) -> None:
    """`(a, n)` smoothed along n, in place."""
    outer, size = field.shape
    radius = len(weights) - 1
    row = np.empty(size + 2 * radius, dtype=np.float32)
    total = np.empty(size, dtype=np.float32)
    for a in range(outer):
        for n in range(size + 2 * radius):
            row[n] = field[a, _mirrored(n - radius, size)]
        for n in range(size):
            total[n] = weights[0] * row[n + radius]
        for step in range(1, radius + 1):
            for n in range(size):
                total[n] += weights[step] * (row[n + radius - step] + row[n + radius + step])
        field[a, :] = total
