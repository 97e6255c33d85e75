"""Make the bundled model `brain-mri` again.

    python -m medseg.training.brain_mri MAPS RUN_FOLDER

`MAPS` holds `training_seg_01.nii.gz` … `training_seg_20.nii.gz` and `generation_labels.npy` of
SynthSeg (Apache-2.0). Maps 01-16 are learned from, 17-20 checked on. The run can be stopped and
started again at any time; `RUN_FOLDER/bundle` is written at the end.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from medseg.training.brain_labels import HeadMap, head_labels, read_head_map
from medseg.training.growth import grow
from medseg.training.loop import HeadData, build_network, train
from medseg.training.optimise import blend
from medseg.training.publish import write_brain_bundle
from medseg.training.recipe import FULL_RESOLUTION, SCANNER_LIKE, STRIDED

_log = logging.getLogger(__name__)

LAST_STAGE_SHARE = 0.7
"""The published weights are this much of the last stage, the rest of the one before."""


def read_heads(maps: Path, training: Iterable[int], validation: Iterable[int]) -> HeadData:
    """Read label maps by number, with the tables of their labels.

    Args:
        maps: folder of SynthSeg's training label maps.
        training: numbers of the maps to learn from.
        validation: numbers of the maps to check on.
    """
    labels = head_labels(np.load(maps / "generation_labels.npy"))

    def read(numbers: Iterable[int]) -> list[HeadMap]:
        return [read_head_map(maps / f"training_seg_{n:02d}.nii.gz", labels) for n in numbers]

    return HeadData(labels, read(training), read(validation))


def main() -> None:
    """Train and write the bundle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("maps", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    heads = read_heads(arguments.maps, range(1, 17), range(17, 21))
    strided = train(heads, STRIDED, arguments.folder / "strided", _log.info)
    start = build_network(FULL_RESOLUTION)
    grow(strided, start)
    full = train(heads, FULL_RESOLUTION, arguments.folder / "full", _log.info, start)
    network = train(heads, SCANNER_LIKE, arguments.folder / "scanner_like", _log.info, full)
    blend(network, full, 1 - LAST_STAGE_SHARE)
    stages = (STRIDED, FULL_RESOLUTION, SCANNER_LIKE)
    write_brain_bundle(network, stages, arguments.folder / "bundle")


if __name__ == "__main__":
    main()
