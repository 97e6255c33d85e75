"""Seconds until the low-resolution label map of `medseg.segment(..., preview=...)`, and until the final one.

    python benchmarks/first_look.py [SCAN] [--model brain-mri]

The share of voxels in which the first look agrees with the final labels stands beside.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import medseg
from medseg.resample import resample_labels

SAMPLE = Path(__file__).resolve().parents[1] / "sample_volumes" / "colin27_t1.nii.gz"


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scan", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--model", default="brain-mri")
    choice = parser.parse_args()
    volume, model = medseg.read(choice.scan), medseg.load_model(choice.model)
    looks: list[tuple[float, medseg.LabelVolume]] = []
    began = time.perf_counter()
    result = medseg.segment(
        volume, model, preview=lambda labels: looks.append((time.perf_counter() - began, labels))
    )
    total = time.perf_counter() - began
    seconds, labels = looks[0]
    agreed = (resample_labels(labels, volume.geometry).array == result.labels.array).mean()
    print(f"first look after {seconds:.1f} s, final labels after {total:.1f} s; {agreed:.1%} of voxels agree")


if __name__ == "__main__":
    main()
