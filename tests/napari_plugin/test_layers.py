"""Volumes become layers and come back: the same voxels, the same place, whatever the orientation."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from napari.layers import Image, Labels, Layer
from strategies import geometries

from medseg import Geometry, GeometryError, InstanceVolume, LabelSet, LabelVolume, Volume
from napari_plugin.layers import (
    adopt,
    image_layer,
    labels_layer,
    labels_of,
    position_of,
    volume_of,
    world_of,
)

ALL_CODES = [
    "".join(codes)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*axes)
]


def scan(geometry: Geometry) -> Volume:
    return Volume(np.arange(geometry.voxels, dtype=np.float32).reshape(geometry.shape), geometry, "MR")


def oblique(shape: tuple[int, int, int] = (5, 6, 7)) -> Geometry:
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.9, 1.1, 3.0)
    affine[:3, 3] = (-30, 12, 5)
    return Geometry(shape, affine)


def made(volume: Volume | LabelVolume) -> Layer:
    if isinstance(volume, Volume):
        data, words, _ = image_layer(volume, "scan")
        return Image(data, **words)
    data, words, _ = labels_layer(volume, "labels")
    return Labels(data, **words)


@pytest.mark.parametrize("codes", ALL_CODES)
def test_every_orientation_comes_back_as_it_was(codes: str) -> None:
    assert len(ALL_CODES) == 48
    volume = scan(Geometry.from_spacing((3, 4, 5), (1.0, 2.0, 3.0))).reorient(codes)
    back = volume_of(made(volume))
    assert np.array_equal(back.array, volume.array)
    assert back.geometry.is_close(volume.geometry)
    assert back.modality == "MR"


@given(geometry=geometries(), index=st.tuples(*[st.floats(-2, 9)] * 3))
@settings(deadline=None, max_examples=40)
def test_a_position_of_the_viewer_is_where_the_file_says(
    geometry: Geometry, index: tuple[float, float, float]
) -> None:
    layer = made(scan(geometry))
    world = geometry.to_world(index)
    size = np.abs(geometry.affine).max() * 10
    assert world_of(layer, position_of(layer, world)) == pytest.approx(tuple(world), abs=1e-6 * size)


def test_a_voxel_lies_in_napari_where_it_lies_in_the_world() -> None:
    """For a grid along the world's axes napari's own coordinates are LPS mm, by its own transforms."""
    geometry = Geometry.from_spacing((3, 4, 5), (1.0, 2.0, 3.0)).reorient("RAS")
    layer = made(scan(geometry))
    for index in ((0, 0, 0), (2, 3, 4), (1, 0, 3)):
        value = scan(geometry).array[index]
        place = np.argwhere(layer.data == value)[0]
        right, anterior, superior = geometry.to_world(index)
        assert layer.data_to_world(place) == pytest.approx((superior, -anterior, -right))


def test_an_axial_slice_hangs_as_radiologists_hang_it() -> None:
    """Rows grow towards the back of the patient, columns towards the left, slices towards the head."""
    volume = scan(Geometry.from_spacing((3, 4, 5)))  # i right, j anterior, k superior
    data, _, _ = image_layer(volume, "scan")
    assert data[0, 0, 0] == volume.array[2, 3, 0]
    assert data[4, 3, 2] == volume.array[0, 0, 4]


def test_an_oblique_scan_turns_about_its_centre() -> None:
    geometry = oblique()
    layer = made(scan(geometry))
    centre = geometry.to_world((np.array(geometry.shape) - 1) / 2)
    assert position_of(layer, centre) == pytest.approx((centre[2], -centre[1], -centre[0]))
    assert world_of(layer, layer.data_to_world((0, 0, 0))) == pytest.approx(
        tuple(geometry.reorient("LPS").to_world((0, 0, 0)))
    )
    assert volume_of(layer).geometry.is_close(geometry)


def test_names_and_colours_are_shown() -> None:
    names = LabelSet.from_names({2: "liver", 7: "spleen"})
    array = np.zeros((3, 4, 5), np.uint8)
    array[1, 1, 1], array[2, 2, 2] = 2, 7
    layer = made(LabelVolume(array, oblique((3, 4, 5)), names))
    liver = names.find("liver").colour
    assert np.round(layer.get_color(2)[:3] * 255) == pytest.approx(liver)
    assert layer.features["index"].tolist() == [0, 2, 7]
    assert layer.features["name"].tolist() == ["background", "liver", "spleen"]


def test_what_was_painted_comes_back_and_the_source_stays() -> None:
    array = np.zeros((3, 4, 5), np.uint8)
    labels = LabelVolume(array, oblique((3, 4, 5)), LabelSet.from_names({1: "liver"}))
    layer = made(labels)
    world = labels.geometry.to_world((2, 1, 4))
    layer.data[tuple(np.round(layer.world_to_data(position_of(layer, world))).astype(int))] = 9
    back = labels_of(layer)
    assert back.array[2, 1, 4] == 9
    assert back.array.sum() == 9
    assert array.sum() == 0
    assert 9 in back.labels


def test_objects_keep_their_classes_and_new_ones_get_the_first() -> None:
    array = np.zeros((3, 4, 5), np.int32)
    array[0, 0, 0], array[1, 1, 1] = 5, 2**31 - 1
    names = LabelSet.from_names({1: "nucleus"})
    layer = made(InstanceVolume(array, oblique((3, 4, 5)), names, {5: 1, 2**31 - 1: 1}))
    layer.data[0, 0, 0] = 8
    back = labels_of(layer)
    assert isinstance(back, InstanceVolume)
    assert back.classes[8] == 1
    assert "nucleus 5" in layer.features["name"].tolist()


@pytest.mark.parametrize("harm", ["moved", "scaled", "cropped"])
def test_a_layer_that_was_moved_is_refused(harm: str) -> None:
    layer = made(scan(oblique()))
    if harm == "moved":
        layer.translate = np.add(layer.translate, (0, 0.5, 0))
    elif harm == "scaled":
        layer.scale = np.asarray(layer.scale) * 1.01
    else:
        layer.data = layer.data[1:]
    with pytest.raises(GeometryError) as caught:
        volume_of(layer)
    assert caught.value.code == "GEOMETRY_CHANGED"


def test_a_layer_made_in_the_viewer_takes_the_place_of_a_scan_of_its_shape() -> None:
    source = made(scan(oblique()))
    drawn = Labels(np.zeros(source.data.shape, np.uint8))
    with pytest.raises(GeometryError) as caught:
        labels_of(drawn)
    assert caught.value.code == "NO_GEOMETRY"
    adopt(drawn, source)
    assert labels_of(drawn).geometry.is_close(volume_of(source).geometry)
    with pytest.raises(GeometryError) as caught:
        adopt(Labels(np.zeros((2, 2, 2), np.uint8)), source)
    assert caught.value.code == "GRID_MISMATCH"


def test_the_layer_tells_no_name_of_a_patient() -> None:
    volume = replace(scan(oblique()), source="DOE_JOHN.nii")
    words = image_layer(volume, "MR")[1]
    assert "DOE" not in repr({key: value for key, value in words.items() if key != "metadata"})
    assert "DOE" not in repr(words["metadata"])
