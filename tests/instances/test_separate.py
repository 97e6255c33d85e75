"""Separation as a user calls it: lesions, dumb-bells, spacing, classes, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from strategies import label_volumes

from medseg.errors import CancelledError, GeometryError, SettingsError, VolumeError
from medseg.geometry import Geometry
from medseg.instances.separate import separate
from medseg.instances.settings import PRESETS, SeparationSettings, separation_preset
from medseg.labels import LabelSet
from medseg.progress import CancelToken
from medseg.volume import InstanceVolume, LabelVolume, Volume

SEPARATORS = [
    SeparationSettings(),
    SeparationSettings(split_h_mm=0.4),
    SeparationSettings(diameter_mm=4.0),
    SeparationSettings(diameter_mm=3.0, height="intensity"),
    SeparationSettings(merge_gap_mm=3.0, numbering="position"),
    SeparationSettings(merge_dilation_voxels=1, split_h_mm=0.2),
]


def labelled(array: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> LabelVolume:
    names = LabelSet.from_names({1: "lesion", 2: "organ", 7: "seven"})
    return LabelVolume(array, Geometry.from_spacing(array.shape, spacing), names)


def balls(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], bodies: list[tuple[np.ndarray, float]]
) -> np.ndarray:
    """Union of balls (centre and radius in mm), one at a time in its own box."""
    out = np.zeros(shape, np.uint8)
    for centre, radius in bodies:
        low = [max(0, int((c - radius) / w)) for c, w in zip(centre, spacing, strict=True)]
        high = [int((c + radius) / w) + 2 for c, w in zip(centre, spacing, strict=True)]
        part = tuple(slice(a, min(b, n)) for a, b, n in zip(low, high, shape, strict=True))
        axes = [np.arange(s.start, s.stop) * w for s, w in zip(part, spacing, strict=True)]
        away = sum(
            (axis - c) ** 2
            for axis, c in zip(np.meshgrid(*axes, indexing="ij", sparse=True), centre, strict=True)
        )
        out[part] |= (away <= radius**2).astype(np.uint8)
    return out


# ---------------------------------------------------------------------- the contract of any separator


@pytest.mark.parametrize("choice", SEPARATORS, ids=str)
def test_contract_of_every_separator(choice: SeparationSettings) -> None:
    rng = np.random.default_rng(11)
    coarse = rng.choice(np.array([0, 0, 1, 2, 7], np.int16), (9, 8, 7))
    array = coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2)
    labels = labelled(array, (2.0, 1.0, 0.7))
    image = Volume(rng.normal(size=array.shape).astype(np.float32), labels.geometry)
    before = array.copy()
    result = separate(labels, ["organ", "lesion"], settings=choice, image=image)
    assert np.array_equal(array, before), "the input is left alone"
    assert isinstance(result, InstanceVolume)
    assert result.geometry is labels.geometry
    assert result.array.dtype == np.uint32
    assert list(result.classes) == list(range(1, result.array.max() + 1)) == list(result.present_ids())
    assert set(result.classes.values()) == {1, 2}
    assert sorted(result.classes.values(), reverse=True) == list(result.classes.values()), (
        "one class after another"
    )
    lookup = np.array([0, *result.classes.values()])
    assert np.array_equal(lookup[result.array], np.where(np.isin(array, (1, 2)), array, 0)), (
        "union and classes"
    )
    again = separate(labels, ["organ", "lesion"], settings=choice, image=image)
    assert np.array_equal(result.array, again.array)


@hypothesis_settings(deadline=None, max_examples=25)
@given(labels=label_volumes(least=1, most=7), smallest=st.sampled_from([0.0, 3.0]))
def test_objects_cover_their_class_on_any_grid(labels: LabelVolume, smallest: float) -> None:
    for label in labels.labels:
        result = separate(labels, label.id, settings=SeparationSettings(min_volume_mm3=smallest))
        mask = labels.array == label.id
        assert not (result.array[~mask] > 0).any()
        volumes = np.bincount(result.array.ravel())[1:] * labels.geometry.voxel_volume_mm3
        assert (volumes >= smallest * (1 - 1e-6)).all()
        assert smallest > 0 or (result.array[mask] > 0).all()
        assert list(volumes) == sorted(volumes, reverse=True)


# ---------------------------------------------------------------------- figures


def lesions_with_dumb_bells(seed: int) -> tuple[LabelVolume, np.ndarray]:
    """27 balls far apart and 6 pairs of overlapping ones: 39 lesions in 33 components, 3:1 voxels."""
    rng = np.random.default_rng(seed)
    spacing, shape = (3.0, 1.0, 1.0), (54, 160, 160)
    places = np.stack(np.meshgrid([20, 60, 100, 140], [20, 60, 100, 140], [20, 60, 100, 140]), -1).reshape(
        -1, 3
    )
    places = rng.permutation(places)[:33] + rng.uniform(-3, 3, (33, 3))
    bodies, centres = [], []
    for number, centre in enumerate(places):
        radius = rng.uniform(6 if number < 6 else 4, 9)  # a waist needs two of the 3 mm voxels
        bodies.append((centre, radius))
        centres.append(centre)
        if number < 6:
            towards = rng.normal(size=3)
            towards /= np.linalg.norm(towards)
            other = rng.uniform(0.8, 1.0) * radius
            bodies.append((centre + towards * 0.85 * (radius + other), other))
            centres.append(bodies[-1][0])
    return labelled(balls(shape, spacing, bodies), spacing), np.array(centres)


@pytest.mark.parametrize("h", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_39_lesions_with_six_dumb_bells(h: float, seed: int) -> None:
    labels, centres = lesions_with_dumb_bells(seed)
    assert len(separate(labels, "lesion").classes) == 33
    result = separate(labels, "lesion", settings=SeparationSettings(split_h_mm=h))
    assert len(result.classes) == 39
    at = tuple(np.round(labels.geometry.to_index(centres)).astype(int).T)
    assert sorted(result.array[at]) == list(range(1, 40)), "each centre in an object of its own"


@pytest.mark.parametrize("factors", [(2, 1, 1), (2, 2, 2), (1, 3, 2)])
def test_spacing_law(factors: tuple[int, int, int]) -> None:
    """Touching balls drawn on a finer grid are as many; so are the same voxels cut into smaller ones."""
    rng = np.random.default_rng(5)
    spacing, shape = (1.0, 0.5, 0.5), (30, 60, 60)
    places = np.stack(np.meshgrid([5, 12, 19, 26], [5, 12, 19, 26], [5, 12, 19, 26]), -1).reshape(-1, 3)
    bodies = [(centre + rng.uniform(-0.3, 0.3, 3), 4.0) for centre in places]
    i, j, k = factors
    fine_shape, fine_spacing = (30 * i, 60 * j, 60 * k), (1.0 / i, 0.5 / j, 0.5 / k)
    choice = SeparationSettings(diameter_mm=8.0)
    mask = balls(shape, spacing, bodies)
    fine = balls(fine_shape, fine_spacing, bodies)
    cut = mask.repeat(i, 0).repeat(j, 1).repeat(k, 2)
    found = [
        len(separate(labelled(array, size), 1, settings=choice).classes)
        for array, size in ((mask, spacing), (fine, fine_spacing), (cut, fine_spacing))
    ]
    assert found == [64, 64, 64]


def test_units_do_not_matter() -> None:
    mask = balls((20, 40, 40), (2, 1, 1), [(np.array([20, 15, 20]), 8), (np.array([20, 27, 20]), 8)])
    in_mm = separate(labelled(mask, (2, 1, 1)), 1, settings=SeparationSettings(split_h_mm=1))
    in_um = separate(labelled(mask, (2e-3, 1e-3, 1e-3)), 1, settings=SeparationSettings(split_h_mm=1e-3))
    assert np.array_equal(in_mm.array, in_um.array)
    assert len(in_mm.classes) == 2


def test_brightness_splits_what_depth_cannot() -> None:
    array = np.ones((5, 5, 40), np.uint8)
    profile = np.cos(np.arange(40) * 2 * np.pi / 20) + 1
    labels = labelled(array)
    image = Volume(np.broadcast_to(profile, array.shape).astype(np.float32), labels.geometry)
    choice = SeparationSettings(height="intensity", diameter_mm=10)
    assert len(separate(labels, 1, settings=choice, image=image).classes) == 3
    assert len(separate(labels, 1, settings=SeparationSettings(diameter_mm=10)).classes) == 1


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_run(name: str) -> None:
    labels = labelled(balls((30, 30, 30), (1, 1, 1), [(np.array([8, 8, 8]), 5), (np.array([20, 20, 20]), 2)]))
    assert separate(labels, 1, settings=separation_preset(name)).classes


def test_brats_volume_limit_is_above_50_voxels() -> None:
    array = np.zeros((3, 30, 30), np.uint8)
    array[0, 0, :25] = array[0, 1, :25] = 1
    array[0, 20, :26] = array[0, 21, :25] = 1
    result = separate(labelled(array), 1, settings=separation_preset("brats-men"))
    assert np.bincount(result.array.ravel())[1:].tolist() == [51]


# ---------------------------------------------------------------------- bad input


def test_a_class_without_voxels_has_no_objects() -> None:
    result = separate(labelled(np.zeros((3, 4, 5), np.uint8)), "lesion")
    assert result.classes == {}
    assert not result.array.any()


@pytest.mark.parametrize(
    "choice", [SeparationSettings(), SeparationSettings(split_h_mm=1), SEPARATORS[2]], ids=str
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 5, 4), (1, 9, 1)])
def test_a_class_that_fills_the_volume_is_one_object(
    choice: SeparationSettings, shape: tuple[int, int, int]
) -> None:
    result = separate(labelled(np.ones(shape, np.uint8)), 1, settings=choice)
    assert result.classes == {1: 1}
    assert (result.array == 1).all()


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint64, np.uint8])
def test_gaps_negative_and_unnamed_values_are_background(dtype: type[np.integer]) -> None:
    array = np.zeros((1, 2, 9), dtype)
    array[0, 0] = [1, 1, 0, 7, 7, 0, 1, 0, 7]
    if np.issubdtype(dtype, np.signedinteger):
        array[0, 1] = -1
    result = separate(labelled(array), 7)
    assert result.array[0].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 2], [0] * 9]


def test_values_above_32_bits_are_not_folded_onto_a_class() -> None:
    array = np.zeros((1, 1, 3), np.uint64)
    array[0, 0] = [2**32 + 1, 0, 1]
    assert separate(labelled(array), 1).array.ravel().tolist() == [0, 0, 1]


def test_spacing_of_40_to_1() -> None:
    mask = balls((6, 120, 60), (40, 1, 1), [(np.array([120, 40, 30]), 25), (np.array([120, 80, 30]), 25)])
    assert (
        len(separate(labelled(mask, (40, 1, 1)), 1, settings=SeparationSettings(split_h_mm=1)).classes) == 2
    )


def test_sheared_grids_are_refused_only_where_distances_are_needed() -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.4
    labels = LabelVolume(np.ones((3, 3, 3), np.uint8), Geometry((3, 3, 3), affine), LabelSet.unnamed([1]))
    assert separate(labels, 1).classes == {1: 1}
    for choice in (SeparationSettings(split_h_mm=1), SeparationSettings(merge_gap_mm=2)):
        with pytest.raises(GeometryError) as caught:
            separate(labels, 1, settings=choice)
        assert caught.value.code == "NOT_ORTHOGONAL"


def test_refusals() -> None:
    labels = labelled(np.ones((3, 3, 3), np.uint8))
    bright = SeparationSettings(height="intensity", diameter_mm=2)
    elsewhere = Volume(np.zeros((3, 3, 4)), Geometry.from_spacing((3, 3, 4)))
    hollow = Volume(np.full((3, 3, 3), np.nan), labels.geometry)
    cases: list[tuple[str, type[Exception], dict[str, object]]] = [
        ("UNKNOWN_LABEL", VolumeError, {"class_name": "tumour"}),
        ("BAD_CLASSES", SettingsError, {"class_name": ["lesion", 1]}),
        ("BAD_CLASSES", SettingsError, {"class_name": []}),
        ("IMAGE_NEEDED", SettingsError, {"settings": bright}),
        ("GRID_MISMATCH", GeometryError, {"settings": bright, "image": elsewhere}),
        ("NOT_FINITE", VolumeError, {"settings": bright, "image": hollow}),
    ]
    for code, kind, arguments in cases:
        with pytest.raises(kind) as caught:
            separate(labels, **{"class_name": 1, **arguments})  # type: ignore[arg-type]  # a table of bad calls
        assert getattr(caught.value, "code", None) == code
    with pytest.raises(VolumeError) as objects:
        separate(separate(labels, 1), 1)
    assert objects.value.code == "ALREADY_OBJECTS"


def test_settings_out_of_bounds_are_refused() -> None:
    for wrong in (
        {"split_h_mm": -1},
        {"height": "depth"},
        {"min_volume_mm3": float("nan")},
        {"merge_dilation_voxels": 99},
        {"numbering": "name"},
        {"diameter_mm": float("inf")},
    ):
        with pytest.raises(SettingsError, match="expected"):
            SeparationSettings(**wrong)
    with pytest.raises(SettingsError, match="diameter"):
        SeparationSettings(height="intensity")
    with pytest.raises(SettingsError, match="brats-gli"):
        separation_preset("brats")


def test_cancel_stops() -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        separate(labelled(np.ones((3, 3, 3), np.uint8)), 1, cancel=token)
