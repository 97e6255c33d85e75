"""Studies in and results out, against a real Orthanc with DICOMweb and the tools of dcmtk."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orthanc
import pytest
from dicom_makers import PATIENT, line, make_source, uid
from loopback import own_network
from tiny_bundle import write_tiny_bundle

from medseg.batch.receive import ReceiveSettings, StudyReceiver, feed
from medseg.batch.send import Instance, Peer, instances_of, send_files
from medseg.cli.main import run
from medseg.errors import ReadError, SettingsError, WriteError
from medseg.progress import CancelToken

pytest.importorskip("pynetdicom", reason="the extra `network` is not installed")
pytest.importorskip("dicomweb_client", reason="the extra `network` is not installed")

from medseg.batch.dicomweb import connected, fetch_series, find_series, store_files

needs_orthanc = pytest.mark.skipif(
    orthanc.program() is None, reason="no Orthanc with DICOMweb: apt-get install orthanc orthanc-dicomweb"
)
needs_dcmtk = pytest.mark.skipif(shutil.which("storescu") is None, reason="no dcmtk: apt-get install dcmtk")
pytestmark = [
    pytest.mark.timeout(900),
    # pynetdicom 3.0 drops the socket of a failed connection unclosed
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
    ),
]
BIG = np.random.default_rng(4).integers(0, 256, 3 * 4096 * 4096 * 2, np.uint8).tobytes()
NOISE = np.random.default_rng(3).integers(0, 900, (20, 24), np.int16).tobytes()
QUICK = ReceiveSettings(port=0, quiet_s=0.5)


@pytest.fixture(scope="module", autouse=True)
def in_own_network() -> Iterator[bool]:
    """In a network namespace where that is permitted (root), else on the machine's loopback."""
    with own_network() as alone:
        yield alone


