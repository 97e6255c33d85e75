"""`medseg train`: a model of objects goes on learning from a user's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medseg.cli.options import Json, takes_settings
from medseg.cli.screen import print_json, progress_bar, say
from medseg.cli.segment import require_writable
from medseg.training.settings import FineTuneSettings


@takes_settings(settings=FineTuneSettings)
def train(
    dataset: Path,
    /,
    *,
    start: Annotated[str, Parameter(name="--from", negative=())],
    output: Annotated[Path, Parameter(alias="-o")],
    settings: FineTuneSettings,
    json: Json = False,
) -> None:
    """Fine-tune a model of objects, such as nuclei, on annotated images; writes a model to segment with.

    The dataset is a folder with `images/NAME.tif` and `labels/NAME.tif` (or another image format): every
    object of an image has its own number, 0 is background. One annotated crop is a beginning. Stopped,
    the same command goes on where it was.

    Args:
        dataset: folder with images and labels.
        start: the model to start from, by name or folder.
        output: model folder to make.
        settings: how it learns.
        json: print one JSON object on standard output.
    """
    from medseg.models.loading import load_model
    from medseg.models.registry import find_model
    from medseg.training.annotated import read_pairs
    from medseg.training.fine_tune import fine_tune

    require_writable(output.parent)
    find_model(start)  # a wrong name is told before anything is read
    pairs = read_pairs(dataset)
    model = load_model(start, device="cpu")
    with progress_bar() as report:
        done = fine_tune(model, pairs, output, settings, report)
    if json:
        print_json(
            {
                "output": str(done.folder),
                "images": done.images,
                "objects": done.objects,
                "diameter_mm": done.diameter_mm,
            }
        )
    else:
        say(f"{done.objects} objects of about {1000 * done.diameter_mm:.3g} um in {done.images} image(s)")
        say(f"written: {done.folder}; use it with --model {done.folder}")
