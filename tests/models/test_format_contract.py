"""Every format of models answers to one contract; a format joins by one entry in `MAKERS`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_checkpoints import write_auto3dseg, write_scripted
from tiny_bundle import tiny_metadata, write_tiny_bundle
from tiny_nnunet import write_nnunet

from medseg.cache import CACHE_VARIABLE
from medseg.errors import ModelError, ModelNotFoundError
from medseg.geometry import Geometry
from medseg.inference.predict import predict
from medseg.models.formats import FORMATS, ModelFormat, format_of
from medseg.models.loading import load_model
from medseg.models.registry import find_model, read_card
from medseg.volume import Volume


def _bundle(folder: Path) -> Path:
    return write_tiny_bundle(folder / "tiny")


def _scripted(folder: Path) -> Path:
    return write_scripted(folder / "tiny.ts")


def _auto3dseg(folder: Path) -> Path:
    return write_auto3dseg(folder / "abdomen.pt")


def _parts(folder: Path) -> Path:
    """Two bundles of other classes, joined."""
    formats = tiny_metadata()["network_data_format"]
    names = {"0": "background", "1": "heart", "2": "left lung", "3": "right lung"}
    other = formats | {"outputs": {"pred": formats["outputs"]["pred"] | {"channel_def": names}}}
    write_tiny_bundle(folder / "both" / "blobs", seed=1)
    write_tiny_bundle(
        folder / "both" / "chest", metadata={"network_data_format": other, "medseg": {}}, seed=2
    )
    (folder / "both" / "parts.json").write_text(json.dumps({"parts": ["blobs", "chest"]}))
    return folder / "both"


MAKERS: dict[str, Callable[[Path], Path]] = {
    "monai-bundle": _bundle,
    "parts": _parts,
    "nnunet": write_nnunet,
    "torchscript": _scripted,
    "auto3dseg": _auto3dseg,
}
"""Format name to what writes a small model of that format below a folder and returns its path."""

CASES = [pytest.param(known, id=known.name) for known in FORMATS]


def made(known: ModelFormat, tmp_path: Path) -> Path:
    return MAKERS[known.name](tmp_path)


def test_every_format_has_an_example_and_a_name_of_its_own() -> None:
    assert sorted(MAKERS) == sorted(known.name for known in FORMATS)


@pytest.mark.parametrize("known", CASES)
def test_exactly_this_format_is_recognised(known: ModelFormat, tmp_path: Path) -> None:
    path = made(known, tmp_path)
    assert next(other.name for other in FORMATS if other.is_it(path)) == known.name
    assert format_of(path) is known
    assert format_of(tmp_path / "nothing here") is None
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.zip").write_bytes(b"")
    (tmp_path / "noise.pt").write_bytes(bytes(range(256)) * 40)
    assert not any(known.is_it(tmp_path / name) for name in ("empty", "empty.zip", "noise.pt"))


@pytest.mark.parametrize("known", CASES)
def test_the_card_comes_without_weights_and_is_the_same_every_time(
    known: ModelFormat, tmp_path: Path
) -> None:
    path = made(known, tmp_path)
    card = read_card(path)
    assert card == read_card(path)
    assert card.sha256 == read_card(path).sha256
    assert len(card.labels) >= 1
    assert load_model(path, device="cpu").card.sha256 == card.sha256


@pytest.mark.parametrize("known", CASES)
def test_the_network_answers_a_window_of_the_card(known: ModelFormat, tmp_path: Path) -> None:
    path = made(known, tmp_path)
    model = load_model(path, device="cpu")
    size = model.card.window.size
    for network in (model.network, *model.members):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
        with torch.inference_mode():
            scores = network(torch.zeros(1, model.card.in_channels, *size))
        scores = scores if isinstance(scores, torch.Tensor) else scores[0]
        assert tuple(scores.shape) == (1, model.card.out_channels, *size)
    assert len(model.weights_sha256) == 64
    assert all(file.is_file() for file in known.weights(find_model(path), model.card))


@pytest.mark.parametrize("known", CASES)
def test_a_scan_is_segmented_on_its_own_grid(known: ModelFormat, tmp_path: Path) -> None:
    geometry = Geometry.from_spacing((26, 21, 19), (2.3, 1.9, 2.6)).reorient("LPS")
    array = np.random.default_rng(7).normal(0, 300, geometry.shape).astype(np.float32)
    model = load_model(made(known, tmp_path), device="cpu")
    first, second = (predict([Volume(array, geometry)] * model.card.in_channels, model) for _ in range(2))
    assert first.geometry == geometry
    assert first.array.shape == geometry.shape
    assert set(np.unique(first.array)) <= set(model.card.output_ids)
    assert np.array_equal(first.array, second.array)


@pytest.mark.parametrize("known", CASES)
def test_reading_a_card_loads_no_monai_and_the_command_shows_it(known: ModelFormat, tmp_path: Path) -> None:
    path = made(known, tmp_path)
    code = (
        "import sys; from pathlib import Path; from medseg.models.formats import format_of; "
        f"assert format_of(Path({str(path)!r})) is not None; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'monai', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    done = subprocess.run(
        [sys.executable, "-m", "medseg.cli.main", "models", "show", str(path), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["sha256"] == read_card(path).sha256


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("known", CASES)
def test_a_zip_of_it_is_the_same_model(known: ModelFormat, tmp_path: Path, cache: Path) -> None:
    path = made(known, tmp_path / "made")
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "made"))
    place = find_model(archive)
    assert cache in place.parents
    assert read_card(place).sha256 == read_card(path).sha256
    assert find_model(archive) == place
    assert len(list((cache / "unpacked").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "link", "code"),
    [
        ("../outside.json", False, "ARCHIVE_UNSAFE"),
        ("/tmp/outside.json", False, "ARCHIVE_UNSAFE"),
        ("a\\..\\..\\outside.json", False, "ARCHIVE_UNSAFE"),
        ("tiny/link", True, "ARCHIVE_UNSAFE"),
        ("nothing.txt", False, "NO_MODEL_INSIDE"),
    ],
)
def test_hostile_and_empty_zips_leave_nothing(
    tmp_path: Path, cache: Path, name: str, link: bool, code: str
) -> None:
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as parts:
        member = zipfile.ZipInfo(name)
        member.external_attr = (0o120777 if link else 0o100644) << 16
        parts.writestr(member, "/etc/passwd")
    before = {path for path in tmp_path.rglob("*") if cache not in (path, *path.parents)}
    with pytest.raises(ModelError) as caught:
        find_model(archive)
    assert caught.value.code == code
    assert before == {path for path in tmp_path.rglob("*") if cache not in (path, *path.parents)}
    assert not cache.exists() or not [path for path in cache.rglob("*") if path.is_file()]


def test_a_zip_bomb_is_refused_unread(tmp_path: Path, cache: Path) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as parts, parts.open("model.bin", "w") as member:
        for _ in range(120):
            member.write(bytes(2**20))
    began = time.monotonic()
    with pytest.raises(ModelError) as caught:
        find_model(archive)
    assert caught.value.code == "ARCHIVE_TOO_LARGE"
    assert time.monotonic() - began < 30
    assert not list((cache / "unpacked").iterdir())


def test_a_path_without_a_model_says_what_would_be_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        find_model(tmp_path)
    assert caught.value.code == "NOT_A_MODEL"
    assert all(known.description in str(caught.value) for known in FORMATS)
