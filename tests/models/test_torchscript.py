"""TorchScript with a card beside it: every field of the card is read, and a slip of the pen is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_checkpoints import write_scripted
from tiny_bundle import tiny_inference, tiny_metadata
from torch import Tensor, nn

from medseg.errors import ModelError, ModelNotFoundError
from medseg.geometry import Geometry
from medseg.inference.predict import predict
from medseg.models.card import Card, Resampling, SlidingWindow
from medseg.models.foreground import ForegroundCrop
from medseg.models.intensity_steps import FixedRange, ZScore
from medseg.models.loading import load_model
from medseg.models.registry import read_card
from medseg.volume import Volume

SHORT: dict[str, Any] = {
    "name": "tiny",
    "labels": {"1": "liver", "2": "spleen", "3": "aorta"},
    "output_ids": [0, 1, 2, 3],
    "window": {"size": [16, 16, 16]},
}

WHOLE: dict[str, Any] = SHORT | {
    "version": "2.1",
    "description": "everything",
    "licence": "CC-BY-4.0",
    "modality": "CT",
    "in_channels": 2,
    "orientation": "LPS",
    "spacing_mm": [1.5, 1, 2.25],
    "intensity": [
        {"step": "FixedRange", "input_min": -57, "input_max": 164, "output_min": -1, "clip": True},
        {"step": "ZScore", "nonzero": True},
    ],
    "window": {
        "size": [16, 16, 24], "overlap_fraction": 0.25, "blend": "gaussian", "sigma_scale": 0.2,
        "padding_mode": "replicate", "padding_value": 1.5, "placement": "even",
    },
    "activation": "sigmoid",
    "home": "labels-nearest",
    "threshold": 0.4,
    "mirror_axes": [0, 2],
    "channel_names": ["early", "late"],
    "channel_intensity": [[], [{"step": "ZScore"}]],
    "crop": "nonzero",
    "resampling": {"order": 3, "fit": "extent", "anisotropic": "nearest", "keep_ratio": [0.5, 2]},
    "claim_order": [0, 2, 1, 3],
    "keep_largest": [2],
    "foreground": {"above": -500.0, "margin": 4, "stage": "source"},
    "atlas_file": "tiny.atlas.npz",
}  # fmt: skip


def test_every_field_of_a_card_is_read(tmp_path: Path) -> None:
    written = {field.name for field in fields(Card)} - {"network", "notes", "detection", "separation"}
    assert set(WHOLE) == written
    card = read_card(write_scripted(tmp_path / "tiny.ts", extra={}, card=WHOLE))
    assert (card.name, card.version, card.licence, card.modality) == ("tiny", "2.1", "CC-BY-4.0", "CT")
    assert card.description == "everything"
    assert card.labels.names == {1: "liver", 2: "spleen", 3: "aorta"}
    assert (card.output_ids, card.in_channels, card.threshold) == ((0, 1, 2, 3), 2, 0.4)
    assert (card.orientation, card.spacing_mm) == ("LPS", (1.5, 1.0, 2.25))
    assert card.intensity == (FixedRange(-57, 164, -1, 1, clip=True), ZScore(nonzero=True))
    assert card.window == SlidingWindow((16, 16, 24), 0.25, "gaussian", 0.2, "replicate", 1.5, "even")
    assert (card.activation, card.home, card.crop) == ("sigmoid", "labels-nearest", "nonzero")
    assert (card.mirror_axes, card.channel_names) == ((0, 2), ("early", "late"))
    assert card.channel_intensity == ((), (ZScore(),))
    assert card.resampling == Resampling(3, "extent", "nearest", keep_ratio=(0.5, 2.0))
    assert (card.claim_order, card.keep_largest) == ((0, 2, 1, 3), (2,))
    assert card.foreground == ForegroundCrop(-500.0, 4, "source")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"spacing": [1, 1, 1]}, "spacing"),
        ({"name": None}, "name"),
        ({"labels": ["liver"]}, "labels"),
        ({"labels": {"one": "liver"}}, "labels"),
        ({"labels": {"1": "liver", "2": "liver", "3": "aorta"}}, "twice"),
        ({"output_ids": [0, 1, 2, 9]}, "9"),
        ({"output_ids": [1, 2, 3]}, "background"),
        ({"output_ids": "0123"}, "output_ids"),
        ({"window": {"overlap_fraction": 0.5}}, "size"),
        ({"window": {"size": [16, 16]}}, "window.size"),
        ({"window": {"size": [16, 16, 0]}}, "0"),
        ({"window": {"size": [16, 16, 16.5]}}, "int"),
        ({"window": {"size": [16, 16, 16], "overlap_fraction": 1.0}}, "1.0"),
        ({"window": {"size": [16, 16, 16], "stride": 3}}, "stride"),
        ({"spacing_mm": [1, 0, 1]}, "above 0"),
        ({"spacing_mm": [1, 1]}, "spacing_mm"),
        ({"spacing_mm": ["1", 1, 1]}, "spacing_mm"),
        ({"orientation": "RAP"}, "RAP"),
        ({"intensity": [{"step": "Magic"}]}, "Magic"),
        ({"intensity": [{"step": "FixedRange"}]}, "input_max"),
        ({"activation": "relu"}, "relu"),
        ({"home": "there"}, "there"),
        ({"threshold": "half"}, "threshold"),
        ({"keep_largest": [7]}, "keep the largest"),
        ({"in_channels": 0}, "0"),
        ({"resampling": {"order": 2}}, "order"),
    ],
)
def test_a_wrong_card_is_refused_by_its_field(change: dict[str, Any], word: str, tmp_path: Path) -> None:
    path = write_scripted(tmp_path / "tiny.ts", extra={}, card=SHORT | change)
    with pytest.raises(ModelError) as caught:
        read_card(path)
    assert caught.value.code == "BAD_CARD"
    message = str(caught.value)
    assert message.startswith("expected ")
    assert ", got " in message
    assert "; re" in message  # repair or rename
    assert word in message


@pytest.mark.parametrize("lacks", ["labels", "output_ids", "window"])
def test_a_field_that_lacks_is_named(lacks: str, tmp_path: Path) -> None:
    card = {key: value for key, value in SHORT.items() if key != lacks}
    with pytest.raises(ModelError, match=lacks) as caught:
        read_card(write_scripted(tmp_path / "tiny.ts", extra={}, card=card))
    assert caught.value.code == "BAD_CARD"


def test_without_card_and_recipe_the_name_of_the_card_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tiny\.card\.json") as caught:
        read_card(write_scripted(tmp_path / "tiny.ts", extra={}))
    assert caught.value.code == "CARD_MISSING"
    with pytest.raises(ModelError) as caught:
        read_card(write_scripted(tmp_path / "half.ts", extra={"metadata.json": json.dumps(tiny_metadata())}))
    assert caught.value.code == "CARD_MISSING"


def test_a_card_and_the_recipe_inside_give_the_same_labels(tmp_path: Path) -> None:
    inner = load_model(write_scripted(tmp_path / "inner.ts"), device="cpu")
    scale = tiny_inference()["preprocessing"]["transforms"][4]
    assert scale["_target_"].startswith("ScaleIntensityRangePercentiles")
    told = {
        "modality": "MR", "orientation": "RAS", "spacing_mm": [2, 2, 2], "output_ids": [0, 10, 49, 24],
        "labels": {"10": "left blob", "49": "right blob", "24": "rest"},
        "intensity": [{"step": "PercentileRange", "lower_percent": 0.5, "upper_percent": 99.5,
                       "output_min": 0, "output_max": 1, "clip": True}],
        "window": {"size": [16, 16, 16], "overlap_fraction": 0.5, "blend": "gaussian"},
        "resampling": {"fit": "first-voxel"},
    }  # fmt: skip
    beside = load_model(write_scripted(tmp_path / "beside.ts", extra={}, card=SHORT | told), device="cpu")
    geometry = Geometry.from_spacing((21, 25, 19), (2.3, 1.8, 2.6)).reorient("PIL")
    array = np.random.default_rng(1).normal(0, 300, geometry.shape).astype(np.float32)
    labels = [predict(Volume(array, geometry), model) for model in (inner, beside)]
    assert len(np.unique(labels[0].array)) > 1
    assert np.array_equal(labels[0].array, labels[1].array)


class MakesItsOwn(nn.Module):
    """A traced network keeps the device on which it makes tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.layer(image) + torch.ones(1, 4, 1, 1, 1, device=image.device)
        return answer


