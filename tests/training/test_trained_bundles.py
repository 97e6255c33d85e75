"""What a training writes is a MONAI bundle: `monai.bundle` itself runs it to the same labels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
from sphere_datasets import ball_and_box, numbered_balls, write_dataset

import medseg
from medseg.geometry import Geometry
from medseg.inference.settings import InferenceSettings
from medseg.io.formats import read_labels, read_volume, write_volume
from medseg.training.settings import TrainingSettings
from medseg.training.train_model import Trained, train

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch on tracing, ignite on torch
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),  # MONAI's networks look at shapes
]
PLAIN = InferenceSettings(device="cpu", backend="torch", sanity="off")


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two networks of a few steps, each with half of the cases held out."""
    folder = tmp_path_factory.mktemp("folds")
    settings = TrainingSettings(folds=2, steps=25, threads=1, device="cpu", export="torchscript", patience=0)
    return train(write_dataset(folder / "data", 4), folder / "two folds", settings)


def labels_of_monai(bundle: Path, scan: Path, out: Path) -> npt.NDArray[Any]:
    """What `monai.bundle.run` writes for a scan."""
    pytest.importorskip("ignite", reason="monai.bundle runs evaluators by pytorch-ignite")
    values = {
        "config_file": str(bundle / "configs" / "inference.json"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "bundle_root": str(bundle),
        "output_dir": str(out),
        "datalist": [{"image": str(scan)}],
    }
    code = "import json, sys, monai.bundle; monai.bundle.run(**json.loads(sys.argv[1]))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, json.dumps(values)], check=True)
    (written,) = out.rglob("*.nii.gz")
    return read_labels(written).array


def test_monai_runs_the_bundle_of_several_folds_to_the_same_labels(folds: Trained, tmp_path: Path) -> None:
    oblique = Geometry.from_spacing((30, 24, 27), (1.2, 1.0, 0.9)).reorient("LPS")
    scan = tmp_path / "scan.nii.gz"
    write_volume(ball_and_box(50, oblique)[0], scan)
    theirs = labels_of_monai(folds.folder, scan, tmp_path / "out")
    model = medseg.load_model(folds.folder, device="cpu")
    assert len(model.members) == 1
    ours = medseg.predict(read_volume(scan), model, PLAIN).array
    assert ours.any()
    assert (ours == theirs.reshape(ours.shape)).mean() > 0.9999


def test_every_case_is_scored_by_the_network_that_never_saw_it(folds: Trained) -> None:
    assert (folds.cases, folds.held_out, folds.steps) == (4, 4, 50)
    assert set(folds.scores) == {"ball", "box"}


def test_the_torchscript_file_answers_as_the_bundle(folds: Trained) -> None:
    scan = ball_and_box(51)[0]
    both = [
        medseg.predict(scan, medseg.load_model(path, device="cpu"), PLAIN).array
        for path in (folds.folder, folds.folder / "models" / "model.ts")
    ]
    assert (both[0] == both[1]).mean() > 0.9999


@pytest.mark.slow
def test_numbered_objects_are_learned_as_objects(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 4, numbered_balls)
    settings = TrainingSettings(steps=40, threads=1, device="cpu", patience=0)
    done = train(data, tmp_path / "balls", settings)
    assert done.scores["F1"] > 0.8
    scan, truth = numbered_balls(77)
    found = medseg.segment(scan, medseg.load_model(done.folder, device="cpu"), PLAIN).instances
    assert found is not None
    assert abs(len(found.classes) - len(truth.present_ids())) <= 1
