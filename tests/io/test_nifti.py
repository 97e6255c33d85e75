"""NIfTI: the contract of all formats, and the standard's own corners; nibabel and ITK are the measure."""

from __future__ import annotations

import gzip
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from contracts.reader_contract import ReaderContract, a_file, code_of, noise, quick
from hypothesis import given
from strategies import geometries

from medseg.errors import MedsegError
from medseg.geometry import Geometry
from medseg.io import formats
from medseg.io.notices import ReadNotice
from medseg.volume import Volume


def loaded(path: Path) -> Any:
    """As nibabel reads it; its own type hints do not tell of images."""
    return nib.load(path)


class TestPlainNifti(ReaderContract):
    suffix = ".nii"
    place_tolerance_voxels = 0.05  # an sform holds float32

    def reference(self, path: Path) -> tuple[Any, Any]:
        image = loaded(path)
        return np.asarray(image.dataobj), image.affine

    def write_by_reference(self, volume: Volume, path: Path) -> None:
        nib.save(nib.Nifti1Image(volume.array, volume.geometry.affine), path)


class TestPackedNifti(TestPlainNifti):
    suffix = ".nii.gz"


@quick
@given(geometry=geometries())
def test_itk_finds_the_same_place(geometry: Geometry) -> None:
    with a_file(".nii.gz") as path:
        formats.write_volume(noise(geometry), path)
        image = SimpleITK.ReadImage(str(path))
    index = [int(n) // 2 for n in geometry.shape]
    point = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
    assert np.abs(geometry.to_index(point) - index).max() < 0.05


def patched(path: Path, **fields: Any) -> Path:
    """A small NIfTI whose header fields are set by hand; a key such as `pixdim_0` sets one element."""
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    header = nib.Nifti1Image(array, np.diag([1.0, 2, 3, 1])).header.copy()
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 1, 0
    header.set_sform(np.diag([1.0, 2, 3, 1]), code=1)
    for name, value in fields.items():
        field, _, place = name.rpartition("_")
        if place.isdigit():
            header[field][int(place)] = value
        else:
            header[name] = value
    content = header.binaryblock + bytes(4) + array.tobytes(order="F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "BAD_SHAPE"),
        ({"dim": [3, 2000, 2000, 2000, 1, 1, 1, 1]}, "PIXELS_TRUNCATED"),
        ({"dim": [3, 2, 3, 5, 1, 1, 1, 1]}, "PIXELS_TRUNCATED"),
        ({"dim": [3, 2, 0, 4, 1, 1, 1, 1]}, "BAD_SHAPE"),
        ({"dim": [3, 2, -3, 4, 1, 1, 1, 1]}, "BAD_SHAPE"),
        ({"dim": [2, 6, 4, 1, 1, 1, 1, 1]}, "NOT_A_VOLUME"),
        ({"dim": [4, 2, 3, 2, 2, 1, 1, 1]}, "NOT_A_VOLUME"),
        ({"dim": [5, 2, 2, 2, 1, 3, 1, 1]}, "NOT_A_VOLUME"),
        ({"dim_0": 0}, "BAD_HEADER"),
        ({"dim_0": 8}, "BAD_HEADER"),
        ({"srow_x": [0, 0, 0, 5]}, "BAD_AFFINE"),
        ({"srow_x": [0, 2, 0, 5]}, "BAD_AFFINE"),
        ({"srow_y": [np.nan, 2, 0, 5]}, "BAD_AFFINE"),
        ({"srow_y": [np.inf, 2, 0, 5]}, "BAD_AFFINE"),
        ({"sform_code": 0, "qform_code": 1, "pixdim_1": 0}, "BAD_AFFINE"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": np.nan}, "BAD_AFFINE"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 7}, "BAD_AFFINE"),
        ({"vox_offset": 1e9}, "PIXELS_TRUNCATED"),
        ({"vox_offset": 0}, "BAD_HEADER"),
        ({"vox_offset": np.nan}, "BAD_HEADER"),
        ({"vox_offset": 352.5}, "BAD_HEADER"),
        ({"datatype": 128}, "UNSUPPORTED_VOXELS"),
        ({"datatype": 32}, "UNSUPPORTED_VOXELS"),
        ({"datatype": 1}, "UNSUPPORTED_VOXELS"),
        ({"datatype": 12345}, "UNSUPPORTED_VOXELS"),
        ({"scl_slope": 2, "scl_inter": np.nan}, "BAD_RESCALE"),
        ({"scl_slope": 3e38, "scl_inter": 3e38}, "BAD_RESCALE"),
        ({"magic": b""}, "ANALYZE_REFUSED"),
        ({"magic": b"ni1"}, "WRONG_FORMAT"),
        ({"magic": b"abc"}, "WRONG_FORMAT"),
    ],
)
def test_bad_headers_are_refused(tmp_path: Path, suffix: str, fields: dict[str, Any], code: str) -> None:
    assert code_of(patched(tmp_path / f"a{suffix}", **fields)) == code


@pytest.mark.parametrize("place", [76, 80, 112, 116, 256, 268, 280, 292])
def test_signalling_nan_is_no_crash(tmp_path: Path, place: int) -> None:
    """Bytes 0x7fa00000: arithmetic on it raises a floating-point flag."""
    path = patched(tmp_path / "a.nii", qform_code=1)
    content = bytearray(path.read_bytes())
    content[place : place + 4] = bytes.fromhex("0000a07f")
    path.write_bytes(content)
    TestPlainNifti().check_bounded(path)


def test_a_trailing_axis_of_one_voxel_is_dropped(tmp_path: Path) -> None:
    assert formats.read_volume(patched(tmp_path / "a.nii", dim=[5, 2, 3, 4, 1, 1, 1, 1])).array.shape == (
        2,
        3,
        4,
    )


# ---------------------------------------------------------------------- place


def test_sform_wins_and_a_disagreement_is_told(tmp_path: Path) -> None:
    path = patched(tmp_path / "a.nii", qform_code=1, qoffset_x=0.6, pixdim=[1, 1, 2, 3, 1, 1, 1, 1])
    with pytest.warns(ReadNotice, match="SFORM_QFORM_DIFFER"):
        volume = formats.read_volume(path)
    np.testing.assert_array_equal(volume.geometry.affine, loaded(path).affine)


def test_half_a_voxel_between_the_forms_is_not_told(tmp_path: Path) -> None:
    formats.read_volume(
        patched(tmp_path / "a.nii", qform_code=1, qoffset_x=0.4, pixdim=[1, 1, 2, 3, 1, 1, 1, 1])
    )


@pytest.mark.parametrize("qfac", [1, -1, 0])
def test_qform_without_sform(tmp_path: Path, qfac: int) -> None:
    fields = {"quatern_b": 0.5, "quatern_c": -0.3, "quatern_d": 0.1, "qoffset_x": 4, "qoffset_z": -7}
    pixdim = [qfac, 1.5, 2, 3, 1, 1, 1, 1]
    path = patched(tmp_path / "a.nii", sform_code=0, qform_code=1, pixdim=pixdim, **fields)
    np.testing.assert_allclose(formats.read_volume(path).geometry.affine, loaded(path).affine, atol=1e-6)


def test_without_any_form_spacing_is_taken_and_told(tmp_path: Path) -> None:
    path = patched(tmp_path / "a.nii", sform_code=0, pixdim=[1, 1.5, 2, 3, 1, 1, 1, 1])
    with pytest.warns(ReadNotice, match="NO_ORIENTATION"):
        volume = formats.read_volume(path)
    np.testing.assert_allclose(volume.geometry.affine, loaded(path).affine)


@pytest.mark.parametrize(("unit", "mm"), [(0, 1.0), (1, 1000.0), (2, 1.0), (3, 0.001)])
def test_units_become_millimetres(tmp_path: Path, unit: int, mm: float) -> None:
    volume = formats.read_volume(patched(tmp_path / "a.nii", xyzt_units=unit))
    np.testing.assert_allclose(volume.geometry.spacing_mm, np.array([1, 2, 3]) * mm)


def test_qform_is_written_only_without_shear(tmp_path: Path) -> None:
    sheared = np.array([[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    for affine, code in ((np.diag([1.0, 2, 3, 1]), 1), (sheared, 0)):
        formats.write_volume(noise(Geometry((3, 4, 5), affine)), tmp_path / "a.nii")
        header = loaded(tmp_path / "a.nii").header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, code)
        assert header.get_xyzt_units()[0] == "mm"


def test_long_axes_need_nifti_2(tmp_path: Path) -> None:
    volume = Volume(np.zeros((40000, 1, 2), np.uint8), Geometry.from_spacing((40000, 1, 2)))
    formats.write_volume(volume, tmp_path / "a.nii.gz")
    assert isinstance(loaded(tmp_path / "a.nii.gz"), nib.Nifti2Image)
    assert formats.read_volume(tmp_path / "a.nii.gz").array.shape == (40000, 1, 2)


def test_big_endian(tmp_path: Path) -> None:
    array = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    image = nib.Nifti1Image(array, np.diag([1.0, 2, 3, 1]), nib.Nifti1Header(endianness=">"))
    image.header.set_data_dtype(">i2")
    nib.save(image, tmp_path / "a.nii.gz")
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes())[:4] == struct.pack(">i", 348)
    volume = formats.read_volume(tmp_path / "a.nii.gz")
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, array)


# ---------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, 0, "int16"), (0, 5, "int16"), (np.nan, 5, "int16"), (np.inf, 0, "int16"), (1, -1024, "int16"),
     (2, 0, "int16"), (10_000, 7, "int32"), (-1, 0, "int16"), (0.5, 0, "float32"), (1, 0.25, "float32")],
)  # fmt: skip
def test_scaling_is_nibabels_and_integers_stay_whole(
    tmp_path: Path, slope: float, intercept: float, dtype: str
) -> None:
    path = patched(tmp_path / "a.nii", scl_slope=slope, scl_inter=intercept)
    volume = formats.read_volume(path)
    assert volume.array.dtype == np.dtype(dtype)
    np.testing.assert_allclose(volume.array, loaded(path).get_fdata(), rtol=1e-6)


