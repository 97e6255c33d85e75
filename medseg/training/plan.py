"""How a dataset is learned: a pure function of its fingerprint and of what may be spent.

Rules are those of nnU-Net (Isensee et al., Nature Methods 18, 2021, online methods and supplementary note 2),
where not said otherwise:

| what | rule |
|---|---|
| spacing | median of the cases; of an axis three times coarser than the others the 10th percentile |
| patch | median shape on that spacing, its longest side halved until the budget of voxels holds it |
| coarser | where the patch would show less than 1/16 of a scan (nnU-Net: 1/4, as a second model), the spacing grows together along all axes, but no further than a sixth of the smallest class's diameter |
| network | nnU-Net's own, `DynUNet`, on a GPU; on a CPU MONAI's `UNet` with a single convolution a level and patches twice as large, which learns more in the same time (8 classes of 16 synthesised brains after 100 s of processor time: mean Dice 0.32 against 0.25) |
| depth | an axis is halved while it keeps 4 voxels or more, and while its spacing is within a factor 2 of the finest; until then its kernels are 1 wide |
| width | 32 features on a GPU, 16 on a CPU, doubled with each level up to 320 or 128 |
| intensities | CT: clipped to the 0.5th and 99.5th percentile of the foreground and standardised by its mean and deviation; else each image by its own, without zeros where they fill a quarter of it |
| sampling | half of the patches are centred on a voxel of a class chosen by chance |
| mirroring | along all axes, but not from left to right where a class's name tells a side |
| overlap | half a window, weighted by a Gaussian |

Objects are shown on the grid on which one is 12 voxels wide, as the bundled model `nuclei` sees them.
"""  # noqa: E501  a table's row is one line

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medseg.measure.sides import side_of
from medseg.training.bundle_files import percentiles
from medseg.training.fingerprint import Fingerprint
from medseg.training.networks_by_name import network_arguments
from medseg.training.nuclei_publish import DIAMETER_VOXELS
from medseg.training.nuclei_recipe import PERCENTILES

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]

COARSE_FACTOR = 3.0
LEAST_SHARE = 1 / 16
VOXELS_ACROSS = 6.0
EMPTY_SHARE = 0.25
FEWEST_LESIONS = 3
FACTORS = {"SwinUNETR": 32, "MedNeXt": 16, "SegFormer3D": 32}
"""What sides of a patch are multiples of, for networks whose depth is their own."""


def leaves_one_voxel(network: str, patch: Shape) -> bool:
    """Whether a patch shrinks to one voxel in a network of its own depth: an instance norm needs two."""
    return max(patch) <= FACTORS.get(network, 0)


@dataclass(frozen=True)
class Budget:
    """What may be spent on one training.

    Attributes:
        device: `"cpu"`, `"cuda"` or `"mps"`.
        patch_voxels: of one sample, at most.
        batch: samples of a step.
        width: features of the network's first level.
        widest: features of any level.
        deepest: levels, at most.
    """

    device: str
    patch_voxels: int
    batch: int
    width: int
    widest: int
    deepest: int


CPU_BUDGET = Budget("cpu", 48**3, 2, 16, 128, 5)
"""A step of about a second on two cores."""


def gpu_budget(memory_bytes: int) -> Budget:
    """Of a card: nnU-Net trains 2 patches of 128^3 with 32 features in 8 GB; half of that is left free."""
    share = min(1.0, memory_bytes / 2**34)
    return Budget("cuda", int(128**3 * share), 2, 32, 320, 6)


