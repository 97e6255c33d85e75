"""Plans: the rules in their closed forms, plans that a person edited, plans cut to the machine."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sphere_datasets import write_dataset

from medseg.errors import DeviceMemoryError, ModelError, ReadError, SettingsError
from medseg.files import write_json
from medseg.training.dataset import Case, list_dataset
from medseg.training.dataset_check import check_dataset
from medseg.training.fingerprint import ChannelFacts, ClassFacts, Fingerprint, fingerprint_of
from medseg.training.fitting import FEWEST_STEPS, affordable, fitted_plan, smaller_plan
from medseg.training.folds import splits
from medseg.training.plan import CPU_BUDGET, Plan, gpu_budget, levels, make_plan, patch_shape, target_spacing
from medseg.training.plan_bundle import bundle_files, training_network
from medseg.training.plan_file import read_plan, require_fit
from medseg.training.settings import NETWORK_NAMES
from medseg.training.train_model import has_settled

LIVER = ClassFacts(1, "liver", 20, 1.5e6, 0.05)
ABDOMEN = Fingerprint(
    cases=20,
    shapes=((512, 512, 120),) * 20,
    spacings_mm=((0.8, 0.8, 2.5),) * 20,
    modality="CT",
    channel_names=(),
    channels=(ChannelFacts(100.0, 40.0, -20.0, 101.0, 220.0),),
    zero_share=0.0,
    classes=(LIVER,),
    pieces=1,
)
HEAD = replace(ABDOMEN, shapes=((181, 217, 181),) * 20, spacings_mm=((1.0, 1.0, 1.0),) * 20, modality="MR")


def test_the_fingerprint_is_measured(tmp_path: Path) -> None:
    found = fingerprint_of(check_dataset(list_dataset(write_dataset(tmp_path / "data", 3))))
    assert found.spacings_mm == ((1.0, 1.0, 1.0),) * 3
    assert [one.name for one in found.classes] == ["ball", "box"]
    assert 100 < found.channels[0].mean < 200
    assert 70 < found.channels[0].percentile_00_5 < 100 < found.channels[0].percentile_99_5 < 240
    assert found.classes[0].median_volume_mm3 == pytest.approx(4 / 3 * math.pi * 4.75**3, rel=0.4)
    assert found.pieces == 2
    assert found.object_diameter_mm == 0


def test_spacing_is_the_median_but_fine_where_slices_are_thick() -> None:
    assert target_spacing([(1, 1, 1), (2, 2, 2), (3, 3, 3)]) == (2, 2, 2)
    thick = [(1.0, 1.0, s) for s in (2, 4, 5, 6, 8)]
    assert target_spacing(thick) == pytest.approx((1, 1, np.percentile([2, 4, 5, 6, 8], 10)))


def test_a_patch_is_the_scan_where_it_fits_and_the_budget_where_it_does_not() -> None:
    assert patch_shape((20, 30, 25), 10**6) == (20, 30, 25)
    cut = patch_shape((512, 512, 60), 48**3)
    assert math.prod(cut) <= 48**3
    assert max(cut) <= 1.2 * min(cut)


def test_levels_halve_what_is_long_and_leave_coarse_axes_until_the_others_have_caught_up() -> None:
    strides, kernels = levels((64, 64, 16), (1.0, 1.0, 4.0), 5)
    assert strides == [(1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)]
    assert kernels == [(3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)]
    assert len(levels((8, 8, 8), (1, 1, 1), 5)[0]) == 3


@pytest.mark.parametrize("fingerprint", [ABDOMEN, HEAD], ids=["CT", "MR"])
@pytest.mark.parametrize("network", NETWORK_NAMES)
def test_every_network_of_a_plan_answers_its_patch(fingerprint: Fingerprint, network: str) -> None:
    if network == "SwinUNETR":
        pytest.importorskip("einops")
    plan = make_plan(fingerprint, CPU_BUDGET, network)
    assert (
        math.prod(plan.patch) <= (4 if network == "UNet" else 2.5) * CPU_BUDGET.patch_voxels
    )  # sides are rounded
    with torch.no_grad():
        made = training_network(plan).eval().to("meta")
        assert made(torch.zeros(1, 1, *plan.patch, device="meta")).shape == (1, 2, *plan.patch)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch on itself, when MedNeXt is imported
@pytest.mark.filterwarnings("ignore:.*indexing argument.*:UserWarning")  # MONAI's SwinUNETR
@pytest.mark.parametrize("network", NETWORK_NAMES)
def test_every_network_learns_from_small_scans(network: str) -> None:
    if network == "SwinUNETR":
        pytest.importorskip("einops")
    small = replace(HEAD, shapes=((28, 26, 24),) * 20)
    plan = make_plan(small, CPU_BUDGET, network)
    made = training_network(plan).train().to("meta")
    answer = made(torch.zeros(1, 1, *plan.patch, device="meta"))
    assert (answer if isinstance(answer, torch.Tensor) else answer[0]).shape[1] == 2


def test_a_patch_is_not_halved_until_one_voxel_is_left() -> None:
    plan = replace(make_plan(HEAD, CPU_BUDGET, "SwinUNETR"), batch=1, patch=(64, 64, 32))
    smaller = smaller_plan(plan)
    assert smaller is not None
    assert sorted(smaller.patch) == [32, 32, 64]
    assert smaller_plan(smaller) is None


def test_a_plan_for_ct_clips_and_one_for_mr_standardises_each_image() -> None:
    ct, mr = make_plan(ABDOMEN), make_plan(HEAD)
    assert (ct.intensity["a_min"], ct.intensity["a_max"], ct.intensity["b_min"]) == (-20.0, 220.0, -3.0)
    assert mr.intensity["_target_"] == "NormalizeIntensityd"
    assert not mr.intensity["nonzero"]
    assert make_plan(replace(HEAD, zero_share=0.5)).intensity["nonzero"]


def test_a_cpu_sees_coarser_voxels_than_a_gpu_but_never_too_coarse_for_the_class() -> None:
    cpu, gpu = make_plan(ABDOMEN), make_plan(ABDOMEN, gpu_budget(80 * 2**30))
    assert math.prod(gpu.patch) > 4 * math.prod(cpu.patch)
    assert cpu.spacing_mm[0] > 1.25 * gpu.spacing_mm[0] >= 1.25 * 0.8
    small = replace(ABDOMEN, classes=(replace(LIVER, median_volume_mm3=500.0),))
    assert make_plan(small).spacing_mm == pytest.approx((0.8, 0.8, 2.5))


def test_sides_are_not_mirrored_and_many_pieces_are_lesions() -> None:
    kidneys = (replace(LIVER, name="kidney_left"), replace(LIVER, id=2, name="kidney_right"))
    assert make_plan(ABDOMEN).mirror_axes == (0, 1, 2)
    assert make_plan(replace(ABDOMEN, classes=kidneys)).mirror_axes == (1, 2)
    assert make_plan(replace(ABDOMEN, pieces=5)).loss == "blob"
    assert make_plan(replace(ABDOMEN, pieces=5, classes=kidneys)).loss == "dice-ce"


def test_an_object_is_twelve_voxels_wide() -> None:
    plan = make_plan(replace(HEAD, object_diameter_mm=0.009))
    assert plan.spacing_mm == pytest.approx((0.00075,) * 3)
    assert plan.has_objects
    card = bundle_files(plan, HEAD, {"name": "x"}).card
    assert card.separation is not None
    assert card.separation.diameter_mm == 0.009


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(SettingsError, match="DynUNet"):
        make_plan(HEAD, network="YesNet")


# ------------------------------------------------------------------------ plans on disk


def test_a_plan_comes_back_from_its_file_and_may_be_edited(tmp_path: Path) -> None:
    plan, path = make_plan(ABDOMEN), tmp_path / "plan.json"
    write_json(path, asdict(plan))
    assert read_plan(path) == plan
    edited = json.loads(path.read_text()) | {"batch": 3, "spacing_mm": [1, 1, 2]}
    path.write_text(json.dumps(edited))
    assert (read_plan(path).batch, read_plan(path).spacing_mm) == (3, (1, 1, 2))


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0},
        {"patch": [16, 16]},
        {"patch": 16},
        {"spacing_mm": [1, 1, "x"]},
        {"loss": "mean"},
        {"loss": "objects"},
        {"network": {}},
        {"intensity": []},
        {"wrong": 1},
        {"batch": 1.5},
    ],
)
def test_a_plan_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(asdict(make_plan(ABDOMEN)) | change))
    with pytest.raises(ReadError) as caught:
        read_plan(path)
    assert caught.value.code == "BAD_PLAN"


@pytest.mark.parametrize("content", ["", "[1]", "{}", "7"])
def test_what_is_no_plan_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(ReadError) as caught:
        read_plan(tmp_path / "plan.json")
    assert caught.value.code == "BAD_PLAN"


# ------------------------------------------------------------------- plans on a machine


def test_short_of_memory_a_plan_grows_smaller_until_it_fits() -> None:
    told: list[str] = []

    def trial(plan: Plan) -> float:
        if plan.batch * math.prod(plan.patch) > 40_000:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"
            )
        return 0.5

    plan, seconds = fitted_plan(make_plan(ABDOMEN), trial, told.append)
    assert seconds == 0.5
    assert plan.batch == 1
    assert math.prod(plan.patch) <= 40_000
    assert told
    assert all("SMALLER_PLAN" in words for words in told)
    with torch.device("meta"), torch.no_grad():
        assert training_network(plan).eval()(torch.zeros(1, 1, *plan.patch)).shape[2:] == plan.patch


def test_no_memory_at_all_is_an_error_of_its_own_and_other_errors_name_the_patch() -> None:
    def full(_plan: Plan) -> float:
        raise MemoryError

    def broken(_plan: Plan) -> float:
        raise RuntimeError("size mismatch")

    with pytest.raises(DeviceMemoryError) as caught:
        fitted_plan(make_plan(ABDOMEN), full, lambda _words: None)
    assert caught.value.code == "NO_MEMORY"
    plan = make_plan(ABDOMEN)
    with pytest.raises(ModelError, match="size mismatch") as unfit:
        fitted_plan(plan, broken, lambda _words: None)
    assert unfit.value.code == "BAD_NETWORK"
    assert " x ".join(map(str, plan.patch)) in str(unfit.value)


def test_steps_fit_into_the_time() -> None:
    """600 s: a check of 2 cases of 1 s each takes 20 s in ten, the last look 6 s."""
    assert affordable(10, (0.5, 1.0), 1, 2) == ((600 - 20 - 6) / 0.5, 2)
    assert affordable(10, (0.5, 0.0), 5, 0) == (240, 0)
    assert affordable(10, (0.5, 8.0), 1, 4) == ((600 - 80 - 96) / 0.5, 1)
    assert affordable(10, (0.5, 300.0), 1, 4) == (600, 1)
    assert affordable(0.1, (10.0, 0.0), 1, 0)[0] == FEWEST_STEPS


def test_a_plan_of_another_dataset_is_refused() -> None:
    require_fit(make_plan(ABDOMEN), ABDOMEN)
    for other in (
        replace(ABDOMEN, classes=(LIVER, replace(LIVER, id=2, name="spleen"))),
        replace(ABDOMEN, channels=ABDOMEN.channels * 2),
        replace(ABDOMEN, object_diameter_mm=1.0),
    ):
        with pytest.raises(ReadError, match="for this dataset"):
            require_fit(make_plan(ABDOMEN), other)


# -------------------------------------------------------------------------------- folds


def cases(*folds: int | None) -> list[Case]:
    return [Case(f"c{n}", (), Path("x"), fold) for n, fold in enumerate(folds)]


def test_every_case_is_held_out_once_and_never_learned_from_at_the_same_time() -> None:
    found = splits(cases(*[None] * 11), 5, 0)
    assert sorted(n for split in found for n in split.held_out) == list(range(11))
    for split in found:
        assert sorted(split.training + split.held_out) == list(range(11))
    assert splits(cases(*[None] * 11), 5, 0) == found
    assert len(splits(cases(None, None, None), 5, 0)) == 3


def test_one_network_holds_out_a_fifth_and_one_case_holds_out_nothing() -> None:
    assert [len(split.held_out) for split in splits(cases(*[None] * 20), 1, 0)] == [4]
    assert [len(split.held_out) for split in splits(cases(None, None), 1, 0)] == [1]
    assert [split.held_out for split in splits(cases(None), 1, 0)] == [()]


def test_what_a_dataset_says_counts() -> None:
    (only,) = splits(cases(-1, -1, 0, None), 1, 0)
    assert (only.held_out, only.training) == ((2,), (0, 1, 3))
    assert [split.held_out for split in splits(cases(0, 1, 0, 2), 5, 0)] == [(0, 2), (1,), (3,)]
    assert [split.held_out for split in splits(cases(0, 0), 1, 0)] == [()]


def test_a_training_is_over_when_the_best_score_lies_far_back() -> None:
    rows = [{"score": s} for s in (0.1, 0.5, 0.9, 0.9, 0.9005, 0.9)]
    assert has_settled(rows, 3)
    assert not has_settled(rows, 4)
    assert not has_settled(rows, 0)
    assert not has_settled([{"loss": 1.0}] * 9, 2)
    assert not has_settled([{"score": float("nan")}] * 9, 2)
