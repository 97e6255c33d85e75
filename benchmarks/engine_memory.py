"""Peak memory, planned and measured, and what it depends on.

`body`: a whole body, 512 x 512 x 600 voxels of 0.9 x 0.9 x 1.5 mm, 117 classes at 1.5 mm, a network of
almost no arithmetic with a 1x1x1 head; then half the slices, then a third of the classes. What grows with
the slices are scan, prepared image and labels, a few bytes per voxel; slab and network do not.
`--network plain`: the first of these with nnU-Net's PlainConvUNet in windows of 128^3 (half an
hour; `--slices 200` shows the same).
`parts`: the same body and 117 classes in five parts without a common head, within 8 GB.
`flat`: 25 classes, 256 x 256 x 192 voxels and twice as many, beside MONAI with the same network, whose
scores of the whole volume double.

Run: `python benchmarks/engine_memory.py` (`--scale 2` halves every side for a quick look).
"""

from __future__ import annotations

import argparse
from typing import Any

from engine_speed import run

BODY = {"source_mm": [0.9, 0.9, 1.5], "grid_mm": [1.5, 1.5, 1.5], "dtype": "int16", "overlap": 0.25}


def job_of(shape: tuple[int, int, int], classes: int, choice: argparse.Namespace) -> dict[str, Any]:
    """One run."""
    return {
        "side": "medseg",
        "network": choice.network,
        "classes": classes,
        "shape": [n // choice.scale for n in shape],
        "window": (96 if choice.network == "tiny" else 128) // choice.scale,
        "threads": choice.threads,
        "warm": False,
        "settings": {"backend": choice.backend} if choice.backend else {},
    }


def tell(name: str, job: dict[str, Any], found: dict[str, Any]) -> None:
    """One row."""
    size = "x".join(map(str, job["shape"]))
    planned = (
        f"{found['planned'] / 1e9:10.2f}{found['planned'] / found['peak']:8.2f}" if "planned" in found else ""
    )
    above = (found["peak"] - found["base"]) / 1e9
    print(
        f"{name:6}{job['side']:8}{size:>14}{job['classes']:>8}{found['wall']:9.1f}{found['peak'] / 1e9:9.2f}"
        f"{above:13.2f}{planned}",
        flush=True,
    )


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", choices=("body", "parts", "flat"), action="append")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--slices", type=int, default=600, help="of the body")
    parser.add_argument("--network", choices=("tiny", "plain"), default="tiny")
    choice = parser.parse_args()
    print(
        f"{'case':6}{'side':8}{'voxels':>14}{'classes':>8}{'wall s':>9}{'peak GB':>9}{'peak - base':>13}"
        f"{'planned':>10}{'ratio':>8}"
    )
    if "body" in (choice.case or ["body"]):
        cases = ((choice.slices, 117), (choice.slices // 2, 117), (choice.slices, 39))
        for slices, classes in cases if choice.network == "tiny" else cases[:1]:
            job = job_of((512, 512, slices), classes, choice) | BODY
            tell("body", job, run(job))
    if "parts" in (choice.case or ["parts"]):
        job = job_of((512, 512, 600), 117, choice) | BODY | {"parts": True, "window": 128 // choice.scale}
        job["settings"] = job["settings"] | {"max_memory_gb": 8}
        tell("parts", job, run(job))
    if choice.network == "tiny" and "flat" in (choice.case or ["flat"]):
        for slices in (192, 384):
            for side in ("medseg", "monai"):
                job = job_of((256, 256, slices), 25, choice) | {"side": side}
                tell("flat", job, run(job))


if __name__ == "__main__":
    main()
