"""A DICOM storage server (C-STORE SCP) that takes studies in and hands them on when they are quiet.

    SPOOL/receiving          objects on the wire: pynetdicom writes them here as they come, in no one's memory
    SPOOL/incoming/STUDY/…   being received; raw bytes as they came, named by pseudonyms
    SPOOL/ready/STUDY        nothing came for a while: to be processed
    SPOOL/done, SPOOL/failed what became of it
    SPOOL/names.key          the key of the pseudonyms, mode 0600

An instance is confirmed only after its bytes are on disk under their final name, so a sender that was
told "stored" may forget it. What cannot be read as DICOM is refused, so its sender keeps it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from medseg.batch.pseudonyms import folder_key, pseudonym
from medseg.errors import ReadError, SettingsError, WriteError
from medseg.io.dicom_scan import scan
from medseg.progress import CancelToken

if TYPE_CHECKING:
    from pynetdicom.events import Event

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
RECEIVING, INCOMING, READY, DONE, FAILED = "receiving", "incoming", "ready", "done", "failed"
_ROOM_BYTES = 2**30
_LOOK_S = 0.5
_AE_LENGTH = 16


@dataclass(frozen=True)
class ReceiveSettings:
    """How studies are received.

    Raises:
        SettingsError: `BAD_SETTING`; `NO_ALLOW_LIST`, open to a network without saying for whom.
    """

    host: str = field(
        default="127.0.0.1", metadata={"help": "address to listen at; this machine alone if not given"}
    )
    port: int = field(
        default=11112, metadata={"help": "TCP port; 0 takes a free one", "min": 0, "max": 65535}
    )
    ae_title: str = field(default="MEDSEG", metadata={"help": "our AE title; others are refused"})
    allow: str = field(
        default="",
        metadata={"help": "AE titles that may send, separated by commas; needed beyond this machine"},
    )
    quiet_s: float = field(
        default=30.0,
        metadata={
            "help": "take a study as complete when nothing came for so long",
            "unit": "s",
            "min": 0.1,
            "max": 86400.0,
        },
    )

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.allowed:
            raise SettingsError(
                "NO_ALLOW_LIST",
                "expected the AE titles that may send from other machines, got none; name them with --allow",
            )
        if not 0 <= self.port <= 65535 or not 0.1 <= self.quiet_s <= 86400.0:
            raise SettingsError(
                "BAD_SETTING", "expected a port to 65535 and 0.1 to 86400 s of quiet, got others"
            )
        for title in (self.ae_title, *self.allowed):
            if not 1 <= len(title) <= _AE_LENGTH or not title.isascii() or not title.isprintable():
                raise SettingsError(
                    "BAD_SETTING", "expected AE titles of 1 to 16 ASCII characters, got others"
                )

    @property
    def allowed(self) -> tuple[str, ...]:
        """AE titles that may send; empty for any on this machine."""
        return tuple(title.strip() for title in self.allow.split(",") if title.strip())


class StudyReceiver:
    """A running storage server; use it with `with`.

    Args:
        spool: folder of what was received; made if missing.
        settings: address, titles, quiet time.

    Raises:
        SettingsError: `NO_NETWORK`, pynetdicom is not installed; `BAD_ADDRESS`, nobody can listen there.
        WriteError: the spool cannot be written.
    """

    def __init__(self, spool: Path, settings: ReceiveSettings | None = None) -> None:
        self.settings = settings or ReceiveSettings()
        self.spool = spool
        try:
            for name in (RECEIVING, INCOMING, READY, DONE, FAILED):
                (spool / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise WriteError(
                "NOT_WRITABLE", f"expected a spool that can be written, got: {reason}"
            ) from error
        spool.chmod(0o700)
        self._key = folder_key(spool)
        self._lock = Lock()
        self._heard = dict.fromkeys((path.name for path in self._folders(INCOMING)), time.monotonic())
        self._server: Any = None

    def __enter__(self) -> Self:
        self._sweep()
        self._server = self._listening()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a broken connection or a killed receiver left unfinished: its sender still has it."""
        for path in (self.spool / RECEIVING).iterdir():
            path.unlink(missing_ok=True)

    def _closed(self, event: Event) -> None:
        """A connection ended; with no other open, whatever is still on the wire never arrives."""
        if len(event.assoc.ae.active_associations) <= 1:
            self._sweep()

    @property
    def port(self) -> int:
        """The port that is listened at."""
        return int(self._server.server_address[1])

    def ready_studies(self) -> tuple[Path, ...]:
        """Folders of studies that are complete as far as anybody knows, oldest first.

        A study that goes on after that comes again, as another folder.
        """
        with self._lock:
            quiet = time.monotonic() - self.settings.quiet_s
            for name in [name for name, heard in self._heard.items() if heard <= quiet]:
                del self._heard[name]
                source, target = self.spool / INCOMING / name, self.spool / READY / name
                if target.exists():
                    target = target.with_name(f"{name}-{secrets.token_hex(3)}")
                source.rename(target)
        return tuple(sorted(self._folders(READY), key=lambda path: path.stat().st_mtime))

    def settle(self, study: Path, *, is_done: bool) -> None:
        """Put a processed study away."""
        target = self.spool / (DONE if is_done else FAILED) / study.name
        if target.exists():
            target = target.with_name(f"{study.name}-{secrets.token_hex(3)}")
        study.rename(target)

    def _folders(self, name: str) -> list[Path]:
        return [path for path in (self.spool / name).iterdir() if path.is_dir()]

    def _listening(self) -> Any:
        try:
            from pynetdicom import (
                AE,
                ALL_TRANSFER_SYNTAXES,
                AllStoragePresentationContexts,
                _config,
                dimse_messages,
                evt,
            )
            from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import
        except ImportError as error:
            raise SettingsError(
                "NO_NETWORK", "expected pynetdicom to receive, got none; pip install medseg[network]"
            ) from error
        _config.STORE_RECV_CHUNKED_DATASET = True
        # pynetdicom makes its files where `tempfile` says, which is neither ours nor on the spool's disk.
        place = partial(tempfile.NamedTemporaryFile, dir=self.spool / RECEIVING)
        vars(dimse_messages)["NamedTemporaryFile"] = place
        entity = AE(ae_title=self.settings.ae_title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self.settings.allowed)
        entity.maximum_associations = 10
        entity.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            if context.abstract_syntax is not None:
                entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        try:
            return entity.start_server(
                (self.settings.host, self.settings.port),
                block=False,
                evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_CONN_CLOSE, self._closed)],
            )
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SettingsError("BAD_ADDRESS", f"expected an address to listen at, got: {reason}") from error

    def _store(self, event: Event) -> int:
        """Answer one C-STORE request."""
        try:
            if shutil.disk_usage(self.spool).free < _ROOM_BYTES:
                return OUT_OF_RESOURCES
            header = next(iter(scan(event.dataset_path).headers), None)
            if header is None:
                return CANNOT_UNDERSTAND
            digest = _onto_disk(event.dataset_path)
            self._keep(event.dataset_path, header.study_uid, header.sop_instance_uid, digest)
        except ReadError:
            return CANNOT_UNDERSTAND
        except OSError:
            return OUT_OF_RESOURCES
        return SUCCESS

    def _keep(self, part: Path, study_uid: str, instance_uid: str, digest: str) -> None:
        """Move an instance to its study. The same one sent twice is one file; another of its UID, two."""
        study = pseudonym(self._key, ("study", study_uid)).replace("case-", "study-")
        name = pseudonym(self._key, ("instance", instance_uid)).replace("case-", "")
        with self._lock:
            folder = self.spool / INCOMING / study
            folder.mkdir(exist_ok=True)
            part.replace(folder / f"{name}-{digest[:8]}.dcm")
            self._heard[study] = time.monotonic()


def _onto_disk(path: Path) -> str:
    """Put a file onto disk; its SHA-256."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def feed(
    receiver: StudyReceiver, process: Callable[[Path], bool], cancel: CancelToken, *, studies: int = 0
) -> int:
    """Process studies as they become quiet, until a stop is asked for.

    Args:
        receiver: running.
        process: told the folder of a study; whether all of it was done. Receiving goes on meanwhile.
        cancel: a way to stop.
        studies: stop after so many; 0 for no end.

    Returns:
        How many studies were processed.

    Raises:
        CancelledError: a stop was asked for.
    """
    count = 0
    while not studies or count < studies:
        ready = receiver.ready_studies()
        for study in ready[: studies - count] if studies else ready:
            receiver.settle(study, is_done=process(study))
            count += 1
        cancel.check()
        if not ready:
            time.sleep(_LOOK_S)
    return count
