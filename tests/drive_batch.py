"""A batch driver to be killed: `python drive_batch.py INPUTS OUTPUT SECONDS [SCHEDULER]`."""

from __future__ import annotations

import sys
from pathlib import Path

from poison_tasks import PoisonTask

from medseg.batch.cases import BatchPlan, Found, Source, plan_batch
from medseg.batch.pseudonyms import folder_key
from medseg.batch.run import run_batch
from medseg.batch.settings import BatchSettings


def planned(inputs: Path, output: Path) -> BatchPlan:
    """One case per text file, in the order of a fixed key."""
    output.mkdir(parents=True, exist_ok=True)
    found = [
        Found((Source(path, files=(path,)),), (path.name,), path.stem)
        for path in sorted(inputs.glob("*.txt"))
    ]
    return plan_batch(found, folder_key(output))


def main() -> None:
    inputs, output, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    settings = BatchSettings(workers=2, timeout_s=60.0, memory_gb=0.5)
    run_batch(planned(inputs, output), PoisonTask(seconds=seconds), output, settings, scheduler=sys.argv[4])


if __name__ == "__main__":
    main()
