"""Objects of an image that is larger than memory: from one OME-Zarr store into another.

The network's grid is usually much coarser than the image's, so the image on that grid and the network's
answers are held in memory: about 20 bytes for each of its voxels. The image itself is only ever read, and
its objects only ever written, in parts.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medseg.errors import DeviceMemoryError
from medseg.files import whole_file
from medseg.geometry import Geometry
from medseg.inference.home import parallel_maps
from medseg.inference.predict import plan_case
from medseg.inference.scores import predict_scores
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Listener
from medseg.instances.grid import Block, Triple, triple
from medseg.instances.heights import read_block
from medseg.instances.ome_zarr import Store
from medseg.instances.settings import SeparationSettings
from medseg.instances.store import BLOCK, StoreSummary, begin_store, decode_store, store_grid
from medseg.machine import physical_memory_bytes
from medseg.models.loading import Model
from medseg.objects import (
    LARGEST_DIAMETER_VOXELS,
    LOOK_DIAMETERS,
    estimate_diameter_mm,
    learned_rule,
    recipe_of,
    with_diameter,
)
from medseg.preprocess.prepare import card_grid, without_gaps
from medseg.resample import resample_volume
from medseg.volume import Volume

if TYPE_CHECKING:
    from medseg.instances.decode import Watch
    from medseg.models.card import Card

SLAB_PLANES = 32
"""Planes of the network's grid that are resampled together."""

BYTES_PER_VOXEL = 20
"""Of the network's grid: the image, prepared and not, two answers, and the sums of windows."""

STAGE = "read the image"


def segment_store(
    image: Store,
    output: str | Path,
    model: Model,
    settings: InferenceSettings | None = None,
    *,
    separation: SeparationSettings | None = None,
    block: Triple = BLOCK,
    watch: Watch | None = None,
) -> StoreSummary:
    """Find the objects of an image on disk, and write them as an OME-Zarr label image.

    The network answers once for the whole image; then heights are interpolated and objects separated
    block by block. Any block size gives the same objects, bit for bit. Work in progress lies in
    `OUTPUT.partial`: once the network is done, a run that was stopped goes on block by block.

    Args:
        image: intensities.
        output: folder of the label image to make.
        model: one whose card has a `separation`, such as `nuclei`.
        settings: how it runs; regions are not supported here.
        separation: least volume and numbering.
        block: voxels of the image that are worked on at once.
        watch: who is told, and who may stop the work.

    Raises:
        VolumeError: the model learned no objects; the image is no scan; no diameter can be estimated.
        DeviceMemoryError: `OVER_MEMORY_LIMIT`, the network's grid is too large.
        ReadError: a damaged store, or one that changed since the work began.
        WriteError: the output exists, or cannot be written.
        CancelledError: a stop was asked for.
    """
    from medseg.instances.decode import Watch
    from medseg.instances.learned import learned_height

    settings, separation = settings or InferenceSettings(), separation or SeparationSettings()
    output, watch, grid = Path(output), watch or Watch(), store_grid(image, block)
    geometry = Geometry.from_spacing(grid.shape, image.spacing_mm)
    plan = {
        "image": image.fingerprint,
        "model": [model.card.sha256, model.weights_sha256],
        "settings": [dataclasses.asdict(settings), dataclasses.asdict(separation)],
        "block": list(grid.block),
        "shape": list(grid.shape),
    }
    recipe, threshold = recipe_of(model)
    bench = begin_store(output, plan, grid)
    diameter = settings.object_diameter_mm or recipe.diameter_mm
    if not diameter:
        middle = _middle(image, geometry)
        diameter = estimate_diameter_mm(model, middle, settings, watch.progress, watch.cancel)
    model = with_diameter(model, diameter)
    target = card_grid(geometry, model.card)
    answers = bench.folder / "answers.npy"
    if not answers.exists():
        on_grid = _read_on_grid(image, target, model.card, watch)
        plan_of_run = plan_case((on_grid,), model, settings)
        listener = Listener(watch.progress, watch.cancel)
        scores = predict_scores(on_grid, model, settings, plan_of_run, listener)
        with whole_file(answers) as part:
            np.save(part, scores.array)
    fields = np.load(answers, mmap_mode="r")
    source = learned_height(fields, target, geometry, threshold)
    return decode_store(source, learned_rule(model, geometry, separation), image, output, bench, watch)


def _middle(image: Store, geometry: Geometry) -> Volume:
    """The middle of an image, as much as the largest diameter that an estimate tries wants to see."""
    side = LOOK_DIAMETERS * LARGEST_DIAMETER_VOXELS * min(geometry.spacing_mm)
    sizes = [min(n, math.ceil(side / s)) for n, s in zip(geometry.shape, geometry.spacing_mm, strict=True)]
    start = triple([(n - size) // 2 for n, size in zip(geometry.shape, sizes, strict=True)])
    stop = triple([a + size for a, size in zip(start, sizes, strict=True)])
    return Volume(read_block(image.array, Block(start, stop)), geometry.crop(start, stop))


def _read_on_grid(image: Store, target: Geometry, card: Card, watch: Watch) -> Volume:
    """The image on the network's grid, a few planes at a time, with the values that `prepare` finds.

    Raises:
        DeviceMemoryError: the grid is too large for the machine.
    """
    needed = BYTES_PER_VOXEL * target.voxels
    if needed > physical_memory_bytes():
        raise DeviceMemoryError(
            "OVER_MEMORY_LIMIT",
            f"expected a grid that fits into memory, got one of {needed / 1e9:.1f} GB; state a larger "
            "object_diameter_mm or crop the image",
        )
    array = np.empty(target.shape, dtype=np.float32)
    geometry = Geometry.from_spacing(triple(image.array.shape), image.spacing_mm)
    as_monai = card.resampling.fit == "first-voxel"
    lowest = math.inf
    ratio = target.spacing_mm[0] / geometry.spacing_mm[0]
    reach = math.ceil(3 * ratio) + 2  # of the smoothing before, and of the interpolation
    for first in range(0, target.shape[0], SLAB_PLANES):
        watch.step(STAGE, first, target.shape[0])
        part = target.crop((first, 0, 0), (min(first + SLAB_PLANES, target.shape[0]), *target.shape[1:]))
        low, high = (geometry.to_index(part.to_world([[n, 0, 0]]))[0][0] for n in (0, part.shape[0] - 1))
        start = min(max(0, math.floor(low) - reach), geometry.shape[0] - 1)
        stop = max(start + 1, min(geometry.shape[0], math.ceil(high) + reach + 1))
        seen = Block((start, 0, 0), (stop, *geometry.shape[1:]))
        slab = Volume(read_block(image.array, seen), geometry.crop(seen.start, seen.stop))
        filled, low = without_gaps(slab)
        lowest = min(lowest, low)
        planes = resample_volume(filled, part, fill=None, smooth=not as_monai).array
        array[first : first + part.shape[0]] = planes
    watch.step(STAGE, target.shape[0], target.shape[0])
    if not as_monai:
        for axis, along in enumerate(parallel_maps(geometry, target)):
            np.moveaxis(array, axis, 0)[~along.inside] = lowest
    return Volume(array, target)
