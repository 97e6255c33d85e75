"""Hypothesis strategies: grids of every kind that scanners and programs produce, and label maps."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st
from phantoms import rotation

from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.volume import LabelVolume, Volume

ORIENTATIONS = tuple(
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*axes)
)
"""All 48 axis codes, from `"LPI"` to `"SAR"`."""

spacings_mm = st.floats(0.2, 6.0).map(lambda x: round(x, 4))
offsets_mm = st.floats(-300, 300).map(lambda x: round(x, 3))
orientations = st.sampled_from(ORIENTATIONS)


def shapes(least: int = 1, most: int = 9) -> st.SearchStrategy[tuple[int, int, int]]:
    """Small shapes, of unequal sizes mostly."""
    size = st.integers(least, most)
    return st.tuples(size, size, size)


@st.composite
def geometries(
    draw: st.DrawFn,
    *,
    least: int = 1,
    most: int = 9,
    oblique: bool = True,
    shear: bool = False,
    isotropic: bool = False,
) -> Geometry:
    """Grids of any orientation and spacing.

    Args:
        draw: given by hypothesis.
        least: smallest size along an axis.
        most: largest.
        oblique: turned by up to 44 degrees around any axis, or along the world's axes.
        shear: voxel axes may leave the right angle by up to 25 degrees (gantry tilt).
        isotropic: one spacing for all axes.
    """
    shape = draw(shapes(least, most))
    spacing = [draw(spacings_mm)] * 3 if isotropic else [draw(spacings_mm) for _ in range(3)]
    matrix = np.eye(3)
    if oblique:
        axis = draw(st.sampled_from([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 2, 3), (-2, 1, 1)]))
        matrix = rotation(axis, draw(st.floats(-44, 44)))
    if shear:
        tilt = np.eye(3)
        tilt[draw(st.sampled_from([0, 1])), 2] = np.tan(np.radians(draw(st.floats(-25, 25))))
        matrix = matrix @ tilt
    affine = np.eye(4)
    affine[:3, :3] = matrix * np.asarray(spacing)
    affine[:3, 3] = [draw(offsets_mm) for _ in range(3)]
    return Geometry(shape, affine).reorient(draw(orientations))


@st.composite
def volumes(draw: st.DrawFn, /, dtype: str = "float32", **grid: Any) -> Volume:
    """Noise on any grid; `grid` as in `geometries`."""
    geometry = draw(geometries(**grid))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(100, 40, geometry.shape)
    return Volume(noise.astype(dtype), geometry)


@st.composite
def label_volumes(draw: st.DrawFn, /, *, classes: int = 3, dtype: str = "uint8", **grid: Any) -> LabelVolume:
    """Random labels 0..classes on any grid, each class named; `grid` as in `geometries`."""
    geometry = draw(geometries(**grid))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = random.integers(0, classes + 1, geometry.shape).astype(dtype)
    names = {i: f"structure {i}" for i in range(1, classes + 1)}
    return LabelVolume(array, geometry, LabelSet.from_names(names))
