"""Synthetic nuclei: what a seed decides, how they lie, how much noise there is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medseg.training.nuclei_synthesis import (
    LEAST_VOXELS,
    NucleiSettings,
    add_noise,
    place_nuclei,
    render,
    synthesise_nuclei,
)

SMALL = NucleiSettings(shape=(40, 36, 32), margin=4)
CALM = replace(
    SMALL, background=(0.05, 0.05), structure=0.0, streaks=0.0, haze=(0.0, 0.0), brightness_spread=(0.0, 0.0)
)


def touching_pairs(labels: np.ndarray) -> int:
    """Pairs of objects that share a face of two voxels."""
    pairs = set()
    for axis in range(3):
        one, two = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
        there = (one > 0) & (two > 0) & (one != two)
        pairs |= {frozenset(pair) for pair in zip(one[there].tolist(), two[there].tolist(), strict=True)}
    return len(pairs)


def test_a_seed_decides_everything() -> None:
    first, second, other = (synthesise_nuclei(np.random.default_rng(seed), SMALL) for seed in (3, 3, 4))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == first[1].shape == SMALL.shape
    assert [one.dtype.name for one in first[:2]] == ["float32", "int32"]


@pytest.mark.parametrize("seed", range(12))
def test_images_are_finite_whatever_is_drawn(seed: int) -> None:
    image, labels = synthesise_nuclei(np.random.default_rng(seed), SMALL)
    assert np.isfinite(image).all()
    assert image.std() > 0
    assert labels.min() == 0


def test_dense_nuclei_touch_and_scattered_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    dense = replace(SMALL, fill=(0.7, 0.7), spacing=(0.7, 0.7), diameter=(10, 10))
    sparse = replace(
        SMALL, fill=(0.2, 0.2), spacing=(1.9, 1.9), diameter=(10, 10), roughness=(0, 0), size_spread=(0, 0)
    )
    assert touching_pairs(place_nuclei(rng, dense)) > 20
    assert touching_pairs(place_nuclei(rng, sparse)) == 0


@pytest.mark.parametrize("diameter", [9.0, 14.0])
def test_round_nuclei_have_the_volume_of_their_diameter(diameter: float) -> None:
    """Whole ones, far apart and smooth: within the elongation that is drawn."""
    settings = replace(
        SMALL, shape=(64, 64, 64), diameter=(diameter, diameter), size_spread=(0, 0), roughness=(0, 0),
        spacing=(1.3, 1.3), fill=(0.3, 0.3),
    )  # fmt: skip
    labels = place_nuclei(np.random.default_rng(1), settings)
    outer = set(np.unique(np.concatenate([np.take(labels, n, a).ravel() for a in range(3) for n in (0, -1)])))
    sizes = [int((labels == n).sum()) for n in np.unique(labels) if n not in outer | {0}]
    assert len(sizes) > 10
    assert np.median(sizes) == pytest.approx(np.pi / 6 * diameter**3, rel=0.2)


def test_specks_that_crowding_left_are_dropped() -> None:
    labels = place_nuclei(np.random.default_rng(2), replace(SMALL, fill=(0.75, 0.75), spacing=(0.6, 0.6)))
    sizes = np.bincount(labels.ravel())[1:]
    assert sizes[sizes > 0].min() >= LEAST_VOXELS


@pytest.mark.parametrize("snr", [1.0, 3.0, 20.0])
def test_noise_has_the_strength_that_was_asked_for(snr: float) -> None:
    """At the brightness that the definition names."""
    clean = np.full((40, 40, 40), 0.2, dtype=np.float32)
    clean[20:] = 1.2
    noisy = add_noise(clean, 1.0, snr, np.random.default_rng(0))
    noise = float((noisy - clean)[20:].std())
    assert 1.0 / noise == pytest.approx(snr, rel=0.05)
    assert float((noisy - clean)[:20].std()) < noise
    assert float((noisy - clean).mean()) == pytest.approx(0, abs=0.05 / snr)


def test_a_calm_scene_shows_its_nuclei_brighter_than_the_rest() -> None:
    settings = replace(CALM, snr=(20, 20), blur=(0.3, 0.3), anisotropy=(1, 1), fill=(0.2, 0.2))
    image, labels = synthesise_nuclei(np.random.default_rng(5), settings)
    assert image[labels > 0].mean() > 2 * image[labels == 0].mean()


def test_slices_far_apart_leave_no_more_than_their_own_information() -> None:
    """Between slices the image is linear: second differences vanish but at slices."""
    labels = place_nuclei(np.random.default_rng(6), CALM)
    settings = replace(CALM, anisotropy=(4.0, 4.0), snr=(20, 20))
    image = render(labels, np.random.default_rng(6), settings)
    bends = np.abs(np.diff(image, 2, axis=0)).mean(axis=(1, 2))
    at_slices = np.array([(n + 1) % 4 == 0 for n in range(len(bends))])
    assert bends[~at_slices][:-4].max() < 1e-5 < bends[at_slices][:-1].min()


def test_an_empty_scene_is_an_image_too() -> None:
    image = render(np.zeros((32, 32, 32), dtype=np.int32), np.random.default_rng(0), SMALL)
    assert np.isfinite(image).all()
