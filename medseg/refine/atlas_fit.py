"""Bring an atlas to an image, whatever the image's contrast is.

Puonti, Iglesias, Van Leemput, "Fast and sequence-adaptive whole-brain segmentation using parametric Bayesian
modeling", NeuroImage 143 (2016), after Ashburner, Friston, "Unified segmentation", NeuroImage 26 (2005): the
atlas is bent so that the image becomes most likely under one Gaussian for each tissue, whose means and
variances, and a smooth bias field, follow from the image itself. Here a network's labels are the start: they
say how the head lies, and which intensities the tissues have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.models.atlas import Atlas
from medseg.progress import CancelToken, Progress, ProgressCallback, silent
from medseg.refine.adam import Adam

# What needs numba is imported inside the functions: loading it costs a second that `--help` should not pay.

STAGE = "atlas"
"""Name of the stage in progress reports; a unit is a step of the optimiser."""

LABELLING = "label"
"""Name of the stage after it; a unit is a plane of voxels."""

CHUNKS = 4
"""Parts of a step's points, summed in their order: the same bits for any number of threads."""

FADING = 0.1
"""How fast the tissues' intensities of earlier steps are forgotten."""

LAST_RATE = 0.2
"""Of a stage's optimiser, in parts of its first; it falls evenly."""

FLATNESS = 0.02
"""Weight of the bias field's mean square, which keeps it from taking over what the means say."""

STRUCTURE_SHARE = 0.9
"""Of the points that a step looks at, those drawn structure by structure."""

ONLY_HINTS = 1e-4
"""Distrust of classes other than the hint's in the first step, when no tissue's intensity is known."""

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[Any]


@dataclass(frozen=True)
class Stage:
    """One round of the fit.

    Attributes:
        knot_mm: between the knots of the deformation.
        steps: of the optimiser.
        blur_mm: standard deviation by which the atlas is blurred meanwhile, for a wider view.
    """

    knot_mm: float
    steps: int
    blur_mm: float


@dataclass(frozen=True)
class FitSettings:
    """How an atlas is fitted.

    Attributes:
        stages: from coarse to fine.
        points: voxels that a step looks at.
        stiffness: weight of the deformation's bending.
        rate: of the optimiser, voxels of the atlas a step.
        distrust: factor on the likelihood of classes that are not the hint.
        unexplained: density of intensities that no class explains, of an image from 0 to 1.
        least_deviation: of a tissue's intensity.
        bias_stiffness: weight of the bias field's bending.
        bias_rate: of the optimiser, for the logarithm of the bias field; 0 looks for none.
        bias_knots: of the bias field along each axis.
        agreement: weight of a neighbour 1 mm away, when labels are decided; farther ones weigh less.
        rounds: in which neighbours are heard.
        seed: of the choice of voxels.
    """

    stages: tuple[Stage, ...] = (Stage(32, 40, 3.0), Stage(16, 60, 2.0), Stage(8, 80, 1.0))
    points: int = 60_000
    stiffness: float = 0.02
    rate: float = 0.4
    distrust: float = 0.8
    unexplained: float = 0.01
    least_deviation: float = 0.02
    bias_stiffness: float = 0.05
    bias_rate: float = 0.02
    bias_knots: int = 4
    agreement: float = 0.9
    rounds: int = 2
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Fit:
    """An atlas brought to an image.

    Attributes:
        affine: 4x4, voxel of the image -> voxel of the atlas, before the deformation.
        deformation: `(i, j, k, 3)` float32, voxels of the atlas, on knots that span it.
        bias: `(i, j, k, 1)` float32, logarithm of the bias field, likewise.
        sums: `(3, tissues)`: weight of voxels, weight x intensity, weight x intensity squared; all 0 where
            no intensity is known yet.
    """

    affine: Doubles
    deformation: Floats
    bias: Floats
    sums: Doubles

    def gaussians(self, settings: FitSettings) -> tuple[Doubles, Doubles]:
        """Mean and variance of every tissue; of a tissue that nothing shows, those of all."""
        total = self.sums.sum(1)
        if total[0] == 0:
            return np.full(self.sums.shape[1], 0.5), np.ones(self.sums.shape[1])
        weight, first, second = self.sums + (total / total[0])[:, None]
        means = first / weight
        return means, np.maximum(second / weight - means**2, 0) + settings.least_deviation**2


