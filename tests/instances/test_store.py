"""From one store into another: the answer in memory, whatever happens on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import CancelledError, ReadError, SettingsError, VolumeError, WriteError
from medseg.geometry import Geometry
from medseg.instances.decode import Watch
from medseg.instances.ome_zarr import open_store
from medseg.instances.separate import separate
from medseg.instances.settings import SeparationSettings
from medseg.instances.store import separate_store
from medseg.labels import LabelSet
from medseg.progress import CancelToken, Progress
from medseg.volume import LabelVolume, Volume

zarr = pytest.importorskip("zarr", reason="the extra `zarr` is not installed")

SPACING_MM = (0.002, 0.001, 0.001)
SHAPE = (30, 50, 45)
NUCLEI = SeparationSettings(diameter_mm=0.012, numbering="position")
BLOCK = (16, 32, 24)


@cache
def mask_of_nuclei() -> np.ndarray:
    rng = np.random.default_rng(8)
    mask = np.zeros(SHAPE, np.uint8)
    grid = np.stack(np.meshgrid(*[np.arange(n) * w for n, w in zip(SHAPE, SPACING_MM, strict=True)],
                                indexing="ij"), axis=-1)  # fmt: skip
    for centre in rng.uniform(0, np.multiply(SHAPE, SPACING_MM), (60, 3)):
        mask[np.linalg.norm(grid - centre, axis=-1) < rng.uniform(0.004, 0.007)] = 3
    return mask


def write_store(path: Path, array: np.ndarray, version: str = "0.5", unit: str | None = "micrometer") -> Path:
    """An image of one resolution, with a channel axis in front."""
    names = ["c", "z", "y", "x"]
    axes: list[dict[str, Any]] = [
        {"name": n, "type": "channel" if n == "c" else "space"}
        | ({"unit": unit} if unit and n != "c" else {})
        for n in names
    ]
    multiscales = [
        {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [
            {"type": "scale", "scale": [1.0, *(w * 1000 for w in SPACING_MM)]}]}]}
    ]  # fmt: skip
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": multiscales}
    else:
        group.attrs["multiscales"] = multiscales
    stored = group.create_array("0", shape=(1, *array.shape), chunks=(1, 16, 16, 16), dtype=array.dtype)
    stored[0] = array
    return path


def in_memory(array: np.ndarray, settings: SeparationSettings, image: np.ndarray | None = None) -> np.ndarray:
    geometry = Geometry.from_spacing(array.shape, SPACING_MM)
    labels = LabelVolume(array, geometry, LabelSet.unnamed([3]))
    return separate(
        labels, 3, settings=settings, image=None if image is None else Volume(image, geometry)
    ).array


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_store_gives_what_memory_gives(tmp_path: Path, version: str) -> None:
    mask = mask_of_nuclei()
    store = open_store(write_store(tmp_path / "in.zarr", mask, version))
    assert store.spacing_mm == pytest.approx(SPACING_MM)
    seen: list[Progress] = []
    done = separate_store(
        store, tmp_path / "out.zarr", 3, settings=NUCLEI, block=BLOCK, watch=Watch(seen.append)
    )
    out = open_store(done.path)
    expected = in_memory(mask, NUCLEI)
    assert np.array_equal(out.array[:, :, :], expected)
    assert out.spacing_mm == pytest.approx(SPACING_MM)
    assert out.array.dtype == np.uint32
    assert done.voxels == tuple(np.bincount(expected.ravel())[1:])
    assert seen[-1].fraction == 1.0
    assert not list(tmp_path.glob("*.partial"))


def test_the_output_is_an_ome_zarr_0_5_label_image(tmp_path: Path) -> None:
    store = open_store(write_store(tmp_path / "in.zarr", mask_of_nuclei()))
    separate_store(store, tmp_path / "out.zarr", 3, settings=NUCLEI, block=BLOCK)
    metadata = json.loads((tmp_path / "out.zarr/zarr.json").read_text())["attributes"]["ome"]
    assert metadata["version"] == "0.5"
    assert "image-label" in metadata
    image = metadata["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == ["z", "y", "x"]
    assert image["datasets"][0]["coordinateTransformations"][0] == {"type": "scale", "scale": [2.0, 1.0, 1.0]}


def test_brightness_in_blocks(tmp_path: Path) -> None:
    mask = mask_of_nuclei()
    image = np.random.default_rng(1).poisson(20, SHAPE).astype(np.uint16)
    choice = SeparationSettings(height="intensity", diameter_mm=0.012)
    labels = open_store(write_store(tmp_path / "labels.zarr", mask))
    scan = open_store(write_store(tmp_path / "image.zarr", image))
    done = separate_store(labels, tmp_path / "out.zarr", 3, settings=choice, image=scan, block=BLOCK)
    assert np.array_equal(open_store(done.path).array[:, :, :], in_memory(mask, choice, image))


def test_satellites_in_blocks(tmp_path: Path) -> None:
    mask = np.where(np.random.default_rng(2).random(SHAPE) < 0.004, 3, 0).astype(np.uint8)
    choice = SeparationSettings(merge_gap_mm=0.004)
    done = separate_store(
        open_store(write_store(tmp_path / "in.zarr", mask)),
        tmp_path / "out.zarr",
        3,
        settings=choice,
        block=BLOCK,
    )
    assert np.array_equal(open_store(done.path).array[:, :, :], in_memory(mask, choice))


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    mask = mask_of_nuclei()
    source, target = write_store(tmp_path / "in.zarr", mask), tmp_path / "out.zarr"
    token = CancelToken()

    def stop_after_three(progress: Progress) -> None:
        if progress.done == 3:
            token.cancel()

    with pytest.raises(CancelledError):
        separate_store(
            open_store(source), target, 3, settings=NUCLEI, block=BLOCK, watch=Watch(stop_after_three, token)
        )
    assert not target.exists(), "whole or not at all"
    kept = {f: f.stat().st_mtime_ns for f in (tmp_path / "out.zarr.partial").glob("*.npy")}
    assert len(kept) == 3
    (tmp_path / "out.zarr.partial/block000003.npy").write_bytes(b"torn while it was written")
    before_end = Watch(lambda p: None if p.stage != "write objects" else _check(kept))
    separate_store(open_store(source), target, 3, settings=NUCLEI, block=BLOCK, watch=before_end)
    assert np.array_equal(open_store(target).array[:, :, :], in_memory(mask, NUCLEI))


def _check(kept: dict[Path, int]) -> None:
    assert all(file.stat().st_mtime_ns == then for file, then in kept.items()), (
        "done blocks are not done again"
    )


def _stopped(tmp_path: Path) -> Path:
    token = CancelToken()
    source = write_store(tmp_path / "in.zarr", mask_of_nuclei())

    def stop(progress: Progress) -> None:
        if progress.done == 3:
            token.cancel()

    with pytest.raises(CancelledError):
        separate_store(
            open_store(source),
            tmp_path / "out.zarr",
            3,
            settings=NUCLEI,
            block=BLOCK,
            watch=Watch(stop, token),
        )
    return source


def test_voxels_that_changed_between_runs_are_noticed(tmp_path: Path) -> None:
    source = _stopped(tmp_path)
    stored = zarr.open_group(str(source), mode="r+")["0"]
    stored[0, 5, 5, 5] = 3 - stored[0, 5, 5, 5]
    with pytest.raises(ReadError) as caught:
        separate_store(open_store(source), tmp_path / "out.zarr", 3, settings=NUCLEI, block=BLOCK)
    assert caught.value.code == "STORE_CHANGED"


def test_settings_that_changed_between_runs_are_noticed(tmp_path: Path) -> None:
    source = _stopped(tmp_path)
    other = SeparationSettings(diameter_mm=0.011)
    with pytest.raises(ReadError) as caught:
        separate_store(open_store(source), tmp_path / "out.zarr", 3, settings=other, block=BLOCK)
    assert caught.value.code == "STORE_CHANGED"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("left", [0, 9])
def test_a_chunk_that_is_cut_short_is_an_error(tmp_path: Path, version: str, left: int) -> None:
    source = write_store(tmp_path / "in.zarr", mask_of_nuclei(), version)
    chunk = max(
        (f for f in (source / "0").rglob("*") if f.is_file() and "z" not in f.name),
        key=lambda f: f.stat().st_size,
    )
    chunk.write_bytes(chunk.read_bytes()[:left])
    with pytest.raises(ReadError) as caught:
        separate_store(open_store(source), tmp_path / "out.zarr", 3, settings=NUCLEI, block=BLOCK)
    assert caught.value.code == "STORE_DAMAGED"
    assert not (tmp_path / "out.zarr").exists()


def test_refusals(tmp_path: Path) -> None:
    mask = mask_of_nuclei()
    source = open_store(write_store(tmp_path / "in.zarr", mask))
    with pytest.raises(SettingsError) as unbounded:
        separate_store(source, tmp_path / "a", 3, settings=SeparationSettings(split_h_mm=0.001), block=BLOCK)
    assert unbounded.value.code == "DIAMETER_NEEDED"
    with pytest.raises(VolumeError) as floats:
        separate_store(
            open_store(write_store(tmp_path / "f.zarr", mask.astype(np.float32))),
            tmp_path / "b",
            3,
            settings=NUCLEI,
        )
    assert floats.value.code == "NOT_LABELS"
    with pytest.raises(WriteError) as exists:
        separate_store(source, tmp_path / "in.zarr", 3, settings=NUCLEI)
    assert exists.value.code == "OUTPUT_EXISTS"
    wrong: list[tuple[str, Callable[[], object]]] = [
        ("NOT_A_STORE", lambda: open_store(tmp_path / "nothing")),
        ("NOT_A_STORE", lambda: open_store(tmp_path)),
        ("NO_SPACING", lambda: open_store(write_store(tmp_path / "u.zarr", mask, unit=None))),
        ("BAD_SPACING", lambda: open_store(tmp_path / "u.zarr", spacing_mm=(1, 0, 1))),
        ("NO_SUCH_CHANNEL", lambda: open_store(tmp_path / "in.zarr", channel=1)),
    ]
    for code, call in wrong:
        with pytest.raises(ReadError) as caught:
            call()
        assert caught.value.code == code


def test_a_plain_array_needs_its_voxel_size(tmp_path: Path) -> None:
    mask = mask_of_nuclei()
    stored = zarr.create_array(
        str(tmp_path / "plain.zarr"), shape=SHAPE, chunks=(16, 16, 16), dtype=mask.dtype
    )
    stored[...] = mask
    done = separate_store(
        open_store(tmp_path / "plain.zarr", spacing_mm=SPACING_MM), tmp_path / "out.zarr", 3, settings=NUCLEI
    )
    assert np.array_equal(open_store(done.path).array[:, :, :], in_memory(mask, NUCLEI))
    with pytest.raises(ReadError) as caught:
        open_store(tmp_path / "plain.zarr")
    assert caught.value.code == "NO_SPACING"
