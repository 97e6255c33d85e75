"""The plan of one run: grid, region, windows, slab and peak memory, all known before the start."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medseg.errors import DeviceMemoryError, ModelError
from medseg.geometry import Geometry
from medseg.inference.answer import Parts, mirrored_axes, model_parts
from medseg.inference.backends.choose import PLAIN, BackendChoice, choose_backend
from medseg.inference.backends.openvino_backend import is_compiled
from medseg.inference.home import CHUNK_BYTES, label_type
from medseg.inference.memory import activation_bytes, resident_bytes
from medseg.inference.settings import InferenceSettings
from medseg.inference.turns import turns_of
from medseg.inference.windows import Triple, WindowGrid, place_windows
from medseg.machine import physical_memory_bytes
from medseg.models.intensity_steps import PercentileRange
from medseg.preprocess.prepare import card_grid, straight_grid
from medseg.preprocess.region import IndexBox, box_on_grid, whole
from medseg.resample import BAND_BYTES

if TYPE_CHECKING:
    from medseg.models.card import Card
    from medseg.models.loading import Model

MOST_FLUSH_PLANES = 16
"""Planes that are decided together at most, ..."""

FLUSH_BYTES = 256_000_000
"""... fewer where their answers would exceed this."""

CONTEXT_FRACTION = 4
"""A region is looked at with a quarter of a window around it."""

FLOAT_BYTES = 4
GIGABYTE = 1e9

RUNTIME_BYTES = 60_000_000
"""Code and thread memory that torch loads with its first convolution; measured."""

OPENVINO_BYTES = 200_000_000
"""What OpenVINO takes with its first network, beside twice the weights; measured."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a run needs, by cause.

    Attributes:
        program: resident before the start: Python, torch, the network, the source volume.
        preparation: source and prepared image while they are resampled.
        image: prepared image with padding.
        slab: sums of answers.
        network: intermediate tensors of one window, its answer, the answer to an empty window.
        flush: planes that are decided together.
        labels: result on the source grid, and the map of uncertainty, or of scores where parts take turns.
    """

    program: int
    preparation: int
    image: int
    slab: int
    network: int
    flush: int
    labels: int

    @property
    def peak(self) -> int:
        """Highest sum over the stages of a run."""
        work = self.image + self.slab + max(self.network, self.flush) + self.labels
        return self.program + max(self.preparation, work)


@dataclass(frozen=True)
class InferencePlan:
    """What a run will do.

    Attributes:
        source: grid of the scan, of right angles; where `crop` is given, of that part.
        region: voxels of the source that get labels; all others are background.
        grid: the card's grid.
        box: voxels of the card's grid that windows look at.
        windows: positions in the box.
        axis: of the card's grid along which the work goes on.
        flush_planes: planes along it that are decided together.
        device: where the network runs.
        memory: what it needs.
        crop: voxels of the scan that count as the scan, as the card asks for it; None is all of it.
        backend: what runs the network, and why.
        turns: parts of the model that work one after another; 1 where all work together.
    """

    source: Geometry
    region: IndexBox
    grid: Geometry
    box: IndexBox
    windows: WindowGrid
    axis: int
    flush_planes: int
    device: str
    memory: MemoryPlan
    crop: IndexBox | None = None
    backend: BackendChoice = PLAIN
    turns: int = 1

    @property
    def peak_bytes(self) -> int:
        """Highest memory of the process during the run; on another device, host and device together."""
        return self.memory.peak

    @property
    def sentence(self) -> str:
        """The plan for people."""
        shape = " x ".join(map(str, self.box.shape))
        spacing = " x ".join(f"{s:.3g}" for s in self.grid.spacing_mm)
        window = " x ".join(map(str, self.windows.size))
        turns = f", {self.turns} parts in turn" if self.turns > 1 else ""
        return (
            f"{shape} voxels of {spacing} mm, {self.windows.count} windows of {window} on {self.device}"
            f"{turns}, peak memory {self.peak_bytes / GIGABYTE:.1f} GB; {self.backend.words}"
        )


def plan_inference(
    source: Geometry,
    model: Model,
    settings: InferenceSettings | None = None,
    region: IndexBox | None = None,
) -> InferencePlan:
    """Decide grid and windows, and compute the peak memory, before anything is allocated.

    Args:
        source: grid of the scan; its voxels are taken to be in memory already, those of every channel.
        model: card and network.
        settings: overlap and memory limit; without one, the memory of the machine where the network
            runs on its processor.
        region: voxels of `source` that get labels; None takes all.

    Raises:
        DeviceMemoryError: `OVER_MEMORY_LIMIT`, naming what the run would need.
        ModelError: `BAD_NETWORK`, the network does not take windows of the card's size.
    """
    settings = settings or InferenceSettings()
    card = model.card
    straight = straight_grid(source)
    if region is None:
        region = whole(straight)
    elif straight is not source:
        region = box_on_grid(region, source, straight)
    grid = card_grid(straight, card)
    box = _looked_at(region, straight, grid, card.window.size)
    overlap = settings.overlap_fraction
    overlap = card.window.overlap_fraction if overlap is None else overlap
    windows = place_windows(box.shape, card.window.size, overlap, card.window.placement)
    plan = InferencePlan(
        straight, region, grid, box, windows, windows.thinnest_axis, 0, model.device, MemoryPlan(*[0] * 7)
    )
    plan = _fitted(plan, model, settings)  # refused before a trial takes memory itself
    one = model if plan.turns == 1 else turns_of(model, settings)[0]
    modules = model_parts(one, card.window.size).modules
    answers = windows.count * len(mirrored_axes(card, mirror=settings.mirror)) * plan.turns
    choice = choose_backend(modules, one, card.window.size, answers, settings)
    if choice.backend == "torch":
        return replace(plan, backend=choice)
    return _fitted(replace(plan, backend=choice), model, settings)


def _looked_at(region: IndexBox, source: Geometry, grid: Geometry, window: Triple) -> IndexBox:
    """The part of the card's grid that windows see: the region and what surrounds it."""
    if region == whole(source):
        return whole(grid)
    context = [n // CONTEXT_FRACTION for n in window]
    return box_on_grid(region, source, grid).grown(context, grid.shape, window)


def _fitted(plan: InferencePlan, model: Model, settings: InferenceSettings) -> InferencePlan:
    """The plan with its memory; parts of a model that are too much together take turns."""
    try:
        return _sized(replace(plan, turns=1), model, settings)
    except DeviceMemoryError:
        turns = turns_of(model, settings)
        if len(turns) == 1:
            raise
    sized = [_sized(replace(plan, turns=len(turns)), one, settings) for one in turns]
    planes = min(one.flush_planes for one in sized)
    return replace(max(sized, key=lambda one: one.peak_bytes), flush_planes=planes)


def _sized(plan: InferencePlan, model: Model, settings: InferenceSettings) -> InferencePlan:
    """The plan with its memory, deciding as many planes together as the limit allows."""
    card = model.card
    parts = model_parts(model, card.window.size)
    limit = settings.max_memory_gb
    if limit is None:  # tried nevertheless, such a run would be killed halfway, or the machine stall
        limit = physical_memory_bytes() / GIGABYTE if plan.device == "cpu" else math.inf
    program = resident_bytes() + RUNTIME_BYTES
    network = _network_bytes(plan, card, parts, settings)
    plane = parts.channels * FLOAT_BYTES * _plane_voxels(plan)
    planes = max(1, min(MOST_FLUSH_PLANES, FLUSH_BYTES // plane))
    while True:
        memory = _memory(plan, card, parts.channels, planes, uncertainty=settings.uncertainty)
        memory = replace(memory, program=program, network=network)
        plan = replace(plan, flush_planes=planes, memory=memory)
        if plan.peak_bytes <= limit * GIGABYTE or planes == 1:
            break
        planes //= 2
    if plan.peak_bytes > limit * GIGABYTE:
        needed = math.ceil(plan.peak_bytes / GIGABYTE * 10) / 10
        raise DeviceMemoryError(
            "OVER_MEMORY_LIMIT",
            f"expected a run within {limit:.4g} GB, got a plan of {needed:.1f} GB; allow {needed:.1f} GB, "
            "crop the scan or name a region",
        )
    return plan


def _plane_voxels(plan: InferencePlan) -> int:
    return math.prod(plan.windows.padded_shape) // plan.windows.padded_shape[plan.axis]


def _network_bytes(plan: InferencePlan, card: Card, parts: Parts, settings: InferenceSettings) -> int:
    size = plan.windows.size
    is_torch = plan.backend.backend == "torch"
    new = [module for module in parts.modules if is_torch or not is_compiled(module)]

    def most_of(*, reordered: bool) -> int:
        return max(
            (activation_bytes(one, card.in_channels, size, reordered=reordered) for one in new), default=0
        )

    try:
        most = most_of(reordered=is_torch and plan.device == "cpu")  # OpenVINO keeps one layout
        converting = 0 if is_torch else most_of(reordered=True)  # torch answers one window to be traced
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(
            "BAD_NETWORK",
            f"expected a network that takes windows of {size} voxels, got an error ({error}); "
            "repair roi_size or the network's arguments",
        ) from error
    if new and not is_torch:
        weights = sum(w.numel() * w.element_size() for module in new for w in module.parameters())
        most = max(most + OPENVINO_BYTES, converting) + 2 * weights
    passes = len(parts.modules) * len(mirrored_axes(card, mirror=settings.mirror))
    kept = 1 if passes == 1 else 3  # the answer to an empty window; the average; a mirrored answer
    return most + kept * parts.channels * math.prod(size) * FLOAT_BYTES


def _memory(
    plan: InferencePlan, card: Card, channels: int, flush_planes: int, *, uncertainty: bool
) -> MemoryPlan:
    """Everything but the program and the network."""
    plane = _plane_voxels(plan) * FLOAT_BYTES
    images = card.in_channels
    image = images * math.prod(plan.windows.padded_shape) * FLOAT_BYTES
    if plan.windows.padded_shape != plan.grid.shape:  # padded or cropped: both exist
        image += images * plan.grid.voxels * FLOAT_BYTES
    carried = 0 if card.home == "labels-nearest" else flush_planes + 2
    label_bytes = label_type(card).itemsize + (FLOAT_BYTES if uncertainty else 0)
    scores = FLOAT_BYTES * plan.source.voxels if plan.turns > 1 else 0
    return MemoryPlan(
        program=0,
        preparation=_preparation_bytes(plan, card),
        image=image,
        slab=(channels + 1) * plane * plan.windows.size[plan.axis],
        network=0,
        flush=channels * plane * (flush_planes + carried) + _decision_bytes(plan, card, flush_planes),
        labels=(1 if _stays_as_it_is(plan, card) else 2) * plan.source.voxels * label_bytes + scores,
    )


def _decision_bytes(plan: InferencePlan, card: Card, flush_planes: int) -> int:
    """Scores while they are decided: a few copies of a chunk of planes."""
    scores = card.out_channels * _plane_voxels(plan) * flush_planes * FLOAT_BYTES
    return 3 * min(CHUNK_BYTES, scores)


def _stays_as_it_is(plan: InferencePlan, card: Card) -> bool:
    """Whether the result on the card's axes is that on the source's."""
    is_turned = card.orientation is not None and card.orientation != plan.source.axis_codes
    return not is_turned and plan.region == whole(plan.source)


def _preparation_bytes(plan: InferencePlan, card: Card) -> int:
    """Most of what lives while images are resampled and scaled, one after another."""
    grid, source = plan.grid.voxels * FLOAT_BYTES, plan.source.voxels * FLOAT_BYTES
    others = card.in_channels * grid if card.in_channels > 1 else 0
    if card.resampling.intensity_first:  # scaled and resized as a whole
        return 3 * max(source, grid) + 2 * grid + others
    turned = plan.source if card.orientation is None else plan.source.reorient(card.orientation)
    shrinks = min(a / b for a, b in zip(plan.grid.shape, turned.shape, strict=True))
    # A band and its smoothed copy, or the band and its neighbours below and above while it shrinks.
    band = int(min(BAND_BYTES, max(source, grid)) * max(2.0, 1 + 2 * min(1.0, shrinks)))
    steps = (step for channel in range(card.in_channels) for step in card.steps(channel))
    copies = 3 if any(isinstance(step, PercentileRange) for step in steps) else 2
    return max(source // FLOAT_BYTES, band + grid, copies * grid) + others
