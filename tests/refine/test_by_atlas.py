"""An atlas brought to images of any contrast, and labels made from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from ball_heads import AFFINE, LABELS, ball_head, image_of, truth_of
from scipy.ndimage import map_coordinates
from small_models import make_card
from strategies import ORIENTATIONS
from torch import Tensor, nn

from medseg.errors import CancelledError, ModelError
from medseg.geometry import Geometry
from medseg.inference.settings import InferenceSettings
from medseg.labels import LabelSet
from medseg.models.atlas import Atlas, read_atlas, write_atlas
from medseg.models.card import SlidingWindow
from medseg.models.loading import Model
from medseg.pipeline import segment
from medseg.progress import CancelToken, Progress
from medseg.refine import atlas_loops
from medseg.refine.atlas_fit import Fit, FitSettings, Stage, _chances, _points, bending
from medseg.refine.by_atlas import refine_by_atlas
from medseg.refine.lie import lie_of
from medseg.training.brain_atlas import BENT, Frame, build_atlas
from medseg.training.brain_labels import BRAIN_STRUCTURES
from medseg.volume import LabelVolume, Volume

NAMES = LabelSet.from_names(dict(BRAIN_STRUCTURES))
QUICK = FitSettings(stages=(Stage(24, 20, 3.0), Stage(12, 30, 1.5), Stage(8, 30, 1.0)), points=5_000)
HEAD = ball_head(50)
TRUTH = truth_of(HEAD)
GEOMETRY = Geometry(TRUTH.shape, AFFINE)


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    """Of six other heads."""
    how = replace(BENT, stages=QUICK.stages, points=6_000)
    heads = [ball_head(seed) for seed in range(6)]
    return build_atlas(heads, LABELS, lambda _: None, Frame((60, 68, 56), 2.0, (0.0, 0.0, 0.0)), how)


def poor_labels() -> LabelVolume:
    """What a poor network might say: everything too large, and shifted."""
    shifted = np.roll(TRUTH, (1, -1, 1), axis=(0, 1, 2))
    for axis in range(3):
        for by in (1, -1):
            other = np.roll(shifted, by, axis)
            shifted = np.where((shifted == 24) & (other != 0), other, shifted)
    return LabelVolume(shifted, GEOMETRY, NAMES)


def dice(found: npt.NDArray[np.integer], truth: npt.NDArray[np.integer] = TRUTH) -> float:
    """Mean over all structures but the fluid."""
    values = []
    for label in set(np.unique(truth).tolist()) - {0, 24}:
        one, other = found == label, truth == label
        values.append(2 * (one & other).sum() / (one.sum() + other.sum()))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(3))
def test_borders_come_to_those_of_an_image_of_any_contrast(atlas: Atlas, seed: int) -> None:
    start = poor_labels()
    found, notes = refine_by_atlas(start, Volume(image_of(HEAD, seed), GEOMETRY), atlas, QUICK)
    assert notes == ()
    assert dice(found.array) > max(0.75, dice(start.array) + 0.2)


def test_an_image_and_its_negative_have_the_same_labels(atlas: Atlas) -> None:
    image = image_of(HEAD, 1)
    one, other = (
        refine_by_atlas(poor_labels(), Volume(array, GEOMETRY), atlas, replace(QUICK, bias_rate=0.0))[0]
        for array in (image, 5 - 3 * image)
    )
    assert (one.array == other.array).mean() > 0.999


@pytest.mark.parametrize("codes", ORIENTATIONS[5::17])
def test_labels_do_not_depend_on_how_the_scan_is_stored(atlas: Atlas, codes: str) -> None:
    volume = Volume(image_of(HEAD, 2), GEOMETRY)
    straight = refine_by_atlas(poor_labels(), volume, atlas, QUICK)[0]
    turned = refine_by_atlas(poor_labels().reorient(codes), volume.reorient(codes), atlas, QUICK)[0]
    back = turned.reorient(GEOMETRY.axis_codes)
    assert np.array_equal(back.array, straight.array)


def test_a_strong_bias_field_is_found(atlas: Atlas) -> None:
    ramp = np.exp(np.linspace(-0.5, 0.5, TRUTH.shape[1]))[None, :, None]
    volume = Volume((image_of(HEAD, 3) * ramp).astype(np.float32), GEOMETRY)
    with_field = refine_by_atlas(poor_labels(), volume, atlas, QUICK)[0]
    without = refine_by_atlas(poor_labels(), volume, atlas, replace(QUICK, bias_rate=0.0))[0]
    assert dice(with_field.array) > 0.75
    assert dice(with_field.array) >= dice(without.array)


def test_any_number_of_threads_gives_the_same_bits(atlas: Atlas) -> None:
    volume = Volume(image_of(HEAD, 4), GEOMETRY)
    one, three = (refine_by_atlas(poor_labels(), volume, atlas, QUICK, threads=n)[0].array for n in (1, 3))
    assert np.array_equal(one, three)


def test_voxels_that_are_no_number_do_no_harm(atlas: Atlas) -> None:
    image = image_of(HEAD, 2)
    image[:3] = np.nan
    image[-1] = np.inf
    found, notes = refine_by_atlas(poor_labels(), Volume(image, GEOMETRY), atlas, QUICK)
    assert (notes, dice(found.array) > 0.75) == ((), True)


def test_labels_that_are_no_head_stay_as_they_are(atlas: Atlas) -> None:
    rng = np.random.default_rng(0)
    volume = Volume(image_of(HEAD, 2), GEOMETRY)
    few = LabelVolume(np.where(TRUTH < 12, TRUTH, 0).astype(np.uint8), GEOMETRY, NAMES)
    ids = np.unique(TRUTH)
    swapped = ids.copy()
    rng.shuffle(swapped[2:])
    strange = LabelVolume(swapped[np.searchsorted(ids, TRUTH)], GEOMETRY, NAMES)
    tiny = LabelVolume(TRUTH, Geometry(TRUTH.shape, np.diag([0.5, 0.5, 0.5, 1.0])), NAMES)
    for labels in (few, strange, tiny):
        found, notes = refine_by_atlas(labels, replace(volume, geometry=labels.geometry), atlas, QUICK)
        assert found is labels
        assert "atlas was not used" in notes[0]


def test_an_atlas_that_goes_astray_is_not_followed(atlas: Atlas) -> None:
    """In an atlas of air alone nothing is anywhere."""
    empty = np.zeros_like(atlas.table)
    empty[..., int(np.flatnonzero(atlas.labels == 0)[0])] = 255
    labels = poor_labels()
    found, notes = refine_by_atlas(
        labels, Volume(image_of(HEAD, 2), GEOMETRY), replace(atlas, table=empty), QUICK
    )
    assert found is labels
    assert "not where the network found" in notes[0]


def test_a_stop_is_heard_and_progress_told(atlas: Atlas) -> None:
    told: list[Progress] = []
    token = CancelToken()

    def hear(progress: Progress) -> None:
        told.append(progress)
        if progress.done == 5:
            token.cancel()

    volume = Volume(image_of(HEAD, 2), GEOMETRY)
    with pytest.raises(CancelledError):
        refine_by_atlas(poor_labels(), volume, atlas, QUICK, watchers=(hear, token))
    assert [one.done for one in told] == [1, 2, 3, 4, 5]


def test_the_affine_map_of_centres_is_found_again(atlas: Atlas) -> None:
    """Of a head that is turned, stretched and moved, the map turns, stretches and moves it back."""
    plain = lie_of(LabelVolume(TRUTH, GEOMETRY, NAMES), atlas)
    matrix = np.array([[0.9, 0.2, 0, 5], [-0.2, 1.1, 0.1, -7], [0, -0.1, 1.05, 12], [0, 0, 0, 1]])
    moved = lie_of(LabelVolume(TRUTH, Geometry(TRUTH.shape, matrix @ AFFINE), NAMES), atlas)
    assert plain is not None
    assert moved is not None
    assert moved[0] @ matrix == pytest.approx(plain[0], abs=1e-6)


def _evidence(atlas: Atlas, field: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> float:
    """Sum of the logarithms of the evidence of `_voxels`, by the formula alone."""
    points, values, hints, counts = _voxels(atlas)
    extent = np.array(atlas.shape) - 1

    def read(knots: npt.NDArray[np.float32], component: int) -> npt.NDArray[np.float64]:
        at = (points / extent * (np.array(knots.shape[:3]) - 1)).T
        return np.asarray(map_coordinates(knots[..., component].astype(float), at, order=1))

    places = points.T + [read(field, axis) for axis in range(3)]
    x = values * np.exp(-read(bias, 0))
    mean, variance = GAUSSIANS
    total = np.full(len(points), 0.01)
    for k, (label, tissue) in enumerate(zip(atlas.labels, atlas.tissues, strict=True)):
        prior = map_coordinates(atlas.table[..., k].astype(float), places, order=1, mode="nearest") / 255
        density = np.exp(-((x - mean[tissue]) ** 2) / (2 * variance[tissue]))
        density /= np.sqrt(2 * np.pi * variance[tissue])
        total += prior * density * np.exp(-read(bias, 0)) * np.where(hints == label, 1.0, 0.6)
    return float((counts * np.log(total)).sum())


Floats = npt.NDArray[np.float32]


def _voxels(atlas: Atlas) -> tuple[Floats, Floats, npt.NDArray[np.int64], Floats]:
    rng = np.random.default_rng(5)
    points = rng.uniform(8, np.array(atlas.shape) - 9, (400, 3)).astype(np.float32)
    values, hints = rng.uniform(0.2, 1, 400).astype(np.float32), rng.choice(atlas.labels, 400)
    return points, values, hints, rng.uniform(0.5, 2, 400).astype(np.float32)


GAUSSIANS = (np.linspace(0.1, 0.9, 30), np.linspace(0.01, 0.05, 30))


def test_slopes_are_those_of_the_evidence(atlas: Atlas) -> None:
    """Against finite differences of an evidence that is computed another way."""
    rng = np.random.default_rng(3)
    field = rng.normal(0, 1.5, (4, 5, 4, 3)).astype(np.float32)
    bias = rng.normal(0, 0.1, (3, 3, 3, 1)).astype(np.float32)
    found = np.zeros_like(field), np.zeros_like(bias), np.zeros((3, 30))
    tables = (atlas.table, atlas.labels, atlas.tissues)
    atlas_loops.climb(_voxels(atlas), tables, (field, bias), GAUSSIANS, (0.6, 0.01), found)
    for number, values in enumerate((field, bias)):
        for place in [tuple(rng.integers(values.shape)) for _ in range(6)]:
            ends = []
            for by in (-1e-3, 1e-3):
                moved = [field.copy(), bias.copy()]
                moved[number][place] += np.float32(by)
                ends.append((_evidence(atlas, moved[0], moved[1]), moved[number][place]))
            slope = (ends[1][0] - ends[0][0]) / (float(ends[1][1]) - float(ends[0][1]))
            assert found[number][place] == pytest.approx(slope, rel=0.05, abs=0.3)
    x_weight = found[2][1].sum() / found[2][0].sum()
    assert 0.2 < x_weight < 1


def test_points_lie_in_small_structures_too_and_count_less_there(atlas: Atlas) -> None:
    count = 400_000
    voxels, counts = _points(atlas.shape, np.eye(4), _chances(atlas), count, np.random.default_rng(0))
    held = atlas.table[tuple(voxels.T)] / 255
    evenly = count * atlas.table.mean((0, 1, 2)) / 255
    small = (atlas.labels > 0) & (evenly < evenly[atlas.labels > 0].mean() / 10)
    assert small.sum() > 5
    assert (held.sum(0) > 5 * evenly)[small].all()
    # importance sampling: all structures count as if points had been drawn evenly
    assert (counts[:, None] * held).sum(0) == pytest.approx(evenly, rel=0.15)


def test_bending_is_the_slope_of_squared_second_differences() -> None:
    rng = np.random.default_rng(1)
    knots = rng.normal(size=(4, 5, 3, 2)).astype(np.float64)

    def energy(values: npt.NDArray[np.float64]) -> float:
        return sum(2 * float((np.diff(values, 2, axis) ** 2).mean()) for axis in range(3))

    slope = bending(knots)  # type: ignore[arg-type]  # doubles, for finite differences
    for place in [(0, 0, 0, 0), (1, 2, 1, 1), (3, 4, 2, 0)]:
        moved = knots.copy()
        moved[place] += 1e-6
        assert slope[place] == pytest.approx((energy(moved) - energy(knots)) / 1e-6, rel=1e-3, abs=1e-5)


def test_gaussians_of_tissues_that_nothing_shows_are_those_of_all() -> None:
    sums = np.array([[100.0, 0.0], [50.0, 0.0], [26.0, 0.0]])
    empty = np.zeros((2, 2, 2, 3), np.float32)
    mean, variance = Fit(np.eye(4), empty, empty[..., :1], sums).gaussians(FitSettings())
    assert mean == pytest.approx([0.5, 0.5])
    assert variance == pytest.approx([0.26 - 0.25 + 0.02**2] * 2)


def test_an_atlas_comes_back_from_its_file(atlas: Atlas, tmp_path: Path) -> None:
    write_atlas(atlas, tmp_path / "atlas.npz")
    back = read_atlas(tmp_path / "atlas.npz")
    for name in ("table", "labels", "tissues", "affine"):
        assert np.array_equal(getattr(back, name), getattr(atlas, name))
    assert {k: v.tolist() for k, v in back.centres.items()} == {
        k: v.tolist() for k, v in atlas.centres.items()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["atlas.npz"]


def test_a_damaged_atlas_is_named(atlas: Atlas, tmp_path: Path) -> None:
    file = tmp_path / "atlas.npz"
    write_atlas(atlas, file)
    whole = file.read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=r"atlas\.npz") as caught:
            read_atlas(file)
        assert caught.value.code == "DAMAGED_ATLAS"
    write_atlas(replace(atlas, labels=atlas.labels[1:]), file)
    with pytest.raises(ModelError, match="table of classes") as caught:
        read_atlas(file)
    assert caught.value.code == "DAMAGED_ATLAS"


def test_an_atlas_is_symmetric_and_its_shares_are_whole(atlas: Atlas) -> None:
    left = {label: number for number, label in enumerate(atlas.labels.tolist()) if label}
    for one, other in ((10, 49), (17, 53), (7, 46)):
        assert np.array_equal(atlas.table[::-1, ..., left[one]], atlas.table[..., left[other]])
        assert atlas.centres[one] * [-1, 1, 1] == pytest.approx(atlas.centres[other], abs=1e-9)
    total = atlas.table.astype(int).sum(-1)
    assert np.abs(total - 255).max() <= 12  # rounding of each class, and rare tissues left out


class _SaysAlways(nn.Module):
    """Answers the same labels, whatever it sees."""

    def __init__(self, labels: npt.NDArray[np.uint8], ids: tuple[int, ...]) -> None:
        super().__init__()
        planes = [torch.from_numpy(labels == one) for one in ids]
        self.register_buffer("answer", 9 * torch.stack(planes).float()[None])

    def forward(self, image: Tensor) -> Tensor:
        """`(1, 1, i, j, k)` to `(1, classes, i, j, k)`."""
        answer: Tensor = self.get_buffer("answer")
        return answer + 0 * image


def head_model(atlas: Atlas) -> Model:
    """A poor network with a good atlas."""
    poor = poor_labels().array
    ids = (0, *sorted(set(np.unique(TRUTH).tolist()) - {0}))
    window = SlidingWindow(GEOMETRY.shape, 0.0, "constant")
    card = make_card(1, window, labels=NAMES, output_ids=ids, atlas_file="models/atlas.npz")
    return Model(card, _SaysAlways(poor, ids), atlas=atlas)


def test_a_model_with_an_atlas_uses_it(atlas: Atlas) -> None:
    volume = Volume(image_of(HEAD, 0), GEOMETRY)
    model, plain = head_model(atlas), InferenceSettings(backend="torch")
    better = segment(volume, model, plain)
    alone = segment(volume, model, replace(plain, skip_atlas=True))
    assert np.array_equal(alone.labels.array, poor_labels().array)
    assert dice(better.labels.array) > dice(alone.labels.array) + 0.2

    some = segment(volume, model, replace(plain, classes=("left thalamus", "53")))
    kept = np.isin(better.labels.array, [10, 53])
    assert np.array_equal(some.labels.array, np.where(kept, better.labels.array, 0))
    assert sorted(some.labels.labels.ids) == [10, 53]


def test_a_box_of_the_scan_is_left_to_the_network(atlas: Atlas) -> None:
    settings = InferenceSettings(backend="torch", roi_voxels=(0, 72, 0, 80, 0, 64))
    result = segment(Volume(image_of(HEAD, 0), GEOMETRY), head_model(atlas), settings)
    assert np.array_equal(result.labels.array, poor_labels().array)
    assert any("atlas was not used" in warning for warning in result.record.warnings)
