"""Window positions and weights are MONAI's."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.inference.importance import importance_map
from medseg.inference.windows import place_windows

Triple = tuple[int, int, int]
triples = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))


def monai_windows(shape: Triple, size: Triple, overlap: float) -> list[Triple]:
    """First voxels of MONAI's windows on the padded image."""
    from monai.data.utils import dense_patch_slices
    from monai.inferers.utils import _get_scan_interval

    padded = tuple(max(n, w) for n, w in zip(shape, size, strict=True))
    step = _get_scan_interval(padded, size, 3, [overlap] * 3)
    return [tuple(s.start for s in window) for window in dense_patch_slices(padded, size, step)]


@given(shape=triples, size=triples, overlap=st.floats(0, 0.95))
@settings(deadline=None, max_examples=50)
def test_positions_are_those_of_monai(shape: Triple, size: Triple, overlap: float) -> None:
    windows = place_windows(shape, size, overlap)
    ours = [corner for _, _, corners in windows.layers() for corner in corners]
    assert sorted(ours) == sorted(monai_windows(shape, size, overlap))
    assert windows.count == len(ours)


@given(shape=triples, size=triples, overlap=st.floats(0, 0.95))
@settings(deadline=None, max_examples=50)
def test_no_later_layer_reaches_a_finished_plane(shape: Triple, size: Triple, overlap: float) -> None:
    windows = place_windows(shape, size, overlap)
    layers = list(windows.layers())
    assert layers[0][0] == 0
    assert layers[-1][1] == windows.padded_shape[2]
    for (first, end, _), (following, _, _) in itertools.pairwise(layers):
        assert first < end == following
        assert end - first <= size[2]


def test_small_image_is_padded_on_both_sides_and_last_window_moves_back_inside() -> None:
    windows = place_windows((7, 20, 33), (10, 10, 16), 0.5)
    assert windows.before == (1, 0, 0)
    assert windows.after == (2, 0, 0)
    assert windows.padded_shape == (10, 20, 33)
    assert windows.starts == ((0,), (0, 5, 10), (0, 8, 16, 17))


@pytest.mark.parametrize("blend", ["constant", "gaussian"])
@pytest.mark.parametrize("size", [(16, 16, 16), (5, 12, 31), (1, 2, 3), (96, 8, 7)])
def test_weights_are_those_of_monai(blend: str, size: Triple) -> None:
    from monai.data.utils import compute_importance_map

    for sigma_scale in (0.125, 0.25):
        expected = compute_importance_map(size, mode=blend, sigma_scale=sigma_scale)
        ours = importance_map(size, blend, sigma_scale)  # type: ignore[arg-type]  # parametrised
        assert torch.equal(ours, expected)
