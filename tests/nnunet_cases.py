"""Models and scans on which medseg is held against nnU-Net's own predictor; all seeded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from tiny_nnunet import architecture, configuration, dataset, old_architecture, write_nnunet

from medseg.geometry import Geometry
from medseg.volume import Volume

FLAT = ((1, 3, 3), (3, 3, 3), (3, 3, 3))
FLAT_STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
ANISOTROPIC = {"spacing": (6.0, 1.5, 1.5), "patch": (8, 24, 24)}
FLAT_NETWORK = {"architecture": architecture(kernels=FLAT, strides=FLAT_STRIDES)}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


@dataclass(frozen=True)
class Case:
    """One model and one scan.

    Attributes:
        config: arguments of `tiny_nnunet.configuration`.
        told: arguments of `tiny_nnunet.dataset`.
        model: further arguments of `tiny_nnunet.write_nnunet`.
        shape: voxels of the scan, (i, j, k).
        spacing_mm: of the scan.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    shape: Sequence[int] = (31, 34, 21)
    spacing_mm: Sequence[float] = (1.7, 1.9, 3.4)

    def write_model(self, folder: Path) -> Path:
        """The folder of the trained model, below an existing one."""
        return write_nnunet(folder, configuration(**self.config), dataset(**self.told), **self.model)

    def volumes(self) -> tuple[Volume, ...]:
        """The images: smooth noise in HU, 0 near the border and in a hole."""
        rng = np.random.default_rng(sum(self.shape))
        geometry = Geometry.from_spacing(self.shape, self.spacing_mm)
        channels = len(self.told.get("channels", ("CT",)))
        return tuple(Volume(_scan(self.shape, rng, channel), geometry) for channel in range(channels))


def _scan(shape: Sequence[int], rng: np.random.Generator, channel: int) -> npt.NDArray[np.float32]:
    noise = gaussian_filter(rng.standard_normal(shape), 2.0)
    image: npt.NDArray[np.float32] = np.round(noise / noise.std() * 150 + 60).astype(np.float32)
    image[: 3 + channel], image[:, -2:], image[:, :, :1] = 0, 0, 0
    image[12:18, 10:16, 8:12] = 0
    return image


CASES: dict[str, Case] = {
    "plain": Case(),
    "two-folds": Case(model={"folds": (0, 1)}),
    "regions": Case(told={"labels": REGIONS, "order": (1, 2, 3)}),
    "anisotropic": Case(
        {
            **ANISOTROPIC,
            "network": FLAT_NETWORK,
            "normalisation": ("ZScoreNormalization",),
            "masked": (True,),
        },
        {"channels": ("T1",)},
        shape=(40, 36, 15),
        spacing_mm=(1.2, 1.3, 5.0),
    ),
    "residual-turned": Case(
        {"network": {"architecture": architecture("ResidualEncoderUNet")}, "patch": (20, 16, 24)},
        model={"transpose": (2, 0, 1)},
    ),
    "two-images": Case(
        {"normalisation": ("CTNormalization", "ZScoreNormalization"), "masked": (False, True)},
        {"channels": ("CT", "PET")},
    ),
    "mirrored": Case(model={"mirror": (0, 2)}),
    "old-plans": Case({"network": old_architecture()}, shape=(17, 18, 9)),
}
