"""SEG objects of others and of ours: read onto a grid, or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_makers import SOURCES, UNEVEN, kidneys, make_source
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from medseg.errors import ReadError, VolumeError
from medseg.export.dicom_seg import SegKind, write_dicom_seg
from medseg.geometry import Geometry
from medseg.io.dicom_seg_reader import read_dicom_seg
from medseg.labels import LabelSet
from medseg.volume import LabelVolume

SEGMENT_OF = np.array([0, 0, 0, 1, 0, 0, 0, 2, 0, 3])
KINDS: tuple[SegKind, ...] = ("binary", "labelmap")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOURCES)
def test_what_was_written_comes_back(name: str, kind: SegKind, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES[name])
    labels = kidneys(source)
    path = write_dicom_seg(labels, source, tmp_path / "seg.dcm", kind=kind)
    back = read_dicom_seg(path, grid=source.grid)
    assert np.array_equal(back.array, SEGMENT_OF[labels.array])
    assert back.labels.names == {1: "left kidney", 2: "lesion", 3: "Ödem"}
    assert back.labels.find(3).colour == (1, 2, 3)
    code = back.labels.find(1).code
    assert code is not None
    assert (code.scheme, code.value) == ("SCT", "64033007")
    alone = read_dicom_seg(path)
    index = np.argwhere(back.array == 2)
    there = alone.geometry.to_index(back.geometry.to_world(index)).round().astype(int)
    assert (alone.array[tuple(there.T)] == 2).all()
    assert (alone.array == 2).sum() == len(index)


def test_any_orientation_of_the_grid_will_do(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["mr oblique"])
    labels = kidneys(source)
    path = write_dicom_seg(labels, source, tmp_path / "seg.dcm")
    for codes in ("RAS", "SPL", "AIR"):
        turned = labels.reorient(codes)
        assert np.array_equal(read_dicom_seg(path, grid=turned.geometry).array, SEGMENT_OF[turned.array])


def test_chosen_segments_only(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["ct"])
    labels = kidneys(source)
    for kind in KINDS:
        path = write_dicom_seg(labels, source, tmp_path / "seg.dcm", kind=kind)
        back = read_dicom_seg(path, grid=source.grid, only=("lesion", 3))
        assert np.array_equal(back.array, np.where(labels.array == 3, 0, SEGMENT_OF[labels.array]))
        assert back.labels.ids == (2, 3)
        with pytest.raises(VolumeError):
            read_dicom_seg(path, grid=source.grid, only=("heart",))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
def test_a_label_map_in_every_encoding(syntax: pydicom.uid.UID, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["ct"])
    labels = kidneys(source)
    path = write_dicom_seg(labels, source, tmp_path / "seg.dcm", kind="labelmap")
    seg = pydicom.dcmread(path)
    seg.decompress()
    if syntax.is_encapsulated:
        seg.compress(syntax)
    seg.file_meta.TransferSyntaxUID = syntax
    seg.save_as(path)
    back = read_dicom_seg(path, grid=source.grid)
    assert np.array_equal(back.array, SEGMENT_OF[labels.array])


def test_label_maps_with_16_bits(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["ct"])
    count = 400
    array = (np.arange(source.grid.voxels) % (count + 1)).reshape(source.grid.shape).astype(np.uint16)
    labels = LabelVolume(array, source.grid, LabelSet.unnamed(range(1, count + 1)))
    path = write_dicom_seg(labels, source, tmp_path / "seg.dcm", kind="labelmap")
    assert np.array_equal(read_dicom_seg(path).array, array)


# ---------------------------------------------------------------------- others' objects


def test_segmentations_of_dcmqi_equal_their_reference(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "dcmqi_segmentations"
    for name, reference, kept in (
        ("liver.dcm", "liver_seg.nrrd", (1,)),
        ("sparse-labelmap-noppv.dcm", "sparse_labelmap_noppv_seg.nrrd", (1,)),
        ("sparse-labelmap-ppv5.dcm", "sparse_labelmap_ppv5_seg.nrrd", (1,)),  # 5 is padding, no segment
    ):
        image = sitk.ReadImage(str(folder / reference))
        stored = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
        back = read_dicom_seg(folder / name)
        assert np.array_equal(back.array, np.where(np.isin(stored, kept), stored, 0))
        corner = np.array(back.geometry.to_world(np.array(back.geometry.shape) - 1)) * (-1, -1, 1)
        last = image.TransformIndexToPhysicalPoint([n - 1 for n in image.GetSize()])
        assert np.allclose(corner, last, atol=1e-3)


def test_overlapping_segments_are_refused_and_read_one_by_one(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "dcmqi_segmentations"
    path = folder / "partial_overlaps.dcm"
    with pytest.raises(ReadError) as caught:
        read_dicom_seg(path)
    assert caught.value.code == "SEGMENTS_OVERLAP"
    for file, number in ((1, 1), (1, 4), (2, 2), (3, 3), (1, 5)):
        image = sitk.ReadImage(str(folder / f"partial_overlaps-{file}.nrrd"))
        stored = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
        one = read_dicom_seg(path, only=[number])
        assert (one.array > 0).sum() == (stored == number).sum()


# ---------------------------------------------------------------------- refusals


def _frames(number: int) -> Callable[[Dataset], None]:
    def change(seg: Dataset) -> None:
        seg.NumberOfFrames = number

    return change


def _shorten(seg: Dataset) -> None:
    seg.PixelData = seg.PixelData[:20]


def _no_segments(seg: Dataset) -> None:
    seg.SegmentSequence = []


def _twice(seg: Dataset) -> None:
    for item in seg.SegmentSequence:
        item.SegmentNumber = 1


def _image(seg: Dataset) -> None:
    seg.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"


def _other_type(seg: Dataset) -> None:
    seg.SegmentationType = "SURFACE"


def _other_bits(seg: Dataset) -> None:
    seg.BitsAllocated = 8


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_frames(1), "BAD_FRAMES"),
        (_frames(2**31 - 1), "BAD_FRAMES"),
        (_shorten, "PIXELS_TRUNCATED"),
        (_no_segments, "BAD_SEGMENTATION"),
        (_twice, "BAD_SEGMENTATION"),
        (_image, "NOT_A_SEGMENTATION"),
        (_other_type, "BAD_SEGMENTATION"),
        (_other_bits, "BAD_PIXEL_MODULE"),
    ],
)
def test_damage_is_refused(change: Callable[[Dataset], None], code: str, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["ct"])
    path = write_dicom_seg(kidneys(source), source, tmp_path / "seg.dcm")
    seg = pydicom.dcmread(path)
    change(seg)
    seg.save_as(path)
    with pytest.raises(ReadError) as caught:
        read_dicom_seg(path)
    assert caught.value.code == code


def test_damaged_compressed_frames_are_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["ct"])
    path = write_dicom_seg(kidneys(source), source, tmp_path / "seg.dcm", kind="labelmap")
    data = bytearray(path.read_bytes())
    data[-60:] = bytes(60)
    path.write_bytes(bytes(data[:-200]))
    with pytest.raises(ReadError) as caught:
        read_dicom_seg(path)
    assert caught.value.code in ("DECODE_FAILED", "PIXELS_TRUNCATED", "TRUNCATED")


def test_fractions_are_refused_and_all_or_nothing_is_read(tmp_path: Path) -> None:
    import highdicom

    source = make_source(tmp_path / "source", **SOURCES["ct"])
    path = write_dicom_seg(kidneys(source), source, tmp_path / "seg.dcm")
    images = [pydicom.dcmread(s.file.path) for s in source.slices]
    described = highdicom.seg.segread(path).SegmentSequence[:1]
    mask = np.zeros((6, 24, 32), dtype=np.float32)
    mask[2, 3:9, 4:7] = 1.0
    for level, code in ((1.0, ""), (0.5, "FRACTIONAL_SEGMENTATION")):
        seg = highdicom.seg.Segmentation(
            images, mask * level, "FRACTIONAL", described, "1.2.3", 1, "1.2.4", 1, "m", "m", "1", "1"
        )  # fmt: skip
        seg.save_as(path)
        if code:
            with pytest.raises(ReadError) as caught:
                read_dicom_seg(path, grid=source.grid)
            assert caught.value.code == code
        else:
            expected = mask.transpose(2, 1, 0) > 0
            assert np.array_equal(read_dicom_seg(path, grid=source.grid).array > 0, expected)


def test_another_grid_and_uneven_frames_are_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["ct"])
    path = write_dicom_seg(kidneys(source), source, tmp_path / "seg.dcm")
    shifted = source.grid.affine.copy()
    shifted[0, 3] += 0.3
    for grid in (Geometry(source.grid.shape, shifted), source.grid.crop((0, 0, 0), (5, 5, 5))):
        with pytest.raises(ReadError) as caught:
            read_dicom_seg(path, grid=grid)
        assert caught.value.code == "OFF_GRID"
    settings: dict[str, Any] = UNEVEN
    uneven = make_source(tmp_path / "uneven", **settings)
    path = write_dicom_seg(kidneys(uneven), uneven, tmp_path / "seg.dcm")
    with pytest.raises(ReadError) as caught:
        read_dicom_seg(path)
    assert caught.value.code == "VARIABLE_SPACING"
