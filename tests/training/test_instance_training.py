"""Learning objects: the target, the loss, a run that can be stopped, fine-tuning on annotated images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import medseg
from medseg.errors import ModelError, ReadError, SettingsError, VolumeError, WriteError
from medseg.geometry import Geometry
from medseg.labels import Label, LabelSet
from medseg.models.loading import Model, load_model
from medseg.objects import with_diameter
from medseg.training.annotated import Pair, on_grid, read_pairs, typical_diameter_mm
from medseg.training.dataset import list_dataset
from medseg.training.dataset_check import check_dataset
from medseg.training.fine_tune import fine_tune
from medseg.training.instance_target import foreground_and_distance, normalised_distance
from medseg.training.nuclei import NucleiTask, build_network
from medseg.training.nuclei_publish import write_nuclei_bundle
from medseg.training.nuclei_recipe import NucleiRecipe
from medseg.training.nuclei_synthesis import NucleiSettings
from medseg.training.optimise import optimise
from medseg.training.settings import FineTuneSettings
from medseg.volume import LabelVolume, Volume

TINY = NucleiRecipe(
    channels=(4, 8), strides=(1,), window=16, batch=2, steps=6, warm_up_steps=2, check_every=3,
    synthesis=NucleiSettings(shape=(24, 24, 24), margin=2, diameter=(8, 10)),
)  # fmt: skip


def two_balls(spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Balls of radius 7 that touch at x = 12, on a grid over 40 x 24 x 24."""
    shape = [round(n / s) for n, s in zip((40, 24, 24), spacing, strict=True)]
    x, y, z = (a * s for a, s in zip(np.indices(shape), spacing, strict=True))
    one = (x - 12) ** 2 + (y - 12) ** 2 + (z - 12) ** 2 < 49
    two = (x - 26) ** 2 + (y - 12) ** 2 + (z - 12) ** 2 < 49
    balls: npt.NDArray[np.int32] = one.astype(np.int32) + 2 * (two & ~one)
    return balls


def annotated(array: np.ndarray, spacing_mm: tuple[float, float, float]) -> Pair:
    geometry = Geometry.from_spacing(array.shape, spacing_mm)
    names = LabelSet(tuple(Label(int(n), f"nucleus {n}", (9, 9, 9)) for n in np.unique(array) if n))
    noise = np.random.default_rng(0).normal(0, 10, array.shape)
    image = Volume((100 * (array > 0) + noise).astype(np.float32), geometry)
    return Pair(image, LabelVolume(array, geometry, names))


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    torch.manual_seed(0)
    write_nuclei_bundle(build_network(TINY).eval(), TINY, folder)
    return load_model(folder, device="cpu")


# ------------------------------------------------------------------------------ target


def test_distance_is_one_in_the_middle_and_falls_to_the_surface_and_to_the_neighbour() -> None:
    labels = two_balls()
    distance = normalised_distance(labels)
    assert distance[labels == 0].max() == 0
    for number in (1, 2):
        assert distance[labels == number].max() == 1
    assert distance[12, 12, 12] == 1
    assert distance[18, 12, 12] < 0.3  # where both touch
    assert distance[26, 12, 12] > 0.9


def test_distance_is_physical() -> None:
    """A ball on a grid of 4:1 has the distances that it has on a fine grid."""
    fine, coarse = normalised_distance(two_balls()), normalised_distance(two_balls((1, 1, 4)), (1, 1, 4))
    inside = fine[:, :, ::4] > 0.5
    assert np.abs(fine[:, :, ::4] - coarse)[inside].max() < 0.3
    assert coarse[12, 12, 3] == 1


def test_distance_of_nothing_and_of_everything() -> None:
    assert normalised_distance(np.zeros((4, 4, 4), dtype=np.uint8)).max() == 0
    assert (normalised_distance(np.ones((4, 4, 4), dtype=np.uint8)) == 1).all()


# -------------------------------------------------------------------------------- loss


def loss_of(where: torch.Tensor, depth: torch.Tensor, known: torch.Tensor | None = None) -> float:
    labels = two_balls()
    foreground = torch.from_numpy((labels > 0).astype(np.float32))[None]
    distance = torch.from_numpy(normalised_distance(labels))[None]
    logits = torch.stack([depth, where], dim=1)
    known = torch.ones_like(foreground) if known is None else known
    return float(foreground_and_distance(logits, foreground, distance, known))


def test_the_loss_is_least_at_the_truth() -> None:
    labels = two_balls()
    truth = torch.from_numpy((labels > 0).astype(np.float32))[None]
    depth = torch.from_numpy(normalised_distance(labels))[None].clamp(1e-4, 1 - 1e-4).logit()
    best = loss_of(20 * truth - 10, depth)
    assert best < loss_of(20 * truth - 10, depth + 0.5)
    assert best < loss_of(20 * truth - 10, depth - 0.5)
    assert best < loss_of(torch.zeros_like(truth), depth)
    assert best < loss_of(10 - 20 * truth, depth)


def test_voxels_of_unknown_truth_do_not_count() -> None:
    known = torch.ones(1, 40, 24, 24)
    known[:, 30:] = 0
    torch.manual_seed(0)
    where, depth = torch.randn(1, 40, 24, 24), torch.randn(1, 40, 24, 24)
    before = loss_of(where, depth, known)
    where[:, 30:], depth[:, 30:] = 50, -50
    assert loss_of(where, depth, known) == pytest.approx(before)


