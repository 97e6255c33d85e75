"""What a crop to the body saves in a wide field of view, and what it changes.

A scan is padded with air until it fills a quarter of each slice, then segmented with and without
`crop_to_body`; windows are counted, and every class of the two results is compared (Dice).

Run: `python benchmarks/engine_body_crop.py SCAN` (`--model brain-mri`; `--plan-only` counts windows only;
without a scan, a body of 256 x 256 x 200 voxels in 512 x 512 x 200 is planned for windows of 96^3).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from engine_child import model_of, phantom

import medseg
from medseg.inference.predict import plan_case


def widened(volume: medseg.Volume) -> medseg.Volume:
    """Twice as wide along the first two axes, filled with the darkest value and the scan's own noise."""
    before = [n // 2 for n in volume.array.shape[:2]] + [0]
    after = [n - n // 2 for n in volume.array.shape[:2]] + [0]
    return volume.pad(before, after, float(np.min(volume.array)))


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scan", nargs="?", type=Path)
    parser.add_argument("--model", default="brain-mri")
    parser.add_argument("--plan-only", action="store_true")
    choice = parser.parse_args()
    if choice.scan is None:
        array = phantom([256, 256, 200])
        volume = medseg.Volume(array, medseg.Geometry.from_spacing(array.shape))
        model = model_of({"classes": 3, "window": 96, "network": "tiny"})
    else:
        volume, model = medseg.read(choice.scan), medseg.load_model(choice.model)
    wide = widened(volume)
    settings = medseg.InferenceSettings(backend="torch")
    cropped = replace(settings, crop_to_body=True)
    counts = [plan_case([wide], model, one).windows.count for one in (settings, cropped)]
    print(f"windows: {counts[0]} whole, {counts[1]} in the body's box ({counts[0] / counts[1]:.2f}x fewer)")
    if choice.plan_only or choice.scan is None:
        return
    whole, part = (medseg.predict(wide, model, one).array for one in (settings, cropped))
    for label in model.card.labels:
        a, b = whole == label.id, part == label.id
        if a.any() or b.any():
            print(f"{label.name:40}{2 * (a & b).sum() / (a.sum() + b.sum()):8.4f}")


if __name__ == "__main__":
    main()