def test_scaled_label_maps_are_read(tmp_path: Path) -> None:
    assert formats.read_labels(patched(tmp_path / "a.nii", scl_slope=2)).labels.ids == tuple(range(2, 48, 2))
    assert code_of(patched(tmp_path / "a.nii", scl_slope=0.5), labels=True) == "NOT_LABELS"


# ---------------------------------------------------------------------- names


def test_the_extension_is_the_one_that_totalsegmentator_reads(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    labels = formats.read_labels(patched(tmp_path / "a.nii"))
    image = loaded(formats.write_labels(labels, tmp_path / "b.nii.gz"))
    extension = image.header.extensions[0]
    assert extension.get_code() == 0
    root = ElementTree.fromstring(extension.get_content())  # noqa: S314  (our own XML)
    table = root.find("VolumeInformation/LabelTable")
    assert table is not None
    assert {int(e.attrib["Key"]): e.text for e in table} == labels.labels.names


def with_extension(path: Path, content: bytes, size: int | None = None, code: int = 30) -> Path:
    base = patched(path).read_bytes()
    length = -(-(len(content) + 8) // 16) * 16
    head = bytearray(base[:348])
    struct.pack_into("<f", head, 108, 352 + length)
    block = struct.pack("<ii", length if size is None else size, code) + content.ljust(length - 8, b"\0")
    path.write_bytes(bytes(head) + b"\1\0\0\0" + block + base[352:])
    return path


ROW = '<Label Key="{}" Red="0" Green="1" Blue="0.5" Alpha="1"><![CDATA[{}]]></Label>'


def caret(*rows: str, before: str = "") -> bytes:
    table = "".join(rows)
    inside = f"<VolumeInformation><LabelTable>{table}</LabelTable></VolumeInformation>"
    return f"{before}<CaretExtension>{inside}</CaretExtension>".encode()


def test_names_of_strangers_are_cleaned(tmp_path: Path) -> None:
    rows = [ROW.format(*x) for x in ((0, "air"), (1, "a"), (1, "again"), (2, "a"), (3, " "), ("x", "bad"))]
    labels = formats.read_labels(with_extension(tmp_path / "a.nii", caret(*rows))).labels
    assert [labels.names[i] for i in (1, 2, 3)] == ["a", "a (2)", "label 3"]
    assert labels.find(1).colour == (0, 255, 128)


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (b"<CaretExtension", None),
        (b"\xff" * 50, None),
        (caret(ROW.format(-1, "negative")), None),
        (caret(ROW.format(10**12, "huge")), None),
        (caret(ROW.format(1, "&a;"), before='<!DOCTYPE x [<!ENTITY a "aaa">]>'), None),
        (caret(ROW.format(1, "a")), 2**31 - 1),
        (caret(ROW.format(1, "a")), 0),
        (caret(ROW.format(1, "a")), -16),
    ],
)
def test_damaged_extensions_cost_the_names_only(tmp_path: Path, content: bytes, size: int | None) -> None:
    labels = formats.read_labels(with_extension(tmp_path / "a.nii", content, size))
    assert labels.labels.names[1] == "label 1"


