"""The whole trip: from a file to a result, and where things are afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from phantoms import oblique_grid, world_of_voxels
from small_models import threshold_model
from strategies import ORIENTATIONS
from tiny_bundle import write_tiny_bundle

from medseg.errors import CancelledError, ModelNotFoundError, ReadError, VolumeError
from medseg.geometry import Geometry
from medseg.inference.settings import InferenceSettings
from medseg.io.formats import read_labels, write_labels, write_volume
from medseg.io.notices import ReadNotice
from medseg.models import registry
from medseg.models.card import SlidingWindow
from medseg.models.loading import load_model
from medseg.pipeline import segment
from medseg.progress import CancelToken, Progress
from medseg.volume import Volume

POINT_MM = np.array([4.3, -7.9, 11.2])
BLOBS_MM = (POINT_MM, POINT_MM + np.array([0.0, 18.0, 0.0]))


def grid_around_point(spacing_mm: tuple[float, float, float] = (1.5, 2.0, 2.7)) -> Geometry:
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = POINT_MM - np.array([19.0, 20.0, 21.0])
    i, j, k = (int(np.ceil(42 / s)) for s in spacing_mm)
    return Geometry((i, j, k), affine)


def blobs(geometry: Geometry, count: int = 1) -> Volume:
    """Gaussians of 4 mm, 1 at their centres."""
    world = world_of_voxels(geometry)
    distances = [((world - centre) ** 2).sum(axis=-1) for centre in BLOBS_MM[:count]]
    array = sum(np.exp(-d / (2 * 4.0**2)) for d in distances)
    return Volume(np.asarray(array, dtype=np.float32), geometry)


def grids() -> list[Geometry]:
    straight = [grid_around_point().reorient(codes) for codes in ORIENTATIONS]
    x, y, z = POINT_MM + np.array([2.0, -1.0, 1.5])
    oblique = [oblique_grid((40, 32, 14), (1.1, 1.4, 3.5), (x, y, z), d) for d in (12.0, 45.0, 130.0)]
    return straight + oblique


@pytest.mark.parametrize("geometry", grids(), ids=lambda g: g.axis_codes)
@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.0), (1.0, 2.5, 3.0)])
def test_point_survives_read_reorient_respace_segment_write(
    tmp_path: Path, geometry: Geometry, spacing_mm: tuple[float, float, float]
) -> None:
    model = threshold_model(
        orientation="RAS", spacing_mm=spacing_mm, window=SlidingWindow((20, 16, 16), 0.5, "gaussian")
    )
    file = write_volume(blobs(geometry), tmp_path / "scan.nii.gz")
    result = segment(file, model)
    labels = read_labels(write_labels(result.labels, tmp_path / "labels.nii.gz"))
    assert labels.geometry.is_close(geometry, 1e-3)
    found = np.argwhere(labels.array == 1)
    assert np.abs(found.mean(axis=0) - geometry.to_index(POINT_MM)).max() < 0.5
    assert labels.labels.names == {1: "one"}


def test_result_of_a_named_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_bundle(tmp_path / "models" / "tiny")
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "models"))
    volume = blobs(grid_around_point(), 2)
    reports: list[Progress] = []
    settings = InferenceSettings(device="cpu", overlap_fraction=0.25)
    result = segment(volume, "tiny", settings, progress=reports.append)
    assert result.labels.geometry is volume.geometry
    assert result.image is volume
    assert result.instances is None
    assert {r.id for r in result.regions} == set(result.labels.present_ids())
    assert sum(r.voxels for r in result.regions) == (result.labels.array > 0).sum()
    assert reports[-1].done == reports[-1].total
    record = result.record
    assert (record.model, record.model_version, record.device) == ("tiny", "0.0.1", "cpu")
    assert len(record.input_sha256) == len(record.model_sha256) == 64
    assert list(record.seconds) == ["read", "load", "segment", "measure"]
    assert record.settings["InferenceSettings"]["overlap_fraction"] == 0.25
    assert record.settings["InferencePlan"]["windows"] == reports[-1].total
    assert record.versions["torch"]
    again = segment(volume, load_model("tiny", device="cpu"), settings)
    assert again.record.model_sha256 == record.model_sha256
    assert again.record.input_sha256 == record.input_sha256
    assert again.labels.array.tobytes() == result.labels.array.tobytes()


def test_what_a_reader_assumed_is_on_the_record(tmp_path: Path) -> None:
    volume = blobs(grid_around_point())
    holed = volume.array.copy()
    holed[0, 0, 0] = np.nan
    path = tmp_path / "holed.nii.gz"
    write_volume(Volume(holed, volume.geometry), path)
    with pytest.warns(ReadNotice, match="NOT_FINITE"):
        result = segment(path, threshold_model())
    assert any(words.startswith("[NOT_FINITE]") for words in result.record.warnings)
    clean = segment(write_volume(volume, tmp_path / "clean.nii.gz"), threshold_model())
    assert not any("NOT_FINITE" in words for words in clean.record.warnings)


def test_weights_are_part_of_the_models_hash(tmp_path: Path) -> None:
    volume = blobs(grid_around_point())
    hashes = {
        segment(volume, write_tiny_bundle(tmp_path / str(seed) / "tiny", seed=seed)).record.model_sha256
        for seed in (1, 2)
    }
    assert len(hashes) == 2


def test_objects_of_a_class_are_told_apart() -> None:
    result = segment(blobs(grid_around_point(), 2), threshold_model(), separate=["one"])
    assert result.instances is not None
    assert len(result.instances.present_ids()) == 2
    objects = [r for r in result.regions if r.kind == "object"]
    found = sorted(r.centroid_mm[1] for r in objects)
    assert found == pytest.approx(sorted(b[1] for b in BLOBS_MM), abs=1.0)
    assert "separate" in result.record.seconds
    assert "SeparationSettings" in result.record.settings


def test_bad_requests_are_refused_before_the_work(tmp_path: Path) -> None:
    volume = blobs(grid_around_point())
    with pytest.raises(VolumeError) as unknown:
        segment(volume, threshold_model(), separate=["liver"])
    assert unknown.value.code == "UNKNOWN_LABEL"
    with pytest.raises(ModelNotFoundError):
        segment(volume, "no such model")
    with pytest.raises(ReadError):
        segment(tmp_path / "missing.nii.gz", threshold_model())


def test_cancel_stops_the_trip() -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        segment(blobs(grid_around_point()), threshold_model(), cancel=token)
