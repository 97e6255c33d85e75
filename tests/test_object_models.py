"""The bundled model `nuclei` as a user meets it: objects in memory, on disk, of stated or estimated size."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import medseg
from medseg.errors import GeometryError, ReadError, SettingsError, VolumeError, WriteError
from medseg.geometry import Geometry
from medseg.instances.ome_zarr import open_store
from medseg.models.loading import Model, load_model
from medseg.object_store import segment_store
from medseg.objects import recipe_of, segment_objects, sized_model
from medseg.training.nuclei_synthesis import NucleiSettings, synthesise_nuclei
from medseg.volume import InstanceVolume, Volume

SCENE = NucleiSettings(
    shape=(60, 56, 52), diameter=(12, 12), size_spread=(0.1, 0.1), fill=(0.5, 0.5), spacing=(0.8, 0.8),
    blur=(0.6, 0.8), anisotropy=(1, 1), snr=(8, 8), haze=(0, 0.1), streaks=0.0, background=(0.1, 0.2),
    brightness_spread=(0.2, 0.2),
)  # fmt: skip
KNOWN = medseg.InferenceSettings(object_diameter_mm=0.012, threads=1)


@cache
def nuclei() -> Model:
    return load_model("nuclei", device="cpu")


@cache
def scene() -> tuple[Volume, np.ndarray]:
    """Dense nuclei of 12 um on a grid of 1 um, and the truth."""
    image, labels = synthesise_nuclei(np.random.default_rng(11), SCENE)
    return Volume(image, Geometry.from_spacing(image.shape, (0.001, 0.001, 0.001))), labels


def f1(truth: np.ndarray, found: np.ndarray) -> float:
    """Twice the objects that share more than half of their union, over all objects of both."""
    hits = 0
    for number in np.unique(truth[truth > 0]):
        mask = truth == number
        others, counts = np.unique(found[mask], return_counts=True)
        for other, count in zip(others, counts, strict=True):
            if other and count > 0.5 * (mask | (found == other)).sum():
                hits += 1
    return 2 * hits / (len(np.unique(truth[truth > 0])) + len(np.unique(found[found > 0])))


def test_touching_nuclei_are_told_apart() -> None:
    volume, truth = scene()
    result = medseg.segment(volume, nuclei(), KNOWN)
    assert isinstance(result.instances, InstanceVolume)
    assert len(np.unique(truth)) > 60
    assert f1(truth, result.instances.array) >= 0.85
    assert np.array_equal(result.labels.array > 0, result.instances.array > 0)
    assert result.labels.array.max() == 1
    objects = [region for region in result.regions if region.kind == "object"]
    assert len(objects) == len(result.instances.classes)
    assert all(0.5 <= score <= 1 for score in result.instances.scores.values())
    sizes = np.bincount(result.instances.array.ravel())[1:]
    assert (np.diff(sizes) <= 0).all()


def test_only_the_size_in_voxels_matters() -> None:
    """The same array in another unit, with the diameter in that unit, has the same objects."""
    volume, _ = scene()
    grid = Geometry.from_spacing(volume.geometry.shape, (0.5, 0.5, 0.5))
    wide = replace(KNOWN, object_diameter_mm=6.0)
    small, large = (
        segment_objects(volume, nuclei(), KNOWN),
        segment_objects(replace(volume, geometry=grid), nuclei(), wide),
    )
    assert np.array_equal(small.array, large.array)


def test_the_size_is_estimated_where_nobody_says_it() -> None:
    volume, truth = scene()
    result = medseg.segment(volume, nuclei(), medseg.InferenceSettings(threads=1))
    spacing_mm = result.record.settings["InferencePlan"]["grid_spacing_mm"][0]
    assert 12 * spacing_mm == pytest.approx(0.012, rel=0.25)
    assert any("estimate" in words for words in result.record.warnings)
    assert result.instances is not None
    assert f1(truth, result.instances.array) >= 0.8


def test_nuclei_in_a_corner_are_enough_for_an_estimate() -> None:
    volume, _ = scene()
    array = np.full((140, 140, 140), np.float32(0.1))
    array[4:64, 80:136, 84:136] = volume.array
    wide = Volume(array, Geometry.from_spacing(array.shape, (0.001, 0.001, 0.001)))
    sized, notes = sized_model(nuclei(), wide, medseg.InferenceSettings(threads=1))
    assert sized.card.separation is not None
    assert sized.card.separation.diameter_mm == pytest.approx(0.012, rel=0.25)
    assert len(notes) == 1


def test_an_image_without_objects_has_no_size_to_estimate() -> None:
    slope = np.linspace(0, 1, 40, dtype=np.float32)[:, None, None] * np.ones((40, 40, 40), dtype=np.float32)
    volume = Volume(slope, Geometry.from_spacing(slope.shape, (0.001, 0.001, 0.001)))
    with pytest.raises(VolumeError, match="object-diameter-mm"):
        medseg.segment(volume, nuclei(), medseg.InferenceSettings(threads=1))


def test_a_region_has_the_objects_in_it() -> None:
    volume, truth = scene()
    part = replace(KNOWN, roi_voxels=(8, 56, 0, 56, 4, 52))
    found = segment_objects(volume, nuclei(), part).array
    assert found[:8].max() == found[56:].max() == found[:, :, :4].max() == 0
    assert f1(truth[8:56, :, 4:], found[8:56, :, 4:]) >= 0.75


def test_what_makes_no_sense_is_refused() -> None:
    volume, _ = scene()
    shear = np.diag([0.001, 0.001, 0.001, 1.0])
    shear[0, 2] = 0.0005
    with pytest.raises(GeometryError, match="right angles"):
        segment_objects(replace(volume, geometry=Geometry(volume.geometry.shape, shear)), nuclei(), KNOWN)
    with pytest.raises(SettingsError, match="rough model"):
        medseg.segment(volume, nuclei(), replace(KNOWN, rough_model="nuclei"))
    other = replace(nuclei(), card=replace(nuclei().card, separation=None))
    with pytest.raises(VolumeError, match="learned objects"):
        recipe_of(other)


# ----------------------------------------------------------------------------- on disk


def write_store(path: Path, array: np.ndarray) -> Path:
    zarr = pytest.importorskip("zarr", reason="the extra `zarr` is not installed")
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    scale = {"type": "scale", "scale": [1.0, 1.0, 1.0]}
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}],
    }
    group.create_array("0", shape=array.shape, chunks=(16, 16, 16), dtype=array.dtype)[...] = array
    return path


def test_a_store_has_the_objects_of_the_volume_whatever_its_blocks(tmp_path: Path) -> None:
    volume, _ = scene()
    store = open_store(write_store(tmp_path / "image.zarr", volume.array))
    whole = segment_objects(volume, nuclei(), KNOWN)
    outputs = []
    for name, block in (("a", (16, 16, 16)), ("b", (256, 256, 256)), ("c", (31, 47, 53))):
        done = segment_store(store, tmp_path / name, nuclei(), KNOWN, block=block)
        assert not (tmp_path / f"{name}.partial").exists()
        outputs.append(open_store(tmp_path / name).array[:, :, :])
        assert len(done.voxels) == len(whole.classes)
    assert np.array_equal(outputs[0], outputs[1])
    assert np.array_equal(outputs[0], outputs[2])
    assert (outputs[0] == whole.array).mean() > 0.999  # the network's grid is cut at another rounding
    with pytest.raises(WriteError, match="new folder"):
        segment_store(store, tmp_path / "a", nuclei(), KNOWN)


def test_a_store_that_was_stopped_goes_on_but_not_with_other_settings(tmp_path: Path) -> None:
    from medseg.instances.decode import Watch

    volume, _ = scene()
    store = open_store(write_store(tmp_path / "image.zarr", volume.array))
    cancel = medseg.CancelToken()

    def stop(progress: medseg.Progress) -> None:
        if progress.stage == "find basins" and progress.done == 3:
            cancel.cancel()

    block = (16, 16, 16)
    with pytest.raises(medseg.CancelledError):
        segment_store(store, tmp_path / "out", nuclei(), KNOWN, block=block, watch=Watch(stop, cancel))
    with pytest.raises(ReadError, match="other settings"):
        segment_store(store, tmp_path / "out", nuclei(), replace(KNOWN, object_diameter_mm=0.02), block=block)
    resumed: list[str] = []
    watch = Watch(lambda progress: resumed.append(progress.stage))
    segment_store(store, tmp_path / "out", nuclei(), KNOWN, block=block, watch=watch)
    assert "segment" not in resumed
    segment_store(store, tmp_path / "fresh", nuclei(), KNOWN, block=block)
    assert np.array_equal(
        open_store(tmp_path / "out").array[:, :, :], open_store(tmp_path / "fresh").array[:, :, :]
    )
