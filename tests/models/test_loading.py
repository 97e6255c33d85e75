"""Models are found, their weights checked, and MONAI gives the same labels from the same folder."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bundle import write_tiny_bundle

from medseg.errors import ModelError, ModelNotFoundError, SettingsError
from medseg.models import registry
from medseg.models.loading import choose_device, load_model
from medseg.models.networks import build_network
from medseg.models.registry import find_model, list_models
from medseg.models.weights import file_sha256, read_weights


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of models, and no bundled ones."""
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "shelf"))
    monkeypatch.setattr(registry, "BUNDLED_FOLDER", tmp_path / "none")
    return tmp_path / "shelf"


def weights_error(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    return caught.value


def test_loaded_model_is_ready(tiny: Path) -> None:
    model = load_model(tiny, device="cpu")
    assert model.device == "cpu"
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    assert model.weights_sha256 == file_sha256(tiny / "models" / "model.pt")
    assert tuple(model.network(torch.zeros(1, 1, 16, 16, 16)).shape) == (1, 4, 16, 16, 16)


def test_models_are_found_by_name_and_path(shelf: Path) -> None:
    assert list_models() == ()
    folder = write_tiny_bundle(shelf / "tiny")
    broken = write_tiny_bundle(shelf / "broken")
    (broken / "configs" / "inference.json").write_text("{}")
    (shelf / "no-model").mkdir()
    entries = {entry.name: entry for entry in list_models()}
    assert sorted(entries) == ["broken", "tiny"]
    card = entries["tiny"].card
    assert card is not None
    assert card.name == "tiny"
    assert entries["broken"].card is None
    assert "BUNDLE_INCOMPLETE" in entries["broken"].problem
    assert find_model("tiny") == folder
    assert find_model(str(folder)) == folder
    assert load_model("tiny").card.name == "tiny"


def test_unknown_model_names_what_there_is(shelf: Path) -> None:
    write_tiny_bundle(shelf / "tiny")
    with pytest.raises(ModelNotFoundError, match="tiny") as caught:
        find_model("brain")
    assert caught.value.code == "UNKNOWN_MODEL"
    with pytest.raises(ModelNotFoundError) as caught:
        find_model(shelf)
    assert caught.value.code == "NOT_A_MODEL"
    with pytest.raises(ModelNotFoundError) as caught:
        find_model("~nobody-of-that-name/brain")
    assert caught.value.code == "UNKNOWN_MODEL"


def test_listing_imports_nothing_heavy(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    code = (
        "import sys; from medseg.models.registry import list_models; "
        "assert any(e.name == 'tiny' for e in list_models()); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'monai', 'scipy', 'nibabel')))"
    )
    environment = os.environ | {registry.FOLDER_VARIABLE: str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_safetensors_are_read(tiny: Path) -> None:
    from safetensors.torch import save_file

    state = torch.load(tiny / "models" / "model.pt", weights_only=True)
    save_file(state, tiny / "models" / "model.safetensors")
    (tiny / "models" / "model.pt").unlink()
    model = load_model(tiny)
    assert model.card.network.weights_file == "models/model.safetensors"
    assert all(torch.equal(value, state[key]) for key, value in model.network.state_dict().items())
    (tiny / "models" / "model.safetensors").write_bytes(b"\x08" + b"\0" * 40)
    assert weights_error(tiny).code == "WEIGHTS_CORRUPTED"


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "network_weights"])
def test_wrapped_and_prefixed_weights_are_read(tiny: Path, wrapper: str) -> None:
    file = tiny / "models" / "model.pt"
    state = torch.load(file, weights_only=True)
    torch.save({wrapper: {"module." + k: v for k, v in state.items()}, "epoch": 3}, file)
    assert sorted(read_weights(file)) == sorted(state)
    load_model(tiny)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04" + b"\0" * 200])
def test_damaged_weights(tiny: Path, content: bytes) -> None:
    (tiny / "models" / "model.pt").write_bytes(content)
    assert weights_error(tiny).code == "WEIGHTS_CORRUPTED"


@pytest.mark.parametrize("part", [0.1, 0.5, 0.95, 0.999])
def test_truncated_weights(tiny: Path, part: float) -> None:
    file = tiny / "models" / "model.pt"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    assert weights_error(tiny).code == "WEIGHTS_CORRUPTED"


def test_one_flipped_bit_in_a_tensor_is_seen(tiny: Path) -> None:
    file = tiny / "models" / "model.pt"
    content = bytearray(file.read_bytes())
    largest = max(read_weights(file).values(), key=lambda tensor: tensor.numel())
    content[content.index(largest.numpy().tobytes()) + 6] ^= 1
    file.write_bytes(content)
    assert weights_error(tiny).code == "WEIGHTS_CORRUPTED"


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_damaged_checkpoints_of_the_old_kind(tiny: Path, cut: int) -> None:
    """Without a zip around it: what torch raises for one is of many types."""
    file = tiny / "models" / "model.pt"
    stream = io.BytesIO()
    torch.save(torch.load(file, weights_only=True), stream, _use_new_zipfile_serialization=False)
    content = stream.getvalue()
    file.write_bytes(content[: len(content) - 1 - cut * len(content) // 61])
    assert weights_error(tiny).code == "WEIGHTS_CORRUPTED"


def test_missing_weights(tiny: Path) -> None:
    (tiny / "models" / "model.pt").unlink()
    assert weights_error(tiny).code == "WEIGHTS_MISSING"


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_a_command_is_refused(tiny: Path, tmp_path: Path) -> None:
    file, trace = tiny / "models" / "model.pt", tmp_path / "trace"
    torch.save({"weight": Touch(trace)}, file)
    assert weights_error(tiny).code == "CODE_REFUSED"
    file.write_bytes(pickle.dumps(Touch(trace), protocol=2))
    assert weights_error(tiny).code in ("CODE_REFUSED", "WEIGHTS_CORRUPTED")
    assert not trace.exists()


def test_weights_of_another_network_say_which_keys(tiny: Path) -> None:
    file = tiny / "models" / "model.pt"
    state = torch.load(file, weights_only=True)
    first = next(iter(state))
    renamed = {("other" if k == first else k): v for k, v in state.items()}
    torch.save(renamed, file)
    error = weights_error(tiny)
    assert error.code == "WEIGHTS_MISMATCH"
    assert first in str(error)
    assert "other" in str(error)
    torch.save(state | {first: torch.zeros(1, 2, 3)}, file)
    error = weights_error(tiny)
    assert error.code == "WEIGHTS_MISMATCH"
    assert "(1, 2, 3)" in str(error)


def test_things_that_are_no_weights(tiny: Path) -> None:
    file = tiny / "models" / "model.pt"
    torch.save([1, 2], file)
    assert weights_error(tiny).code == "NOT_WEIGHTS"
    state = torch.load(write_tiny_bundle(tiny) / "models" / "model.pt", weights_only=True)
    next(iter(state.values())).fill_(float("nan"))
    torch.save(state, file)
    assert weights_error(tiny).code == "WEIGHTS_NOT_FINITE"


def test_arguments_that_a_network_no_longer_has_are_dropped_and_noted(tiny: Path) -> None:
    recipe = json.loads((tiny / "configs" / "inference.json").read_text())
    recipe["network_def"]["img_size"] = 96
    (tiny / "configs" / "inference.json").write_text(json.dumps(recipe))
    model = load_model(tiny)
    assert any("img_size" in note for note in model.card.notes)


@pytest.mark.parametrize("arguments", [{}, {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}])
def test_arguments_that_make_no_network(arguments: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        build_network("UNet", arguments)
    assert caught.value.code == "BAD_NETWORK"


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda", "mps")
    with pytest.raises(SettingsError):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError) as caught:
            choose_device("cuda")
        assert caught.value.code == "NO_DEVICE"


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's LoadImage where nvimgcodec lacks
@pytest.mark.filterwarnings(
    "ignore:.*Orientationd.__init__.labels:FutureWarning"
)  # MONAI 1.6 on its own default
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL"])
def test_monai_runs_the_same_folder_to_the_same_labels(tiny: Path, tmp_path: Path, codes: str) -> None:
    """Through `monai.bundle.ConfigParser`, on a scan of the card's spacing so that grids agree."""
    import nibabel as nib
    from monai.bundle.config_parser import ConfigParser

    from medseg.geometry import Geometry
    from medseg.inference.predict import predict
    from medseg.volume import Volume

    geometry = Geometry.from_spacing((21, 26, 18), (2, 2, 2)).reorient(codes)
    array = np.random.default_rng(0).normal(100, 30, geometry.shape).astype(np.float32)
    nib.save(nib.Nifti1Image(array, geometry.affine), tmp_path / "scan.nii.gz")
    model = load_model(tiny)
    parser = ConfigParser()
    parser.read_config(tiny / "configs" / "inference.json")
    data = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "scan.nii.gz")})
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(tiny / "models" / "model.pt", weights_only=True))
    with torch.inference_mode():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
        expected = np.asarray(parser.get_parsed_content("postprocessing")(data)["pred"])[0].astype(int)
    ours = predict(Volume(array, geometry), model).array
    agreement = (np.array(model.card.output_ids)[expected] == ours).mean()
    assert agreement > 0.9999
