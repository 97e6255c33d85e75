"""Downloads against a server that cuts, lies and corrupts."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from web_server import Served, serving

from medseg.errors import CancelledError, DownloadError, WriteError
from medseg.models.download import Remote, check_address, download, file_checksum
from medseg.progress import CancelToken, Progress

CONTENT = random.Random(3).randbytes(300_000)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


def fetch(served: Served, target: Path, checksum: str = SHA256, size: int | None = None) -> Path:
    with serving({"m.zip": served}) as root:
        return download(Remote(f"{root}/m.zip", checksum, size), target, pause_s=0.01)


def test_what_is_served_arrives_and_nothing_else_stays(tmp_path: Path) -> None:
    reports: list[Progress] = []
    with serving({"m.zip": Served(CONTENT)}) as root:
        download(Remote(f"{root}/m.zip", SHA256), tmp_path / "m.zip", progress=reports.append)
    assert (tmp_path / "m.zip").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["m.zip"]
    assert reports[-1].done == reports[-1].total == len(CONTENT)


def test_a_connection_that_is_cut_is_gone_on_from_where_it_stopped(tmp_path: Path) -> None:
    served = Served(CONTENT, break_after=70_000)
    fetch(served, tmp_path / "m.zip")
    assert (tmp_path / "m.zip").read_bytes() == CONTENT
    assert served.requests == ["", "bytes=70000-", "bytes=140000-", "bytes=210000-", "bytes=280000-"]


def test_a_later_call_goes_on_where_an_earlier_one_was_stopped(tmp_path: Path) -> None:
    cancel = CancelToken()

    def stop(progress: Progress) -> None:
        cancel.cancel()

    served = Served(CONTENT, break_after=100_000)
    with serving({"m.zip": served}) as root:
        with pytest.raises(CancelledError):
            download(
                Remote(f"{root}/m.zip", SHA256),
                tmp_path / "m.zip",
                progress=stop,
                cancel=cancel,
                pause_s=0.01,
            )
        kept = (tmp_path / "m.zip.part").stat().st_size
        assert 0 < kept < len(CONTENT)
        served.break_after, served.requests[:] = 0, []
        download(Remote(f"{root}/m.zip", SHA256), tmp_path / "m.zip", pause_s=0.01)
    assert served.requests == [f"bytes={kept}-"]
    assert (tmp_path / "m.zip").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(tmp_path: Path) -> None:
    served = Served(b"x" * len(CONTENT), break_after=100_000, etag='"old"', statuses=[])
    cancel = CancelToken()
    with serving({"m.zip": served}) as root:
        with pytest.raises(CancelledError):
            download(
                Remote(f"{root}/m.zip"), tmp_path / "m.zip", progress=lambda _: cancel.cancel(), cancel=cancel
            )
        served.content, served.etag, served.break_after = CONTENT, '"new"', 0
        download(Remote(f"{root}/m.zip", SHA256), tmp_path / "m.zip", pause_s=0.01)
    assert (tmp_path / "m.zip").read_bytes() == CONTENT


def test_without_a_validator_nothing_is_glued_to_an_old_start(tmp_path: Path) -> None:
    served = Served(CONTENT, break_after=200_000, etag="")
    with pytest.raises(DownloadError) as caught:
        fetch(served, tmp_path / "m.zip")
    assert caught.value.code == "DOWNLOAD_FAILED"
    assert set(served.requests) == {""}
    assert not (tmp_path / "m.zip").exists()


def test_a_server_that_states_more_than_it_sends_gives_no_file(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(
            Served(CONTENT, stated_length=len(CONTENT) + 1000, honours_ranges=False), tmp_path / "m.zip", ""
        )
    assert caught.value.code == "DOWNLOAD_FAILED"
    assert not (tmp_path / "m.zip").exists()


def test_a_server_that_states_less_than_there_is_gives_no_file(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(Served(CONTENT, stated_length=1000), tmp_path / "m.zip")
    assert caught.value.code == "CHECKSUM_MISMATCH"
    with pytest.raises(DownloadError) as caught:
        fetch(Served(CONTENT, stated_length=1000), tmp_path / "m.zip", "", len(CONTENT))
    assert caught.value.code == "SIZE_MISMATCH"
    assert list(tmp_path.iterdir()) == []


def test_more_bytes_than_were_meant_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(Served(CONTENT), tmp_path / "m.zip", "", 1000)
    assert caught.value.code == "SIZE_MISMATCH"


def test_a_corrupted_file_is_thrown_away(tmp_path: Path) -> None:
    corrupted = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    with pytest.raises(DownloadError) as caught:
        fetch(Served(corrupted), tmp_path / "m.zip")
    assert caught.value.code == "CHECKSUM_MISMATCH"
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_stays_where_the_new_one_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(b"old")
    with pytest.raises(DownloadError):
        fetch(Served(b"other"), tmp_path / "m.zip")
    assert (tmp_path / "m.zip").read_bytes() == b"old"


def test_a_server_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    fetch(Served(CONTENT, statuses=[503, 429]), tmp_path / "m.zip")
    assert (tmp_path / "m.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(status: int, tmp_path: Path) -> None:
    served = Served(CONTENT, statuses=[status, status])
    with pytest.raises(DownloadError) as caught:
        fetch(served, tmp_path / "m.zip")
    assert caught.value.code == "DOWNLOAD_REFUSED"
    assert len(served.requests) == 1


def test_a_server_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with serving({}) as root:
        pass
    with pytest.raises(DownloadError) as caught:
        download(Remote(f"{root}/m.zip"), tmp_path / "m.zip", pause_s=0.001)
    assert caught.value.code == "DOWNLOAD_FAILED"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/m.zip",
        "ftp://example.org/m.zip",
        "file:///etc/passwd",
        "m.zip",
        "",
        "https://",
        "http://[",
    ],
)
def test_only_https_is_followed(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        check_address(url)
    assert caught.value.code == "BAD_ADDRESS"
    with pytest.raises(DownloadError) as caught:
        fetch(Served(b"", redirect=url or "file:///etc/passwd"), tmp_path / "m.zip")
    assert caught.value.code in ("BAD_ADDRESS", "DOWNLOAD_REFUSED")
    assert not (tmp_path / "m.zip").exists()


def test_two_do_not_write_one_part(tmp_path: Path) -> None:
    target = tmp_path / "m.zip"
    errors: list[str] = []

    def meanwhile(progress: Progress) -> None:
        if not errors:
            try:
                download(Remote(f"{root}/m.zip", SHA256), target)
            except DownloadError as error:
                errors.append(error.code)

    with serving({"m.zip": Served(CONTENT)}) as root:
        download(Remote(f"{root}/m.zip", SHA256), target, progress=meanwhile)
    assert errors == ["DOWNLOAD_RUNNING"]
    assert target.read_bytes() == CONTENT


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(WriteError) as caught:
        fetch(Served(CONTENT), tmp_path / "no" / "m.zip")
    assert caught.value.code == "NOT_WRITABLE"


def test_checksums_are_those_of_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    assert file_checksum(tmp_path / "a") == SHA256
    assert file_checksum(tmp_path / "a", "sha1") == "sha1:" + hashlib.sha1(CONTENT).hexdigest()  # noqa: S324  publishers give it
    with pytest.raises(DownloadError):
        file_checksum(tmp_path / "a", "crc32")
