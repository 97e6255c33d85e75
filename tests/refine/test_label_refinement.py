"""Refinement by a fully connected conditional random field, held against the sum over all pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

import medseg
from medseg.cli.main import run
from medseg.errors import CancelledError, DeviceMemoryError, GeometryError, SettingsError, VolumeError
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.refine import labels as refining
from medseg.refine.labels import refine_labels
from medseg.refine.mean_field import Field, first_beliefs, rounds
from medseg.refine.settings import RefinementSettings, odds_to_overcome
from medseg.volume import InstanceVolume, LabelVolume, Volume

SPACING = (1.0, 1.5, 3.0)
FloatArray = npt.NDArray[np.float64]


def pair_weights(field: Field) -> tuple[FloatArray, FloatArray]:
    """Both Gaussians between all pairs of voxels, each row of sum 1: N x N numbers."""
    points = np.indices(field.labels.shape).reshape(3, -1).T * np.array(field.spacing_mm)
    distance2 = ((points[:, None] - points[None]) ** 2).sum(-1)
    likeness = field.brightness.reshape(-1).astype(np.float64)
    unlike2 = (likeness[:, None] - likeness[None]) ** 2
    chosen = field.settings
    appearance = np.exp(-distance2 / (2 * chosen.appearance_mm**2) - unlike2 / 2)
    smoothness = np.exp(-distance2 / (2 * chosen.smoothness_mm**2))
    return appearance / appearance.sum(1, keepdims=True), smoothness / smoothness.sum(1, keepdims=True)


def mean_field_of_all_pairs(field: Field) -> FloatArray:
    """Logarithms of the beliefs after all rounds, `(voxels, classes)`, by the definition."""
    start = first_beliefs(field.classes, field.settings.confidence).astype(np.float64)[
        field.labels.reshape(-1)
    ]
    appearance, smoothness = pair_weights(field)
    energy = start
    for _ in range(field.settings.iterations):
        belief = np.exp(energy - energy.max(1, keepdims=True))
        belief /= belief.sum(1, keepdims=True)
        energy = start + field.weights[0] * appearance @ belief + field.weights[1] * smoothness @ belief
    return energy


def random_field(seed: int, chosen: RefinementSettings, classes: int = 3) -> Field:
    rng = np.random.default_rng(seed)
    shape = (13, 11, 9)
    parts = np.digitize(gaussian_filter(rng.normal(size=shape), 2), (-0.05, 0.05))
    wrong = rng.random(shape) < 0.25
    numbers = np.where(wrong, rng.integers(0, classes, shape), np.minimum(parts, classes - 1))
    brightness = np.abs(3.0 * parts + rng.normal(0, 0.7, shape)).astype(np.float32)
    return Field(brightness, numbers.astype(np.uint16), classes, SPACING, chosen)


def refined(field: Field) -> npt.NDArray[np.uint16]:
    *before, last = rounds(field)
    assert before == [None] * field.settings.iterations
    assert last is not None
    return last


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "chosen",
    [
        RefinementSettings(),
        RefinementSettings(appearance_weight=6, smoothness_weight=0.0, appearance_mm=3.1),
        RefinementSettings(appearance_weight=0, smoothness_weight=4, smoothness_mm=1.2),
        RefinementSettings(smoothness_weight=4, smoothness_mm=7, iterations=1),
    ],
)
def test_labels_are_those_of_all_pairs(chosen: RefinementSettings, seed: int) -> None:
    """The grid is an approximation: where the two best classes are clearly apart, it decides alike."""
    field = random_field(seed, chosen)
    energy = mean_field_of_all_pairs(field)
    expected, found = energy.argmax(1), refined(field).reshape(-1)
    second, best = np.sort(energy, axis=1)[:, -2:].T
    assert (expected != field.labels.reshape(-1)).mean() > 0.05
    assert (found == expected).mean() > 0.93
    assert (found == expected)[best - second > 0.3].mean() > 0.99


def ball_scan(noise: float = 0.15) -> tuple[LabelVolume, LabelVolume, Volume]:
    """A ball in a ball on 1 x 1 x 2 mm: truth, labels with a fifth of them wrong, and a noisy image."""
    rng = np.random.default_rng(1)
    geometry = Geometry.from_spacing((48, 48, 24), (1.0, 1.0, 2.0))
    points = (np.indices(geometry.shape).T - (24, 24, 12)) * (1.0, 1.0, 2.0)
    radius = np.linalg.norm(points, axis=-1).T
    truth = ((radius < 17).astype(np.uint8) + (radius < 9)).astype(np.uint8)
    blobs = gaussian_filter(rng.normal(size=geometry.shape), 2)
    wrong = (blobs > np.quantile(blobs, 0.9)) | (rng.random(geometry.shape) < 0.1)
    given_labels = np.where(wrong, (truth + rng.integers(1, 3, truth.shape)) % 3, truth).astype(np.uint8)
    image = 400.0 * np.array([0.0, 0.5, 1.0])[truth] + rng.normal(0, 400 * noise, truth.shape)
    names = LabelSet.from_names({1: "shell", 2: "core"})
    return (
        LabelVolume(truth, geometry, names),
        LabelVolume(given_labels, geometry, names),
        Volume(image.astype(np.float32), geometry),
    )


def dice(found: LabelVolume, truth: LabelVolume) -> float:
    return float(np.mean([score.dice for score in medseg.evaluate_labels(found, truth)]))


def test_a_noisy_label_map_comes_nearer_to_the_truth() -> None:
    truth, noisy, image = ball_scan()
    assert dice(noisy, truth) < 0.8
    assert dice(refine_labels(noisy, image), truth) > 0.97


def cells_scan(classes: int) -> tuple[LabelVolume, LabelVolume, Volume]:
    """Cells of one class each: truth, labels with a fifth of them wrong, and a noisy image."""
    rng = np.random.default_rng(classes)
    geometry = Geometry.from_spacing((40, 40, 20), (1.0, 1.0, 2.0))
    points = np.indices(geometry.shape).reshape(3, -1).T * np.array(geometry.spacing_mm)
    seeds = points[rng.choice(len(points), classes, replace=False)]
    truth = cKDTree(seeds).query(points)[1].reshape(geometry.shape)
    blobs = gaussian_filter(rng.normal(size=geometry.shape), 2)
    wrong = (blobs > np.quantile(blobs, 0.9)) | (rng.random(geometry.shape) < 0.1)
    noisy = np.where(wrong, (truth + rng.integers(1, classes, truth.shape)) % classes, truth)
    image = rng.permutation(np.linspace(0, 400, classes))[truth] + rng.normal(0, 20, truth.shape)
    names = LabelSet.unnamed(range(1, classes))
    right, given_labels = (LabelVolume(array.astype(np.uint8), geometry, names) for array in (truth, noisy))
    return right, given_labels, Volume(image.astype(np.float32), geometry)


@pytest.mark.parametrize("classes", [2, 8, 33])
def test_any_number_of_classes_is_refined_without_a_flag(classes: int, tmp_path: Path) -> None:
    truth, noisy, image = cells_scan(classes)
    labels, scan, better = (str(tmp_path / f"{name}.nii.gz") for name in ("labels", "scan", "better"))
    medseg.write_labels(noisy, labels)
    medseg.write_volume(image, scan)
    assert run(["refine", labels, "--image", scan, "-o", better]) == 0
    assert dice(noisy, truth) < 0.9
    assert dice(medseg.read_labels(better), truth) > 0.95
    assert dice(refine_labels(truth, image), truth) > 0.99


def test_the_usual_weights_ask_the_same_share_of_neighbours_of_any_number_of_classes() -> None:
    usual = RefinementSettings()
    assert usual.weights(2) == usual.weights(3) == (3.0, 1.0)
    shares = [odds_to_overcome(n, 0.7) / sum(usual.weights(n)) for n in range(3, 120)]
    assert shares == pytest.approx([shares[0]] * len(shares))
    assert RefinementSettings(appearance_weight=0.0).weights(33)[0] == 0
    assert RefinementSettings(smoothness_weight=5.0).weights(33) == (usual.weights(33)[0], 5.0)


def test_pulls_too_weak_for_many_classes_are_told() -> None:
    """Never a run that cannot do anything: with the weights of the message, labels do change."""
    _, noisy, image = ball_scan()
    crowded = noisy.array.copy()
    crowded[0, 0, :] = np.arange(3, 3 + crowded.shape[2])
    labels = LabelVolume(crowded, noisy.geometry, LabelSet.unnamed(range(1, 3 + crowded.shape[2])))
    with pytest.raises(SettingsError) as caught:
        refine_labels(labels, image, RefinementSettings(appearance_weight=2.0, smoothness_weight=1.0))
    assert caught.value.code == "NOTHING_CAN_CHANGE"
    found = refine_labels(labels, image, RefinementSettings(appearance_weight=8.0))
    assert not np.array_equal(found.array, crowded)


def test_a_right_label_map_stays_right() -> None:
    truth, _, image = ball_scan()
    assert dice(refine_labels(truth, image), truth) > 0.98


def test_lengths_are_millimetres() -> None:
    """The same voxels called ten times larger need settings ten times larger to give the same labels."""
    _, noisy, image = ball_scan()
    large = Geometry.from_spacing(noisy.geometry.shape, (10.0, 10.0, 20.0))
    chosen = RefinementSettings(iterations=2)
    larger = replace(chosen, appearance_mm=60, smoothness_mm=20)
    one = refine_labels(noisy, image, chosen)
    other = refine_labels(replace(noisy, geometry=large), replace(image, geometry=large), larger)
    unscaled = refine_labels(replace(noisy, geometry=large), replace(image, geometry=large), chosen)
    assert np.array_equal(one.array, other.array)
    assert not np.array_equal(one.array, unscaled.array)


@settings(deadline=None, max_examples=20)
@given(scale=st.floats(1e-3, 1e6), offset=st.floats(-1e3, 1e3))
def test_units_of_the_image_do_not_matter(scale: float, offset: float) -> None:
    _, noisy, image = ball_scan()
    part = slice(18, 30), slice(18, 30), slice(8, 16)
    geometry = Geometry.from_spacing((12, 12, 8))
    small = LabelVolume(noisy.array[part], geometry, noisy.labels)
    values = image.array[part].astype(np.float64)
    one = refine_labels(small, Volume(values, geometry))
    other = refine_labels(small, Volume(values * scale + offset * scale, geometry))
    assert (one.array == other.array).mean() > 0.995


def test_a_constant_image_leaves_smoothing_alone() -> None:
    _, noisy, image = ball_scan()
    flat = replace(image, array=np.full(image.array.shape, 7, dtype=np.int16))
    found = refine_labels(noisy, flat)
    assert set(np.unique(found.array)) <= {0, 1, 2}


@pytest.mark.parametrize("ids", [(), (5,)])
def test_nothing_to_decide_leaves_labels_alone(ids: tuple[int, ...]) -> None:
    geometry = Geometry.from_spacing((6, 6, 6))
    array = np.full(geometry.shape, ids[0] if ids else 0, dtype=np.uint8)
    labels = LabelVolume(array, geometry, LabelSet.unnamed(ids))
    found = refine_labels(labels, Volume(np.random.default_rng(0).random(geometry.shape), geometry))
    assert np.array_equal(found.array, array)


def test_ids_types_and_far_voxels_stay() -> None:
    """A label far from the others, negative or huge, is looked at alike; what is far from any, not at all."""
    geometry = Geometry.from_spacing((60, 12, 12))
    array = np.zeros(geometry.shape, dtype=np.int32)
    array[5:10, 2:9, 2:9], array[10:15, 2:9, 2:9] = 70_000, -3
    image = np.where(array == 0, 0.0, np.where(array < 0, 1.0, 2.0))
    image[50:] = np.nan
    found = refine_labels(LabelVolume(array, geometry), Volume(image, geometry))
    assert found.array.dtype == np.int32
    assert np.array_equal(found.array, array)


def test_what_cannot_be_refined_is_refused() -> None:
    truth, noisy, image = ball_scan()
    objects = InstanceVolume(truth.array, truth.geometry, truth.labels, {1: 1, 2: 2})
    moved = replace(image, geometry=Geometry.from_spacing(image.geometry.shape, (2, 2, 2)))
    broken = replace(image, array=np.where(truth.array == 2, np.inf, image.array))
    sheared = np.eye(4)
    sheared[0, 2] = 0.4
    tilted = Geometry(truth.geometry.shape, sheared)
    for labels, scan, kind, code in (
        (objects, image, VolumeError, "ALREADY_OBJECTS"),
        (noisy, moved, GeometryError, "GRID_MISMATCH"),
        (noisy, broken, VolumeError, "NOT_FINITE"),
        (replace(noisy, geometry=tilted), replace(image, geometry=tilted), GeometryError, "NOT_ORTHOGONAL"),
    ):
        with pytest.raises(kind) as caught:
            refine_labels(labels, scan)
        assert caught.value.code == code
    with pytest.raises(SettingsError):
        RefinementSettings(confidence=1.0)


def test_too_little_memory_is_told_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    _, noisy, image = ball_scan()
    monkeypatch.setattr(refining, "free_memory_bytes", lambda: 1000)
    with pytest.raises(DeviceMemoryError, match="3 classes"):
        refine_labels(noisy, image)


def test_it_reports_and_stops() -> None:
    _, noisy, image = ball_scan()
    told: list[medseg.Progress] = []
    cancel = medseg.CancelToken()
    refine_labels(noisy, image, RefinementSettings(iterations=2), progress=told.append)
    assert [(p.done, p.total) for p in told] == [(1, 3), (2, 3), (3, 3)]
    cancel.cancel()
    with pytest.raises(CancelledError):
        refine_labels(noisy, image, cancel=cancel)


def test_the_command_writes_what_python_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, noisy, image = ball_scan()
    medseg.write_labels(noisy, tmp_path / "labels.nii.gz")
    medseg.write_volume(image, tmp_path / "scan.nii.gz")
    words = ["refine", "labels.nii.gz", "--image", "scan.nii.gz", "-o", "better.nii.gz", "--iterations", "2"]
    assert run([str(tmp_path / word) if word.endswith(".gz") else word for word in [*words, "--json"]]) == 0
    found = medseg.read_labels(tmp_path / "better.nii.gz")
    expected = refine_labels(noisy, image, RefinementSettings(iterations=2)).array
    assert np.array_equal(found.array, expected)
    assert found.labels.names == noisy.labels.names
    told = json.loads(capsys.readouterr().out)
    assert told["changed_voxels"] == int((expected != noisy.array).sum())
