"""What nnU-Net v2 leaves after training, as a card; and what is refused, why."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_nnunet import FOLDER, architecture, configuration, dataset, old_architecture, write_nnunet

from medseg.errors import ModelError
from medseg.models.card import Card
from medseg.models.intensity_steps import FixedRange, MinMax, ZScore
from medseg.models.loading import load_model
from medseg.models.nnunet import is_nnunet, read_nnunet
from medseg.models.nnunet_checkpoint import read_header

Table = dict[str, Any]


def refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(path, device="cpu")
    return caught.value


def rewritten(file: Path, change: Callable[[Table], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def with_checkpoint(model: Path, change: Callable[[Table], None]) -> Path:
    file = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    change(content)
    torch.save(content, file)
    return model


def changed_configuration(model: Path, **entries: Any) -> Path:
    rewritten(model / "plans.json", lambda plans: plans["configurations"]["parent"].update(entries))
    return model


def test_sizes_come_in_the_order_of_the_stored_image(tmp_path: Path) -> None:
    model = write_nnunet(tmp_path, configuration((3.0, 2.0, 1.0), (16, 24, 20)), mirror=(0, 1))
    card = read_nnunet(model)
    assert card.spacing_mm == (1.0, 2.0, 3.0)
    assert card.window.size == (20, 24, 16)
    assert card.mirror_axes == (1, 2)  # the network's z and y
    assert card.orientation is None
    assert (card.modality, card.licence, card.name) == ("CT", "CC BY 4.0", "Dataset900_Tiny")


def test_axes_that_the_plans_turned_are_turned_back(tmp_path: Path) -> None:
    config = configuration((1.0, 2.0, 3.0), (16, 24, 20))  # along x, z, y of the image
    card = read_nnunet(write_nnunet(tmp_path, config, transpose=(2, 0, 1), mirror=(0,)))
    assert card.spacing_mm == (1.0, 3.0, 2.0)
    assert card.window.size == (16, 20, 24)
    assert card.mirror_axes == (0,)


def test_readers_that_reorient_name_the_orientation(tmp_path: Path) -> None:
    model = write_nnunet(tmp_path)
    rewritten(model / "plans.json", lambda p: p.update(image_reader_writer="NibabelIOWithReorient"))
    assert read_nnunet(model).orientation == "RAS"


def test_every_normalisation_becomes_steps(tmp_path: Path) -> None:
    names = ("CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "RGBTo01Normalization")
    config = configuration(normalisation=(*names, "NoNormalization"), masked=(False, True, *[False] * 3))
    card = read_nnunet(write_nnunet(tmp_path, config, dataset(channels=("CT", "PET", "a", "b", "c"))))
    assert card.channel_intensity == (
        (FixedRange(-200.0, 300.0, (-200.0 - 60) / 80, (300.0 - 60) / 80, clip=True),),
        (ZScore(nonzero=True, filled=True),),
        (MinMax(0.0, 1.0),),
        (FixedRange(0.0, 255.0, 0.0, 1.0),),
        (),
    )
    assert card.channel_names == ("CT", "PET", "a", "b", "c")


def test_regions_are_written_in_their_order(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    card = read_nnunet(write_nnunet(tmp_path, told=dataset(labels, order=(1, 2, 3))))
    assert card.output_ids == (1, 2, 3)
    assert [label.name for label in card.labels] == ["whole", "core", "enhancing"]
    assert (card.activation, card.threshold, card.home) == ("sigmoid", 0.5, "logits-linear")


def test_old_and_new_plans_describe_one_network(tmp_path: Path) -> None:
    for kind in ("PlainConvUNet", "ResidualEncoderUNet"):
        new = configuration(network={"architecture": architecture(kind)})
        old = configuration(network=old_architecture(kind))
        cards = [
            read_nnunet(write_nnunet(tmp_path / kind / name, config))
            for name, config in (("a", new), ("b", old))
        ]
        assert cards[0] == cards[1]


@pytest.mark.parametrize("trainer", ["nnUNetTrainerNoMirroring", "nnUNetTrainer_4000epochs_NoMirroring"])
def test_a_trainer_of_someone_else_changes_nothing(tmp_path: Path, trainer: str) -> None:
    model = write_nnunet(tmp_path)
    with_checkpoint(model, lambda content: content.update(trainer_name=trainer))
    assert load_model(model, device="cpu").card.mirror_axes == ()


def test_which_folds_a_path_means(tmp_path: Path) -> None:
    results = tmp_path / "results" / "dataset"
    model = write_nnunet(results, folds=(0, 1, 3))
    for path in (model, results, results.parent):
        assert is_nnunet(path)
    assert len(load_model(results, device="cpu").members) == 2
    single = load_model(model / "fold_1", device="cpu")
    assert (single.members, single.card.network.weights_file) == ((), "fold_1/checkpoint_final.pth")
    (model / "fold_0").rename(model / "fold_all")
    assert len(load_model(model, device="cpu").members) == 1  # the fold of all cases stands apart
    shutil.rmtree(model / "fold_1")
    (model / "fold_3" / "checkpoint_final.pth").rename(model / "fold_3" / "checkpoint_best.pth")
    card = read_nnunet(model)
    assert card.network.weights_file == "fold_3/checkpoint_best.pth"
    assert "checkpoint_best.pth is used" in card.notes[0]
    shutil.rmtree(model / "fold_3")
    assert read_nnunet(model).network.weights_file == "fold_all/checkpoint_final.pth"


def test_keys_of_parallel_and_compiled_training(tmp_path: Path) -> None:
    model = write_nnunet(tmp_path)

    def prefixed(content: Table) -> None:
        content["network_weights"] = {f"_orig_mod.{k}": v for k, v in content["network_weights"].items()}

    plain = load_model(model, device="cpu").network.state_dict()
    other = load_model(with_checkpoint(model, prefixed), device="cpu").network.state_dict()
    assert all(torch.equal(plain[key], other[key]) for key in plain)


@pytest.mark.parametrize(
    ("entries", "code", "word"),
    [
        ({"previous_stage": "3d_lowres"}, "UNSUPPORTED_RECIPE", "cascade"),
        ({"patch_size": [32, 32]}, "UNSUPPORTED_RECIPE", "2D"),
        ({"preprocessor_name": "Mine"}, "UNSUPPORTED_RECIPE", "Mine"),
        ({"normalization_schemes": ["Mine"]}, "UNSUPPORTED_RECIPE", "Mine"),
        ({"normalization_schemes": ["CTNormalization"] * 2}, "BAD_NNUNET", "normalization"),
        ({"resampling_fn_data": "mine"}, "UNSUPPORTED_RECIPE", "mine"),
        ({"resampling_fn_data_kwargs": {"force_separate_z": True}}, "UNSUPPORTED_RECIPE", "separate"),
        ({"resampling_fn_probabilities_kwargs": {"order": 3}}, "UNSUPPORTED_RECIPE", "linearly"),
        ({"spacing": [1.0, 1.0]}, "BAD_NNUNET", "spacing"),
        ({"spacing": [1.0, 1.0, float("nan")]}, "BAD_NNUNET", "spacing"),
        ({"spacing": [1.0, 1.0, 0.0]}, "BAD_CARD", "spacing"),
        ({"patch_size": [16, 16, 0]}, "BAD_NNUNET", "window"),
        (
            {"architecture": {"network_class_name": "os.system", "arch_kwargs": {}}},
            "UNKNOWN_NETWORK",
            "system",
        ),
        ({"architecture": architecture(kernels=((2, 3, 3), (3, 3, 3)))}, "BAD_NNUNET", "odd"),
        (
            {"architecture": architecture(kernels=((1, 3, 3), (3, 3, 3)))},
            "WEIGHTS_MISMATCH",
            "another network",
        ),
        ({"architecture": architecture("ResidualEncoderUNet")}, "WEIGHTS_MISMATCH", "another network"),
        ({"inherits_from": "3d_fullres"}, "BAD_NNUNET", "circle"),
    ],
)
def test_plans_that_are_refused(tmp_path: Path, entries: Table, code: str, word: str) -> None:
    error = refusal(changed_configuration(write_nnunet(tmp_path), **entries))
    assert (error.code, word in str(error)) == (code, True), str(error)


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (dataset({"background": 0, "liver": 2}), "LABELS_MISMATCH"),
        (dataset({"liver": 1}), "LABELS_MISMATCH"),
        (dataset({"background": 0, "liver": "1"}), "LABELS_MISMATCH"),
        (dataset({"background": 0, "liver": [1, 2], "tumour": 2}), "LABELS_MISMATCH"),
        (dataset({"background": 0, "liver": 1, "spleen": 2, "kidney": 3}), "WEIGHTS_MISMATCH"),
        (dataset(channels=("CT", "PET")), "BAD_NNUNET"),
        ({"labels": {"background": 0, "liver": 1}}, "BAD_NNUNET"),
    ],
)
def test_datasets_that_do_not_fit(tmp_path: Path, told: Table, code: str) -> None:
    model = write_nnunet(tmp_path)
    (model / "dataset.json").write_text(json.dumps(told))
    assert refusal(model).code == code


def test_the_stage_that_a_checkpoint_names_counts(tmp_path: Path) -> None:
    for name, word in (("3d_cascade_fullres", "cascade"), ("2d", "2D"), ("3d_lowres", "configurations")):
        model = write_nnunet(tmp_path / name)

        def named(content: dict[str, Any], name: str = name) -> None:
            content["init_args"]["configuration"] = name

        with_checkpoint(model, named)
        assert word in str(refusal(model))


def test_parts_that_are_missing(tmp_path: Path) -> None:
    for name in ("plans.json", "dataset.json"):
        model = write_nnunet(tmp_path / name)
        (model / name).unlink()
        assert refusal(model).code == "BUNDLE_INCOMPLETE"
    shutil.rmtree(write_nnunet(tmp_path / "x") / "fold_0")
    assert refusal(tmp_path / "x").code == "WEIGHTS_MISSING"
    for name in ("one", "two"):
        shutil.copytree(tmp_path / "x" / FOLDER, tmp_path / "both" / name)
    assert refusal(tmp_path / "both").code == "AMBIGUOUS_MODEL"
    assert "one, two" in str(refusal(tmp_path / "both"))


class _Runs:
    """A pickle that makes a file when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("place", ["logging", "network_weights"])
