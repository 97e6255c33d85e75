"""`--trust-code`: a model's own Python is refused without, runs with, and pickles never run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from command_line import refused_in_process
from tiny_bundle import tiny_inference, write_tiny_bundle

from medseg.cli.main import run
from medseg.io.formats import read_labels

SCRIPT = """
import torch
from pathlib import Path

Path({told!r}).write_text("ran")


class Rises(torch.nn.Conv3d):
    def __init__(self, classes):
        super().__init__(1, classes, 1)
"""


class Touches:
    """Makes a file when it is unpickled by one who trusts it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self._file}'",)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Left half 0, right half 1, with a little noise."""
    array = np.zeros((20, 18, 16), np.float32)
    array[10:] = 1
    array += np.random.default_rng(0).normal(0, 0.01, array.shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2, 2, 1])), tmp_path / "scan.nii")
    return tmp_path / "scan.nii"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose network is a script that tells when it ran; weights that part at 0.5."""
    folder = write_tiny_bundle(tmp_path / "scripted")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text("")
    (folder / "scripts" / "level.py").write_text(SCRIPT.format(told=str(tmp_path / "told")))
    recipe = tiny_inference()
    steps = recipe["preprocessing"]["transforms"]
    recipe["preprocessing"]["transforms"] = [s for s in steps if not s["_target_"].startswith("Scale")]
    recipe["imports"] = ["$import scripts.level"]
    recipe["network_def"] = {"_target_": "scripts.level.Rises", "classes": 4}
    (folder / "configs" / "inference.json").write_text(json.dumps(recipe))
    weights = {"weight": torch.tensor([-1.0, 1, 0, 0]), "bias": torch.tensor([0.5, -0.5, -9, -9])}
    weights["weight"] = weights["weight"].reshape(4, 1, 1, 1, 1)
    torch.save(weights, folder / "models" / "model.pt")
    return folder


def test_without_it_nothing_of_a_model_runs(
    bundle: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("segment", scan, "--model", bundle, "-o", tmp_path / "out")
    code, message = refused_in_process(tmp_path, capsys, *command)
    assert code == "UNKNOWN_NETWORK"
    assert "--trust-code" in message
    assert refused_in_process(tmp_path, capsys, "models", "show", bundle)[0] == "UNKNOWN_NETWORK"
    assert not (tmp_path / "told").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MONAI on numpy
@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI on its own defaults
def test_with_it_the_network_is_the_one_of_the_script(bundle: Path, scan: Path, tmp_path: Path) -> None:
    command = ("segment", scan, "--model", bundle, "-o", tmp_path / "out", "--trust-code", "--sanity", "off")
    assert run([str(word) for word in command]) == 0
    assert (tmp_path / "told").read_text() == "ran"
    labels = read_labels(next((tmp_path / "out").rglob("*labels*.nii*")))
    expected = np.zeros((20, 18, 16))
    expected[10:] = 10
    assert np.array_equal(labels.array, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MONAI on numpy
@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI on its own defaults
def test_with_it_a_pickle_still_runs_nothing(
    bundle: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"level": Touches(tmp_path / "owned")}, bundle / "models" / "model.pt")
    command = ("segment", scan, "--model", bundle, "-o", tmp_path / "out", "--trust-code")
    (tmp_path / "told").write_text("before")
    code, _ = refused_in_process(tmp_path, capsys, *command)
    assert code == "CODE_REFUSED"
    assert not (tmp_path / "owned").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MONAI on numpy
@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI on its own defaults
def test_code_that_fails_is_told_as_the_bundle_s(
    bundle: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "scripts" / "level.py").write_text("import a_package_that_nobody_has")
    command = ("segment", scan, "--model", bundle, "-o", tmp_path / "out", "--trust-code")
    code, message = refused_in_process(tmp_path, capsys, *command)
    assert code == "TRUSTED_CODE_FAILED"
    assert "a_package_that_nobody_has" in message
