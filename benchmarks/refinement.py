"""What `medseg refine` without a flag does to noisy label maps of phantoms: mean Dice before and after.

python benchmarks/refinement.py

A fifth of the labels are wrong, half of them in blobs. Cells have one class and one brightness each, noise is
5 % of the contrast; the sample is the CT phantom of `sample_volumes`, whose lesions are smaller than
`smoothness_mm` is good for. "right" is the Dice that a right label map keeps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from medseg import (
    Geometry,
    LabelVolume,
    Volume,
    evaluate_labels,
    read,
    read_labels,
    refine_labels,
)

SAMPLES = Path(__file__).resolve().parents[1] / "sample_volumes"
Scan = tuple[str, LabelVolume, Volume]


def cells(classes: int, size: tuple[int, ...]) -> Scan:
    """Voronoi cells of one class each on 1 x 1 x 2 mm, and their image."""
    rng = np.random.default_rng(classes)
    geometry = Geometry.from_spacing((size[0], size[1], size[2]), (1.0, 1.0, 2.0))
    points = np.indices(geometry.shape).reshape(3, -1).T * np.array(geometry.spacing_mm)
    seeds = points[rng.choice(len(points), classes, replace=False)]
    truth = cKDTree(seeds).query(points)[1].reshape(geometry.shape).astype(np.uint8)
    image = rng.permutation(np.linspace(0, 400, classes))[truth] + rng.normal(0, 20, truth.shape)
    return f"{classes} cells", LabelVolume(truth, geometry), Volume(image.astype(np.float32), geometry)


def sample() -> Iterator[Scan]:
    """The CT phantom with all its labels, and with one for all of them."""
    scan, labels = read(SAMPLES / "phantom_ct.nii.gz"), read_labels(SAMPLES / "phantom_ct_labels.nii.gz")
    yield "sample, 7 classes", LabelVolume(labels.array, labels.geometry), scan
    yield "sample, 2 classes", LabelVolume((labels.array > 0).astype(np.uint8), labels.geometry), scan


def spoiled(truth: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """The truth with a tenth of the voxels wrong one by one, and a tenth in blobs."""
    rng, classes = np.random.default_rng(0), int(truth.max()) + 1
    blobs = gaussian_filter(rng.normal(size=truth.shape), 2)
    wrong = (blobs > np.quantile(blobs, 0.9)) | (rng.random(truth.shape) < 0.1)
    others = (truth + rng.integers(1, classes, truth.shape)) % classes
    return np.where(wrong, others, truth).astype(np.uint8)


def mean_dice(found: LabelVolume, truth: LabelVolume) -> float:
    """Over the classes of the truth."""
    return float(np.mean([score.dice for score in evaluate_labels(found, truth)]))


def main() -> None:
    """Print one row per phantom."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    words.add_argument("--classes", type=int, nargs="+", default=[2, 3, 8, 33])
    words.add_argument("--size", type=int, nargs=3, default=[48, 48, 24])
    given = words.parse_args()
    print("| phantom | noisy | refined | right | s |\n|---|---|---|---|---|")
    for name, truth, image in (*(cells(n, tuple(given.size)) for n in given.classes), *sample()):
        noisy = LabelVolume(spoiled(truth.array), truth.geometry)
        began = time.thread_time()
        better = refine_labels(noisy, image)
        seconds = time.thread_time() - began
        kept = mean_dice(refine_labels(truth, image), truth)
        scores = f"{mean_dice(noisy, truth):.3f} | {mean_dice(better, truth):.3f} | {kept:.3f}"
        print(f"| {name} | {scores} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
