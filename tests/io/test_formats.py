"""One table: which suffix is whose, what is refused, what is on the error page."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from contracts.reader_contract import code_of, noise

from medseg.errors import MedsegError
from medseg.geometry import Geometry
from medseg.io import formats
from medseg.io.notices import ReadNotice, notify
from medseg.labels import LabelSet
from medseg.volume import InstanceVolume, LabelVolume

ROOT = Path(__file__).resolve().parents[2]
VOLUME = noise(Geometry.from_spacing((3, 4, 5), (1.0, 2.0, 3.0)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii", "NIfTI"), ("a.NII.GZ", "NIfTI"), ("a.b.nii.gz", "NIfTI"), ("a.hdr", "NIfTI pair"),
        ("a.seg.nrrd", "NRRD"), ("a.nhdr", "detached NRRD"), ("a.mha", "MetaImage"),
        ("a.mhd", "detached MetaImage"),
        ("a.ome.tiff", "TIFF"), ("a.gz", None), ("nii", None), ("a", None), ("a.png", None),
    ],
)  # fmt: skip
def test_suffixes(name: str, expected: str | None) -> None:
    found = formats.find_format(Path("x.nii") / name)
    assert (found.name if found else None) == expected


def test_each_suffix_has_one_row() -> None:
    suffixes = formats.known_suffixes()
    assert len(set(suffixes)) == len(suffixes)
    assert set(formats.known_suffixes(writable=True)) < set(suffixes)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".tif"])
def test_objects_are_named_after_their_class_not_after_the_class_of_their_id(
    tmp_path: Path, suffix: str
) -> None:
    array = np.zeros((4, 5, 6), dtype=np.uint8)
    array[0], array[2] = 1, 2
    classes = LabelSet.from_names({1: "liver", 2: "spleen", 3: "lesion"})
    objects = InstanceVolume(array, Geometry.from_spacing(array.shape), classes, {1: 3, 2: 1})
    read = formats.read_labels(formats.write_labels(objects, tmp_path / f"objects{suffix}"))
    assert read.labels.names == {1: "lesion 1", 2: "liver 2"}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".tif"])
def test_maps_of_very_many_ids_can_be_read_again(tmp_path: Path, suffix: str) -> None:
    array = np.arange(40 * 40 * 20, dtype=np.int32).reshape(40, 40, 20)
    labels = LabelVolume(array, Geometry.from_spacing(array.shape), LabelSet.unnamed(range(array.size)))
    read = formats.read_labels(formats.write_labels(labels, tmp_path / f"many{suffix}"))
    assert np.array_equal(read.array, array)
    assert read.labels.find(777).name == "label 777"


@pytest.mark.parametrize("suffix", formats.known_suffixes(writable=True))
@pytest.mark.parametrize("upper", [False, True])
def test_every_writable_format_reads_its_own(tmp_path: Path, suffix: str, upper: bool) -> None:
    path = formats.write_volume(VOLUME, str(tmp_path / ("a" + (suffix.upper() if upper else suffix))))
    again = formats.read_volume(str(path))
    np.testing.assert_array_equal(again.array, VOLUME.array)
    assert again.geometry.is_close(VOLUME.geometry)


@pytest.mark.parametrize("suffix", [".png", ".hdr", ".mhd", ".gz", ""])
def test_unknown_suffixes_are_not_written(tmp_path: Path, suffix: str) -> None:
    labels = LabelVolume(abs(VOLUME.array.astype(int)), VOLUME.geometry)
    with pytest.raises(MedsegError) as of_volume:
        formats.write_volume(VOLUME, tmp_path / f"a{suffix}")
    with pytest.raises(MedsegError) as of_labels:
        formats.write_labels(labels, tmp_path / f"a{suffix}")
    assert of_volume.value.code == of_labels.value.code == "UNKNOWN_FORMAT"
    assert not list(tmp_path.iterdir())


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    assert code_of(tmp_path / "nothing") == "FILE_NOT_FOUND"
    assert code_of(tmp_path / "nothing.nii\0") == "FILE_NOT_FOUND"
    (tmp_path / "a.png").write_bytes(b"x")
    assert code_of(tmp_path / "a.png") == code_of(tmp_path / "a.png", labels=True) == "UNKNOWN_FORMAT"


def test_a_folder_without_images(tmp_path: Path) -> None:
    assert {code_of(tmp_path), code_of(tmp_path, labels=True)} <= {"NO_IMAGES", "NO_SERIES"}


def test_a_notice_can_be_recorded() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        notify("SOME_CODE", "some text")
    notice = caught[0].message
    assert isinstance(notice, ReadNotice)
    assert (notice.code, str(notice)) == ("SOME_CODE", "[SOME_CODE] some text")
    copied = pickle.loads(pickle.dumps(notice))  # noqa: S301  (from one process to another)
    assert (copied.code, str(copied)) == (notice.code, str(notice))


def test_every_code_of_reading_and_writing_files_is_on_the_error_page() -> None:
    """The DICOM readers are counted too: a reader who meets a code looks it up."""
    page = set(re.findall(r"`([A-Z_]+)`", (ROOT / "docs" / "errors.md").read_text()))
    raised = set()
    for module in (ROOT / "medseg" / "io").glob("*.py"):
        if module.name.startswith("dicom_"):
            continue
        text = module.read_text()
        raised |= set(re.findall(r'(?:Error|notify)\(\s*"([A-Z_]+)"', text))
    assert len(raised) > 15
    assert raised <= page, sorted(raised - page)
