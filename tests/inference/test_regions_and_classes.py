"""Only where and what was asked for; and how sure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import oblique_grid
from small_models import make_card, random_model, threshold_model
from strategies import geometries

import medseg
from medseg.errors import GeometryError, SettingsError, VolumeError
from medseg.geometry import Geometry
from medseg.inference.plan import plan_inference
from medseg.inference.predict import plan_case, predict, predict_planned
from medseg.inference.settings import InferenceSettings
from medseg.models.card import SlidingWindow
from medseg.preprocess.body import body_box
from medseg.preprocess.region import IndexBox, box_of_world, box_on_grid, whole
from medseg.progress import Progress
from medseg.volume import Volume

WIDE = SlidingWindow((8, 8, 8), 0.5, "gaussian")


def noise(shape: tuple[int, int, int] = (30, 28, 26), spacing: tuple[float, ...] = (1, 1, 1)) -> Volume:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Volume(array, Geometry.from_spacing(shape, spacing))


@pytest.mark.parametrize("orientation", [None, "PIR"])
@pytest.mark.parametrize("order", ["scores-linear", "labels-nearest"])
def test_region_of_a_pointwise_model_is_cut_out_of_the_whole(orientation: str | None, order: str) -> None:
    """A network that looks at single voxels gives the same labels whatever windows it is given."""
    model = threshold_model(orientation=orientation, home=order, window=WIDE, spacing_mm=(1.3, 1.1, 1.2))
    volume = noise()
    box = (3, 17, 5, 28, 11, 12)
    part = predict(volume, model, InferenceSettings(roi_voxels=box)).array
    whole_labels = predict(volume, model).array
    inside = np.zeros(part.shape, dtype=bool)
    inside[3:17, 5:28, 11:12] = True
    assert np.array_equal(part, np.where(inside, whole_labels, 0))
    assert part.any()


def test_region_in_the_world_and_fewer_windows() -> None:
    geometry = oblique_grid((40, 40, 40), (1.0, 1.0, 1.0), (10.0, 20.0, 30.0), 30.0)
    volume = Volume(noise((40, 40, 40)).array, geometry)
    model = threshold_model(window=WIDE)
    centre = geometry.to_world([20, 20, 20])
    box = tuple(float(v) for c in centre for v in (c - 3, c + 3))
    choice = InferenceSettings(roi_mm=(box[0], box[1], box[2], box[3], box[4], box[5]))
    plan = plan_case([volume], model, choice)
    assert plan.windows.count < plan_inference(geometry, model).windows.count / 2
    found = predict(volume, model, choice).array
    corner = geometry.to_index(np.array([[a, b, c] for a in box[:2] for b in box[2:4] for c in box[4:]]))
    at = np.argwhere(found)
    assert (at >= np.floor(corner.min(0)) - 1).all()
    assert (at <= np.ceil(corner.max(0)) + 1).all()
    assert found[18:23, 18:23, 18:23].any()


def test_regions_that_cannot_be() -> None:
    volume, model = noise(), threshold_model(window=WIDE)
    for choice in ({"roi_mm": (900, 910, 0, 5, 0, 5)}, {"roi_voxels": (30, 40, 0, 5, 0, 5)}):
        with pytest.raises(GeometryError) as caught:
            predict(volume, model, InferenceSettings(**choice))  # type: ignore[arg-type]  # two kinds in one table
        assert caught.value.code == "EMPTY_REGION"
    with pytest.raises(SettingsError):
        InferenceSettings(roi_mm=(0, 1, 0, 1, 0, 1), roi_voxels=(0, 1, 0, 1, 0, 1))
    with pytest.raises(SettingsError):
        InferenceSettings(roi_mm=(0, float("nan"), 0, 1, 0, 1))


@given(geometry=geometries(least=3, most=30, oblique=True), data=st.data())
@settings(deadline=None, max_examples=50)
def test_boxes_hold_what_they_enclose(geometry: Geometry, data: st.DataObject) -> None:
    start = tuple(data.draw(st.integers(0, n - 1)) for n in geometry.shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, geometry.shape, strict=True))
    box = IndexBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    assert box_on_grid(box, geometry, geometry) == box
    turned = geometry.reorient("PSL")
    assert box_on_grid(box_on_grid(box, geometry, turned), turned, geometry) == box
    grown = box.grown((2, 0, 1), geometry.shape, (9, 9, 9))
    assert grown.within(box) == box
    assert grown.within(whole(geometry)) == grown
    assert all(n >= min(9, size) for n, size in zip(grown.shape, geometry.shape, strict=True))
    straight = Geometry.from_spacing(geometry.shape, geometry.spacing_mm)
    ends = straight.to_world([np.array(start), np.array(stop) - 1]).T.ravel()
    assert box_of_world(ends.tolist(), straight) == box


@pytest.mark.parametrize("order", ["scores-linear", "labels-nearest"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.6, 0.7, 0.8)])
def test_some_classes_are_what_is_left_of_all(order: str, spacing: tuple[float, float, float]) -> None:
    model = random_model(make_card(4, home=order, window=WIDE, spacing_mm=(1.0, 1.0, 1.0)))
    volume = noise(spacing=spacing)
    every = predict(volume, model).array
    some = predict(volume, model, InferenceSettings(classes=("two", "4")))
    assert np.array_equal(some.array, np.where(np.isin(every, (2, 4)), every, 0))
    assert some.labels.ids == (2, 4)


def test_some_classes_of_overlapping_channels() -> None:
    card = make_card(3, output_ids=(3, 1, 2), activation="sigmoid", threshold=0.5, window=WIDE)
    volume = noise(spacing=(0.7, 0.7, 0.7))
    model = random_model(card)
    every = predict(volume, model).array
    some = predict(volume, model, InferenceSettings(classes=("one",))).array
    assert np.array_equal(some, np.where(every == 1, every, 0))


def test_a_class_that_is_not_there() -> None:
    with pytest.raises(VolumeError):
        predict(noise(), random_model(make_card(2)), InferenceSettings(classes=("spleen",)))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_uncertainty_is_the_entropy_of_the_scores(activation: str) -> None:
    threshold = None if activation == "softmax" else 0.5
    card = make_card(3, window=SlidingWindow((30, 28, 26)), activation=activation, threshold=threshold)
    model, volume = random_model(card), noise()
    choice = InferenceSettings(uncertainty=True)
    found = predict_planned([volume], model, choice, plan_case([volume], model, choice))
    assert found.uncertainty is not None
    assert found.uncertainty.geometry is volume.geometry
    with torch.inference_mode():
        scores = model.network(torch.from_numpy(volume.array)[None, None])[0].double()
    if activation == "softmax":
        chance = scores.softmax(0)
        expected = torch.special.entr(chance).sum(0) / np.log(4)
    else:
        chance = scores.sigmoid()
        both = torch.special.entr(chance) + torch.special.entr(1 - chance)
        expected = both.amax(0) / np.log(2)
    assert np.allclose(found.uncertainty.array, expected.numpy(), atol=1e-5)
    assert np.array_equal(found.labels.array, predict(volume, model).array)


def test_uncertainty_goes_home_turned_and_finer() -> None:
    model = random_model(make_card(3, window=WIDE, orientation="PIR", spacing_mm=(2.0, 2.0, 2.0)))
    volume, choice = noise(), InferenceSettings(uncertainty=True)
    found = predict_planned([volume], model, choice, plan_case([volume], model, choice)).uncertainty
    assert found is not None
    assert found.array.shape == volume.array.shape
    assert 0 <= found.array.min() < found.array.max() <= 1 + 1e-6


def body_in_air(modality: str) -> Volume:
    """A quarter of each side of the field of view is body, off centre; the rest noisy air."""
    rng = np.random.default_rng(1)
    array = rng.normal(0, 10, (96, 96, 40)).astype(np.float32)
    body = rng.normal(400, 50, (48, 48, 40)).astype(np.float32)
    array[30:78, 10:58] = body
    return Volume(array - 1000 if modality == "CT" else array, Geometry.from_spacing(array.shape, (4, 4, 4)))


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_body_box_holds_the_body_and_little_more(modality: str) -> None:
    box = body_box(body_in_air(modality), modality)
    body = IndexBox((30, 10, 0), (78, 58, 40))
    assert box.within(body) == body
    assert np.prod(box.shape) < 1.4 * np.prod(body.shape)


def test_body_crop_halves_the_windows_and_keeps_the_labels() -> None:
    volume = body_in_air("MR")
    model = threshold_model(window=SlidingWindow((16, 16, 16), 0.5, "gaussian"))
    choice = InferenceSettings(crop_to_body=True)
    cropped = plan_case([volume], model, choice)
    assert cropped.windows.count <= plan_inference(volume.geometry, model).windows.count / 2
    found = predict(volume, model, choice).array
    box = cropped.region.slices
    assert np.array_equal(found[box], predict(volume, model).array[box])


def test_body_box_of_nothing_is_everything() -> None:
    flat = Volume(np.zeros((5, 6, 7), dtype=np.float32), Geometry.from_spacing((5, 6, 7)))
    assert body_box(flat, "MR") == whole(flat.geometry)


def test_uncertainty_is_written_beside_the_labels(tmp_path: Path) -> None:
    model = random_model(make_card(3, window=WIDE))
    result = medseg.segment(noise(), model, InferenceSettings(uncertainty=True, sanity="off"))
    assert result.uncertainty is not None
    result.save(tmp_path)
    again = medseg.read(tmp_path / "uncertainty.nii.gz")
    assert np.allclose(again.array, result.uncertainty.array)
    medseg.segment(noise(), model, InferenceSettings(sanity="off")).save(tmp_path)
    assert not (tmp_path / "uncertainty.nii.gz").exists()


def test_the_plan_is_made_once_and_told() -> None:
    reports: list[Progress] = []
    medseg.segment(noise(), random_model(make_card()), progress=reports.append)
    notes = [report.note for report in reports if report.note]
    assert len(notes) == 1
    assert "windows of 8 x 8 x 8" in notes[0]
