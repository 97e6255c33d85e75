"""Time and memory of a DICOM label map of 100 segments on 300 slices of 512 x 512.

Run: `python benchmarks/dicom_labelmap.py [--kind binary]`. The figure to reach: under 4 s and 2 GB,
imports counted. It prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from dicom_makers import line, make_source

from medseg.labels import LabelSet
from medseg.volume import LabelVolume

SLICES, SIZE, SEGMENTS = 300, 512, 100


def balls() -> np.ndarray:
    """100 balls of 40 voxels across, each its own label; axes (column, row, slice)."""
    labels = np.zeros((SIZE, SIZE, SLICES), dtype=np.uint8, order="F")
    grid = np.mgrid[-20:20, -20:20, -20:20]
    ball = (grid**2).sum(axis=0) < 400
    rng = np.random.default_rng(0)
    for label in range(1, SEGMENTS + 1):
        start = [int(rng.integers(0, n - 40)) for n in labels.shape]
        part = labels[tuple(slice(s, s + 40) for s in start)]
        part[ball] = label
    return labels


def main() -> None:
    """Write one object in a new folder and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("labelmap", "binary"), default="labelmap")
    kind = parser.parse_args().kind
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(Path(folder) / "ct", line(SLICES, (0.0, 0.0, 1.0)), size=(SIZE, SIZE))
        array = balls()
        labels = LabelVolume(array, source.grid, LabelSet.unnamed(range(1, SEGMENTS + 1)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, worked = time.perf_counter(), time.process_time()
        from medseg.export.dicom_seg import write_dicom_seg

        path = write_dicom_seg(labels, source, Path(folder) / "seg.dcm", kind=kind)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report = {
            "kind": kind,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(time.process_time() - worked, 2),
            "peak_mb": peak // 1024,
            "peak_mb_before": before // 1024,
            "file_mb": round(path.stat().st_size / 1e6, 2),
            "present": int(len(np.unique(array)) - 1),
        }
        print(json.dumps(report))


if __name__ == "__main__":
    main()
