"""Memory of the machine and of its container, whichever way the container says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg import machine


def container(monkeypatch: pytest.MonkeyPatch, folder: Path, groups: str, files: dict[str, str]) -> None:
    (folder / "own").write_text(groups)
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(machine, "_OWN_GROUPS", folder / "own")
    monkeypatch.setattr(machine, "_CGROUPS", folder / "groups")


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/box\n", {"box/memory.max": "1000\n", "box/memory.current": "300\n", "memory.max": "max\n"}),
        ("0::/a/b\n", {"a/memory.max": "1000", "a/memory.current": "300", "a/b/memory.max": "max"}),
        ("0::/\n", {"memory.max": "1000", "memory.current": "300"}),
        (
            "4:memory:/box\n1:cpu:/box\n",
            {"memory/box/memory.limit_in_bytes": "1000", "memory/box/memory.usage_in_bytes": "300"},
        ),
        (
            "4:memory:/not/seen/from/inside\n",
            {"memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "300"},
        ),
    ],
)
def test_limit_of_the_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: str, files: dict[str, str]
) -> None:
    container(monkeypatch, tmp_path, groups, files)
    assert machine.physical_memory_bytes() == 1000
    assert machine.free_memory_bytes() == 700


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("", {}),
        ("0::/box\n", {"box/memory.max": "max"}),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}),
        ("1:cpu:/box\n", {"box/memory.max": "1000"}),
    ],
)
def test_no_limit_leaves_the_machine_s_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: str, files: dict[str, str]
) -> None:
    container(monkeypatch, tmp_path, groups, files)
    assert machine.physical_memory_bytes() > 2**28
    assert 0 < machine.free_memory_bytes() <= machine.physical_memory_bytes()


def test_more_in_use_than_allowed_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    container(monkeypatch, tmp_path, "0::/\n", {"memory.max": "1000", "memory.current": "1300"})
    assert machine.free_memory_bytes() == 0
