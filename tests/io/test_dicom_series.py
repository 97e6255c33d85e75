"""Synthetic series read as volumes: values, places, splits, policies; and what is listed."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import dicom_bytes as raw
import hostile_places
import numpy as np
import pytest
from dicom_bytes import PIXELS, Image, element, image, items, pixels_of, series, text, uid, write

import medseg
from medseg.errors import CancelledError, ReadError
from medseg.io import dicom_scan
from medseg.io.dicom_series import list_series, read_all, read_series
from medseg.io.notices import ReadNotice
from medseg.progress import CancelToken, Progress


def check_values(volume: Any, slope: float = 1.0, intercept: float = -1024.0) -> None:
    for n in range(raw.SLICES):
        assert np.array_equal(volume.array[:, :, n].T, pixels_of(n) * slope + intercept)


def code_of(path: Path, **options: Any) -> str:
    with pytest.raises(ReadError) as caught:
        read_series(path, **options)
    return caught.value.code


def quiet(path: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        # The notice is under test elsewhere.
        warnings.simplefilter("ignore", ReadNotice)
        return read_series(path, **options)


# ---------------------------------------------------------------------- right


def test_values_and_places_of_a_plain_series(tmp_path: Path) -> None:
    volume = medseg.read_series(write(tmp_path / "s", series()))
    check_values(volume)
    assert volume.array.dtype == np.int16
    assert volume.modality == "CT"
    # LPS (-20, -30, 5) is RAS (20, 30, 5); columns go left, rows go posterior.
    expected = np.array([[-0.5, 0, 0, 20], [0, -0.75, 0, 30], [0, 0, 2.5, 5], [0, 0, 0, 1]])
    assert np.allclose(volume.geometry.affine, expected)


def test_the_face_reads_a_folder_a_file_of_it_no_suffix_and_a_zip(tmp_path: Path) -> None:
    (folder,) = medseg.read_all(write(tmp_path / "s", series()))
    (zipped,) = medseg.read_all(hostile_places.zipped(tmp_path))
    assert np.array_equal(folder.array, zipped.array)
    assert code_of(tmp_path / "s" / "000") == "SINGLE_SLICE"


def test_values_are_exact_in_every_number_type(tmp_path: Path) -> None:
    halves = [i.ds(0x00281053, "0.1") for i in series()]
    volume = read_series(write(tmp_path / "a", halves))
    assert volume.array.dtype == np.float32
    for n in range(raw.SLICES):
        expected = (pixels_of(n).astype(np.float64) * 0.1 - 1024).astype(np.float32)
        assert np.array_equal(volume.array[:, :, n].T, expected)
    large = [i.ds(0x00281053, "40") for i in series()]
    volume = read_series(write(tmp_path / "b", large))
    assert volume.array.dtype == np.float32
    check_values(volume, 40.0)


def test_a_slope_per_slice_is_not_cut_to_the_first(tmp_path: Path) -> None:
    """PET: SimpleITK takes its voxel type from the first slice and so truncates the rest."""
    stored = np.full((raw.ROWS, raw.COLUMNS), 7, np.uint16).tobytes()
    slopes = (1, 0.375, 0.371, 0.1234)
    images = [
        image(n).put(PIXELS, "OW", stored).ds(0x00281053, str(s)).ds(0x00281052, "0")
        for n, s in enumerate(slopes)
    ]
    volume = read_series(write(tmp_path / "s", images))
    assert np.allclose(volume.array[0, 0], [7, 2.625, 2.597, 0.8638], atol=1e-6)


def test_monochrome1_is_not_inverted_and_overlay_bits_are_no_values(tmp_path: Path) -> None:
    inverted = [i.put(0x00280004, "CS", text("MONOCHROME1")) for i in series()]
    check_values(read_series(write(tmp_path / "a", inverted)))
    overlaid = [i.put(PIXELS, "OW", (pixels_of(n) | 0xF000).tobytes()) for n, i in enumerate(series())]
    check_values(read_series(write(tmp_path / "b", overlaid)))


def test_signed_values_below_sixteen_bits(tmp_path: Path) -> None:
    stored = (np.arange(raw.ROWS * raw.COLUMNS).reshape(raw.ROWS, raw.COLUMNS) - 60).astype(np.int16)
    images = [
        i.us(0x00280103, 1).put(PIXELS, "OW", (stored & 0x0FFF).tobytes()).ds(0x00281052, "0")
        for i in series()
    ]
    volume = read_series(write(tmp_path / "s", images))
    assert np.array_equal(volume.array[:, :, 3].T, stored)


def test_big_endian(tmp_path: Path) -> None:
    """Written by pydicom, which knows how."""
    import pydicom

    folder = write(tmp_path / "s", series())
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        pydicom.dcmwrite(path, dataset, little_endian=False, implicit_vr=False)
    check_values(read_series(folder))


@pytest.mark.parametrize("kind", ["JPEG 2000", "JPEG-LS", "RLE"])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_codecs_give_every_value_back(kind: str, signed: bool, tmp_path: Path) -> None:
    import jpeg_ls
    from openjpeg.utils import encode_array

    images, expected = [], []
    for n, one in enumerate(series(3)):
        stored = np.tile(pixels_of(n).astype(np.int16) - (400 if signed else 0), (6, 7))[:64, :64]
        container = stored.astype("<i2" if signed else "<u2")
        if kind == "JPEG 2000":
            packed = raw.compressed(
                one, raw.J2K, bytes(encode_array(container, photometric_interpretation=2))
            )
        elif kind == "JPEG-LS":
            packed = raw.compressed(one, raw.JLS, bytes(jpeg_ls.encode_array(container.view("<u2"))))
        else:
            packed = raw.compressed(one, raw.RLE, raw.rle_frame(container.tobytes()))
        packed = packed.us(0x00280010, 64).us(0x00280011, 64)
        images.append(packed.us(0x00280101, 16).us(0x00280102, 15).us(0x00280103, int(signed)))
        expected.append(stored - 1024)
    volume = read_series(write(tmp_path / "s", images))
    assert np.array_equal(volume.array.transpose(2, 1, 0), expected)


def test_order_of_files_does_not_matter(tmp_path: Path) -> None:
    plain = read_series(write(tmp_path / "a", series()))
    back = read_series(hostile_places.backwards(tmp_path / "b"))
    assert np.array_equal(plain.array, back.array)
    assert np.allclose(plain.geometry.affine, back.geometry.affine)


def test_multiframe_is_the_same_volume(tmp_path: Path) -> None:
    whole = hostile_places.multiframe(hostile_places.frame_groups(raw.SLICES))
    volume = read_series(write(tmp_path / "s", [whole]))
    check_values(volume, intercept=0)
    assert volume.dicom is not None
    assert [s.frame for s in volume.dicom.slices] == list(range(1, raw.SLICES + 1))


# ---------------------------------------------------------------------- irregular


def placed_slices(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(position, real values) of every file by pydicom, upwards."""
    import pydicom

    planes = []
    for dataset in map(pydicom.dcmread, sorted(path.iterdir())):
        pixels = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        planes.append((np.array(dataset.ImagePositionPatient, float), pixels))
    return sorted(planes, key=lambda plane: float(plane[0][2]))


