"""The Export panel: labels as files, read back before they are called saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QLabel

from medseg import (
    CancelToken,
    InstanceVolume,
    LabelVolume,
    Progress,
    Result,
    Volume,
    WriteError,
    objects_as_labels,
    read_labels,
    write_result,
)
from napari_plugin.layers import label_layers, labels_of, origin_of, place
from napari_plugin.objects import measured
from napari_plugin.panel import Button, Panel
from napari_plugin.preferences import preference, remember

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer

KINDS = {
    "dicom-seg": "DICOM SEG, for a PACS",
    "rtstruct": "RTSTRUCT, for radiotherapy",
    "sr": "DICOM report of the measures",
    "stl": "STL surfaces",
    "html": "Report with pictures",
}
"""What may be written beside NIfTI and the table, which always are."""

NEEDS_DICOM = ("dicom-seg", "rtstruct", "sr")


class ExportPanel(Panel):
    """Write a labels layer into a folder.

    Args:
        napari_viewer: napari's; it finds this argument by its name.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.layers = QComboBox()
        self.box.addWidget(self.layers)
        self.box.addWidget(QLabel("NIfTI and a table of measures, and:"))
        self.kinds = {kind: QCheckBox(words) for kind, words in KINDS.items()}
        usual = preference("files", "export", "").split()
        for kind, check in self.kinds.items():
            check.setChecked(kind in usual)
            self.box.addWidget(check)
        self.export_button = Button(
            "Export to folder…", "Write, read back, compare", "Alt+E", self.or_cancel(self._ask)
        )
        self.box.addWidget(self.export_button)
        self.finish_layout()
        self.layers.currentTextChanged.connect(self._update)
        for event in (napari_viewer.layers.events.inserted, napari_viewer.layers.events.removed):
            event.connect(self._list_layers)
        self._list_layers()

    def _list_layers(self, _event: Any = None) -> None:
        chosen = self.layers.currentText()
        self.layers.clear()
        self.layers.addItems([one.name for one in label_layers(self.viewer)])
        self.layers.setCurrentText(chosen)
        self._update()

    def _update(self, _name: str = "") -> None:
        name = self.layers.currentText()
        origin = origin_of(self.viewer.layers[name]) if name in self.viewer.layers else None
        from_dicom = origin is not None and getattr(origin.scan, "dicom", None) is not None
        for kind in NEEDS_DICOM:
            self.kinds[kind].setEnabled(from_dicom)
            self.kinds[kind].setToolTip("" if from_dicom else "Only for scans that were read from DICOM")
        if not self.is_busy:
            self.export_button.allow("" if name else "There is no labels layer yet: segment a scan first")

    def _ask(self) -> None:
        if name := QFileDialog.getExistingDirectory(self, "Export to"):
            self.export(Path(name))

    def chosen_kinds(self) -> tuple[str, ...]:
        """What is ticked and possible, NIfTI first."""
        ticked = (kind for kind, check in self.kinds.items() if check.isChecked() and check.isEnabled())
        return ("nifti", *ticked)

    def export(self, folder: Path) -> None:
        """Write the chosen layer, and read it back.

        Args:
            folder: made if missing; files of an earlier export in it are replaced.
        """
        layer = self.viewer.layers[self.layers.currentText()]
        if not self.attempt(lambda: place(self.viewer, layer)):
            return
        self._update()
        origin = origin_of(layer)
        scan = origin.scan if origin is not None else None
        kinds = self.chosen_kinds()
        remember("files", "export", " ".join(kind for kind, one in self.kinds.items() if one.isChecked()))

        def work(_report: Callable[[Progress], None], _cancel: CancelToken) -> Path:
            return write_checked(labels_of(layer), scan, folder, kinds)

        def tell(path: Path) -> None:
            self.say(f"Exported to {path.name}: {', '.join(kinds)}. Read back, the labels are the same.")

        self.start(work, self.export_button, tell)


def write_checked(labels: LabelVolume, scan: Volume | None, folder: Path, kinds: tuple[str, ...]) -> Path:
    """Write labels and measures, and make sure that the labels come back as they went.

    Args:
        labels: classes or objects.
        scan: what they belong to; DICOM files refer to it.
        folder: where to.
        kinds: as `medseg segment --export`.

    Raises:
        WriteError: `NOT_AS_WRITTEN`, the file read back differs; and as `write_result`.
    """
    objects = labels if isinstance(labels, InstanceVolume) else None
    classes = labels if objects is None else objects_as_labels(objects)
    image = scan if scan is not None and scan.geometry.is_close(labels.geometry) else None
    regions = measured(classes, image) + (measured(objects, image) if objects is not None else ())
    path = write_result(Result(classes, objects, regions, image=scan), folder, kinds)
    back = read_labels(path / "labels.nii.gz")
    same_grid = back.geometry.is_close(classes.geometry)
    if not same_grid or not bool((back.array == classes.array).all()):
        raise WriteError(
            "NOT_AS_WRITTEN", "expected the labels back as they were written, got others; check the disk"
        )
    return path
