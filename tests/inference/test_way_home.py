"""Scores and labels go from the card's grid to the source's exactly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import make_card
from strategies import geometries
from torch import Tensor

from medseg.geometry import Geometry
from medseg.inference.home import Decision, activated, label_type
from medseg.inference.linear_home import way_home
from medseg.models.card import Card
from medseg.resample import axis_maps, resample_labels
from medseg.volume import LabelVolume


def chunks(scores: Tensor, sizes: list[int]) -> Iterator[tuple[Tensor, int]]:
    """The planes of scores in stacks of the sizes given, the last one repeated."""
    start = 0
    while start < scores.shape[3]:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        yield scores[..., start : start + size].clone(), start
        start += size


def interpolated(
    values: npt.NDArray[np.float64], grid: Geometry, target: Geometry
) -> npt.NDArray[np.float64]:
    """Slow oracle: SciPy's linear interpolation in float64, clamped at the outermost centres."""
    from scipy.ndimage import map_coordinates

    index = np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"), axis=-1)
    at = grid.to_index(target.to_world(index))
    at = np.clip(np.round(at, 6), 0, np.array(grid.shape) - 1)
    found: npt.NDArray[np.float64] = map_coordinates(values, np.moveaxis(at, -1, 0), order=1, mode="nearest")
    return found


def oracle(scores: Tensor, grid: Geometry, target: Geometry) -> npt.NDArray[np.float64]:
    """Softmax, then every class on the whole target grid."""
    soft = torch.softmax(scores.double(), 0).numpy()
    return np.stack([interpolated(one, grid, target) for one in soft])


def smooth_scores(classes: int, shape: tuple[int, int, int], sigma: float, seed: int) -> Tensor:
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=(classes, *shape))
    blurred = np.stack([gaussian_filter(one, sigma) if sigma else one for one in noise])
    return torch.from_numpy((blurred / blurred.std() * 4).astype(np.float32))


def run(
    scores: Tensor, grid: Geometry, target: Geometry, card: Card, sizes: list[int]
) -> npt.NDArray[np.int64]:
    home = way_home(grid, target, card, Decision.of(card))
    with torch.inference_mode():
        for stack, start in chunks(scores, sizes):
            home.feed(stack, start)
    return home.labels().astype(np.int64)


@given(
    source=geometries(least=2, most=14, oblique=True),
    factors=st.tuples(st.floats(0.3, 4), st.floats(0.3, 4), st.floats(0.3, 4)),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    sigma=st.sampled_from([0.0, 1.5]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=50)
def test_linear_scores_equal_interpolating_all_classes_at_once(
    source: Geometry, factors: tuple[float, float, float], sizes: list[int], sigma: float, seed: int
) -> None:
    grid = source.respace([s * f for s, f in zip(source.spacing_mm, factors, strict=True)])
    scores = smooth_scores(5, grid.shape, sigma, seed)
    card = make_card(4, home="scores-linear")
    found = run(scores, grid, source, card, list(sizes))
    expected = oracle(scores, grid, source)
    best = np.sort(expected, axis=0)[-2:]
    is_clear = best[1] - best[0] > 1e-5
    assert np.array_equal(found[is_clear], expected.argmax(0)[is_clear])


def test_blocks_that_drop_classes_change_nothing() -> None:
    """Large enough for many blocks and chunks, and smooth enough for classes to be dropped."""
    grid = Geometry.from_spacing((40, 35, 37), (2, 2, 2))
    target = grid.respace((0.9, 1.1, 1.0))
    scores = smooth_scores(5, grid.shape, 4.0, 1)
    found = run(scores, grid, target, make_card(4), [16])
    expected = oracle(scores, grid, target)
    best = np.sort(expected, axis=0)[-2:]
    is_clear = best[1] - best[0] > 1e-5
    assert is_clear.mean() > 0.999
    assert np.array_equal(found[is_clear], expected.argmax(0)[is_clear])


def test_sigmoid_channels_claim_voxels_and_later_ones_win() -> None:
    grid = Geometry.from_spacing((12, 11, 10), (2, 2, 2))
    target = grid.respace((1.3, 1.0, 1.7))
    card = make_card(3, output_ids=(3, 1, 2), activation="sigmoid", threshold=0.5)
    scores = smooth_scores(3, grid.shape, 1.0, 2)
    found = run(scores, grid, target, card, [4])
    expected = np.zeros(target.shape, dtype=np.int64)
    doubtful = np.zeros(target.shape, dtype=bool)
    for channel, values in zip(card.output_ids, torch.sigmoid(scores.double()).numpy(), strict=True):
        score = interpolated(values, grid, target)
        expected[score > 0.5] = channel
        doubtful |= np.abs(score - 0.5) < 1e-5
    assert np.array_equal(found[~doubtful], expected[~doubtful])
    nearest = run(
        scores, grid, grid, make_card(3, output_ids=(3, 1, 2), activation="sigmoid", threshold=0.5), [4]
    )
    claims = torch.sigmoid(scores) > 0.5
    assert np.array_equal(nearest > 0, claims.any(0).numpy())


def test_nearest_labels_are_those_of_resample() -> None:
    grid = Geometry.from_spacing((12, 11, 10), (2, 2, 2))
    target = grid.respace((0.9, 1.1, 2.9))
    scores = smooth_scores(4, grid.shape, 1.0, 3)
    found = run(scores, grid, target, make_card(3, home="labels-nearest"), [3])
    decided = LabelVolume(scores.argmax(0).numpy(), grid)
    maps = axis_maps(grid, target)
    assert maps is not None
    inside = np.ix_(*(m.inside for m in maps))
    assert np.array_equal(found[inside], resample_labels(decided, target).array[inside])


def test_channels_become_label_ids_of_a_type_that_holds_them() -> None:
    grid = Geometry.from_spacing((6, 5, 4))
    scores = smooth_scores(3, grid.shape, 0.0, 4)
    from medseg.labels import LabelSet

    card = make_card(2, labels=LabelSet.from_names({7: "seven", 400: "many"}), output_ids=(0, 400, 7))
    assert label_type(card) == np.uint16
    found = run(scores, grid, grid, card, [16])
    assert np.array_equal(found, np.array([0, 400, 7])[scores.argmax(0).numpy()])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_activations_are_those_of_torch(activation: str) -> None:
    scores = smooth_scores(3, (4, 4, 4), 0.0, 5)
    expected = {"softmax": torch.softmax(scores, 0), "sigmoid": torch.sigmoid(scores), "none": scores.clone()}
    assert torch.allclose(activated(scores.clone(), activation), expected[activation], atol=1e-6)  # type: ignore[arg-type]  # parametrised
