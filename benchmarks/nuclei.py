"""The bundled model `nuclei` on data that it has not learned from: F1 at IoU 0.5, beside other ways.

    python benchmarks/nuclei.py --data ../shared/data
    python benchmarks/nuclei.py --data ../shared/data --fine-tune 400
    python benchmarks/nuclei.py --data ../shared/data --stardist STARDIST_ENV --minutes 30

`img3d` is StarDist's synthetic demo (51 objects), `1135` a crop of real confocal nuclei (GoNuclear, all 54
labels, down to 9 voxels). Their diameters are not stated: the model estimates them; the classical recipes
of scikit-image are given them, and smoothing in proportion. `--fine-tune` learns from one half of 1135,
along its first axis, and is judged on the other, both ways. `--stardist` trains StarDist from scratch on the
same generator for as much processor time as is stated (`make_stardist.sh` builds its environment).
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import medseg
from medseg.geometry import Geometry
from medseg.labels import Label, LabelSet
from medseg.measure.matching import match_table, object_pairs
from medseg.resample import resample_labels, resample_volume
from medseg.volume import InstanceVolume, LabelVolume, Volume

Array = npt.NDArray[Any]

NUCLEUS = LabelSet((Label(1, "nucleus", (36, 96, 242)),))


@dataclass(frozen=True, eq=False)
class Truth:
    """An annotated image.

    Attributes:
        name: as in the table.
        image: intensities.
        objects: ids on the same grid.
        diameter_mm: of a typical object, for recipes that must be told.
    """

    name: str
    image: Volume
    objects: Array
    diameter_mm: float


def read_data(data: Path) -> list[Truth]:
    """StarDist's demo, with voxels taken for 2:1:1 um, and GoNuclear's crop."""
    import h5py
    import tifffile

    demo = tifffile.imread(data / "instances/stardist/img3d.tif")
    mask = tifffile.imread(data / "instances/stardist/mask3d.tif")
    with h5py.File(data / "instances/gonuclear/1135_mini.h5") as file:
        raw, label = file["raw"][()], file["label"][()]
        spacing = [float(w) / 1000 for w in file["raw"].attrs["element_size_um"]]
    return [
        Truth("img3d", Volume(demo, Geometry.from_spacing(demo.shape, (0.002, 0.001, 0.001))), mask, 0.015),
        Truth("1135", Volume(raw, Geometry.from_spacing(raw.shape, spacing)), label, 0.0042),
    ]


def half(truth: Truth, number: int) -> Truth:
    """The first or second half along the first axis."""
    middle = truth.objects.shape[0] // 2
    start, stop = (0, middle) if number == 0 else (middle, truth.objects.shape[0])
    rest = truth.objects.shape[1:]
    image = truth.image.crop((start, 0, 0), (stop, *rest))
    return Truth(f"{truth.name} half {number + 1}", image, truth.objects[start:stop], truth.diameter_mm)


def as_objects(ids: Array, geometry: Geometry) -> InstanceVolume:
    """Ids as objects of one class."""
    classes = dict.fromkeys((int(n) for n in np.unique(ids) if n), 1)
    return InstanceVolume(ids.astype(np.int32), geometry, NUCLEUS, classes)


def row(way: str, truth: Truth, found: Array, seconds: float) -> str:
    """One line of the table."""
    grid = truth.image.geometry
    match = match_table(object_pairs(as_objects(found, grid), as_objects(truth.objects, grid)), 0.5)
    hits, there = match.true_positives, match.true_positives + match.false_negatives
    return (
        f"{way:34}{truth.name:14}{match.f1:6.3f}{hits:5} of {there:3} found, "
        f"{match.false_positives:4} false{seconds:8.1f} s"
    )


# ------------------------------------------------------------------ classical recipes


def smoothed(truth: Truth, part: float) -> Array:
    from scipy.ndimage import gaussian_filter

    sigma = [part * truth.diameter_mm / s for s in truth.image.geometry.spacing_mm]
    return np.asarray(gaussian_filter(truth.image.array.astype(np.float32), sigma))


def otsu(truth: Truth) -> Array:
    from skimage.filters import threshold_otsu

    image = smoothed(truth, 0.07)
    return np.asarray(image > threshold_otsu(image))


def components(truth: Truth) -> Array:
    from skimage.measure import label

    return np.asarray(label(otsu(truth)))


def distance_peaks(truth: Truth) -> Array:
    """The recipe of scikit-image's gallery: distance in voxels, its peaks, watershed."""
    from scipy.ndimage import distance_transform_edt
    from skimage.feature import peak_local_max
    from skimage.measure import label
    from skimage.segmentation import watershed

    mask = otsu(truth)
    distance = distance_transform_edt(mask)
    least = max(1, round(0.3 * truth.diameter_mm / max(truth.image.geometry.spacing_mm)))
    peaks = np.zeros(mask.shape, dtype=bool)
    peaks[tuple(peak_local_max(distance, min_distance=least, labels=label(mask)).T)] = True
    return np.asarray(watershed(-distance, label(peaks), mask=mask))


