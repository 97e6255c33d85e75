"""What a network is shown and how it is judged: patches, their changes, losses, prepared cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sphere_datasets import ball_and_box, write_dataset

from medseg.errors import ReadError
from medseg.models.card import Card
from medseg.preprocess.prepare import prepare
from medseg.training.augment import Augmentation, changed_intensities, cut, random_matrix, resampled
from medseg.training.curves import curve_svg
from medseg.training.dataset import list_dataset
from medseg.training.dataset_check import CheckedDataset, check_dataset
from medseg.training.fingerprint import fingerprint_of
from medseg.training.loss import dice_and_cross_entropy
from medseg.training.plan import make_plan
from medseg.training.plan_bundle import bundle_files
from medseg.training.plan_loss import blob_loss, planned_loss
from medseg.training.prepared import load_sample, prepare_cases

STILL = np.eye(3)
EVERY = Augmentation((1.0, 1.0, 1.0), (0, 1, 2), spatial_share=1.0, intensity_share=1.0)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> CheckedDataset:
    return check_dataset(list_dataset(write_dataset(tmp_path_factory.mktemp("few") / "data", 2)))


@pytest.fixture(scope="module")
def card(checked: CheckedDataset) -> Card:
    fingerprint = fingerprint_of(checked)
    return bundle_files(make_plan(fingerprint), fingerprint, {"name": "x"}).card


# ------------------------------------------------------------------------------ patches

size = st.integers(1, 9)


@given(st.tuples(size, size, size), st.tuples(size, size, size), st.data())
@settings(deadline=None, max_examples=50)
def test_a_patch_is_the_array_about_its_middle_and_zeros_outside(
    shape: tuple[int, int, int], patch: tuple[int, int, int], data: st.DataObject
) -> None:
    array = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
    middle = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    part, place = cut(array[None], middle, STILL, patch)
    found = resampled(torch.from_numpy(part), place, STILL, patch, "bilinear")[0].numpy()
    padded = np.pad(array, 9)
    slices = tuple(
        slice(9 + m - (n - 1) // 2, 9 + m - (n - 1) // 2 + n) for m, n in zip(middle, patch, strict=True)
    )
    assert np.array_equal(found, padded[slices])


def test_turning_keeps_a_ramp_a_ramp_and_follows_the_matrix() -> None:
    """What is linear in the world is interpolated exactly: the patch shows the ramp at the turned places."""
    index = np.moveaxis(np.indices((40, 40, 40)), 0, -1)
    slope = np.array([0.5, -0.2, 0.1])
    ramp = (index @ slope).astype(np.float32)
    matrix = random_matrix(EVERY, np.random.default_rng(1))
    assert not np.allclose(matrix, STILL)
    middle, shape = (20, 19, 21), (8, 9, 10)
    part, place = cut(ramp[None], middle, matrix, shape)
    found = resampled(torch.from_numpy(part), place, matrix, shape, "bilinear")[0].numpy()
    offsets = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    expected = (offsets @ matrix.T + np.array(middle)) @ slope
    assert np.abs(found - expected).max() < 1e-3


def test_turning_is_in_the_world_and_thick_slices_stay_in_their_plane() -> None:
    wide = replace(EVERY, spacing_mm=(1.0, 1.0, 2.0), scales=(1.0, 1.0001))
    world = np.diag([1, 1, 2.0]) @ random_matrix(wide, np.random.default_rng(0)) @ np.diag([1, 1, 0.5])
    assert np.allclose(world.T @ world, np.eye(3), atol=1e-3)
    thick = random_matrix(replace(EVERY, spacing_mm=(1.0, 1.0, 5.0)), np.random.default_rng(0))
    assert np.allclose(thick[2], (0, 0, 1))
    assert np.allclose(thick[:, 2], (0, 0, 1))


def test_chance_alone_decides_and_the_same_chance_gives_the_same() -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 8, 9, 10)).astype(np.float32))
    one, two = (changed_intensities(image, EVERY, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.allclose(one, image)
    never = replace(EVERY, intensity_share=0.0)
    assert torch.equal(changed_intensities(image, never, np.random.default_rng(5)), image)


# ------------------------------------------------------------------------------- losses


def pieces() -> torch.Tensor:
    """A large piece and one of a single voxel."""
    target = torch.zeros(1, 20, 20, 20, dtype=torch.int64)
    target[0, 2:12, 2:12, 2:12] = 1
    target[0, 17, 17, 17] = 1
    return target


def logits_for(found: torch.Tensor) -> torch.Tensor:
    return torch.stack([-10.0 * (2 * found - 1), 10.0 * (2 * found - 1)], dim=1)


def test_blob_loss_counts_a_missed_speck_as_much_as_a_missed_organ() -> None:
    target = pieces()
    speck = target.clone()
    speck[0, 17, 17, 17] = 0
    organ = torch.zeros_like(target)
    organ[0, 17, 17, 17] = 1
    right, no_speck, no_organ = (float(blob_loss(logits_for(x), target)) for x in (target, speck, organ))
    assert right < 0.01
    assert no_organ == pytest.approx(0.5, abs=0.01)
    assert no_speck == pytest.approx(0.25, abs=0.02)  # a voxel: (2 * 0 + 1) / (0 + 1 + 1) is half a Dice
    plain = [float(dice_and_cross_entropy(logits_for(x), target)) for x in (speck, organ)]
    assert plain[0] < 0.1 * plain[1]
    assert float(blob_loss(logits_for(target), torch.zeros_like(target))) == 0


def test_every_depth_counts_half_of_the_one_above() -> None:
    target = pieces()
    right, wrong = logits_for(target), logits_for(1 - target)
    good, bad = (float(planned_loss("dice-ce", x, target)) for x in (right, wrong))
    deep = float(planned_loss("dice-ce", torch.stack([right, wrong], dim=1), target))
    assert deep == pytest.approx((2 * good + bad) / 3, rel=1e-5)
    assert float(planned_loss("dice-ce", [right, wrong], target)) == pytest.approx(deep)


# ------------------------------------------------------------------------ prepared cases


def test_a_prepared_case_is_what_the_engine_would_show(
    checked: CheckedDataset, card: Card, tmp_path: Path
) -> None:
    folders = prepare_cases(checked, card, tmp_path)
    sample = load_sample(folders[1])
    image, labels = ball_and_box(1)
    assert np.allclose(sample.image[0], prepare(image, card).array, atol=1e-4)
    assert np.array_equal(sample.target, labels.array)
    for channel, places in enumerate(sample.places, start=1):
        assert (sample.target[tuple(places.T)] == channel).all()


def test_prepared_cases_are_kept_and_a_damaged_one_is_named(
    checked: CheckedDataset, card: Card, tmp_path: Path
) -> None:
    folder = prepare_cases(checked, card, tmp_path)[0]
    before = (folder / "image.npy").stat().st_mtime_ns
    assert prepare_cases(checked, card, tmp_path)[0] == folder
    assert (folder / "image.npy").stat().st_mtime_ns == before
    (folder / "target.npy").write_bytes((folder / "target.npy").read_bytes()[:200])
    with pytest.raises(ReadError) as caught:
        load_sample(folder)
    assert caught.value.code == "CASE_LOST"


def test_curves_are_drawn_to_scale_and_names_are_escaped() -> None:
    svg = curve_svg({"<b>": [(0, 0.0), (10, 1.0), (20, float("nan"))]}, "Dice", 1.0)
    assert "<b>" not in svg
    assert "&lt;b&gt;" in svg
    assert 'points="52.0,226.0 410.0,14.0"' in svg
    assert "polyline" in curve_svg({"a": []}, "loss")
