"""Send DICOM files to a PACS by C-STORE, and look at the answer to each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.errors import CancelledError, SettingsError, WriteError
from medseg.io.dicom_scan import scan
from medseg.progress import CancelToken, Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from pynetdicom.association import Association

CONTEXTS_AT_ONCE = 120
"""An association can propose 128 presentation contexts."""


@dataclass(frozen=True)
class SendAnswer:
    """What became of one file.

    Attributes:
        path: the file.
        instance_uid: of the object in it.
        code: empty where the other side says that it is stored; else a stable reason.
        reason: the same for people.
    """

    path: Path = field(repr=False)
    instance_uid: str = field(repr=False)
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Peer:
    """A DICOM node.

    Attributes:
        host: its address.
        port: its port.
        ae_title: its title.
        our_ae_title: ours, which it may have to know.
    """

    host: str
    port: int
    ae_title: str = "ANY-SCP"
    our_ae_title: str = "MEDSEG"


@dataclass(frozen=True)
class Instance:
    """One object to be sent: its file, and what has to be agreed on for it."""

    path: Path = field(repr=False)
    sop_class_uid: str
    instance_uid: str = field(repr=False)
    transfer_syntax: str


def instances_of(paths: Sequence[Path]) -> tuple[Instance, ...]:
    """DICOM objects in files and folders, in order.

    Raises:
        ReadError: a path that is not there, or a file that is no DICOM.
        SettingsError: `NOTHING_TO_SEND`.
    """
    from pydicom.filereader import read_file_meta_info

    found = []
    for path in paths:
        for header in scan(path).headers:
            meta = read_file_meta_info(header.file.path)
            syntax = str(meta.get("TransferSyntaxUID", ""))
            found.append(Instance(header.file.path, header.sop_class_uid, header.sop_instance_uid, syntax))
    if not found:
        raise SettingsError("NOTHING_TO_SEND", "expected DICOM files, got none; check the paths")
    return tuple(found)


def send_files(
    instances: Sequence[Instance],
    peer: Peer,
    *,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> tuple[SendAnswer, ...]:
    """Send files as they are and ask for the fate of each.

    Args:
        instances: from `instances_of`.
        peer: where to.
        progress: told how many were sent.
        cancel: stops between files.

    Returns:
        One answer per file, in the order of their kinds.

    Raises:
        SettingsError: `NO_NETWORK`, pynetdicom is not installed.
        WriteError: `NO_PEER`, nobody answers there or the association is refused.
        CancelledError: a stop was asked for.
    """
    answers: list[SendAnswer] = []
    for some in _in_associations(instances):
        association = _associated(some, peer)
        try:
            for one in some:
                if cancel is not None:
                    cancel.check()
                answers.append(_sent(association, one))
                progress(Progress("send", len(answers), len(instances)))
        except CancelledError:
            association.abort()
            raise
        if association.is_established:
            association.release()
    return tuple(answers)


def _in_associations(instances: Sequence[Instance]) -> Iterator[list[Instance]]:
    """Files in groups whose presentation contexts fit into one association."""

    def kind(one: Instance) -> tuple[str, str]:
        return one.sop_class_uid, one.transfer_syntax

    some: list[Instance] = []
    for n, (_, same) in enumerate(groupby(sorted(instances, key=kind), key=kind), start=1):
        some += same
        if n % CONTEXTS_AT_ONCE == 0:
            yield some
            some = []
    if some:
        yield some


def _associated(instances: Iterable[Instance], peer: Peer) -> Association:
    try:
        from pynetdicom import AE
    except ImportError as error:
        raise SettingsError(
            "NO_NETWORK", "expected pynetdicom to send, got none; pip install medseg[network]"
        ) from error
    entity = AE(ae_title=peer.our_ae_title)
    for sop_class, syntax in sorted({(one.sop_class_uid, one.transfer_syntax) for one in instances}):
        entity.add_requested_context(sop_class, syntax)
    entity.connection_timeout = 15
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title)
    if not association.is_established:
        raise WriteError(
            "NO_PEER",
            "expected a DICOM node that accepts us, got none or a refusal; check address, port and AE titles",
        )
    return association


def _sent(association: Association, one: Instance) -> SendAnswer:
    from pydicom import dcmread

    try:
        status: Any = association.send_c_store(dcmread(one.path))
    except (ValueError, RuntimeError, AttributeError, OSError) as error:
        is_refused = isinstance(error, ValueError)
        code = "KIND_REFUSED" if is_refused else "NOT_SENT"
        what = "a refusal of this kind of object" if is_refused else type(error).__name__
        return SendAnswer(one.path, one.instance_uid, code, f"expected to be able to send it, got {what}")
    if "Status" not in status:
        reason = "expected an answer, got none; the connection was lost"
        return SendAnswer(one.path, one.instance_uid, "NO_ANSWER", reason)
    number = int(status.Status)
    if number == 0 or number >> 12 == 0xB:  # warnings: stored, with values coerced
        return SendAnswer(one.path, one.instance_uid)
    reason = f"expected status 0000, got {number:04X}; look at the other side's log"
    return SendAnswer(one.path, one.instance_uid, "NOT_STORED", reason)
