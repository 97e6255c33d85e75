"""Which transfer syntaxes are read, and by which decoder.

Only decoders with permissive licences that install everywhere: numpy for native pixels, pydicom for
RLE, OpenJPEG, CharLS; classic JPEG of any depth by the GDCM inside SimpleITK, in a guarded child.
"""

from __future__ import annotations

from medseg.io.dicom_elements import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE

NATIVE_SYNTAXES = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED})

RLE = "1.2.840.10008.1.2.5"
JPEG_2000 = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})
JPEG_2000_HIGH_THROUGHPUT = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203))
JPEG_LS = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
JPEG = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70))
"""Baseline, extended with 12 bits, lossless, lossless of first order."""


def is_decodable(transfer_syntax: str) -> bool:
    """Whether images of this syntax can be read."""
    return (
        transfer_syntax in NATIVE_SYNTAXES
        or transfer_syntax == RLE
        or transfer_syntax in JPEG_2000 | JPEG_2000_HIGH_THROUGHPUT | JPEG_LS | JPEG
    )
