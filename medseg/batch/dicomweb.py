"""DICOMweb: ask what there is (QIDO), fetch it (WADO), store results (STOW) and check every part's answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.batch.send import Instance, SendAnswer
from medseg.errors import ReadError, SettingsError, WriteError
from medseg.files import whole_file
from medseg.progress import CancelToken, Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from dicomweb_client.web import DICOMwebClient

TIMEOUT_S = (15.0, 300.0)
"""(to connect, between two bytes): a long upload that moves is never cut off."""

PARTS_AT_ONCE = 20
_STUDY, _SERIES, _MODALITY, _COUNT = "0020000D", "0020000E", "00080060", "00201209"


@dataclass(frozen=True)
class RemoteSeries:
    """A series as a server lists it; UIDs and kinds, no patient.

    Attributes:
        study_uid: of its study.
        series_uid: its own.
        modality: such as `"CT"`.
        instances: number of objects; None where the server does not say.
    """

    study_uid: str
    series_uid: str
    modality: str
    instances: int | None


def connected(url: str, user: str = "", password: str = "") -> DICOMwebClient:
    """A client of a DICOMweb service.

    Args:
        url: such as `http://host:8042/dicom-web`.
        user: for HTTP basic authentication; empty for none.
        password: of the user.

    Raises:
        SettingsError: `NO_NETWORK`, dicomweb-client is not installed; `BAD_ADDRESS`.
    """
    try:
        from dicomweb_client.session_utils import create_session, create_session_from_user_pass
        from dicomweb_client.web import DICOMwebClient
    except ImportError as error:
        raise SettingsError(
            "NO_NETWORK", "expected dicomweb-client, got none; pip install medseg[network]"
        ) from error
    session = create_session_from_user_pass(user, password) if user else create_session()
    try:
        client = DICOMwebClient(url, session=session, timeout=TIMEOUT_S)
    except ValueError as error:
        raise SettingsError(
            "BAD_ADDRESS", "expected a URL such as http://host:8042/dicom-web, got another"
        ) from error
    client.set_http_retry_params(retry=True, max_attempts=3, wait_exponential_multiplier=300)
    return client


@contextmanager
def _told_plainly(kind: type[ReadError | WriteError]) -> Iterator[None]:
    """Turn what the HTTP library raises into our errors, without URLs, which hold UIDs."""
    import requests

    try:
        yield
    except requests.HTTPError as error:
        status = "no status" if error.response is None else str(error.response.status_code)
        raise kind(
            "SERVER_REFUSED", f"expected the server to do it, got HTTP {status}; see its log"
        ) from error
    except requests.RequestException as error:
        raise kind(
            "NO_SERVER", f"expected a server that answers, got {type(error).__name__}; check it"
        ) from error


def find_series(client: DICOMwebClient, filters: Mapping[str, str] | None = None) -> tuple[RemoteSeries, ...]:
    """Ask which series there are (QIDO-RS).

    Args:
        client: from `connected`.
        filters: DICOM keyword -> value, such as `{"StudyInstanceUID": …, "Modality": "CT"}`.

    Raises:
        ReadError: `NO_SERVER`, `SERVER_REFUSED`.
    """
    with _told_plainly(ReadError):
        rows = client.search_for_series(search_filters=dict(filters or {}), get_remaining=True)
    found = [
        RemoteSeries(_first(row, _STUDY), _first(row, _SERIES), _first(row, _MODALITY), _number(row))
        for row in rows
    ]
    return tuple(sorted(found, key=lambda one: (one.study_uid, one.series_uid)))


def _first(row: Mapping[str, Any], tag: str) -> str:
    values = row.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _number(row: Mapping[str, Any]) -> int | None:
    text = _first(row, _COUNT)
    return int(text) if text.isdigit() else None


def fetch_series(
    client: DICOMwebClient,
    series: RemoteSeries,
    folder: Path,
    *,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> int:
    """Fetch one series (WADO-RS) into a folder, as files named by number.

    Args:
        client: from `connected`.
        series: from `find_series`.
        folder: made if missing.
        progress: told how many objects came.
        cancel: stops between objects.

    Returns:
        Number of objects.

    Raises:
        ReadError: `NO_SERVER`, `SERVER_REFUSED`; `INCOMPLETE`, fewer came than the server lists.
        WriteError: the folder cannot be written.
        CancelledError: a stop was asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with _told_plainly(ReadError):
        for dataset in client.iter_series(series.study_uid, series.series_uid):
            if cancel is not None:
                cancel.check()
            with whole_file(folder / f"{count:06}.dcm") as file:
                dataset.save_as(file, enforce_file_format=True)
            count += 1
            progress(Progress("fetch", count, series.instances or 0))
    if series.instances is not None and count < series.instances:
        raise ReadError(
            "INCOMPLETE", f"expected {series.instances} objects, got {count}; fetch the series again"
        )
    return count


def store_files(
    client: DICOMwebClient,
    instances: Sequence[Instance],
    *,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> tuple[SendAnswer, ...]:
    """Store files (STOW-RS). A part counts as stored only where the answer names its UID.

    A status of 200 alone proves nothing: servers are known to give it and store nothing.

    Args:
        client: from `connected`.
        instances: from `send.instances_of`.
        progress: told how many were answered.
        cancel: stops between requests.

    Returns:
        One answer per file, in order.

    Raises:
        WriteError: `NO_SERVER`.
        CancelledError: a stop was asked for.
    """
    answers: list[SendAnswer] = []
    for start in range(0, len(instances), PARTS_AT_ONCE):
        if cancel is not None:
            cancel.check()
        answers += _stored(client, instances[start : start + PARTS_AT_ONCE])
        progress(Progress("send", len(answers), len(instances)))
    return tuple(answers)


def _stored(client: DICOMwebClient, some: Sequence[Instance]) -> list[SendAnswer]:
    from pydicom import dcmread

    try:
        with _told_plainly(WriteError):
            answer = client.store_instances([dcmread(one.path) for one in some])
    except WriteError as error:
        if error.code != "SERVER_REFUSED":
            raise
        return [SendAnswer(one.path, one.instance_uid, error.code, str(error)) for one in some]
    stored = {str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence") or ()}
    failed = {
        str(item.get("ReferencedSOPInstanceUID", "")): int(item.get("FailureReason") or 0)
        for item in answer.get("FailedSOPSequence") or ()
    }
    return [_judged(one, stored, failed) for one in some]


def _judged(one: Instance, stored: set[str], failed: Mapping[str, int]) -> SendAnswer:
    if one.instance_uid in failed:
        reason = f"expected it to be stored, got failure {failed[one.instance_uid]:04X}; see the server's log"
        return SendAnswer(one.path, one.instance_uid, "NOT_STORED", reason)
    if one.instance_uid in stored:
        return SendAnswer(one.path, one.instance_uid)
    reason = "expected the answer to name it, got an answer without it; it may not be stored, send it again"
    return SendAnswer(one.path, one.instance_uid, "NOT_CONFIRMED", reason)
