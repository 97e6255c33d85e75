"""Strokes become the regions that a phantom knows."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import Sphere, label_map

from medseg.annotate.proposal import Proposal
from medseg.annotate.scribbles import LARGEST_BOX, grow_scribbles
from medseg.annotate.settings import METHODS, ScribbleSettings
from medseg.errors import VolumeError
from medseg.geometry import Geometry

BACKGROUND = 65535
MM = (1.0, 1.0, 2.0)
LIVER, SPLEEN = 7, 300
ERASE = Proposal.ERASE


def phantom() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two balls of unlike brightness with noise; their truth; a stroke in each and some around them."""
    geometry = Geometry.from_spacing((48, 40, 20), MM)
    truth = label_map(geometry, {"a": Sphere((14, 20, 20), 9), "b": Sphere((35, 20, 20), 8)}).array
    truth = np.array([0, LIVER, SPLEEN], np.int32)[truth]
    bright = np.select([truth == LIVER, truth == SPLEEN], [100.0, 60.0], 0.0)
    image = bright + np.random.default_rng(0).normal(0, 8, truth.shape)
    strokes = np.zeros(truth.shape, np.uint16)
    strokes[10:18, 20, 10] = LIVER
    strokes[32:38, 20, 10] = SPLEEN
    strokes[2:46, 3, 10] = BACKGROUND
    strokes[2:46, 36, 10] = BACKGROUND
    strokes[24, 4:36, 10] = BACKGROUND
    strokes[2:46, 20, 1] = BACKGROUND
    strokes[2:46, 20, 19] = BACKGROUND
    return image, truth, strokes


@pytest.mark.parametrize("method", METHODS)
def test_each_ball_gets_its_stroke(method: str) -> None:
    image, truth, strokes = phantom()
    found = grow_scribbles(image, strokes, BACKGROUND, MM, ScribbleSettings(method=method))
    for label_id in (LIVER, SPLEEN):
        ours, theirs = found.ids == label_id, truth == label_id
        assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.93
    assert found.erasable == {LIVER, SPLEEN}
    assert set(np.unique(found.ids)) == {ERASE, LIVER, SPLEEN}


@pytest.mark.parametrize("method", METHODS)
def test_strokes_are_obeyed(method: str) -> None:
    image, _, strokes = phantom()
    strokes[14, 20, 14] = BACKGROUND  # in the middle of the liver, whatever it looks like
    ids = grow_scribbles(image, strokes, BACKGROUND, MM, ScribbleSettings(method=method), (5, 6, 7)).ids
    for value, label_id in ((LIVER, LIVER), (SPLEEN, SPLEEN), (BACKGROUND, ERASE)):
        assert (ids[strokes == value] == label_id).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_region_hangs_together_with_its_strokes(method: str) -> None:
    from scipy import ndimage

    image, _, strokes = phantom()
    ids = grow_scribbles(image, strokes, BACKGROUND, MM, ScribbleSettings(method=method)).ids
    for value, label_id in ((LIVER, LIVER), (SPLEEN, SPLEEN), (BACKGROUND, ERASE)):
        pieces, count = ndimage.label(ids == label_id)
        assert {*np.unique(pieces[strokes == value])} == {*range(1, count + 1)}


def test_two_classes_need_no_background() -> None:
    image, _, strokes = phantom()
    strokes[strokes == BACKGROUND] = 0
    assert set(np.unique(grow_scribbles(image, strokes, BACKGROUND, MM).ids)) == {LIVER, SPLEEN}


@pytest.mark.parametrize("method", METHODS)
def test_an_even_image_and_lone_points_do_no_harm(method: str) -> None:
    strokes = np.zeros((1, 9, 9), np.uint16)
    strokes[0, 1, 1], strokes[0, 7, 7] = 1, BACKGROUND
    found = grow_scribbles(
        np.full((1, 9, 9), np.nan), strokes, BACKGROUND, MM, ScribbleSettings(method=method)
    )
    assert set(np.unique(found.ids)) == {1, ERASE}


@pytest.mark.parametrize("kinds", [(), (1,), (BACKGROUND,)])
def test_one_kind_of_stroke_is_refused(kinds: tuple[int, ...]) -> None:
    strokes = np.zeros((4, 4, 4), np.uint16)
    for number, value in enumerate(kinds):
        strokes[number] = value
    with pytest.raises(VolumeError) as caught:
        grow_scribbles(np.zeros((4, 4, 4)), strokes, BACKGROUND, MM)
    assert caught.value.code == "NO_SCRIBBLES"


def test_a_box_that_nobody_would_wait_for_is_refused() -> None:
    shape = (LARGEST_BOX + 1, 1, 1)
    huge = np.broadcast_to(np.uint8(0), shape)
    with pytest.raises(VolumeError) as caught:
        grow_scribbles(huge, huge, BACKGROUND, MM)
    assert caught.value.code == "BOX_TOO_LARGE"


def test_strokes_on_another_grid_are_refused() -> None:
    with pytest.raises(VolumeError) as caught:
        grow_scribbles(np.zeros((4, 4, 4)), np.zeros((4, 4, 5), int), BACKGROUND, MM)
    assert caught.value.code == "GRID_MISMATCH"
