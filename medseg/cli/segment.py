"""`medseg segment`: a scan in, a folder of labels, measures and record out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from medseg.cli.options import Json, takes_settings
from medseg.cli.screen import print_json, print_table, progress_bar, say, volume_words
from medseg.cli.source import SourceFlags, channel_paths, read_source
from medseg.cli.stores import is_store, segment_to_store
from medseg.errors import WriteError
from medseg.export.settings import ExportSettings
from medseg.inference.settings import InferenceSettings

if TYPE_CHECKING:
    from medseg.result import Result


MICROSCOPIC_ML = 0.0005
"""Less would be told as 0.000 ml."""


@dataclass(frozen=True)
class SegmentFlags(SourceFlags):
    """What a person says of the run beside model and settings.

    Attributes:
        separate: names of classes whose objects are told apart.
        trust_code: whether Python that a model brings along may run.
    """

    separate: tuple[str, ...] = field(
        default=(), metadata={"help": "class whose objects are told apart and counted; repeatable"}
    )
    trust_code: bool = field(
        default=False,
        metadata={
            "help": "let Python that the model brings along run, with all your rights; only for a model "
            "whose author you trust"
        },
    )


@takes_settings(flags=SegmentFlags, settings=InferenceSettings, export=ExportSettings)
def segment(
    inputs: tuple[Path, ...],
    /,
    *,
    model: Annotated[str, Parameter(alias="-m")],
    output: Annotated[Path, Parameter(alias="-o")],
    flags: SegmentFlags,
    settings: InferenceSettings,
    export: ExportSettings,
    json: Json = False,
) -> None:
    """Segment a scan and write `labels.nii.gz`, `regions.csv` and `run.json` into a folder.

    With a model of objects, such as nuclei, `instances.nii.gz` comes too; a folder with Zarr metadata is
    then worked on block by block, and the output is an OME-Zarr label image.

    Args:
        inputs: a scan; for a model of several images as many, in its order or as NAME=PATH.
        model: a name from `medseg models list`, or the folder of a model.
        output: folder to write into; made if missing.
        flags: which series, which classes.
        settings: how the model runs.
        export: what is written.
        json: print one JSON object on standard output.
    """
    import medseg.pipeline
    from medseg.export.write import require_source, write_result
    from medseg.models.loading import load_model
    from medseg.models.registry import find_model, read_card

    require_writable(output)
    if len(inputs) == 1 and is_store(inputs[0]):
        segment_to_store(inputs[0], model, output, settings, json=json)
        return
    # What is wrong with the model or the number of images is told first.
    card = read_card(find_model(model), trust_code=flags.trust_code)
    paths = channel_paths(inputs, card)
    volumes = tuple(read_source(path, flags) for path in paths)
    require_source(export, volumes[0])
    loaded = load_model(model, device=settings.device, trust_code=flags.trust_code)
    if card.channel_names:
        say(f"images are taken as: {', '.join(card.channel_names)}")
    with progress_bar() as report:
        result = medseg.pipeline.segment(volumes, loaded, settings, separate=flags.separate, progress=report)
    folder = write_result(result, output, export)
    if json:
        print_json(summary(result, folder))
    else:
        print_structures(result)
        say(f"written: {folder}")


def require_writable(folder: Path) -> None:
    """Return if a folder can be made and written into, before hours are spent.

    Raises:
        WriteError: it cannot.
    """
    there = folder.absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if "\0" in str(folder) or not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise WriteError(
            "NOT_WRITABLE", "expected a folder to write into, got one that refuses; choose another with -o"
        )


def print_structures(result: Result) -> None:
    """The table of names and millilitres."""
    classes = [region for region in result.regions if region.kind == "class"]
    if any(region.volume_ml >= MICROSCOPIC_ML for region in classes) or not classes:
        rows = [[region.name, f"{region.volume_ml:.3f}"] for region in classes]
        print_table("Structures", ["name", "ml"], rows, numbers=(1,))
    else:
        rows = [[region.name, volume_words(region.volume_mm3)] for region in classes]
        print_table("Structures", ["name", "volume"], rows, numbers=(1,))
    objects = [r for r in result.regions if r.kind == "object"]
    for name in sorted({r.name for r in objects}):
        print(f"{name}: {sum(r.name == name for r in objects)} objects")
    for warning in result.record.warnings:
        say(f"note: {warning}")


def summary(result: Result, folder: Path) -> dict[str, object]:
    """What `--json` prints."""
    from medseg.result import plain_data

    return {
        "output": str(folder),
        "regions": plain_data(result.regions),
        "record": result.record.as_data(),
    }
