"""TIFF stacks of microscopy: plain, ImageJ and OME (`.tif`, `.tiff`).

Policies, each held by a test:
- *Axes*: pages are z, rows y, columns x; the array is `(x, y, z)`. Channels, time points and colours are
  refused. One page is a volume only if the file tells its thickness.
- *Voxel size*: what the caller says, else OME-XML, else ImageJ's, else the resolution tags per centimetre
  (inches come from printing and are not believed). A missing z step takes that of x, a missing size 1 mm,
  each with a `NO_VOXEL_SIZE` notice.
- *Place*: a TIFF knows no patient: x, y, z run along the world's axes from its origin. A volume that lies
  elsewhere is not written as TIFF.
- *Packing*: none, Deflate, PackBits. OME files that point to other files are not followed.
- *Names* of a label map travel in the OME description.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.errors import MedsegError, ReadError, WriteError
from medseg.files import file_size, opened, whole_file
from medseg.geometry import Geometry
from medseg.io.label_table import caret_xml, labels_from_caret_xml, written_names
from medseg.io.notices import notify
from medseg.io.plain_xml import parse_plain_xml
from medseg.io.stored import Encoding, Inflater, StoredVoxels, check_claim
from medseg.io.tiff_pages import first_page_tags
from medseg.io.voxels import as_labels, as_volume, label_ids, plain_type
from medseg.labels import LabelSet
from medseg.volume import Array, LabelVolume, Volume

UNIT_MM = {
    "nm": 1e-6, "nanometer": 1e-6, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3,
    "micrometer": 1e-3, "mm": 1.0, "millimeter": 1.0, "cm": 10.0, "centimeter": 10.0, "m": 1000.0,
}  # fmt: skip
RAW, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 8, 32946, 32773
CENTIMETRE = 3
DESCRIPTION = 270
FIXED_UUID = "urn:uuid:00000000-0000-0000-0000-000000000000"
"""OME asks for one; a random one would make the same volume give other bytes."""

_PARSER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What tifffile raises for damaged files: it promises no type."""


@dataclass(frozen=True)
class _Stack:
    """A stack's voxels, sizes and notes, before they are judged.

    Attributes:
        array: `(x, y, z)`.
        steps_mm: voxel size along x, y, z; None where the file does not tell.
        description: text of the first page.
    """

    array: Array
    steps_mm: tuple[float | None, float | None, float | None]
    description: str


def read_volume(path: Path, spacing_mm: Sequence[float] | None = None) -> Volume:
    """Read intensities.

    Args:
        path: `.tif` or `.tiff`.
        spacing_mm: voxel size along x, y, z, instead of the file's.

    Raises:
        ReadError: see `docs/errors.md`.
        GeometryError: `BAD_SHAPE`, `BAD_AFFINE`.
    """
    stack = _read_stack(path)
    return as_volume(stack.array, _geometry(stack, spacing_mm), "TIFF")


def read_labels(path: Path, spacing_mm: Sequence[float] | None = None) -> LabelVolume:
    """Read a label map.

    Args:
        path: `.tif` or `.tiff`.
        spacing_mm: voxel size along x, y, z, instead of the file's.

    Raises:
        ReadError: see `docs/errors.md`.
        GeometryError: `BAD_SHAPE`, `BAD_AFFINE`.
        VolumeError: `NOT_LABELS`.
    """
    stack = _read_stack(path)
    root = parse_plain_xml(stack.description.encode(errors="replace"))
    notes = [] if root is None else [e.text or "" for e in root.iter() if e.tag.endswith("}Description")]
    labels = labels_from_caret_xml(notes[0].encode()) if notes else LabelSet()
    return as_labels(stack.array, _geometry(stack, spacing_mm), labels)


def write_volume(volume: Volume, path: Path) -> None:
    """Write an OME-TIFF stack, packed, whole or not at all.

    Raises:
        WriteError: `PLACE_LOST` for a grid that is turned or moved, `UNSUPPORTED_VOXELS` for 8-byte
            integers; `NOT_WRITABLE`, `DISK_FULL`.
    """
    _write(volume.array, volume.geometry, path, "")


def write_labels(labels: LabelVolume, path: Path) -> None:
    """Write a label map as OME-TIFF in the smallest integer type that holds it, with its names.

    Raises:
        WriteError: as `write_volume`.
        VolumeError: `NOT_LABELS` for negative ids.
    """
    named = written_names(labels)
    names = caret_xml(named).decode() if len(named) else ""
    _write(label_ids(labels.array), labels.geometry, path, names)


