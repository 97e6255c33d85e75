"""Whole trips of cases that are more than one scan and one model: channels, first looks, rough models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import code_of
from phantoms import Sphere, linear_ramp, mask_of, oblique_grid, world_of_voxels
from small_models import make_card, random_model, threshold_model
from tiny_bundle import write_pair_bundle, write_tiny_bundle
from torch import Tensor, nn

from medseg.cli.main import run
from medseg.errors import CancelledError, GeometryError, MedsegError, ModelError, VolumeError
from medseg.geometry import Geometry
from medseg.inference.cascade import predict_in_region, touched_faces
from medseg.inference.preview import MOST_WINDOWS, preview_grid
from medseg.inference.settings import InferenceSettings
from medseg.inference.windows import place_windows
from medseg.instances.settings import SeparationSettings
from medseg.io.case_files import channel_files, in_order_of_numbers, read_case
from medseg.io.formats import read_labels, write_volume
from medseg.labels import LabelSet
from medseg.models import registry
from medseg.models.card import SlidingWindow
from medseg.models.loading import Model
from medseg.pipeline import segment
from medseg.progress import CancelToken, Progress
from medseg.volume import LabelVolume, Volume

WEIGHTS = (1.0, 2.0, 4.0, -8.0)
NAMES = ("T1c", "T1", "T2", "FLAIR")


class Sum(nn.Module):
    """Class 1 where a weighted sum of the channels exceeds 0.5: every order gives other labels."""

    def forward(self, image: Tensor) -> Tensor:
        """`(n, 4, i, j, k)` to `(n, 2, i, j, k)`."""
        weights = torch.tensor(WEIGHTS, device=image.device).reshape(1, -1, 1, 1, 1)
        total = (image * weights).sum(1, keepdim=True)
        return torch.cat((torch.full_like(total, 0.5), total), dim=1)


def four_channel_model(**changes: Any) -> Model:
    card = make_card(1, in_channels=4, channel_names=NAMES, **changes)
    return Model(card, Sum().eval())


def channels(geometry: Geometry | None = None) -> tuple[Volume, ...]:
    geometry = geometry or oblique_grid((18, 16, 14))
    random = np.random.default_rng(3)
    return tuple(Volume(random.normal(size=geometry.shape).astype(np.float32), geometry) for _ in NAMES)


def expected(volumes: tuple[Volume, ...]) -> Any:
    return sum(w * v.array for w, v in zip(WEIGHTS, volumes, strict=True)) > 0.5


# ---------------------------------------------------------------------- several images


def test_channels_reach_the_network_in_their_order_however_they_are_named(tmp_path: Path) -> None:
    volumes, model = channels(), four_channel_model()
    wanted = expected(volumes)
    paths = [write_volume(v, tmp_path / f"case_{n:04}.nii.gz") for n, v in enumerate(volumes)]
    by_name = dict(zip(reversed(NAMES), reversed(volumes), strict=True))
    sources: list[Any] = [volumes, list(volumes), by_name, paths, paths[::-1], paths[0], str(paths[2])]
    for source in sources:
        result = segment(source, model)
        assert np.array_equal(result.labels.array == 1, wanted), source
    assert not np.array_equal(segment(volumes[::-1], model).labels.array == 1, wanted)
    assert tuple(np.array_equal(a.array, b.array) for a, b in zip(read_case(paths[1]), volumes, strict=True))


def test_record_holds_the_hash_of_every_image_and_one_of_all() -> None:
    volumes, model = channels(), four_channel_model()
    record = segment(volumes, model).record
    assert len(set(record.channel_sha256)) == 4
    assert len(record.input_sha256) == 64
    assert record.input_sha256 not in record.channel_sha256
    other = segment((*volumes[:3], volumes[0]), model).record
    assert other.channel_sha256[:3] == record.channel_sha256[:3]
    assert other.input_sha256 != record.input_sha256
    assert segment(volumes[0], threshold_model()).record.channel_sha256 == ()


def test_an_image_on_another_grid_is_brought_over_and_said() -> None:
    grid = oblique_grid((24, 22, 20), (1.5, 1.5, 1.5))
    one = linear_ramp(grid)
    finer = linear_ramp(grid.pad((2, 2, 2), (2, 2, 2)).reorient("LSP").respace((1.0, 1.2, 0.9)))
    model = four_channel_model()
    result = segment((one, one, finer, one), model)
    assert result.labels.geometry is grid
    assert any(words.startswith("[CHANNEL_RESAMPLED] image 3") for words in result.record.warnings)
    same = segment((one,) * 4, model)
    assert (result.labels.array == same.labels.array).mean() > 0.999
    far = Geometry(grid.shape, grid.affine + np.eye(4)[:, [3]] * 0 + _shift(500))
    with pytest.raises(GeometryError) as caught:
        segment((one, one, replace(one, geometry=far), one), model)
    assert caught.value.code == "NO_OVERLAP"


def _shift(by_mm: float) -> Any:
    matrix = np.zeros((4, 4))
    matrix[0, 3] = by_mm
    return matrix


def test_the_wrong_number_of_images_is_refused_with_the_right_one() -> None:
    for source, model in ((channels()[0], four_channel_model()), (channels(), threshold_model())):
        with pytest.raises(ModelError) as caught:
            segment(source, model)
        assert caught.value.code == "CHANNELS_MISMATCH"
        assert ("T1c, T1, T2, FLAIR" in str(caught.value)) is (model.card.in_channels == 4)


def test_numbers_in_names_give_the_order_and_gaps_are_refused(tmp_path: Path) -> None:
    names = ["a_0001.nii.gz", "a_0000.nii.gz", "a_0002.nii", "b_0000.nii.gz", "a.nii.gz"]
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.touch()
    assert channel_files(paths[0]) == (paths[1], paths[0])
    assert channel_files(paths[4]) == (paths[4],)
    assert in_order_of_numbers(paths[:3]) == (paths[1], paths[0], paths[2])
    assert in_order_of_numbers([paths[0], paths[4]]) == (paths[0], paths[4])
    assert in_order_of_numbers([paths[1], paths[3]]) == (paths[1], paths[3])
    (tmp_path / "a_0004.nii.gz").touch()
    with pytest.raises(MedsegError) as caught:
        channel_files(paths[0])
    assert caught.value.code == "CHANNELS_MISSING"
    assert "0002" in str(caught.value)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "shelf"))
    write_pair_bundle(tmp_path / "shelf" / "pair")
    write_tiny_bundle(tmp_path / "shelf" / "tiny")
    return tmp_path / "shelf"


def test_the_shell_takes_several_images(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = channels(oblique_grid((30, 28, 26), (2.0, 2.0, 2.0)))
    write_volume(first, tmp_path / "x_0000.nii.gz")
    write_volume(second, tmp_path / "x_0001.nii.gz")
    write_volume(second, tmp_path / "flair.nii.gz")
    a, b, flair = (str(tmp_path / name) for name in ("x_0000.nii.gz", "x_0001.nii.gz", "flair.nii.gz"))
    calls = {"order": [a, b], "numbers": [b, a], "lead": [a], "names": [f"flair={flair}", f"T1={a}"]}
    answers = []
    for name, inputs in calls.items():
        assert run(["segment", *inputs, "-m", "pair", "-o", str(tmp_path / name), "--json"]) == 0
        told = capsys.readouterr()
        assert "images are taken as: T1, FLAIR" in told.err
        answers.append(json.loads(told.out)["record"]["channel_sha256"])
    assert len(answers[0]) == 2
    assert all(answer == answers[0] for answer in answers)
    labels = [read_labels(tmp_path / name / "labels.nii.gz").array for name in calls]
    assert all(np.array_equal(one, labels[0]) for one in labels)
    for inputs, model in (([a, b], "tiny"), ([flair], "pair"), ([a, b, a], "pair")):
        assert run(["segment", *inputs, "-m", model, "-o", str(tmp_path / "no")]) == 1
        assert code_of(capsys.readouterr().err) == "CHANNELS_MISMATCH"
    assert run(["segment", f"T2={a}", f"T1={b}", "-m", "pair", "-o", str(tmp_path / "no")]) == 1
    assert code_of(capsys.readouterr().err) == "UNKNOWN_CHANNEL"
    assert not (tmp_path / "no").exists()


def test_a_model_of_ones_own_that_hides_a_bundled_one_is_named(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_bundle(shelf / "brain-mri")
    entries = {entry.name: entry for entry in registry.list_models()}
    assert (entries["brain-mri"].shelf, entries["brain-mri"].hides) == ("user", "bundled")
    assert entries["tiny"].hides == ""
    for words in (["list"], ["show", "brain-mri"]):
        assert run(["models", *words]) == 0
        assert "hides the bundled model" in capsys.readouterr().err
    assert run(["models", "show", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hides"] is None


# ---------------------------------------------------------------------- sanity on the way


def test_a_misfit_refuses_the_run_or_goes_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    ct = replace(blob_scan(), modality="CT")
    model = threshold_model()
    with pytest.raises(ModelError) as caught:
        segment(ct, model)
    assert caught.value.code == "WRONG_MODALITY"
    warned = segment(ct, model, InferenceSettings(sanity="warn"))
    assert any(words.startswith("[WRONG_MODALITY]") for words in warned.record.warnings)
    assert segment(ct, model, InferenceSettings(sanity="off")).record.warnings == ()


def grainy(array: Any, geometry: Geometry) -> Volume:
    """A picture with a little noise, so that it is not taken for a label map."""
    noise = np.random.default_rng(0).uniform(-0.05, 0.05, geometry.shape)
    return Volume((array + noise).astype(np.float32), geometry)


def test_swapped_sides_go_on_record() -> None:
    grid = Geometry.from_spacing((40, 24, 24))
    array = np.zeros(grid.shape, dtype=np.float32)
    array[4:12, 8:16, 8:16] = 1.0
    array[28:36, 8:16, 8:16] = 2.0

    class TwoBoxes(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.cat((image * 0 + 0.5, 1 - (image - 1).abs(), 1 - (image - 2).abs()), dim=1)

    for names, is_told in ((("left ear", "right ear"), False), (("ear_R", "ear_L"), True)):
        labels = LabelSet.from_names(dict(enumerate(names, start=1)))
        model = Model(make_card(2, labels=labels), TwoBoxes().eval())
        record = segment(grainy(array, grid), model).record
        assert any("SIDES_SWAPPED" in words for words in record.warnings) is is_told


# ---------------------------------------------------------------------- a first look


def blob_scan(
    geometry: Geometry | None = None, centre_mm: tuple[float, float, float] = (7, -12, 30)
) -> Volume:
    geometry = geometry or oblique_grid((48, 44, 40), (1.0, 1.2, 1.5))
    distance = ((world_of_voxels(geometry) - np.array(centre_mm)) ** 2).sum(axis=-1)
    return Volume(np.exp(-distance / (2 * 8.0**2)).astype(np.float32), geometry)


@pytest.mark.parametrize("codes", ["RAS", "LSP"])
def test_preview_comes_once_before_the_result_and_covers_the_scan(codes: str) -> None:
    window = SlidingWindow((12, 12, 12), 0.5, "gaussian")
    model = threshold_model(orientation="RAS", spacing_mm=(1.0, 1.0, 1.0), window=window)
    scan = blob_scan(oblique_grid().reorient(codes))
    seen: list[LabelVolume] = []
    stages: list[str] = []

    def follow(progress: Progress) -> None:
        stages.append(progress.stage)

    result = segment(scan, model, preview=seen.append, progress=follow)
    (look,) = seen
    assert stages.index("preview") < stages.index("segment")
    assert "preview" not in stages[stages.index("segment") :]
    assert look.labels == result.labels.labels
    assert set(look.present_ids()) <= set(model.card.labels.ids)
    assert look.geometry.voxels < scan.geometry.voxels / 2
    corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    outer = scan.geometry.to_world(corners * np.array(scan.geometry.shape) - 0.5)
    index = look.geometry.to_index(outer)
    assert (index.min(axis=0) <= 0).all()
    assert (index.max(axis=0) >= np.array(look.geometry.shape) - 1).all()
    place = [np.argwhere(one.array > 0).mean(axis=0) for one in (look, result.labels)]
    there = look.geometry.to_world(place[0]) - result.labels.geometry.to_world(place[1])
    assert np.abs(there).max() < max(look.geometry.spacing_mm)
    assert np.array_equal(result.labels.array, segment(scan, model).labels.array)
    assert "preview" in result.record.seconds


def test_preview_of_several_channels_and_a_sheared_scan() -> None:
    sheared = oblique_grid((20, 18, 16)).affine.copy()
    sheared[:3, 2] += 0.3 * sheared[:3, 1]
    seen: list[LabelVolume] = []
    segment(channels(Geometry((20, 18, 16), sheared)), four_channel_model(), preview=seen.append)
    assert seen[0].geometry.is_orthogonal


def test_preview_grid_takes_few_windows_or_the_coarsest() -> None:
    card = make_card(spacing_mm=(1.0, 1.0, 1.0), window=SlidingWindow((96, 96, 96)))
    for size in (60, 180, 300, 500):
        grid = preview_grid(Geometry.from_spacing((size,) * 3), card)
        windows = place_windows(grid.shape, card.window.size, 0.0).count
        assert windows <= MOST_WINDOWS or grid.spacing_mm == pytest.approx((4.0,) * 3)
    assert preview_grid(Geometry.from_spacing((60,) * 3), card).spacing_mm == (1.0, 1.0, 1.0)


def test_a_preview_can_stop_the_run() -> None:
    token = CancelToken()
    with pytest.raises(CancelledError):
        segment(blob_scan(), threshold_model(), preview=lambda _: token.cancel(), cancel=token)


# ---------------------------------------------------------------------- a rough model first

SMALL = SlidingWindow((8, 8, 8), 0.5, "gaussian")


def rough_and_fine(**fine: Any) -> tuple[Model, Model]:
    rough = threshold_model(orientation="RAS", spacing_mm=(4.0, 4.0, 4.0), window=SMALL)
    return rough, threshold_model(window=SMALL, **fine)


@pytest.mark.parametrize("codes", ["RAS", "PIR"])
def test_the_crop_gives_what_the_whole_gives_with_fewer_windows(codes: str) -> None:
    scan = blob_scan(oblique_grid((60, 56, 50), (1.0, 1.2, 1.5)).reorient(codes))
    rough, fine = rough_and_fine(orientation="RAS")
    settings = InferenceSettings(rough_margin_mm=6.0)
    found = predict_in_region((scan,), (rough, fine), settings)
    whole = segment(scan, fine)
    assert np.array_equal(found.prediction.labels.array, whole.labels.array)
    assert found.prediction.labels.geometry is scan.geometry
    assert found.plan.source.voxels < scan.geometry.voxels / 3
    assert found.notes[0].startswith("[ROUGH_CROP]")
    assert len(found.notes) == 1


def test_the_crop_widens_until_nothing_is_cut_off() -> None:
    """The fine model sees a long rod of which the rough one knows the middle only."""
    grid = Geometry.from_spacing((120, 30, 30))
    array = np.zeros(grid.shape, dtype=np.float32)
    array[5:115, 12:18, 12:18] = 1
    middle = array.copy()
    middle[:50] = middle[70:] = 0
    rod, marks = grainy(array, grid), grainy(array + middle, grid)

    class Middle(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.cat((image * 0, image - 1.5), dim=1)

    rough = Model(make_card(1, window=SMALL), Middle().eval())
    _, fine = rough_and_fine()
    settings = InferenceSettings(rough_margin_mm=4.0)
    found = predict_in_region((marks,), (rough, fine), settings)
    assert np.array_equal(found.prediction.labels.array == 1, array > 0)
    assert any(note.startswith("[ROUGH_CROP_WIDENED]") for note in found.notes)
    assert found.plan.source.shape[1] < 30  # nothing touched these faces
    nothing = predict_in_region((rod,), (rough, fine), settings)
    assert np.array_equal(nothing.prediction.labels.array == 1, array > 0)
    assert nothing.notes[0].startswith("[ROUGH_FOUND_NOTHING]")
    with pytest.raises(VolumeError):
        predict_in_region((rod,), (rough, fine), InferenceSettings(rough_classes=("liver",)))


def test_faces_are_touched_where_a_wanted_voxel_lies() -> None:
    array = np.zeros((3, 4, 5), dtype=np.uint8)
    assert not touched_faces(array, ()).any()
    array[0, 1, 4] = 2
    assert touched_faces(array, ()).tolist() == [[True, False, False], [False, False, True]]
    assert not touched_faces(array, (1,)).any()


def test_a_named_rough_model_and_its_record(shelf: Path) -> None:
    scan = blob_scan()
    settings = InferenceSettings(device="cpu", rough_model="tiny", rough_margin_mm=5.0)
    record = segment(scan, random_model(make_card(window=SMALL)), settings).record
    assert any(words.startswith("[ROUGH_") for words in record.warnings)
    assert record.settings["InferenceSettings"]["rough_model"] == "tiny"
    with pytest.raises(MedsegError):
        InferenceSettings(rough_model="tiny", roi_mm=(0, 1, 0, 1, 0, 1))


# ---------------------------------------------------------------------- objects of several classes


def test_each_class_may_be_separated_in_its_own_way() -> None:
    grid = Geometry.from_spacing((40, 20, 20))
    scan = np.zeros(grid.shape, dtype=np.float32)
    for x in (8.0, 18.0, 30.0):
        scan[mask_of(Sphere((x, 10.0, 10.0), 3.0), grid)] = 1.0
    volume, model = grainy(scan, grid), threshold_model()
    plain = segment(volume, model, separate=["one"])
    merged = segment(volume, model, separate={"one": SeparationSettings(merge_gap_mm=5.0)})
    assert plain.instances is not None
    assert merged.instances is not None
    assert len(plain.instances.present_ids()) == 3
    assert len(merged.instances.present_ids()) == 2
    assert merged.record.settings["SeparationSettings"]["merge_gap_mm"] == 5.0
