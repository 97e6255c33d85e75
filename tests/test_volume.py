"""Laws of arrays that know where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import Sphere, centre_mm, label_map, oblique_grid, world_of_voxels
from strategies import label_volumes, orientations, volumes

from medseg.errors import GeometryError, VolumeError
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.volume import InstanceVolume, LabelVolume, Volume

few = settings(deadline=None, max_examples=50)


def sorted_points(volume: Volume | LabelVolume) -> np.ndarray:
    """Every (world point, value) as rows in a fixed order: what a volume says, whatever its axes."""
    rows = np.c_[world_of_voxels(volume.geometry).reshape(-1, 3).round(4), volume.array.reshape(-1)] + 0.0
    return np.asarray(rows[np.lexsort(rows.T[::-1])])


@pytest.mark.parametrize("kind", [Volume, LabelVolume])
def test_an_array_of_another_shape_is_refused(kind: type[Volume] | type[LabelVolume]) -> None:
    with pytest.raises(GeometryError) as caught:
        kind(np.zeros((3, 4, 5), np.uint8), Geometry.from_spacing((3, 4, 6)))
    assert caught.value.code == "GRID_MISMATCH"


@pytest.mark.parametrize("dtype", ["complex64", "object", "U3", "V4", "M8[s]"])
def test_voxels_that_are_no_real_numbers_are_refused(dtype: str) -> None:
    with pytest.raises(VolumeError) as caught:
        Volume(np.zeros((2, 2, 2), dtype), Geometry.from_spacing((2, 2, 2)))
    assert caught.value.code == "BAD_VOXELS"


@pytest.mark.parametrize("dtype", ["float32", "bool", "complex64"])
def test_labels_that_are_no_integers_are_refused(dtype: str) -> None:
    with pytest.raises(VolumeError) as caught:
        LabelVolume(np.zeros((2, 2, 2), dtype), Geometry.from_spacing((2, 2, 2)))
    assert caught.value.code == "NOT_LABELS"


@given(volumes(), orientations)
@few
def test_turning_changes_no_point_of_a_volume(volume: Volume, codes: str) -> None:
    turned = volume.reorient(codes)
    assert turned.geometry.axis_codes == codes
    np.testing.assert_allclose(sorted_points(turned), sorted_points(volume), atol=2e-4)
    back = turned.reorient(volume.geometry.axis_codes)
    np.testing.assert_array_equal(back.array, volume.array)


@given(label_volumes(), orientations)
@few
def test_turning_changes_no_point_of_a_label_map(labels: LabelVolume, codes: str) -> None:
    turned = labels.reorient(codes)
    np.testing.assert_allclose(sorted_points(turned), sorted_points(labels), atol=2e-4)
    assert turned.labels == labels.labels


@given(volumes(), st.data())
@few
def test_a_crop_is_what_a_grid_says_and_padding_brings_the_frame_back(
    volume: Volume, data: st.DataObject
) -> None:
    shape = volume.geometry.shape
    start = [data.draw(st.integers(0, n - 1)) for n in shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
    part = volume.crop(start, stop)
    whole = part.pad(start, [n - b for n, b in zip(shape, stop, strict=True)], value=-7)
    assert whole.geometry.is_close(volume.geometry, 1e-6)
    inside = np.zeros(shape, bool)
    inside[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    np.testing.assert_array_equal(whole.array[inside], volume.array[inside])
    assert (whole.array[~inside] == -7).all()


def test_a_padding_value_that_the_type_cannot_hold_is_refused() -> None:
    volume = Volume(np.zeros((2, 2, 2), np.uint8), Geometry.from_spacing((2, 2, 2)))
    with pytest.raises(VolumeError, match="-1024"):
        volume.pad((1, 1, 1), (1, 1, 1), value=-1024)
    assert volume.pad((1, 1, 1), (1, 1, 1), value=255).array.max() == 255


@pytest.mark.parametrize("kind", [Volume, LabelVolume])
def test_turning_and_cropping_are_views(kind: type[Volume] | type[LabelVolume]) -> None:
    volume = kind(np.zeros((3, 4, 5), np.uint8), oblique_grid((3, 4, 5)))
    assert np.shares_memory(volume.reorient("SPL").array, volume.array)
    assert np.shares_memory(volume.crop((1, 1, 1), (2, 3, 4)).array, volume.array)


def test_what_a_volume_is_called_travels_with_it() -> None:
    volume = Volume(np.zeros((3, 4, 5)), oblique_grid((3, 4, 5)), modality="CT", source="series 3")
    padded = volume.pad((1, 0, 0), (0, 0, 0))
    for other in (volume.reorient("LPS"), volume.crop((0, 0, 0), (1, 1, 1)), padded):
        assert (other.modality, other.source) == ("CT", "series 3")


def test_a_mask_is_one_class() -> None:
    grid = oblique_grid()
    x, y, z = centre_mm(grid)
    labels = label_map(grid, {"big": Sphere((x, y, z), 12), "small": Sphere((x, y, z), 5)})
    assert labels.present_ids() == (1, 2)
    np.testing.assert_array_equal(labels.mask("small"), labels.array == 2)
    np.testing.assert_array_equal(labels.mask(1), labels.array == 1)
    with pytest.raises(VolumeError) as caught:
        labels.mask("medium")
    assert caught.value.code == "UNKNOWN_LABEL"


def test_labels_may_be_named_that_do_not_occur_and_occur_unnamed() -> None:
    array = np.zeros((2, 2, 2), np.int16)
    array[0, 0, 0], array[1, 1, 1] = 9, -3
    labels = LabelVolume(array, Geometry.from_spacing((2, 2, 2)), LabelSet.from_names({1: "liver"}))
    assert labels.present_ids() == (9,)
    assert not labels.mask("liver").any()


def test_instances_stay_instances() -> None:
    array = np.arange(8, dtype=np.int32).reshape(2, 2, 2)
    classes = dict.fromkeys(range(1, 8), 1)
    objects = InstanceVolume(
        array, Geometry.from_spacing((2, 2, 2)), LabelSet.from_names({1: "nucleus"}), classes
    )
    for other in (objects.reorient("LPI"), objects.crop((0, 0, 0), (2, 2, 1))):
        assert isinstance(other, InstanceVolume)
        assert other.classes == classes


def test_a_mask_of_instances_is_all_objects_of_a_class() -> None:
    array = np.array([[[1, 2, 3, 0]]], np.int32)
    names = LabelSet.from_names({1: "nucleus", 2: "cell"})
    objects = InstanceVolume(array, Geometry.from_spacing((1, 1, 4)), names, {1: 2, 2: 1, 3: 2})
    np.testing.assert_array_equal(objects.mask("cell"), [[[True, False, True, False]]])
    np.testing.assert_array_equal(objects.mask("nucleus"), [[[False, True, False, False]]])


def test_values_are_frozen() -> None:
    volume: Any = Volume(np.zeros((2, 2, 2)), Geometry.from_spacing((2, 2, 2)))
    with pytest.raises(AttributeError):
        volume.array = np.ones((2, 2, 2))
