"""A small segmentation task: synthesised brains with 8 classes, as a folder that `medseg train` reads.

    python benchmarks/brain_task.py FOLDER [--maps MAPS] [--spacing 6] [--cases 16]

Each of SynthSeg's 20 label maps (Apache-2.0) gives one image of T1-like contrast, a little blurred, biased
and noisy: 01-16 into `FOLDER/train`, 17-20 into `FOLDER/test`, both with `images/` and `labels/`. Of more
than 16 cases, the rest are other images of the first maps, bent and painted anew. Then

    medseg train FOLDER/train -o FOLDER/model
    python benchmarks/brain_task.py FOLDER --judge FOLDER/model

says how well a model that was trained without any flag does on the four others.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import medseg
from medseg.training.brain_labels import BRAIN_STRUCTURES, HeadMap
from medseg.training.brain_mri import read_heads
from medseg.training.head_synthesis import SynthesisSettings, synthesise

MAPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "brain_label_maps"
CLASSES = {
    1: ("cerebral white matter", ("cerebral white matter",)),
    2: ("cerebral cortex", ("cerebral cortex",)),
    3: ("ventricles", ("ventricle",)),
    4: ("cerebellum", ("cerebellum white matter", "cerebellum cortex")),
    5: ("thalamus", ("thalamus",)),
    6: ("basal ganglia", ("caudate", "putamen", "pallidum")),
    7: ("hippocampus and amygdala", ("hippocampus", "amygdala")),
    8: ("brain-stem", ("brain-stem",)),
}
"""Class of the task -> its name, and what the names of the structures in it end with."""

NAMES = medseg.LabelSet.from_names({number: name for number, (name, _) in CLASSES.items()})
TRAINING, HELD_OUT = range(1, 17), range(17, 21)


def class_of_channel() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Class of the task of every channel of `brain-mri`; 0 where it is in none."""
    table = np.zeros(len(BRAIN_STRUCTURES) + 1, dtype=np.uint8)
    for channel, (_, structure) in enumerate(BRAIN_STRUCTURES, start=1):
        for number, (_, endings) in CLASSES.items():
            if structure.endswith(endings):
                table[channel] = number
    return table


def pair(
    head: HeadMap, labels: Any, spacing_mm: float, seed: int
) -> tuple[medseg.Volume, medseg.LabelVolume]:
    """An image of a head and its classes, on the same grid, right to left, forward, up."""
    shape = tuple(8 * round(length / spacing_mm / 8) for length in (192.0, 224.0, 192.0))
    settings = SynthesisSettings(
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=spacing_mm,
        contrast_width=0.0,
        spoil=0.3,
        shift_mm=5.0,
    )
    image, channels = synthesise(head, labels, np.random.default_rng(seed), settings)
    geometry = medseg.Geometry.from_spacing(shape, (spacing_mm,) * 3)
    classes = class_of_channel()[channels.numpy()]
    volume = medseg.Volume((1000 * image.numpy()).astype(np.float32), geometry, modality="MR")
    return volume, medseg.LabelVolume(classes, geometry, NAMES)


def write_task(folder: Path, maps: Path, spacing_mm: float, cases: int = len(TRAINING)) -> None:
    """Write the folders `train` and `test`; what is there already stays."""
    for part, numbers, count in (("train", TRAINING, cases), ("test", HELD_OUT, len(HELD_OUT))):
        if (folder / part).is_dir():
            continue
        heads = read_heads(maps, numbers, ())
        for case in range(count):
            number, repeat = numbers[0] + case, case // len(numbers)
            for name in ("images", "labels"):
                (folder / part / name).mkdir(parents=True, exist_ok=True)
            head = heads.training[case % len(numbers)]
            image, truth = pair(head, heads.labels, spacing_mm, seed=number + 100 * repeat)
            medseg.write_volume(image, folder / part / "images" / f"brain_{number:02d}.nii.gz")
            medseg.write_labels(truth, folder / part / "labels" / f"brain_{number:02d}.nii.gz")


def read_test(folder: Path) -> list[tuple[medseg.Volume, medseg.LabelVolume]]:
    """The held-out pairs."""
    files = sorted((folder / "test" / "images").iterdir())
    return [(medseg.read(file), medseg.read_labels(folder / "test" / "labels" / file.name)) for file in files]


def mean_dice(found: medseg.LabelVolume, truth: medseg.LabelVolume) -> float:
    """Mean Dice over the classes that the truth holds."""
    held = set(truth.present_ids())
    scores = [score for score in medseg.evaluate_labels(found, truth) if score.id in held]
    return float(np.mean([score.dice for score in scores]))


def main() -> None:
    """Write the task, or judge a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--maps", type=Path, default=MAPS)
    parser.add_argument("--spacing", type=float, default=6.0)
    parser.add_argument("--cases", type=int, default=len(TRAINING), help="to learn from")
    parser.add_argument("--judge", metavar="MODEL", help="print its Dice on the held-out cases instead")
    asked = parser.parse_args()
    if asked.judge is None:
        write_task(asked.folder, asked.maps, asked.spacing, asked.cases)
        return
    model = medseg.load_model(asked.judge)
    scores = [
        mean_dice(medseg.segment(image, model).labels, truth) for image, truth in read_test(asked.folder)
    ]
    print("held-out Dice " + ", ".join(f"{score:.3f}" for score in scores) + f"; mean {np.mean(scores):.3f}")


if __name__ == "__main__":
    main()
