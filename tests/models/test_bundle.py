"""MONAI bundles are lowered to cards as data, or refused with a reason; none of them is run."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import tiny_inference, tiny_metadata

from medseg.errors import MedsegError, ModelError
from medseg.models.bundle import read_bundle
from medseg.models.card import Card
from medseg.models.intensity_steps import FixedRange, MinMax, PercentileRange, ZScore


def write(folder: Path, inference: Any, metadata: Any = None) -> Path:
    """A bundle without weights; reading a card needs none."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata or tiny_metadata()))
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    return folder


def lowered(tmp_path: Path, **changes: Any) -> Card:
    return read_bundle(write(tmp_path / "tiny", tiny_inference() | changes))


def refusal(folder: Path) -> MedsegError:
    with pytest.raises(ModelError) as caught:
        read_bundle(folder)
    assert len(str(caught.value)) > 30
    return caught.value


def with_transform(transform: dict[str, Any], where: str = "preprocessing") -> dict[str, Any]:
    recipe = tiny_inference()
    recipe[where]["transforms"].append(transform)
    return recipe


def test_tiny_bundle_as_a_card(tmp_path: Path) -> None:
    card = lowered(tmp_path)
    assert (card.name, card.version, card.licence, card.modality) == ("tiny", "0.0.1", "Apache-2.0", "MR")
    assert card.output_ids == (0, 10, 49, 24)
    assert card.labels.names == {10: "left blob", 24: "rest", 49: "right blob"}
    assert card.labels.find("left blob").colour == (0, 118, 14)
    code = card.labels.find("left blob").code
    assert code is not None
    assert (code.scheme, code.value) == ("SCT", "85637007")
    assert (card.orientation, card.spacing_mm) == ("RAS", (2.0, 2.0, 2.0))
    assert card.intensity == (PercentileRange(0.5, 99.5, 0.0, 1.0, clip=True),)
    assert (card.window.size, card.window.overlap_fraction, card.window.blend) == ((16,) * 3, 0.5, "gaussian")
    assert (card.activation, card.home, card.threshold) == ("softmax", "scores-linear", None)
    assert card.network.target == "monai.networks.nets.UNet"
    assert card.network.arguments["channels"] == [4, 8]


def test_references_old_and_new_and_macros(tmp_path: Path) -> None:
    recipe = tiny_inference()
    recipe["size"] = [8, 8, 8]
    recipe["scale"] = {"inner": [0.25, 0.75]}
    recipe["inferer"] |= {"roi_size": "@size", "overlap": "$@scale#inner#0"}
    recipe["preprocessing"] = "$@steps"
    recipe["steps"] = "%other.json::transforms"
    folder = write(tmp_path, recipe)
    steps = [{"_target_": "Spacingd", "keys": "image", "pixdim": "$[1, 1.5, 2]", "mode": ["bilinear"]}]
    (folder / "configs" / "other.json").write_text(json.dumps({"transforms": steps}))
    card = read_bundle(folder)
    assert card.window.size == (8, 8, 8)
    assert card.window.overlap_fraction == 0.25
    assert card.spacing_mm == (1.0, 1.5, 2.0)
    assert card.orientation is None


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"_target_": "ScaleIntensityRanged", "a_min": -57, "a_max": 164, "b_max": 2, "clip": True},
         FixedRange(-57, 164, 0, 2, clip=True)),
        ({"_target_": "NormalizeIntensityd", "nonzero": True}, ZScore(nonzero=True)),
        ({"_target_": "monai.transforms.NormalizeIntensityd", "nonzero": "True"}, ZScore(nonzero=True)),
        ({"_target_": "ScaleIntensityd", "minv": -1.0, "maxv": 1.0}, MinMax(-1, 1)),
    ],
)  # fmt: skip
def test_intensity_steps_are_read(tmp_path: Path, step: dict[str, Any], expected: object) -> None:
    card = read_bundle(write(tmp_path, with_transform({"keys": "image", **step})))
    assert card.intensity[1] == expected


def test_disabled_transforms_do_not_count(tmp_path: Path) -> None:
    step = {"_target_": "CropForegroundd", "keys": "image", "_disabled_": True}
    assert len(read_bundle(write(tmp_path, with_transform(step))).intensity) == 1


