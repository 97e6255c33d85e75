"""How the bundled model `brain-lesions` is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medseg.models.registry import BUNDLED_FOLDER
from medseg.models.weights import read_weights
from medseg.training.brain_mri import HELD_OUT_MAPS, TRAINING_MAPS, read_heads
from medseg.training.lesion_publish import write_lesion_bundle
from medseg.training.lesion_task import (
    LesionNetworks,
    LesionRecipe,
    LesionTask,
    as_lesion_networks,
    start_from,
)
from medseg.training.optimise import optimise


def make_brain_lesions(maps: Path, run: Path, bundle: Path, report: Callable[[str], None]) -> None:
    """Train detector and masks together, and write the bundle; the detector starts from `brain-mri`.

    Args:
        maps: folder of SynthSeg's training label maps.
        run: folder for checkpoints; the same one goes on where it was.
        bundle: folder to write into.
        report: told one line per check.
    """
    recipe = LesionRecipe()
    heads = read_heads(maps, TRAINING_MAPS, HELD_OUT_MAPS)
    initial = LesionNetworks()
    start_from(initial, read_weights(BUNDLED_FOLDER / "brain-mri" / "models" / "model.pt"))
    networks = optimise(LesionTask(heads, recipe), recipe, run, report, initial)
    write_lesion_bundle(as_lesion_networks(networks), recipe, bundle)
