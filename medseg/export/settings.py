"""What to write beside the labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from medseg.errors import SettingsError

KINDS = {
    "nifti": "labels.nii.gz, and instances.nii.gz where objects were separated (always written)",
    "dicom-seg": "segmentation.dcm: DICOM Segmentation on the original slices",
    "dicom-seg-labelmap": "segmentation_labelmap.dcm: the same as a label map, much smaller",
    "rtstruct": "rtstruct.dcm: contours for radiotherapy",
    "sr": "report.dcm: a structured report of the measures",
    "stl": "meshes/NAME.stl: one closed surface per class",
    "png": "pictures/*.png: the largest section along each axis, and the sizes of objects",
    "html": "report.html: one page with pictures, measures and provenance",
}
"""Every kind of export and what it writes."""

DICOM_KINDS = ("dicom-seg", "dicom-seg-labelmap", "rtstruct", "sr")
"""Kinds that refer to the DICOM series that was segmented."""


@dataclass(frozen=True)
class ExportSettings:
    """How a result is written.

    Attributes:
        kinds: what to write, each one of `KINDS`.
        mesh_space: axes of the meshes' coordinates, in mm. `RAS` is that of medseg, nibabel and Slicer's
            scene; `LPS` that of DICOM and ITK, which Slicer expects in an STL file.
        mesh_smoothing_mm: width (standard deviation) of the blur before a surface is drawn; 0 keeps the
            steps of the voxels.

    Raises:
        SettingsError: an unknown kind, an unknown space, a negative width.
    """

    kinds: tuple[str, ...] = field(
        default=("nifti",), metadata={"help": "kinds of files, separated by commas", "choices": tuple(KINDS)}
    )
    mesh_space: Literal["RAS", "LPS"] = field(
        default="LPS", metadata={"help": "axes of the coordinates in STL files", "choices": ("RAS", "LPS")}
    )
    mesh_smoothing_mm: float = field(
        default=0.0, metadata={"help": "blur before a surface is drawn", "unit": "mm", "min": 0, "max": 20}
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", parse_kinds(self.kinds))
        if self.mesh_space not in ("RAS", "LPS"):
            raise SettingsError("BAD_MESH_SPACE", f"expected RAS or LPS, got {self.mesh_space!r}")
        if not 0 <= self.mesh_smoothing_mm <= 20:
            raise SettingsError(
                "BAD_MESH_SMOOTHING", f"expected a width from 0 to 20 mm, got {self.mesh_smoothing_mm}"
            )

    @property
    def needs_dicom_source(self) -> bool:
        """Whether a kind refers to the DICOM series that was segmented."""
        return any(kind in DICOM_KINDS for kind in self.kinds)


def parse_kinds(kinds: str | Iterable[str]) -> tuple[str, ...]:
    """Kinds of export from words or lists separated by commas.

    Returns:
        Each once, in the order of `KINDS`; `nifti` always.

    Raises:
        SettingsError: an unknown kind.
    """
    lists = [kinds] if isinstance(kinds, str) else list(kinds)
    words = [word.strip().lower() for one in lists for word in one.split(",") if word.strip()]
    unknown = [word for word in words if word not in KINDS]
    if unknown:
        raise SettingsError("UNKNOWN_EXPORT", f"expected some of {', '.join(KINDS)}; got {unknown[0]!r}")
    return tuple(kind for kind in KINDS if kind in {"nifti", *words})


def as_settings(export: ExportSettings | Sequence[str]) -> ExportSettings:
    """Settings themselves, or the defaults with other kinds.

    Raises:
        SettingsError: an unknown kind.
    """
    return export if isinstance(export, ExportSettings) else ExportSettings(kinds=parse_kinds(export))
