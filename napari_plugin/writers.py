"""Layers that napari is asked to save, written by medseg where their scan lies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg import (
    InstanceVolume,
    LabelVolume,
    Volume,
    WriteError,
    measure_regions,
    mesh_of_mask,
    write_dicom_rtstruct,
    write_dicom_seg,
    write_labels,
    write_regions_csv,
    write_stl,
    write_volume,
)
from napari_plugin.layers import labels_of, origin_of, volume_of

if TYPE_CHECKING:
    from napari.layers import Layer


def write_image(path: str, data: Any, words: dict[str, Any]) -> list[str]:
    """Save an image layer as NIfTI, NRRD or MetaImage, by the ending of the path.

    Raises:
        GeometryError: the layer does not say where it lies, or was moved.
        WriteError: the file cannot be written.
    """
    return [str(write_volume(volume_of(_layer(data, words, "image")), path))]


def write_label_file(path: str, data: Any, words: dict[str, Any]) -> list[str]:
    """Save a labels layer by the ending of the path: an image format, `.dcm`, `.stl` or `.csv`.

    Raises:
        GeometryError: the layer does not say where it lies, or was moved.
        WriteError: `NO_DICOM_SOURCE`, or the file cannot be written.
    """
    layer = _layer(data, words, "labels")
    origin = origin_of(layer)
    return [str(save_labels(labels_of(layer), origin.scan if origin else None, Path(path)))]


def write_structure_set(path: str, data: Any, words: dict[str, Any]) -> list[str]:
    """Save a labels layer as contours for radiotherapy, DICOM RTSTRUCT.

    Raises:
        GeometryError: as `write_label_file`.
        WriteError: as `write_label_file`.
    """
    layer = _layer(data, words, "labels")
    origin = origin_of(layer)
    labels = labels_of(layer)
    return [str(write_dicom_rtstruct(labels, _dicom_source(origin.scan if origin else None), path))]


def save_labels(labels: LabelVolume, scan: Volume | None, path: Path) -> Path:
    """Write labels in the format that the ending of a path names.

    Args:
        labels: classes or objects.
        scan: what they belong to: DICOM files refer to it, tables measure its intensities.
        path: `.dcm` gives DICOM SEG, `.stl` one surface around all labels, `.csv` a table of measures,
            anything else an image format of medseg's.

    Raises:
        WriteError: `NO_DICOM_SOURCE` where the scan was not read from DICOM, or the file cannot be written.
    """
    kind = path.suffix.lower()
    if kind == ".dcm":
        instances = labels if isinstance(labels, InstanceVolume) else None
        return write_dicom_seg(labels, _dicom_source(scan), path, instances=instances)
    if kind == ".stl":
        return write_stl(mesh_of_mask(labels.array > 0, labels.geometry), path)
    if kind == ".csv":
        same_grid = scan is not None and scan.geometry.is_close(labels.geometry)
        return write_regions_csv(measure_regions(labels, scan if same_grid else None), path)
    return write_labels(labels, path)


def _dicom_source(scan: Volume | None) -> Any:
    source = getattr(scan, "dicom", None)
    if source is None:
        raise WriteError(
            "NO_DICOM_SOURCE",
            "expected labels of a scan that was read from DICOM, got others; save them as NIfTI",
        )
    return source


def _layer(data: Any, words: dict[str, Any], kind: str) -> Layer:
    """A layer as napari holds it, from what it hands to a writer."""
    from napari.layers import Layer as AnyLayer

    kept = ("name", "scale", "translate", "units", "axis_labels", "metadata")
    return AnyLayer.create(data, {key: words[key] for key in kept if key in words}, kind)
