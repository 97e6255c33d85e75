"""Outlines against a slow even-odd oracle: filling them gives the mask, their area is the voxels'."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from medseg.export.contours import area, outlines
from medseg.io.dicom_rtstruct_reader import filled


def even_odd(polygon: npt.NDArray[np.float64], shape: tuple[int, int]) -> npt.NDArray[np.int_]:
    """Crossings to the left of every pixel centre, one edge after the other, modulo 2."""
    inside = np.zeros(shape, dtype=int)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        for row in range(shape[0]):
            if (y0 > row) != (y1 > row):
                inside[row] += np.arange(shape[1]) > x0 + (row - y0) * (x1 - x0) / (y1 - y0)
    return inside % 2


masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.booleans())


@given(masks)
@settings(deadline=None, max_examples=50)
def test_filling_the_outlines_gives_the_mask(mask: npt.NDArray[np.bool_]) -> None:
    polygons = outlines(mask)
    shape = (mask.shape[0], mask.shape[1])
    assert np.array_equal(sum((even_odd(p, shape) for p in polygons), np.zeros(shape, int)), mask.astype(int))
    assert np.array_equal(filled([p[:, ::-1] for p in polygons], shape), mask)


@given(masks)
@settings(deadline=None, max_examples=50)
def test_area_is_that_of_the_pixels_and_each_part_has_one_outline(mask: npt.NDArray[np.bool_]) -> None:
    polygons = outlines(mask)
    assert sum(area(p) for p in polygons) == pytest.approx(mask.sum(), abs=1e-9)
    assert len(polygons) == ndimage.label(mask)[1]
    assert all(len(p) >= 4 for p in polygons)


def test_one_pixel_is_its_square() -> None:
    mask = np.zeros((5, 7), dtype=bool)
    mask[2, 4] = True
    assert outlines(mask)[0].tolist() == [[3.5, 1.5], [4.5, 1.5], [4.5, 2.5], [3.5, 2.5]]


def test_a_rectangle_has_four_points() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[2:7, 1:8] = True
    assert len(outlines(mask)[0]) == 4


def test_no_point_lies_on_a_pixel_centre_row_where_a_channel_runs() -> None:
    mask = np.ones((7, 7), dtype=bool)
    mask[3, 3] = False
    (polygon,) = outlines(mask)
    assert area(polygon) == pytest.approx(48)
    assert not np.isin(polygon[:, 1], np.arange(7)).any()


def test_nothing_has_no_outline() -> None:
    assert outlines(np.zeros((4, 4), dtype=bool)) == []
