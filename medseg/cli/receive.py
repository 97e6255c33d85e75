"""`medseg receive`: a DICOM storage server whose studies are segmented as they become complete."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medseg.batch.receive import ReceiveSettings
from medseg.batch.settings import BatchSettings
from medseg.cli.options import Json, takes_settings
from medseg.cli.screen import print_json, say
from medseg.cli.segment import require_writable
from medseg.inference.settings import InferenceSettings


@dataclass(frozen=True)
class ReceiveFlags:
    """What a person says of receiving beside model and settings.

    Attributes:
        spool: folder for what was received.
        export: kinds of files.
        studies: stop after so many studies; 0 for no end.
    """

    spool: Path = field(metadata={"help": "folder for what was received; private, it holds patients"})
    export: tuple[str, ...] = field(
        default=("nifti", "dicom-seg"),
        metadata={"help": "kinds of files, separated by commas; nifti and dicom-seg if not given"},
    )
    studies: int = field(default=0, metadata={"help": "stop after so many studies; 0 for no end", "min": 0})


@takes_settings(
    flags=ReceiveFlags,
    receive_settings=ReceiveSettings,
    settings=InferenceSettings,
    batch_settings=BatchSettings,
)
def receive(
    *,
    model: Annotated[str, Parameter(alias="-m")],
    output: Annotated[Path, Parameter(alias="-o")],
    flags: ReceiveFlags,
    receive_settings: ReceiveSettings,
    settings: InferenceSettings,
    batch_settings: BatchSettings,
    json: Json = False,
) -> None:
    """Receive studies by C-STORE and segment each when nothing more comes; runs until Ctrl-C.

    Args:
        model: a name from `medseg models list`, or the folder of a model.
        output: one batch folder per study is made in it.
        flags: where received files lie, what is written, when to end.
        receive_settings: address, titles, quiet time.
        settings: how the model runs.
        batch_settings: workers and limits.
        json: print one JSON object on standard output at the end.
    """
    from medseg.batch.cases import plan_batch
    from medseg.batch.find import find_inputs
    from medseg.batch.pseudonyms import folder_key
    from medseg.batch.receive import StudyReceiver, feed
    from medseg.batch.run import run_batch
    from medseg.batch.segmentation import segmentation_task
    from medseg.errors import ReadError
    from medseg.export.settings import ExportSettings
    from medseg.progress import CancelToken

    require_writable(output)
    task = segmentation_task(
        model, settings, export=ExportSettings(kinds=flags.export), workers=batch_settings.workers
    )
    counts = {"done": 0, "failed": 0}

    def process(study: Path) -> bool:
        folder = output / study.name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            plan = plan_batch(find_inputs([study]), folder_key(folder))
        except ReadError as error:
            say(f"{study.name} failed [{error.code}]")
            counts["failed"] += 1
            return False
        report = run_batch(plan, task, folder, batch_settings)
        is_done = report.count("failed") == 0
        counts["done" if is_done else "failed"] += 1
        states = ", ".join(f"{report.count(state)} {state}" for state in ("done", "failed", "skipped"))
        say(f"{study.name}: {states}")
        return is_done

    with StudyReceiver(flags.spool, receive_settings) as receiver:
        say(f"listening at {receive_settings.host}:{receiver.port} as {receive_settings.ae_title}")
        feed(receiver, process, CancelToken(), studies=flags.studies)
    if json:
        print_json({"output": str(output), "studies": counts})
