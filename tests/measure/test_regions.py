"""One row per class or object, against formulas and against one mask per label."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import Ellipsoid, Sphere, centre_mm, label_map, linear_ramp, oblique_grid
from strategies import geometries

from medseg.errors import GeometryError, VolumeError
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.measure import regions as module
from medseg.measure.regions import measure_regions
from medseg.volume import InstanceVolume, LabelVolume, Volume

Integers = npt.NDArray[Any]


def test_sphere_on_an_oblique_anisotropic_grid_has_its_formula() -> None:
    grid = oblique_grid((90, 70, 50), (0.6, 0.8, 1.2))
    middle = centre_mm(grid)
    body = Sphere(middle, 17.0)
    (row,) = measure_regions(label_map(grid, {"ball": body}), linear_ramp(grid))
    assert row.volume_mm3 == pytest.approx(body.volume_mm3, rel=0.01)
    assert row.volume_ml == pytest.approx(row.volume_mm3 / 1000)
    assert row.centroid_mm == pytest.approx(middle, abs=0.05)
    ramp_there = 10 + np.dot((0.5, -0.25, 0.125), middle)
    assert row.mean == pytest.approx(ramp_there, abs=0.05)
    # the variance of a linear ramp over a ball of radius r is slope^2 r^2 / 5
    assert row.std == pytest.approx(np.linalg.norm((0.5, -0.25, 0.125)) * 17 / np.sqrt(5), rel=0.01)
    assert not row.touches_border
    assert (row.id, row.class_id, row.name, row.kind) == (1, 1, "ball", "class")


def test_volume_on_a_sheared_grid_is_the_determinant() -> None:
    affine = np.array([[2.0, 0, 0.9, 5], [0, 1, 0.4, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    grid = Geometry((40, 60, 30), affine)
    body = Ellipsoid(centre_mm(grid), (20.0, 15.0, 25.0))
    (row,) = measure_regions(label_map(grid, {"tumour": body}))
    assert row.volume_mm3 == pytest.approx(body.volume_mm3, rel=0.02)
    assert row.centroid_mm == pytest.approx(body.centre_mm, abs=0.2)


@given(
    grid=geometries(most=7, shear=True),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.uint8, np.int16, np.int64, np.uint64]),
    highest=st.sampled_from([3, 100, 2**40]),
    order=st.sampled_from(["C", "F", "flipped"]),
)
@settings(deadline=None, max_examples=50)
def test_equals_one_mask_per_label(grid: Geometry, seed: int, dtype: type, highest: int, order: str) -> None:
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, min(highest, np.iinfo(dtype).max), 4, endpoint=True)
    array: Integers = generator.choice([0, *ids.tolist()], grid.shape).astype(dtype)
    array = np.asfortranarray(array) if order == "F" else array
    array = array[:, ::-1] if order == "flipped" else array
    values = generator.normal(1e5, 3, grid.shape)
    values[generator.random(grid.shape) < 0.1] = np.nan
    rows = measure_regions(LabelVolume(array, grid), Volume(values, grid))
    assert [row.id for row in rows] == [int(i) for i in np.unique(array) if i]
    for row in rows:
        mask = array == row.id
        index = np.argwhere(mask)
        inside = values[mask][np.isfinite(values[mask])]
        assert row.voxels == mask.sum()
        assert row.volume_mm3 == pytest.approx(mask.sum() * grid.voxel_volume_mm3)
        np.testing.assert_allclose(row.centroid_mm, grid.to_world(index).mean(axis=0), atol=1e-6)
        assert row.box_start == tuple(index.min(axis=0))
        assert row.box_stop == tuple(index.max(axis=0) + 1)
        assert row.touches_border == bool((index == 0).any() or (index == np.array(grid.shape) - 1).any())
        assert row.name == f"label {row.id}"
        if inside.size:
            assert row.mean == pytest.approx(inside.mean())
            assert row.std == pytest.approx(inside.std(), abs=1e-6)
            assert (row.minimum, row.maximum) == (inside.min(), inside.max())
        else:
            assert row.mean is row.std is row.minimum is row.maximum is None


def test_slabs_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    grid = Geometry.from_spacing((9, 11, 13), (1, 2, 3))
    labels = LabelVolume(generator.integers(0, 5, grid.shape), grid)
    image = Volume(generator.normal(1000, 1, grid.shape), grid)
    whole = measure_regions(labels, image)
    monkeypatch.setattr(module, "SLAB_VOXELS", 50)
    for one, other in zip(measure_regions(labels, image), whole, strict=True):
        assert one.std == pytest.approx(other.std, rel=1e-9)
        assert one.mean == pytest.approx(other.mean, rel=1e-12)
        assert (one.voxels, one.box_start, one.box_stop) == (other.voxels, other.box_start, other.box_stop)
        assert one.centroid_mm == pytest.approx(other.centroid_mm)


def test_objects_carry_their_class_and_may_have_ids_above_32_bits() -> None:
    grid = Geometry.from_spacing((4, 4, 4))
    array = np.zeros(grid.shape, np.uint64)
    far = 2**63 + 5
    array[0, 0, 0], array[2, 2, 2] = 7, far
    objects = InstanceVolume(array, grid, LabelSet.from_names({3: "lesion"}), classes={7: 3, far: 3})
    rows = measure_regions(objects)
    assert [(r.id, r.class_id, r.name, r.kind) for r in rows] == [
        (7, 3, "lesion", "object"),
        (far, 3, "lesion", "object"),
    ]
    assert [r.touches_border for r in rows] == [True, False]


def test_empty_map_has_no_regions() -> None:
    grid = Geometry.from_spacing((3, 3, 3))
    empty = LabelVolume(np.zeros(grid.shape, np.uint8), grid, LabelSet.from_names({1: "liver"}))
    assert measure_regions(empty) == ()
    assert measure_regions(empty, Volume(np.zeros(grid.shape), grid)) == ()


def test_refuses_another_grid_negative_ids_and_objects_without_class() -> None:
    grid = Geometry.from_spacing((3, 3, 3))
    labels = LabelVolume(np.ones(grid.shape, np.int16), grid)
    moved = Volume(np.zeros(grid.shape), Geometry.from_spacing(grid.shape, (1, 1, 2)))
    with pytest.raises(GeometryError) as caught:
        measure_regions(labels, moved)
    assert caught.value.code == "GRID_MISMATCH"
    with pytest.raises(VolumeError) as refused:
        measure_regions(LabelVolume(-labels.array, grid))
    assert refused.value.code == "NEGATIVE_LABEL"
    with pytest.raises(VolumeError) as classless:
        measure_regions(InstanceVolume(labels.array, grid))
    assert classless.value.code == "OBJECT_WITHOUT_CLASS"