def fit_atlas(
    image: Floats,
    hints: Labels,
    affine: Doubles,
    atlas: Atlas,
    settings: FitSettings | None = None,
    *,
    threads: int = 0,
    watchers: tuple[ProgressCallback, CancelToken | None] = (silent, None),
) -> Fit:
    """Bring an atlas to an image.

    Args:
        image: `(i, j, k)` intensities, 0 to 1.
        hints: `(i, j, k)` labels to start from.
        affine: 4x4, voxel of the image -> voxel of the atlas.
        atlas: what is known of heads.
        settings: how.
        threads: at most so many; 0 for as many as there are processors.
        watchers: progress, told after every step, and cancelling.

    Raises:
        CancelledError: a stop was asked for.
    """
    settings = settings or FitSettings()
    rng = np.random.default_rng(settings.seed)
    few = [max(3, settings.bias_knots)] * 3
    tissues = int(atlas.tissues.max()) + 1
    bias = np.zeros((*few, 1), np.float32)
    fit = Fit(affine, np.zeros((2, 2, 2, 3), np.float32), bias, np.zeros((3, tissues)))
    chances = _chances(atlas)
    done, steps = 0, sum(stage.steps for stage in settings.stages)
    with ThreadPoolExecutor(threads or None) as pool:
        for stage in settings.stages:
            table = _blurred(atlas, stage.blur_mm)
            spacing = np.linalg.norm(atlas.affine[:3, :3], axis=0)
            knots = np.maximum(3, np.rint(np.array(atlas.shape) * spacing / stage.knot_mm).astype(int) + 1)
            optimiser = (Adam(_resized(fit.deformation, knots)), Adam(fit.bias))
            for number in range(stage.steps):
                if watchers[1] is not None:
                    watchers[1].check()
                points = _points(image.shape, affine, chances, settings.points, rng)
                fit = replace(fit, deformation=optimiser[0].values, bias=optimiser[1].values)
                slopes, sums = _sloped((image, hints), points, fit, (table, atlas), (settings, pool))
                kept = 1 - FADING if fit.sums.any() else 0.0
                fit = replace(fit, sums=kept * fit.sums + (1 - kept) * sums)
                _move(optimiser, slopes, settings, 1 - (1 - LAST_RATE) * number / stage.steps)
                done += 1
                watchers[0](Progress(STAGE, done, steps))
            fit = replace(fit, deformation=optimiser[0].values, bias=optimiser[1].values)
    return fit


def _move(
    optimiser: tuple[Adam, Adam], slopes: tuple[Floats, Floats], settings: FitSettings, rate: float
) -> None:
    """A step of the deformation and of the bias field, up the evidence and against bending."""
    deformation, bias = optimiser
    stiff = settings.stiffness * bending(deformation.values)
    deformation.move(stiff - slopes[0] / settings.points, rate * settings.rate)
    if settings.bias_rate > 0:
        stiff = settings.bias_stiffness * bending(bias.values) + FLATNESS * bias.values / bias.values.size
        bias.move(stiff - slopes[1] / settings.points, rate * settings.bias_rate)


@dataclass(frozen=True, eq=False)
class _Chances:
    """Where in an atlas the points of a step lie.

    Attributes:
        shape: of the atlas.
        summed: `(voxels,)` chance of a point to lie in a voxel, or in one before it.
        counts: `(voxels,)` for how many points a point there counts in the slopes.
    """

    shape: tuple[int, int, int]
    summed: Doubles
    counts: Floats


def _chances(atlas: Atlas) -> _Chances:
    """Most points go to structures, to each as many as the root of its size says, the others anywhere.

    Drawn evenly, few would lie in small structures, and their intensities would hardly be known. In the
    slopes a point counts for as many as would be drawn evenly there (importance sampling), else small
    structures outweigh the atlas: fine for images of one Gaussian a tissue, not for a thalamus that grows
    paler inwards.
    """
    voxels = math.prod(atlas.shape)
    chance = np.full(atlas.shape, (1 - STRUCTURE_SHARE) / voxels)
    roots = np.sqrt(atlas.table.sum((0, 1, 2), dtype=np.float64)) * (atlas.labels > 0)
    for number in np.flatnonzero(roots):
        chance += STRUCTURE_SHARE / roots.sum() / roots[number] * atlas.table[..., number]
    flat = chance.reshape(-1) / chance.sum()
    summed = np.asarray(flat.cumsum(), np.float64)
    return _Chances(atlas.shape, summed / summed[-1], (1 / (voxels * flat)).astype(np.float32))


def _points(
    shape: Sequence[int], affine: Doubles, chances: _Chances, count: int, rng: np.random.Generator
) -> tuple[Labels, Floats]:
    """Voxels of the image, `(n, 3)`, at random places of the atlas, and for how many each counts, `(n,)`.

    There are fewer than `count` where the atlas reaches out of the image.
    """
    drawn = np.searchsorted(chances.summed, rng.random(count), side="right")
    places = np.stack(np.unravel_index(drawn, chances.shape), 1) + rng.uniform(-0.5, 0.5, (count, 3))
    back = np.linalg.inv(affine)
    voxels = np.rint(places @ back[:3, :3].T + back[:3, 3]).astype(np.int64)
    seen = ((voxels >= 0) & (voxels < np.array(shape))).all(1)
    return voxels[seen], chances.counts[drawn[seen]]


