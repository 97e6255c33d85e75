"""Several images as one case: order, number, grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import linear_ramp, oblique_grid
from small_models import make_card
from strategies import geometries

from medseg.errors import GeometryError, ModelError
from medseg.geometry import Geometry
from medseg.io.dicom_source import DicomSource, DicomVolume
from medseg.preprocess.channels import as_channels, covered_share, on_first_grid
from medseg.volume import Volume

CARD = make_card(in_channels=2, channel_names=("T1c", "FLAIR"))


def cube(value: float = 0.0, shape: tuple[int, int, int] = (6, 5, 4)) -> Volume:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + value
    return Volume(array, Geometry.from_spacing(shape))


def moved(grid: Geometry, by_mm: tuple[float, float, float]) -> Geometry:
    affine = grid.affine.copy()
    affine[:3, 3] += by_mm
    return Geometry(grid.shape, affine)


def test_names_and_order_give_the_same_channels() -> None:
    a, b = cube(1), cube(2)
    assert as_channels((a, b), CARD) == (a, b)
    assert as_channels({"flair": b, " t1C ": a}, CARD) == (a, b)
    assert as_channels(a, make_card()) == (a,)


@pytest.mark.parametrize(
    ("images", "card", "code"),
    [
        (cube(), CARD, "CHANNELS_MISMATCH"),
        ((cube(),) * 4, make_card(), "CHANNELS_MISMATCH"),
        ((cube(),) * 4, CARD, "CHANNELS_MISMATCH"),
        ((), CARD, "CHANNELS_MISMATCH"),
        ({"T1c": cube()}, CARD, "CHANNELS_MISMATCH"),
        ({"T1c": cube(), "T2": cube()}, CARD, "UNKNOWN_CHANNEL"),
        ({"T1c": cube(), "t1C": cube()}, CARD, "UNKNOWN_CHANNEL"),
        ({"T1c": cube(), "FLAIR": cube()}, make_card(in_channels=2), "UNKNOWN_CHANNEL"),
    ],
)
def test_other_numbers_and_names_are_refused_with_what_is_wanted(images, card, code) -> None:  # type: ignore[no-untyped-def]  # table
    with pytest.raises(ModelError) as caught:
        as_channels(images, card)
    assert caught.value.code == code
    if code == "CHANNELS_MISMATCH" and card is CARD:
        assert "T1c, FLAIR" in str(caught.value)


def test_card_refuses_names_that_do_not_fit_its_channels() -> None:
    for names in (("T1c",), ("T1", "t1 ")):
        with pytest.raises(ModelError, match="names"):
            make_card(in_channels=2, channel_names=names)


@given(grid=geometries(least=3, most=8), noise=st.floats(-1e-3, 1e-3))
@settings(deadline=None, max_examples=30)
def test_the_same_grid_is_taken_voxel_by_voxel(grid: Geometry, noise: float) -> None:
    first = Volume(np.random.default_rng(0).normal(size=grid.shape), grid)
    nearly = moved(grid, (min(grid.spacing_mm) * noise,) * 3)
    second = Volume(first.array + 1, nearly)
    volumes, notes = on_first_grid((first, second))
    assert notes == ()
    assert volumes[1].array is second.array
    assert volumes[1].geometry is grid


def test_another_grid_is_resampled_to_where_things_are_and_said() -> None:
    grid = oblique_grid((30, 28, 26))
    ramp = linear_ramp(grid.reorient("LSP").pad((3, 3, 3), (4, 4, 4)).respace((1.3, 0.9, 1.1)))
    volumes, notes = on_first_grid((linear_ramp(grid), ramp))
    assert volumes[1].geometry is grid
    assert np.allclose(volumes[1].array, volumes[0].array, atol=1e-3)
    assert [note.split("]")[0] for note in notes] == ["[CHANNEL_RESAMPLED"]
    assert "image 2" in notes[0]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_images_that_hardly_overlap_are_refused(share: float) -> None:
    first = cube(shape=(20, 8, 8))
    second = replace(first, geometry=moved(first.geometry, ((1 - share) * 20, 0, 0)))
    assert covered_share(first.geometry, second.geometry) == pytest.approx(share, abs=0.05)
    if share > 0.3:
        _, notes = on_first_grid((first, second))
        assert "covers 50%" in notes[0]
        return
    with pytest.raises(GeometryError) as caught:
        on_first_grid((first, second))
    assert caught.value.code == "NO_OVERLAP"
    assert "image 2" in str(caught.value)


def test_images_of_several_studies_or_frames_are_noted() -> None:
    def of(study: str, frame: str) -> DicomVolume:
        plain = cube()
        source = DicomSource(study, "1.2", frame, "MR", 5, 6, (), "regular", plain.geometry)
        return DicomVolume(plain.array, plain.geometry, "MR", dicom=source)

    assert on_first_grid((of("1", "7"), of("1", "7")))[1] == ()
    _, notes = on_first_grid((of("1", "7"), of("2", "7"), of("2", "8")))
    assert [note.split("]")[0] for note in notes] == ["[SEVERAL_STUDIES", "[SEVERAL_FRAMES"]
