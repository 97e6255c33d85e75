"""Where this program keeps what can be made again: networks converted, models unpacked, headers read."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "MEDSEG_CACHE"
"""Environment variable that names another folder for what can be made again."""


_CHOSEN: dict[str, Path] = {}
"""The folder that a program chose for all that it runs; empty where it chose none."""


def set_cache_folder(folder: str | Path | None) -> None:
    """Choose where this program keeps what can be made again: converted networks, headers, unpacked models.

    Args:
        folder: need not exist; None for the platform's own. `MEDSEG_CACHE` in the environment counts more.
    """
    _CHOSEN.clear()
    if folder is not None:
        _CHOSEN["cache"] = Path(folder).expanduser()


def cache_folder() -> Path:
    """Where what can be made again lies; it need not exist."""
    if stated := os.environ.get(CACHE_VARIABLE):
        return Path(stated).expanduser()
    if _CHOSEN:
        return _CHOSEN["cache"]
    import platformdirs

    return Path(platformdirs.user_cache_path("medseg", appauthor=False))
