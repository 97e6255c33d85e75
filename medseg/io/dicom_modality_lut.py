"""Look-up tables that stand in the place of slope and intercept (DICOM PS3.3 C.11.1, Modality LUT Module).

Tables of interest to a display (VOI, presentation) are not values and are not applied. A table is checked
when the header is read, and read again with the pixels, so that headers stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import ReadError
from medseg.io.dicom_archive import SourceReader
from medseg.io.dicom_elements import Elements, read_raw_header
from medseg.io.dicom_records import ImageHeader
from medseg.io.dicom_values import integers

MODALITY_LUT = 0x00283000
_DESCRIPTOR, _DATA = 0x00283002, 0x00283006
_MOST_ENTRIES = 2**16


@dataclass(frozen=True, eq=False)
class ModalityLut:
    """A table of real values.

    Attributes:
        first: stored value of the first entry; lower ones take that entry, higher ones the last.
        values: `(entries,)` unsigned.
    """

    first: int
    values: npt.NDArray[Any]

    def applied(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Real values of stored ones, of any shape."""
        index = np.clip(stored.astype(np.int64) - self.first, 0, len(self.values) - 1)
        real: npt.NDArray[Any] = self.values[index]
        return real


def modality_lut_of(elements: Elements, *, signed: bool) -> ModalityLut:
    """The table of an image.

    Args:
        elements: header with `MODALITY_LUT`.
        signed: whether stored values are two's complement.

    Raises:
        ReadError: `BAD_RESCALE` where there is not one whole table.
    """
    tables = elements.items.get(MODALITY_LUT, ())
    descriptor = integers(tables[0], _DESCRIPTOR) if len(tables) == 1 else ()
    if len(descriptor) != 3 or not 8 <= descriptor[2] <= 16:
        raise _bad_table()
    count = descriptor[0] or _MOST_ENTRIES
    first = descriptor[1] - 2**16 if signed and descriptor[1] >= 2**15 else descriptor[1]
    data = tables[0].values.get(_DATA, b"")
    if len(data) == 2 * count:
        kind = "<u2" if elements.little else ">u2"
    elif descriptor[2] == 8 and len(data) == count + count % 2:
        kind = "u1"
    else:
        raise _bad_table()
    return ModalityLut(first, np.frombuffer(data, dtype=kind)[:count].astype(np.uint16))


def _bad_table() -> ReadError:
    return ReadError(
        "BAD_RESCALE",
        "expected RescaleSlope and RescaleIntercept or one whole look-up table, got a damaged one",
    )


def read_modality_lut(reader: SourceReader, header: ImageHeader) -> ModalityLut | None:
    """The table of a file; None where its values need none.

    Raises:
        ReadError: as `modality_lut_of`, or as `SourceReader.open`.
    """
    if header.layout is None or not header.layout.modality_lut:
        return None
    with reader.open(header.file) as (stream, size):
        raw = read_raw_header(stream, size, frozenset({MODALITY_LUT}))
    return modality_lut_of(raw.elements, signed=header.layout.signed)
