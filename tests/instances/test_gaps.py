"""Satellites: by distance, and by the rule of BraTS as its own code has it."""

from __future__ import annotations

import numpy as np
import pytest
from instance_oracles import same_partition

from medseg.instances.decode import MergeRule, decode
from medseg.instances.gaps import joining_offsets
from medseg.instances.grid import BlockGrid
from medseg.instances.heights import ClassMask, FlatHeight, IntensityHeight


def joined(
    mask: np.ndarray, spacing: tuple[float, float, float], gap: float, dilation: int = 0
) -> np.ndarray:
    rule = MergeRule(joining=joining_offsets(spacing, gap, dilation))
    shape = (mask.shape[0], mask.shape[1], mask.shape[2])
    return decode(FlatHeight(ClassMask(mask, 1)), rule, BlockGrid(shape, shape))[0]


def specks(density: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((24, 25, 26)) < density


def joined_slowly(mask: np.ndarray, spacing: tuple[float, float, float], gap: float) -> np.ndarray:
    """Single-linkage clusters of voxel centres."""
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial.distance import cdist

    places = np.argwhere(mask)
    near = cdist(places * spacing, places * spacing) <= gap * (1 + 1e-9)
    touch = cdist(places, places, "chebyshev") <= 1
    out = np.zeros(mask.shape, int)
    out[mask] = connected_components(near | touch)[1] + 1
    return out


@pytest.mark.parametrize("gap", [0.0, 1.9, 2.0, 3.3])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.6, 1.0)])
def test_gap_is_the_distance_of_the_nearest_centres(gap: float, spacing: tuple[float, float, float]) -> None:
    mask = specks(0.015, 7)
    assert same_partition(joined(mask, spacing, gap), joined_slowly(mask, spacing, gap))


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_dilation_rule_is_the_one_of_brats(dilation: int) -> None:
    import cc3d
    from scipy import ndimage

    for seed in range(4):
        mask = specks(0.004 / dilation, seed)
        structure = ndimage.generate_binary_structure(3, 2)
        grown = ndimage.binary_dilation(np.pad(mask, 8), structure, iterations=dilation)
        expected = cc3d.connected_components(grown, connectivity=26)[8:-8, 8:-8, 8:-8] * mask
        assert same_partition(joined(mask, (1, 1, 1), 0.0, dilation), expected)


def test_a_satellite_joins_the_nearest_part_and_does_not_glue_the_parts() -> None:
    field = np.full((1, 1, 14), -1.0, np.float32)
    field[0, 0, :7] = [3, 4, 3, 1, 3, 5, 3]  # two parts of one component, a neck between
    field[0, 0, 9] = 1  # a satellite, three voxels from the second part's end
    source = IntensityHeight(ClassMask((field >= 0).astype(int), 1), field, (1, 1, 1))
    rule = MergeRule(h=1.0, joining=joining_offsets((1, 1, 1), 7.0, 0))
    found, _ = decode(source, rule, BlockGrid((1, 1, 14), (1, 1, 14)))
    first, second, satellite = found[0, 0, 1], found[0, 0, 5], found[0, 0, 9]
    assert satellite == second != first
