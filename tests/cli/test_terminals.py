"""A terminal or pipe that lacks a letter gets another in its place; the command goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medseg.geometry import Geometry
from medseg.io.formats import write_labels
from medseg.labels import LabelSet
from medseg.volume import LabelVolume

NAME = "Hirnödem 脳"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_that_the_terminal_cannot_show(tmp_path: Path, encoding: str) -> None:
    array = np.ones((3, 3, 3), dtype=np.uint8)
    labels = LabelVolume(array, Geometry.from_spacing(array.shape), LabelSet.from_names({1: NAME}))
    path = write_labels(labels, tmp_path / "labels.nii.gz")

    def told(*flags: str) -> bytes:
        words = [sys.executable, "-m", "medseg.cli.main", "measure", str(path), *flags]
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        return subprocess.run(words, env=environment, check=True, capture_output=True).stdout

    assert b"\\u8133" in told()
    assert json.loads(told("--json"))["regions"][0]["name"] == NAME