@pytest.fixture(scope="module")
def pacs(in_own_network: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[orthanc.Orthanc]:
    with orthanc.running(tmp_path_factory.mktemp("orthanc")) as one:
        yield one


@pytest.fixture
def study(tmp_path: Path) -> Path:
    make_source(tmp_path / "ct", line(6), size=(20, 24), change={"PixelData": NOISE})
    return tmp_path / "ct"


def change_uids(folder: Path, number: int) -> None:
    """Make the study another one."""
    import pydicom

    for n, path in enumerate(sorted(folder.glob("*.dcm"))):
        image = pydicom.dcmread(path)
        image.StudyInstanceUID, image.SeriesInstanceUID = uid(number, 1), uid(number, 2)
        image.SOPInstanceUID = uid(number, 3, n + 1)
        image.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(uid(number, 3, n + 1))
        image.save_as(path)


def wait_for(receiver: StudyReceiver) -> tuple[Path, ...]:
    deadline = time.monotonic() + 20
    while not (ready := receiver.ready_studies()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return ready


def test_nothing_outside_can_be_reached(in_own_network: bool) -> None:
    if not in_own_network:
        pytest.skip("no network namespace is permitted here: these tests run on the machine's own loopback")
    with socket.socket() as one, pytest.raises(OSError, match="unreachable"):
        one.connect(("192.0.2.1", 80))


# ---------------------------------------------------------------------- receive


def test_an_object_is_spooled_and_never_in_memory_whole(study: Path, tmp_path: Path) -> None:
    """An object of 96 MB costs the receiving process little; its bytes are those that were sent."""
    make_source(tmp_path / "big", line(1), size=(4096, 4096), change={"NumberOfFrames": 3, "PixelData": BIG})
    script = (
        "import resource, sys, pathlib\n"
        "from medseg.batch.receive import *\n"
        "from medseg.progress import CancelToken\n"
        "with StudyReceiver(pathlib.Path(sys.argv[1]), ReceiveSettings(port=0, quiet_s=0.5)) as receiver:\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    print(receiver.port, flush=True)\n"
        "    feed(receiver, lambda study: True, CancelToken(), studies=1)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "spool")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        send_files(instances_of([tmp_path / "big"]), Peer("127.0.0.1", port, "MEDSEG"))
        assert int(server.stdout.read()) < 40_000  # KB
    (received,) = (tmp_path / "spool" / "done").rglob("*.dcm")
    assert received.read_bytes().endswith(BIG)
    assert list((tmp_path / "spool" / "receiving").iterdir()) == []


def test_what_a_broken_connection_left_is_removed(study: Path, tmp_path: Path) -> None:
    (tmp_path / "spool" / "receiving").mkdir(parents=True)
    (tmp_path / "spool" / "receiving" / "tmpx.dcm").write_bytes(b"half of an object")
    with StudyReceiver(tmp_path / "spool", QUICK) as receiver:
        assert list((tmp_path / "spool" / "receiving").iterdir()) == []
        send_files(instances_of([study]), Peer("127.0.0.1", receiver.port, "MEDSEG"))
        (ready,) = wait_for(receiver)
        assert len(list(ready.iterdir())) == 6
    assert list((tmp_path / "spool" / "receiving").iterdir()) == []


def test_a_study_sent_is_one_ready_folder_with_every_byte(study: Path, tmp_path: Path) -> None:
    with StudyReceiver(tmp_path / "spool", QUICK) as receiver:
        instances = instances_of([study])
        answers = send_files(instances, Peer("127.0.0.1", receiver.port, "MEDSEG"))
        assert [one.code for one in answers] == [""] * 6
        (ready,) = wait_for(receiver)
        again = {one.instance_uid for one in instances_of([ready])}
    assert again == {one.instance_uid for one in instances}
    names = " ".join(str(path) for path in (tmp_path / "spool").rglob("*"))
    assert not any(value in names for value in (*PATIENT.values(), uid(1), uid(2)) if len(value) > 2)
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0


def test_the_same_study_twice_is_the_same_files(study: Path, tmp_path: Path) -> None:
    with StudyReceiver(tmp_path / "spool", QUICK) as receiver:
        for _ in range(2):
            send_files(instances_of([study]), Peer("127.0.0.1", receiver.port, "MEDSEG"))
        (ready,) = wait_for(receiver)
        assert len(list(ready.iterdir())) == 6


def test_what_came_before_a_restart_is_not_lost(study: Path, tmp_path: Path) -> None:
    slow = ReceiveSettings(port=0, quiet_s=600.0)
    with StudyReceiver(tmp_path / "spool", slow) as receiver:
        send_files(instances_of([study]), Peer("127.0.0.1", receiver.port, "MEDSEG"))
        assert receiver.ready_studies() == ()
    with StudyReceiver(tmp_path / "spool", QUICK) as receiver:
        (ready,) = wait_for(receiver)
        assert len(list(ready.iterdir())) == 6


@pytest.mark.parametrize(
    ("settings", "peer"),
    [
        (QUICK, {"ae_title": "WRONG"}),
        (ReceiveSettings(port=0, allow="CT1, CT2"), {"ae_title": "MEDSEG", "our_ae_title": "CT3"}),
    ],
)
def test_who_is_not_on_the_list_is_refused(
    study: Path, tmp_path: Path, settings: ReceiveSettings, peer: dict[str, str]
) -> None:
    with StudyReceiver(tmp_path / "spool", settings) as receiver, pytest.raises(WriteError) as caught:
        send_files(instances_of([study]), Peer("127.0.0.1", receiver.port, **peer))
    assert caught.value.code == "NO_PEER"


def test_open_to_a_network_only_with_a_list() -> None:
    anywhere = "0.0.0.0"  # noqa: S104  nobody listens: only the rule is asked
    with pytest.raises(SettingsError) as caught:
        ReceiveSettings(host=anywhere)
    assert caught.value.code == "NO_ALLOW_LIST"
    ReceiveSettings(host=anywhere, allow="PACS")


def test_feeding_ends_after_as_many_studies_as_asked_for(study: Path, tmp_path: Path) -> None:
    seen = []

    def process(folder: Path) -> bool:
        seen.append(len(list(folder.iterdir())))
        return len(seen) == 1

    with StudyReceiver(tmp_path / "spool", QUICK) as receiver:
        peer = Peer("127.0.0.1", receiver.port, "MEDSEG")
        send_files(instances_of([study]), peer)
        assert feed(receiver, process, CancelToken(), studies=1) == 1
        change_uids(study, 50)
        send_files(instances_of([study]), peer)
        assert feed(receiver, process, CancelToken(), studies=1) == 1
    assert seen == [6, 6]
    assert [len(list((tmp_path / "spool" / name).iterdir())) for name in ("done", "failed", "ready")] == [
        1,
        1,
        0,
    ]


@needs_dcmtk
def test_dcmtk_can_send_and_rubbish_is_refused(study: Path, tmp_path: Path) -> None:
    with StudyReceiver(tmp_path / "spool", QUICK) as receiver:
        words = ["-aec", "MEDSEG", "127.0.0.1", str(receiver.port)]
        assert subprocess.run(["echoscu", *words], check=False).returncode == 0
        done = subprocess.run(["storescu", *words, "+sd", "+r", str(study)], check=False, capture_output=True)
        assert done.returncode == 0, done.stderr
        (ready,) = wait_for(receiver)
        assert len(list(ready.iterdir())) == 6


# ---------------------------------------------------------------------- orthanc


@needs_orthanc
def test_what_is_sent_to_a_pacs_is_there(pacs: orthanc.Orthanc, study: Path) -> None:
    change_uids(study, 60)
    answers = send_files(instances_of([study]), Peer("127.0.0.1", pacs.dicom_port, "ORTHANC"))
    assert [one.code for one in answers] == [""] * 6
    listed = find_series(connected(pacs.web), {"StudyInstanceUID": uid(60, 1)})
    assert [(one.series_uid, one.modality, one.instances) for one in listed] == [(uid(60, 2), "CT", 6)]


@needs_orthanc
def test_web_store_list_and_fetch_give_every_object_back(
    pacs: orthanc.Orthanc, study: Path, tmp_path: Path
) -> None:
    import pydicom

    change_uids(study, 61)
    client = connected(pacs.web)
    instances = instances_of([study])
    assert [one.code for one in store_files(client, instances)] == [""] * 6
    (listed,) = find_series(client, {"StudyInstanceUID": uid(61, 1)})
    assert fetch_series(client, listed, tmp_path / "back") == 6
    back = {d.SOPInstanceUID: d.PixelData for d in map(pydicom.dcmread, (tmp_path / "back").iterdir())}
    assert back == {one.instance_uid: NOISE for one in instances}


@needs_orthanc
def test_one_bad_part_is_named_and_the_good_ones_are_stored(
    pacs: orthanc.Orthanc, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_uids(study, 62)
    instances = instances_of([study])
    lost = Instance(instances[0].path, instances[0].sop_class_uid, uid(62, 99), instances[0].transfer_syntax)
    answers = store_files(connected(pacs.web), [*instances[1:], lost])
    assert [one.code for one in answers] == [""] * 5 + ["NOT_CONFIRMED"]


@needs_orthanc
def test_an_answer_of_200_that_names_nothing_confirms_nothing(
    pacs: orthanc.Orthanc, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pydicom

    client: Any = connected(pacs.web)
    monkeypatch.setattr(client, "store_instances", lambda *_: pydicom.Dataset())
    assert {one.code for one in store_files(client, instances_of([study]))} == {"NOT_CONFIRMED"}


def test_a_server_that_is_not_there_is_said(study: Path) -> None:
    client = connected(f"http://127.0.0.1:{orthanc.free_port()}/dicom-web")
    with pytest.raises(ReadError) as caught:
        find_series(client)
    assert caught.value.code == "NO_SERVER"
    with pytest.raises(WriteError) as told:
        store_files(client, instances_of([study]))
    assert told.value.code == "NO_SERVER"
    with pytest.raises(WriteError) as refused:
        send_files(instances_of([study]), Peer("127.0.0.1", orthanc.free_port()))
    assert refused.value.code == "NO_PEER"


@needs_orthanc
def test_from_pacs_to_segmentation_and_back(
    pacs: orthanc.Orthanc, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`medseg receive` takes a study in and segments it; `medseg send` gives the result to the PACS."""
    change_uids(study, 63)
    model = write_tiny_bundle(tmp_path / "models" / "tiny")
    port, spool, output = orthanc.free_port(), tmp_path / "spool", tmp_path / "out"
    words = ["receive", "-m", model, "-o", output, "--spool", spool, "--port", port, "--quiet-s", "1"]
    codes: list[int] = []
    words = [*words, "--studies", "1", "--threads", "1", "--sanity", "warn"]  # a model of MR
    server = threading.Thread(target=lambda: codes.append(run(list(map(str, words)))))
    server.start()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            send_files(instances_of([study]), Peer("127.0.0.1", port, "MEDSEG"))
            break
        except WriteError:
            time.sleep(0.2)
    server.join(timeout=600)
    assert codes == [0]
    (result,) = output.rglob("segmentation.dcm")
    capsys.readouterr()
    assert run(["send", str(result), "--to", pacs.web, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"stored": 1, "failed": 0, "failures": []}
    assert run(["fetch", pacs.web, "--study", uid(63, 1), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [one["modality"] for one in data["series"]] == ["SEG"]
