"""Look-up tables in the place of slopes, and classic multi-frame objects: a volume, or a stable reason."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import dicom_bytes as raw
import numpy as np
import pydicom
import pytest
from dicom_bytes import (
    COLUMNS,
    PIXELS,
    ROWS,
    SLICES,
    Image,
    element,
    image,
    items,
    pixels_of,
    text,
    uid,
    write,
)
from pydicom.pixels.processing import apply_modality_lut

from medseg.errors import ReadError
from medseg.io.dicom_series import read_all, read_series

NUCLEAR, ULTRASOUND, ANGIOGRAPHY = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("20", "3.1", "12.1"))
POSITION, ORIENTATION, BETWEEN = 0x00200032, 0x00200037, 0x00180088


def code_of(folder: Path) -> str:
    with pytest.raises(ReadError) as caught:
        read_series(folder)
    return caught.value.code


# ---------------------------------------------------------------------- look-up tables


def table(first: int, values: list[int], bits: int = 16, kind: str = "H") -> bytes:
    count = len(values) % 2**16
    data = struct.pack(f"<{len(values)}{kind}", *values)
    data += b"\0" * (len(data) % 2)
    inner = element(0x00283002, "US", struct.pack("<HHH", count, first % 2**16, bits))
    return items(inner + element(0x00283004, "LO", text("US")) + element(0x00283006, "OW", data))


def with_table(content: bytes, *, signed: bool = False) -> list[Image]:
    images = [i.without(0x00281052, 0x00281053).put(0x00283000, "SQ", content) for i in raw.series(3)]
    if not signed:
        return images
    shifted = [(pixels_of(n).astype(np.int16) - 200).astype("<i2").tobytes() for n in range(3)]
    return [
        i.us(0x00280103, 1).us(0x00280101, 16).us(0x00280102, 15).put(PIXELS, "OW", data)
        for i, data in zip(images, shifted, strict=True)
    ]


TABLES: dict[str, tuple[int, list[int], int, str, bool]] = {
    "from zero": (0, [3 * n for n in range(900)], 16, "H", False),
    "clipped at both ends": (40, [1000 - n for n in range(200)], 16, "H", False),
    "eight bits": (0, [n % 251 for n in range(701)], 8, "B", False),
    "eight bits in words": (0, [n % 251 for n in range(700)], 8, "H", False),
    "65,536 entries": (0, [(7 * n) % 65536 for n in range(65536)], 16, "H", False),
    "from a negative value": (-150, [2 * n for n in range(500)], 16, "H", True),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_modality_table_gives_the_real_values(name: str, tmp_path: Path) -> None:
    first, values, bits, kind, signed = TABLES[name]
    folder = write(tmp_path / "s", with_table(table(first, values, bits, kind), signed=signed))
    volume = read_series(folder)
    for n in range(3):
        for (row, column), stored in np.ndenumerate(pixels_of(n)):
            entry = int(stored) - 200 * signed - first
            assert volume.array[column, row, n] == values[min(max(entry, 0), len(values) - 1)]
        if bits == 16 and not signed:  # pydicom takes tables of 8 bits and negative starts otherwise
            dataset = pydicom.dcmread(folder / f"{n:03}")
            expected = apply_modality_lut(dataset.pixel_array, dataset)
            assert np.array_equal(volume.array[:, :, n].T, expected)


@pytest.mark.parametrize(
    "images",
    [
        [i.ds(0x00281053, "2").ds(0x00281052, "0") for i in with_table(table(0, [1, 2]))],
        with_table(items(element(0x00283002, "US", struct.pack("<HHH", 9, 0, 16)))),
        with_table(table(0, [1, 2], bits=32)),
        with_table(table(0, [1, 2]) * 2),
    ],
    ids=["beside a slope", "without data", "of 32 bits", "twice"],
)
def test_a_table_that_cannot_be_trusted_is_refused(images: list[Image], tmp_path: Path) -> None:
    assert code_of(write(tmp_path / "s", images)) == "BAD_RESCALE"


def test_tables_of_the_display_are_not_applied(tmp_path: Path) -> None:
    images = [
        i.put(0x00283010, "SQ", table(0, [9] * 900)).ds(0x00281050, "40").ds(0x00281051, "400")
        for i in raw.series()
    ]
    volume = read_series(write(tmp_path / "s", images))
    assert volume.array[0, 0, 2] == int(pixels_of(2)[0, 0]) - 1024


# ---------------------------------------------------------------------- nuclear medicine


def nuclear(vectors: dict[int, list[int]], step: float = -2.5, detectors: int = 1, **more: Any) -> Image:
    """A reconstructed volume whose first slice lies at (-20, -30, 5), turned about the long axis."""
    frames = len(next(iter(vectors.values())))
    whole = image().without(POSITION, ORIENTATION, 0x00281052, 0x00281053)
    whole = whole.put(0x00080016, "UI", uid(NUCLEAR)).put(0x00080060, "CS", text("NM"))
    whole = whole.put(0x00080008, "CS", text(more.get("kind", "ORIGINAL\\PRIMARY\\RECON TOMO\\EMISSION")))
    whole = whole.put(0x00280008, "IS", text(str(frames))).ds(BETWEEN, f"{step:g}")
    places = [
        element(POSITION, "DS", text(f"-20\\-30\\{5 + 100 * n}"))
        + element(ORIENTATION, "DS", text("0.8\\0.6\\0\\-0.6\\0.8\\0"))
        for n in range(detectors)
    ]
    whole = whole.put(0x00540022, "SQ", items(*places))
    for tag, values in vectors.items():
        whole = whole.put(tag, "US", struct.pack(f"<{len(values)}H", *values))
    return whole.put(PIXELS, "OW", b"".join(pixels_of(n).tobytes() for n in range(frames)))


@pytest.mark.parametrize("step", [2.5, -2.5])
def test_reconstructed_slices_lie_where_detector_and_step_say(step: float, tmp_path: Path) -> None:
    order = [3, 1, 2, 5, 4, 6, 8, 7]
    volume = read_series(write(tmp_path / "s", [nuclear({0x00540080: order}, step)]))
    assert volume.dicom is not None
    assert volume.geometry.shape == (COLUMNS, ROWS, SLICES)
    for frame, number in enumerate(order):
        corner = np.array([20.0, 30.0, 5 + step * (number - 1)])  # RAS
        far = corner + np.array([-0.8, -0.6, 0]) * 0.5 * 9 + np.array([0.6, -0.8, 0]) * 0.75 * 11
        i, j, k = np.round(volume.geometry.to_index(np.array([corner, far]))).astype(int).T
        assert np.allclose(volume.geometry.to_world(np.stack([i, j, k], axis=1)), [corner, far], atol=1e-9)
        assert list(volume.array[i, j, k]) == [pixels_of(frame)[0, 0], pixels_of(frame)[-1, -1]]


def test_gated_slices_are_a_volume_per_time_slot(tmp_path: Path) -> None:
    vectors = {0x00540070: [1] * 4 + [2] * 4, 0x00540080: [1, 2, 3, 4] * 2}
    whole = nuclear(vectors, kind="ORIGINAL\\PRIMARY\\RECON GATED TOMO\\EMISSION")
    first, second = read_all(write(tmp_path / "s", [whole]))
    assert first.array.shape == second.array.shape == (COLUMNS, ROWS, 4)
    assert {first.array[0, 0, 3], second.array[0, 0, 3]} == {pixels_of(0)[0, 0], pixels_of(4)[0, 0]}
    assert code_of(tmp_path / "s") == "SEVERAL_VOLUMES"


ONES = list(range(1, 9))
REFUSED = {
    "projections": ("NO_POSITION", nuclear({0x00540080: ONES}, kind="ORIGINAL\\PRIMARY\\TOMO\\EMISSION")),
    "whole body": ("NO_POSITION", nuclear({0x00540020: [1, 1]}, kind="ORIGINAL\\PRIMARY\\WHOLE BODY")),
    "no slice vector": ("NO_POSITION", nuclear({0x00540020: [1] * 8})),
    "short vector": ("BAD_FRAMES", nuclear({0x00540080: ONES}).put(0x00540080, "US", b"\1\0\2\0")),
    "slice 0": ("BAD_FRAMES", nuclear({0x00540080: [0, *range(1, 8)]})),
    "no step": ("BAD_SPACING", nuclear({0x00540080: ONES}).without(BETWEEN)),
    "step 0": ("BAD_SPACING", nuclear({0x00540080: ONES}, 0)),
    "no detector": ("NO_POSITION", nuclear({0x00540080: ONES}).without(0x00540022)),
    "missing detector": ("NO_POSITION", nuclear({0x00540080: ONES, 0x00540020: [2] * 8})),
    "one slice twice": ("DUPLICATE_CONFLICT", nuclear({0x00540080: [1, 2, 2, 3, 4, 5, 6, 7]})),
    "a slice missing": ("MISSING_SLICES", nuclear({0x00540080: [1, 2, 3, 5, 6, 7, 8, 9]})),
    "cine ultrasound": (
        "NO_POSITION",
        nuclear({0x00540080: ONES}).put(0x00080016, "UI", uid(ULTRASOUND)),
    ),
    "angiography": ("NO_POSITION", nuclear({0x00540080: ONES}).put(0x00080016, "UI", uid(ANGIOGRAPHY))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_frames_that_lie_nowhere_are_refused(name: str, tmp_path: Path) -> None:
    code, whole = REFUSED[name]
    assert code_of(write(tmp_path / "s", [whole])) == code
