"""The door between LPS, in which ITK's formats and DICOM speak, and our RAS+.

Left, posterior, superior against right, anterior, superior: the first two axes change sign.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medseg.geometry import FloatArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
LPS_TO_RAS.flags.writeable = False


def ras_from_lps(affine_lps: npt.ArrayLike) -> FloatArray:
    """Affine 4x4, index -> RAS+ mm, of one that leads to LPS mm."""
    affine: FloatArray = LPS_TO_RAS @ np.asarray(affine_lps, dtype=np.float64)
    return affine


def lps_from_ras(affine_ras: npt.ArrayLike) -> FloatArray:
    """Affine 4x4, index -> LPS mm, of one that leads to RAS+ mm; the same flip."""
    return ras_from_lps(affine_ras)
