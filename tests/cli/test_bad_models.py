"""A model that is broken, hostile or not for the scan: `error [CODE]: expected …, got …; cure`, exit code 1.

Nothing is written and nothing that the model brings along is run.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from command_line import refused_in_process
from dicom_bytes import series, write
from tiny_bundle import tiny_inference, tiny_metadata, write_tiny_bundle

from medseg.cli.main import run
from medseg.io.formats import read_labels

OWNED = "owned"
"""The file that hostile models try to make."""


def write_scan(path: Path, shape: tuple[int, int, int] = (20, 18, 16)) -> Path:
    array = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2, 2, 1])), path)
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models and scans; all that medseg keeps lies elsewhere."""
    monkeypatch.setenv("MEDSEG_CACHE", str(tmp_path / "kept" / "cache"))
    monkeypatch.setenv("MEDSEG_MODELS", str(tmp_path / "kept" / "models"))
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def change_recipe(bundle: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    file = bundle / "configs" / "inference.json"
    recipe = json.loads(file.read_text())
    change(recipe)
    file.write_text(json.dumps(recipe))
    return bundle


def change_weights(bundle: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    file = bundle / "models" / "model.pt"
    table = torch.load(file, weights_only=True)
    change(table)
    torch.save(table, file)
    return bundle


class Touches:
    """Makes a file when it is unpickled by one who trusts it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self._file}'",)


def code_in_recipe(folder: Path) -> Path:
    attack = f"$__import__('os').system('touch {folder / OWNED}')"
    return change_recipe(write_tiny_bundle(folder / "m"), lambda r: r["inferer"].update(roi_size=attack))


def code_in_scripts(folder: Path) -> Path:
    bundle = write_tiny_bundle(folder / "m")
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "__init__.py").write_text(f"open({str(folder / OWNED)!r}, 'w')")
    (bundle / "scripts" / "net.py").write_text("class Net: pass")
    return change_recipe(bundle, lambda r: r.update(network_def={"_target_": "scripts.net.Net"}))


def pickle_that_runs(folder: Path) -> Path:
    bundle = write_tiny_bundle(folder / "m")
    torch.save({"model": Touches(folder / OWNED)}, bundle / "models" / "model.pt")
    return bundle


def without(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        bundle = write_tiny_bundle(folder / "m")
        (bundle / name).unlink()
        return bundle

    return make


def wider_network(folder: Path) -> Path:
    bundle = write_tiny_bundle(folder / "m")
    return change_recipe(bundle, lambda r: r["network_def"].update(channels=[4, 16]))


def deeper_network(folder: Path) -> Path:
    bundle = write_tiny_bundle(folder / "m")
    return change_recipe(bundle, lambda r: r["network_def"].update(channels=[4, 8, 16], strides=[2, 2]))


def slipping_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "m.zip", "w") as parts:
        parts.writestr("m/configs/metadata.json", json.dumps(tiny_metadata()))
        parts.writestr(f"../../{folder.name}/{OWNED}", "x")
    return folder / "m.zip"


def bomb(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "m.zip", "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("m/configs/metadata.json", json.dumps(tiny_metadata()))
        with parts.open("m/models/model.pt", "w") as member:
            for _ in range(120):
                member.write(bytes(2**20))
    return folder / "m.zip"


def fewer_names(folder: Path) -> Path:
    formats = tiny_metadata()["network_data_format"]
    formats["outputs"]["pred"]["channel_def"] = {"0": "background", "1": "left blob"}
    return write_tiny_bundle(folder / "m", metadata={"network_data_format": formats, "medseg": {}})


def no_spacing(folder: Path) -> Path:
    return write_tiny_bundle(folder / "m", inference=tiny_inference((0.0, 2.0, 2.0)))


def broken_weights(folder: Path) -> Path:
    bundle = write_tiny_bundle(folder / "m")
    return change_weights(bundle, lambda table: table["model.2.conv.weight"].fill_(float("nan")))


def overflowing_weights(folder: Path) -> Path:
    def grow(table: dict[str, Any]) -> None:
        for tensor in table.values():
            if tensor.ndim == 5:
                tensor.fill_(3e38)

    return change_weights(write_tiny_bundle(folder / "m"), grow)


BAD_MODELS: dict[str, tuple[Callable[[Path], Path], str, tuple[str, ...]]] = {
    "code in the recipe": (code_in_recipe, "CODE_REFUSED", ("inferer::roi_size", "--trust-code")),
    "code in scripts": (code_in_scripts, "UNKNOWN_NETWORK", ("scripts.net.Net", "--trust-code")),
    "pickle that runs a command": (pickle_that_runs, "CODE_REFUSED", ("model.pt", "safetensors")),
    "no weights": (without("models/model.pt"), "WEIGHTS_MISSING", ("model.pt", "install")),
    "no recipe": (without("configs/inference.json"), "BUNDLE_INCOMPLETE", ("inference.json",)),
    "no metadata": (without("configs/metadata.json"), "NOT_A_MODEL", ("MONAI bundle",)),
    "weights too narrow": (
        wider_network,
        "WEIGHTS_MISMATCH",
        ("conv.weight (8, 4,", "(16, 4,"),
    ),
    "weights too few": (deeper_network, "WEIGHTS_MISMATCH", ("missing", "unknown", "model.1.submodule.")),
    "zip slip": (slipping_zip, "ARCHIVE_UNSAFE", ("out of it",)),
    "zip bomb": (bomb, "ARCHIVE_TOO_LARGE", ("inflates",)),
    "labels that disagree with channels": (fewer_names, "LABELS_MISMATCH", ("channel_def", "[2, 3]")),
    "card spacing of 0": (no_spacing, "BAD_CARD", ("above 0 mm", "0.0")),
    "weights that are no numbers": (broken_weights, "WEIGHTS_NOT_FINITE", ("model.2.conv.weight",)),
    "answers that are no numbers": (overflowing_weights, "NETWORK_NAN", ("NaN or infinity",)),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_a_bad_model_is_refused(kind: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, expected, words = BAD_MODELS[kind]
    scan, model = write_scan(place / "scan.nii"), make(place)
    command = ("segment", scan, "--model", model, "-o", place / "out")
    code, message = refused_in_process(place, capsys, *command)
    assert code == expected
    assert message.startswith("expected ")
    assert "got " in message
    assert all(word in message for word in words), message
    assert not (place / OWNED).exists()


@pytest.mark.parametrize(("make", "code"), [(slipping_zip, "ARCHIVE_UNSAFE"), (bomb, "ARCHIVE_TOO_LARGE")])
def test_a_bad_archive_is_not_installed(
    make: Callable[[Path], Path], code: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused_in_process(place, capsys, "models", "install", make(place))[0] == code
    kept = place.parent / "kept" / "models"
    assert not kept.exists() or not [path for path in kept.rglob("*") if path.is_file()]


def test_weights_that_changed_since_they_were_installed_are_found(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(place / "m.zip", "w") as parts:
        bundle = write_tiny_bundle(place / "m")
        for path in sorted(bundle.rglob("*")):
            parts.write(path, path.relative_to(place))
    assert run(["models", "install", str(place / "m.zip")]) == 0
    assert run(["models", "verify", "m"]) == 0
    capsys.readouterr()
    installed = next((place.parent / "kept" / "models").rglob("model.pt"))
    content = bytearray(installed.read_bytes())
    content[len(content) // 2] ^= 1
    installed.write_bytes(content)
    code, message = refused_in_process(place, capsys, "models", "verify", "m")
    assert code == "MODEL_DAMAGED"
    assert "model.pt" in message


def test_a_scan_of_another_modality_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write(place / "study", series())
    formats = tiny_metadata()["network_data_format"]
    formats["inputs"]["image"]["modality"] = "PT"
    bundle = write_tiny_bundle(place / "m", metadata={"network_data_format": formats})
    code, message = refused_in_process(
        place, capsys, "segment", study, "--model", bundle, "-o", place / "out"
    )
    assert code == "WRONG_MODALITY"
    assert "PT" in message


@pytest.mark.parametrize("shape", [(20, 18, 1), (1, 18, 20), (20, 1, 18)])
def test_a_scan_of_one_plane_is_refused(
    shape: tuple[int, int, int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan, bundle = write_scan(place / "scan.nii", shape), write_tiny_bundle(place / "m")
    code, _ = refused_in_process(place, capsys, "segment", scan, "--model", bundle, "-o", place / "out")
    assert code == "TOO_THIN"


@pytest.mark.parametrize("shape", [(5, 6, 7), (8, 8, 2000), (2, 30, 30)])
def test_small_and_long_scans_are_segmented(
    shape: tuple[int, int, int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan, bundle = write_scan(place / "scan.nii", shape), write_tiny_bundle(place / "m")
    command = ("segment", scan, "--model", bundle, "-o", place / "out", "--sanity", "off")
    assert run([str(word) for word in command]) == 0, capsys.readouterr().err
    labels = read_labels(next((place / "out").rglob("*labels*.nii*")))
    assert labels.array.shape == shape
    assert np.allclose(labels.geometry.affine, np.diag([2.0, 2, 2, 1]))
    assert set(np.unique(labels.array)) <= {0, 10, 49, 24}
