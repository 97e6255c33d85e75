"""NRRD and MetaImage: the contract of all formats, and their own corners; SimpleITK is the measure."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from contracts.reader_contract import ReaderContract, code_of, refuse_detached

from medseg.geometry import Geometry
from medseg.io import formats, metaimage, nrrd
from medseg.io.notices import ReadNotice
from medseg.volume import Volume


class ItkContract(ReaderContract):
    """Formats whose reference is SimpleITK."""

    def reference(self, path: Path) -> tuple[Any, Any]:
        image = SimpleITK.ReadImage(str(path))
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        return SimpleITK.GetArrayFromImage(image).T, np.diag([-1.0, -1, 1, 1]) @ affine

    def write_by_reference(self, volume: Volume, path: Path) -> None:
        lps = np.diag([-1.0, -1, 1, 1]) @ volume.geometry.affine
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(volume.array.T))
        image.SetSpacing(volume.geometry.spacing_mm)
        image.SetOrigin(lps[:3, 3].tolist())
        image.SetDirection((lps[:3, :3] / volume.geometry.spacing_mm).ravel().tolist())
        SimpleITK.WriteImage(image, str(path), useCompression=volume.array.size % 2 == 0)


class TestNrrd(ItkContract):
    suffix = ".nrrd"


class TestMetaImage(ItkContract):
    suffix = ".mha"
    truncation_codes = ReaderContract.truncation_codes | {"DETACHED_DATA_REFUSED", "FILE_NOT_FOUND"}
    """A name cut short, `LO` for `LOCAL`, names another file."""


ARRAY = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
RAW = ARRAY.tobytes(order="F")

NRRD = """NRRD0004
# a comment
type: short
dimension: 3
space: left-posterior-superior
sizes: 2 3 4
space directions: (1,0,0) (0,2,0) (0,0,3)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (10,20,30)
"""

META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 10 20 30
ElementSpacing = 1 2 3
DimSize = 2 3 4
ElementType = MET_SHORT
"""


def a_nrrd(path: Path, *changes: tuple[str, str], data: bytes = RAW) -> Path:
    text = NRRD
    for old, new in changes:
        assert re.search(old, text)
        text = re.sub(old, new, text)
    path.write_bytes(text.encode() + b"\n" + data)
    return path


def a_meta(path: Path, *changes: tuple[str, str], data: bytes = RAW, end: str = "LOCAL") -> Path:
    text = META
    for old, new in changes:
        assert re.search(old, text)
        text = re.sub(old, new, text)
    path.write_bytes(f"{text}ElementDataFile = {end}\n".encode() + data)
    return path


HUGE = "32767 32767 32767"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("sizes: 2 3 4", f"sizes: {HUGE}", "BAD_SHAPE"),
        ("sizes: 2 3 4", "sizes: 2000 2000 2000", "PIXELS_TRUNCATED"),
        ("sizes: 2 3 4", "sizes: 2 3 5", "PIXELS_TRUNCATED"),
        ("sizes: 2 3 4", "sizes: 2 0 4", "BAD_SHAPE"),
        ("sizes: 2 3 4", "sizes: 2 -3 4", "BAD_SHAPE"),
        ("sizes: 2 3 4", "sizes: 2 3", "BAD_HEADER"),
        ("sizes: 2 3 4\n", "", "BAD_HEADER"),
        ("sizes: 2 3 4", "sizes: " + "9" * 400 + " 3 4", "BAD_HEADER"),
        ("dimension: 3", "dimension: 4", "BAD_HEADER"),
        (r"\(1,0,0\)", "none", "NOT_A_VOLUME"),
        (r"\(1,0,0\)", "(1,0)", "NOT_A_VOLUME"),
        (r"\(1,0,0\)", "(0,0,0)", "BAD_AFFINE"),
        (r"\(1,0,0\)", "(0,1,0)", "BAD_AFFINE"),
        (r"\(1,0,0\)", "(nan,0,0)", "BAD_AFFINE"),
        (r"\(1,0,0\)", "(1e400,0,0)", "BAD_AFFINE"),
        (r"\(1,0,0\)", "(one,0,0)", "BAD_HEADER"),
        (r"\(1,0,0\)", "", "BAD_HEADER"),
        ("left-posterior-superior", "scanner-xyz", "BAD_AFFINE"),
        ("type: short", "type: block", "UNSUPPORTED_VOXELS"),
        ("encoding: raw", "encoding: bzip2", "UNSUPPORTED_ENCODING"),
        ("encoding: raw", "encoding: text", "UNSUPPORTED_ENCODING"),
        ("endian: little", "endian: middle", "BAD_HEADER"),
        ("endian: little", "nonsense", "BAD_HEADER"),
        ("endian: little", "endian: little\nline skip: 3", "UNSUPPORTED_ENCODING"),
        ("endian: little", "endian: little\nbyte skip: -7", "UNSUPPORTED_ENCODING"),
        ("NRRD0004", "NRRD9", "WRONG_FORMAT"),
    ],
)
def test_bad_nrrd_headers_are_refused(tmp_path: Path, old: str, new: str, code: str) -> None:
    assert code_of(a_nrrd(tmp_path / "a.nrrd", (old, new))) == code


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("DimSize = 2 3 4", f"DimSize = {HUGE}", "BAD_SHAPE"),
        ("DimSize = 2 3 4", "DimSize = 2000 2000 2000", "PIXELS_TRUNCATED"),
        ("DimSize = 2 3 4", "DimSize = 2 3 0", "BAD_SHAPE"),
        ("DimSize = 2 3 4", "DimSize = 2 3 -4", "BAD_SHAPE"),
        ("DimSize = 2 3 4", "DimSize = 2 3", "BAD_HEADER"),
        ("NDims = 3", "NDims = 4", "BAD_HEADER"),
        ("NDims = 3([^z]*)DimSize = 2 3 4", r"NDims = 2\1DimSize = 6 4", "NOT_A_VOLUME"),
        ("NDims = 3", "NDims = 3\nElementNumberOfChannels = 3", "NOT_A_VOLUME"),
        ("ElementSpacing = 1 2 3", "ElementSpacing = 1 0 3", "BAD_AFFINE"),
        ("ElementSpacing = 1 2 3", "ElementSpacing = 1 nan 3", "BAD_AFFINE"),
        ("ElementSpacing = 1 2 3", "ElementSpacing = 1 1e400 3", "BAD_AFFINE"),
        ("ElementSpacing = 1 2 3", "ElementSpacing = 1 2", "BAD_HEADER"),
        ("ElementSpacing = 1 2 3", "ElementSpacing = 1 2 x", "BAD_HEADER"),
        ("TransformMatrix = 1 0 0", "TransformMatrix = 0 0 0", "BAD_AFFINE"),
        ("MET_SHORT", "MET_OTHER", "UNSUPPORTED_VOXELS"),
        ("BinaryData = True", "BinaryData = False", "UNSUPPORTED_ENCODING"),
        ("NDims = 3", "HeaderSize = abc\nNDims = 3", "BAD_HEADER"),
        ("NDims = 3", "nonsense\nNDims = 3", "BAD_HEADER"),
    ],
)
def test_bad_meta_headers_are_refused(tmp_path: Path, old: str, new: str, code: str) -> None:
    assert code_of(a_meta(tmp_path / "a.mha", (old, new))) == code