# --------------------------------------------------------------------------------- run


def quietly(_line: str) -> None:
    """Report to nobody."""


def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole = optimise(NucleiTask(TINY), TINY, tmp_path / "whole", quietly)

    class Stopped(NucleiTask):
        def loss(self, network: torch.nn.Module, step: int) -> torch.Tensor:
            if step == 4:
                raise KeyboardInterrupt
            return super().loss(network, step)

    with pytest.raises(KeyboardInterrupt):
        optimise(Stopped(TINY), TINY, tmp_path / "parts", quietly)
    parts = optimise(NucleiTask(TINY), TINY, tmp_path / "parts", quietly)
    for one, other in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert len((tmp_path / "parts" / "log.csv").read_text().splitlines()) == 3


def test_the_recipe_can_be_learned(tmp_path: Path) -> None:
    recipe = replace(TINY, steps=60, check_every=30, learning_rate=1e-2)
    said: list[str] = []
    optimise(NucleiTask(recipe), recipe, tmp_path, said.append)
    first, last = (float(line.split("loss ")[1].split(",")[0]) for line in said)
    assert last < first


# ------------------------------------------------------------------------- fine-tuning


def test_the_typical_diameter_is_that_of_the_balls() -> None:
    assert typical_diameter_mm([annotated(two_balls(), (0.001,) * 3)]) == pytest.approx(0.014, rel=0.03)
    coarse = annotated(two_balls((1, 1, 2)), (0.001, 0.001, 0.002))
    assert typical_diameter_mm([coarse]) == pytest.approx(0.014, rel=0.05)


def test_a_small_image_is_filled_up_with_voxels_that_do_not_count(tiny_model: Model) -> None:
    card = with_diameter(tiny_model, 0.012).card
    shown = on_grid(annotated(two_balls((1, 1, 2)), (0.001, 0.001, 0.002)), card, 32)
    assert shown.known == (40, 24, 23)
    assert shown.image.shape == shown.labels.shape == (40, 32, 32)
    assert shown.alike == (0, 1)
    assert shown.labels[:, 24:].max() == 0
    assert shown.sample(None).image.max() == 1


def test_fine_tuning_writes_a_model_that_segments(tiny_model: Model, tmp_path: Path) -> None:
    pair = annotated(two_balls(), (0.001, 0.001, 0.001))
    done = fine_tune(tiny_model, [pair], tmp_path / "mine", FineTuneSettings(steps=3, threads=1))
    assert (done.images, done.objects) == (1, 2)
    assert not (tmp_path / "mine.partial").exists()
    model = load_model(tmp_path / "mine", device="cpu")
    assert model.card.name == "mine"
    assert model.card.separation is not None
    assert model.card.separation.diameter_mm == pytest.approx(0.014, rel=0.03)
    before, after = tiny_model.network.state_dict(), model.network.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    running = [name for name in before if "running_" in name]
    assert all(torch.equal(before[name], after[name]) for name in running)
    result = medseg.segment(pair.image, model)
    assert result.instances is not None


def test_fine_tuning_goes_on_where_it_was_stopped_but_not_with_other_images(
    tiny_model: Model, tmp_path: Path
) -> None:
    pair = annotated(two_balls(), (0.001, 0.001, 0.001))
    settings = FineTuneSettings(steps=3, threads=1)
    cancel = medseg.CancelToken()
    cancel.cancel()
    with pytest.raises(medseg.CancelledError):
        fine_tune(tiny_model, [pair], tmp_path / "mine", settings, cancel=cancel)
    assert not (tmp_path / "mine").exists()
    with pytest.raises(ReadError, match="other images or settings"):
        fine_tune(tiny_model, [pair, pair], tmp_path / "mine", settings)
    fine_tune(tiny_model, [pair], tmp_path / "mine", settings)
    with pytest.raises(WriteError, match="new folder"):
        fine_tune(tiny_model, [pair], tmp_path / "mine", settings)


def test_a_model_of_classes_is_no_start(tiny_model: Model, tmp_path: Path) -> None:
    other = replace(tiny_model, card=replace(tiny_model.card, separation=None))
    with pytest.raises(ModelError, match="model of objects"):
        fine_tune(other, [annotated(two_balls(), (0.001,) * 3)], tmp_path / "mine")


def test_pairs_are_those_of_the_dataset(tmp_path: Path) -> None:
    pair = annotated(two_balls(), (0.001, 0.001, 0.001))
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    medseg.write_volume(pair.image, tmp_path / "images" / "a.tif")
    medseg.write_labels(pair.labels, tmp_path / "labels" / "a.nii.gz")
    (only,) = read_pairs(check_dataset(list_dataset(tmp_path), "objects"))
    assert np.array_equal(only.labels.array, pair.labels.array)
    assert np.array_equal(only.image.array, pair.image.array)


def test_images_without_a_drawn_object_are_refused(tiny_model: Model, tmp_path: Path) -> None:
    pair = annotated(np.zeros_like(two_balls()), (0.001, 0.001, 0.001))
    with pytest.raises(VolumeError, match="background alone") as caught:
        fine_tune(tiny_model, [pair], tmp_path / "mine")
    assert caught.value.code == "NO_OBJECTS"
    assert not (tmp_path / "mine.partial").exists()


def test_settings_out_of_bounds_are_refused() -> None:
    with pytest.raises(SettingsError):
        FineTuneSettings(steps=0)
