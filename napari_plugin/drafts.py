"""Work in progress on disk: saved while it is made, offered again after a crash.

A session of the program has one folder, named at random, which it holds locked. A folder whose lock
nobody holds was left behind by a session that ended without saying goodbye.
"""

from __future__ import annotations

import atexit
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs
from qtpy.QtCore import QLockFile

from medseg import Code, InstanceVolume, Label, LabelSet, LabelVolume, MedsegError, read_labels, write_labels

_LOCK, _ABOUT, _VOXELS = "lock", "{}.json", "{}.nii.gz"


def drafts_folder() -> Path:
    """Where sessions keep their work; it need not exist."""
    return Path(platformdirs.user_data_path("medseg", appauthor=False)) / "drafts"


@dataclass(frozen=True)
class Draft:
    """A labels layer as it was at some moment.

    Attributes:
        title: name of the layer.
        labels: its voxels, names and place.
        saved: when, ISO 8601 in UTC.
    """

    title: str
    labels: LabelVolume = field(repr=False)
    saved: str = ""


class Session:
    """The folder of one run of the program; made when something is saved first.

    Args:
        root: holds the folders of all sessions.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.folder = (root or drafts_folder()) / secrets.token_hex(8)
        self._lock: QLockFile | None = None

    def save(self, number: int, draft: Draft) -> None:
        """Save a layer, in place of what was saved of it before; whole or not at all.

        Args:
            number: of the layer within the session.
            draft: what to save.

        Raises:
            WriteError: the disk is full or refuses.
        """
        if self._lock is None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = QLockFile(str(self.folder / _LOCK))
            self._lock.setStaleLockTime(0)
            self._lock.tryLock(0)
            atexit.register(self.drop)
        write_labels(draft.labels, self.folder / _VOXELS.format(number))
        about = self.folder / _ABOUT.format(number)
        part = about.with_suffix(".part")
        part.write_text(json.dumps(_as_data(draft)), encoding="utf-8")
        part.replace(about)

    def drop(self) -> None:
        """Forget everything that was saved: the session ends as it should."""
        if self._lock is not None:
            self._lock.unlock()
            shutil.rmtree(self.folder, ignore_errors=True)
            self._lock = None


class Abandoned:
    """What a session left behind; held locked, so that no other window offers it too.

    Args:
        folder: of that session.
        lock: held.
    """

    def __init__(self, folder: Path, lock: QLockFile) -> None:
        self.folder = folder
        self._lock = lock

    def titles(self) -> list[tuple[str, str]]:
        """Title and time of each layer; damaged ones are left out."""
        return [(about["title"], about["saved"]) for _, about in self._abouts()]

    def read(self) -> list[Draft]:
        """Every layer that can be read.

        Raises:
            ReadError: there are layers and none can be read.
        """
        drafts, failure = [], None
        for stem, about in self._abouts():
            try:
                drafts.append(_from_data(about, read_labels(self.folder / _VOXELS.format(stem))))
            except MedsegError as error:
                failure = error
        if failure is not None and not drafts:
            raise failure
        return drafts

    def drop(self) -> None:
        """Delete it."""
        self._lock.unlock()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _abouts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in sorted(self.folder.glob(_ABOUT.format("*"))):
            try:
                about = json.loads(path.read_text(encoding="utf-8"))
                yield path.stem, {"title": str(about["title"]), "saved": str(about["saved"]), **about}
            except (OSError, ValueError, KeyError, TypeError):  # cut short by the crash
                continue


def abandoned(root: Path | None = None) -> list[Abandoned]:
    """What earlier sessions left behind, newest first; empty folders are cleared away.

    Args:
        root: holds the folders of all sessions.
    """
    root = root or drafts_folder()
    found = []
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    for folder in sorted(folders, key=lambda path: -path.stat().st_mtime):
        lock = QLockFile(str(folder / _LOCK))
        lock.setStaleLockTime(0)  # only the end of its process makes a lock stale
        if lock.tryLock(0):
            left = Abandoned(folder, lock)
            if left.titles():
                found.append(left)
            else:
                left.drop()
    return found


def _as_data(draft: Draft) -> dict[str, Any]:
    labels = draft.labels
    return {
        "title": draft.title,
        "saved": draft.saved or datetime.now(UTC).isoformat(timespec="seconds"),
        "labels": [
            {
                "id": label.id,
                "name": label.name,
                "colour": label.colour,
                "code": label.code and [label.code.scheme, label.code.value, label.code.meaning],
            }
            for label in labels.labels
        ],
        "classes": list(labels.classes.items()) if isinstance(labels, InstanceVolume) else None,
    }


def _from_data(about: dict[str, Any], voxels: LabelVolume) -> Draft:
    labels = LabelSet(
        tuple(
            Label(one["id"], one["name"], tuple(one["colour"]), Code(*one["code"]) if one["code"] else None)
            for one in about["labels"]
        )
    )
    whole = LabelVolume(voxels.array, voxels.geometry, labels.completed(voxels.present_ids()))
    if about["classes"] is not None:
        classes = {int(i): int(c) for i, c in about["classes"]}
        whole = InstanceVolume(voxels.array, voxels.geometry, labels, classes=classes)
    return Draft(about["title"], whole, about["saved"])
