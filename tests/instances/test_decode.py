"""The decoder: equal to a slow oracle, to the merge tree, and to itself in any blocks."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from instance_oracles import decode_slowly, persistent_maxima

from medseg.errors import CancelledError, SettingsError, VolumeError
from medseg.instances.decode import MergeRule, Watch, decode
from medseg.instances.gaps import joining_offsets
from medseg.instances.grid import BlockGrid, default_grid
from medseg.instances.heights import (
    ClassMask,
    DistanceHeight,
    FlatHeight,
    HeightMap,
    IntensityHeight,
)
from medseg.progress import CancelToken, Progress

BLOCKS = [(7, 11, 13), (16, 16, 16), (31, 47, 53)]
TINY = st.tuples(*[st.integers(1, 5)] * 3)
# Few levels: plateaus and equal saddles are the hard case.
HEIGHTS = TINY.flatmap(
    lambda s: hnp.arrays(np.float32, s, elements=st.sampled_from([-1.0, 0.0, 1.0, 1.5, 2.0, 4.0]))
)


SPACINGS = st.sampled_from([(1.0, 1.0, 1.0), (4.0, 1.0, 0.7)])


def given_height(field: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> IntensityHeight:
    """Heights where they are 0 or more."""
    return IntensityHeight(ClassMask((field >= 0).astype(np.uint8), 1), field, spacing)


def whole(shape: tuple[int, ...]) -> BlockGrid:
    return BlockGrid((shape[0], shape[1], shape[2]), (shape[0], shape[1], shape[2]))


@cache
def nuclei(shape: tuple[int, int, int], seed: int = 3) -> np.ndarray:
    """Touching round objects, an empty part, and a rod from end to end."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    for centre in rng.uniform(0, shape, size=(60, 3)):
        mask |= np.linalg.norm((grid - centre) * (1, 0.5, 0.5), axis=-1) < rng.uniform(2, 4)
    mask[:, shape[1] // 2 :, : shape[2] // 3] = False
    mask[shape[0] // 2, shape[1] // 2, :] = True
    return mask


@settings(deadline=None, max_examples=50)
@given(field=HEIGHTS, h=st.sampled_from([0.0, 0.5, 1.0, 2.0, 9.0]), spacing=SPACINGS)
def test_decoder_equals_the_slow_oracle(
    field: np.ndarray, h: float, spacing: tuple[float, float, float]
) -> None:
    found, _ = decode(given_height(field, spacing), MergeRule(h), whole(field.shape))
    assert np.array_equal(found, decode_slowly(np.where(field < 0, -np.inf, field), h, spacing))


@settings(deadline=None, max_examples=50)
@given(field=HEIGHTS, h=st.sampled_from([0.0, 0.5, 1.0, 2.0, 9.0]))
def test_objects_are_the_maxima_that_outlive_h_in_the_merge_tree(field: np.ndarray, h: float) -> None:
    _, objects = decode(given_height(field), MergeRule(h), whole(field.shape))
    assert len(objects.voxels) == persistent_maxima(np.where(field < 0, -np.inf, field), h)


@settings(deadline=None, max_examples=50)
@given(field=HEIGHTS, h=st.sampled_from([0.0, 0.5, 1.0]), block=TINY, gap=st.sampled_from([0.0, 2.0, 3.0]))
def test_any_blocks_give_the_whole(
    field: np.ndarray, h: float, block: tuple[int, int, int], gap: float
) -> None:
    rule = MergeRule(h, joining=joining_offsets((1, 1, 1), gap, 0))
    expected, objects = decode(given_height(field), rule, whole(field.shape))
    found, same = decode(given_height(field), rule, BlockGrid(expected.shape, block))
    assert np.array_equal(found, expected)
    assert np.array_equal(objects.voxels, same.voxels)
    assert np.array_equal(objects.first, same.first)


@cache
def _sources(shape: tuple[int, int, int]) -> dict[str, HeightMap]:
    rng = np.random.default_rng(4)
    spacing = (1.0, 0.5, 0.5)
    mask = ClassMask(nuclei(shape).astype(np.int16) * 7, 7)
    image = rng.poisson(5, shape).astype(np.uint16)
    levels = np.round(rng.random(shape) * 4).astype(np.float32)
    everything = ClassMask(np.ones(shape, np.uint8), 1)
    return {
        "distance": DistanceHeight(mask, spacing, 0.5, 6.0),
        "distance unsmoothed: plateaus": DistanceHeight(mask, spacing, 0.0, 2.0),
        "intensity": IntensityHeight(mask, image, spacing, 0.6, 0.0, 10.0),
        "flat: components": FlatHeight(mask),
        "five levels": IntensityHeight(mask, levels, spacing),
        "one object in all blocks": FlatHeight(everything),
        "all foreground, five levels": IntensityHeight(everything, levels, spacing),
        "empty": FlatHeight(ClassMask(np.zeros(shape, np.uint8), 1)),
    }


@pytest.mark.parametrize("name", list(_sources((4, 4, 4))))
def test_block_is_whole_bit_for_bit(name: str) -> None:
    shape = (37, 61, 59)
    source = _sources(shape)[name]
    rule = MergeRule(0.3, min_voxels=3, by_volume=True)
    expected, objects = decode(source, rule, whole(shape))
    for block in BLOCKS:
        found, same = decode(source, rule, BlockGrid(shape, block))
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected), block
        assert np.array_equal(objects.voxels, same.voxels)


def test_components_are_those_of_cc3d() -> None:
    import cc3d

    mask = np.random.default_rng(5).random((30, 31, 32)) < 0.12
    found, _ = decode(FlatHeight(ClassMask(mask, 1)), MergeRule(), BlockGrid(mask.shape, (7, 11, 13)))
    assert np.array_equal(found, cc3d.connected_components(mask, connectivity=26))


def test_ids_are_dense_and_ordered() -> None:
    shape = (37, 61, 59)
    source = _sources(shape)["distance"]
    by_place, objects = decode(source, MergeRule(0.3), whole(shape))
    first = [int(np.flatnonzero(by_place.ravel() == n)[0]) for n in range(1, len(objects.voxels) + 1)]
    assert first == sorted(first) == objects.first.tolist()
    by_volume, larger = decode(source, MergeRule(0.3, by_volume=True), whole(shape))
    sizes = np.bincount(by_volume.ravel())[1:]
    assert sizes.tolist() == sorted(sizes, reverse=True) == larger.voxels.tolist()


def test_small_objects_are_dropped_and_the_others_renumbered() -> None:
    mask = np.zeros((1, 1, 20), np.uint8)
    mask[0, 0, [0, 2, 3, 5, 6, 7, 9]] = 1
    found, objects = decode(FlatHeight(ClassMask(mask, 1)), MergeRule(min_voxels=2), whole(mask.shape))
    assert found[0, 0, :10].tolist() == [0, 0, 1, 1, 0, 2, 2, 2, 0, 0]
    assert objects.voxels.tolist() == [2, 3]


def test_progress_counts_blocks_and_cancel_stops() -> None:
    source = _sources((20, 20, 20))["flat: components"]
    seen: list[Progress] = []
    grid = BlockGrid((20, 20, 20), (10, 10, 10))
    decode(source, MergeRule(), grid, Watch(seen.append))
    assert [p.done for p in seen if p.stage == "find basins"] == list(range(9))
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        decode(source, MergeRule(), grid, Watch(cancel=token))


def test_heights_that_are_not_finite_are_refused() -> None:
    for value in (np.nan, np.inf, -np.inf):
        field = np.ones((3, 3, 3), np.float32)
        field[1, 1, 1] = value
        source = IntensityHeight(ClassMask(np.ones((3, 3, 3), np.uint8), 1), field, (1, 1, 1))
        with pytest.raises(VolumeError, match="finite") as caught:
            decode(source, MergeRule(), whole((3, 3, 3)))
        assert caught.value.code == "NOT_FINITE"


def test_grids_cover_every_voxel_once() -> None:
    grid = BlockGrid((10, 7, 5), (4, 7, 3))
    seen = np.zeros(grid.shape, int)
    for block in grid.blocks:
        seen[block.slices] += 1
    assert (seen == 1).all()
    assert max(np.prod(b.shape) for b in default_grid((100, 90, 80), 50_000).blocks) <= 50_000
    with pytest.raises(SettingsError):
        BlockGrid((4, 4, 4), (0, 1, 1))
