"""The same bundle in every spelling that published ones use is the same model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bundle import tiny_inference, write_tiny_bundle

from medseg.geometry import Geometry
from medseg.inference.predict import predict
from medseg.models.loading import load_model
from medseg.models.registry import read_card
from medseg.volume import Volume

Recipe = dict[str, Any]


def rewritten(tmp_path: Path, change: Callable[[Recipe], object]) -> Path:
    """The tiny bundle with a recipe written otherwise."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    recipe = tiny_inference()
    change(recipe)
    (bundle / "configs" / "inference.json").write_text(json.dumps(recipe))
    return bundle


def labels_of(bundle: Path) -> Any:
    geometry = Geometry.from_spacing((21, 25, 19), (2.3, 1.8, 2.6)).reorient("PIL")
    array = np.random.default_rng(1).normal(0, 300, geometry.shape).astype(np.float32)
    return predict(Volume(array, geometry), load_model(bundle, device="cpu")).array


def entry_point(recipe: Recipe) -> None:
    del recipe["run"]
    recipe["initialize"] = ["$monai.utils.set_determinism(seed=123)"]
    recipe["evaluating"] = ["$setattr(torch.backends.cudnn, 'benchmark', True)", "$@evaluator.run()"]


def in_several_places(recipe: Recipe) -> None:
    """Old and new references, copies, keys that are composed."""
    recipe["window"] = {"size": [16, 16, 16], "more": {"overlap": 0.5}}
    recipe["inferer"] |= {"roi_size": "@window#size", "overlap": "@window::more::overlap"}
    recipe["image_key"] = "image"
    recipe["spatial_dims"] = "$len(@window#size)"
    recipe["network_def"] |= {
        "spatial_dims": "@spatial_dims",
        "out_channels": "$1 + 3",
        "in_channels": "%one",
    }
    recipe["one"] = 1
    for step in recipe["preprocessing"]["transforms"]:
        step["keys"] = "@image_key"


def in_another_file(recipe: Recipe) -> None:
    recipe["inferer"] = "%parts.json::inferer"
    recipe["preprocessing"] = {"_target_": "Compose", "transforms": "%parts.json#steps"}


def in_lists(recipe: Recipe) -> None:
    for step in recipe["preprocessing"]["transforms"]:
        step["keys"] = ["image"]
        if step["_target_"] == "Spacingd":
            step["mode"] = ["bilinear"]
    after = {step["_target_"]: step for step in recipe["postprocessing"]["transforms"]}
    after["AsDiscreted"] |= {"keys": ["pred"], "argmax": [True]}
    after["Activationsd"] |= {"keys": ["pred", "label"], "softmax": [True, False]}
    after["Invertd"] |= {"keys": ["pred"], "nearest_interp": [False], "orig_keys": ["image"]}


def beside_labels(recipe: Recipe) -> None:
    """Steps of the annotation, as in recipes that evaluate."""
    steps = recipe["preprocessing"]["transforms"]
    steps[0]["keys"] = ["image", "label"]
    steps[3] |= {"keys": ["image", "label"], "mode": ["bilinear", "nearest"]}
    steps.append({"_target_": "AsDiscreted", "keys": "label", "to_onehot": 4})


def in_words(recipe: Recipe) -> None:
    steps = [*recipe["preprocessing"]["transforms"], *recipe["postprocessing"]["transforms"]]
    for step in steps:
        for key, value in step.items():
            if isinstance(value, bool):
                step[key] = str(value)


def under_other_names(recipe: Recipe) -> None:
    recipe["network_def"]["_target_"] = "Unet"
    recipe["inferer"]["_target_"] = "monai.inferers.SlidingWindowInferer"
    for step in recipe["preprocessing"]["transforms"]:
        step["_target_"] = "monai.transforms." + step["_target_"].removesuffix("d") + "D"


def disabled(recipe: Recipe) -> None:
    steps = recipe["preprocessing"]["transforms"]
    steps.insert(3, {"_target_": "CropForegroundd", "keys": "image", "_disabled_": True})
    steps.append({"_target_": "RandFlipd", "keys": "image", "_disabled_": "$3 > 2", "_desc_": "not here"})


