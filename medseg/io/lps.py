"""The door between LPS, in which ITK's formats and DICOM speak, and our RAS+.

Left, posterior, superior against right, anterior, superior: the first two axes change sign.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.geometry import FloatArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
LPS_TO_RAS.flags.writeable = False


MAX_MM = 1e9
"""A thousand kilometres: beyond it numbers of a header are damage, and arithmetic would overflow."""


def plausible_lengths(words: Iterable[str]) -> list[float]:
    """Numbers of a text header that are to become a place.

    Raises:
        ValueError: a word is no number.
        GeometryError: `BAD_AFFINE` for one that is not finite or beyond `MAX_MM`.
    """
    numbers = [float(word) for word in words]
    if not all(abs(number) <= MAX_MM for number in numbers):
        raise GeometryError("BAD_AFFINE", "expected finite lengths in the header, got others; repair it")
    return numbers


def ras_from_lps(affine_lps: npt.ArrayLike) -> FloatArray:
    """Affine 4x4, index -> RAS+ mm, of one that leads to LPS mm."""
    affine: FloatArray = LPS_TO_RAS @ np.asarray(affine_lps, dtype=np.float64)
    return affine


def lps_from_ras(affine_ras: npt.ArrayLike) -> FloatArray:
    """Affine 4x4, index -> LPS mm, of one that leads to RAS+ mm; the same flip."""
    return ras_from_lps(affine_ras)
