"""`medseg send`: DICOM files to a PACS, by C-STORE or DICOMweb, with the answer to each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli.fetch import password
from medseg.cli.options import Json
from medseg.cli.screen import print_json, print_table, progress_bar, say
from medseg.errors import SettingsError

if TYPE_CHECKING:
    from medseg.batch.send import Instance, Peer, SendAnswer

SOME_FAILED = 3


def send(
    files: tuple[Path, ...],
    /,
    *,
    to: str,
    ae_title: str = "ANY-SCP",
    our_ae_title: str = "MEDSEG",
    user: str = "",
    json: Json = False,
) -> int:
    """Send DICOM files and tell which of them the other side has stored.

    Args:
        files: DICOM files and folders of them.
        to: HOST:PORT of a DICOM node, or the URL of a DICOMweb service.
        ae_title: title of the DICOM node.
        our_ae_title: ours, which the node may have to know.
        user: of the DICOMweb service; its password is taken from MEDSEG_DICOMWEB_PASSWORD.
        json: print one JSON object on standard output.
    """
    from medseg.batch.send import Peer, instances_of

    instances = instances_of(files)
    if "://" in to:
        answers = _by_web(to, user, instances)
    else:
        host, _, port = to.rpartition(":")
        if not host or not port.isdigit():
            raise SettingsError("BAD_ADDRESS", "expected HOST:PORT or a URL after --to, got another word")
        answers = _by_store(Peer(host.strip("[]"), int(port), ae_title, our_ae_title), instances)
    return _print_answers(answers, json=json)


def _by_web(url: str, user: str, instances: tuple[Instance, ...]) -> tuple[SendAnswer, ...]:
    from medseg.batch.dicomweb import connected, store_files

    client = connected(url, user, password(user))
    with progress_bar() as report:
        return store_files(client, instances, progress=report)


def _by_store(peer: Peer, instances: tuple[Instance, ...]) -> tuple[SendAnswer, ...]:
    from medseg.batch.send import send_files

    with progress_bar() as report:
        return send_files(instances, peer, progress=report)


def _print_answers(answers: tuple[SendAnswer, ...], *, json: bool) -> int:
    failed = [one for one in answers if one.code]
    if json:
        rows = [{"file": str(one.path), "code": one.code, "reason": one.reason} for one in failed]
        print_json({"stored": len(answers) - len(failed), "failed": len(failed), "failures": rows})
    else:
        if failed:
            rows_ = [[one.path.name, one.code, one.reason] for one in failed]
            print_table("Not stored", ["file", "code", "reason"], rows_)
        say(f"{len(answers) - len(failed)} stored, {len(failed)} not")
    return SOME_FAILED if failed else 0
