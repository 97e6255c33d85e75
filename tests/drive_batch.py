"""A batch driver to be killed: `python drive_batch.py INPUTS OUTPUT SECONDS SCHEDULER`.

The scheduler is an address, empty for none, or `local` for a cluster of two processes on loopback.
"""

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


def drive(scheduler: str) -> None:
    """Run the batch that the arguments name."""
    inputs, output, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    settings = BatchSettings(workers=2, timeout_s=20.0, memory_gb=0.5)
    run_batch(planned(inputs, output), PoisonTask(seconds=seconds), output, settings, scheduler=scheduler)


def main() -> None:
    """Start a cluster first where one is wanted."""
    if sys.argv[4] != "local":
        drive(sys.argv[4])
        return
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        drive(cluster.scheduler_address)


if __name__ == "__main__":
    main()
