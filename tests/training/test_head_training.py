"""The synthetic-head trainer: what it draws, what it loses, and that a stop changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets.unet import UNet
from sphere_heads import LABELS, sphere_head

from medseg.training.brain_labels import BRAIN_STRUCTURES, head_labels, read_head_map
from medseg.training.growth import FULL_LEVEL, grow
from medseg.training.head_synthesis import SynthesisSettings, rescale_by_percentiles, synthesise
from medseg.training.loop import HeadData, build_network, train, validation_dice
from medseg.training.loss import dice_and_cross_entropy
from medseg.training.optimise import freeze_statistics
from medseg.training.recipe import TrainingRecipe

SMALL = SynthesisSettings(shape=(32, 32, 32), spacing_mm=4.0)
SETTINGS_AT_REST = replace(
    SMALL, rotation_deg=0, scaling=0, shearing=0, elastic_mm=0, shift_mm=0, contrast_width=0, spoil=0
)


def channel_of(label: int) -> int:
    return [i for i, _ in BRAIN_STRUCTURES].index(label) + 1


def test_mirrored_labels_are_each_others_twins() -> None:
    assert np.array_equal(LABELS.mirrored[LABELS.mirrored], np.arange(len(LABELS.source_ids)))
    twin = dict(zip(LABELS.source_ids, LABELS.source_ids[LABELS.mirrored], strict=True))
    assert (twin[2], twin[42], twin[24], twin[507]) == (41, 3, 24, 507)


def test_both_sides_share_a_tissue_and_nothing_else_does() -> None:
    tissue = dict(zip(LABELS.source_ids, LABELS.tissue, strict=True))
    assert tissue[2] == tissue[41]
    assert tissue[3] == tissue[42]
    assert len(set(tissue.values())) == len(tissue) - 2


def test_one_seed_gives_one_pair() -> None:
    head = sphere_head()
    first, second, other = (
        synthesise(head, LABELS, np.random.default_rng(seed), SMALL) for seed in (5, 5, 6)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("seed", range(8))
def test_the_left_half_stays_left_even_when_flipped(seed: int) -> None:
    """A flip of the picture swaps the names too, so left is always on the side of small R."""
    _, truth = synthesise(sphere_head(), LABELS, np.random.default_rng(seed), SETTINGS_AT_REST)
    where = {label: torch.nonzero(truth == channel_of(label))[:, 0].double().mean() for label in (2, 41)}
    assert where[2] < where[41]


def test_an_undeformed_ball_keeps_its_volume() -> None:
    settings = replace(SETTINGS_AT_REST, shape=(80, 80, 80), spacing_mm=2.0)
    _, truth = synthesise(sphere_head(), LABELS, np.random.default_rng(0), settings)
    mm3 = 8.0 * torch.count_nonzero((truth == channel_of(2)) | (truth == channel_of(41)))
    assert float(mm3) == pytest.approx(4 / 3 * math.pi * 28**3, rel=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_images_are_numbers_between_0_and_1(seed: int) -> None:
    image, truth = synthesise(sphere_head(), LABELS, np.random.default_rng(seed), SMALL)
    assert image.shape == truth.shape == SMALL.shape
    assert torch.isfinite(image).all()
    assert float(image.min()) == 0.0
    assert float(image.max()) == 1.0


def test_t1_like_contrast_has_white_matter_brighter_than_cortex_than_fluid() -> None:
    image, truth = synthesise(sphere_head(), LABELS, np.random.default_rng(1), SETTINGS_AT_REST)
    white, cortex, fluid = (float(image[truth == channel_of(label)].mean()) for label in (2, 3, 24))
    assert white > cortex > fluid


def test_percentile_rescaling_of_a_ramp() -> None:
    ramp = torch.arange(1001.0)
    scaled = rescale_by_percentiles(ramp, 10, 90)
    assert float(scaled[500]) == pytest.approx(0.5)
    assert float(scaled[100]) == pytest.approx(0.0, abs=1e-6)
    assert float(scaled[0]) == 0.0
    assert float(scaled[1000]) == 1.0


def test_loss_is_cross_entropy_plus_dice_over_present_classes() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 4, 3, 4, 5, generator=generator)
    target = torch.randint(0, 3, (2, 3, 4, 5), generator=generator)  # class 3 never occurs
    p = logits.softmax(1)
    one_hot = torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float()
    axes = (0, 2, 3, 4)
    dice = (2 * (p * one_hot).sum(axes) + 1) / (p.sum(axes) + one_hot.sum(axes) + 1)
    expected = torch.nn.functional.cross_entropy(logits, target) + 1 - dice[:3].mean()
    assert float(dice_and_cross_entropy(logits, target)) == pytest.approx(float(expected), rel=1e-5)


def test_loss_of_a_perfect_answer_is_nothing() -> None:
    target = torch.randint(0, 3, (1, 6, 6, 6), generator=torch.Generator().manual_seed(0))
    logits = 100 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert float(dice_and_cross_entropy(logits, target)) == pytest.approx(0, abs=1e-4)


class Oracle(torch.nn.Module):
    """Answers with the truth that it was told."""

    def __init__(self, truth: torch.Tensor) -> None:
        super().__init__()
        self.scores = torch.nn.functional.one_hot(truth, len(BRAIN_STRUCTURES) + 1).movedim(-1, 0)[None]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.scores.to(image.dtype)


def test_validation_gives_one_to_the_truth_and_less_to_another() -> None:
    data = HeadData(LABELS, [], [sphere_head()])
    _, truth = synthesise(data.validation[0], LABELS, np.random.default_rng([7, 0, 0]), SMALL)
    perfect = validation_dice(Oracle(truth), data, SMALL, per_map=1, seed=7)
    wrong = validation_dice(Oracle(truth.flip(0)), data, SMALL, per_map=1, seed=7)
    assert np.nanmin(perfect) == 1.0
    assert np.nanmean(wrong) < 0.2


TINY = TrainingRecipe(
    channels=(4, 8),
    strides=(2,),
    small_shape=(24, 32, 24),
    steps=6,
    warm_up_steps=2,
    check_every=3,
    synthesis=SMALL,
)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    data = HeadData(LABELS, [sphere_head()], [sphere_head()])
    whole = train(data, TINY, tmp_path / "whole", lambda _: None)

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, TINY, tmp_path / "stopped", stop)
    resumed = train(data, TINY, tmp_path / "stopped", lambda _: None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert (tmp_path / "stopped" / "log.csv").read_text().count("\n") == 3


def test_a_grown_network_begins_with_nearly_the_answers_of_the_old_one() -> None:
    torch.manual_seed(0)
    small = UNet(3, 1, 5, channels=(8, 8, 16), strides=(2, 1), num_res_units=0, norm="batch").eval()
    channels, strides = (FULL_LEVEL, 8, 8, 16), (1, 2, 1)
    grown = UNet(3, 1, 5, channels=channels, strides=strides, num_res_units=0, norm="batch").eval()
    image = torch.rand(1, 1, 16, 16, 16)

    def likeness() -> float:
        with torch.no_grad():
            answers = torch.stack([small(image).flatten(), grown(image).flatten()])
        return float(torch.corrcoef(answers)[0, 1])

    assert likeness() < 0.5
    grow(small, grown)
    assert likeness() > 0.9


def test_frozen_statistics_do_not_move() -> None:
    network = build_network(TINY)
    network.train()
    freeze_statistics(network)
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.rand(1, 1, 16, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


def test_the_schedule_rises_falls_and_widens() -> None:
    recipe = TrainingRecipe()
    rates = [recipe.learning_rate_at(step) for step in range(recipe.steps)]
    top = int(np.argmax(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < recipe.learning_rate / 100
    assert recipe.difficulty_at(0) == 0
    assert recipe.difficulty_at(recipe.steps - 1) == 1


def test_every_source_label_of_the_real_maps_is_known(shared_data: Path) -> None:
    folder = shared_data / "brain_label_maps"
    labels = head_labels(np.load(folder / "generation_labels.npy"))
    head = read_head_map(folder / "training_seg_17.nii.gz", labels)
    left, right = (np.argwhere(labels.channel[head.source] == channel_of(i))[:, 0].mean() for i in (17, 53))
    assert left < right
    assert set(labels.channel) == set(range(len(BRAIN_STRUCTURES) + 1))
