"""How much memory this machine, or the container that the program runs in, has."""

from __future__ import annotations

import os
from pathlib import Path

UNKNOWN_MEMORY = 2**40
"""Where the system does not say."""

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_UNLIMITED = 2**60
"""The first version of control groups writes a huge number where there is no limit."""

_FILES = {2: ("memory.max", "memory.current"), 1: ("memory.limit_in_bytes", "memory.usage_in_bytes")}
"""Version of control groups -> names of limit and use."""


def physical_memory_bytes() -> int:
    """Memory of this machine, or the limit of its container where that is lower."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        physical = UNKNOWN_MEMORY
    return min([physical, *(limit for limit, _ in _container_limits())])


def free_memory_bytes() -> int:
    """Memory that new work may take now."""
    rooms = [max(0, limit - used) for limit, used in _container_limits()]
    return min([_available(), *rooms])


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return physical_memory_bytes()


def _container_limits() -> list[tuple[int, int]]:
    """Limit and use of every control group that holds this process."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        top = _CGROUPS / "memory" if version == 1 else _CGROUPS
        own = top / group.lstrip("/")
        for folder in (own, *own.parents):
            if folder != top and top not in folder.parents:
                break
            limit, used = (_number(folder / name) for name in _FILES[version])
            if limit is not None and limit < _UNLIMITED:
                found.append((limit, used or 0))
    return found


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