def lean(budget: Budget) -> Budget:
    """What a budget buys for a network with a single convolution a level: one patch, twice as large."""
    return replace(budget, patch_voxels=2 * budget.patch_voxels, batch=max(1, budget.batch // 2))


@dataclass(frozen=True)
class Plan:
    """All choices of a training; JSON that a person may edit and give again with `--plan`.

    Attributes:
        network: MONAI's class and its arguments.
        orientation: axis codes of the network's grid; None keeps that of the files.
        spacing_mm: of that grid.
        patch: voxels of a sample, and of a window when the model is used.
        batch: samples of a step.
        intensity: MONAI's transform that scales an image, without its keys.
        overlap_fraction: of windows.
        mirror_axes: of the grid, along which samples are mirrored.
        loss: `"dice-ce"`, `"blob"` or `"objects"`.
        foreground_share: of samples that are centred on a voxel of a class.
        learning_rate: at its highest.
        steps: of the optimiser; 0 where the time budget decides.
        check_cases: held-out cases that every check looks at; 0 for all.
        has_objects: whether the network learns depth and foreground of objects.
        diameter_mm: of a typical object; 0 for classes.
        bfloat16: whether convolutions run in half precision.
    """

    network: dict[str, Any]
    orientation: str | None
    spacing_mm: Triple
    patch: Shape
    batch: int
    intensity: dict[str, Any]
    mirror_axes: tuple[int, ...]
    loss: str = "dice-ce"
    overlap_fraction: float = 0.5
    foreground_share: float = 0.5
    learning_rate: float = 3e-3
    steps: int = 0
    check_cases: int = 0
    has_objects: bool = False
    diameter_mm: float = 0.0
    bfloat16: bool = False


def make_plan(
    fingerprint: Fingerprint, budget: Budget = CPU_BUDGET, network: str = "auto", *, bfloat16: bool = False
) -> Plan:
    """Plan a training.

    Args:
        fingerprint: of the dataset.
        budget: what may be spent.
        network: one of `NETWORKS`, or `"auto"`.
        bfloat16: whether the device multiplies in half precision faster than in full.

    Raises:
        SettingsError: `BAD_SETTING`, no such network.
    """
    if fingerprint.object_diameter_mm:
        return _plan_objects(fingerprint, bfloat16=bfloat16)
    if network == "auto":
        network = "UNet" if budget.device == "cpu" else "DynUNet"
    if network == "UNet":
        budget = lean(budget)
    spacing = target_spacing(fingerprint.spacings_mm)
    spacing = _affordable(fingerprint, spacing, budget)
    patch = patch_shape(median_shape(fingerprint, spacing), budget.patch_voxels)
    strides, kernels = levels(patch, spacing, budget.deepest)
    patch = _divisible(patch, [(FACTORS[network],) * 3] if network in FACTORS else strides)
    if leaves_one_voxel(network, patch):
        patch = (2 * patch[0], patch[1], patch[2])
    width = [min(budget.widest, budget.width * 2**n) for n in range(len(strides))]
    sizes = (len(fingerprint.channels), len(fingerprint.classes) + 1)
    sided = any(side_of(one.name) for one in fingerprint.classes)
    lesions = len(fingerprint.classes) == 1 and fingerprint.pieces >= FEWEST_LESIONS
    return Plan(
        network=network_arguments(network, sizes, (strides, kernels, width)),
        orientation="RAS",
        spacing_mm=spacing,
        patch=patch,
        batch=budget.batch,
        intensity=_scaling(fingerprint),
        mirror_axes=(1, 2) if sided else (0, 1, 2),
        loss="blob" if lesions else "dice-ce",
        bfloat16=bfloat16,
    )


def _plan_objects(fingerprint: Fingerprint, *, bfloat16: bool) -> Plan:
    """As `nuclei` was trained: a U-Net with BatchNorm on cubic voxels, a twelfth of an object wide."""
    spacing = fingerprint.object_diameter_mm / DIAMETER_VOXELS
    strides = [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]
    plan = (strides, [(3, 3, 3)] * 4, [16, 32, 48, 64])
    return Plan(
        network=network_arguments("UNet", (1, 2), plan) | {"norm": "batch"},
        orientation=None,
        spacing_mm=(spacing, spacing, spacing),
        patch=(48, 48, 48),
        batch=4,
        intensity=percentiles(*PERCENTILES),
        mirror_axes=(0, 1, 2),
        loss="objects",
        foreground_share=1.0,
        has_objects=True,
        diameter_mm=fingerprint.object_diameter_mm,
        bfloat16=bfloat16,
    )


def target_spacing(spacings_mm: Sequence[Triple]) -> Triple:
    """The spacing on which a network works; see the table above.

    Args:
        spacings_mm: of every case, along the axes of the grid.
    """
    table = np.array(spacings_mm, dtype=np.float64)
    median = np.median(table, axis=0)
    coarse = int(np.argmax(median))
    if median[coarse] > COARSE_FACTOR * np.delete(median, coarse).max():
        fine = float(np.percentile(table[:, coarse], 10))
        median[coarse] = max(fine, np.delete(median, coarse).max())
    return _triple(median)


def median_shape(fingerprint: Fingerprint, spacing_mm: Triple) -> Triple:
    """Median number of voxels that a case has along each axis on a spacing."""
    extents = np.array(fingerprint.shapes) * np.array(fingerprint.spacings_mm)
    return _triple(np.median(extents / spacing_mm, axis=0))


def _affordable(fingerprint: Fingerprint, spacing: Triple, budget: Budget) -> Triple:
    """A spacing on which a patch of the budget shows enough of a scan."""
    voxels = math.prod(median_shape(fingerprint, spacing))
    wanted = (voxels * LEAST_SHARE / budget.patch_voxels) ** (1 / 3)
    volumes = [one.median_volume_mm3 for one in fingerprint.classes if one.median_volume_mm3 > 0]
    diameter = float(np.cbrt(6 / np.pi * min(volumes))) if volumes else 0.0
    factor = max(1.0, min(wanted, diameter / VOXELS_ACROSS / max(spacing)))
    return _triple(np.array(spacing) * factor)


def patch_shape(shape: Triple, most_voxels: int) -> Shape:
    """A scan's shape, its longest side shortened until the budget holds it.

    Args:
        shape: of a median case.
        most_voxels: that the patch may have.
    """
    sides = [max(8, round(n)) for n in shape]
    while math.prod(sides) > most_voxels:
        longest = int(np.argmax(sides))
        sides[longest] = max(8, sides[longest] - max(1, sides[longest] // 16))
    return sides[0], sides[1], sides[2]


def levels(patch: Shape, spacing_mm: Triple, deepest: int) -> tuple[list[Shape], list[Shape]]:
    """Strides and kernels of a U-Net's levels, the first of stride 1.

    Args:
        patch: voxels of a sample.
        spacing_mm: of the grid.
        deepest: most levels.

    Returns:
        Strides and kernels, at least three levels of each.
    """
    size, spacing = np.array(patch), np.array(spacing_mm)
    strides, kernels = [np.ones(3, dtype=int)], []
    while True:
        is_fine = spacing < 2 * spacing.min() * 0.999
        kernels.append(np.where(is_fine, 3, 1))
        halved = is_fine & (size >= 8)
        if len(strides) == deepest or (not halved.any() and len(strides) >= 3):
            break
        step = np.where(halved, 2, 1)
        strides.append(step)
        size, spacing = -(-size // step), spacing * step
    return [_shape(s) for s in strides], [_shape(k) for k in kernels]


def _divisible(patch: Shape, strides: Sequence[Shape]) -> Shape:
    factor = np.prod(np.array(strides), axis=0)
    return _shape(np.maximum(1, np.round(np.array(patch) / factor)).astype(int) * factor)


def _scaling(fingerprint: Fingerprint) -> dict[str, Any]:
    """How images are scaled, as a transform of MONAI."""
    first = fingerprint.channels[0]
    if fingerprint.modality == "CT" and first.std > 0 and first.percentile_99_5 > first.percentile_00_5:
        low, high = first.percentile_00_5, first.percentile_99_5
        return {
            "_target_": "ScaleIntensityRanged",
            "a_min": low,
            "a_max": high,
            "b_min": (low - first.mean) / first.std,
            "b_max": (high - first.mean) / first.std,
            "clip": True,
        }
    is_stripped = fingerprint.zero_share >= EMPTY_SHARE
    return {"_target_": "NormalizeIntensityd", "nonzero": is_stripped, "channel_wise": True}


def _triple(values: Any) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])


def _shape(values: Any) -> Shape:
    return int(values[0]), int(values[1]), int(values[2])
