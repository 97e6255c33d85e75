"""A bright point is labelled where it is in the world, whatever the grid."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import oblique_grid, world_of_voxels
from small_models import threshold_model
from strategies import ORIENTATIONS

from medseg.geometry import Geometry
from medseg.inference.predict import predict
from medseg.models.card import SlidingWindow
from medseg.models.loading import Model
from medseg.volume import Volume

POINT_MM = np.array([4.3, -7.9, 11.2])


def blob_model(order: str, spacing_mm: tuple[float, float, float]) -> Model:
    return threshold_model(
        orientation="RAS",
        spacing_mm=spacing_mm,
        home=order,
        window=SlidingWindow((16, 16, 16), 0.5, "gaussian"),
    )


def blob(geometry: Geometry) -> Volume:
    """A Gaussian of 4 mm around the point, 1 at its centre."""
    distance = ((world_of_voxels(geometry) - POINT_MM) ** 2).sum(axis=-1)
    return Volume(np.exp(-distance / (2 * 4.0**2)).astype(np.float32), geometry)


def grid_around_point(spacing_mm: tuple[float, float, float]) -> Geometry:
    shape = tuple(int(np.ceil(44 / s)) for s in spacing_mm)
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = POINT_MM - np.array([19.0, 22.0, 24.0])
    return Geometry((shape[0], shape[1], shape[2]), affine)


def assert_at_point(volume: Volume, model: Model) -> None:
    labels = predict(volume, model)
    assert labels.geometry is volume.geometry
    found = np.argwhere(labels.array == 1)
    assert len(found) > 10
    error = volume.geometry.to_index(POINT_MM) - found.mean(axis=0)
    assert np.abs(error).max() < 0.5


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("order", ["scores-linear", "labels-nearest"])
def test_all_orientations(codes: str, order: str) -> None:
    geometry = grid_around_point((1.5, 2.0, 2.7)).reorient(codes)
    assert_at_point(blob(geometry), blob_model(order, (2.0, 1.6, 2.3)))


@pytest.mark.parametrize("order", ["scores-linear", "labels-nearest"])
@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAL", "PIR"])
@pytest.mark.parametrize("degrees", [0.0, 23.0, 44.9, 45.0, 80.0])
def test_oblique_and_anisotropic(order: str, codes: str, degrees: float) -> None:
    x, y, z = POINT_MM + np.array([3.0, -2.0, 1.0])
    geometry = oblique_grid((40, 30, 12), (1.1, 1.4, 4.0), (x, y, z), degrees).reorient(codes)
    assert_at_point(blob(geometry), blob_model(order, (2.0, 2.0, 2.0)))


def test_sheared_grid_is_answered_on_itself() -> None:
    """Gantry tilt: segmented on a straight grid, labelled on the tilted one."""
    straight = grid_around_point((1.5, 1.5, 2.5))
    affine = straight.affine.copy()
    affine[1, 2] = 2.5 * np.tan(np.radians(20))
    affine[1, 3] -= 8.0
    tilted = Geometry(straight.shape, affine)
    assert not tilted.is_orthogonal
    assert_at_point(blob(tilted), blob_model("scores-linear", (2.0, 2.0, 2.0)))


def test_labelled_volume_is_that_of_the_threshold() -> None:
    """The blob exceeds 0.5 within sqrt(2 ln 2) standard deviations."""
    geometry = grid_around_point((1.0, 1.0, 1.0))
    labels = predict(blob(geometry), blob_model("scores-linear", (1.5, 1.5, 1.5)))
    radius = 4.0 * np.sqrt(2 * np.log(2))
    volume_mm3 = (labels.array == 1).sum() * geometry.voxel_volume_mm3
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.1)
