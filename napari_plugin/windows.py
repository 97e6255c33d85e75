"""What range of intensities is shown: presets of radiology for CT, percentiles for the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

CT_WINDOWS = {
    "abdomen": (40.0, 400.0),
    "liver": (60.0, 160.0),
    "brain": (40.0, 80.0),
    "stroke": (35.0, 40.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "bone": (400.0, 1800.0),
    "angiography": (300.0, 600.0),
}
"""Level and width in Hounsfield units, as commonly printed on workstations."""

_SAMPLES = 200_000


def ct_limits(name: str) -> tuple[float, float]:
    """Lowest and highest Hounsfield unit of a preset."""
    level, width = CT_WINDOWS[name]
    return level - width / 2, level + width / 2


def percentile_limits(array: npt.NDArray[Any], low: float = 0.5, high: float = 99.5) -> tuple[float, float]:
    """Limits by percentiles of an evenly spaced sample of the finite voxels; never equal."""
    flat = array[
        tuple(slice(None, None, max(1, round((array.size / _SAMPLES) ** (1 / 3)))) for _ in range(3))
    ]
    values = flat[np.isfinite(flat)]
    if values.size == 0:
        return 0.0, 1.0
    first, last = (float(v) for v in np.percentile(values, (low, high)))
    return (first, last) if last > first else (first, first + 1.0)


def limits_for(array: npt.NDArray[Any], modality: str) -> tuple[float, float]:
    """What a scan is first shown with: soft tissue for CT, percentiles otherwise."""
    return ct_limits("abdomen") if modality == "CT" else percentile_limits(array)
