"""Files that appear whole or not at all, and what is read back from them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import WriteError
from medseg.files import read_own_json, write_json, write_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(content=st.dictionaries(st.text(), VALUES, max_size=4))
def test_json_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("written") / "plain.json"
    write_json(path, content)
    assert read_own_json(path) == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_names_stay_readable_and_undecodable_ones_come_back(tmp_path: Path) -> None:
    """A file's name may hold bytes that are no UTF-8; they must not stop a record from being written."""
    name = os.fsdecode(b"scan-\xff.nii")
    write_json(tmp_path / "plain.json", {"organ": "Milz-Größe", "file": name})
    text = (tmp_path / "plain.json").read_text(encoding="utf-8")
    assert "Milz-Größe" in text
    assert json.loads(text)["file"] == name


def test_equal_content_gives_equal_bytes_where_keys_are_sorted(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"b": 1, "a": 2}, sort_keys=True)
    write_json(tmp_path / "two.json", {"a": 2, "b": 1}, sort_keys=True)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_what_cannot_be_written_leaves_the_file_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plain.json"
    write_json(path, {"state": "old"})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"state": float("nan")})

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medseg.files.os.fsync", refuse)
    with pytest.raises(WriteError) as caught:
        write_text(path, "new")
    assert caught.value.code == "DISK_FULL"
    assert read_own_json(path) == {"state": "old"}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_damaged_file_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plain.json").write_bytes(content)
    assert read_own_json(tmp_path / "plain.json") is None
    assert read_own_json(tmp_path / "none.json") is None
