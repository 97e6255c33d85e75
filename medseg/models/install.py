"""Put a model into the user's folder, check that it is still whole, take it away again.

A model appears there whole or not at all. Beside it lies `medseg-model.json`: where it came from,
its licence, and a checksum of every file.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medseg.errors import DownloadError, ModelError, ModelNotFoundError, WriteError
from medseg.files import read_own_json, write_json
from medseg.models.catalogue import CatalogueEntry
from medseg.models.download import Remote, download, file_checksum
from medseg.models.formats import model_root
from medseg.models.parts_folder import PARTS_FILE
from medseg.models.unpack import unpack_zip
from medseg.models.weights import file_sha256
from medseg.progress import CancelToken, ProgressCallback, silent

RECORD_FILE = "medseg-model.json"
RECORD_FORMAT = "medseg-model/1"
PINS_FILE = ".pins.json"
"""Checksums of archives whose publisher gives none, as they were when first fetched."""


@dataclass(frozen=True)
class Shelf:
    """Folders that installing works with.

    Attributes:
        models: where models go; made if missing.
        archives: where archives are kept; one that lies here already is not fetched again, so that
            a folder filled elsewhere installs without a network. None keeps none.
    """

    models: Path
    archives: Path | None = None


@dataclass(frozen=True)
class Installed:
    """What an installed model's record says.

    Attributes:
        name: what to ask for.
        licence: of the model.
        sources: addresses, or names of the files, that it came from.
        archives: checksum of each.
        roots: models below its folder, as paths with `/`; several where it has several parts.
        files: path with `/` to checksum of every file.
    """

    name: str
    licence: str
    sources: tuple[str, ...]
    archives: tuple[str, ...]
    roots: tuple[str, ...]
    files: Mapping[str, str]


def install_entry(
    entry: CatalogueEntry,
    shelf: Shelf,
    *,
    replace_old: bool = False,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> Installed:
    """Fetch a model of the catalogue and put it on the shelf.

    Args:
        entry: what to fetch.
        shelf: where to.
        replace_old: take the place of a model of that name.
        progress: told of bytes fetched and unpacked.
        cancel: a way to stop; what was fetched is kept for the next try.

    Raises:
        DownloadError: as `download`; `CHECKSUM_CHANGED`, an archive without a published checksum
            differs from the one that was fetched here before.
        ModelError: as `unpack_zip`; `NO_MODEL_INSIDE`.
        WriteError: `MODEL_EXISTS`, `NOT_WRITABLE`, `DISK_FULL`.
        CancelledError: a stop was asked for.
    """
    _check_free(shelf.models, entry.name, replace_old)
    pins = Pins(shelf.models / PINS_FILE)
    store = shelf.archives or shelf.models / ".archives"
    _make(shelf.models)
    _make(store)
    archives = [_fetched(part, store, pins, progress, cancel) for part in entry.parts]
    words = Installed(entry.name, entry.licence, tuple(p.url for p in entry.parts), (), (), {})
    installed = _put(words, archives, shelf.models, progress, cancel)
    if shelf.archives is None:
        shutil.rmtree(store, ignore_errors=True)
    return installed


def install_archive(
    archive: Path,
    shelf: Shelf,
    *,
    name: str = "",
    replace_old: bool = False,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> Installed:
    """Put a model from a zip on this machine on the shelf.

    Args:
        archive: the zip.
        shelf: where to.
        name: what to ask for later; the zip's name without its ending if left out.
        replace_old: as `install_entry`.
        progress: as `install_entry`.
        cancel: as `install_entry`.

    Raises:
        ModelError: as `unpack_zip`; `NO_MODEL_INSIDE`, `BAD_MODEL_NAME`.
        WriteError: as `install_entry`.
    """
    name = name or archive.stem
    _check_free(shelf.models, name, replace_old)
    words = Installed(name, "", (archive.name,), (), (), {})
    return _put(words, [archive], shelf.models, progress, cancel)


def read_record(folder: Path) -> Installed | None:
    """The record of an installed model, or None for a folder that has none or a damaged one."""
    content = read_own_json(folder / RECORD_FILE)
    if content is None or content.get("format") != RECORD_FORMAT:
        return None
    try:
        roots = tuple(str(root) for root in content["roots"])
        files = {str(path): str(digest) for path, digest in content["files"].items()}
        sources, archives = tuple(content["sources"]), tuple(content["archives"])
        return Installed(str(content["name"]), str(content["licence"]), sources, archives, roots, files)
    except (KeyError, TypeError, AttributeError):
        return None


def verify_model(folder: Path) -> Installed:
    """Check every file of an installed model against its record.

    Raises:
        ModelError: `NO_RECORD`, the folder was not made by installing; `MODEL_DAMAGED`, naming files
            that are missing, changed or not of the record.
    """
    record = read_record(folder)
    if record is None:
        raise ModelError(
            "NO_RECORD", f"expected {RECORD_FILE} beside the model {folder.name!r}, got none; install it anew"
        )
    found = _checksums(folder)
    wrong = [path for path in sorted({*found, *record.files}) if found.get(path) != record.files.get(path)]
    if wrong:
        shown = ", ".join(wrong[:4]) + (" …" if len(wrong) > 4 else "")
        raise ModelError(
            "MODEL_DAMAGED",
            f"expected the files that were installed, got {len(wrong)} missing, changed or foreign "
            f"({shown}); install it anew with --replace",
        )
    return record


def remove_model(name: str, models: Path) -> None:
    """Take an installed model away.

    Args:
        name: of the model.
        models: folder that it lies in.

    Raises:
        ModelNotFoundError: `NOT_INSTALLED`, nothing of that name was installed there.
        WriteError: `NOT_WRITABLE`.
    """
    folder = models / name
    if not _is_plain(name) or read_record(folder) is None:
        raise ModelNotFoundError(
            "NOT_INSTALLED",
            f"expected the name of a model that was installed, got {name!r}; medseg models list shows them",
        )
    _set_aside(folder)


class Pins:
    """Checksums on first use, for archives whose publisher gives none.

    Args:
        path: file that keeps them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def known(self, url: str) -> str:
        """The checksum that an address gave before, or empty."""
        return self._read().get(url, "")

    def keep(self, url: str, checksum: str) -> None:
        """Remember what an address gave."""
        write_json(self._path, self._read() | {url: checksum}, sort_keys=True)

    def _read(self) -> dict[str, str]:
        return {str(k): str(v) for k, v in (read_own_json(self._path) or {}).items()}