def with_a_device(recipe: Recipe) -> None:
    recipe["device"] = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"
    recipe["inferer"] |= {"device": "@device", "sw_device": "@device", "progress": True}
    recipe["preprocessing"]["transforms"][-1] |= {"device": "@device", "track_meta": True}


def with_an_argument_of_old(recipe: Recipe) -> None:
    recipe["network_def"]["dimensions"] = 3


SPELLINGS = [
    entry_point, in_several_places, in_another_file, in_lists, beside_labels, in_words, under_other_names,
    disabled, with_a_device, with_an_argument_of_old,
]  # fmt: skip


@pytest.mark.parametrize("change", SPELLINGS, ids=lambda change: change.__name__)
def test_another_spelling_is_the_same_model(change: Callable[[Recipe], object], tmp_path: Path) -> None:
    plain = write_tiny_bundle(tmp_path / "plain" / "tiny")
    bundle = rewritten(tmp_path, change)
    steps, inferer = tiny_inference()["preprocessing"]["transforms"], tiny_inference()["inferer"]
    (bundle / "configs" / "parts.json").write_text(json.dumps({"steps": steps, "inferer": inferer}))
    ours, theirs = read_card(bundle), read_card(plain)
    assert (ours.intensity, ours.window, ours.spacing_mm) == (
        theirs.intensity,
        theirs.window,
        theirs.spacing_mm,
    )
    assert (ours.home, ours.activation, ours.orientation) == (theirs.home, theirs.activation, "RAS")
    assert np.array_equal(labels_of(bundle), labels_of(plain))


def test_an_argument_that_monai_no_longer_has_is_told(tmp_path: Path) -> None:
    notes = load_model(rewritten(tmp_path, with_an_argument_of_old), device="cpu").card.notes
    assert any("'dimensions'" in note and "left out" in note for note in notes)


def loader(place: str) -> Callable[[Recipe], object]:
    """A recipe that loads `models/best.pt` where some bundles do it."""
    step = {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/best.pt'",
        "load_dict": {"model": "@network"},
        "map_location": "@device",
    }

    def change(recipe: Recipe) -> None:
        if place == "handlers":
            recipe["handlers"] = [{"_target_": "StatsHandler", "iteration_log": False}, step]
        else:
            recipe["checkpointloader"] = step

    return change


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("place", ["handlers", "checkpointloader"])
def test_weights_are_those_that_the_recipe_loads(place: str, wrapped: bool, tmp_path: Path) -> None:
    plain = write_tiny_bundle(tmp_path / "plain" / "tiny", seed=5)
    bundle = rewritten(tmp_path, loader(place))
    weights = torch.load(plain / "models" / "model.pt", weights_only=True)
    content = {"model": weights, "epoch": np.int64(7), "best": np.float64(0.5)} if wrapped else weights
    torch.save(content, bundle / "models" / "best.pt")
    assert read_card(bundle).network.weights_file == "models/best.pt"
    assert np.array_equal(labels_of(bundle), labels_of(plain))


def test_weights_that_were_saved_on_a_graphics_processor_load_without_one(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    expected, file = labels_of(bundle), bundle / "models" / "model.pt"
    with zipfile.ZipFile(file) as parts:
        contents = {part.filename: parts.read(part) for part in parts.infolist()}
    with zipfile.ZipFile(file, "w") as parts:
        for name, content in contents.items():
            # A short word of a pickle: X, four bytes of length, letters.
            moved = content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
            assert (moved != content) == name.endswith("data.pkl")
            parts.writestr(name, moved)
    assert np.array_equal(labels_of(bundle), expected)


def test_a_recipe_in_yaml_is_the_same(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    bundle = write_tiny_bundle(tmp_path / "tiny")
    expected = labels_of(bundle)
    (bundle / "configs" / "inference.json").unlink()
    (bundle / "configs" / "inference.yml").write_text(yaml.safe_dump(tiny_inference()))
    assert np.array_equal(labels_of(bundle), expected)