def upright_oracle(planes: list[tuple[np.ndarray, np.ndarray]], world: np.ndarray) -> float:
    """Value at a place, slowly: bilinear within the two nearest slices, linear between them."""
    x, y, z = world * (-1, -1, 1)
    heights = [p[0][2] for p in planes]
    upper = min(int(np.searchsorted(heights, z - 1e-9)), len(planes) - 1)
    lower = max(upper - 1, 0)

    def within(n: int) -> float:
        position, pixels = planes[n]
        column, row = (x - position[0]) / 0.5, (y - position[1]) / 0.75
        if not (-0.5 <= row <= raw.ROWS - 0.5 and -0.5 <= column <= raw.COLUMNS - 0.5):
            return -1024.0
        row, column = float(np.clip(row, 0, raw.ROWS - 1)), float(np.clip(column, 0, raw.COLUMNS - 1))
        r, c = min(int(row), raw.ROWS - 2), min(int(column), raw.COLUMNS - 2)
        a, b = row - r, column - c
        patch = pixels[r : r + 2, c : c + 2]
        return float(np.array([1 - a, a]) @ patch @ np.array([1 - b, b]))

    if heights[upper] == heights[lower] or z >= heights[-1]:
        return within(upper)
    weight = float((z - heights[lower]) / (heights[upper] - heights[lower]))
    return (1 - weight) * within(lower) + weight * within(upper)


