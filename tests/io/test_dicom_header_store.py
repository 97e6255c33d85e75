"""Headers kept on disk: the same as read, sealed, bounded, and never a reason to fail."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dicom_bytes as raw
import pytest
from dicom_bytes import series, text, time_points, write

from medseg.cache import CACHE_VARIABLE
from medseg.io import dicom_header_store, dicom_scan
from medseg.io.dicom_header_record import header_from, record_of
from medseg.io.dicom_header_store import STORE_FILE, HeaderStore, opened_store, stamp_of
from medseg.io.dicom_records import ImageHeader
from medseg.io.dicom_scan import scan


@pytest.fixture
def store_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own, in which files of a moment ago are kept too."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(dicom_header_store, "FRESH_NS", 0)
    yield tmp_path / "cache" / STORE_FILE
    dicom_scan._cache.clear()


def look(folder: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> tuple[tuple[ImageHeader, ...], int]:
    """(headers, files that were really read) of a look by a process that knows nothing."""
    read = 0
    plain = dicom_scan._read_header

    def counted(*words: object) -> ImageHeader | None:
        nonlocal read
        read += 1
        return plain(*words)  # type: ignore[arg-type]  # passed on as they come

    dicom_scan._cache.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dicom_scan, "_read_header", counted)
        return scan(folder).headers, read


def test_a_record_gives_the_header_back(shared_data: Path, tmp_path: Path) -> None:
    write(tmp_path / "s", [*time_points(2), raw.image(99).without(0x00200032)])
    (tmp_path / "s" / "torn").write_bytes(raw.image(3).bytes()[:400])
    places = [tmp_path, *(shared_data / "dicom" / name for name in ("wg04_compressed", "mr_siemens_mosaic"))]
    headers = [header for place in places for header in scan(place).headers]
    assert len(headers) > 20
    assert any(header.problem for header in headers)
    for header in headers:
        assert header_from(record_of(header), header.file) == header
    assert header_from(record_of(None), headers[0].file) is None


def test_a_second_process_reads_no_file_again(store_path: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "s", series())
    first, read = look(folder)
    assert read == len(first) == raw.SLICES
    assert look(folder) == (first, 0)
    assert store_path.stat().st_mode & 0o077 == 0


def test_a_changed_file_and_two_exchanged_ones_are_read_again(store_path: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "s", series())
    look(folder)
    (folder / "000").write_bytes(raw.image(0).ds(0x00180050, "9.5").bytes())
    found, read = look(folder)
    assert read == 1
    assert found[0].planes[0].thickness_mm == 9.5
    a, b = folder / "001", folder / "002"
    for path in (a, b):
        os.utime(path, ns=(10**18, 10**18))
    look(folder)
    (folder / "spare").write_bytes(b"")
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)
    found, read = look(folder)
    assert read >= 2
    assert [h.instance_number for h in found[:3]] == [1, 3, 2]


@pytest.mark.parametrize("damage", ["text", "torn", "rows", "zeros"])
def test_a_damaged_store_costs_time_only(damage: str, store_path: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "s", series())
    good, _ = look(folder)
    content = store_path.read_bytes()
    if damage == "text":
        store_path.write_bytes(b"no database at all\n" * 400)
    elif damage == "torn":
        store_path.write_bytes(content[: len(content) // 2])
    elif damage == "zeros":
        store_path.write_bytes(content[:100] + bytes(len(content) - 100))
    else:
        with sqlite3.connect(store_path) as db:
            for key, record in db.execute("SELECT id, record FROM headers").fetchall():
                flipped = bytes([record[0]]) + bytes([record[1] ^ 4]) + record[2:]
                db.execute("UPDATE headers SET record=? WHERE id=?", (flipped, key))
        db.close()
    assert look(folder)[0] == good
    assert look(folder)[0] == good
    assert look(folder) == (good, 0)


def test_a_place_that_cannot_be_written_is_done_without(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "s", series())
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    assert len(look(folder)[0]) == raw.SLICES
    assert opened_store(store_path) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path / "other"))
        look(folder)
        store = tmp_path / "other" / STORE_FILE
        before = store.read_bytes()
        patch.setattr(HeaderStore, "_prepared", read_only(HeaderStore._prepared))
        (folder / "new").write_bytes(raw.image(40).bytes())
        assert look(folder)[1] == 1
        assert look(folder)[1] == 1
        assert store.read_bytes() == before


def read_only(prepared: object) -> object:
    """`HeaderStore._prepared` that opens for reading alone, as on a read-only disk (root may write there)."""

    def guarded(self: HeaderStore) -> bytes:
        secret = bytes(prepared(self))  # type: ignore[operator]  # the plain method
        self._db.execute("PRAGMA query_only=1")
        return secret

    return guarded


def test_no_value_of_a_patient_and_no_path_is_in_the_store(store_path: Path, tmp_path: Path) -> None:
    images = [
        one.put(0x00100010, "PN", text("Canary^Name"))
        .put(0x00080032, "TM", text("112233.4455"))
        .put(0x00200010, "SH", text("CanaryStudy"))
        for one in series()
    ]
    folder = write(tmp_path / "CANARY^FOLDER", images)
    (folder / "torn canary").write_bytes(images[0].bytes()[:500])
    look(folder)
    content = store_path.read_bytes()
    assert len(content) > 1000
    for word in (b"anary", b"CANARY", b"112233", raw.ROOT.encode(), b"1.2.840", b"torn", b"MONOCHROME"):
        assert word not in content


def test_the_store_stays_bounded(store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "s", series())
    (header, *_) = scan(folder).headers
    status = header.file.path.stat()
    store = HeaderStore(store_path)
    monkeypatch.setattr(dicom_header_store, "MAX_ROWS", 300)
    monkeypatch.setattr(dicom_header_store, "_BATCH", 50)
    path, size, changed, altered, node = stamp_of(header.file, status)
    for n in range(1000):
        store.keep((path, size, changed, altered, node + n), header)
    assert store.find((path, size, changed, altered, node + 999), header.file) == (header,)
    assert store.find((path, size, changed, altered, node), header.file) is None
    monkeypatch.setattr(dicom_header_store, "MAX_BYTES", 2**16)
    for n in range(1000, 2000):
        store.keep((path, size, changed, altered, node + n), header)
    store.close()
    with sqlite3.connect(store_path) as db:
        (rows,) = db.execute("SELECT count(*) FROM headers").fetchone()
    db.close()
    assert 0 < rows <= 300
    assert store_path.stat().st_size < 2**18


def test_many_at_once_see_the_same(store_path: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "s", [raw.image(n) for n in range(60)])
    good = scan(folder).headers
    shutil.rmtree(store_path.parent)
    dicom_scan._cache.clear()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: scan(folder).headers, range(24)))
    assert all(headers == good for headers in found)
    assert look(folder) == (good, 0)
