"""TIFF stacks: the contract of all formats, and where the voxel size comes from; tifffile writes them."""

from __future__ import annotations

import functools
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from contracts.reader_contract import ReaderContract, code_of, noise

from medseg.errors import WriteError
from medseg.geometry import Geometry
from medseg.io import formats, tiff
from medseg.io.notices import ReadNotice
from medseg.volume import Volume


@pytest.fixture(autouse=True)
def _tifffile_is_silent() -> Iterator[None]:
    """It logs every oddity of damaged files."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("tifffile").setLevel(logging.NOTSET)


class TestTiff(ReaderContract):
    suffix = ".tif"
    any_place = False
    dtypes = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
    truncation_codes = ReaderContract.truncation_codes | {"NOT_A_VOLUME"}
    """tifffile ends a cut list of pages at the last whole page."""

    def reference(self, path: Path) -> tuple[Any, Any]:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            sizes = dict(zip(series.get_axes(squeeze=False), series.get_shape(squeeze=False), strict=True))
            array = series.asarray()
        return array.reshape([sizes[a] for a in "ZYX"]).T, None

    def write_by_reference(self, volume: Volume, path: Path) -> None:
        x, y, z = (1000 * s for s in volume.geometry.spacing_mm)
        sizes = {"PhysicalSizeX": x, "PhysicalSizeY": y, "PhysicalSizeZ": z}
        tifffile.imwrite(
            path, volume.array.T, ome=True, photometric="minisblack", metadata={"axes": "ZYX", **sizes}
        )


save = functools.partial(tifffile.imwrite, photometric="minisblack")
STACK = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)


def spacing_of(path: Path) -> tuple[float, float, float]:
    volume = formats.read_volume(path)
    np.testing.assert_array_equal(volume.array, STACK.T)
    return volume.geometry.spacing_mm


@pytest.mark.parametrize(
    ("unit", "mm"), [("um", 1e-3), ("\\u00B5m", 1e-3), ("micron", 1e-3), ("nm", 1e-6), ("mm", 1)]
)
def test_imagej_size(tmp_path: Path, unit: str, mm: float) -> None:
    path = tmp_path / "a.tif"
    save(path, STACK, imagej=True, resolution=(2, 4), metadata={"axes": "ZYX", "spacing": 3.0, "unit": unit})
    assert spacing_of(path) == pytest.approx((0.5 * mm, 0.25 * mm, 3 * mm))


@pytest.mark.parametrize(("unit", "mm"), [("µm", 1e-3), ("nm", 1e-6), ("mm", 1.0)])
def test_ome_size(tmp_path: Path, unit: str, mm: float) -> None:
    sizes = {f"PhysicalSize{a}": s for a, s in zip("XYZ", (0.5, 0.25, 3), strict=True)}
    units = {f"PhysicalSize{a}Unit": unit for a in "XYZ"}
    path = tmp_path / "a.ome.tif"
    save(path, STACK, ome=True, metadata={"axes": "ZYX", **sizes, **units})
    assert spacing_of(path) == pytest.approx((0.5 * mm, 0.25 * mm, 3 * mm))


def test_a_missing_z_step_takes_that_of_x_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    save(path, STACK, resolution=(20000, 10000), resolutionunit="CENTIMETER")
    with pytest.warns(ReadNotice, match="NO_VOXEL_SIZE"):
        assert spacing_of(path) == pytest.approx((0.0005, 0.001, 0.0005))


@pytest.mark.parametrize("options", [{}, {"resolution": (300, 300), "resolutionunit": "INCH"}])
def test_no_size_is_one_millimetre_and_told(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "a.tif"
    save(path, STACK, **options)
    with pytest.warns(ReadNotice, match="NO_VOXEL_SIZE"):
        assert spacing_of(path) == (1, 1, 1)


def test_the_caller_knows_better(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    save(path, STACK)
    assert tiff.read_volume(path, (1, 2, 3)).geometry.spacing_mm == (1, 2, 3)
    assert tiff.read_labels(path, (1, 2, 3)).geometry.spacing_mm == (1, 2, 3)


PACKING: list[dict[str, Any]] = [
    {"byteorder": ">"},
    {"bigtiff": True},
    {"tile": (16, 16)},
    {"rowsperstrip": 2},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": 2},
]


@pytest.mark.parametrize("options", PACKING)
def test_ways_of_packing(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "a.tif"
    save(path, STACK, **options)
    np.testing.assert_array_equal(tiff.read_volume(path, (1, 1, 1)).array, STACK.T)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((5, 6), {}),
        ((5, 6, 3), {"photometric": "rgb"}),
        ((4, 5, 6, 3), {"photometric": "rgb"}),
        ((4, 2, 5, 6), {"imagej": True, "metadata": {"axes": "ZCYX"}}),
        ((2, 5, 6), {"imagej": True, "metadata": {"axes": "TYX"}}),
        ((2, 5, 6), {"imagej": True, "metadata": {"axes": "CYX"}}),
        ((2, 4, 5, 6), {"ome": True, "metadata": {"axes": "CZYX"}}),
        ((2, 5, 6), {"ome": True, "metadata": {"axes": "TYX"}}),
        ((2, 4, 5, 6), {}),
    ],
)
def test_what_is_no_single_stack_is_refused(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    path = tmp_path / "a.tif"
    save(path, np.zeros(shape, np.uint8), **options)
    assert code_of(path) == "NOT_A_VOLUME"


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    save(path, STACK.astype(np.complex64))
    assert code_of(path) == "UNSUPPORTED_VOXELS"


def test_images_of_different_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(STACK, photometric="minisblack")
        writer.write(np.zeros((9, 9), np.uint8), photometric="minisblack")
    assert code_of(path) == "NOT_A_VOLUME"


def test_files_beside_an_ome_tiff_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    save(path, STACK, ome=True, metadata={"axes": "ZYX"})
    content = path.read_bytes().replace(b'SizeZ="4"', b'SizeZ="8"')
    path.write_bytes(content)
    assert code_of(path) == "NOT_A_VOLUME"


@pytest.mark.parametrize("back_to", [0, 1])
def test_pages_in_a_circle_are_refused(tmp_path: Path, back_to: int) -> None:
    path = tmp_path / "a.tif"
    save(path, STACK)
    with tifffile.TiffFile(path) as file:
        starts = [page.offset for page in file.pages]
    content = bytearray(path.read_bytes())
    position = starts[-1]
    tags = int.from_bytes(content[position : position + 2], "little")
    end = position + 2 + 12 * tags
    content[end : end + 4] = starts[back_to].to_bytes(4, "little")
    path.write_bytes(content)
    assert code_of(path) == "BAD_HEADER"


def test_unknown_packing_is_refused(tmp_path: Path) -> None:
    path = formats.write_volume(noise(Geometry.from_spacing((8, 9, 4))), tmp_path / "a.tif")
    with tifffile.TiffFile(path, mode="r+") as file:
        for page in file.pages:
            page.aspage().tags["Compression"].overwrite(5)
    assert code_of(path) == "UNSUPPORTED_ENCODING"


def test_a_strip_that_inflates_beyond_its_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    save(path, np.zeros((2, 64, 64), np.uint8), compression="zlib")
    bomb = zlib.compress(bytes(50 * 2**20))
    with tifffile.TiffFile(path, mode="r+") as file:
        end = path.stat().st_size
        for page in file.pages:
            page.aspage().tags["StripOffsets"].overwrite(end)
            page.aspage().tags["StripByteCounts"].overwrite(len(bomb))
    path.write_bytes(path.read_bytes() + bomb)
    assert code_of(path) == "DECOMPRESSION_BOMB"
    TestTiff().check_bounded(path)


@pytest.mark.parametrize(
    "moved", [np.diag([-1.0, 1, 1, 1]), np.eye(4)[[1, 0, 2, 3]], np.eye(4) + np.eye(4, k=3)]
)
def test_a_place_that_tiff_cannot_hold_is_refused(tmp_path: Path, moved: np.ndarray[Any, Any]) -> None:
    with pytest.raises(WriteError) as caught:
        formats.write_volume(noise(Geometry((3, 4, 5), moved)), tmp_path / "a.tif")
    assert caught.value.code == "PLACE_LOST"
    assert not list(tmp_path.iterdir())


def test_integers_of_eight_bytes_are_not_in_ome(tmp_path: Path) -> None:
    with pytest.raises(WriteError) as caught:
        formats.write_volume(noise(Geometry.from_spacing((3, 4, 5)), "int64"), tmp_path / "a.tif")
    assert caught.value.code == "UNSUPPORTED_VOXELS"


def test_real_nuclei(shared_data: Path) -> None:
    folder = shared_data / "instances" / "stardist"
    image = tiff.read_volume(folder / "img3d.tif", (0.001, 0.001, 0.002))
    labels = tiff.read_labels(folder / "mask3d.tif", (0.001, 0.001, 0.002))
    np.testing.assert_array_equal(image.array, tifffile.imread(folder / "img3d.tif").T)
    assert len(labels.labels) == 51
