"""How the bundled model `brain-mri` is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from medseg.training.brain_atlas import build_atlas
from medseg.training.brain_labels import HeadMap, head_labels, read_head_map
from medseg.training.growth import grow
from medseg.training.loop import HeadData, build_network, train
from medseg.training.optimise import blend
from medseg.training.publish import write_brain_bundle
from medseg.training.recipe import FULL_RESOLUTION, LONG, SCANNER_LIKE, STRIDED

TRAINING_MAPS, HELD_OUT_MAPS = range(1, 17), range(17, 21)
"""Numbers of the label maps that are learned from and that are checked on."""

SCANNER_LIKE_SHARE = 0.7
"""The last stage starts from this much of the third, the rest of the second."""


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


def make_brain_mri(maps: Path, run: Path, bundle: Path, report: Callable[[str], None]) -> None:
    """Train in four stages, make the atlas, and write the bundle.

    Args:
        maps: folder of SynthSeg's training label maps.
        run: folder for checkpoints; the same one goes on where it was.
        bundle: folder to write into.
        report: told one line per check.
    """
    heads = read_heads(maps, TRAINING_MAPS, HELD_OUT_MAPS)
    strided = train(heads, STRIDED, run / "strided", report)
    start = build_network(FULL_RESOLUTION)
    grow(strided, start)
    full = train(heads, FULL_RESOLUTION, run / "full", report, start)
    network = train(heads, SCANNER_LIKE, run / "scanner_like", report, full)
    blend(network, full, 1 - SCANNER_LIKE_SHARE)
    network = train(heads, LONG, run / "long", report, network)
    atlas = build_atlas(heads.training, heads.labels, report)
    write_brain_bundle(network, atlas, (STRIDED, FULL_RESOLUTION, SCANNER_LIKE, LONG), bundle)