@pytest.mark.parametrize(
    "build", [hostile_places.tilted, hostile_places.variable], ids=["tilted", "variable"]
)
def test_resampled_values_are_those_of_their_place(build: Any, tmp_path: Path) -> None:
    path = build(tmp_path)
    volume = quiet(path)
    assert volume.geometry.is_orthogonal
    random = np.random.default_rng(3)
    planes = placed_slices(path)
    # The oracle's air is fixed; these phantoms' own minimum is above it.
    lowest = float(pixels_of(0).min()) - 1024
    for _ in range(150):
        index = [int(random.integers(n)) for n in volume.geometry.shape]
        expected = upright_oracle(planes, volume.geometry.to_world(index))
        if expected > lowest:
            assert volume.array[tuple(index)] == pytest.approx(expected, abs=1e-2)


def test_a_tilted_series_tells_that_it_was_resampled(tmp_path: Path) -> None:
    path = hostile_places.tilted(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = read_series(path)
    assert [type(w.message).__name__ for w in caught] == ["ReadNotice", "ReadNotice"]
    assert [str(w.message).split("]")[0] for w in caught] == ["[TILTED", "[RESAMPLED"]
    assert volume.dicom is not None
    assert volume.dicom.geometry_class == "tilted"
    assert any("RESAMPLED" in note for note in volume.dicom.notes)
    assert code_of(path, irregular="reject") == "IRREGULAR"


def test_missing_slices_are_bridged_only_on_request(tmp_path: Path) -> None:
    path = hostile_places.one_missing(tmp_path)
    assert code_of(path) == code_of(path, irregular="reject") == "MISSING_SLICES"
    volume = quiet(path, irregular="fill")
    assert volume.array.shape == (raw.COLUMNS, raw.ROWS, raw.SLICES)
    between = (volume.array[:, :, 2] + volume.array[:, :, 4]) / 2
    assert np.allclose(volume.array[:, :, 3], between)


# ---------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("tag", "vr"),
    [(0x00180081, "DS"), (0x00200100, "IS"), (0x00200012, "IS"), (0x00080008, "CS"), (0x00081030, "LO")],
    ids=["echo time", "temporal position", "acquisition", "image type", "instance number alone"],
)
def test_four_dimensions_are_split_into_volumes(tag: int, vr: str, tmp_path: Path) -> None:
    images = []
    for t in range(3):
        for n in range(raw.SLICES):
            one = hostile_places.named(image(n), 100 * (t + 1) + n)
            images.append(one.put(PIXELS, "OW", (pixels_of(n) + t).tobytes()).put(tag, vr, text(str(t + 1))))
    folder = write(tmp_path / "s", images)
    volumes = list(read_all(folder))
    assert len(volumes) == 3
    for t, volume in enumerate(volumes):
        check_values(volume, intercept=-1024 + t)
    assert code_of(folder) == "SEVERAL_VOLUMES"
    for path in folder.iterdir():  # the order of names is turned around, that of the scanner stays
        path.rename(path.with_name(f"{999 - int(path.name)}.dcm"))
    for t, volume in enumerate(volumes):
        check_values(read_series(folder, volume=t + 1), intercept=-1024 + t)
        assert volume.source.endswith(f" volume {t + 1}")
    assert code_of(folder, volume=4) == "NO_VOLUME"
    (info,) = list_series(folder)
    assert info.shape == (raw.COLUMNS, raw.ROWS, raw.SLICES, 3)
    assert info.files == 3 * raw.SLICES


def test_a_trigger_time_per_slice_does_not_split_it(tmp_path: Path) -> None:
    images = [i.ds(0x00181060, str(17 * n)) for n, i in enumerate(series())]
    check_values(read_series(write(tmp_path / "s", images)))


def test_one_series_uid_in_two_studies_stays_two(tmp_path: Path) -> None:
    first, second = list(read_all(hostile_places.two_studies(tmp_path)))
    assert first.dicom is not None
    assert second.dicom is not None
    assert first.dicom.study_uid != second.dicom.study_uid
    check_values(first)


def test_two_patients_are_never_one_volume(tmp_path: Path) -> None:
    path = hostile_places.two_patients(tmp_path)
    (info,) = list_series(path)
    assert (info.readable, info.code) == (False, "MIXED_PATIENT")
    with pytest.raises(ReadError, match="one patient"):
        list(read_all(path))


