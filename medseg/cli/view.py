"""`medseg view`: napari with the plugin's panels, and inputs opened in it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from medseg.errors import ReadError, SettingsError

PANELS = ("1 Study", "2 Segment", "3 Objects", "4 Correct", "6 Export")
"""Opened as tabs; the others are in the menu Plugins > medseg."""


def view(*inputs: Path) -> int:
    """Look at scans, segment and correct them in napari (extra: napari).

    Args:
        inputs: scans and label maps: files, or folders with one series; none opens an empty viewer.
    """
    missing = [path.name for path in inputs if not path.exists()]
    if missing:
        raise ReadError(
            "FILE_NOT_FOUND", f"expected files or folders, got no {', '.join(missing)}; check the path"
        )
    if importlib.util.find_spec("napari") is None:
        raise SettingsError(
            "NO_VIEWER", "expected napari, got none installed; run: pip install 'medseg[napari]' pyqt6"
        )
    return subprocess.run(viewer_command(inputs), check=False).returncode


def viewer_command(inputs: Sequence[Path]) -> list[str]:
    """The words that start napari in a process of its own: medseg never imports it."""
    opened = [*map(str, inputs), "--plugin", "medseg"] if inputs else []
    return [sys.executable, "-m", "napari", *opened, "--with", "medseg", *PANELS]
