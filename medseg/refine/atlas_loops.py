"""Compiled loops over voxels for `medseg.refine.atlas_fit`: one step of its fit, and the final answer.

A point is a voxel's place in the atlas after the affine map, in voxels of the atlas. The field moves it on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.instances.compiled import compiled

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

STRANGE = 1e-3
"""Density of intensities that no tissue has, of an image from 0 to 1: there the place alone decides."""


@compiled
def _cell(position: float, length: int) -> tuple[int, float]:
    """Lower neighbour along an axis of that many samples, and how far beyond it; clamped to the axis."""
    clamped = min(max(position, 0.0), length - 1.0)
    low = min(int(clamped), length - 2)
    return low, clamped - low


@compiled
def _corner(low: Array, part: Doubles, corner: int, place: Array) -> float:
    """Sample of a corner (bits i, j, k of its number), written to `place`, and its trilinear weight."""
    weight = 1.0
    for axis in range(3):
        bit = (corner >> axis) & 1
        place[axis] = low[axis] + bit
        weight *= part[axis] if bit else 1.0 - part[axis]
    return weight


@compiled
def _locate(point: Doubles, shape: tuple[int, int, int, int], low: Array, part: Doubles) -> None:
    low[0], part[0] = _cell(point[0], shape[0])
    low[1], part[1] = _cell(point[1], shape[1])
    low[2], part[2] = _cell(point[2], shape[2])


@compiled
def _on_knots(
    point: Array, extent: tuple[int, int, int, int], knots: tuple[int, int, int, int], at: Doubles
) -> None:
    """Where a point of the atlas lies among the knots of a field that spans the atlas."""
    for axis in range(3):
        at[axis] = point[axis] / (extent[axis] - 1) * (knots[axis] - 1)


@compiled
def _point_of(affine: Doubles, i: int, j: int, k: int, point: Doubles) -> None:
    """Where a voxel of an image lies in the atlas."""
    for axis in range(3):
        row = affine[axis]
        point[axis] = row[0] * i + row[1] * j + row[2] * k + row[3]


@compiled
def _read(field: Floats, at: Doubles, low: Array, part: Doubles, place: Array, answer: Doubles) -> None:
    """Values of a field `(i, j, k, components)` between its knots."""
    _locate(at, field.shape, low, part)
    answer[:] = 0.0
    for corner in range(8):
        weight = _corner(low, part, corner, place)
        for component in range(len(answer)):
            answer[component] += weight * field[place[0], place[1], place[2], component]


@compiled
def _prior(
    table: Array, at: Doubles, low: Array, part: Doubles, place: Array, prior: Doubles, slope: Doubles
) -> None:
    """Probability of every class at a point, `(classes,)`, and its slope, `(3, classes)`; of 255 parts."""
    _locate(at, table.shape, low, part)
    prior[:] = 0.0
    slope[:] = 0.0
    for corner in range(8):
        weight = _corner(low, part, corner, place)
        gx = (part[1] if corner & 2 else 1 - part[1]) * (part[2] if corner & 4 else 1 - part[2])
        gy = (part[0] if corner & 1 else 1 - part[0]) * (part[2] if corner & 4 else 1 - part[2])
        gz = (part[0] if corner & 1 else 1 - part[0]) * (part[1] if corner & 2 else 1 - part[1])
        gx = gx if corner & 1 else -gx
        gy = gy if corner & 2 else -gy
        gz = gz if corner & 4 else -gz
        row = table[place[0], place[1], place[2]]
        for k in range(len(prior)):
            if row[k] > 0:
                prior[k] += weight * row[k]
                slope[0, k] += gx * row[k]
                slope[1, k] += gy * row[k]
                slope[2, k] += gz * row[k]


@compiled
def _density(x: float, mean: float, variance: float) -> float:
    """Of a Gaussian."""
    return float(np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance))


@compiled
def climb(
    voxels: tuple[Floats, Floats, Array, Floats],
    tables: tuple[Array, Array, Array],
    fields: tuple[Floats, Floats],
    gaussians: tuple[Doubles, Doubles],
    trust: tuple[float, float],
    found: tuple[Floats, Floats, Doubles],
) -> None:
    """Which way the evidence of voxels rises, and what the tissues' Gaussians are made of.

    Args:
        voxels: points `(n, 3)`, intensities `(n,)`, the label `(n,)` that something else gave each, and for
            how many each counts in the slopes `(n,)`.
        tables: atlas `(i, j, k, classes)` uint8 in 255 parts, label of each class, tissue of each class.
        fields: displacement `(i, j, k, 3)` in voxels of the atlas, and the logarithm of the bias field
            `(i, j, k, 1)`, on knots that span the atlas.
        gaussians: mean and variance of each tissue.
        trust: factor on classes of another label than the hint's, and the density of intensities that no
            class explains.
        found: slopes of the sum of the logarithms of the evidence by both fields, and `(3, tissues)` weight,
            weight x intensity, weight x intensity squared; added to.
    """
    points, values, hints, counts = voxels
    slopes, sums = found[:2], found[2]
    table, label_of, tissue_of = tables
    field, bias = fields
    mean, variance = gaussians
    distrust, unexplained = trust
    classes = len(label_of)
    low, part, place = np.zeros(3, np.int64), np.zeros(3), np.zeros(3, np.int64)
    moved, by, shade, at = np.zeros(3), np.zeros(3), np.zeros(1), np.zeros(3)
    prior, slope = np.zeros(classes), np.zeros((3, classes))
    for n in range(len(points)):
        _on_knots(points[n], table.shape, field.shape, at)
        _read(field, at, low, part, place, by)
        for axis in range(3):
            moved[axis] = points[n, axis] + by[axis]
        _on_knots(points[n], table.shape, bias.shape, at)
        _read(bias, at, low, part, place, shade)
        lighter = np.exp(-shade[0])
        x = values[n] * lighter
        _prior(table, moved, low, part, place, prior, slope)
        evidence, darker = unexplained, 0.0
        dx, dy, dz = 0.0, 0.0, 0.0
        for k in range(classes):
            if prior[k] > 0:
                t = tissue_of[k]
                factor = lighter * _density(x, mean[t], variance[t])
                factor *= 1.0 if label_of[k] == hints[n] else distrust
                joint = prior[k] / 255 * factor
                evidence += joint
                prior[k] = joint
                darker += joint * ((x - mean[t]) * x / variance[t] - 1)
                dx += slope[0, k] * factor
                dy += slope[1, k] * factor
                dz += slope[2, k] * factor
        for k in range(classes):
            if prior[k] > 0:
                weight = prior[k] / evidence
                t = tissue_of[k]
                sums[0, t] += weight
                sums[1, t] += weight * x
                sums[2, t] += weight * x * x
        by[0], by[1], by[2] = dx / 255, dy / 255, dz / 255
        shade[0] = darker
        by *= counts[n] / evidence
        shade *= counts[n] / evidence
        _on_knots(points[n], table.shape, field.shape, at)
        _add(slopes[0], at, low, part, place, by)
        _on_knots(points[n], table.shape, bias.shape, at)
        _add(slopes[1], at, low, part, place, shade)


@compiled
def _add(field: Floats, at: Doubles, low: Array, part: Doubles, place: Array, values: Doubles) -> None:
    """Add values to the knots about a point: the transpose of `_read`."""
    _locate(at, field.shape, low, part)
    for corner in range(8):
        weight = _corner(low, part, corner, place)
        for component in range(len(values)):
            field[place[0], place[1], place[2], component] += weight * values[component]


@compiled
def _votes(before: Array, at: tuple[int, int, int], pull: Doubles, score: Doubles) -> None:
    """Multiply the score of each label by what the six neighbours of a voxel say for it."""
    i, j, k = at
    if i > 0:
        score[before[i - 1, j, k]] *= pull[0]
    if i + 1 < before.shape[0]:
        score[before[i + 1, j, k]] *= pull[0]
    if j > 0:
        score[before[i, j - 1, k]] *= pull[1]
    if j + 1 < before.shape[1]:
        score[before[i, j + 1, k]] *= pull[1]
    if k > 0:
        score[before[i, j, k - 1]] *= pull[2]
    if k + 1 < before.shape[2]:
        score[before[i, j, k + 1]] *= pull[2]


@compiled
def _is_surrounded(before: Array, i: int, j: int, k: int) -> bool:
    """Whether a voxel and its six neighbours have one label: then nothing speaks for another."""
    ends = before.shape
    if not (0 < i < ends[0] - 1 and 0 < j < ends[1] - 1 and 0 < k < ends[2] - 1):
        return False
    own = before[i, j, k]
    return bool(
        before[i - 1, j, k] == own
        and before[i + 1, j, k] == own
        and before[i, j - 1, k] == own
        and before[i, j + 1, k] == own
        and before[i, j, k - 1] == own
        and before[i, j, k + 1] == own
    )


@compiled
def decide(
    case: tuple[Array, Array, Doubles],
    planes: tuple[int, int],
    affine: Doubles,
    tables: tuple[Array, Array, Array],
    fields: tuple[Floats, Floats],
    gaussians: tuple[Doubles, Doubles],
    labels: Array,
) -> None:
    """The most probable label of every voxel of some planes.

    Args:
        case: image `(i, j, k)`; labels of the round before, on the same grid; and by what each neighbour
            along i, j, k multiplies the probability of its own label, 1 where it is not heard.
        planes: first i, and the one after the last.
        affine: 4x4, voxel of the image -> voxel of the atlas.
        tables: as of `climb`.
        fields: as of `climb`.
        gaussians: as of `climb`.
        labels: `(i, j, k)`; those planes are written, with 0 where the atlas does not reach.
    """
    image, before, pull = case
    table, label_of, tissue_of = tables
    field, bias = fields
    mean, variance = gaussians
    classes = len(label_of)
    low, part, place = np.zeros(3, np.int64), np.zeros(3), np.zeros(3, np.int64)
    point, by, shade, at = np.zeros(3), np.zeros(3), np.zeros(1), np.zeros(3)
    prior, slope = np.zeros(classes), np.zeros((3, classes))
    score = np.zeros(max(label_of.max(), before.max()) + 1)
    hears = pull.max() > 1
    for i in range(planes[0], planes[1]):
        for j in range(image.shape[1]):
            for k in range(image.shape[2]):
                if hears and _is_surrounded(before, i, j, k):
                    labels[i, j, k] = before[i, j, k]
                    continue
                _point_of(affine, i, j, k, point)
                inside = True
                for axis in range(3):
                    inside = inside and 0 <= point[axis] <= table.shape[axis] - 1
                if not inside:
                    labels[i, j, k] = 0
                    continue
                _on_knots(point, table.shape, field.shape, at)
                _read(field, at, low, part, place, by)
                _on_knots(point, table.shape, bias.shape, at)
                _read(bias, at, low, part, place, shade)
                point += by
                x = image[i, j, k] * np.exp(-shade[0])
                _prior(table, point, low, part, place, prior, slope)
                score[:] = 0.0
                score[0] = 1e-12
                for c in range(classes):
                    if prior[c] > 0:
                        t = tissue_of[c]
                        score[label_of[c]] += prior[c] * (_density(x, mean[t], variance[t]) + STRANGE)
                _votes(before, (i, j, k), pull, score)
                labels[i, j, k] = np.argmax(score)


@compiled
def carry(known: Array, affine: Doubles, field: Floats, counts: Floats) -> None:
    """Count every voxel's class where it lies in the atlas.

    Args:
        known: `(i, j, k)` class of every voxel of an image.
        affine: 4x4, voxel of the image -> voxel of the atlas.
        field: as of `climb`.
        counts: `(i, j, k, classes)` of the atlas; added to.
    """
    low, part, place = np.zeros(3, np.int64), np.zeros(3), np.zeros(3, np.int64)
    point, by, at = np.zeros(3), np.zeros(3), np.zeros(3)
    for i in range(known.shape[0]):
        for j in range(known.shape[1]):
            for k in range(known.shape[2]):
                _point_of(affine, i, j, k, point)
                _on_knots(point, counts.shape, field.shape, at)
                _read(field, at, low, part, place, by)
                inside = True
                for axis in range(3):
                    place[axis] = int(np.floor(point[axis] + by[axis] + 0.5))
                    inside = inside and 0 <= place[axis] < counts.shape[axis]
                if inside:
                    counts[place[0], place[1], place[2], known[i, j, k]] += 1
