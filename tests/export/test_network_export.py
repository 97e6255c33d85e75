"""A model for other programs: whoever runs the written file gets the labels of the model itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phantoms import oblique_grid
from tiny_bundle import write_tiny_bundle
from torch import Tensor, nn

import medseg
from medseg.cli.main import run
from medseg.errors import ModelError, ReadError, WriteError
from medseg.export.network import export_model
from medseg.geometry import Geometry
from medseg.inference.settings import InferenceSettings
from medseg.labels import Code
from medseg.models.atlas import Atlas
from medseg.models.card_json import card_from_json, card_to_json
from medseg.models.loading import Model, load_model
from medseg.models.scripted import load_scripted
from medseg.volume import Volume

PLAIN = InferenceSettings(device="cpu", backend="torch", sanity="off")
BUNDLED = ("brain-lesions", "brain-mri", "nuclei")


class OtherRuntime(nn.Module):
    """A written file, run by the program that it was written for."""

    def __init__(self, channels: int, run_file: Callable[[Any], Any]) -> None:
        super().__init__()
        self.channels, self.run_file = channels, run_file

    def forward(self, image: Tensor) -> Tensor:
        if image.is_meta:  # asked for its memory only
            return image.new_empty((1, self.channels, *image.shape[2:]))
        if len(image) > 1:  # the file takes one window
            return torch.cat([self(one[None]) for one in image])
        return torch.from_numpy(np.array(self.run_file(image.numpy())))


def by_onnxruntime(file: Path) -> nn.Module:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    channels = session.get_outputs()[0].shape[1]
    return OtherRuntime(channels, lambda image: session.run(["scores"], {"image": image})[0])


def by_openvino(file: Path) -> nn.Module:
    import openvino

    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    channels = compiled.output("scores").shape[1]
    return OtherRuntime(channels, lambda image: compiled({"image": image})["scores"])


def by_torch(file: Path) -> nn.Module:
    return load_scripted(file)


RUNTIMES = {".onnx": by_onnxruntime, ".xml": by_openvino, ".ts": by_torch}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two networks that answer together."""
    folder = tmp_path_factory.mktemp("models")
    one, other = (load_model(write_tiny_bundle(folder / f"tiny{n}", seed=n), device="cpu") for n in (1, 2))
    return replace(one, members=(other.network,))


def noise() -> Volume:
    grid = oblique_grid((40, 30, 35))
    return Volume(np.random.default_rng(4).normal(100, 30, grid.shape).astype(np.float32), grid)


def balls(spacing_mm: float) -> Volume:
    """A grey ball with bright ones inside: a head with lesions, or nuclei in a haze."""
    grid = Geometry.from_spacing((72, 64, 56), (spacing_mm,) * 3)
    index = np.indices(grid.shape) - np.reshape(grid.shape, (3, 1, 1, 1)) / 2
    array = 60.0 * (np.sqrt((index**2).sum(axis=0)) < 25)
    for place in ([8, 0, 0], [-10, 4, 3], [0, 12, -8]):
        array[np.sqrt(((index - np.reshape(place, (3, 1, 1, 1))) ** 2).sum(axis=0)) < 6] = 180
    noise = np.random.default_rng(1).normal(0, 3, grid.shape)
    return Volume((array + noise).astype(np.float32), grid)


@pytest.mark.parametrize("ending", RUNTIMES)
def test_another_program_gives_the_same_labels(tiny: Model, tmp_path: Path, ending: str) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnx")
    done = export_model(tiny, tmp_path / f"model{ending}")
    assert all(file.is_file() for file in done.files)
    assert done.difference < 1e-4
    expected = medseg.predict(noise(), tiny, PLAIN).array
    found = medseg.predict(noise(), Model(tiny.card, RUNTIMES[ending](tmp_path / f"model{ending}")), PLAIN)
    assert len(np.unique(expected)) > 2
    assert (found.array == expected).mean() > 0.9999


def test_a_torchscript_file_is_a_model_again_with_colours_and_codes(tiny: Model, tmp_path: Path) -> None:
    export_model(tiny, tmp_path / "mine.ts")
    again = load_model(tmp_path / "mine.ts", device="cpu").card
    assert again.labels == tiny.card.labels
    assert again.labels.find(10).code == Code("SCT", "85637007", "Blob")
    assert replace(again, network=tiny.card.network) == tiny.card


