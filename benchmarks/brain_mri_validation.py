"""`brain-mri` on synthetic heads of random contrast that were not learned from: mean Dice per structure.

    python benchmarks/brain_mri_validation.py --maps ../shared/data/brain_label_maps --images 2

Label maps 17-20 were kept out of training and of the atlas. Every image is a whole head at 1 mm, turned by up
to 10 degrees and bent, with one random Gaussian per tissue (`contrast_width=1`), mild blur, bias and noise
(`spoil=0.3`), and goes through `medseg.segment` as a user's scan would. Columns: as it is, skull-stripped, in
slices of 5 mm (judged on the planes in their middle), under a strong bias field, and as it is without the
model's atlas, the network alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import medseg
from medseg.training.brain_labels import BRAIN_STRUCTURES, HeadLabels, HeadMap
from medseg.training.brain_mri import read_heads
from medseg.training.head_synthesis import (
    SynthesisSettings,
    paint,
    rescale_by_percentiles,
    sampling_points,
    smooth_field,
    spoil,
    strip_skull,
)

SEED = 2026
SHAPE = (176, 216, 192)
THICK = 5
STRONG_BIAS = 0.45
HEADS = SynthesisSettings(
    shape=SHAPE, spacing_mm=1.0, spoil=0.3, rotation_deg=10, scaling=0.08, shearing=0.02, shift_mm=5
)
COLUMNS = ("any contrast", "stripped", "5 mm slices", "strong bias")


def head_of(
    head: HeadMap, labels: HeadLabels, seed: tuple[int, ...], column: str
) -> tuple[medseg.Volume, npt.NDArray[np.int64]]:
    """An image and its true labels; the same head and contrast in every column."""
    rng = np.random.default_rng(seed)
    image, dense = paint(head, labels, rng, HEADS, sampling_points(head, rng, HEADS))
    if column == "stripped":
        image = strip_skull(image, dense, labels, rng)
    if column == "strong bias":
        image = image * torch.exp(STRONG_BIAS * smooth_field(rng, 1, 3, SHAPE)[0])
    array = rescale_by_percentiles(spoil(image, rng, HEADS)).numpy()
    ids = np.array([0, *(number for number, _ in BRAIN_STRUCTURES)])
    truth = ids[labels.channel[dense.numpy()]]
    affine = np.eye(4)
    if column == "5 mm slices":
        whole = SHAPE[2] // THICK * THICK
        array = array[:, :, :whole].reshape(*SHAPE[:2], -1, THICK).mean(3)
        truth, affine[2, 2] = truth[:, :, THICK // 2 : whole : THICK], THICK
    return medseg.Volume(np.ascontiguousarray(array), medseg.Geometry(array.shape, affine)), truth


def dice_of(found: npt.NDArray[np.integer], truth: npt.NDArray[np.int64]) -> list[float]:
    """Of every structure; NaN where the truth has none of it."""
    values = []
    for number, _ in BRAIN_STRUCTURES:
        one, other = found == number, truth == number
        size = int(other.sum())
        values.append(2 * int((one & other).sum()) / (int(one.sum()) + size) if size else np.nan)
    return values


def rows(arguments: argparse.Namespace, column: str, *, atlas: bool) -> Iterator[list[float]]:
    """Dice of every image of a column."""
    heads = read_heads(arguments.maps, training=(), validation=range(17, 21))
    model = medseg.load_model(arguments.model)
    settings = medseg.InferenceSettings(skip_atlas=not atlas)
    for number, head in enumerate(heads.validation):
        for repeat in range(arguments.images):
            volume, truth = head_of(head, heads.labels, (SEED, number, repeat), column)
            values = dice_of(medseg.segment(volume, model, settings).labels.array, truth)
            print(f"{column}, head {17 + number}: {np.nanmean(values):.3f}", flush=True)
            yield values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=Path, default=Path("../shared/data/brain_label_maps"))
    parser.add_argument("--images", type=int, default=2, help="images of each of the four heads")
    parser.add_argument("--model", default="brain-mri")
    arguments = parser.parse_args()
    tables = {column: list(rows(arguments, column, atlas=True)) for column in COLUMNS}
    tables["network alone"] = list(rows(arguments, COLUMNS[0], atlas=False))
    means = np.array([np.nanmean(np.array(table), axis=0) for table in tables.values()])
    print(f"\n{'mean Dice':32s}" + "".join(f"{name:>15s}" for name in tables))
    for (_, name), values in zip(BRAIN_STRUCTURES, means.T, strict=True):
        print(f"{name:32s}" + "".join(f"{value:15.3f}" for value in values))
    print(f"{'mean over structures':32s}" + "".join(f"{value:15.3f}" for value in means.mean(1)))


if __name__ == "__main__":
    main()
