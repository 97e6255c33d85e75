"""`medseg train`: from images and labels to a model, or from a model to one that knows more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from medseg.cli.options import Json, takes_settings
from medseg.cli.screen import print_json, print_table, progress_bar, say
from medseg.cli.segment import require_writable
from medseg.errors import CancelledError, SettingsError
from medseg.training.settings import RECIPES, FineTuneSettings, TrainingSettings


@dataclass(frozen=True)
class TrainFlags(TrainingSettings):
    """Choices of both ways to train; 0 steps and a rate of 0 leave the choice to the way that is gone."""

    synthetic_windows: int = field(
        default=FineTuneSettings.synthetic_windows,
        metadata={**FineTuneSettings.__dataclass_fields__["synthetic_windows"].metadata},
    )

    @property
    def training(self) -> TrainingSettings:
        """Of a training from images and labels alone."""
        return TrainingSettings(**{item.name: getattr(self, item.name) for item in fields(TrainingSettings)})

    @property
    def fine_tuning(self) -> FineTuneSettings:
        """Of a training that starts from a model."""
        given = {item.name: getattr(self, item.name) for item in fields(FineTuneSettings)}
        return FineTuneSettings(**{name: value for name, value in given.items() if value or name in _ZEROS})

    @property
    def idle(self) -> tuple[str, ...]:
        """Flags that were given, and that tuning a model of objects does not know."""
        known = {item.name for item in fields(FineTuneSettings)} | {"skip_faulty", "labels"}
        own = [item for item in fields(TrainingSettings) if item.name not in known]
        return tuple(
            f"--{item.name.replace('_', '-')}" for item in own if getattr(self, item.name) != item.default
        )


_ZEROS = ("synthetic_windows", "seed", "threads")
"""Fields of `FineTuneSettings` in which 0 is a choice."""


@takes_settings(flags=TrainFlags)
def train(
    dataset: Path | None = None,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    start: Annotated[str, Parameter(name="--from", negative=())] = "",
    recipe: Literal["", *RECIPES] = "",  # type: ignore[valid-type]  # one list, for people and for mypy
    flags: TrainFlags,
    json: Json = False,
) -> None:
    """Train a model on images and labels; it is ready for `medseg segment --model`.

    The dataset is a folder with `images/NAME.nii.gz` and `labels/NAME.nii.gz` (any readable format, folders
    of DICOM slices with SEG or RTSTRUCT too), or in nnU-Net's layout, or a MONAI datalist, or a CSV. It is
    checked first; plan and pace fit this machine and `--minutes`. Stopped, the same command goes on where
    it was. With `--recipe` a bundled model is made again, from the folder of SynthSeg's label maps, or from
    nothing (nuclei); of the other flags only `--threads` counts then.

    Args:
        dataset: folder, datalist or table.
        output: model folder to make.
        start: a model to start from, by name or folder: it keeps its classes and learns those of the dataset;
            a model of objects, such as nuclei, learns how yours look; a new one if not given.
        recipe: the bundled model to make again.
        flags: how it learns.
        json: print one JSON object on standard output.

    Raises:
        SettingsError: `DATASET_NEEDED`; `BAD_SETTING`, a recipe and a model to start from.
    """
    require_writable(output.parent)
    with _kept(output):
        _train(dataset, output, (start, recipe), flags, json=json)


def _train(
    dataset: Path | None, output: Path, made_from: tuple[str, str], flags: TrainFlags, *, json: bool
) -> None:
    start, recipe = made_from
    if recipe and start:
        raise SettingsError(
            "BAD_SETTING", "expected --recipe or --from, got both; a recipe has its own start"
        )
    if recipe:
        _repeat(recipe, dataset, output, flags.threads, json=json)
    elif dataset is None:
        raise SettingsError("DATASET_NEEDED", "expected a dataset, got none; name its folder")
    elif start and _knows_objects(start):
        _go_on(dataset, start, output, flags, json=json)
    else:
        _learn(dataset, output, flags.training, start or None, json=json)


@contextmanager
def _kept(output: Path) -> Iterator[None]:
    """Say on Ctrl-C what is kept, and how to go on.

    Raises:
        CancelledError: in place of a `KeyboardInterrupt` that came when work had begun.
    """
    from medseg.training.workplace import partial_of

    try:
        yield
    except KeyboardInterrupt as error:
        partial = partial_of(output)
        if not partial.is_dir():
            raise
        raise CancelledError(
            message=f"stopped on request; what was done is kept in {partial.name}: the same command goes on "
            "from its last checkpoint"
        ) from error


def _repeat(recipe: str, maps: Path | None, output: Path, threads: int, *, json: bool) -> None:
    from medseg.training.bundled_recipes import make_bundled

    done = make_bundled(recipe, maps, output, say, threads)
    if json:
        print_json({"output": str(done)})
    else:
        say(f"written: {done}; use it with --model {done}")


def _knows_objects(start: str) -> bool:
    """Whether a model tells objects apart that may touch, and so is tuned to the user's."""
    from medseg.models.loading import load_model

    return load_model(start, device="cpu").card.separation is not None


def _learn(dataset: Path, output: Path, settings: TrainingSettings, start: str | None, *, json: bool) -> None:
    from medseg.training.train_model import train as train_model

    with progress_bar() as report:
        done = train_model(dataset, output, settings, report, tell=say, start=start)
    if json:
        print_json(
            {
                "output": str(done.folder),
                "cases": done.cases,
                "held_out": done.held_out,
                "scores": done.scores,
                "faults": done.faults,
                "steps": done.steps,
            }
        )
        return
    if done.scores:
        rows = [[name, f"{score:.3f}"] for name, score in done.scores.items()]
        figure = "F1" if "F1" in done.scores else "Dice"
        print_table(f"Held-out cases: {done.held_out}", ["class", figure], rows, numbers=(1,))
    else:
        say("note: no case was held out, so nobody knows how well the model works")
    say(f"written: {done.folder}; use it with --model {done.folder}")


def _go_on(dataset: Path, start: str, output: Path, flags: TrainFlags, *, json: bool) -> None:
    from medseg.models.loading import load_model
    from medseg.training.annotated import read_pairs
    from medseg.training.dataset import list_dataset
    from medseg.training.dataset_check import check_dataset, require_sound
    from medseg.training.fine_tune import fine_tune
    from medseg.training.start import require_images
    from medseg.training.workplace import require_new

    require_new(output)
    if flags.idle:
        say(f"note: a model of objects is tuned; {', '.join(flags.idle)} do not count then")
    model = load_model(start, device="cpu")
    with progress_bar() as report:
        checked = check_dataset(list_dataset(dataset), "objects", report)
        checked = require_sound(checked, say, skip_faulty=flags.skip_faulty)
        require_images(model.card, len(checked.cases[0].images))
        done = fine_tune(model, read_pairs(checked), output, flags.fine_tuning, report)
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
