"""`medseg separate`: one class of a label map as objects, in memory or from store to store."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from medseg.cli.options import Json, takes_settings
from medseg.cli.screen import print_json, print_table, progress_bar, say, volume_words
from medseg.cli.segment import require_writable
from medseg.cli.stores import is_store, tell_objects
from medseg.errors import SettingsError
from medseg.export.settings import ExportSettings
from medseg.instances.settings import PRESETS, SeparationSettings, separation_preset

if TYPE_CHECKING:
    from medseg.progress import ProgressCallback
    from medseg.result import Result

ROWS_SHOWN = 20


@dataclass(frozen=True)
class SeparationFlags(SeparationSettings):
    """Settings of separation, or the name of a preset."""

    preset: str = field(
        default="none",
        metadata={"help": "settings by name, instead of single ones", "choices": ("none", *PRESETS)},
    )
    spacing_mm: tuple[float, float, float] | None = field(
        default=None,
        metadata={"help": "size of a voxel along z, y, x of a Zarr store that does not tell", "unit": "mm"},
    )
    channel: int = field(
        default=0, metadata={"help": "channel of a Zarr store of several", "min": 0, "max": 65535}
    )

    def chosen(self) -> SeparationSettings:
        """The settings that the flags ask for.

        Raises:
            SettingsError: a preset, and flags that it would overrule.
        """
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(SeparationSettings)}
        settings = SeparationSettings(**own)
        if self.preset == "none":
            return settings
        if settings != SeparationSettings():
            raise SettingsError(
                "PRESET_AND_FLAGS", "expected a preset or single settings, got both; leave one out"
            )
        return separation_preset(self.preset)


@takes_settings(flags=SeparationFlags, export=ExportSettings)
def separate(
    labels: Path,
    /,
    *,
    class_name: Annotated[tuple[str, ...], Parameter(name=["--class", "-c"], negative=())],
    output: Annotated[Path, Parameter(alias="-o")],
    image: Path | None = None,
    flags: SeparationFlags,
    export: ExportSettings,
    json: Json = False,
) -> None:
    """Tell the objects of a class apart: count, number and measure them.

    A folder with Zarr metadata is worked on block by block, whatever its size: the class is then its id,
    and the output is an OME-Zarr label image. Stopped, the same command goes on where it was.

    Args:
        labels: the label map.
        class_name: name or id of a class; repeatable.
        output: folder to write into; made if missing. For a Zarr store: the store to make.
        image: intensities on the same grid; needed for the height intensity.
        flags: how objects are told apart.
        export: files to write.
        json: print one JSON object on standard output.

    Raises:
        SettingsError: flags of a Zarr store with a file.
    """
    if is_store(labels):
        _separate_store(labels, class_name, output, image, flags, json=json)
        return
    if flags.spacing_mm is not None or flags.channel:
        raise SettingsError(
            "NOT_A_STORE", "expected a Zarr store with --spacing-mm or --channel, got a file; leave them out"
        )
    from medseg.export.write import write_result

    settings = flags.chosen()
    require_writable(output)
    with progress_bar() as report:
        result = _separated(labels, class_name, image, settings, report)
    folder = write_result(result, output, export)
    if json:
        from medseg.cli.segment import summary

        print_json(summary(result, folder))
        return
    objects = [region for region in result.regions if region.kind == "object"]
    rows = [[str(r.id), r.name, str(r.voxels), volume_words(r.volume_mm3)] for r in objects[:ROWS_SHOWN]]
    print_table(f"{len(objects)} objects", ["id", "class", "voxels", "volume"], rows, numbers=(0, 2, 3))
    if len(objects) > ROWS_SHOWN:
        say(f"{len(objects) - ROWS_SHOWN} more in regions.csv")
    say(f"written: {folder}")


def _separated(
    path: Path,
    class_names: tuple[str, ...],
    image_path: Path | None,
    settings: SeparationSettings,
    report: ProgressCallback,
) -> Result:
    """Read, separate, measure."""
    from medseg.instances.separate import separate as separate_classes
    from medseg.io.formats import read_labels, read_volume
    from medseg.measure.regions import measure_regions
    from medseg.result import (
        Result,
        RunRecord,
        hash_volume,
        peak_memory_bytes,
        settings_data,
        software_versions,
    )

    label_map = read_labels(path)
    image = None if image_path is None else read_volume(image_path)
    began = time.perf_counter()
    objects = separate_classes(label_map, class_names, settings=settings, image=image, progress=report)
    spent = time.perf_counter() - began
    record = RunRecord(
        input_name="label map",  # a file name may hold a patient's
        input_sha256=hash_volume(label_map),
        settings=settings_data(settings),
        versions=software_versions(),
        seconds={"separate": round(spent, 3)},
        peak_memory_bytes=peak_memory_bytes(),
    )
    regions = measure_regions(label_map, image) + measure_regions(objects, image)
    return Result(label_map, objects, regions, record, image)


def _separate_store(
    path: Path,
    class_names: tuple[str, ...],
    output: Path,
    image: Path | None,
    flags: SeparationFlags,
    *,
    json: bool,
) -> None:
    """From one Zarr store into another.

    Raises:
        SettingsError: the class is not one id.
    """
    from medseg.instances.decode import Watch
    from medseg.instances.ome_zarr import open_store
    from medseg.instances.store import separate_store

    if len(class_names) != 1 or not class_names[0].isdecimal():
        raise SettingsError(
            "BAD_CLASSES", "expected the id of one class of a Zarr store, got something else; give a number"
        )
    require_writable(output.parent)
    with progress_bar() as report:
        done = separate_store(
            open_store(path, spacing_mm=flags.spacing_mm, channel=flags.channel),
            output,
            int(class_names[0]),
            settings=flags.chosen(),
            image=None if image is None else open_store(image, spacing_mm=flags.spacing_mm),
            watch=Watch(report),
        )
    tell_objects(done, json=json)
