"""`brain-mri` on real heads: brain mask against deepbet, deep structures against AAL, a picture.

    benchmarks/make_deepbet.sh ~/deepbet-env
    python benchmarks/brain_mri_real.py --data ../shared/data --deepbet ~/deepbet-env [--also HEAD.nii.gz]

Prints Dice for each head and structure; `--picture FILE.png` shows every head with its labels.
The brain mask is all structures united, closed by 6 mm and hole-filled.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

import medseg

AAL_TWINS = {
    "thalamus": ((10, 77), (49, 78)),
    "caudate": ((11, 71), (50, 72)),
    "putamen": ((12, 73), (51, 74)),
    "hippocampus": ((17, 37), (53, 38)),
}
"""Structure -> (our id, AAL region) of the left and the right one."""

DEEPBET = (
    "import sys; from deepbet import run_bet; run_bet([sys.argv[1]], mask_paths=[sys.argv[2]], no_gpu=True)"
)
CLOSING_MM = 6.0

Mask = npt.NDArray[np.bool_]


def dice(a: Mask, b: Mask) -> float:
    both, either = int(np.count_nonzero(a & b)), int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * both / max(1, either)


def brain_mask(labels: medseg.LabelVolume) -> Mask:
    """All structures united, closed by a ball in mm, holes filled."""
    from scipy import ndimage

    reach = [int(np.ceil(CLOSING_MM / s)) for s in labels.geometry.spacing_mm]
    padded = np.pad(labels.array > 0, [(r + 1, r + 1) for r in reach])
    spacing = labels.geometry.spacing_mm
    dilated = ndimage.distance_transform_edt(~padded, sampling=spacing) <= CLOSING_MM
    closed = ndimage.distance_transform_edt(dilated, sampling=spacing) > CLOSING_MM
    inner = tuple(slice(r + 1, -r - 1) for r in reach)
    return np.asarray(ndimage.binary_fill_holes(closed)[inner])


def deepbet_mask(head: Path, environment: Path) -> medseg.LabelVolume:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "mask.nii.gz"
        command = [str(environment / "bin" / "python"), "-c", DEEPBET, str(head.resolve()), str(out)]
        subprocess.run(command, check=True, capture_output=True)
        return medseg.read_labels(out)


def picture(image: medseg.Volume, labels: medseg.LabelVolume) -> npt.NDArray[np.uint8]:
    """Three sections through the middle of the labels, labels in colour, `(256, 768, 3)`."""
    image, labels = image.reorient("RAS"), labels.reorient("RAS")
    colours = np.random.default_rng(1).integers(40, 255, (int(labels.array.max()) + 1, 3))
    where = np.argwhere(labels.array > 0)
    middle = where.mean(0).astype(int) if len(where) else np.array(labels.array.shape) // 2
    grey = np.clip(image.array / np.percentile(image.array, 99.5), 0, 1) * 255
    row = np.zeros((256, 768, 3), np.uint8)
    for axis in range(3):
        section = np.repeat(grey.take(middle[axis], axis).T[::-1, :, None], 3, 2)
        index = labels.array.take(middle[axis], axis).T[::-1]
        shown = np.where(index[..., None] > 0, (section + colours[index]) / 2, section)[:256, :256]
        row[: shown.shape[0], 256 * axis : 256 * axis + shown.shape[1]] = shown
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--deepbet", type=Path, help="environment made by make_deepbet.sh")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="further T1 heads")
    parser.add_argument("--model", default="brain-mri")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    model = medseg.load_model(arguments.model)
    mr = arguments.data / "brain_mr"
    rows = []
    for head in [mr / "ch2.nii.gz", mr / "chris_t1.nii.gz", *arguments.also, mr / "chris_PD.nii.gz"]:
        image = medseg.read(head)
        labels = medseg.segment(image, model).labels
        rows.append(picture(image, labels))
        mask = brain_mask(labels)
        volume_ml = np.count_nonzero(mask) * labels.geometry.voxel_volume_mm3 / 1000
        line = f"{head.name:40s} brain {volume_ml:7.0f} ml"
        if arguments.deepbet and "PD" not in head.name:
            truth = deepbet_mask(head, arguments.deepbet).reorient(labels.geometry.axis_codes)
            line += f", Dice against deepbet {dice(mask, truth.array > 0):.3f}"
        print(line, flush=True)
        if head.name == "ch2.nii.gz":
            atlas = medseg.read_labels(mr / "aal.nii.gz").array
            for name, twins in AAL_TWINS.items():
                values = [dice(labels.array == ours, atlas == theirs) for ours, theirs in twins]
                print(f"    {name:12s} against AAL: left {values[0]:.3f}, right {values[1]:.3f}")
    if arguments.picture:
        from PIL import Image

        Image.fromarray(np.concatenate(rows)).save(arguments.picture)


if __name__ == "__main__":
    main()
