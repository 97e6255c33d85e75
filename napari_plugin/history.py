"""What was changed by hand in a labels layer: undone object by object, and never against a lock.

One `History` belongs to each labels layer. Tools hand it edits; strokes of napari's own brush are
recorded too. Arrays are those of the layer, `(z, y, x)`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from medseg import Edit, VolumeError
from napari_plugin.layers import KEY, Origin, checked_origin, dress, origin_of

if TYPE_CHECKING:
    from napari.layers import Labels

MOST_EDITS = 200
"""Older ones can no longer be undone."""

_HISTORIES: weakref.WeakKeyDictionary[Labels, History] = weakref.WeakKeyDictionary()


def history_of(layer: Labels) -> History:
    """The history of a labels layer; begins with the first question for it."""
    if layer not in _HISTORIES:
        _HISTORIES[layer] = History(layer)
    return _HISTORIES[layer]


class History(QObject):
    """Edits, locks and names of one labels layer.

    Args:
        layer: whose voxels are changed.
    """

    changed = Signal()
    """After an edit, an undo, a lock, a hidden or a renamed object."""

    def __init__(self, layer: Labels) -> None:
        super().__init__()
        self._layer = weakref.ref(layer)
        self.locked: frozenset[int] = frozenset()
        self.hidden: frozenset[int] = frozenset()
        self.done: list[Edit] = []
        self.undone: list[Edit] = []
        layer.events.paint.connect(self._painted)

    @property
    def layer(self) -> Labels:
        """The layer.

        Raises:
            VolumeError: `LAYER_GONE`, it was deleted meanwhile.
        """
        layer = self._layer()
        if layer is None:
            raise VolumeError("LAYER_GONE", "expected the labels layer, got it deleted; choose another")
        return layer

    def do(self, edit: Edit) -> None:
        """Carry an edit out and remember it.

        Args:
            edit: in the order of the layer's array.

        Raises:
            VolumeError: `LOCKED`, it would change a locked object.
        """
        shut = sorted(self.locked.intersection(edit.ids))
        if shut:
            raise VolumeError(
                "LOCKED",
                f"expected an object that may change, got {shut[0]}, which is locked; unlock it first",
            )
        self._widen(edit)
        edit.apply(self.layer.data)
        self._remember(edit)
        self._know(edit.parents)
        self.layer.refresh()
        self.changed.emit()

    def undo(self, object_id: int | None = None) -> bool:
        """Take back the last edit, or the last one of one object; what was changed since stays.

        Args:
            object_id: only edits that changed this object; None for any.

        Returns:
            Whether there was one.
        """
        for edit in reversed(self.done):
            if object_id is not None and object_id not in edit.ids:
                continue
            self.done.remove(edit)
            if edit.revert(self.layer.data):  # nothing, where Ctrl+Z of the viewer was quicker
                self.undone.append(edit)
                self.layer.refresh()
                self.changed.emit()
                return True
        return False

    def redo(self) -> bool:
        """Carry out again what was undone last; whether there was something."""
        if not self.undone:
            return False
        edit = self.undone.pop()
        edit.apply(self.layer.data)
        self.done.append(edit)
        self.layer.refresh()
        self.changed.emit()
        return True

    def lock(self, ids: Iterable[int], *, locked: bool = True) -> None:
        """Let no tool and no stroke take or give a voxel of some objects."""
        self.locked = self.locked | set(ids) if locked else self.locked - set(ids)
        self.changed.emit()

    def hide(self, ids: Iterable[int], *, hidden: bool = True) -> None:
        """Do not show some objects; they stay in the layer."""
        self.hidden = self.hidden | set(ids) if hidden else self.hidden - set(ids)
        dress(self.layer, self.hidden)
        self.changed.emit()

    def rename(self, label_id: int, name: str) -> None:
        """Give a class another name; an object the class of that name, which is made where it is new.

        Raises:
            GeometryError: the layer does not say where it lies, or was moved.
            VolumeError: the name is empty, or two classes would have it.
        """
        origin = checked_origin(self.layer)
        if not origin.is_instances:
            self._keep(replace(origin, labels=origin.labels.renamed(label_id, name)))
            return
        names = {label.name.lower(): label.id for label in origin.labels}
        class_id = names.get(name.strip().lower(), max([0, *origin.labels.ids]) + 1)
        labels = origin.labels if class_id in origin.labels else origin.labels.renamed(class_id, name)
        self._keep(replace(origin, labels=labels, classes={**origin.classes, label_id: class_id}))

    def _keep(self, origin: Origin) -> None:
        self.layer.metadata = {**self.layer.metadata, KEY: origin}
        dress(self.layer, self.hidden)
        self.changed.emit()

    def _know(self, parents: Mapping[int, int]) -> None:
        """Names, classes and colours for objects that were split off."""
        origin = origin_of(self.layer)
        if origin is None or not parents:
            return
        if origin.is_instances:
            added = {new: origin.classes[old] for new, old in parents.items() if old in origin.classes}
            origin = replace(origin, classes={**origin.classes, **added})
        else:
            origin = replace(origin, labels=origin.labels.with_parts(parents))
        self.layer.metadata = {**self.layer.metadata, KEY: origin}
        dress(self.layer, self.hidden)

    def _widen(self, edit: Edit) -> None:
        kind = np.promote_types(self.layer.data.dtype, edit.after.dtype)
        highest = int(edit.after.max(initial=0))
        if highest > np.iinfo(self.layer.data.dtype).max:
            self.layer.data = self.layer.data.astype(kind)

    def _remember(self, edit: Edit) -> None:
        self.done = [*self.done, edit][-MOST_EDITS:]
        self.undone = []

    def _painted(self, event: Any) -> None:
        """Record a stroke; napari tells of some before it writes them, of others after."""
        edit = _edit_of_stroke(self.layer.data, event.value)
        shut = np.isin(edit.before, list(self.locked)) | np.isin(edit.after, list(self.locked))
        kept = np.where(shut, edit.before, edit.after)
        if shut.any() and (kept != edit.after).any():
            QTimer.singleShot(0, lambda: self._put_back(Edit(edit.start, edit.after, kept)))
        self._remember(Edit(edit.start, edit.before, kept))
        self._name_painted(edit)

    def _put_back(self, edit: Edit) -> None:
        edit.apply(self.layer.data)
        self.layer.refresh()
        self.changed.emit()

    def _name_painted(self, edit: Edit) -> None:
        """A label that was painted for the first time needs a colour."""
        origin = origin_of(self.layer)
        new = [
            i for i in edit.ids if origin is not None and not origin.is_instances and i not in origin.labels
        ]
        if origin is not None and new:
            self._keep(replace(origin, labels=origin.labels.completed(new)))
        else:
            self.changed.emit()


def _edit_of_stroke(data: Any, atoms: Any) -> Edit:
    """A stroke as napari keeps it, as an edit.

    Args:
        data: the layer's array, before or after the stroke.
        atoms: per step of the stroke (box, mask or None, old values, new value), or (indices, old values,
            new values).
    """
    steps = [_step(atom) for atom in atoms]
    low = np.min([[_first(one) for one in index] for index, *_ in steps], axis=0)
    high = np.max([[_last(one) for one in index] for index, *_ in steps], axis=0)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    before = np.array(data[box])
    for index, mask, old, _ in reversed(steps):
        _write(before, _moved(index, low), mask, old)
    after = before.copy()
    for index, mask, _, new in steps:
        _write(after, _moved(index, low), mask, new)
    return Edit((int(low[0]), int(low[1]), int(low[2])), before, after)


def _step(atom: Any) -> tuple[Any, Any, Any, Any]:
    if hasattr(atom, "slice_key"):
        index, mask, old, new = atom
        return index, mask, old, new
    index, old, new = atom
    return index, None, old, new


def _first(one: Any) -> int:
    return int(one.start) if isinstance(one, slice) else int(np.min(one))


def _last(one: Any) -> int:
    return int(one.stop) if isinstance(one, slice) else int(np.max(one)) + 1


def _moved(index: Any, low: Any) -> tuple[Any, ...]:
    return tuple(
        slice(one.start - a, one.stop - a) if isinstance(one, slice) else np.asarray(one) - a
        for one, a in zip(index, low, strict=True)
    )


def _write(array: Any, index: tuple[Any, ...], mask: Any, values: Any) -> None:
    if mask is None:
        array[index] = values
    else:
        array[index][mask] = values
