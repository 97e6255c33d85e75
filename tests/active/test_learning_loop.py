"""The loop as a person goes through it: find, correct, learn, predict, correct, learn again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_makers import line, make_source, uid
from phantoms import Sphere, label_map
from sphere_datasets import ball_and_box

import medseg
from medseg.active.loop import (
    correct_case,
    labels_to_correct,
    learn_from_queue,
    open_queue,
    predict_case,
    predict_cases,
    uncertainty_of,
)
from medseg.active.queue import CORRECTED, FAILED, HELD_OUT, PREDICTED, WAITING, CaseQueue, QueueCase
from medseg.errors import GeometryError, ModelNotFoundError, ReadError
from medseg.geometry import Geometry
from medseg.inference.settings import InferenceSettings
from medseg.io.formats import read_labels, write_volume
from medseg.labels import LabelSet
from medseg.measure.overlap import label_overlaps, mean_dice
from medseg.progress import CancelToken
from medseg.result import Result
from medseg.training.nuclei import build_network
from medseg.training.nuclei_publish import write_nuclei_bundle
from medseg.training.nuclei_recipe import NucleiRecipe
from medseg.training.nuclei_synthesis import NucleiSettings
from medseg.training.settings import FineTuneSettings, TrainingSettings
from medseg.volume import InstanceVolume, LabelVolume, Volume

QUICK = TrainingSettings(steps=120, threads=1, device="cpu", patience=0)
ONE_THREAD = InferenceSettings(threads=1, device="cpu")


def scans(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        write_volume(ball_and_box(number)[0], folder / f"scan_{number}.nii.gz")
    return folder


def number_of(queue: CaseQueue, name: str) -> int:
    return int(queue.case(name).path.split("_")[1].split(".")[0])


def corrected(queue: CaseQueue, name: str) -> CaseQueue:
    image, truth = ball_and_box(number_of(queue, name))
    return queue.with_case(correct_case(queue, queue.case(name), image, truth))


def test_the_whole_loop(tmp_path: Path) -> None:
    queue = open_queue(scans(tmp_path / "queue", 5))
    assert [one.state for one in queue.cases] == [WAITING] * 5
    assert sum(one.is_held_out for one in queue.cases) == 1
    with pytest.raises(ModelNotFoundError):
        predict_case(queue, queue.cases[0])
    with pytest.raises(ReadError) as caught:
        learn_from_queue(queue)
    assert caught.value.code == "NOTHING_TO_LEARN"
    for _ in range(3):
        queue = corrected(queue, queue.to_do()[0].name)
    assert {one.state for one in queue.cases} == {WAITING, CORRECTED, HELD_OUT}
    done = learn_from_queue(queue, QUICK)
    assert done.score is not None
    assert done.score > 0.8
    assert done.learned_from + done.held_out == 3
    queue = replace(queue, rounds=(*queue.rounds, done))
    case = queue.to_do()[0]
    found = predict_case(queue, case, ONE_THREAD)
    assert found.case.state == PREDICTED
    assert found.case.uncertainty is not None
    assert 0 <= found.case.uncertainty < 0.5
    truth = ball_and_box(number_of(queue, case.name))[1]
    assert mean_dice(label_overlaps(found.labels, truth)) > 0.8
    kept = read_labels(queue.prediction_file(case))
    assert np.array_equal(kept.array, found.labels.array)
    assert kept.labels.names == {1: "ball", 2: "box"}
    medseg.save_queue(queue)
    again = open_queue(queue.folder)
    assert again == queue  # its own labels and predictions are no cases


def test_a_training_that_was_stopped_gives_way_to_one_with_more_cases(tmp_path: Path) -> None:
    queue = open_queue(scans(tmp_path / "queue", 4), held_out_fraction=0)
    few = TrainingSettings(steps=3, threads=1, device="cpu")
    queue = corrected(corrected(queue, "case-001"), "case-002")
    stop = CancelToken()
    with pytest.raises(medseg.CancelledError):
        learn_from_queue(queue, few, lambda told: stop.cancel() if told.stage == "train" else None, stop)
    queue = corrected(queue, "case-003")
    done = learn_from_queue(queue, few)
    assert (done.learned_from, done.held_out, done.score) == (3, 0, None)


def test_labels_of_another_grid_are_no_correction(tmp_path: Path) -> None:
    queue = open_queue(scans(tmp_path / "queue", 1))
    other = LabelVolume(np.zeros((4, 4, 4), np.uint8), Geometry.from_spacing((4, 4, 4)))
    with pytest.raises(GeometryError):
        correct_case(queue, queue.cases[0], ball_and_box(0)[0], other)
    assert not queue.labels_file(queue.cases[0]).exists()


def test_junk_in_the_folder_is_a_failed_case_or_none(tmp_path: Path) -> None:
    folder = scans(tmp_path / "queue", 1)
    (folder / "readme.txt").write_text("no scan")
    (folder / "broken.nii.gz").write_bytes(b"junk")
    queue = open_queue(folder)
    assert len(queue.cases) == 2
    broken = next(one for one in queue.cases if "broken" in one.path)
    with pytest.raises(ReadError):
        medseg.read_queue_case(queue, broken)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError) as caught:
        open_queue(tmp_path / "empty")
    assert caught.value.code == "NO_CASES"


@pytest.mark.parametrize(("inside", "outside", "expected"), [(0.25, 0.0, 0.25), (0.0, 0.9, 0.0)])
def test_uncertainty_is_that_of_what_was_found(inside: float, outside: float, expected: float) -> None:
    geometry = Geometry.from_spacing((4, 4, 4))
    array = np.zeros(geometry.shape, np.uint8)
    array[:2] = 1
    doubt = np.where(array > 0, inside, outside).astype(np.float32)
    result = Result(LabelVolume(array, geometry), uncertainty=Volume(doubt, geometry))
    assert uncertainty_of(result) == pytest.approx(expected)
    empty = Result(LabelVolume(array * 0, geometry), uncertainty=Volume(doubt, geometry))
    assert uncertainty_of(empty) == pytest.approx((inside + outside) / 2)


def test_uncertainty_of_objects_is_that_of_their_scores() -> None:
    geometry = Geometry.from_spacing((4, 4, 4))
    array = np.zeros(geometry.shape, np.uint8)
    objects = InstanceVolume(array, geometry, classes={1: 1, 2: 1}, scores={1: 0.9, 2: 0.5})
    labels = LabelVolume(array, geometry)
    assert uncertainty_of(Result(labels, objects)) == pytest.approx(0.3)
    assert uncertainty_of(Result(labels, InstanceVolume(array, geometry))) == 1


def test_studies_of_dicom_are_cases_too(tmp_path: Path) -> None:
    folder = tmp_path / "queue"
    make_source(folder / "Doe^Jane" / "ct", line(4), change={"SeriesInstanceUID": uid(7)})
    make_source(folder / "gap", [line(9)[n] for n in (0, 1, 2, 6, 7)], change={"SeriesInstanceUID": uid(8)})
    queue = open_queue(folder)
    state = {one.series_uid: one for one in queue.cases}
    assert state[uid(7)].state == WAITING
    assert state[uid(8)].state == FAILED
    assert state[uid(8)].reason
    scan = medseg.read_queue_case(queue, state[uid(7)])
    labels = labels_to_correct(queue, state[uid(7)], scan)
    array = labels.array.copy()
    array[2:5, 2:5, 1:3] = 1
    painted = LabelVolume(array, scan.geometry, LabelSet.from_names({1: "liver"}))
    case = correct_case(queue, state[uid(7)], scan, painted)
    assert case.state == CORRECTED
    again = labels_to_correct(queue.with_case(case), case, scan)
    assert np.array_equal(again.array, array)
    assert again.labels.names == {1: "liver"}
    assert not [path for path in queue.work.rglob("*") if "Doe" in path.name]


def test_objects_are_learned_from_a_model_of_objects(tmp_path: Path) -> None:
    tiny = NucleiRecipe(
        channels=(4, 8), strides=(1,), window=16, batch=2, steps=6,
        synthesis=NucleiSettings(shape=(24, 24, 24), margin=2, diameter=(8, 10)),
    )  # fmt: skip
    torch.manual_seed(0)
    write_nuclei_bundle(build_network(tiny).eval(), tiny, tmp_path / "tiny")
    folder = tmp_path / "queue"
    folder.mkdir()
    geometry = Geometry.from_spacing((40, 24, 24), (0.001, 0.001, 0.001))
    two = label_map(
        geometry, {"a": Sphere((0.012, 0.012, 0.012), 0.007), "b": Sphere((0.027, 0.012, 0.012), 0.007)}
    )
    noise = np.random.default_rng(0).normal(0, 10, geometry.shape)
    image = Volume((100 * (two.array > 0) + noise).astype(np.float32), geometry)
    for name in ("a", "b", "c"):
        write_volume(image, folder / f"{name}.nii.gz")
    queue = replace(open_queue(folder), start=str(tmp_path / "tiny"), paints="objects")
    for _ in range(2):
        case = queue.to_do()[0]
        scan = medseg.read_queue_case(queue, case)
        empty = labels_to_correct(queue, case, scan)
        assert isinstance(empty, InstanceVolume)
        painted = LabelVolume(two.array.astype(np.uint16), scan.geometry, two.labels)
        queue = queue.with_case(correct_case(queue, case, scan, painted))
    done = learn_from_queue(queue, FineTuneSettings(steps=3, threads=1))
    assert (done.learned_from, done.held_out) == (1, 1)
    assert done.score is not None
    queue = replace(queue, rounds=(done,))
    told: list[QueueCase] = []
    assert predict_cases(queue, told.append, ONE_THREAD) == 1
    assert told[0].state == PREDICTED
    assert told[0].uncertainty is not None
    guess = labels_to_correct(queue, told[0], medseg.read_queue_case(queue, told[0]))
    assert isinstance(guess, InstanceVolume)
    assert set(guess.classes) == set(guess.present_ids())


def test_a_scan_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    folder = scans(tmp_path / "queue", 2)
    queue = open_queue(folder, held_out_fraction=0)
    queue = corrected(queue, "case-001")
    few = TrainingSettings(steps=3, threads=1, device="cpu")
    queue = replace(queue, rounds=(learn_from_queue(queue, few),))
    (folder / "broken.nii.gz").write_bytes(b"junk")
    queue = replace(open_queue(folder), rounds=queue.rounds).with_case(queue.case("case-001"))
    told: list[QueueCase] = []
    assert predict_cases(queue, told.append, ONE_THREAD) == 1
    assert sorted(one.state for one in told) == [FAILED, PREDICTED]
    assert all("junk" not in one.reason and str(tmp_path) not in one.reason for one in told)
