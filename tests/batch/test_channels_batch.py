"""Batches of cases of several images: by nnU-Net's numbers, by a table, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from phantoms import oblique_grid
from tiny_bundle import write_pair_bundle, write_tiny_bundle

from medseg.batch.cases import Case, Source
from medseg.batch.channels import as_cases
from medseg.batch.find import find_inputs, read_table
from medseg.batch.segmentation import segmentation_task
from medseg.errors import ModelError
from medseg.inference.settings import InferenceSettings
from medseg.io.formats import read_labels, write_volume
from medseg.pipeline import segment
from medseg.progress import silent
from medseg.volume import Volume

FILES = (
    "a/x_0001.nii.gz",
    "a/x_0000.nii.gz",
    "b/x_0000.nii.gz",
    "b/y_0000.nrrd",
    "b/y_0001.nrrd",
    "plain.nii",
)


def test_numbered_files_of_a_folder_are_one_case_for_a_model_of_several_images(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_inputs([tmp_path])
    assert as_cases(found, 1) == found
    cases = {
        tuple(s.path.relative_to(tmp_path).as_posix() for s in one.sources) for one in as_cases(found, 2)
    }
    assert cases == {(FILES[1], FILES[0]), (FILES[2],), FILES[3:5], (FILES[5],)}
    assert {one.label for one in as_cases(found, 2)} == {"x", "y", "plain"}
    assert len({one.identity for one in as_cases(found, 2)}) == 4
    assert as_cases(found, 2) == as_cases(list(reversed(list(reversed(found)))), 2)


TABLE = "image,image2,series,series2\na.zip,b.zip,1.2,1.3\na.zip,c.nii,1.2,\n"


def test_a_table_may_name_the_series_of_each_image(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text(
        "image,image2,series,series2\na.zip,b.zip,1.2,1.3\na.zip,c.nii,1.2,\n"
    )
    uids = [[source.series_uid for source in one.sources] for one in read_table(tmp_path / "cases.csv")]
    assert uids == [["1.2", "1.3"], ["1.2", ""]]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    return write_pair_bundle(tmp_path / "pair")


def test_a_case_of_two_images_gives_what_segment_gives(tmp_path: Path, pair: Path) -> None:
    grid = oblique_grid((24, 22, 20), (2.0, 2.0, 2.0))
    random = np.random.default_rng(0)
    images = [Volume(random.normal(size=grid.shape).astype(np.float32), grid) for _ in range(2)]
    paths = [write_volume(image, tmp_path / f"p_{n:04}.nii.gz") for n, image in enumerate(images)]
    task = segmentation_task(pair, InferenceSettings(device="cpu"))
    assert task.channels == 2
    (found,) = as_cases(find_inputs(paths), task.channels)
    (tmp_path / "out").mkdir()
    task(Case("case-1", found.sources), tmp_path / "out", silent)
    labels = read_labels(tmp_path / "out" / "labels.nii.gz")
    assert np.array_equal(labels.array, segment(images, pair).labels.array)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["input_name"] == "case-1"
    assert len(record["channel_sha256"]) == 2
    with pytest.raises(ModelError) as caught:
        task(Case("case-2", (Source(paths[0]),)), tmp_path / "out", silent)
    assert caught.value.code == "CHANNELS_MISMATCH"


def test_the_rough_model_is_part_of_what_a_case_is_done_with(tmp_path: Path, pair: Path) -> None:
    plain = segmentation_task(pair).identity()
    roughs = [
        segmentation_task(
            pair, InferenceSettings(rough_model=str(write_tiny_bundle(tmp_path / name, seed=n)))
        )
        for n, name in enumerate(("r1/rough", "r2/rough"))
    ]
    hashes = {task.identity()["rough_sha256"] for task in roughs}
    assert len(hashes) == 2
    assert "rough_sha256" not in plain
