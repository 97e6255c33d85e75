"""Otsu's threshold: equal to scikit-image's, and indifferent to units."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.errors import VolumeError
from medseg.geometry import Geometry
from medseg.instances.foreground import bright_foreground
from medseg.volume import Volume


def two_levels() -> np.ndarray:
    rng = np.random.default_rng(0)
    array = rng.normal(100, 10, (20, 30, 40))
    array[5:15, 10:20, 10:30] += 80
    return array


def test_threshold_parts_two_levels() -> None:
    array = two_levels()
    found = bright_foreground(Volume(array, Geometry.from_spacing(array.shape)))
    truth = np.zeros(array.shape, bool)
    truth[5:15, 10:20, 10:30] = True
    assert (found.mask("bright") != truth).mean() < 1e-3
    larger = bright_foreground(Volume(array * 7 - 300, Geometry.from_spacing(array.shape)))
    assert (larger.array != found.array).mean() < 1e-3


def test_threshold_is_that_of_scikit_image() -> None:
    filters = pytest.importorskip("skimage.filters", reason="scikit-image is not installed")
    array = two_levels()
    found = bright_foreground(Volume(array, Geometry.from_spacing(array.shape)))
    expected = array > filters.threshold_otsu(array.astype(np.float32), nbins=4096)
    assert (found.mask(1) != expected).mean() < 1e-3


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_image_without_contrast_is_refused(value: float) -> None:
    with pytest.raises(VolumeError) as caught:
        bright_foreground(Volume(np.full((3, 3, 3), value), Geometry.from_spacing((3, 3, 3))))
    assert caught.value.code == "NO_CONTRAST"
