"""Synthetic lesions: where they may lie, what they leave alone, and what is learned from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sphere_heads import LABELS, sphere_head

from medseg.instances.boxes import CENTRE, CHANNELS, OFFSET, SIZE, decode_boxes, suppress
from medseg.models.loading import load_model
from medseg.training.head_synthesis import SynthesisSettings
from medseg.training.lesion_loss import detection_loss, detection_targets, mask_loss
from medseg.training.lesion_publish import write_lesion_bundle
from medseg.training.lesion_synthesis import LesionSample, LesionSettings, synthesise_lesions
from medseg.training.lesion_task import LesionNetworks, LesionRecipe, LesionTask
from medseg.training.loop import HeadData

SMALL = LesionSettings(
    head=SynthesisSettings(shape=(32, 32, 32), spacing_mm=4.0, spoil=0.2), diameter_mm=(12.0, 40.0)
)


def samples(settings: LesionSettings, count: int) -> list[LesionSample]:
    head = sphere_head()
    return [synthesise_lesions(head, LABELS, np.random.default_rng([3, n]), settings) for n in range(count)]


def test_one_seed_gives_one_head() -> None:
    one, same, other = (
        synthesise_lesions(sphere_head(), LABELS, np.random.default_rng(seed), SMALL) for seed in (5, 5, 6)
    )
    assert torch.equal(one.image, same.image)
    assert torch.equal(one.objects, same.objects)
    assert np.array_equal(one.boxes, same.boxes)
    assert not torch.equal(one.image, other.image)


def test_boxes_are_those_of_the_objects_and_numbers_have_no_gaps() -> None:
    for sample in samples(SMALL, 12):
        assert sample.image.shape == sample.objects.shape == (32, 32, 32)
        assert float(sample.image.min()) >= 0
        assert float(sample.image.max()) <= 1
        assert set(sample.objects.flatten().tolist()) - {0} == set(range(1, len(sample.boxes) + 1))
        for number, box in enumerate(sample.boxes, start=1):
            where = torch.nonzero(sample.objects == number).numpy()
            assert np.array_equal(where.min(0), box[:3])
            assert np.array_equal(where.max(0) + 1, box[3:])


def test_some_heads_have_no_lesion_and_none_has_too_many() -> None:
    counts = [len(sample.boxes) for sample in samples(replace(SMALL, without_share=0.4, most=3), 30)]
    assert 4 <= counts.count(0) <= 22
    assert max(counts) <= 3
    assert all(len(s.boxes) == 0 for s in samples(replace(SMALL, without_share=1.0), 4))


def test_lesions_lie_in_the_brain_and_stand_out() -> None:
    """In an undeformed, unspoiled head of known place: inside the ball of cortex; other than around them."""
    at_rest = SynthesisSettings(
        shape=(64, 64, 64), spacing_mm=2.0, contrast_width=0.0, spoil=0.0, rotation_deg=0,
        scaling=0, shearing=0, elastic_mm=0, shift_mm=0,
    )  # fmt: skip
    differences = []
    for sample in samples(LesionSettings(head=at_rest, diameter_mm=(10.0, 16.0), without_share=0), 6):
        lesion = sample.objects > 0
        mask = lesion[None, None].float()
        rim = (torch.nn.functional.max_pool3d(mask, 5, stride=1, padding=2)[0, 0] > 0) & ~lesion
        differences.append(abs(float(sample.image[lesion].median() - sample.image[rim].median())))
    assert np.median(differences) > 0.05


def test_perfect_maps_decode_to_the_true_boxes() -> None:
    boxes = np.array([[4, 5, 6, 14, 11, 16], [18, 17, 20, 23, 30, 27]])
    spots, votes = detection_targets(boxes, (32, 36, 32), 2.0)
    maps = np.zeros((CHANNELS, 32, 36, 32), dtype=np.float32)
    maps[CENTRE] = torch.logit(spots, 1e-4).numpy()
    maps[SIZE], maps[OFFSET] = votes[:3], votes[3:]
    found = suppress(decode_boxes(maps, (2.0, 2.0, 2.0), 0.5), 0.3)
    assert len(found) == 2
    order = np.argsort(found.start[:, 0])
    assert found.start[order] == pytest.approx(boxes[:, :3] - 0.5, abs=1e-4)
    assert found.stop[order] == pytest.approx(boxes[:, 3:] - 0.5, abs=1e-4)


def test_losses_are_least_where_the_answer_is_right() -> None:
    boxes = np.array([[4, 5, 6, 14, 11, 16]])
    objects = torch.zeros((24, 24, 24), dtype=torch.int64)
    objects[4:14, 5:11, 6:16] = 1
    spots, votes = detection_targets(boxes, (24, 24, 24), 2.0)
    right = torch.cat([torch.logit(spots, 1e-6)[None], votes, 20.0 * (2 * (objects > 0)[None] - 1)])
    assert float(detection_loss(right, objects, (spots, votes))) < 0.01
    for channel in range(CHANNELS):
        wrong = right.clone()
        wrong[channel] = wrong[channel].roll(5, 0) + 0.5
        assert float(detection_loss(wrong, objects, (spots, votes))) > 0.05
    truth = (objects > 0)[None].float()
    assert float(mask_loss(40 * truth - 20, truth)) < 1e-3
    assert float(mask_loss(torch.full_like(truth, -20), torch.zeros_like(truth))) < 1e-3
    assert float(mask_loss(20 - 40 * truth, truth)) > 1


def test_a_step_learns_and_a_bundle_carries_both_networks(tmp_path: Path) -> None:
    recipe = LesionRecipe(
        steps=4, shape=(32, 32, 32), last_shape=(32, 32, 32), easy_fraction=0.0, lesions=SMALL
    )
    task = LesionTask(HeadData(LABELS, [sphere_head()], [sphere_head()]), recipe)
    networks = task.build()
    loss = task.loss(networks, 1)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in networks.parameters())
    assert any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in networks.detector.parameters())
    figures = task.check(networks.eval())
    assert set(figures) == {"found", "false_per_head", "dice_inside", "dice_masks"}
    write_lesion_bundle(networks, recipe, tmp_path / "lesions")
    model = load_model(tmp_path / "lesions")
    assert model.card.detection is not None
    assert model.card.detection.masks.weights_file == "models/masks.pt"
    assert model.card.output_ids == (0, 0, 0, 0, 0, 0, 0, 1)
    assert (model.card.activation, model.card.threshold) == ("none", 0.0)
    assert isinstance(model.masks, torch.nn.Module)
    again = LesionNetworks()
    again.masks.load_state_dict(model.masks.state_dict())
    assert torch.equal(next(again.masks.parameters()), next(networks.masks.parameters()))
    recorded = json.loads((tmp_path / "lesions" / "configs" / "recipe.json").read_text())
    assert recorded["steps"] == 4
