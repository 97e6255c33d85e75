"""Heads with lesions of any look, made from label maps of heads without.

A lesion is a union of a few ellipsoids with a rough border, brighter or darker than the tissue around
it: solid, patchy, or a rim about a core of another look, often with a halo of oedema that does not
count as lesion, and it may push the tissue around it away. It is put into the image of
`head_synthesis.paint` before that is spoiled as scanners do, so lesion and head share noise, bias and
thick slices. Vessels and lumps outside the brain are drawn too, and count as nothing: a network that
was never shown them takes them for lesions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.training.brain_labels import HeadLabels, HeadMap
from medseg.training.head_synthesis import (
    SynthesisSettings,
    look_up,
    paint,
    rescale_by_percentiles,
    sampling_points,
    smooth_field,
    spoil,
    strip_skull,
)

FLUID_IDS = (4, 5, 14, 15, 24, 43, 44)
"""Source labels that hold fluid: no lesion begins there, and oedema spares them."""

REACH = 1.9
"""Half a side of the box in which a lesion is drawn, in parts of its radius."""


@dataclass(frozen=True)
class LesionSettings:
    """How many lesions and how large. Lengths are mm.

    Attributes:
        head: how the head is made.
        without_share: share of heads without any lesion.
        most: lesions of one head.
        diameter_mm: smallest and largest.
        least_contrast: least change of intensity, in parts of the image's range.
        beyond_share: share of lesions brighter or darker than all tissue of the brain.
        bright_share: share of those that are brighter.
        bright_skin_share: share of heads whose fat and skin outshine the brain, as coils on the skin do.
    """

    head: SynthesisSettings = field(default_factory=SynthesisSettings)
    without_share: float = 0.15
    most: int = 6
    diameter_mm: tuple[float, float] = (5.0, 50.0)
    least_contrast: float = 0.08
    beyond_share: float = 0.85
    bright_share: float = 0.85
    bright_skin_share: float = 0.5


@dataclass(frozen=True, eq=False)
class LesionSample:
    """One training pair.

    Attributes:
        image: `(R, A, S)` float32, 0..1.
        objects: `(R, A, S)` int64, lesion 1, 2, …; 0 elsewhere.
        boxes: `(n, 6)` first voxel and one past the last of lesion 1, 2, …
    """

    image: Tensor
    objects: Tensor
    boxes: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Blob:
    """A lump on a part of the grid.

    Attributes:
        part: where it lies.
        depth: 1 at its middle, 0 on its surface, negative outside, in parts of the radius.
        radius: in voxels.
    """

    part: tuple[slice, slice, slice]
    depth: Tensor
    radius: float

    def cover(self, beyond: float = 0.0) -> Tensor:
        """Share of every voxel inside the surface, moved outwards by some voxels."""
        return (0.5 + self.depth * self.radius + beyond).clamp(0, 1)


def synthesise_lesions(
    head: HeadMap, labels: HeadLabels, rng: np.random.Generator, settings: LesionSettings
) -> LesionSample:
    """Make one head with none or some lesions.

    Args:
        head: label map to start from.
        labels: tables of its labels.
        rng: the only source of chance.
        settings: how many lesions, how the head is made.
    """
    points, step = sampling_points(head, rng, settings.head)
    dense = look_up(torch.from_numpy(head.source), points).long()
    blobs = _place(rng, dense, labels, settings)
    for blob in blobs:
        if blob.radius * settings.head.spacing_mm > 5 and rng.random() < 0.5:
            _push(points, step, blob, float(rng.uniform(0.1, 0.45)))
    image, dense = paint(head, labels, rng, settings.head, (points, step))
    outer = torch.from_numpy(labels.is_outer.copy())[dense]
    if rng.random() < settings.bright_skin_share:
        image = torch.where(outer, image * float(rng.uniform(1, 4)), image)
    _texture(image, rng)
    _clutter(image, outer, rng, settings.head.spacing_mm)
    objects = torch.zeros(image.shape, dtype=torch.int64)
    brightness = _brightness(image, outer)
    for number, blob in enumerate(blobs, start=1):
        _draw(image, objects, (number, blob), _Surroundings(dense, outer, labels, brightness), rng, settings)
    if rng.random() < 0.25:
        image = strip_skull(image, dense, labels, rng)
    image = rescale_by_percentiles(spoil(image, rng, settings.head))
    if rng.random() < 0.5:
        image, objects = image.flip(0), objects.flip(0)
    return LesionSample(image, *_numbered(objects, len(blobs)))


def _place(
    rng: np.random.Generator, dense: Tensor, labels: HeadLabels, settings: LesionSettings
) -> list[_Blob]:
    """Where lesions lie, none on another's middle."""
    if rng.random() < settings.without_share:
        return []
    tissue = ~labels.is_outer & ~np.isin(labels.source_ids, FLUID_IDS)
    places = torch.nonzero(torch.from_numpy(tissue)[dense]).numpy()
    if not len(places):
        return []
    count = 1 + min(int(rng.geometric(0.3)) - 1, settings.most - 1)
    low, high = (np.log(d / 2 / settings.head.spacing_mm) for d in settings.diameter_mm)
    blobs: list[_Blob] = []
    taken: list[tuple[npt.NDArray[np.int64], float]] = []
    for _ in range(count):
        radius = float(np.exp(rng.uniform(low, high)))
        centre = places[int(rng.integers(len(places)))]
        if any(np.linalg.norm(centre - other) < 0.9 * (radius + size) for other, size in taken):
            continue
        taken.append((centre, radius))
        blobs.append(_blob(rng, centre, radius, (dense.shape[0], dense.shape[1], dense.shape[2])))
    return blobs