def test_detached_nrrd(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "voxels.raw").write_bytes(RAW)
    path = a_nrrd(tmp_path / "in" / "a.nhdr", ("endian", "data file: voxels.raw\nendian"), data=b"")
    np.testing.assert_array_equal(formats.read_volume(path).array, ARRAY)
    (tmp_path / "in" / "voxels.raw").write_bytes(b"some text first" + RAW)
    path = a_nrrd(path, ("endian", "data file: voxels.raw\nbyte skip: -1\nendian"), data=b"")
    np.testing.assert_array_equal(formats.read_volume(path).array, ARRAY)
    refuse_detached(path, NRRD + "data file: {}\n", tmp_path)


def test_detached_meta_image(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.raw").write_bytes(b"x" * 9 + RAW)
    for size in ("9", "-1"):
        path = a_meta(
            tmp_path / "in" / "a.mhd", ("NDims", f"HeaderSize = {size}\nNDims"), data=b"", end="a.raw"
        )
        np.testing.assert_array_equal(formats.read_volume(path).array, ARRAY)
    (tmp_path / "in" / "a.zraw").write_bytes(zlib.compress(RAW))
    path = a_meta(path, ("CompressedData = False", "CompressedData = True"), data=b"", end="a.zraw")
    np.testing.assert_array_equal(formats.read_volume(path).array, ARRAY)
    refuse_detached(path, META + "ElementDataFile = {}\n", tmp_path)


def test_itks_own_pairs_are_read(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(ARRAY.T))
    for name in ("a.mhd", "b.nhdr"):
        SimpleITK.WriteImage(image, str(tmp_path / name), useCompression=True)
        np.testing.assert_array_equal(formats.read_volume(tmp_path / name).array, ARRAY)


def test_bombs_stop_where_the_header_ends(tmp_path: Path) -> None:
    zeros = bytes(30 * 2**20)
    packed = a_nrrd(tmp_path / "a.nrrd", ("encoding: raw", "encoding: gzip"), data=gzip.compress(RAW + zeros))
    assert code_of(packed) == "DECOMPRESSION_BOMB"
    TestNrrd().check_bounded(packed)
    change = ("CompressedData = False", "CompressedData = True")
    packed = a_meta(tmp_path / "a.mha", change, data=zlib.compress(RAW + zeros))
    assert code_of(packed) == "DECOMPRESSION_BOMB"
    TestMetaImage().check_bounded(packed)


@pytest.mark.parametrize(
    ("space", "signs"),
    [("LPS", (-1, -1, 1)), ("left-anterior-superior", (-1, 1, 1)), ("right-anterior-superior", (1, 1, 1))],
)
def test_spaces_of_nrrd(tmp_path: Path, space: str, signs: tuple[int, int, int]) -> None:
    path = a_nrrd(tmp_path / "a.nrrd", ("left-posterior-superior", space))
    affine = np.diag([*np.multiply(signs, (1, 2, 3)), 1.0])
    affine[:3, 3] = np.multiply(signs, (10, 20, 30))
    np.testing.assert_array_equal(formats.read_volume(path).geometry.affine, affine)


@pytest.mark.parametrize("kind", ["int16", "short int", "signed short"])
def test_big_endian_and_the_many_names_of_a_type(tmp_path: Path, kind: str) -> None:
    path = a_nrrd(
        tmp_path / "a.nrrd", ("little", "big"), ("type: short", f"type: {kind}"),
        data=ARRAY.astype(">i2").tobytes(order="F"),
    )  # fmt: skip
    np.testing.assert_array_equal(formats.read_volume(path).array, ARRAY)
    path = a_meta(
        tmp_path / "a.mha",
        ("OrderMSB = False", "OrderMSB = True"),
        data=ARRAY.astype(">i2").tobytes(order="F"),
    )
    np.testing.assert_array_equal(formats.read_volume(path).array, ARRAY)


def test_microns_become_millimetres(tmp_path: Path) -> None:
    unit = ("kinds:", 'space units: "um" "um" "um"\nkinds:')
    volume = formats.read_volume(a_nrrd(tmp_path / "a.nrrd", unit))
    np.testing.assert_allclose(volume.geometry.spacing_mm, (0.001, 0.002, 0.003))
    np.testing.assert_allclose(volume.geometry.affine[:3, 3], (-0.01, -0.02, 0.03))
    volume = formats.read_volume(a_meta(tmp_path / "a.mha", ("NDims", "DistanceUnits = um\nNDims")))
    np.testing.assert_allclose(volume.geometry.spacing_mm, (0.001, 0.002, 0.003))


def test_missing_places_are_assumed_as_itk_does_and_told(tmp_path: Path) -> None:
    paths = [
        a_nrrd(
            tmp_path / "a.nrrd", ("space: .*\n", ""), ("space origin: .*\n", ""),
            ("space directions: .*\n", "spacings: 1 2 3\n"),
        ),
        a_meta(tmp_path / "a.mha", ("TransformMatrix.*\n", "")),
    ]  # fmt: skip
    for path in paths:
        with pytest.warns(ReadNotice, match="NO_ORIENTATION"):
            volume = formats.read_volume(path)
        assert volume.geometry.is_close(Geometry(ARRAY.shape, ItkContract().reference(path)[1]))


def test_axes_that_are_not_in_space(tmp_path: Path) -> None:
    one = (
        ("dimension: 3", "dimension: 4"), ("sizes: 2 3 4", "sizes: 1 2 3 4"), (r"\(1,0,0\)", "none (1,0,0)"),
        ("kinds: domain", "kinds: list domain"),
    )  # fmt: skip
    np.testing.assert_array_equal(formats.read_volume(a_nrrd(tmp_path / "a.nrrd", *one)).array, ARRAY)
    layers = (*one[:1], ("sizes: 2 3 4", "sizes: 2 2 3 4"), *one[2:])
    assert code_of(a_nrrd(tmp_path / "a.nrrd", *layers, data=RAW * 2)) == "NOT_A_VOLUME"


def test_segments_that_slicer_wrote(tmp_path: Path) -> None:
    tags = "TerminologyEntry:list~SCT^123037004^Anatomical Structure~SCT^{}~^^~list~^^~^^|"
    path = tmp_path / "a.seg.nrrd"
    lines = [
        "Segment0_Color:=0.5 1 0", "Segment0_LabelValue:=3", "Segment0_Name:=liver",
        "Segment0_Tags:=" + tags.format("10200004^Liver"),
        "Segment1_LabelValue:=1", "Segment1_Name:=mine", "Segment1_Tags:=" + tags.format("85756007^Tissue"),
        "Segment2_LabelValue:=x", "Segment3_Name:=no value",
    ]  # fmt: skip
    a_nrrd(path, ("endian", "\n".join(lines) + "\nendian"))
    labels = formats.read_labels(path).labels
    liver, mine = labels.find("liver"), labels.find("mine")
    assert (liver.id, liver.colour, mine.id, mine.code) == (3, (128, 255, 0), 1, None)
    assert liver.code is not None
    assert (liver.code.scheme, liver.code.value, liver.code.meaning) == ("SCT", "10200004", "Liver")


def test_real_files_as_itk_reads_them(shared_data: Path) -> None:
    for name in ("brain1_image", "brain1_label"):
        path = shared_data / "brain_mr" / f"{name}.nrrd"
        array, affine = TestNrrd().reference(path)
        volume = nrrd.read_volume(path)
        np.testing.assert_array_equal(volume.array, array)
        assert volume.geometry.is_close(Geometry(array.shape, affine))
    assert nrrd.read_labels(path).labels.ids == (1,)


def test_both_modules_are_what_the_table_calls() -> None:
    assert formats.find_format(Path("A.SEG.NRRD")) is formats.find_format(Path("b.nrrd"))
    found = formats.find_format(Path("a.mha"))
    assert found is not None
    assert found.read_volume is metaimage.read_volume
