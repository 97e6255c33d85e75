"""The project's sample volumes, for File > Open Sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medseg import ReadError, read, read_labels
from napari_plugin.layers import LayerData, labels_layer
from napari_plugin.readers import scan_layer

FOLDERS = tuple(folder / "sample_volumes" for folder in Path(__file__).resolve().parents[:2])
"""In the plugin where it is installed, beside it in a checkout."""


def head_mri() -> list[LayerData]:
    """A real head, T1-weighted (Colin 27)."""
    return [scan_layer(replace(read(_file("colin27_t1.nii.gz")), modality="MR"), "head MRI")]


def phantom_ct() -> list[LayerData]:
    """A synthetic body with named organs, as CT shows it."""
    scan = replace(read(_file("phantom_ct.nii.gz")), modality="CT")
    labels = read_labels(_file("phantom_ct_labels.nii.gz"))
    return [scan_layer(scan, "CT phantom"), labels_layer(labels, "organs", scan)]


def touching_spheres() -> list[LayerData]:
    """Spheres that touch, to be told apart."""
    return [labels_layer(read_labels(_file("touching_spheres.nii.gz")), "spheres")]


def _file(name: str) -> Path:
    for folder in FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise ReadError(
        "FILE_NOT_FOUND", f"expected {name} in the plugin's sample_volumes, got none; install medseg anew"
    )