def _blob(
    rng: np.random.Generator, centre: npt.NDArray[np.int64], radius: float, shape: tuple[int, int, int]
) -> _Blob:
    """A lump of a few ellipsoids with a rough border; `radius` and `centre` in voxels."""
    reach = int(np.ceil(REACH * radius)) + 2
    part = tuple(
        slice(max(0, int(c) - reach), min(n, int(c) + reach + 1)) for c, n in zip(centre, shape, strict=True)
    )
    axes = [
        torch.arange(s.start, s.stop, dtype=torch.float32) - float(c)
        for s, c in zip(part, centre, strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    lobes = int(rng.choice([1, 2, 3, 4, 6], p=[0.3, 0.2, 0.2, 0.2, 0.1]))
    depth = torch.full(grid.shape[1:], -torch.inf)
    for lobe in range(lobes):
        offset = rng.normal(0, 0.38, 3) * radius if lobe else np.zeros(3)
        size = radius * (1.0 if lobes == 1 else float(rng.uniform(0.35, 0.8)))
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        matrix = turn @ np.diag(1 / rng.uniform(0.65, 1.25, 3)) @ turn.T / size
        away = torch.from_numpy(matrix.astype(np.float32)) @ (
            grid.reshape(3, -1) - torch.from_numpy(offset.astype(np.float32))[:, None]
        )
        inside = (1 - away.norm(dim=0)) * size / radius
        depth = torch.maximum(depth, inside.reshape(depth.shape))
    rough = float(rng.uniform(0, 0.3))
    small = (grid.shape[1], grid.shape[2], grid.shape[3])
    depth = depth + rough * smooth_field(rng, 1, int(rng.integers(4, 10)), small)[0]
    return _Blob((part[0], part[1], part[2]), depth, radius)


def _push(points: Tensor, step: np.ndarray, blob: _Blob, strength: float) -> None:
    """Let a lesion displace what is around it: points near it look closer to its middle."""
    centre = [(s.start + s.stop - 1) / 2 for s in blob.part]
    reach = 3 * blob.radius
    shape = points.shape[1:]
    part = [
        slice(max(0, int(c - reach)), min(n, int(c + reach) + 1)) for c, n in zip(centre, shape, strict=True)
    ]
    axes = [torch.arange(s.start, s.stop, dtype=torch.float32) - c for s, c in zip(part, centre, strict=True)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    fall = torch.exp(-grid.square().sum(0) / (1.3 * blob.radius) ** 2)
    shift = torch.einsum("ij,jxyz->ixyz", torch.from_numpy(step.astype(np.float32)), grid * fall)
    points[(slice(None), *part)] -= strength * shift


@dataclass(frozen=True, eq=False)
class _Surroundings:
    """What a lesion lies in.

    Attributes:
        dense: `(R, A, S)` dense labels.
        outer: `(R, A, S)` true outside the brain.
        labels: tables of the labels.
        brightness: lowest and highest usual intensity of the brain.
    """

    dense: Tensor
    outer: Tensor
    labels: HeadLabels
    brightness: tuple[float, float]


def _brightness(image: Tensor, outer: Tensor) -> tuple[float, float]:
    inside = image[~outer][::50]
    if inside.numel() < 20:
        return 0.0, 1.0
    low, high = torch.quantile(inside, torch.tensor([0.05, 0.95]))
    return float(low), float(high)


def _other_than(rng: np.random.Generator, near: float, usual: tuple[float, float], least: float) -> float:
    """An intensity that stands out from `near`, mostly within twice the brain's own range."""
    span = max(usual[1] - usual[0], 0.15)
    for _ in range(20):
        value = float(rng.uniform(max(0.0, usual[0] - 0.6 * span), usual[1] + 1.2 * span))
        if abs(value - near) >= max(least, 0.25 * span):
            return value
    return near + max(least, 0.5 * span)


def _lesion_value(
    rng: np.random.Generator, near: float, usual: tuple[float, float], settings: LesionSettings
) -> float:
    """Intensity of a lesion: beyond the brain's own range, or just other than what is near."""
    if rng.random() >= settings.beyond_share:
        return _other_than(rng, near, usual, settings.least_contrast)
    span = max(usual[1] - usual[0], 0.15)
    distance = max(settings.least_contrast, float(rng.uniform(0.15, 1.5)) * span)
    if rng.random() < settings.bright_share or usual[0] <= distance:
        return usual[1] + distance
    return max(0.0, usual[0] - distance)


def _draw(
    image: Tensor,
    objects: Tensor,
    which: tuple[int, _Blob],
    around: _Surroundings,
    rng: np.random.Generator,
    settings: LesionSettings,
) -> None:
    """Put one lesion into image and objects."""
    number, blob = which
    spacing = settings.head.spacing_mm
    here = image[blob.part]
    dense = around.dense[blob.part]
    brain = (~around.outer[blob.part]).float()
    fluid = torch.from_numpy(np.isin(around.labels.source_ids, FLUID_IDS))[dense].float()
    cover = blob.cover() * brain
    if rng.random() < 0.5:
        cover = cover * (1 - fluid)
    shell = (blob.cover(2.0) * brain * (1 - fluid)) > 0.5
    near = float(here[shell].mean()) if bool(shell.any()) else float(here.mean())
    value = _lesion_value(rng, near, around.brightness, settings)
    if blob.radius * spacing > 4 and rng.random() < 0.55:
        _oedema(here, (blob, brain * (1 - fluid)), (value - near), rng, spacing)
    look = _look(blob, (near, value), around, rng, settings)
    image[blob.part] = here * (1 - cover) + look * cover
    objects[blob.part][cover > 0.5] = number


def _oedema(
    here: Tensor, where: tuple[_Blob, Tensor], change: float, rng: np.random.Generator, spacing: float
) -> None:
    """Change the tissue around a lesion, less than the lesion itself; written into `here`."""
    blob, tissue = where
    extent = float(rng.uniform(2, 14)) / spacing
    rough = 0.5 * extent * smooth_field(rng, 1, 6, (here.shape[0], here.shape[1], here.shape[2]))[0]
    cover = ((blob.depth * blob.radius + extent + rough) / float(rng.uniform(1, 4))).clamp(0, 1) * tissue
    share = float(rng.uniform(0.1, 0.45)) * (1 if rng.random() < 0.5 else -1)
    here += share * change * cover


def _look(
    blob: _Blob,
    values: tuple[float, float],
    around: _Surroundings,
    rng: np.random.Generator,
    settings: LesionSettings,
) -> Tensor:
    """Intensity of a lesion at every voxel of its box."""
    near, value = values
    shape = (blob.depth.shape[0], blob.depth.shape[1], blob.depth.shape[2])
    kind = rng.choice(["solid", "rim", "patchy"], p=[0.4, 0.3, 0.3])
    look = torch.full(shape, value)
    if kind == "rim":
        rim = float(rng.uniform(1.5, 6)) / settings.head.spacing_mm
        core = near + float(rng.uniform(-0.5, 0.5)) * (value - near)
        if rng.random() < 0.6:
            core = _other_than(rng, value, around.brightness, settings.least_contrast)
        share = blob.cover(-rim)
        look = look * (1 - share) + core * share
    elif kind == "patchy":
        share = (0.5 + 3 * smooth_field(rng, 1, int(rng.integers(4, 10)), shape)[0]).clamp(0, 1)
        other = near + float(rng.uniform(0.15, 0.6)) * (value - near)
        look = look * (1 - share) + other * share
    amount = float(rng.uniform(0, 0.12)) * abs(value - near)
    look = look + amount * smooth_field(rng, 1, int(rng.integers(5, 14)), shape)[0]
    grain = float(rng.uniform(0, 0.05))
    return look + grain * torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def _texture(image: Tensor, rng: np.random.Generator) -> None:
    """Let tissue vary over a few millimetres or centimetres, as a Gaussian per voxel does not."""
    shape = (image.shape[0], image.shape[1], image.shape[2])
    for knots in (8, 20):
        image *= 1 + float(rng.uniform(0, 0.05)) * smooth_field(rng, 1, knots, shape)[0]


def _clutter(image: Tensor, outer: Tensor, rng: np.random.Generator, spacing: float) -> None:
    """Vessels anywhere in the head and lumps outside the brain; written into `image`."""
    shape = (image.shape[0], image.shape[1], image.shape[2])
    bright = float(rng.uniform(0, 1.3))
    head = torch.nonzero(image > 0.05).numpy()
    if not len(head):
        return
    for _ in range(int(rng.integers(0, 25))):
        _vessel(image, rng, head[int(rng.integers(len(head)))], bright)
    places = torch.nonzero(outer & (image > 0.05)).numpy()
    for _ in range(int(rng.integers(0, 6)) if len(places) else 0):
        radius = float(rng.uniform(3, 18)) / spacing
        blob = _blob(rng, places[int(rng.integers(len(places)))], radius, shape)
        cover = blob.cover() * outer[blob.part]
        image[blob.part] = image[blob.part] * (1 - cover) + float(rng.uniform(0, 1.2)) * cover


def _vessel(image: Tensor, rng: np.random.Generator, start: npt.NDArray[np.int64], value: float) -> None:
    """A thin winding line from `start` on, one or two voxels wide."""
    length = int(rng.integers(8, 50))
    heading = rng.standard_normal(3)
    turns = np.cumsum(rng.normal(0, 0.25, (length, 3)), axis=0) + heading
    path = start + np.cumsum(0.7 * turns / np.linalg.norm(turns, axis=1, keepdims=True), axis=0)
    share = float(rng.uniform(0.3, 1.0))
    wide = rng.random() < 0.4
    for offset in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)) if wide else ((0, 0, 0),):
        where = np.unique(np.round(path).astype(np.int64) + offset, axis=0)
        where = where[((where >= 0) & (where < image.shape)).all(axis=1)]
        i, j, k = torch.from_numpy(where.T.copy())
        image[i, j, k] = image[i, j, k] * (1 - share) + value * share


def _numbered(objects: Tensor, most: int) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Objects that kept at least four voxels, numbered without gaps, and their boxes."""
    sizes = torch.bincount(objects.reshape(-1), minlength=most + 1)
    kept = [n for n in range(1, most + 1) if int(sizes[n]) >= 4]
    table = torch.zeros(most + 1, dtype=torch.int64)
    boxes = np.zeros((len(kept), 6), dtype=np.int64)
    for new, old in enumerate(kept, start=1):
        table[old] = new
        where = torch.nonzero(objects == old)
        boxes[new - 1] = torch.cat([where.amin(0), where.amax(0) + 1]).numpy()
    return table[objects], boxes
