"""The main job on the sample head, as a user starts it: seconds and memory of the whole command.

    python benchmarks/segment_sample.py

Goal on two cores: under 90 s and under 3 GB resident.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "sample_volumes" / "colin27_t1.nii.gz"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "medseg.cli.main", "segment", str(SAMPLE)]
        command += ["--model", "brain-mri", "-o", str(Path(folder) / "out")]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak_gb = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    cpu = usage.ru_utime + usage.ru_stime
    print(f"{seconds:.1f} s ({cpu:.1f} s of processor time), {peak_gb:.2f} GB resident at most")


if __name__ == "__main__":
    main()
