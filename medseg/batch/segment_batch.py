"""Many scans, one call: find, name, segment and write them, each guarded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from medseg.batch.cases import plan_batch
from medseg.batch.channels import as_cases
from medseg.batch.find import find_inputs
from medseg.batch.pseudonyms import folder_key
from medseg.batch.run import BatchReport, CaseEvent, ignore, run_batch
from medseg.batch.segmentation import segmentation_task
from medseg.batch.settings import BatchSettings
from medseg.errors import WriteError
from medseg.export.settings import ExportSettings
from medseg.inference.settings import InferenceSettings
from medseg.instances.settings import SeparationSettings
from medseg.io.dicom_volume import Irregular
from medseg.progress import CancelToken


@dataclass(frozen=True)
class BatchRecipe:
    """What is done to every case.

    Attributes:
        model: name of a model, or its folder.
        settings: how it runs.
        separate: names of classes whose objects are told apart.
        separation: how they are.
        export: what is written.
        irregular: what is done with DICOM slices that do not lie as a grid.
    """

    model: str | Path
    settings: InferenceSettings = field(default_factory=InferenceSettings)
    separate: tuple[str, ...] = ()
    separation: SeparationSettings = field(default_factory=SeparationSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    irregular: Irregular = "resample"


def segment_batch(
    inputs: Sequence[str | PathLike[str]],
    recipe: BatchRecipe,
    output: str | PathLike[str],
    settings: BatchSettings | None = None,
    *,
    scheduler: str = "",
    watch: Callable[[CaseEvent], None] = ignore,
    cancel: CancelToken | None = None,
) -> BatchReport:
    """Segment many scans; run it again to go on after a stop.

    A script that calls this must guard its own start with `if __name__ == "__main__":`, since
    workers import it.

    Args:
        inputs: folders, image files, DICOM studies, zips, and CSV tables with a column `image`.
        recipe: what is done to every case.
        output: folder of the results; made if missing.
        settings: workers and limits.
        scheduler: address of a Dask scheduler, such as `tcp://host:8786`; empty for this machine.
        watch: told of each case, from this thread.
        cancel: a way to stop. What is under way is dropped, what is done stays.

    Returns:
        State of every input. A case that fails is a row of it, not an error.

    Raises:
        ReadError: a path that cannot be looked into, or nothing to do.
        ModelNotFoundError: there is no such model.
        ModelError: it is damaged, or no worker can load it.
        WriteError: the output folder is locked, full or not writable.
        CancelledError: a stop was asked for.
    """
    settings = settings or BatchSettings()
    folder = Path(output)
    task = segmentation_task(
        recipe.model,
        recipe.settings,
        separate=recipe.separate,
        separation=recipe.separation,
        export=recipe.export,
        irregular=recipe.irregular,
        workers=1 if scheduler else settings.workers,
    )
    found = find_inputs(
        [Path(path) for path in inputs], leave_out=folder, irregular=recipe.irregular, cancel=cancel
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WriteError("NOT_WRITABLE", f"expected a writable output folder, got: {reason}") from error
    plan = plan_batch(
        as_cases(found, task.channels), folder_key(folder), plain_names=settings.names == "plain"
    )
    return run_batch(plan, task, folder, settings, scheduler=scheduler, watch=watch, cancel=cancel)