def _sloped(
    case: tuple[Floats, Labels],
    points: tuple[Labels, Floats],
    fit: Fit,
    atlas: tuple[npt.NDArray[np.uint8], Atlas],
    how: tuple[FitSettings, ThreadPoolExecutor],
) -> tuple[tuple[Floats, Floats], Doubles]:
    """Slope of the evidence of some voxels by deformation and bias, and the sums of `Fit`."""
    from medseg.refine import atlas_loops

    (voxels, counts), (settings, pool) = points, how
    tables = (atlas[0], atlas[1].labels, atlas[1].tissues)
    distrust = settings.distrust if fit.sums.any() else ONLY_HINTS
    gaussians = fit.gaussians(settings)
    index = tuple(voxels.T)
    values, hints = case[0][index].astype(np.float32), case[1][index].astype(np.int64)
    places = (voxels @ fit.affine[:3, :3].T + fit.affine[:3, 3]).astype(np.float32)

    def part(number: int) -> tuple[Floats, Floats, Doubles]:
        some = slice(number * len(values) // CHUNKS, (number + 1) * len(values) // CHUNKS)
        found = np.zeros_like(fit.deformation), np.zeros_like(fit.bias), np.zeros_like(fit.sums)
        atlas_loops.climb(
            (places[some], values[some], hints[some], counts[some]),
            tables,
            (fit.deformation, fit.bias),
            gaussians,
            (distrust, settings.unexplained),
            found,
        )
        return found

    parts = list(pool.map(part, range(CHUNKS)))
    deformation, bias, sums = (np.sum(np.stack(some), axis=0) for some in zip(*parts, strict=True))
    return (deformation, bias), sums


def _blurred(atlas: Atlas, blur_mm: float) -> npt.NDArray[np.uint8]:
    from scipy.ndimage import gaussian_filter

    sigma = blur_mm / np.linalg.norm(atlas.affine[:3, :3], axis=0)
    blurred = np.empty_like(atlas.table)
    for number in range(atlas.table.shape[3]):
        blurred[..., number] = np.rint(gaussian_filter(atlas.table[..., number].astype(np.float32), sigma))
    return blurred


def _resized(knots: Floats, shape: Sequence[int]) -> Floats:
    """A field on other knots that span the same box, interpolated linearly."""
    from scipy.ndimage import map_coordinates

    axes = [np.linspace(0, old - 1, new) for old, new in zip(knots.shape[:3], shape, strict=True)]
    places = np.meshgrid(*axes, indexing="ij")
    parts = [map_coordinates(knots[..., c], places, order=1, mode="nearest") for c in range(knots.shape[3])]
    return np.stack(parts, -1).astype(np.float32)


def bending(knots: Floats) -> Floats:
    """Slope of the sum over axes of the mean squared second difference along each; of the same shape."""
    slope = np.zeros_like(knots)
    for axis in range(3):
        bent = np.moveaxis(np.diff(knots, 2, axis), axis, 0)
        into = np.moveaxis(slope, axis, 0)
        part = 2 * bent * (knots.shape[3] / max(1, bent.size))
        into[:-2] += part
        into[1:-1] -= 2 * part
        into[2:] += part
    return slope


def decide(
    image: Floats,
    fit: Fit,
    atlas: Atlas,
    spacing_mm: Sequence[float],
    settings: FitSettings | None = None,
    *,
    threads: int = 0,
    watchers: tuple[ProgressCallback, CancelToken | None] = (silent, None),
) -> npt.NDArray[np.uint8]:
    """The most probable label of every voxel; 0 where the atlas does not reach.

    After the first round neighbours are heard: a Potts prior, by iterated conditional modes (Besag, "On the
    statistical analysis of dirty pictures", 1986), all voxels of a round at once.

    Args:
        image: `(i, j, k)` the image that was fitted to.
        fit: of `fit_atlas`.
        atlas: the same.
        spacing_mm: of the image; neighbours that are farther are heard less.
        settings: the same.
        threads: at most so many; 0 for as many as there are processors.
        watchers: progress, told after every plane, and cancelling.

    Raises:
        CancelledError: a stop was asked for.
    """
    from medseg.refine import atlas_loops

    settings = settings or FitSettings()
    tables = (atlas.table, atlas.labels, atlas.tissues)
    gaussians = fit.gaussians(settings)
    fields = (fit.deformation, fit.bias)
    nearness = np.minimum(1, 1 / np.array(spacing_mm)) ** 2
    labels = np.zeros(image.shape, np.uint8)
    with ThreadPoolExecutor(threads or None) as pool:
        for number in range(1 + settings.rounds):
            pull = np.exp(settings.agreement * nearness) if number else np.ones(3)
            before, labels = labels, np.empty_like(labels)
            what = ((image, before, pull), fit.affine, tables, fields, gaussians, labels)
            plane = partial(_decide_plane, atlas_loops.decide, what, watchers[1])
            done_planes = pool.map(plane, range(len(image)))
            for done, _ in enumerate(done_planes, start=1 + number * len(image)):
                watchers[0](Progress(LABELLING, done, (1 + settings.rounds) * len(image)))
    return labels


def _decide_plane(loop: Any, what: tuple[Any, ...], cancel: CancelToken | None, plane: int) -> None:
    if cancel is not None:
        cancel.check()
    case, *rest = what
    loop(case, (plane, plane + 1), *rest)