def voronoi_otsu(truth: Truth) -> Array:
    """After clEsperanto: maxima of a strongly smoothed image share out Otsu's mask."""
    from skimage.feature import peak_local_max
    from skimage.measure import label
    from skimage.segmentation import watershed

    mask, spots = otsu(truth), smoothed(truth, 0.2)
    peaks = np.zeros(mask.shape, dtype=bool)
    peaks[tuple(peak_local_max(spots, min_distance=1, labels=mask.astype(int)).T)] = True
    return np.asarray(watershed(-spots, label(peaks), mask=mask))


def physical_distance(truth: Truth) -> Array:
    mask = LabelVolume(otsu(truth).astype(np.uint8), truth.image.geometry, NUCLEUS)
    settings = medseg.SeparationSettings(diameter_mm=truth.diameter_mm)
    return medseg.separate(mask, 1, settings=settings).array


CLASSICAL: dict[str, Callable[[Truth], Array]] = {
    "Otsu, components": components,
    "Otsu, voxel distance, watershed": distance_peaks,
    "Otsu, smoothed maxima (Voronoi)": voronoi_otsu,
    "Otsu, medseg separate (distance)": physical_distance,
}


# ------------------------------------------------------------------------------ models


def with_model(model: medseg.Model, truth: Truth) -> Array:
    result = medseg.segment(truth.image, model, medseg.InferenceSettings(threads=1))
    if result.instances is None:
        raise SystemExit("the model gave no objects")
    return result.instances.array


def fine_tuned(model: medseg.Model, truth: Truth, steps: int, folder: Path) -> medseg.Model:
    """A model that went on learning from an annotated image."""
    from medseg.training.annotated import Pair
    from medseg.training.fine_tune import fine_tune
    from medseg.training.settings import FineTuneSettings

    labels = as_objects(truth.objects, truth.image.geometry)
    fine_tune(model, [Pair(truth.image, labels)], folder, FineTuneSettings(steps=steps, threads=1))
    return medseg.load_model(folder, device="cpu")


def stardist(environment: Path, truths: list[Truth], minutes: float) -> list[Array]:
    """StarDist's objects, on the grid on which it learned, brought back by the nearest voxel."""
    script = Path(__file__).with_name("nuclei_stardist.py")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        grids = []
        for truth in truths:
            spacing = truth.diameter_mm / 12
            grids.append(truth.image.geometry.respace((spacing, spacing, spacing)))
            np.save(folder / f"{truth.name}.npy", resample_volume(truth.image, grids[-1]).array)
        words = [str(environment / "bin/python"), str(script), str(folder), str(minutes)]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        print(next(line for line in reversed(said.splitlines()) if line.startswith("StarDist")))
        found = []
        for truth, grid in zip(truths, grids, strict=True):
            ids = np.load(folder / f"{truth.name}.labels.npy")
            found.append(resample_labels(as_objects(ids, grid), truth.image.geometry).array)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--fine-tune", type=int, default=0, metavar="STEPS")
    parser.add_argument("--stardist", type=Path, metavar="ENVIRONMENT")
    parser.add_argument("--minutes", type=float, default=30.0)
    choice = parser.parse_args()
    truths = read_data(choice.data)
    model = medseg.load_model(choice.model, device="cpu")
    ways: dict[str, Callable[[Truth], Array]] = {"nuclei": lambda t: with_model(model, t), **CLASSICAL}
    for truth in truths:
        for way, find in ways.items():
            began = time.process_time()
            found = find(truth)
            print(row(way, truth, found, time.process_time() - began), flush=True)
    if choice.fine_tune:
        parts = [half(truths[1], number) for number in (0, 1)]
        with tempfile.TemporaryDirectory() as place:
            for learned, judged in ((0, 1), (1, 0)):
                print(row("nuclei", parts[judged], with_model(model, parts[judged]), 0.0))
                began = time.process_time()
                tuned = fine_tuned(model, parts[learned], choice.fine_tune, Path(place) / str(learned))
                spent = time.process_time() - began
                found = with_model(tuned, parts[judged])
                print(row("nuclei, tuned on the other half", parts[judged], found, spent), flush=True)
    if choice.stardist is not None:
        for truth, found in zip(truths, stardist(choice.stardist, truths, choice.minutes), strict=True):
            print(row("StarDist, from scratch", truth, found, 60 * choice.minutes))


if __name__ == "__main__":
    main()
