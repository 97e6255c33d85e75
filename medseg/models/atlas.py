"""A probabilistic atlas: how likely every structure is at every place of a typical head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from medseg.errors import ModelError
from medseg.files import whole_file

PARTS = 255
"""Probabilities are kept as whole parts of this."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Where structures lie, on a grid of its own.

    Attributes:
        table: `(i, j, k, classes)` uint8, probability in 255 parts.
        labels: `(classes,)` label of each class; 0 for tissues outside of all structures, which may be many.
        tissues: `(classes,)` tissue of each class: classes of one tissue look alike.
        affine: 4x4, voxel of the table -> its own millimetres.
        centres: label -> `(3,)` centre of the structure in those millimetres, for labels that show how a
            head lies.
    """

    table: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    tissues: npt.NDArray[np.int64]
    affine: npt.NDArray[np.float64]
    centres: Mapping[int, npt.NDArray[np.float64]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the grid."""
        i, j, k = self.table.shape[:3]
        return i, j, k


def write_atlas(atlas: Atlas, file: Path) -> None:
    """Write an atlas as `.npz`, whole or not at all.

    Raises:
        WriteError: as `medseg.files.whole_file`.
    """
    arrays: dict[str, npt.NDArray[Any]] = {
        "table": atlas.table,
        "labels": atlas.labels,
        "tissues": atlas.tissues,
        "affine": atlas.affine,
        "centre_labels": np.array(list(atlas.centres)),
        "centres": np.stack(list(atlas.centres.values())),
    }
    with whole_file(file) as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def read_atlas(file: Path) -> Atlas:
    """Read an atlas that `write_atlas` wrote.

    Raises:
        ModelError: `DAMAGED_ATLAS`.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            centres = dict(zip(found["centre_labels"].tolist(), found["centres"], strict=True))
            atlas = Atlas(found["table"], found["labels"], found["tissues"], found["affine"], centres)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ModelError(
            "DAMAGED_ATLAS", f"expected an atlas in {file.name}, got what cannot be read; install it again"
        ) from error
    fine = atlas.table.ndim == 4 and atlas.labels.shape == atlas.tissues.shape == atlas.table.shape[3:]
    fine = fine and min(atlas.shape) >= 2 and min(*atlas.labels, *atlas.tissues) >= 0
    if not fine or atlas.table.dtype != np.uint8 or atlas.affine.shape != (4, 4):
        raise ModelError(
            "DAMAGED_ATLAS", f"expected a table of classes in {file.name}, got others; install it again"
        )
    return atlas
