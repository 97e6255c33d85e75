"""Labels made block by block: where blocks agree, no object is split and none merged."""

from __future__ import annotations

import numpy as np
import pytest
from instance_oracles import same_partition

from medseg.errors import VolumeError
from medseg.instances.grid import Block, BlockGrid
from medseg.instances.stitching import stitch


def packed_cells(shape: tuple[int, int, int], count: int, seed: int) -> np.ndarray:
    """Cells of a Voronoi diagram: every face of a block cuts many, all touch; some background between."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    away, nearest = cKDTree(rng.uniform(0, shape, (count, 3)) * (2, 1, 1)).query(places * (2, 1, 1))
    return np.where(away < 9, nearest + 1, 0).reshape(shape)


@pytest.mark.parametrize("block", [(7, 11, 13), (16, 16, 16), (31, 47, 53), (1, 60, 2)])
def test_a_perfect_segmenter_is_stitched_without_split_or_merge(block: tuple[int, int, int]) -> None:
    truth = packed_cells((32, 60, 58), 120, 0)
    rng = np.random.default_rng(1)

    def perfect(region: Block) -> np.ndarray:
        renamed = rng.permutation(5000)[: truth.max() + 1] + 1
        renamed[0] = 0
        return np.asarray(renamed[truth[region.slices]])

    found = stitch(perfect, BlockGrid((32, 60, 58), block))
    assert same_partition(found, truth)
    assert found.max() == len(np.unique(truth)) - 1
    first = np.unique(found, return_index=True)[1][1:]
    assert list(first) == sorted(first)


def test_labels_that_only_touch_stay_apart() -> None:
    found = stitch(lambda region: np.ones(region.shape, int) * 0, BlockGrid((4, 4, 4), (2, 2, 2)))
    assert not found.any()
    truth = np.repeat([1, 2], 4)[None, None]
    found = stitch(lambda region: truth[region.slices], BlockGrid((1, 1, 8), (1, 1, 4)))
    assert np.array_equal(found, truth)


def test_labels_of_another_shape_or_kind_are_refused() -> None:
    for wrong in (np.zeros((9, 9, 9), int), np.zeros((4, 4, 4)), np.full((4, 4, 4), -1)):
        with pytest.raises(VolumeError) as caught:
            stitch(lambda _region, wrong=wrong: wrong, BlockGrid((4, 4, 4), (4, 4, 4)))  # type: ignore[misc]  # bound
        assert caught.value.code == "NOT_LABELS"
