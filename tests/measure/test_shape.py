"""Diameters, roundness and extent against formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import Box, Ellipsoid, Sphere, centre_mm, label_map, oblique_grid

from medseg.geometry import Geometry
from medseg.measure.shape import axial_axis, measure_shapes, section_diameters_mm, sphericity
from medseg.volume import LabelVolume


def test_box_along_the_axes() -> None:
    grid = Geometry.from_spacing((60, 50, 30), (0.5, 1.0, 2.0))
    shape = measure_shapes(label_map(grid, {"box": Box((14.75, 24.5, 29), (12, 16, 20))}))[1]
    assert shape.box_mm == pytest.approx((12, 16, 20))
    assert shape.longest_diameter_mm == pytest.approx(20)  # the diagonal of 12 x 16
    assert shape.perpendicular_diameter_mm == pytest.approx(2 * 12 * 16 / 20)
    assert shape.equivalent_diameter_mm == pytest.approx((6 * 12 * 16 * 20 / math.pi) ** (1 / 3))
    assert shape.nearest_neighbour_mm is None


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "PIR", "ARI"])
def test_ellipsoid_is_measured_in_axial_sections_in_any_orientation(codes: str) -> None:
    grid = Geometry.from_spacing((50, 60, 40), (0.8, 0.7, 1.1)).reorient(codes)
    body = Ellipsoid(centre_mm(grid), (15.0, 9.0, 20.0))
    shape = measure_shapes(label_map(grid, {"x": body}))[1]
    assert shape.longest_diameter_mm == pytest.approx(30, abs=1.5)
    assert shape.perpendicular_diameter_mm == pytest.approx(18, abs=1.5)
    assert shape.box_mm == pytest.approx((30, 18, 40), abs=1.5)


def test_sphere_on_an_oblique_grid() -> None:
    grid = oblique_grid((70, 60, 50), (0.6, 0.7, 0.9), degrees=20)
    ball = Sphere(centre_mm(grid), 12.0)
    shape = measure_shapes(label_map(grid, {"ball": ball}))[1]
    assert shape.equivalent_diameter_mm == pytest.approx(24, rel=0.01)
    assert shape.longest_diameter_mm == pytest.approx(24, abs=1.2)
    assert shape.perpendicular_diameter_mm == pytest.approx(24, abs=1.2)
    assert 0.85 < shape.sphericity < 1
    assert shape.box_mm == pytest.approx((24, 24, 24), abs=2.0)


def test_round_is_rounder_than_long() -> None:
    grid = Geometry.from_spacing((60, 60, 60))
    labels = label_map(
        grid,
        {
            "ball": Sphere((15.0, 30.0, 30.0), 10.0),
            "cigar": Ellipsoid((45.0, 30.0, 30.0), (4.0, 4.0, 25.0)),
        },
    )
    shapes = measure_shapes(labels)
    assert shapes[1].sphericity > shapes[2].sphericity + 0.1
    # a cuboid a x b x c of voxels, its edges cut by marching cubes: (36 pi V^2)^(1/3) / A
    cube = np.ones((40, 40, 40), dtype=bool)
    assert sphericity(cube, np.eye(3)) == pytest.approx((math.pi / 6) ** (1 / 3), abs=0.02)
    assert math.isnan(sphericity(np.zeros((2, 2, 2)), np.eye(3)))


def test_nearest_neighbours() -> None:
    grid = Geometry.from_spacing((40, 10, 10), (2, 1, 1))
    array = np.zeros(grid.shape, np.uint64)
    array[2, 5, 5], array[6, 5, 5], array[30, 5, 5] = 1, 2**50, 2**60
    shapes = measure_shapes(LabelVolume(array, grid))
    found = [shape.nearest_neighbour_mm for shape in shapes.values()]
    assert found == pytest.approx([8, 8, 48])


def test_one_voxel_has_its_own_diagonal() -> None:
    grid = Geometry.from_spacing((3, 3, 3), (3, 4, 5))
    array = np.zeros(grid.shape, np.uint8)
    array[1, 1, 1] = 1
    shape = measure_shapes(LabelVolume(array, grid))[1]
    assert shape.longest_diameter_mm == pytest.approx(5)
    assert shape.perpendicular_diameter_mm == pytest.approx(2 * 3 * 4 / 5)
    assert shape.box_mm == pytest.approx((3, 4, 5))
    assert measure_shapes(LabelVolume(array * 0, grid)) == {}
    assert section_diameters_mm(array * 0, grid) == (0.0, 0.0)


@given(seed=st.integers(0, 2**31), spacing=st.tuples(*[st.floats(0.3, 4)] * 3))
@settings(deadline=None, max_examples=40)
def test_longest_diameter_equals_the_farthest_corners(seed: int, spacing: tuple[float, ...]) -> None:
    generator = np.random.default_rng(seed)
    grid = Geometry.from_spacing((7, 6, 3), spacing)
    mask = generator.random(grid.shape) < 0.3
    mask[3, 3, 1] = True
    plane = mask[:, :, int(np.argmax(mask.sum(axis=(0, 1))))]
    corners = [
        (np.array(index) + np.array((a, b))) * spacing[:2]
        for index in np.argwhere(plane)
        for a in (-0.5, 0.5)
        for b in (-0.5, 0.5)
    ]
    expected = max(np.linalg.norm(a - b) for a in corners for b in corners)
    assert section_diameters_mm(mask, grid)[0] == pytest.approx(expected)


def test_axial_axis_follows_orientation() -> None:
    grid = Geometry.from_spacing((4, 5, 6))
    assert [axial_axis(grid.reorient(codes)) for codes in ("RAS", "SAR", "LIP")] == [2, 0, 1]
