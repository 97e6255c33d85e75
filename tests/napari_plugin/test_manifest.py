"""What napari learns of the plugin: a clean manifest, readers that find their files, choices that stay."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

import zarr
from napari.layers import Image, Labels
from npe2 import PluginManifest
from npe2.manifest.contributions import MenuCommand

from medseg import Geometry, Label, LabelSet, LabelVolume, Volume, write_labels, write_volume
from medseg.cache import cache_folder
from napari_plugin.export import ExportPanel
from napari_plugin.layers import labels_of, volume_of
from napari_plugin.preferences import preference, remember
from napari_plugin.readers import get_reader, read_layers
from napari_plugin.segment import SegmentPanel

MakeViewer = Callable[..., Any]
MANIFEST = Path(import_module("napari_plugin").__file__ or "").with_name("napari.yaml")


def manifest() -> PluginManifest:
    found: PluginManifest = PluginManifest.from_file(MANIFEST)
    return found


def test_every_command_of_the_manifest_is_there() -> None:
    one = manifest()
    one.validate_imports()
    commands = {command.id for command in one.contributions.commands or ()}
    shown = {widget.command for widget in one.contributions.widgets or ()}
    items = (item for menu in one.contributions.menus.values() for item in menu)
    named = {item.command for item in items if isinstance(item, MenuCommand)}
    assert shown | named <= commands
    assert {"medseg.study", "medseg.segment", "medseg.objects", "medseg.export", "medseg.planes"} <= named


@pytest.fixture
def plugin(plugin_settings: Any, npe2pm: Any) -> None:
    """The plugin as napari finds it, with preferences of its own in an empty folder."""
    npe2pm.register(manifest())


def test_preferences_have_defaults_and_stay(plugin: None) -> None:
    from napari.settings import _clear_plugin_settings_cache

    assert preference("compute", "device") == "auto"
    remember("compute", "device", "cpu")
    _clear_plugin_settings_cache()  # as after a restart: what counts is on disk
    assert preference("compute", "device") == "cpu"


def test_panels_take_up_where_they_were_left(
    plugin: None, make_napari_viewer: MakeViewer, tmp_path: Path
) -> None:
    from napari.settings import _clear_plugin_settings_cache

    viewer = make_napari_viewer()
    panel = SegmentPanel(viewer)
    assert panel.models.currentText() == "brain-mri"
    panel.compute.fill({"device": "cpu", "threads": 1})
    remember("last", "model", "nuclei")
    remember("files", "export", "stl html")
    _clear_plugin_settings_cache()
    again = SegmentPanel(viewer)
    assert again.models.currentText() == "nuclei"
    assert again.compute.values() == {"device": "cpu", "threads": 1}
    assert [kind for kind, check in ExportPanel(viewer).kinds.items() if check.isChecked()] == ["stl", "html"]


def test_without_the_plugin_registered_defaults_count(plugin_settings: Any) -> None:
    remember("compute", "threads", 3)
    assert preference("compute", "threads", 7) == 7
    assert cache_folder().name == "medseg"


def made(path: Path) -> Any:
    reader = get_reader(str(path))
    assert reader is not None
    (data, words, kind), *more = reader(str(path))
    assert not more
    return {"image": Image, "labels": Labels}[kind](data, **words)


GEOMETRY = Geometry.from_spacing((6, 5, 4), (0.5, 0.5, 2.0))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "a.tif"])
def test_files_open_as_layers_with_their_voxel_size(tmp_path: Path, name: str) -> None:
    volume = Volume(np.random.default_rng(0).random(GEOMETRY.shape, np.float32), GEOMETRY)
    write_volume(volume, tmp_path / name)
    layer = made(tmp_path / name)
    assert layer.scale == pytest.approx((2.0, 0.5, 0.5))
    assert np.array_equal(volume_of(layer).array, volume.array)
    array = np.zeros(GEOMETRY.shape, np.uint8)
    array[2:4, 1:4, 1:3] = 3
    names = LabelSet((Label(3, "liver", (1, 2, 3)),))
    write_labels(LabelVolume(array, GEOMETRY, names), tmp_path / f"labels_{name}")
    layer = made(tmp_path / f"labels_{name}")
    assert isinstance(layer, Labels)
    assert np.array_equal(labels_of(layer).array, array)
    assert labels_of(layer).labels.names == {3: "liver"}


def ome(folder: Path, array: Any, **more: Any) -> None:
    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    steps = [{"type": "scale", "scale": [2.0, 0.5, 0.25]}, {"type": "translation", "translation": [8, 4, 2]}]
    images: Any = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": images, **more}
    group.create_array("0", data=array)


def test_an_ome_zarr_image_opens_with_its_voxel_size(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 60000, (4, 5, 6), dtype=np.uint16)
    ome(tmp_path / "cells.zarr", array)
    layer = made(tmp_path / "cells.zarr")
    assert isinstance(layer, Image)
    assert layer.scale == pytest.approx((0.002, 0.0005, 0.00025))
    volume = volume_of(layer)
    assert np.array_equal(volume.array, array.T)
    assert volume.geometry.to_world((0, 0, 0)) == pytest.approx((0.002, 0.004, 0.008))


def test_a_label_image_of_thousands_opens_as_labels(tmp_path: Path) -> None:
    array = np.arange(4 * 30 * 30, dtype=np.uint32).reshape(4, 30, 30)
    ome(tmp_path / "nuclei.zarr", array, **{"image-label": {"version": "0.5"}})
    layer = made(tmp_path / "nuclei.zarr")
    assert isinstance(layer, Labels)
    assert np.array_equal(labels_of(layer).array, array.T)


def test_a_folder_of_junk_and_nothing_at_all(tmp_path: Path) -> None:
    assert get_reader(str(tmp_path / "missing.nii")) is None
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "readme.txt").write_text("no scan")
    with pytest.raises(OSError, match="expected"):
        read_layers(str(tmp_path / "junk"))