# ---------------------------------------------------------------------- reading


@contextmanager
def _parsing() -> Iterator[None]:
    try:
        yield
    except MedsegError:
        raise
    except _PARSER_ERRORS as error:
        raise ReadError(
            "BAD_HEADER", "expected a valid TIFF, got damaged tags or strips; write the file again"
        ) from error


def _read_stack(path: Path) -> _Stack:
    import tifffile

    size = file_size(path)
    codes = first_page_tags(path)
    flags: dict[str, Any] = {"is_ome": False, "is_mmstack": False, "is_ndtiff": False}
    with _parsing(), tifffile.TiffFile(path, _multifile=False, **flags) as tiff:
        series = tiff.series
        if len(series) != 1:
            raise _not_a_stack(f"{len(series)} images of different kinds")
        page = series[0].keyframe
        if DESCRIPTION in codes and DESCRIPTION not in page.tags:  # tifffile passes over a cut one
            raise ReadError(
                "PIXELS_TRUNCATED", "expected a description, got one beyond the end; copy the file again"
            )
        description = page.description
        image_j = dict(tiff.imagej_metadata or {})
        shape = _shape(series[0].get_axes(False), series[0].get_shape(False))
        _check_contents(description, image_j, shape[2])
        steps = _steps(page.tags, description, image_j)
        if shape[2] == 1 and steps[2] is None:
            raise _not_a_stack("a single page without a thickness")
        dtype = np.dtype(series[0].dtype)
        if dtype.kind not in "iufb":
            raise ReadError("UNSUPPORTED_VOXELS", "expected real numbers, got another type; convert the file")
        packed = page.compression != RAW
        check_claim(StoredVoxels(path, shape, dtype, Encoding.GZIP if packed else Encoding.RAW))
        _check_strips(path, series[0].pages, size)
        array = np.asarray(series[0].asarray()).reshape(shape[::-1]).transpose()
    return _Stack(array.astype(dtype.newbyteorder("="), copy=False), steps, description)


def _not_a_stack(what: str) -> ReadError:
    return ReadError(
        "NOT_A_VOLUME", f"expected one stack of grey pages, got {what}; save one channel and one time point"
    )


def _shape(axes: str, sizes: Sequence[int]) -> tuple[int, int, int]:
    """Sizes along x, y, z of an array whose last axes are rows and columns."""
    kept = [(axis, n) for axis, n in zip(axes, sizes, strict=True) if n != 1 or axis in "XY"]
    names = "".join(axis for axis, _ in kept)
    if names not in ("YX", "ZYX", "IYX", "QYX"):
        raise _not_a_stack(f"axes {axes} of sizes {tuple(sizes)}")
    return kept[-1][1], kept[-2][1], kept[0][1] if len(kept) == 3 else 1


def _check_contents(description: str, image_j: Mapping[str, Any], pages: int) -> None:
    """Refuse pages that are not one z stack, though they look like one."""
    ome = _ome_pixels(description)
    channels = int(ome.get("SizeC", 1)) * int(ome.get("SizeT", 1))
    channels *= int(image_j.get("channels", 1)) * int(image_j.get("frames", 1))
    if channels != 1:
        raise _not_a_stack("several channels or time points")
    if int(ome.get("SizeZ", pages)) != pages:
        raise _not_a_stack(f"{pages} pages of {ome['SizeZ']}, the others in files beside it")


def _check_strips(path: Path, pages: Any, size: int) -> None:
    """Every strip inside the file, and none that inflates to more than its page."""
    for page in pages:
        if page is None:
            continue
        if page.compression not in (RAW, DEFLATE, OLD_DEFLATE, PACKBITS):
            raise ReadError(
                "UNSUPPORTED_ENCODING",
                "expected an unpacked, Deflate or PackBits TIFF, got another; save it without compression",
            )
        strips = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        if any(offset < 0 or count < 0 or offset + count > size for offset, count in strips):
            raise ReadError(
                "PIXELS_TRUNCATED", "expected all strips inside the file, got some beyond it; copy it again"
            )
        if page.compression in (DEFLATE, OLD_DEFLATE):
            chunk = math.prod(page.chunks) * np.dtype(page.dtype).itemsize
            with opened(path) as stream:
                for offset, _ in strips:
                    stream.seek(offset)
                    if len(Inflater(stream, Encoding.ZLIB).read(chunk + 1)) > chunk:
                        raise ReadError(
                            "DECOMPRESSION_BOMB", "expected strips of a page's size, got more; save it again"
                        )


