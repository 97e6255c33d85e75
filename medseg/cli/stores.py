"""Zarr stores on the command line: what is one, and the objects of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli.screen import print_json, progress_bar, say

if TYPE_CHECKING:
    from medseg.inference.settings import InferenceSettings
    from medseg.instances.store import StoreSummary


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr group or array."""
    return any((path / name).is_file() for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray"))


def segment_to_store(
    image: Path, model: str, output: Path, settings: InferenceSettings, *, json: bool
) -> None:
    """From an image store and a model of objects to a store of objects."""
    from medseg.instances.decode import Watch
    from medseg.instances.ome_zarr import open_store
    from medseg.models.loading import load_model
    from medseg.object_store import segment_store

    loaded = load_model(model, device=settings.device)
    with progress_bar() as report:
        done = segment_store(open_store(image), output, loaded, settings, watch=Watch(report))
    tell_objects(done, json=json)


def tell_objects(done: StoreSummary, *, json: bool) -> None:
    """How many objects a store holds, and where it is."""
    if json:
        print_json(
            {
                "output": str(done.path),
                "objects": len(done.voxels),
                "volume_mm3": done.volume_mm3,
                "centroid_zyx_mm": done.centroid_mm,
                "box_start_zyx": done.box_start,
                "box_stop_zyx": done.box_stop,
            }
        )
    else:
        say(f"{len(done.voxels)} objects; written: {done.path}")
