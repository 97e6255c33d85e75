"""`medseg view` starts the viewer with words that napari and the manifest know."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from npe2 import PluginManifest

from medseg.cli.main import run
from medseg.cli.view import PANELS, viewer_command

MANIFEST = Path(__file__).resolve().parents[2] / "napari_plugin" / "napari.yaml"


@pytest.mark.parametrize("names", [(), ("scan.nii.gz",), ("scan.nii.gz", "labels.nrrd")])
def test_napari_understands_the_command(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from napari.__main__ import parse_sys_argv

    command = viewer_command([Path(name) for name in names])
    assert command[:3] == [sys.executable, "-m", "napari"]
    monkeypatch.setattr(sys, "argv", command[2:])
    args, _ = parse_sys_argv()
    assert args.paths == list(names)
    assert args.plugin == ("medseg" if names else None)
    assert args.with_ == [["medseg", *PANELS]]


def test_panels_are_those_of_the_manifest() -> None:
    widgets = PluginManifest.from_file(MANIFEST).contributions.widgets or []
    assert set(PANELS) <= {widget.display_name for widget in widgets}


def test_nothing_there_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["view", str(tmp_path / "scan.nii.gz")]) == 1
    assert "error [FILE_NOT_FOUND]" in capsys.readouterr().err


def test_without_napari_the_cure_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert run(["view", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "error [NO_VIEWER]" in told
    assert "pip install" in told
