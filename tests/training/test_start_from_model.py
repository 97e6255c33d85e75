"""A training that starts from a model keeps its classes, adds new ones, or changes its head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sphere_datasets import GRID, ball_and_box, write_dataset
from tiny_bundle import write_tiny_bundle

import medseg
from medseg.cli.main import run
from medseg.errors import ModelError, ReadError
from medseg.labels import Code, Label, LabelSet, colour_of_id
from medseg.measure.overlap import label_overlaps
from medseg.models.loading import load_model
from medseg.training.dataset import list_dataset
from medseg.training.dataset_check import check_dataset
from medseg.training.fingerprint import fingerprint_of
from medseg.training.plan import make_plan
from medseg.training.plan_bundle import bundle_files
from medseg.training.settings import TrainingSettings
from medseg.training.start import Start, halved, read_start
from medseg.training.train_model import train

FEW = TrainingSettings(steps=2, threads=1, device="cpu")


def one_class(folder: Path, old_id: int, new_id: int, name: str, cases: int = 3) -> Path:
    """The balls and boxes of `sphere_datasets`, of which only one class is drawn, under an id of its own."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(cases):
        image, labels = ball_and_box(number)
        array = np.where(labels.array == old_id, new_id, 0).astype(np.uint8)
        drawn = medseg.LabelVolume(array, GRID, LabelSet.from_names({new_id: name}))
        medseg.write_volume(image, folder / "images" / f"case_{number:02}.nii.gz")
        medseg.write_labels(drawn, folder / "labels" / f"case_{number:02}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """The tiny bundle: 10 left blob, 49 right blob, 24 rest, on 2 mm."""
    return read_start(write_tiny_bundle(tmp_path_factory.mktemp("models") / "tiny"), "cpu")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases in which only boxes are drawn, as 10, an id that the tiny bundle has taken."""
    return one_class(tmp_path_factory.mktemp("boxes") / "data", 2, 10, "box")


def test_old_classes_come_first_and_new_ones_get_a_free_id(start: Start, boxes: Path) -> None:
    checked = start.continued(check_dataset(list_dataset(boxes)))
    assert list(checked.class_names.items()) == [
        (10, "left blob"),
        (49, "right blob"),
        (24, "rest"),
        (50, "box"),
    ]
    assert checked.class_of({}, 10) == 50
    assert checked.class_of({}, 49) == 0
    assert checked.unlabelled == {10, 49, 24}


def test_a_class_of_the_same_name_is_the_same(start: Start, tmp_path: Path) -> None:
    checked = start.continued(check_dataset(list_dataset(one_class(tmp_path / "d", 1, 3, "Right Blob"))))
    assert list(checked.class_names) == [10, 49, 24]
    assert checked.class_of({}, 3) == 49
    assert checked.unlabelled == {10, 24}


def test_names_decide_where_ids_differ_from_case_to_case(start: Start, boxes: Path) -> None:
    """Segments of DICOM: the ids of a file are its own."""
    checked = check_dataset(list_dataset(boxes))
    named = replace(checked, facts=tuple(replace(one, is_named=True) for one in checked.facts))
    continued = start.continued(named)
    assert continued.class_of({7: "BOX"}, 7) == 50
    assert continued.class_of({10: "Right Blob"}, 10) == 49
    assert continued.class_of({7: "nose"}, 7) == 0


def test_a_continued_model_answers_as_before_and_knows_more(start: Start, boxes: Path) -> None:
    folder = boxes.parent / "continued"
    told: list[str] = []
    train(boxes, folder, replace(FEW, learning_rate=1e-6), tell=told.append, start=start.folder)
    model = load_model(folder, device="cpu")
    assert model.card.output_ids == (0, 10, 49, 24, 50)
    assert (model.card.spacing_mm, model.card.orientation) == (start.card.spacing_mm, start.card.orientation)
    assert model.card.intensity == start.card.intensity
    assert any("widened" in words for words in told)
    kept = [model.card.labels.find(i) for i in (10, 49, 24)]
    assert kept == [start.card.labels.find(i) for i in (10, 49, 24)]  # colours and codes too
    assert kept[0].code is not None
    assert model.card.labels.find(50).colour == colour_of_id(50)
    image, _ = ball_and_box(50)
    before, after = (medseg.predict(image, one) for one in (start.model, model))
    is_old = after.array != 50
    assert is_old.mean() > 0.2
    assert (after.array == before.array)[is_old].mean() > 0.95


def test_what_only_the_model_knows_stands_in_for_background(start: Start, boxes: Path) -> None:
    from medseg.training.case_reading import read_case_data
    from medseg.training.prepared import truth_of

    checked = start.continued(check_dataset(list_dataset(boxes)))
    data = read_case_data(checked.cases[0])
    truth, complete = truth_of(checked, data), start.completion(checked)
    assert complete is not None
    filled, own = complete(truth, data).array, medseg.predict(data.images[0], start.model).array
    is_drawn = truth.array == 50
    assert is_drawn.any()
    assert (filled[is_drawn] == 50).all()
    assert np.array_equal(filled[~is_drawn], own[~is_drawn])


def test_objects_put_a_new_head_on_a_model_of_classes(start: Start, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "objects", 2)
    told: list[str] = []
    settings = replace(FEW, labels="objects")
    train(folder, tmp_path / "made", settings, tell=told.append, start=start.folder)
    model = load_model(tmp_path / "made", device="cpu")
    assert model.card.separation is not None
    assert model.card.out_channels == 2
    assert model.card.network.arguments["channels"] == start.card.network.arguments["channels"]
    assert any("dropped" in words for words in told)


def test_only_the_same_start_goes_on(start: Start, boxes: Path, tmp_path: Path) -> None:
    def stop(words: str) -> None:
        if words.startswith("step"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(boxes, tmp_path / "made", FEW, tell=stop, start=start.folder)
    with pytest.raises(ReadError) as caught:
        train(boxes, tmp_path / "made", FEW)
    assert caught.value.code == "TRAINING_CHANGED"
    train(boxes, tmp_path / "made", FEW, start=start.folder)


def test_models_that_cannot_be_continued_are_refused(start: Start, boxes: Path, tmp_path: Path) -> None:
    plain = write_tiny_bundle(tmp_path / "plain", inference={"preprocessing": {"transforms": []}})
    with pytest.raises(ModelError) as caught:
        read_start(plain, "cpu")
    assert caught.value.code == "CANNOT_CONTINUE"
    words = ["train", str(boxes), "-o", str(tmp_path / "out"), "--steps", "2"]
    assert run([*words, "--from", "no-such-model"]) == 1
    assert run([*words, "--from", str(plain)]) == 1


def test_colours_and_codes_of_the_label_files_reach_the_model(tmp_path: Path) -> None:
    ball = Label(1, "ball", (1, 2, 3))
    box = Label(2, "box", colour_of_id(2), Code("SCT", "10200004", "Liver"))

    def coloured(number: int) -> tuple[medseg.Volume, medseg.LabelVolume]:
        image, labels = ball_and_box(number)
        return image, replace(labels, labels=LabelSet((ball, box)))

    checked = check_dataset(list_dataset(write_dataset(tmp_path / "data", 2, coloured)))
    fingerprint = fingerprint_of(checked)
    card = bundle_files(make_plan(fingerprint), fingerprint, {"name": "mine"}).card
    assert tuple(card.labels) == (ball, box)


@pytest.mark.parametrize(
    ("sides", "most", "expected"),
    [
        ((96, 112, 96), 10**9, (96, 112, 96)),
        ((96, 112, 96), 300_000, (48, 112, 48)),
        ((64, 64, 64), 1, (16, 16, 16)),
    ],
)
def test_windows_are_halved_as_far_as_a_network_allows(
    sides: tuple[int, int, int], most: int, expected: tuple[int, int, int]
) -> None:
    assert halved(sides, most, 16) == expected


@pytest.mark.slow
def test_a_model_of_balls_learns_boxes_and_still_finds_balls(tmp_path: Path) -> None:
    settings = TrainingSettings(steps=180, threads=1, device="cpu", patience=0)
    balls = train(one_class(tmp_path / "balls", 1, 1, "ball", 6), tmp_path / "first", settings)
    done = train(
        one_class(tmp_path / "boxes", 2, 1, "box", 6), tmp_path / "second", settings, start=balls.folder
    )
    assert done.scores["box"] > 0.85
    image, truth = ball_and_box(77)
    found = medseg.predict(image, load_model(done.folder, device="cpu"))
    assert found.labels.names == {1: "ball", 2: "box"}
    for overlap in label_overlaps(found, truth).values():
        assert overlap.dice > 0.85
