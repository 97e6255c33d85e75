"""`brain-mri` on synthetic images of unseen heads: mean Dice per structure.

    python benchmarks/brain_mri_validation.py --maps ../shared/data/brain_label_maps --images 10

Label maps 17-20 were kept out of training. Every image has a random contrast (one Gaussian per
tissue, `contrast_width=1`), drawn with seeds of its own, in two columns: mild blur, bias field and
noise (`spoil=0.3`), and those of a hard training image (`spoil=1`: slices up to 8 mm, strong bias
and noise, a quarter skull-stripped in both).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import medseg
from medseg.training.brain_labels import BRAIN_STRUCTURES
from medseg.training.brain_mri import read_heads
from medseg.training.head_synthesis import SynthesisSettings
from medseg.training.loop import validation_dice

SEED = 2026


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=Path, default=Path("../shared/data/brain_label_maps"))
    parser.add_argument("--images", type=int, default=10, help="images of each of the four maps")
    parser.add_argument("--model", default="brain-mri")
    arguments = parser.parse_args()
    network = medseg.load_model(arguments.model).network
    heads = read_heads(arguments.maps, training=(), validation=range(17, 21))
    columns = []
    for spoil in (0.3, 1.0):
        settings = SynthesisSettings(spoil=spoil)
        dice = validation_dice(network, heads, settings, per_map=arguments.images, seed=SEED)
        columns.append(np.nanmean(dice, axis=0))
    print(f"{'Dice, random contrast':32s}  mild   hard   ({4 * arguments.images} images each)")
    for (_, name), *row in zip(BRAIN_STRUCTURES, *columns, strict=True):
        print(f"{name:32s} {row[0]:.3f}  {row[1]:.3f}")
    print(f"{'mean over structures':32s} {columns[0].mean():.3f}  {columns[1].mean():.3f}")


if __name__ == "__main__":
    main()
