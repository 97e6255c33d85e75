"""`medseg train` as a user types it: a dataset in, a model out that `medseg segment` takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import medseg
from medseg.cli.main import run
from medseg.geometry import Geometry
from medseg.labels import Label, LabelSet
from medseg.training.nuclei import build_network
from medseg.training.nuclei_publish import write_nuclei_bundle
from medseg.training.nuclei_recipe import NucleiRecipe
from medseg.volume import LabelVolume, Volume


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """One image with two nuclei, and a small untrained model beside it."""
    i, j, k = np.indices((32, 24, 24))
    labels = ((i - 8) ** 2 + (j - 12) ** 2 + (k - 12) ** 2 < 36).astype(np.int32)
    labels[(i - 22) ** 2 + (j - 12) ** 2 + (k - 12) ** 2 < 36] = 2
    grid = Geometry.from_spacing(labels.shape, (0.001, 0.001, 0.001))
    image = np.random.default_rng(0).normal(10, 1, labels.shape) + 20 * (labels > 0)
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    medseg.write_volume(Volume(image.astype(np.float32), grid), tmp_path / "data" / "images" / "a.tif")
    names = LabelSet(tuple(Label(n, f"nucleus {n}", (9, 9, 9)) for n in (1, 2)))
    medseg.write_labels(LabelVolume(labels, grid, names), tmp_path / "data" / "labels" / "a.tif")
    recipe = NucleiRecipe(channels=(4, 8), strides=(1,))
    torch.manual_seed(0)
    write_nuclei_bundle(build_network(recipe).eval(), recipe, tmp_path / "start")
    return tmp_path / "data"


def test_a_trained_model_segments(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, start = dataset.parent / "mine", str(dataset.parent / "start")
    words = [
        "train",
        str(dataset),
        "--from",
        start,
        "-o",
        str(mine),
        "--steps",
        "2",
        "--threads",
        "1",
        "--json",
    ]
    assert run(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["objects"]) == (1, 2)
    assert told["diameter_mm"] == pytest.approx(0.012, rel=0.05)
    image, out = dataset / "images" / "a.tif", dataset.parent / "out"
    assert run(["segment", str(image), "--model", str(mine), "-o", str(out), "--threads", "1"]) == 0
    assert (out / "instances.nii.gz").exists()


def test_every_fault_of_annotated_images_is_told_at_once(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset / "images" / "lonely.tif").write_bytes((dataset / "images" / "a.tif").read_bytes())
    (dataset / "images" / "b.tif").write_bytes(b"nothing")
    (dataset / "labels" / "b.tif").write_bytes((dataset / "labels" / "a.tif").read_bytes())
    start, out = str(dataset.parent / "start"), str(dataset.parent / "out")
    words = ["train", str(dataset), "--from", start, "-o", out, "--steps", "1", "--threads", "1"]
    assert run(words) == 1
    said = capsys.readouterr().err
    assert "error [DATASET_FAULTS]" in said
    assert "[LABEL_MISSING] expected a label named as lonely.tif" in said
    assert "b.tif" in said
    assert run([*words, "--skip-faulty", "--folds", "3"]) == 0
    said = capsys.readouterr().err
    assert "--folds do not count" in said


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (["train", "DATA", "--from", "no-such-model", "-o", "OUT"], "UNKNOWN_MODEL", 1),
        (["train", "DATA/images", "--from", "START", "-o", "OUT"], "NOT_A_DATASET", 1),
        (["train", "DATA", "--from", "START", "-o", "DATA"], "OUTPUT_EXISTS", 1),
        (["train", "-o", "OUT"], "DATASET_NEEDED", 2),
        (["train", "--recipe", "nuclei", "--from", "START", "-o", "OUT"], "BAD_SETTING", 2),
    ],
)
def test_what_is_wrong_is_told(
    dataset: Path, words: list[str], code: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "DATA": str(dataset),
        "START": str(dataset.parent / "start"),
        "OUT": str(dataset.parent / "out"),
    }
    places["DATA/images"] = str(dataset / "images")
    assert run([places.get(word, word) for word in words]) == exit_code
    assert f"error [{code}]" in capsys.readouterr().err
