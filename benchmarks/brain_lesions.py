"""`brain-lesions` on real heads: one glioma against its mask, and heads without any lesion.

    python benchmarks/brain_lesions.py --data ../shared/data [--model FOLDER] [--picture FILE.png]

Prints Dice, instances and their scores for the glioma; for the others the volume of every false lesion.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import medseg

GLIOMA = ("brain_mr/brain1_image.nrrd", "brain_mr/brain1_label.nrrd")
HEALTHY = ("brain_mr/chris_t1.nii.gz", "brain_mr/chris_PD.nii.gz", "brain_mr/ch2.nii.gz")
SAMPLE = Path(__file__).resolve().parents[1] / "sample_volumes" / "colin27_t1.nii.gz"
LARGEST_FALSE_ML = 0.5


def objects(result: medseg.Result) -> list[medseg.Region]:
    return [region for region in result.regions if region.kind == "object"]


def told(found: list[medseg.Region]) -> str:
    return ", ".join(f"{r.volume_ml:.2f} ml (score {r.score:.2f})" for r in found) or "none"


def glioma(model: medseg.Model, data: Path) -> medseg.Result:
    image, truth = medseg.read(data / GLIOMA[0]), medseg.read_labels(data / GLIOMA[1])
    began = time.perf_counter()
    result = medseg.segment(image, model)
    seconds = time.perf_counter() - began
    instances = result.instances
    if instances is None:
        raise SystemExit("expected a model that detects objects, got another")
    true, found = truth.array > 0, instances.array > 0
    sizes = int(np.count_nonzero(true)) + int(np.count_nonzero(found))
    dice = 2 * int(np.count_nonzero(true & found)) / max(1, sizes)
    hits = [r.id for r in objects(result) if (instances.array[true] == r.id).any()]
    false = [r for r in objects(result) if r.id not in hits]
    print(f"glioma: Dice {dice:.3f} (goal 0.60), {seconds:.0f} s")
    print(f"  true lesion: {truth.geometry.voxel_volume_mm3 * np.count_nonzero(true) / 1000:.2f} ml")
    print(f"  instances on it (goal 1 or 2): {told([r for r in objects(result) if r.id in hits])}")
    print(f"  elsewhere: {told(false)}")
    boxes = medseg.evaluate_instances(instances, truth).boxes
    print(f"  boxes at IoU {boxes.iou_threshold:g}: AP {boxes.average_precision:.3f}, FROC {boxes.cpm:.3f}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="brain-lesions")
    parser.add_argument("--picture", type=Path, help="folder for pictures of the glioma")
    arguments = parser.parse_args()
    model = medseg.load_model(arguments.model)
    result = glioma(model, arguments.data)
    if arguments.picture:
        result.save(arguments.picture, export=("nifti", "png"))
    for path in (*(arguments.data / name for name in HEALTHY), SAMPLE):
        found = objects(medseg.segment(path, model))
        most = max((r.volume_ml for r in found), default=0.0)
        verdict = "fine" if most <= LARGEST_FALSE_ML else f"above the goal of {LARGEST_FALSE_ML} ml"
        print(f"{path.name.split('.')[0]}: {told(found)}: {verdict}")


if __name__ == "__main__":
    main()
