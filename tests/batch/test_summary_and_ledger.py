"""The table at the end cannot run code; the ledger keeps states and hashes and outlives damage."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from medseg.batch.ledger import Ledger, Row
from medseg.batch.summary import SummaryRow, csv_text, html_text
from medseg.errors import WriteError

KEY = bytes(32)


@pytest.mark.parametrize("cell", ["=cmd|' /C calc'!A0", "+1", "-1", "@x"])
def test_a_cell_is_no_formula(cell: str) -> None:
    row = next(csv.DictReader(csv_text([SummaryRow("case-1", "failed", "X", cell)]).splitlines()))
    assert row["reason"] == f"'{cell}"


def test_a_page_runs_no_script() -> None:
    page = html_text("t", [SummaryRow("<script>", "failed", "X", '"><script>alert(1)</script>', "a&b")])
    assert "<script" not in page
    assert "1 failed" in page


def test_states_are_kept_and_running_ones_queued_again(tmp_path: Path) -> None:
    with Ledger(tmp_path, KEY) as ledger:
        assert ledger.row("case-1") is None
        ledger.write(Row("case-1", "k", "running", attempts=1))
        ledger.write(Row("case-2", "k", "done", attempts=1, seconds=2.0, peak_bytes=7))
    with Ledger(tmp_path, KEY) as ledger:
        ledger.requeue_running()
        assert ledger.row("case-1") == Row("case-1", "k", "queued", attempts=1)
        assert ledger.row("case-2") == Row("case-2", "k", "done", attempts=1, seconds=2.0, peak_bytes=7)


def test_a_file_is_hashed_anew_only_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "DOE^JOHN.bin"
    path.write_bytes(b"one")
    os.utime(path, (1e9, 1e9))
    with Ledger(tmp_path, KEY) as ledger:
        first = ledger.sha256(path)
        path.write_bytes(b"two")
        os.utime(path, (1e9, 1e9))
        assert ledger.sha256(path) == first, "same size and time: taken as unchanged"
        os.utime(path, (1e9 + 1, 1e9 + 1))
        assert ledger.sha256(path) != first
    assert b"DOE" not in (tmp_path / "ledger.sqlite").read_bytes()


def test_a_file_of_this_moment_is_never_taken_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    with Ledger(tmp_path, KEY) as ledger:
        first = ledger.sha256(path)
        stamp = path.stat()
        path.write_bytes(b"two")
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert ledger.sha256(path) != first


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(WriteError) as caught:
        Ledger(tmp_path / "missing", KEY)
    assert caught.value.code == "NOT_WRITABLE"