# ---------------------------------------------------------------------- voxel size


def _ome_pixels(description: str) -> Mapping[str, str]:
    """Attributes of the first Pixels element of OME-XML; empty where there is none."""
    root = parse_plain_xml(description.encode(errors="replace")) if "<OME" in description else None
    found = None if root is None else next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)
    return {} if found is None else found.attrib


def _length_mm(value: Any, unit_mm: float | None) -> float | None:
    """A length in mm, or None where the file gives none that can be."""
    try:
        size = float(value) * (unit_mm or math.nan)
    except (ArithmeticError, TypeError, ValueError):
        return None
    return size if math.isfinite(size) and size > 0 else None


def _step_mm(pixels_per_unit: Any, unit_mm: float) -> float | None:
    """The step of a resolution tag: a fraction (pixels, units)."""
    try:
        pixels, units = pixels_per_unit
        return _length_mm(units / pixels, unit_mm)
    except (ArithmeticError, TypeError, ValueError):
        return None


def _steps(
    tags: Any, description: str, image_j: Mapping[str, Any]
) -> tuple[float | None, float | None, float | None]:
    """Voxel size in mm along x, y, z, as far as the file tells."""
    ome = _ome_pixels(description)
    if ome:
        x, y, z = (
            _length_mm(ome.get(f"PhysicalSize{n}"), UNIT_MM.get(ome.get(f"PhysicalSize{n}Unit", "µm")))
            for n in "XYZ"
        )
        return x, y, z
    unit_name = re.sub(r"\\u00b5", "µ", str(image_j.get("unit", "")), flags=re.IGNORECASE).lower()
    unit = UNIT_MM.get(unit_name)
    if unit is None and int(tags.valueof("ResolutionUnit", 1)) == CENTIMETRE:
        unit = UNIT_MM["cm"]
    if unit is None:
        return None, None, None
    x, y = (_step_mm(tags.valueof(f"{axis}Resolution"), unit) for axis in "XY")
    return x, y, _length_mm(image_j.get("spacing"), unit)


def _geometry(stack: _Stack, spacing_mm: Sequence[float] | None) -> Geometry:
    if spacing_mm is not None:
        return Geometry.from_spacing(stack.array.shape, spacing_mm)
    x, y, z = stack.steps_mm
    known = [step for step in (x, y, z) if step is not None]
    fallback = x or y or (known[0] if known else 1.0)
    if len(known) < 3:
        notify(
            "NO_VOXEL_SIZE",
            f"the file does not tell the voxel size along every axis; {fallback:g} mm was taken where it "
            "is missing",
        )
    return Geometry.from_spacing(stack.array.shape, (x or fallback, y or fallback, z or fallback))


# ---------------------------------------------------------------------- writing


def _write(array: Array, geometry: Geometry, path: Path, description: str) -> None:
    import tifffile

    if not geometry.is_close(Geometry.from_spacing(geometry.shape, geometry.spacing_mm)):
        raise WriteError(
            "PLACE_LOST",
            "expected a grid along the world's axes from its origin, got one that TIFF cannot place; write "
            ".nii.gz or .nrrd",
        )
    dtype = plain_type(array.dtype)
    if dtype.kind in "iu" and dtype.itemsize == 8:
        raise WriteError(
            "UNSUPPORTED_VOXELS",
            "expected voxels of a type that OME-TIFF has, got 8-byte integers; convert them to int32",
        )
    sizes = {
        key: value
        for axis, step in zip("XYZ", geometry.spacing_mm, strict=True)
        for key, value in ((f"PhysicalSize{axis}", step * 1000), (f"PhysicalSize{axis}Unit", "µm"))
    }
    metadata = {"axes": "ZYX", "UUID": FIXED_UUID, **sizes}
    if description:
        metadata["Description"] = description
    with whole_file(path) as stream:
        tifffile.imwrite(
            stream,
            array.astype(dtype, copy=False).transpose(),
            ome=True,
            bigtiff=array.nbytes > 2**31,
            byteorder="<",
            photometric="minisblack",
            compression="zlib",
            metadata=metadata,
        )
