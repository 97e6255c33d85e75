"""The cases of a queue as rows."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem

from medseg import QueueCase

COLUMNS = ("case", "state", "unsure", "held out")


class CaseTable(QTableWidget):
    """A row for each case; the reason why one failed is its tool tip."""

    def __init__(self) -> None:
        super().__init__(0, len(COLUMNS))
        self.setHorizontalHeaderLabels(COLUMNS)
        self.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        self.setSelectionMode(QTableWidget.SelectionMode.SingleSelection)
        self.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.verticalHeader().setVisible(False)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)

    def show_cases(self, cases: Sequence[QueueCase]) -> None:
        """Fill the table; the selected row stays selected."""
        self.setRowCount(len(cases))
        for row, case in enumerate(cases):
            for column, text in enumerate(cells_of(case)):
                item = QTableWidgetItem(text)
                item.setToolTip(case.reason or text)
                item.setData(Qt.ItemDataRole.UserRole, case.name)
                self.setItem(row, column, item)

    def selected_name(self) -> str:
        """Name of the selected case; empty where none is."""
        items = self.selectedItems()
        return str(items[0].data(Qt.ItemDataRole.UserRole)) if items else ""


def cells_of(case: QueueCase) -> tuple[str, str, str, str]:
    """The row of a case."""
    doubt = "" if case.uncertainty is None else f"{case.uncertainty:.3f}"
    return case.name, case.state, doubt, "yes" if case.is_held_out else ""
