"""What tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's model folder with one good model."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_bundle(folder / "tiny")
    return folder


@pytest.fixture
def at_home(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this process find that folder."""
    monkeypatch.setenv("MEDSEG_MODELS", str(shelf))