@pytest.mark.parametrize(
    ("steps", "home"),
    [
        ([("AsDiscreted", {"argmax": True}), ("Invertd", {"nearest_interp": True})], "labels-nearest"),
        ([("AsDiscreted", {"argmax": True}), ("Invertd", {"nearest_interp": False})], "labels-nearest"),
        ([("Invertd", {"nearest_interp": False}), ("AsDiscreted", {"argmax": True})], "scores-linear"),
        ([("Invertd", {}), ("AsDiscreted", {"argmax": True})], "labels-nearest"),
        ([("AsDiscreted", {"argmax": [True, False]})], "labels-nearest"),
    ],
)
def test_order_of_the_way_home(tmp_path: Path, steps: list[tuple[str, dict[str, Any]]], home: str) -> None:
    transforms = [{"_target_": target, "keys": "pred", **arguments} for target, arguments in steps]
    assert lowered(tmp_path, postprocessing={"transforms": transforms}).home == home


def test_channels_without_a_medseg_block_are_their_own_ids(tmp_path: Path) -> None:
    metadata = tiny_metadata()
    del metadata["medseg"]
    card = read_bundle(write(tmp_path, tiny_inference(), metadata))
    assert card.output_ids == (0, 1, 2, 3)
    assert card.labels.names == {1: "left blob", 2: "right blob", 3: "rest"}


def with_names(names: list[str], tmp_path: Path, **after: Any) -> Card:
    """The card of a bundle with these channels, decided as `after` says."""
    metadata = tiny_metadata()
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = {
        str(c): name for c, name in enumerate(names)
    }
    del metadata["medseg"]
    recipe = tiny_inference()
    recipe["network_def"]["out_channels"] = len(names)
    recipe["postprocessing"] = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "AsDiscreted", "keys": "pred", **after},
    ]
    return read_bundle(write(tmp_path, recipe, metadata))


def test_channel_0_is_background_by_decision_or_by_name(tmp_path: Path) -> None:
    assert with_names(["nothing", "liver"], tmp_path, argmax=True).output_ids == (0, 1)
    alone = with_names(["tumour"], tmp_path, threshold=0.5)
    assert (alone.output_ids, alone.threshold, alone.labels.names) == ((1,), 0.5, {1: "tumour"})
    assert with_names(["core", "whole"], tmp_path, threshold=0.5).output_ids == (1, 2)
    assert with_names(["background", "whole"], tmp_path, threshold=0.5).output_ids == (0, 1)


EVIL = "$__import__('os').system('touch {}')"


@pytest.mark.parametrize(
    "key", ["network_def", "inferer", "preprocessing", "postprocessing", "unused", "initialize", "imports"]
)
def test_code_is_refused_and_never_run(tmp_path: Path, key: str) -> None:
    trace = tmp_path / "trace"
    recipe = tiny_inference()
    recipe[key] = [EVIL.format(trace)] if key in ("initialize", "imports") else EVIL.format(trace)
    error = refusal(write(tmp_path / "evil", recipe))
    assert error.code == "CODE_REFUSED"
    assert key in str(error)
    assert not trace.exists()


def test_code_where_a_value_is_needed_is_refused_by_its_key(tmp_path: Path) -> None:
    recipe = tiny_inference()
    recipe["inferer"]["roi_size"] = "$list(open('size.txt'))"
    error = refusal(write(tmp_path, recipe))
    assert error.code == "CODE_REFUSED"
    assert "inferer::roi_size" in str(error)


def test_code_whose_value_does_not_count_is_left_unread(tmp_path: Path) -> None:
    recipe = with_transform(
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@out"}, "postprocessing"
    )
    recipe["out"] = "$@bundle_root + '/eval'"
    recipe["inferer"]["device"] = "@device"
    recipe["preprocessing"]["transforms"][-1]["device"] = "@device"
    assert read_bundle(write(tmp_path, recipe)).home == "scores-linear"


