"""GUI tests need napari, a Qt binding and a display; where one is missing they are skipped and say so."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

import pytest

os.environ.setdefault("QT_API", "pyqt6")


def missing_part() -> str:
    """What keeps a window from opening here, or empty."""
    for module in ("napari", "PyQt6", "pytestqt"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    if sys.platform == "linux" and not os.environ.get("DISPLAY") and shutil.which("Xvfb") is None:
        return "there is no display, and no Xvfb to make one"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing_part()
    for item in items:
        if reason and "make_napari_viewer" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=reason))