def test_a_checkpoint_runs_nothing(tmp_path: Path, place: str) -> None:
    model = write_nnunet(tmp_path)
    mark = tmp_path / "ran"

    def infected(content: Table) -> None:
        content[place] = {**content[place], "x": _Runs(mark)}

    with_checkpoint(model, infected)
    assert refusal(model).code == "CODE_REFUSED"
    assert not mark.exists()


def test_checkpoints_that_are_none(tmp_path: Path) -> None:
    model = write_nnunet(tmp_path)
    file = model / "fold_0" / "checkpoint_final.pth"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert refusal(model).code == "WEIGHTS_CORRUPTED"
    file.write_bytes(b"")
    assert refusal(model).code == "WEIGHTS_CORRUPTED"
    torch.save({"state_dict": {}}, file)
    assert refusal(model).code == "NOT_WEIGHTS"
    file.write_bytes(whole)
    with_checkpoint(model, lambda content: content.update(inference_allowed_mirroring_axes=(0, 7)))
    assert refusal(model).code == "BAD_NNUNET"


def test_the_header_is_read_without_the_weights(tmp_path: Path) -> None:
    header = read_header(write_nnunet(tmp_path, mirror=(2, 0)) / "fold_0" / "checkpoint_final.pth")
    assert (header.configuration, header.trainer, header.mirror_axes) == (
        "3d_fullres",
        "nnUNetTrainer",
        (0, 2),
    )


def test_a_card_of_all_this_is_a_card(tmp_path: Path) -> None:
    card = read_nnunet(write_nnunet(tmp_path))
    assert isinstance(card, Card)
    assert card.crop == "nonzero"
    assert card.resampling.order == 3
    assert card.window.placement == "even"
