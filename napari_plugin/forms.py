"""A settings dataclass as a form: widgets, bounds, units and tips from its fields' metadata alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import Field, fields
from typing import Any, get_args, get_type_hints

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QLineEdit, QSpinBox, QWidget

_MOST = 1e6
_UNSET = "model's own"


class SettingsForm(QWidget):
    """Fields of a settings dataclass, to be filled in.

    Args:
        kind: the dataclass; each field's metadata has `help`, and where they apply `unit`, `choices`,
            `min` and `max`.
        names: which fields, in this order.
    """

    changed = Signal()
    """After every change of a field."""

    def __init__(self, kind: type[Any], names: Iterable[str]) -> None:
        super().__init__()
        self._hints = get_type_hints(kind)
        known = {one.name: one for one in fields(kind)}
        self.parts: dict[str, QWidget] = {}
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for name in names:
            part = self._part(known[name])
            words = str(known[name].metadata["help"])
            part.setToolTip(words[:1].upper() + words[1:])
            self.parts[name] = part
            self._tell(part)
            unit = known[name].metadata.get("unit", "")
            bare = name.removesuffix("_mm").removesuffix("_gb").removesuffix("_mm3").replace("_", " ")
            layout.addRow(f"{bare[:1].upper()}{bare[1:]}" + (f" [{unit}]" if unit else ""), part)

    def values(self) -> dict[str, Any]:
        """Name of each field -> what stands in the form; None where that means not given."""
        return {name: self._value(name, part) for name, part in self.parts.items()}

    def fill(self, values: dict[str, Any]) -> None:
        """Put values into the form; of fields that it does not have, none."""
        for name, value in values.items():
            part = self.parts.get(name)
            if isinstance(part, QCheckBox):
                part.setChecked(bool(value))
            elif isinstance(part, QComboBox):
                part.setCurrentText(str(value))
            elif isinstance(part, (QSpinBox, QDoubleSpinBox)):
                part.setValue(part.minimum() if value is None else value)
            elif isinstance(part, QLineEdit):
                part.setText(" ".join(map(str, value)) if isinstance(value, tuple) else str(value))

    def _tell(self, part: QWidget) -> None:
        for name in ("valueChanged", "currentTextChanged", "toggled", "editingFinished"):
            if hasattr(part, name):
                getattr(part, name).connect(lambda *_: self.changed.emit())
                return

    def _part(self, one: Field[Any]) -> QWidget:
        kind, meta = self._hints[one.name], one.metadata
        if "choices" in meta:
            combo = QComboBox()
            combo.addItems([str(choice) for choice in meta["choices"]])
            combo.setCurrentText(str(one.default))
            return combo
        if kind is bool:
            check = QCheckBox()
            check.setChecked(bool(one.default))
            return check
        if kind is int:
            whole = QSpinBox()
            whole.setRange(int(meta.get("min", 0)), int(min(meta.get("max", _MOST), _MOST)))
            default: Any = one.default
            whole.setValue(default)
            return whole
        if kind is float or float in get_args(kind):
            return self._number(one)
        return QLineEdit()

    def _number(self, one: Field[Any]) -> QDoubleSpinBox:
        low, high = one.metadata.get("min", 0.0), min(one.metadata.get("max", _MOST), _MOST)
        number = QDoubleSpinBox()
        number.setDecimals(4 if low and low < 0.001 else 2)
        step = 0.05 if high <= 1 else 0.5
        number.setSingleStep(step)
        is_optional = one.default is None
        number.setRange(low - step if is_optional else low, high)
        if is_optional:
            number.setSpecialValueText(_UNSET)
        number.setValue(number.minimum() if is_optional else one.default)
        return number

    def _value(self, name: str, part: QWidget) -> Any:
        if isinstance(part, QCheckBox):
            return part.isChecked()
        if isinstance(part, QComboBox):
            return part.currentText()
        if isinstance(part, QLineEdit):
            words = part.text().split()
            return tuple(words) if get_args(self._hints[name]) else part.text().strip()
        is_optional = type(None) in get_args(self._hints[name])
        return None if is_optional and part.value() == part.minimum() else part.value()
