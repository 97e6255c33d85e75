"""Make the bundled model `brain-lesions` again.

    python -m medseg.training.brain_lesions MAPS RUN_FOLDER

`MAPS` holds `training_seg_01.nii.gz` … `training_seg_20.nii.gz` and `generation_labels.npy` of
SynthSeg (Apache-2.0). Maps 01-16 are learned from, 17-20 checked on; the detector starts from the
bundled `brain-mri`. The run can be stopped and started again at any time; `RUN_FOLDER/bundle` is
written at the end.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from medseg.models.registry import BUNDLED_FOLDER
from medseg.models.weights import read_weights
from medseg.training.brain_mri import read_heads
from medseg.training.lesion_publish import write_lesion_bundle
from medseg.training.lesion_task import (
    LesionNetworks,
    LesionRecipe,
    LesionTask,
    as_lesion_networks,
    start_from,
)
from medseg.training.optimise import optimise

_log = logging.getLogger(__name__)


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
    recipe = LesionRecipe()
    heads = read_heads(arguments.maps, range(1, 17), range(17, 21))
    initial = LesionNetworks()
    start_from(initial, read_weights(BUNDLED_FOLDER / "brain-mri" / "models" / "model.pt"))
    networks = optimise(LesionTask(heads, recipe), recipe, arguments.folder, _log.info, initial)
    write_lesion_bundle(as_lesion_networks(networks), recipe, arguments.folder / "bundle")


if __name__ == "__main__":
    main()
