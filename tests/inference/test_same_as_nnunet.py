"""The labels of nnU-Net's own predictor, pinned by `benchmarks/nnunet_agreement.py --pin`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nnunet_cases import CASES

from medseg.inference.predict import predict
from medseg.inference.settings import InferenceSettings
from medseg.models.loading import load_model

PINNED = Path(__file__).with_name("nnunet_labels.npz")


@pytest.mark.parametrize("name", CASES)
def test_labels_are_those_of_nnunet(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = load_model(case.write_model(tmp_path), device="cpu")
    labels = predict(case.volumes(), model, InferenceSettings(mirror="mirror" in case.model)).array
    with np.load(PINNED) as pinned:
        expected = pinned[name]
    assert len(np.unique(expected)) >= 3
    assert (labels == expected).mean() >= 0.9999


def test_fold_and_mirroring_change_the_answer(tmp_path: Path) -> None:
    case = CASES["mirrored"]
    model = load_model(case.write_model(tmp_path), device="cpu")
    assert model.card.mirror_axes == (0, 2)  # the network's z and x
    plain = predict(case.volumes(), model).array
    with np.load(PINNED) as pinned:
        assert (plain != pinned["mirrored"]).mean() > 0.01
        assert (pinned["plain"] != pinned["two-folds"]).mean() > 0.01


def test_background_stands_outside_of_the_crop(tmp_path: Path) -> None:
    case = CASES["plain"]
    model = load_model(case.write_model(tmp_path), device="cpu")
    labels = predict(case.volumes(), model)
    assert labels.geometry.is_close(case.volumes()[0].geometry)
    assert not labels.array[:3].any()
    assert not labels.array[:, -2:].any()
    assert labels.array[3:, :-2, 1:].any()