def test_code_in_the_metadata_is_refused(tmp_path: Path) -> None:
    metadata = tiny_metadata() | {"version": "$__import__('os').getcwd()"}
    assert refusal(write(tmp_path, tiny_inference(), metadata)).code == "CODE_REFUSED"


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        (("network_def", "_target_"), "os.system", "UNKNOWN_NETWORK"),
        (("network_def", "_target_"), "scripts.networks.UNet", "UNKNOWN_NETWORK"),
        (("inferer", "_target_"), "SimpleInferer", "UNSUPPORTED_RECIPE"),
        (("inferer", "roi_size"), [16, 16, -1], "UNSUPPORTED_RECIPE"),
        (("inferer", "roi_size"), "@nowhere", "BAD_BUNDLE"),
        (("inferer", "roi_size"), "@inferer::roi_size", "BAD_BUNDLE"),
        (("inferer", "roi_size"), [float("nan"), 16, 16], "BAD_BUNDLE"),
        (("inferer", "roi_size"), [16, float("inf"), 16], "BAD_BUNDLE"),
        (("inferer", "roi_size"), [16, 16, 10**400], "BAD_BUNDLE"),
        (("inferer", "cval"), 10**400, "BAD_BUNDLE"),
        (("inferer", "overlap"), 1.0, "BAD_CARD"),
        (("inferer", "mode"), "hann", "UNSUPPORTED_RECIPE"),
        (("preprocessing", "transforms", 3, "pixdim"), [0, 1, 1], "BAD_CARD"),
        (("preprocessing", "transforms", 3, "pixdim"), [1, 1], "BAD_BUNDLE"),
        (("preprocessing", "transforms", 2, "axcodes"), "RRS", "BAD_CARD"),
        (("preprocessing", "transforms", 4, "lower"), 99.9, "BAD_CARD"),
        (("preprocessing", "transforms", 4, "lower"), None, "BAD_BUNDLE"),
        (("preprocessing",), "%../../secret.json", "BUNDLE_INCOMPLETE"),
        (("network_def", "out_channels"), 5, "LABELS_MISMATCH"),
        (("network_def", "out_channels"), 3, "LABELS_MISMATCH"),
    ],
)
def test_broken_recipes_are_refused(tmp_path: Path, path: tuple[Any, ...], value: Any, code: str) -> None:
    recipe = copy.deepcopy(tiny_inference())
    place: Any = recipe
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "secret.json").write_text('{"transforms": []}')
    assert refusal(write(tmp_path / "a" / "b", recipe)).code == code


def test_references_that_multiply_are_refused_in_time(tmp_path: Path) -> None:
    recipe = tiny_inference() | {f"level{n}": [f"@level{n + 1}"] * 10 for n in range(12)}
    recipe |= {"level12": {"_target_": "LoadImaged"}, "preprocessing": "@level0"}
    assert refusal(write(tmp_path, recipe)).code == "BAD_BUNDLE"


@pytest.mark.parametrize("target", ["ResizeWithPadOrCropd", "Resized", "Lambdad", "scripts.transforms.Evil"])
def test_unknown_steps_are_refused_by_name(tmp_path: Path, target: str) -> None:
    error = refusal(write(tmp_path, with_transform({"_target_": target, "keys": "image"})))
    assert error.code == "UNSUPPORTED_RECIPE"
    assert target in str(error)
    after = with_transform({"_target_": target, "keys": "pred"}, "postprocessing")
    assert refusal(write(tmp_path, after)).code == "UNSUPPORTED_RECIPE"


def test_missing_and_broken_files(tmp_path: Path) -> None:
    folder = write(tmp_path, tiny_inference())
    (folder / "configs" / "inference.json").write_text('{"network_def": ')
    assert refusal(folder).code == "BAD_BUNDLE"
    (folder / "configs" / "inference.json").write_text("[" * 100_000)
    assert refusal(folder).code == "BAD_BUNDLE"
    (folder / "configs" / "inference.json").write_text("[1]")
    assert refusal(folder).code == "BAD_BUNDLE"
    (folder / "configs" / "inference.json").unlink()
    assert refusal(folder).code == "BUNDLE_INCOMPLETE"


@pytest.mark.parametrize(
    ("block", "code"),
    [
        ({"label_ids": {"1": 10, "2": 10, "3": 24}}, "LABELS_MISMATCH"),
        ({"label_ids": {"1": "ten"}}, "BAD_BUNDLE"),
        ({"colours": {"1": "red"}}, "BAD_BUNDLE"),
        ({"label_ids": {"1": -4}}, "LABELS_MISMATCH"),
    ],
)
def test_labels_that_cannot_be(tmp_path: Path, block: dict[str, Any], code: str) -> None:
    metadata = tiny_metadata() | {"medseg": block}
    assert refusal(write(tmp_path, tiny_inference(), metadata)).code == code


def test_hash_is_stable_and_covers_the_recipe(tmp_path: Path) -> None:
    card = lowered(tmp_path)
    assert card.sha256 == lowered(tmp_path).sha256
    assert card.sha256 == "cb39f3eb2853125b8fb04aef88670b4509860cc0f246c2ecf1e0ab18772e9d10"
    changed = tiny_inference()["inferer"] | {"overlap": 0.25}
    assert lowered(tmp_path, inferer=changed).sha256 != card.sha256