def _fetched(
    remote: Remote, store: Path, pins: Pins, progress: ProgressCallback, cancel: CancelToken | None
) -> Path:
    """The archive of an address, checked; fetched only where the store lacks it."""
    pinned = "" if remote.checksum else pins.known(remote.url)
    wanted = replace(remote, checksum=remote.checksum or pinned)
    target = store / Path(urlsplit(remote.url).path).name
    try:
        if not _is_right(target, wanted):
            download(wanted, target, progress=progress, cancel=cancel)
    except DownloadError as error:
        if error.code == "CHECKSUM_MISMATCH" and pinned:
            raise DownloadError(
                "CHECKSUM_CHANGED",
                "expected the archive that this address gave before, got another; ask its publisher, and "
                f"take its line out of {PINS_FILE} in the models folder if the change is meant",
            ) from error
        raise
    if not wanted.checksum:
        pins.keep(remote.url, file_checksum(target))
    return target


def _is_right(archive: Path, wanted: Remote) -> bool:
    """Whether an archive that lies there already is the one that is wanted."""
    if not archive.is_file():
        return False
    if not wanted.checksum:
        return wanted.size in (None, archive.stat().st_size)
    return file_checksum(archive, wanted.checksum.partition(":")[0]) == wanted.checksum


def _put(
    words: Installed,
    archives: Sequence[Path],
    models: Path,
    progress: ProgressCallback,
    cancel: CancelToken | None,
) -> Installed:
    """Unpack archives beside the final place, find the models in them, move all into place."""
    with _hidden(models, words.name) as part:
        roots = []
        for n, archive in enumerate(archives, start=1):
            place = part / f"part-{n}" if len(archives) > 1 else part / "model"
            place.mkdir()
            unpack_zip(archive, place, progress=progress, cancel=cancel)
            roots.append(model_root(place).relative_to(part).as_posix())
        if len(roots) > 1:
            _join(part, words.name, roots)
        sums = tuple(file_checksum(archive) for archive in archives)
        record = replace(words, archives=sums, roots=tuple(roots), files=_checksums(part))
        _write_record(part, record)
        final = models / words.name
        if final.exists():
            _set_aside(final)
        part.rename(final)
    return record


def _join(folder: Path, name: str, roots: Sequence[str]) -> None:
    """Make several models one."""
    write_json(folder / PARTS_FILE, {"name": name, "parts": list(roots)})


def _checksums(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != RECORD_FILE)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _write_record(folder: Path, record: Installed) -> None:
    content: dict[str, Any] = {
        "format": RECORD_FORMAT,
        "name": record.name,
        "licence": record.licence,
        "sources": list(record.sources),
        "archives": list(record.archives),
        "roots": list(record.roots),
        "files": dict(record.files),
    }
    write_json(folder / RECORD_FILE, content)


def _check_free(models: Path, name: str, replace_old: bool) -> None:
    if not _is_plain(name):
        raise ModelError(
            "BAD_MODEL_NAME",
            f"expected a name of letters, digits, dots and dashes, got {name!r}; give --name",
        )
    if (models / name).exists() and not replace_old:
        raise WriteError(
            "MODEL_EXISTS",
            f"expected no model {name!r} in the models folder, got one; --replace takes its place",
        )


def _is_plain(name: str) -> bool:
    return name[:1].isalnum() and all(c.isalnum() or c in "._-" for c in name) and name.isascii()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WriteError("NOT_WRITABLE", f"expected a folder for models, got: {reason}") from error


@contextmanager
def _hidden(models: Path, name: str) -> Iterator[Path]:
    """A hidden folder that is gone afterwards, unless it was moved into place."""
    _make(models)
    part = models / f".{name}.{secrets.token_hex(6)}.part"
    _make(part)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _set_aside(folder: Path) -> None:
    """Make a folder vanish at once, then delete it."""
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.part")
    try:
        folder.rename(aside)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WriteError("NOT_WRITABLE", f"expected a models folder to write into, got: {reason}") from error
    shutil.rmtree(aside, ignore_errors=True)
