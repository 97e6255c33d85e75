"""`medseg train --recipe NAME` makes a bundled model again; here with recipes of a few steps."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ball_heads import LABELS, ball_head

from medseg.cli.main import run
from medseg.models.loading import load_model
from medseg.training import brain_mri, nuclei
from medseg.training.brain_atlas import BENT, Frame, build_atlas
from medseg.training.head_synthesis import SynthesisSettings
from medseg.training.loop import HeadData
from medseg.training.nuclei_recipe import NucleiRecipe
from medseg.training.nuclei_synthesis import NucleiSettings
from medseg.training.recipe import FULL_RESOLUTION, LONG, SCANNER_LIKE, STRIDED

SMALL: dict[str, Any] = {"steps": 2, "check_every": 1, "warm_up_steps": 1}
TINY_NUCLEI = NucleiRecipe(
    channels=(4, 8), strides=(1,), window=16, batch=2, **SMALL,
    synthesis=NucleiSettings(shape=(24, 24, 24), margin=2, diameter=(8, 10)),
)  # fmt: skip


@pytest.fixture
def maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like SynthSeg's, and a short recipe of small windows."""
    monkeypatch.setattr(nuclei, "NucleiRecipe", lambda: TINY_NUCLEI)
    small = SynthesisSettings(shape=(32, 32, 32), spacing_mm=4.0)
    for name, stage in (
        ("STRIDED", replace(STRIDED, channels=(4, 8), strides=(2,))),
        ("FULL_RESOLUTION", replace(FULL_RESOLUTION, channels=(16, 4, 8), strides=(1, 2))),
        ("SCANNER_LIKE", replace(SCANNER_LIKE, channels=(16, 4, 8), strides=(1, 2))),
        ("LONG", replace(LONG, channels=(16, 4, 8), strides=(1, 2))),
    ):
        monkeypatch.setattr(
            brain_mri, name, replace(stage, **SMALL, small_shape=(32, 32, 32), synthesis=small)
        )
    heads = HeadData(LABELS, [ball_head(0)], [ball_head(1)])
    frame, unbent = Frame((40, 44, 36), 4.0, (0.0, 0.0, 0.0)), replace(BENT, stages=())
    make = partial(build_atlas, frame=frame, settings=unbent)
    monkeypatch.setattr(brain_mri, "build_atlas", make)
    monkeypatch.setattr(brain_mri, "read_heads", lambda *_: heads)
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "generation_labels.npy", np.zeros(3))
    return tmp_path / "maps"


@pytest.mark.parametrize("name", ["nuclei", "brain-mri"])
def test_the_command_makes_a_model(name: str, maps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = maps.parent / name
    words = ["train", *([str(maps)] if name == "brain-mri" else []), "--recipe", name, "-o", str(made)]
    assert run([*words, "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"output": str(made)}
    assert load_model(made, device="cpu").card.name == name
    assert [path.name for path in maps.parent.iterdir() if path.suffix == ".partial"] == []


def test_a_stopped_recipe_goes_on(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once, twice = (str(maps.parent / name) for name in ("once", "twice"))
    assert run(["train", "--recipe", "nuclei", "-o", once, "--threads", "1"]) == 0
    whole = nuclei.NucleiTask.loss

    def stopped(self: nuclei.NucleiTask, network: torch.nn.Module, step: int) -> torch.Tensor:
        if step == 1:
            raise KeyboardInterrupt
        return whole(self, network, step)

    monkeypatch.setattr(nuclei.NucleiTask, "loss", stopped)
    assert run(["train", "--recipe", "nuclei", "-o", twice, "--threads", "1"]) == 130
    monkeypatch.setattr(nuclei.NucleiTask, "loss", whole)
    assert run(["train", "--recipe", "nuclei", "-o", twice, "--threads", "1"]) == 0
    first, second = (load_model(folder, device="cpu").network.state_dict() for folder in (once, twice))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--recipe", "brain-mri"], "NO_LABEL_MAPS"),
        (["MAPS/..", "--recipe", "brain-lesions"], "NO_LABEL_MAPS"),
        (["--recipe", "nuclei", "--from", "nuclei"], "BAD_SETTING"),
        ([], "DATASET_NEEDED"),
        (["--recipe", "kidneys"], "WRONG_USAGE"),
    ],
)
def test_what_cannot_be_made_is_told(
    words: list[str], code: str, maps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.replace("MAPS", str(maps)) for word in words]
    assert run(["train", *given, "-o", str(maps.parent / "out")]) in (1, 2)
    assert f"error [{code}]" in capsys.readouterr().err
