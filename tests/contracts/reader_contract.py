"""What every file format must keep: a test class per format inherits these laws."""

from __future__ import annotations

import errno
import os
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ORIENTATIONS, geometries, label_volumes

from medseg.errors import MedsegError, ReadError, VolumeError, WriteError
from medseg.geometry import Geometry
from medseg.io import formats
from medseg.io.notices import ReadNotice
from medseg.labels import Code, Label, LabelSet
from medseg.volume import LabelVolume, Volume

quick = settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)
many = settings(quick, max_examples=50)

MAX_SECONDS = 2.0
MAX_BYTES = 64 * 2**20


@contextmanager
def a_file(suffix: str) -> Iterator[Path]:
    """A name in a folder of its own, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / f"image{suffix}"


def noise(geometry: Geometry, dtype: str = "int16") -> Volume:
    random = np.random.default_rng(7)
    if np.dtype(dtype).kind == "f":
        return Volume(random.normal(0, 100, geometry.shape).astype(dtype), geometry)
    limits = np.iinfo(dtype)
    return Volume(
        random.integers(limits.min, limits.max, geometry.shape, dtype=dtype, endpoint=True), geometry
    )


def code_of(path: Path, *, labels: bool = False) -> str:
    """The code with which a file is refused."""
    with pytest.raises(MedsegError) as caught:
        (formats.read_labels if labels else formats.read_volume)(path)
    assert str(path.parent) not in str(caught.value)
    return caught.value.code


class ReaderContract:
    """Laws of one format."""

    suffix: ClassVar[str]
    any_place: ClassVar[bool] = True
    """Whether the format can hold any orientation and origin."""
    truncation_codes: ClassVar[frozenset[str]] = frozenset({"WRONG_FORMAT", "PIXELS_TRUNCATED", "BAD_HEADER"})
    dtypes: ClassVar[tuple[str, ...]] = (
        "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64",
    )  # fmt: skip
    place_tolerance_voxels: ClassVar[float] = 1e-9

    def reference(self, path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
        """Array (i, j, k) and RAS affine as another program reads them; affine None if it has no notion."""
        raise NotImplementedError

    def write_by_reference(self, volume: Volume, path: Path) -> None:
        """Write by another program."""
        raise NotImplementedError

    def place(self, geometry: Geometry) -> Geometry:
        """The grid, or the nearest one that this format can hold."""
        if self.any_place:
            return geometry
        return Geometry.from_spacing(geometry.shape, geometry.spacing_mm)

    def sample(self, shape: tuple[int, int, int] = (5, 6, 7), dtype: str = "int16") -> Volume:
        affine = np.array([[0, 0, 2.5, -40], [-0.7, 0, 0, 33], [0, 1.25, 0, 12], [0, 0, 0, 1.0]])
        return noise(self.place(Geometry(shape, affine)), dtype)

    # ------------------------------------------------------------------ what survives

    @quick
    @given(geometry=geometries(shear=False))
    def test_voxels_and_place_survive(self, geometry: Geometry) -> None:
        self._check_survival(geometry)

    @quick
    @given(geometry=geometries(shear=True))
    def test_sheared_grids_survive(self, geometry: Geometry) -> None:
        self._check_survival(geometry)

    @pytest.mark.parametrize("codes", ORIENTATIONS)
    def test_each_orientation_survives(self, codes: str) -> None:
        grid = Geometry((3, 4, 5), np.array([[0.7, 0, 0, 9], [0, 2, 0, -8], [0, 0, 5, 70], [0, 0, 0, 1.0]]))
        self._check_survival(grid.reorient(codes))

    def _check_survival(self, geometry: Geometry) -> None:
        volume = noise(self.place(geometry))
        with a_file(self.suffix) as path:
            assert formats.write_volume(volume, path) == path
            again = formats.read_volume(path)
            array, affine = self.reference(path)
        np.testing.assert_array_equal(again.array, volume.array)
        np.testing.assert_array_equal(array, volume.array)
        assert volume.geometry.is_close(again.geometry, self.place_tolerance_voxels)
        if affine is not None:
            assert again.geometry.is_close(Geometry(volume.array.shape, affine), 1e-3)

    @quick
    @given(geometry=geometries())
    def test_reads_what_others_write(self, geometry: Geometry) -> None:
        volume = noise(self.place(geometry))
        with a_file(self.suffix) as path:
            self.write_by_reference(volume, path)
            again = formats.read_volume(path)
        np.testing.assert_array_equal(again.array, volume.array)
        assert volume.geometry.is_close(again.geometry, 1e-3)

    def test_types_survive(self, tmp_path: Path) -> None:
        for dtype in self.dtypes:
            volume = self.sample(dtype=dtype)
            again = formats.read_volume(formats.write_volume(volume, tmp_path / f"{dtype}{self.suffix}"))
            assert again.array.dtype == np.dtype(dtype)
            assert again.array.dtype.isnative
            np.testing.assert_array_equal(again.array, volume.array)

    def test_any_memory_order_and_byte_order_is_written_alike(self, tmp_path: Path) -> None:
        volume = self.sample()
        orders: list[Callable[[Any], Any]] = [
            np.ascontiguousarray,
            np.asfortranarray,
            lambda a: a.astype(">i2"),
            lambda a: a[::-1][::-1],
        ]
        files = set()
        for n, order in enumerate(orders):
            path = tmp_path / f"{n}{self.suffix}"
            formats.write_volume(Volume(order(volume.array), volume.geometry), path)
            files.add(path.read_bytes())
        assert len(files) == 1

    def test_an_array_read_may_be_written_to_and_is_not_copied_again(self, tmp_path: Path) -> None:
        again = formats.read_volume(formats.write_volume(self.sample(), tmp_path / f"a{self.suffix}"))
        assert again.array.flags.writeable
        assert again.array.flags.f_contiguous

    def test_reading_takes_little_more_than_the_voxels(self, tmp_path: Path) -> None:
        volume = self.sample((64, 128, 256))
        path = formats.write_volume(volume, tmp_path / f"a{self.suffix}")
        formats.read_volume(path)  # libraries are loaded now
        tracemalloc.start()
        formats.read_volume(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * volume.array.nbytes + 3 * 2**20

    def test_single_voxel_and_constant_volumes_are_volumes(self, tmp_path: Path) -> None:
        for shape in ((1, 1, 1), (4, 1, 3)):
            volume = Volume(np.full(shape, 5, np.int16), self.place(Geometry.from_spacing(shape)))
            again = formats.read_volume(formats.write_volume(volume, tmp_path / f"a{self.suffix}"))
            np.testing.assert_array_equal(again.array, volume.array)

    @quick
    @given(labels=label_volumes(classes=4, dtype="int64"))
    def test_label_maps_survive_in_the_smallest_type(self, labels: LabelVolume) -> None:
        labels = LabelVolume(labels.array, self.place(labels.geometry), labels.labels)
        with a_file(self.suffix) as path:
            formats.write_labels(labels, path)
            again = formats.read_labels(path)
            array, _ = self.reference(path)
        assert again.array.dtype == np.uint8 == array.dtype
        np.testing.assert_array_equal(again.array, labels.array)
        assert again.labels == labels.labels

    def test_names_colours_and_codes_survive(self, tmp_path: Path) -> None:
        liver = Label(3, "liver & <b>'quoted\"</b>", (1, 2, 254), Code("SCT", "10200004", "Liver"))
        names = LabelSet(
            (liver, Label(70000, "rein gauche é 腎", (0, 0, 0)), Label(2**31 - 1, "last", (9, 8, 7)))
        )
        array = np.zeros((3, 4, 5), np.int64)
        array[0, 0, :3] = (3, 70000, 2**31 - 1)
        labels = LabelVolume(array, self.place(Geometry.from_spacing(array.shape)), names)
        again = formats.read_labels(formats.write_labels(labels, tmp_path / f"a{self.suffix}"))
        assert again.labels == names
        assert again.array.dtype == np.int32
        np.testing.assert_array_equal(again.array, array)

    def test_ids_without_a_name_get_one(self, tmp_path: Path) -> None:
        array = np.array([0, 4, 300], np.uint16).reshape(1, 1, 3)
        labels = LabelVolume(array, self.place(Geometry.from_spacing(array.shape)))
        again = formats.read_labels(formats.write_labels(labels, tmp_path / f"a{self.suffix}"))
        assert again.labels.names == {4: "label 4", 300: "label 300"}

    def test_same_volume_same_bytes(self, tmp_path: Path) -> None:
        paths = [tmp_path / f"{n}{self.suffix}" for n in "ab"]
        for path in paths:
            formats.write_volume(self.sample(), path)
        assert paths[0].read_bytes() == paths[1].read_bytes()

    # ------------------------------------------------------------------ values

    def test_voxels_that_are_not_finite_are_mended_and_told(self, tmp_path: Path) -> None:
        volume = self.sample(dtype="float32")
        volume.array[0, 0, :3] = (np.nan, np.inf, -np.inf)
        lowest = volume.array[np.isfinite(volume.array)].min()
        path = formats.write_volume(volume, tmp_path / f"a{self.suffix}")
        with pytest.warns(ReadNotice, match=r"\[NOT_FINITE\] 3 voxels"):
            again = formats.read_volume(path)
        np.testing.assert_array_equal(again.array[0, 0, :3], lowest)

    def test_a_volume_without_a_finite_voxel_is_refused(self, tmp_path: Path) -> None:
        volume = self.sample(dtype="float32")
        volume.array[...] = np.nan
        assert code_of(formats.write_volume(volume, tmp_path / f"a{self.suffix}")) == "ALL_NAN"

    @pytest.mark.parametrize("value", [0.5, -1.0, float("nan"), 3e9])
    def test_images_are_no_label_maps(self, tmp_path: Path, value: float) -> None:
        array = np.full((2, 3, 4), 1.0)
        array[0, 1, 2] = value
        volume = Volume(array, self.place(Geometry.from_spacing(array.shape)))
        path = formats.write_volume(volume, tmp_path / f"a{self.suffix}")
        assert code_of(path, labels=True) == "NOT_LABELS"

    def test_whole_floats_are_a_label_map(self, tmp_path: Path) -> None:
        volume = Volume(np.full((2, 3, 4), 7.0), self.place(Geometry.from_spacing((2, 3, 4))))
        again = formats.read_labels(formats.write_volume(volume, tmp_path / f"a{self.suffix}"))
        assert again.array.dtype == np.uint8
        assert again.labels.ids == (7,)

    # ------------------------------------------------------------------ whole or not at all

    @pytest.mark.parametrize(
        ("number", "code"),
        [(errno.ENOSPC, "DISK_FULL"), (errno.EDQUOT, "DISK_FULL"), (errno.EIO, "NOT_WRITABLE")],
    )
    def test_a_failed_write_leaves_the_old_file_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
    ) -> None:
        path = tmp_path / f"a{self.suffix}"
        path.write_bytes(b"old")

        def refuse(_: int) -> None:
            raise OSError(number, "refused")

        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(WriteError) as caught:
            formats.write_volume(self.sample(), path)
        assert caught.value.code == code
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
        assert path.read_bytes() == b"old"

    def test_an_interrupt_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(_: int) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            formats.write_volume(self.sample(), tmp_path / f"a{self.suffix}")
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_is_missing_or_a_file_or_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / f"folder{self.suffix}").mkdir()
        for name in (
            f"missing/a{self.suffix}",
            f"file/a{self.suffix}",
            f"folder{self.suffix}",
            f"a\0{self.suffix}",
        ):
            with pytest.raises(WriteError) as caught:
                formats.write_volume(self.sample(), tmp_path / name)
            assert caught.value.code == "NOT_WRITABLE"

    def test_negative_ids_are_not_written(self, tmp_path: Path) -> None:
        labels = LabelVolume(np.full((2, 2, 2), -1), self.place(Geometry.from_spacing((2, 2, 2))))
        with pytest.raises(VolumeError, match="label ids"):
            formats.write_labels(labels, tmp_path / f"a{self.suffix}")
        assert not list(tmp_path.iterdir())

    # ------------------------------------------------------------------ hostile files

    def test_missing_empty_and_foreign_files(self, tmp_path: Path) -> None:
        path = tmp_path / f"a{self.suffix}"
        assert code_of(path) == "FILE_NOT_FOUND"
        for content in (b"", b"\0", b"hello\n" * 1000, os.urandom(500), b"PK\3\4" + bytes(2000)):
            path.write_bytes(content)
            assert code_of(path) == code_of(path, labels=True) == "WRONG_FORMAT"

    def test_a_pipe_is_not_opened(self, tmp_path: Path) -> None:
        path = tmp_path / f"a{self.suffix}"
        os.mkfifo(path)
        assert code_of(path) == "NOT_A_FILE"

    def test_every_truncation_is_refused(self, tmp_path: Path) -> None:
        path = formats.write_volume(self.sample((3, 4, 5)), tmp_path / f"a{self.suffix}")
        content = path.read_bytes()
        for end in range(0, len(content), 7):
            path.write_bytes(content[:end])
            assert code_of(path) in self.truncation_codes, end

    @many
    @given(data=st.data())
    def test_mutated_files_are_read_or_refused(self, data: st.DataObject) -> None:
        """Never another error, never for long, never with much memory."""
        with a_file(self.suffix) as path:
            formats.write_labels(LabelVolume(self.sample().array % 3, self.sample().geometry), path)
            content = bytearray(path.read_bytes())
            for _ in range(data.draw(st.integers(1, 6))):
                position = data.draw(st.integers(0, min(len(content) - 1, 900)))
                piece = data.draw(
                    st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 8, b"\0" * 8])
                )
                content[position : position + len(piece)] = piece
            path.write_bytes(content)
            self.check_bounded(path)

    def check_bounded(self, path: Path) -> None:
        """Read, as volume and as labels, within bounds; only medseg's errors come out."""
        for read in (formats.read_volume, formats.read_labels):
            tracemalloc.start()
            began = time.process_time()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ReadNotice)
                    read(path)
            except MedsegError:
                pass
            finally:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            assert time.process_time() - began < MAX_SECONDS
            assert peak < MAX_BYTES


def refuse_detached(path: Path, header: str, folder: Path) -> None:
    """A header that names a file elsewhere is refused, however it says so; `{}` stands for the name."""
    outside = folder / "outside.raw"
    outside.write_bytes(bytes(10_000))
    inside = path.parent / "link.raw"
    inside.symlink_to(outside)
    for name in (
        str(outside),
        "../outside.raw",
        "link.raw",
        "sub/x.raw",
        "..",
        ".",
        "..\\outside.raw",
        "C:x.raw",
    ):
        path.write_text(header.replace("{}", name))
        with pytest.raises(ReadError) as caught:
            formats.read_volume(path)
        assert caught.value.code == "DETACHED_DATA_REFUSED", name
