"""What is said before a run about a scan that does not fit the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import oblique_grid
from small_models import make_card

from medseg.errors import GeometryError, MedsegError, ModelError
from medseg.geometry import Geometry
from medseg.io.formats import read_volume
from medseg.models.card import Card, SlidingWindow
from medseg.preprocess.sanity import find_misfits, judge, wanted_modality
from medseg.volume import Volume

BRAIN = make_card(
    modality="MR", orientation="RAS", spacing_mm=(1.0, 1.0, 1.0), window=SlidingWindow((96, 96, 96))
)
CT = replace(BRAIN, modality="CT", spacing_mm=(1.5, 1.5, 1.5))


def scan(shape: tuple[int, int, int] = (90, 100, 80), spacing: float = 2.0, **changes: Any) -> Volume:
    array = np.random.default_rng(0).uniform(-1000, 900, shape).astype(np.float32)
    return replace(Volume(array, Geometry.from_spacing(shape, (spacing,) * 3), modality="CT"), **changes)


def codes(volume: Volume, card: Card) -> list[str]:
    return [finding.code for finding in find_misfits((volume,), card)]


def test_a_fitting_scan_is_passed_in_silence() -> None:
    assert codes(scan(), CT) == []


def test_a_ct_for_an_mr_model_is_refused_and_may_be_forced() -> None:
    findings = find_misfits((scan(),), BRAIN)
    with pytest.raises(ModelError, match="choose a model for CT") as caught:
        judge(findings)
    assert caught.value.code == "WRONG_MODALITY"
    assert judge(findings, "warn")[0].startswith("[WRONG_MODALITY]")
    assert judge(findings, "off") == ()


@pytest.mark.parametrize("modality", ["", "OT", "SC", "ct"])
def test_a_scan_that_tells_no_modality_is_no_contradiction(modality: str) -> None:
    assert codes(scan(modality=modality), CT) == []
    assert "WRONG_MODALITY" not in codes(scan(), replace(CT, modality=""))


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0, 255, "8-bit"), (0, 1, "scaled"), (0, 4095, "rescale")],
)
def test_ct_that_is_not_in_hounsfield_units_is_told(low: float, high: float, words: str) -> None:
    array = np.random.default_rng(0).uniform(low, high, (60, 60, 60))
    (finding,) = find_misfits((scan((60, 60, 60), array=array),), CT)
    assert (finding.code, finding.is_certain) == ("NOT_HOUNSFIELD", False)
    assert words in finding.message


def test_hounsfield_air_in_an_mr_model_is_told() -> None:
    array = scan().array.copy()
    array[:40] = -1000
    assert codes(scan(array=array, modality=""), BRAIN) == ["LOOKS_LIKE_CT"]


def test_microscopy_in_a_model_for_bodies_is_refused() -> None:
    tiny = scan((200, 180, 60), spacing=0.0005)
    with pytest.raises(GeometryError, match="1 x 1 x 1") as caught:
        judge(find_misfits((tiny,), CT))
    assert caught.value.code == "FIELD_OF_VIEW_TOO_SMALL"


def test_small_view_and_coarse_voxels_are_told() -> None:
    assert codes(scan((100, 100, 10), spacing=1.5), CT) == ["FIELD_OF_VIEW_SMALL"]
    assert codes(scan((40, 40, 40), spacing=6.5), CT) == ["VOXELS_COARSE"]


def test_pose_that_the_model_may_not_know_is_told() -> None:
    noise = np.random.default_rng(0).uniform(-1000, 900, (60, 60, 60))
    turned = oblique_grid((60, 60, 60), (2.0, 2.0, 2.0), degrees=40)
    assert codes(Volume(noise, turned), CT) == ["OBLIQUE"]
    slightly = oblique_grid((60, 60, 60), (2.0, 2.0, 2.0), degrees=20)
    assert codes(Volume(noise, slightly), CT) == []
    unknown = Volume(noise, Geometry.from_spacing((60, 60, 60), (2, 2, 2)), notes=("[NO_ORIENTATION] x",))
    assert codes(unknown, CT) == ["UNKNOWN_ORIENTATION"]


def test_each_channel_is_held_to_its_own_modality() -> None:
    both = replace(CT, in_channels=2, channel_names=("CT", "PET SUV"))
    assert [wanted_modality(both, n) for n in (0, 1)] == ["CT", "PT"]
    pet = scan(modality="PT", array=np.abs(scan().array))
    assert find_misfits((scan(), pet), both) == ()
    with pytest.raises(MedsegError, match="image 1: expected a scan of modality CT, got PT"):
        judge(find_misfits((pet, scan()), both))
    tumour = make_card(modality="", in_channels=4, channel_names=("T1c", "T1", "T2", "FLAIR"))
    assert {wanted_modality(tumour, n) for n in range(4)} == {"MR"}


def test_real_scans_fit_models_of_their_kind(shared_data: Path) -> None:
    for name in ("ct/example_ct.nii.gz", "ct/example_ct_sm.nii.gz"):
        found = codes(read_volume(shared_data / name), CT)
        assert set(found) <= {"VOXELS_COARSE", "FIELD_OF_VIEW_SMALL"}, (name, found)
    head = read_volume(shared_data / "brain_mr/chris_t1.nii.gz")
    assert codes(head, BRAIN) == []
    assert "LOOKS_LIKE_CT" in codes(read_volume(shared_data / "ct/example_ct.nii.gz"), BRAIN)