# ---------------------------------------------------------------------- lists


def test_what_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "a", series())
    other = [
        hostile_places.named(i, 50 + n)
        .put(0x0020000E, "UI", uid(f"{raw.ROOT}.5"))
        .put(PIXELS, "OW", b"\0" * 9)
        for n, i in enumerate(series())
    ]
    write(tmp_path / "b", other)
    good, bad = medseg.list_series(tmp_path)
    assert (good.files, good.shape, good.spacing_mm) == (8, (10, 12, 8), (0.5, 0.75, 2.5))
    assert (good.geometry, good.readable, good.code, good.reason) == ("regular", True, "", "")
    assert (bad.files, bad.readable, bad.code) == (8, False, "PIXELS_TRUNCATED")
    with pytest.warns(ReadNotice, match="PIXELS_TRUNCATED"):
        (volume,) = list(read_all(tmp_path))
    check_values(volume)
    assert code_of(tmp_path, series_uid="1.2.3") == "NO_SERIES"
    check_values(read_series(tmp_path, good.series_uid))


def test_a_damaged_stray_file_is_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", series())
    (folder / "stray").write_bytes(image().bytes()[:421])
    with pytest.warns(ReadNotice, match="unknown series"):
        check_values(read_series(folder))


def test_a_second_look_reads_no_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "s", series())
    first = list_series(folder)
    monkeypatch.setattr(dicom_scan, "read_raw_header", None)
    assert list_series(folder) == first
    monkeypatch.undo()
    (folder / "007").unlink()
    assert list_series(folder)[0].shape == (10, 12, 7)
    changed = image(6).ds(0x00281053, "0").bytes() + b"\0"
    (folder / "006").write_bytes(changed)
    assert list_series(folder)[0].code == "BAD_RESCALE"


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "s", series())
    (tmp_path / "locked").mkdir()
    listed = os.scandir

    def guarded(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError
        return listed(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.warns(ReadNotice, match="1 folders cannot be listed"):
        check_values(read_series(tmp_path))


def test_progress_and_cancel(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", series())
    seen: list[Progress] = []
    read_series(folder, progress=seen.append)
    assert [(p.done, p.total) for p in seen] == [(n, 8) for n in range(1, 9)]
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        list_series(folder, cancel=token)


@pytest.mark.parametrize(
    ("tag", "vr", "words"), [(0x00541001, "CS", ("BQML", "CNTS")), (0x00281054, "LO", ("HU", "US"))]
)
def test_values_of_two_units_are_never_one_volume(
    tag: int, vr: str, words: tuple[str, str], tmp_path: Path
) -> None:
    images = [i.put(tag, vr, text(words[n >= 4])) for n, i in enumerate(series())]
    folder = write(tmp_path / "s", images)
    assert code_of(folder) == "SEVERAL_VOLUMES"
    assert [v.geometry.shape[2] for v in read_all(folder)] == [4, 4]


def test_carets_and_spaces_behind_a_name_do_not_make_another_patient(tmp_path: Path) -> None:
    ends = ["", "^", "^^^", " ", "^ "]
    images = [i.put(0x00100010, "PN", text("Phantom^One" + ends[n % 5])) for n, i in enumerate(series())]
    check_values(read_series(write(tmp_path / "s", images)))


# ---------------------------------------------------------------------- suv


def pet(n: int) -> Image:
    drug = element(0x00181072, "TM", text("080000")) + element(0x00181074, "DS", text("370000000"))
    drug += element(0x00181075, "DS", text("6586.2"))
    one = image(n).put(0x00080060, "CS", text("PT")).ds(0x00281052, "0").ds(0x00281053, f"{0.5 + n}")
    one = one.ds(0x00101030, "70").put(0x00541001, "CS", text("BQML")).put(0x00541102, "CS", text("START"))
    one = one.put(0x00280051, "CS", text("DECY\\ATTN\\SCAT")).put(0x00540016, "SQ", items(drug))
    for date, time in ((0x00080021, 0x00080031), (0x00080022, 0x00080032)):
        one = one.put(date, "DA", text("20200101")).put(time, "TM", text("090000.00"))
    return one


def test_suv_is_asked_for_and_by_body_weight(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", [pet(n) for n in range(4)])
    plain = read_series(folder)
    assert plain.array[0, 0, 2] == pixels_of(2)[0, 0] * 2.5
    with pytest.warns(ReadNotice, match="SUV"):
        volume = read_series(folder, suv=True)
    dose = 370e6 * 2 ** (-3600 / 6586.2)
    assert np.allclose(volume.array, plain.array * (70_000 / dose), rtol=1e-6)


@pytest.mark.parametrize(
    "edit",
    [
        lambda i: i.without(0x00101030),
        lambda i: i.put(0x00541001, "CS", text("CNTS")),
        lambda i: i.put(0x00541102, "CS", text("NONE")),
        lambda i: i.put(0x00280051, "CS", text("ATTN")),
        lambda i: i.put(0x00540016, "SQ", items(b"")),
        lambda i: i.put(0x00080031, "TM", text("100000")),
        lambda i: i.put(0x00080031, "TM", text("noon")),
        lambda i: i.ds(0x00101030, "0"),
    ],
)
def test_suv_of_too_little_is_refused(edit: raw.Edit, tmp_path: Path) -> None:
    assert code_of(write(tmp_path / "s", [edit(pet(n)) for n in range(4)]), suv=True) == "NO_SUV"


# ---------------------------------------------------------------------- no patient value leaks

CANARIES = {
    "PN": "Canary^Name",
    "LO": "CANARY-LONG",
    "SH": "CANARY-SHORT",
    "DA": "19031203",
    "UI": "9.99.999.42",
}


def test_no_canary_in_any_message_log_or_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every input of the list again, with a canary in all elements of a patient's kind."""
    from hostile_dicom import CASES

    caplog.set_level(logging.DEBUG)
    words: list[str] = []
    for n, case in enumerate(CASES):
        # These take seconds each: a bomb, 20,000 members, a decoder in a child.
        if case.name.startswith(("d36", "z04", "JPEG")):
            continue
        place = tmp_path / str(n)
        place.mkdir()
        for file in _with_canaries(case.build(place)):
            assert file.is_file()
        words += _all_words(place)
    words.append(caplog.text)
    words += capfd.readouterr()
    told = "\n".join(words)
    assert "UNSUPPORTED_TS" in told
    for canary in CANARIES.values():
        assert canary not in told


def _with_canaries(path: Path) -> list[Path]:
    """Overwrite what is there by canaries of the same length, and put more elements in front."""
    files = [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()] if path.is_dir() else []
    extra = element(0x00080050, "SH", text(CANARIES["SH"])) + element(0x00080090, "PN", text(CANARIES["PN"]))
    extra += element(0x00081070, "PN", text(CANARIES["PN"])) + element(0x00100010, "PN", text(CANARIES["PN"]))
    extra += element(0x00100020, "LO", text(CANARIES["LO"])) + element(0x00100030, "DA", text(CANARIES["DA"]))
    extra += element(0x00200010, "SH", text(CANARIES["SH"])) + element(0x00200200, "UI", uid(CANARIES["UI"]))
    for file in files:
        content = file.read_bytes()
        at = content.find(b"\x08\0\x60\0CS")
        if at > 0:
            file.write_bytes(content[:at] + extra + content[at:])
    return files


def _all_words(place: Path) -> list[str]:
    words = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for path in place.iterdir():
            for look in (list_series, lambda p: list(read_all(p))):
                try:
                    words.append(repr(look(path)))
                except ReadError as error:
                    words += [str(error), repr(error), repr(error.__cause__), error.code]
    return words + [str(w.message) for w in caught]


def test_a_uid_that_is_none_is_listed_as_a_hash(tmp_path: Path) -> None:
    images = [i.put(0x0020000E, "UI", uid("Canary^Name")) for i in series()]
    (info,) = list_series(write(tmp_path / "s", images))
    assert info.series_uid.startswith("invalid-")
    assert "Canary" not in repr(info)


def test_file_names_in_reasons_are_plain_ascii(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", series())
    (folder / "002").unlink()
    bad = replace(image(2), syntax="1.2.3")
    with open(os.fsencode(folder) + b"/a\xff\nINFO fake", "wb") as stream:  # noqa: PTH123  no str path has this name
        stream.write(bad.bytes())
    (info,) = list_series(folder)
    assert info.code == "BAD_TRANSFER_SYNTAX"
    assert info.reason.isascii()
    assert "\n" not in info.reason
