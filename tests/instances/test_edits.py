"""Corrected objects: what an edit says, what it leaves alone, and that it can be taken back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import Sphere, label_map

from medseg import (
    Edit,
    Geometry,
    GeometryError,
    InstanceVolume,
    LabelSet,
    LabelVolume,
    SeparationSettings,
    VolumeError,
    delete_objects,
    edited,
    merge_objects,
    split_object,
    split_object_at,
)

LEFT, RIGHT = (12.0, 15.0, 15.0), (23.0, 15.0, 15.0)


def dumbbell() -> LabelVolume:
    """Two balls of 7 and 6 mm that overlap, as one class, and a third ball far away."""
    geometry = Geometry.from_spacing((40, 30, 30))
    one = label_map(geometry, {"lesion": Sphere(LEFT, 7)})
    two = label_map(geometry, {"lesion": Sphere(RIGHT, 6)})
    far = label_map(geometry, {"lesion": Sphere((36, 26, 26), 2)})
    array = np.maximum(one.array, two.array)
    array = np.where(far.array > 0, 2, array).astype(np.uint8)
    return LabelVolume(array, geometry, LabelSet.from_names({1: "lesion", 2: "cyst"}))


def objects() -> InstanceVolume:
    labels = dumbbell()
    return InstanceVolume(labels.array.astype(np.uint32), labels.geometry, labels.labels, {1: 1, 2: 2})


def at(labels: LabelVolume, point: tuple[float, float, float]) -> int:
    return int(labels.array[tuple(np.round(labels.geometry.to_index(point)).astype(int))])


def test_a_neck_splits_in_two_balls() -> None:
    labels = dumbbell()
    after = edited(labels, split_object(labels, 1, SeparationSettings(split_h_mm=1.0)))
    assert (at(after, LEFT), at(after, RIGHT)) == (1, 3)  # the larger keeps its id
    assert after.labels.names == {1: "lesion", 2: "cyst", 3: "lesion 2"}
    assert np.array_equal(after.array > 0, labels.array > 0)


def test_a_height_above_the_neck_splits_nothing() -> None:
    labels = dumbbell()
    assert split_object(labels, 1, SeparationSettings(split_h_mm=6.0)).ids == ()
    assert split_object(labels, 1).ids == ()  # one connected component


def test_clicks_split_where_they_are_and_agree_with_the_neck() -> None:
    labels = dumbbell()
    clicked = edited(labels, split_object_at(labels, 1, [LEFT, RIGHT]))
    by_neck = edited(labels, split_object(labels, 1, SeparationSettings(split_h_mm=1.0)))
    assert (at(clicked, LEFT), at(clicked, RIGHT)) == (1, 3)
    differ = (clicked.array != by_neck.array).sum()
    assert differ < 0.02 * (labels.array > 0).sum()


def test_a_click_beside_the_object_counts_for_its_nearest_voxel() -> None:
    labels = dumbbell()
    after = edited(labels, split_object_at(labels, 1, [(0.0, 15.0, 15.0), (33.0, 15.0, 15.0)]))
    assert (at(after, LEFT), at(after, RIGHT)) == (1, 3)


@pytest.mark.parametrize("points", [[], [LEFT], [LEFT, LEFT]])
def test_too_few_clicks_are_refused(points: list[tuple[float, float, float]]) -> None:
    with pytest.raises(VolumeError) as caught:
        split_object_at(dumbbell(), 1, points)
    assert caught.value.code == "TOO_FEW_POINTS"


def test_merged_objects_have_the_first_ones_id_and_class() -> None:
    labels = objects()
    after = edited(labels, merge_objects(labels, [2, 1]))
    assert isinstance(after, InstanceVolume)
    assert after.present_ids() == (2,)
    assert after.classes[2] == 2


def test_a_split_objects_parts_have_its_class() -> None:
    labels = objects()
    after = edited(labels, split_object_at(labels, 1, [LEFT, RIGHT]))
    assert isinstance(after, InstanceVolume)
    assert after.classes == {1: 1, 2: 2, 3: 1}


def test_a_deleted_object_is_background_and_others_stay() -> None:
    labels = objects()
    after = edited(labels, delete_objects(labels, [1]))
    assert np.array_equal(after.array, np.where(labels.array == 1, 0, labels.array))


def test_an_id_beyond_the_type_widens_it() -> None:
    labels = dumbbell()
    full = LabelVolume(np.where(labels.array == 2, 255, labels.array).astype(np.uint8), labels.geometry)
    after = edited(full, split_object_at(full, 1, [LEFT, RIGHT]))
    assert after.present_ids() == (1, 255, 256)


@pytest.mark.parametrize("edit", [delete_objects, merge_objects])
def test_objects_that_are_not_there_are_refused(edit: object) -> None:
    with pytest.raises(VolumeError) as caught:
        edit(dumbbell(), [7, 8])  # type: ignore[operator]  # either of two functions
    assert caught.value.code == "NO_SUCH_OBJECT"
    with pytest.raises(VolumeError) as caught:
        merge_objects(dumbbell(), [1, 1])
    assert caught.value.code == "TOO_FEW_OBJECTS"


def test_a_sheared_grid_is_refused() -> None:
    labels = dumbbell()
    affine = labels.geometry.affine.copy()
    affine[1, 2] = 0.4
    sheared = LabelVolume(labels.array, Geometry(labels.array.shape, affine))
    with pytest.raises(GeometryError) as caught:
        split_object_at(sheared, 1, [LEFT, RIGHT])
    assert caught.value.code == "NOT_ORTHOGONAL"


boxes = st.tuples(*[st.integers(0, 5)] * 3, *[st.integers(1, 4)] * 3)


@given(first=boxes, second=boxes, values=st.tuples(*[st.integers(0, 9)] * 2), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_an_edit_taken_back_alone_leaves_later_ones(
    first: tuple[int, ...], second: tuple[int, ...], values: tuple[int, int], seed: int
) -> None:
    """Undo of one object among others: its voxels are as before, but where somebody wrote since."""
    array = np.random.default_rng(seed).integers(10, 14, (8, 8, 8), dtype=np.int32)
    before = array.copy()
    edits = []
    for box, value in zip((first, second), values, strict=True):
        part = tuple(slice(a, a + n) for a, n in zip(box[:3], box[3:], strict=True))
        old = array[part].copy()
        edits.append(Edit((box[0], box[1], box[2]), old, np.full_like(old, value)))
        assert edits[-1].apply(array) == (old != value).sum()
    both = array.copy()
    edits[0].revert(array)
    written_since = both == values[1]
    other = ~written_since
    assert np.array_equal(array[other], before[other])
    edits[1].revert(array)
    edits[0].revert(array)
    assert np.array_equal(array, before) or values[0] == values[1]
