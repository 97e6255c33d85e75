"""Detection first: known objects are found, counted, drawn and scored, on any grid the scan may have."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import oblique_grid, world_of_voxels
from small_models import make_card
from torch import Tensor, nn

from medseg.detection import detect_masks, detect_objects
from medseg.errors import ModelError
from medseg.geometry import Geometry
from medseg.inference.settings import InferenceSettings
from medseg.instances.boxes import CHANNELS, INSIDE, SIZE_UNIT_MM
from medseg.labels import LabelSet
from medseg.models.card import Detection, NetworkRecipe, SlidingWindow
from medseg.models.loading import Model
from medseg.pipeline import segment
from medseg.volume import Volume

DIAMETER_MM = 16.0
CENTRES = ((-18.0, -12.0, 4.0), (16.0, 14.0, -10.0), (14.0, -16.0, 12.0))
BRIGHTNESS = (1.0, 0.9, 0.8)


class BallDetector(nn.Module):
    """Answers for bright balls of known diameter what a trained detector would."""

    def forward(self, image: Tensor) -> Tensor:
        """`(n, 1, i, j, k)` depth in the ball (1 in its middle) to `(n, 8, i, j, k)`."""
        maps = image.new_zeros((image.shape[0], CHANNELS, *image.shape[2:]))
        maps[:, 0] = 12 * (image[:, 0] - 0.5)
        maps[:, 1:4] = float(np.log(DIAMETER_MM / SIZE_UNIT_MM))
        maps[:, INSIDE] = 12 * (image[:, 0] - 0.25)
        return maps


class InsideIsObject(nn.Module):
    """What lies inside any object belongs to this one."""

    def forward(self, crops: Tensor) -> Tensor:
        """`(n, 3, s, s, s)` to `(n, 1, s, s, s)`."""
        return 6 * crops[:, 1:2]


def ball_model(**changes: Any) -> Model:
    recipe = NetworkRecipe("monai.networks.nets.UNet", {}, "models/masks.pt")
    card = make_card(
        labels=LabelSet.from_names({1: "lesion"}),
        output_ids=(0, 0, 0, 0, 0, 0, 0, 1),
        activation="none",
        threshold=0.0,
        orientation="RAS",
        spacing_mm=(2.0, 2.0, 2.0),
        window=SlidingWindow((24, 24, 24), 0.5, "gaussian"),
        detection=Detection(recipe, **{"score_threshold": 0.5, "most_overlap": 0.2, **changes}),
    )
    return Model(card, BallDetector().eval(), masks=InsideIsObject().eval())


def balls(geometry: Geometry, centres: tuple[tuple[float, float, float], ...] = CENTRES) -> Volume:
    """Cones of brightness that cross 0.25 at the surface of each ball, as linear as can be."""
    world = world_of_voxels(geometry)
    image = np.zeros(geometry.shape, dtype=np.float32)
    for centre, bright in zip(centres, BRIGHTNESS, strict=False):
        away = np.linalg.norm(world - centre, axis=-1) / (DIAMETER_MM / 2)
        image = np.maximum(image, bright + (0.25 - bright) * away).clip(0).astype(np.float32)
    return Volume(image, geometry)


def straight(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Geometry:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing
    return Geometry(shape, affine)


GRIDS = {
    "cubes": straight((64, 64, 56), (1.5, 1.5, 1.5)),
    "thick slices": straight((80, 80, 18), (1.0, 1.0, 4.5)),
    "turned axes": straight((64, 64, 56), (1.5, 1.5, 1.5)).reorient("PIL"),
    "oblique": oblique_grid((64, 64, 64), (1.5, 1.4, 1.6)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_balls_are_found_counted_and_drawn_where_they_are(name: str) -> None:
    volume = balls(GRIDS[name])
    found = detect_objects(volume, ball_model())
    assert found.geometry is volume.geometry
    assert sorted(found.classes.items()) == [(1, 1), (2, 1), (3, 1)]
    world = world_of_voxels(volume.geometry)
    middles = [world[found.array == n].mean(axis=0) for n in (1, 2, 3)]
    nearest = [int(np.argmin([np.linalg.norm(m - c) for c in CENTRES])) for m in middles]
    assert nearest == [0, 1, 2]  # the brightest is the surest
    assert max(np.linalg.norm(m - CENTRES[n]) for n, m in enumerate(middles)) < 1.5
    truth = np.pi / 6 * DIAMETER_MM**3
    volumes = [(found.array == n).sum() * volume.geometry.voxel_volume_mm3 for n in (1, 2, 3)]
    assert all(0.75 < v / truth < 1.25 for v in volumes)
    assert found.scores[1] > found.scores[2] > found.scores[3] > 0.5


def test_a_sheared_scan_gets_its_objects_back_on_its_own_grid() -> None:
    affine = GRIDS["cubes"].affine.copy()
    affine[1, 2] = 0.3
    volume = balls(Geometry((64, 64, 56), affine))
    found = detect_objects(volume, ball_model())
    assert found.geometry is volume.geometry
    world = world_of_voxels(volume.geometry)
    for number, centre in enumerate(CENTRES, start=1):
        assert np.linalg.norm(world[found.array == number].mean(axis=0) - centre) < 2


def test_where_objects_overlap_the_surer_one_has_the_voxels() -> None:
    volume = balls(GRIDS["cubes"], ((-6.0, 0.0, 0.0), (7.0, 0.0, 0.0)))
    masks = detect_masks(volume, ball_model(), InferenceSettings())
    assert len(masks) == 2
    drawn = np.zeros(volume.geometry.shape, dtype=int)
    for mask in masks:
        drawn[mask.place] += mask.mask
    assert (drawn == 2).any()
    flat = detect_objects(volume, ball_model()).array
    assert np.array_equal(flat > 0, drawn > 0)
    assert np.array_equal(flat[masks[0].place] == 1, masks[0].mask)


def test_a_scan_without_objects_is_a_valid_answer(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((30, 30, 30), dtype=np.float32) * 0.1
    result = segment(Volume(image, straight((30, 30, 30), (2.0, 2.0, 2.0))), ball_model())
    assert result.instances is not None
    assert result.instances.classes == result.instances.scores == {}
    assert not result.labels.array.any()
    assert result.regions == ()
    result.save(tmp_path / "out", export=("nifti", "png", "html"))
    assert (tmp_path / "out" / "instances.nii.gz").is_file()


def test_small_objects_and_those_of_low_score_are_left_out() -> None:
    volume = balls(GRIDS["cubes"])
    scores = detect_objects(volume, ball_model()).scores
    between = (scores[2] + scores[3]) / 2
    assert len(detect_objects(volume, ball_model(score_threshold=between)).classes) == 2
    assert detect_objects(volume, ball_model(min_volume_mm3=4000.0)).classes == {}


def test_scores_reach_regions_and_the_table(tmp_path: Path) -> None:
    result = segment(balls(GRIDS["cubes"]), ball_model())
    assert result.instances is not None
    assert np.array_equal(result.labels.array > 0, result.instances.array > 0)
    objects = [region for region in result.regions if region.kind == "object"]
    assert [r.name for r in objects] == ["lesion"] * 3
    assert all(r.score is not None and 0.5 < r.score <= 1 for r in objects)
    assert [r.score for r in result.regions if r.kind == "class"] == [None]
    result.save(tmp_path / "out")
    with (tmp_path / "out" / "regions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["score"]) for r in rows if r["kind"] == "object"] == pytest.approx(
        [r.score for r in objects]
    )
    assert [r["score"] for r in rows if r["kind"] == "class"] == [""]


def test_another_model_is_no_detector() -> None:
    model = replace(ball_model(), masks=None)
    with pytest.raises(ModelError) as raised:
        detect_objects(balls(GRIDS["cubes"]), model)
    assert raised.value.code == "NOT_A_DETECTOR"
