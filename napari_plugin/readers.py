"""Files that napari is asked to open, read by medseg: scans as images, label maps as labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg import (
    LabelSet,
    LabelVolume,
    ReadError,
    Volume,
    list_series,
    load_store,
    open_store,
    read,
    read_dicom_rtstruct,
    read_labels,
)
from napari_plugin.layers import LayerData, image_layer, labels_layer
from napari_plugin.windows import limits_for

Paths = str | Sequence[str]
Reader = Callable[[Paths], list[LayerData]]

MOST_LABELS = 150
"""A whole-numbered image with more values than this is taken for intensities."""

ZARR_MARKS = ("zarr.json", ".zattrs", ".zarray")
"""A folder that holds one of these is a Zarr store."""

_SAMPLE_STEP = 3
_DICOM_LABELS = ("SEG", "RTSTRUCT")


def get_reader(path: Paths) -> Reader | None:
    """Napari's question whether we read a path; several files at once are several layers.

    Args:
        path: file or folder, or a list of them.
    """
    paths = [path] if isinstance(path, str) else list(path)
    return read_layers if paths and all(Path(one).exists() for one in paths) else None


def read_layers(path: Paths) -> list[LayerData]:
    """Read files or folders as layers.

    Raises:
        ReadError: as `medseg.read`; a folder of several series says so, and the Study panel opens it.
    """
    paths = [path] if isinstance(path, str) else list(path)
    return [layer for one in paths for layer in _read_one(Path(one))]


def _read_one(path: Path) -> list[LayerData]:
    if path.is_dir() and (marks := [path / name for name in ZARR_MARKS if (path / name).is_file()]):
        return [_zarr_layer(path, marks)]
    if path.is_file() and (kind := _dicom_kind(path)) in _DICOM_LABELS:
        return [labels_layer(_dicom_labels(path, kind), kind)]
    try:
        volume = read(path)
    except ReadError as error:
        if error.code == "SEVERAL_SERIES":
            raise ReadError(
                error.code, "expected one series, got several; open the folder in the Study panel to choose"
            ) from error
        raise
    if is_label_map(volume) and path.is_file():
        return [labels_layer(read_labels(path), "labels")]
    return [scan_layer(volume)]


def _zarr_layer(path: Path, marks: list[Path]) -> LayerData:
    """A Zarr array or OME-Zarr image: labels where its metadata say so, or where it looks like them."""
    volume = load_store(open_store(path))
    says_labels = any("image-label" in mark.read_text(encoding="utf-8", errors="replace") for mark in marks)
    if volume.array.dtype.kind in "iu" and (says_labels or is_label_map(volume)):
        labels = LabelVolume(volume.array, volume.geometry)
        return labels_layer(replace(labels, labels=LabelSet.unnamed(labels.present_ids())), "labels")
    return scan_layer(volume)


def scan_layer(volume: Volume, name: str = "") -> LayerData:
    """A scan as a grey layer, named by its kind alone, windowed by its modality.

    Args:
        volume: the scan.
        name: of the layer; its modality if left out. A file's name may hold a patient's.
    """
    limits = limits_for(volume.array, volume.modality)
    return image_layer(volume, name or volume.modality or "scan", contrast_limits=limits, colormap="gray")


def is_label_map(volume: Volume) -> bool:
    """Whether an image looks like labels: whole numbers from 0 on, few of them, in connected patches.

    A picture of noise in eight bits has few values too, but neighbours in it differ.
    """
    array = volume.array
    if volume.modality or array.dtype.kind not in "iub":
        return False
    sample = array[tuple(slice(None, None, _SAMPLE_STEP) if n > 60 else slice(None) for n in array.shape)]
    if sample.min() != 0 or len(np.unique(sample)) > MOST_LABELS:
        return False
    longest = int(np.argmax(array.shape))
    return bool((np.diff(array, axis=longest) == 0).mean() > 0.8)


def _dicom_kind(path: Path) -> str:
    """Modality of a DICOM file, or empty for any other file."""
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return ""
    found = list_series(path)
    return found[0].modality if found else ""


def _dicom_labels(path: Path, kind: str) -> LabelVolume:
    if kind == "SEG":
        return read_labels(path)
    scan = read(path.parent)  # contours have no grid of their own; that of the scan beside them counts
    return read_dicom_rtstruct(path, grid=getattr(scan, "dicom", None) or scan.geometry)
