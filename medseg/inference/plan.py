"""The plan of one run: grid, windows, slab and peak memory, all known before the start."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.errors import DeviceMemoryError, ModelError
from medseg.geometry import Geometry
from medseg.inference.home import label_type
from medseg.inference.memory import activation_bytes, resident_bytes
from medseg.inference.settings import InferenceSettings
from medseg.inference.windows import WindowGrid, place_windows
from medseg.io.stored import physical_memory_bytes
from medseg.preprocess.prepare import card_grid, straight_grid

if TYPE_CHECKING:
    from medseg.models.loading import Model

FLUSH_PLANES = 16
"""Planes that are decided together; bounds the memory of the decision."""

FLOAT_BYTES = 4
GIGABYTE = 1e9

RUNTIME_BYTES = 60_000_000
"""Code and thread memory that torch loads with its first convolution; measured."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a run needs, by cause.

    Attributes:
        program: resident before the start: Python, torch, the network, the source volume.
        preparation: source and prepared image while they are resampled.
        image: prepared image with padding.
        slab: sums of scores, and the planes under decision.
        network: intermediate tensors of one window.
        labels: result on the source grid.
    """

    program: int
    preparation: int
    image: int
    slab: int
    network: int
    labels: int

    @property
    def peak(self) -> int:
        """Highest sum over the stages of a run."""
        return self.program + max(self.preparation, self.image + self.slab + self.network + self.labels)


@dataclass(frozen=True)
class InferencePlan:
    """What a run will do.

    Attributes:
        source: grid of the scan, of right angles.
        grid: the card's grid.
        windows: positions on the card's grid.
        device: where the network runs.
        memory: what it needs.
    """

    source: Geometry
    grid: Geometry
    windows: WindowGrid
    device: str
    memory: MemoryPlan

    @property
    def peak_bytes(self) -> int:
        """Highest memory of the process during the run; on another device, host and device together."""
        return self.memory.peak

    @property
    def sentence(self) -> str:
        """The plan for people."""
        shape = " x ".join(map(str, self.grid.shape))
        spacing = " x ".join(f"{s:.3g}" for s in self.grid.spacing_mm)
        window = " x ".join(map(str, self.windows.size))
        return (
            f"{shape} voxels of {spacing} mm, {self.windows.count} windows of {window} on {self.device}, "
            f"peak memory {self.peak_bytes / GIGABYTE:.1f} GB"
        )


def plan_inference(
    source: Geometry, model: Model, settings: InferenceSettings | None = None
) -> InferencePlan:
    """Decide grid and windows, and compute the peak memory, before anything is allocated.

    Args:
        source: grid of the scan; its voxels are taken to be in memory already, those of every channel.
        model: card and network.
        settings: overlap and memory limit; without one, the memory of the machine where the network
            runs on its processor.

    Raises:
        DeviceMemoryError: `OVER_MEMORY_LIMIT`, naming what the run would need.
        ModelError: `BAD_NETWORK`, the network does not take windows of the card's size.
    """
    settings = settings or InferenceSettings()
    card = model.card
    source = straight_grid(source)
    grid = card_grid(source, card)
    overlap = settings.overlap_fraction
    overlap = card.window.overlap_fraction if overlap is None else overlap
    windows = place_windows(grid.shape, card.window.size, overlap)
    memory = _memory(source, grid, windows, model)
    plan = InferencePlan(source, grid, windows, model.device, memory)
    limit = settings.max_memory_gb
    if limit is None:  # tried nevertheless, such a run would be killed halfway, or the machine stall
        limit = physical_memory_bytes() / GIGABYTE if plan.device == "cpu" else math.inf
    if plan.peak_bytes > limit * GIGABYTE:
        needed = math.ceil(plan.peak_bytes / GIGABYTE * 10) / 10
        raise DeviceMemoryError(
            "OVER_MEMORY_LIMIT",
            f"expected a run within {limit:.4g} GB, got a plan of {needed:.1f} GB; allow {needed:.1f} GB "
            "or crop the scan",
        )
    return plan


def _memory(source: Geometry, grid: Geometry, windows: WindowGrid, model: Model) -> MemoryPlan:
    card = model.card
    rows, columns, _ = windows.padded_shape
    plane = rows * columns * FLOAT_BYTES
    slab = (card.out_channels + 1) * plane * windows.size[2]
    flush = 3 * card.out_channels * plane * (FLUSH_PLANES + 1)
    try:
        network = activation_bytes(
            model.network, card.in_channels, windows.size, reordered=model.device == "cpu"
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(
            "BAD_NETWORK",
            f"expected a network that takes windows of {windows.size} voxels, got an error ({error}); "
            "repair roi_size or the network's arguments",
        ) from error
    image = card.in_channels * math.prod(windows.padded_shape) * FLOAT_BYTES
    if windows.padded_shape != windows.image_shape:
        image += card.in_channels * grid.voxels * FLOAT_BYTES
    others = card.in_channels * grid.voxels if card.in_channels > 1 else 0
    return MemoryPlan(
        program=resident_bytes() + RUNTIME_BYTES,
        preparation=(3 * max(source.voxels, grid.voxels) + 2 * grid.voxels + others) * FLOAT_BYTES,
        image=image,
        slab=slab + flush,
        network=network,
        labels=2 * source.voxels * label_type(card).itemsize,
    )
