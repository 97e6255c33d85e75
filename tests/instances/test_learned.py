"""Objects from a network's depth and foreground: perfect answers decode perfectly, in any blocks and grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medseg.errors import GeometryError, VolumeError
from medseg.geometry import Geometry
from medseg.instances.decode import MergeRule, decode
from medseg.instances.grid import Block, BlockGrid
from medseg.instances.learned import LearnedHeight, learned_height
from medseg.resample import resample_volume
from medseg.training.instance_target import normalised_distance
from medseg.training.nuclei_synthesis import NucleiSettings, place_nuclei
from medseg.volume import Volume

DENSE = NucleiSettings(shape=(48, 40, 44), fill=(0.7, 0.7), spacing=(0.7, 0.7), diameter=(11, 11))


def perfect(labels: np.ndarray) -> np.ndarray:
    return np.stack([normalised_distance(labels), (labels > 0).astype(np.float32)])


def heights_on(spacing: tuple[float, float, float], seed: int = 0) -> tuple[LearnedHeight, np.ndarray]:
    """Perfect answers on an isotropic grid, a volume of another spacing, and the truth on the grid."""
    labels = place_nuclei(np.random.default_rng(seed), DENSE)
    grid = Geometry.from_spacing(labels.shape, (1, 1, 1))
    return learned_height(perfect(labels), grid, grid.respace(spacing)), labels


def matched(truth: np.ndarray, found: np.ndarray) -> tuple[int, int, int]:
    """Objects that share more than half of their union; true ones; found ones."""
    hits = 0
    for number in np.unique(truth[truth > 0]):
        mask = truth == number
        others, counts = np.unique(found[mask], return_counts=True)
        for other, count in zip(others, counts, strict=True):
            if other and count > 0.5 * (mask | (found == other)).sum():
                hits += 1
    return hits, len(np.unique(truth[truth > 0])), len(np.unique(found[found > 0]))


def test_perfect_answers_give_the_objects_back() -> None:
    height, labels = heights_on((1, 1, 1))
    found, kept = decode(height, MergeRule(h=0.1), BlockGrid(height.shape, height.shape))
    hits, true, there = matched(labels, found.astype(np.int64))
    assert true > 60
    assert hits >= 0.97 * true
    assert there <= 1.03 * true
    assert len(kept.tops) == len(kept.voxels) == there


@pytest.mark.parametrize("block", [(7, 11, 13), (16, 16, 16), (31, 47, 53)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.4, 1.3)])
def test_any_blocks_give_the_same_bits(
    block: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    height, _ = heights_on(spacing)
    rule = MergeRule(h=0.1, min_voxels=20, by_volume=True, least_top=0.5)
    whole, kept = decode(height, rule, BlockGrid(height.shape, height.shape))
    parts, kept_too = decode(height, rule, BlockGrid(height.shape, block))
    assert np.array_equal(whole, parts)
    assert np.array_equal(kept.tops, kept_too.tops)


def test_heights_are_the_interpolated_answers() -> None:
    height, labels = heights_on((0.6, 0.9, 1.4))
    grid = Geometry.from_spacing(labels.shape, (1, 1, 1))
    target = grid.respace((0.6, 0.9, 1.4))
    depth, where = (
        resample_volume(Volume(np.ascontiguousarray(c), grid), target).array for c in perfect(labels)
    )
    own = height.heights(Block((0, 0, 0), height.shape))
    sure = np.abs(where - 0.5) > 1e-3
    assert np.array_equal((own > -np.inf)[sure], (where > 0.5)[sure])
    both = sure & (where > 0.5)
    assert np.abs(own - depth)[both].max() < 1e-5


def test_doubtful_objects_are_dropped_by_their_depth() -> None:
    height, labels = heights_on((1, 1, 1))
    weak = height.fields.copy()
    weak[0][labels == labels[labels > 0].min()] *= 0.4
    rule = MergeRule(h=0.1, least_top=0.5)
    _, kept = decode(height, rule, BlockGrid(height.shape, height.shape))
    _, kept_now = decode(replace(height, fields=weak), rule, BlockGrid(height.shape, height.shape))
    assert kept.tops.min() >= 0.5
    assert len(kept_now.voxels) == len(kept.voxels) - 1


def test_answers_that_are_no_numbers_are_refused() -> None:
    height, _ = heights_on((1, 1, 1))
    broken = height.fields.copy()
    broken[0, 20, 20, 20], broken[1, 20, 20, 20] = np.nan, 1
    with pytest.raises(VolumeError, match="finite"):
        replace(height, fields=broken).heights(Block((0, 0, 0), height.shape))


def test_grids_that_are_sheared_or_turned_are_refused() -> None:
    grid = Geometry.from_spacing((8, 8, 8), (1, 1, 1))
    fields = np.zeros((2, 8, 8, 8), dtype=np.float32)
    sheared, turned = np.eye(4), np.eye(4)
    sheared[0, 1] = 0.3
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    with pytest.raises(GeometryError, match="right angles"):
        learned_height(fields, grid, Geometry((8, 8, 8), sheared))
    with pytest.raises(GeometryError, match="parallel"):
        learned_height(fields, grid, Geometry((8, 8, 8), turned))