# ---------------------------------------------------------------------- packed files


def test_a_bomb_stops_where_the_header_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    head = gzip.decompress(patched(path).read_bytes())
    path.write_bytes(gzip.compress(head + bytes(30 * 2**20)))
    assert code_of(path) == "DECOMPRESSION_BOMB"
    TestPackedNifti().check_bounded(path)


def test_an_honest_header_over_a_bomb_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    head = gzip.decompress(patched(path, dim=[3, 2000, 2000, 1500, 1, 1, 1, 1]).read_bytes())
    path.write_bytes(gzip.compress(head) + bytes(12 * 2**20))
    assert code_of(path) == "DECOMPRESSION_BOMB"
    TestPackedNifti().check_bounded(path)


def test_zeros_behind_the_voxels_are_allowed(tmp_path: Path) -> None:
    for suffix in (".nii", ".nii.gz"):
        content = patched(tmp_path / "a.nii").read_bytes() + bytes(1000)
        path = tmp_path / f"b{suffix}"
        path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
        assert formats.read_volume(path).array.shape == (2, 3, 4)


def test_a_wrong_check_sum_is_found(tmp_path: Path) -> None:
    path = patched(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    assert code_of(path) == "PIXELS_CORRUPT"


def test_several_members_are_one_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    content = gzip.decompress(patched(path).read_bytes())
    path.write_bytes(
        b"".join(gzip.compress(content[n : n + 50]) for n in range(0, len(content), 50)) + bytes(9)
    )
    assert formats.read_volume(path).array.shape == (2, 3, 4)


def test_suffix_and_packing_must_agree(tmp_path: Path) -> None:
    packed, plain = patched(tmp_path / "a.nii.gz"), patched(tmp_path / "b.nii")
    assert code_of(packed.rename(tmp_path / "c.nii")) == "WRONG_FORMAT"
    assert code_of(plain.rename(tmp_path / "d.nii.gz")) == "WRONG_FORMAT"


def test_a_zlib_stream_is_no_gzip_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(zlib.compress(bytes(1000)))
    assert code_of(path) == "WRONG_FORMAT"


# ---------------------------------------------------------------------- pairs


def a_pair(folder: Path, suffix: str = "") -> tuple[Path, Path]:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nib.Nifti1Pair(array, np.diag([1.0, 2, 3, 1]))
    nib.save(image, folder / f"a.img{suffix}")
    return folder / f"a.hdr{suffix}", folder / f"a.img{suffix}"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_either_file_of_a_pair_names_it(tmp_path: Path, suffix: str) -> None:
    for path in a_pair(tmp_path, suffix):
        np.testing.assert_array_equal(formats.read_volume(path).array, np.asarray(loaded(path).dataobj))


def test_half_a_pair_or_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    header, image = a_pair(tmp_path / "in")
    image.rename(tmp_path / "elsewhere.img")
    assert code_of(header) == "FILE_NOT_FOUND"
    image.symlink_to(tmp_path / "elsewhere.img")
    assert code_of(header) == "DETACHED_DATA_REFUSED"


def test_a_pair_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(MedsegError) as caught:
        formats.write_volume(noise(Geometry.from_spacing((2, 2, 2))), tmp_path / "a.hdr")
    assert caught.value.code == "UNKNOWN_FORMAT"


# ---------------------------------------------------------------------- real files


@pytest.mark.parametrize("read", [formats.read_volume, formats.read_labels])
def test_real_files_as_nibabel_reads_them(shared_data: Path, read: Callable[[Path], Any]) -> None:
    for name in (
        "ct/example_seg.nii.gz",
        "ct/example_seg_mr.nii.gz",
        "brain_mr/aal.nii.gz",
        "brain_mr/ch2.nii.gz",
    ):
        image = loaded(shared_data / name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            volume = read(shared_data / name)
        np.testing.assert_array_equal(volume.array, np.asarray(image.dataobj))
        np.testing.assert_array_equal(volume.geometry.affine, image.affine)


def test_names_that_totalsegmentator_wrote(shared_data: Path) -> None:
    labels = formats.read_labels(shared_data / "ct/example_seg.nii.gz").labels
    assert len(labels) == 117
    assert labels.find("liver").id == 5
    assert labels.find("spleen").colour == (0, 255, 0)