def test_an_atlas_goes_along(tiny: Model, tmp_path: Path) -> None:
    table = np.full((3, 4, 5, 2), 127, np.uint8)
    atlas = Atlas(table, np.array([0, 10]), np.array([0, 1]), np.eye(4), {10: np.zeros(3)})
    done = export_model(replace(tiny, atlas=atlas), tmp_path / "mine.ts")
    assert {file.name for file in done.files} == {"mine.ts", "mine.atlas.npz", "mine.card.json"}
    again = load_model(tmp_path / "mine.ts", device="cpu")
    assert again.atlas is not None
    assert np.array_equal(again.atlas.table, table)
    (tmp_path / "mine.atlas.npz").unlink()
    with pytest.raises(ReadError) as caught:
        load_model(tmp_path / "mine.ts", device="cpu")
    assert caught.value.code == "FILE_NOT_FOUND"


@pytest.mark.parametrize("name", BUNDLED)
def test_a_card_comes_back_from_json(name: str) -> None:
    card = load_model(name, device="cpu").card
    assert card_from_json(json.loads(json.dumps(card_to_json(card))), card.network) == card


def test_the_command_writes_and_says_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tiny_bundle(tmp_path / "tiny")
    assert run(["models", "export", str(model), "-o", str(tmp_path / "new" / "tiny.xml"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {Path(file).name for file in told["files"]} == {"tiny.xml", "tiny.bin", "tiny.card.json"}
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"tiny.xml", "tiny.bin", "tiny.card.json"}


def test_another_ending_is_refused(tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"\.onnx, \.xml, \.ts") as caught:
        export_model(tiny, tmp_path / "model.h5")
    assert caught.value.code == "UNKNOWN_FORMAT"


def test_onnx_without_its_package_names_the_cure(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r"pip install medseg\[onnx\]") as caught:
        export_model(tiny, tmp_path / "model.onnx")
    assert caught.value.code == "PACKAGE_MISSING"
    assert not list(tmp_path.iterdir())


class Spectrum(nn.Module):
    """Takes the real part of a Fourier transform, of which ONNX knows no such form."""

    def forward(self, image: Tensor) -> Tensor:
        real: Tensor = torch.fft.fftn(image).real
        return real.expand(-1, 4, -1, -1, -1)


class Chance(nn.Module):
    """Answers otherwise every time."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.rand_like(image).expand(-1, 4, -1, -1, -1)


@pytest.mark.parametrize(
    ("network", "ending", "code"),
    [(Spectrum(), ".onnx", "NOT_CONVERTIBLE"), (Chance(), ".ts", "EXPORT_DIFFERS")],
)
def test_a_network_that_does_not_fit_leaves_no_file(
    tiny: Model, tmp_path: Path, network: nn.Module, ending: str, code: str
) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnx")
    with pytest.raises(ModelError) as caught:
        export_model(Model(tiny.card, network), tmp_path / f"model{ending}")
    assert caught.value.code == code
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("ending", RUNTIMES)
def test_the_bundled_models_answer_alike_elsewhere(name: str, ending: str, tmp_path: Path) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnx")
    model = load_model(name, device="cpu")
    files = export_model(model, tmp_path / f"model{ending}").files
    masks = tmp_path / f"model.masks{ending}"
    assert (masks in files) == (model.masks is not None)
    elsewhere = Model(
        model.card,
        RUNTIMES[ending](tmp_path / f"model{ending}"),
        masks=RUNTIMES[ending](masks) if model.masks else None,
    )
    scan = balls(0.0005 if name == "nuclei" else 2.0)
    settings = replace(PLAIN, object_diameter_mm=0.006) if name == "nuclei" else PLAIN
    ours, theirs = (medseg.segment(scan, one, settings) for one in (model, elsewhere))
    assert (ours.labels.array == theirs.labels.array).mean() > 0.9999
    assert ours.labels.array.any()
    if name != "brain-mri":
        assert ours.instances is not None
        assert theirs.instances is not None
        assert (ours.instances.array == theirs.instances.array).mean() > 0.9999