class ReadsAFile(nn.Module):
    """Compiles, and reaches for a file."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.layer(image + torch.from_file("/etc/hostname", size=1))
        return answer


def compiled(file: Path, network: nn.Module, by: Callable[..., Any], *more: Any) -> Path:
    with warnings.catch_warnings():  # torch advises against TorchScript; models are published as such
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(by(network.eval(), *more), file)
    file.with_suffix(".card.json").write_text(json.dumps(SHORT))
    return file


def test_a_network_that_makes_tensors_of_its_own_runs(tmp_path: Path) -> None:
    file = compiled(tmp_path / "own.ts", MakesItsOwn(), torch.jit.trace, torch.zeros(1, 1, 16, 16, 16))
    geometry = Geometry.from_spacing((18, 17, 20))
    array = np.random.default_rng(1).normal(size=geometry.shape).astype(np.float32)
    labels = predict(Volume(array, geometry), load_model(file, device="cpu"))
    assert labels.array.shape == geometry.shape


def test_a_network_that_reaches_for_files_is_refused(tmp_path: Path) -> None:
    file = compiled(tmp_path / "reads.ts", ReadsAFile(), torch.jit.script)
    with pytest.raises(ModelError, match="from_file") as caught:
        load_model(file, device="cpu")
    assert caught.value.code == "CODE_REFUSED"
    load_model(file, device="cpu", trust_code=True)


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_file_that_is_cut_off_is_no_model(part: float, tmp_path: Path) -> None:
    file = write_scripted(tmp_path / "tiny.ts", extra={}, card=SHORT)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ModelNotFoundError) as caught:
        load_model(file, device="cpu")
    assert caught.value.code == "NOT_A_MODEL"


def test_a_file_that_is_damaged_inside_is_refused(tmp_path: Path) -> None:
    file = write_scripted(tmp_path / "tiny.ts", extra={}, card=SHORT)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_model(file, device="cpu")
    assert caught.value.code == "WEIGHTS_CORRUPTED"
