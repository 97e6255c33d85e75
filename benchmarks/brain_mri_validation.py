"""`brain-mri` on synthetic images of unseen heads: mean Dice per structure.

    python benchmarks/brain_mri_validation.py --maps ../shared/data/brain_label_maps --images 10

Label maps 17-20 were kept out of training. Images have random contrast, resolution, bias and
noise by the training generator at full width (`SynthesisSettings()`), with seeds of their own.
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
    dice = validation_dice(network, heads, SynthesisSettings(), per_map=arguments.images, seed=SEED)
    for (_, name), column in zip(BRAIN_STRUCTURES, dice.T, strict=True):
        print(f"{name:32s} {np.nanmean(column):.3f}")
    print(f"{'mean over structures':32s} {np.nanmean(np.nanmean(dice, axis=0)):.3f}  ({len(dice)} images)")


if __name__ == "__main__":
    main()
