"""Labels of medseg and of nnU-Net's own predictor on the same trained folders, voxel by voxel.

    benchmarks/make_nnunet.sh ENV
    python benchmarks/nnunet_agreement.py --nnunet ENV [--case NAME]... [--pin FILE]

Seeded models: plain, two folds, regions, anisotropic plans, a residual encoder with turned axes, two
images, mirroring, old plans. `lead` is the largest difference of the two best scores among voxels
whose labels differ. nnU-Net sums scores in half precision, which alone moves labels; the columns
`float32` hold against its own code with float32 in that place, `stock` against it as it is. `--pin`
writes the labels of `float32` as `tests/inference/test_same_as_nnunet.py`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import medseg

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from nnunet_cases import CASES  # noqa: E402  (needs the path above)


def prepare(name: str, folder: Path) -> None:
    """Write model and images of a case where the oracle looks for them."""
    case = CASES[name]
    place = folder / name
    place.mkdir(parents=True)
    model = case.write_model(folder.parent / "models" / name)
    (place / "model.txt").write_text(str(model))
    (place / "mirror.txt").write_text(str(int("mirror" in case.model)))
    for channel, volume in enumerate(case.volumes()):
        medseg.write_volume(volume, place / f"image_{channel:04}.nii.gz")


def answer(name: str, folder: Path) -> tuple[Any, float]:
    """Medseg's labels of a case, and the time of prediction."""
    case = CASES[name]
    model = medseg.load_model((folder / name / "model.txt").read_text(), device="cpu")
    settings = medseg.InferenceSettings(mirror="mirror" in case.model, sanity="off")
    files = sorted((folder / name).glob("image_*.nii.gz"))
    began = time.perf_counter()
    labels = medseg.segment([medseg.read(file) for file in files], model, settings).labels
    return labels.array, time.perf_counter() - began


def main() -> None:
    """Run both, print one row for each case, exit with 1 where they disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nnunet", type=Path, required=True, help="environment of make_nnunet.sh")
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="only this one")
    parser.add_argument("--folder", type=Path, help="work here and keep it; a temporary one if not given")
    parser.add_argument("--pin", type=Path, help="write nnU-Net's labels to this .npz")
    asked = parser.parse_args()
    names = asked.case or list(CASES)
    fine, pinned = True, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.folder or Path(temporary)) / "cases"
        for name in names:
            prepare(name, folder)
        oracle = [asked.nnunet / "bin" / "python", "-W", "ignore", ROOT / "benchmarks" / "nnunet_oracle.py"]
        subprocess.run([*oracle, folder], check=True, stdout=subprocess.DEVNULL)
        print(f"{'case':16}{'voxels':>8}{'float32 %':>11}{'lead':>10}{'stock %':>11}{'lead':>10}  labels")
        for name in names:
            labels, _ = answer(name, folder)
            row = [compared(labels, folder / name / f"{kind}.npz") for kind in ("float32", "stock")]
            present = " ".join(str(i) for i in np.unique(labels))
            cells = "".join(f"{100 * share:>11.4f}{lead:>10.1e}" for share, lead in row)
            print(f"{name:16}{labels.size:>8}{cells}  {present}")
            fine &= row[0][0] >= 0.9999 and row[0][1] < 1e-4
            pinned[name] = np.load(folder / name / "float32.npz")["labels"].astype(np.uint8)
    if asked.pin:
        np.savez_compressed(asked.pin, **pinned)
    sys.exit(0 if fine else 1)


def compared(labels: Any, file: Path) -> tuple[float, float]:
    """Share of equal voxels, and the largest lead where they differ."""
    oracle = np.load(file)
    differs = labels != oracle["labels"]
    return 1 - float(differs.mean()), float(oracle["lead"][differs].max(initial=0.0))


if __name__ == "__main__":
    main()
