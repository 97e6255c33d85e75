"""Every bad input is told as `error [CODE]: …`, exit code 1, and nothing is written.

Inputs are damaged byte by byte, as disks, networks and strangers do it. Most run in this process,
to load torch once; what needs a process of its own is in `test_interrupted.py`.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import code_of, everything_under, refused_in_process
from tiny_bundle import tiny_inference, write_tiny_bundle

from medseg.cli.main import run

pytestmark = pytest.mark.usefixtures("at_home")

SCAN_SHAPE = (20, 18, 16)
DIM, VOX_OFFSET, QFORM, SFORM, SROW = 40, 108, 252, 254, 280


def scan_bytes(array: np.ndarray | None = None) -> bytes:
    """A good NIfTI-1 file."""
    if array is None:
        array = np.random.default_rng(0).normal(100, 20, SCAN_SHAPE).astype(np.float32)
    return bytes(nibabel.Nifti1Image(array, np.diag([2.0, 2, 2, 1])).to_bytes())


def patched(offset: int, form: str, *values: float) -> bytes:
    """A good file with a few numbers of its header overwritten."""
    data = bytearray(scan_bytes())
    struct.pack_into("<" + form, data, offset, *values)
    return bytes(data)


def with_dimensions(*sizes: int) -> bytes:
    return patched(DIM, f"{len(sizes) + 1}h", len(sizes), *sizes)


def with_affine(value: float) -> bytes:
    data = bytearray(patched(SFORM, "h", 1))
    struct.pack_into("<h", data, QFORM, 0)
    struct.pack_into("<12f", data, SROW, *([value] * 12))
    return bytes(data)


@cache
def bomb() -> bytes:
    """A small file that claims to hold 4 MB and unpacks to 200 MB of zeros."""
    header = with_dimensions(100, 100, 100)[:352]
    return gzip.compress(header + bytes(200_000_000))


BAD_SCANS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty": ("a.nii", lambda: b""),
    "no image": ("a.nii", lambda: b"not an image at all" * 99),
    "unknown suffix": ("a.xyz", scan_bytes),
    "truncated": ("a.nii", lambda: scan_bytes()[:5000]),
    "truncated header": ("a.nii", lambda: scan_bytes()[:100]),
    "truncated gzip": ("a.nii.gz", lambda: gzip.compress(scan_bytes())[:9000]),
    "plain bytes under .gz": ("a.nii.gz", scan_bytes),
    "gzip bomb": ("a.nii.gz", bomb),
    "huge dimensions": ("a.nii", lambda: with_dimensions(32767, 32767, 32767)),
    "dimension 0": ("a.nii", lambda: with_dimensions(20, 0, 16)),
    "negative dimension": ("a.nii", lambda: with_dimensions(20, -18, 16)),
    "2D": ("a.nii", lambda: scan_bytes(np.ones((20, 18), np.float32))),
    "4D": ("a.nii", lambda: scan_bytes(np.ones((8, 8, 8, 3), np.float32))),
    "one voxel": ("a.nii", lambda: scan_bytes(np.ones((1, 1, 1), np.float32))),
    "singular affine": ("a.nii", lambda: with_affine(1.0)),
    "NaN affine": ("a.nii", lambda: with_affine(float("nan"))),
    "all NaN": ("a.nii", lambda: scan_bytes(np.full(SCAN_SHAPE, np.nan, np.float32))),
    "constant": ("a.nii", lambda: scan_bytes(np.full(SCAN_SHAPE, 7, np.float32))),
    "infinite": ("a.nii", lambda: scan_bytes(np.full(SCAN_SHAPE, np.inf, np.float32))),
    "colours": (
        "a.nii",
        lambda: scan_bytes(np.zeros(SCAN_SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
    ),
}


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii"
    path.write_bytes(scan_bytes())
    return path


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The code of a refusal that left nothing new behind."""
    return refused_in_process(tmp_path, capsys, *words)[0]


@pytest.mark.filterwarnings("ignore::UserWarning")  # notices of the reader: the refusal comes later
@pytest.mark.parametrize("kind", BAD_SCANS)
def test_a_bad_scan_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, make = BAD_SCANS[kind]
    bad = tmp_path / name
    bad.write_bytes(make())
    refused(tmp_path, capsys, "segment", bad, "--model", "tiny", "-o", tmp_path / "out")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [k for k in BAD_SCANS if k not in ("2D", "one voxel", "constant")])
def test_a_bad_scan_is_refused_as_labels(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make = BAD_SCANS[kind]
    bad = tmp_path / name
    bad.write_bytes(make())
    refused(tmp_path, capsys, "measure", bad, "-o", tmp_path / "out.csv")


def test_a_missing_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("segment", tmp_path / "none.nii", "--model", "tiny", "-o", tmp_path / "out")
    assert refused(tmp_path, capsys, *words) == "FILE_NOT_FOUND"


def test_a_folder_without_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes.txt").write_text("nothing to see")
    refused(tmp_path, capsys, "segment", tmp_path / "study", "--model", "tiny", "-o", tmp_path / "out")


def test_a_label_map_is_no_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array = np.zeros((40, 36, 30), np.uint8)
    array[5:20, 5:30, 5:25], array[22:35, 8:30, 5:20] = 1, 2
    labels = tmp_path / "labels.nii"
    labels.write_bytes(scan_bytes(array))
    refused(tmp_path, capsys, "segment", labels, "--model", "tiny", "-o", tmp_path / "out")


def test_an_image_is_no_label_map(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(tmp_path, capsys, "measure", scan) == "NOT_LABELS"
    assert refused(tmp_path, capsys, "convert", scan, tmp_path / "b.nii", "--labels") == "NOT_LABELS"


def test_an_image_on_another_grid_is_refused(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.nii"
    labels.write_bytes(scan_bytes(np.ones((5, 5, 5), np.uint8)))
    code = refused(tmp_path, capsys, "measure", labels, "--image", scan, "-o", tmp_path / "out.csv")
    assert code == "GRID_MISMATCH"


def test_an_unknown_format_to_write_is_refused(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(tmp_path, capsys, "convert", scan, tmp_path / "b.jpeg") == "UNKNOWN_FORMAT"


def test_a_target_in_a_folder_that_is_none_is_refused(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(tmp_path, capsys, "convert", scan, tmp_path / "nowhere" / "b.nii")
    refused(tmp_path, capsys, "convert", scan, scan / "b.nii")


def test_an_output_that_is_a_file_is_refused(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("segment", scan, "--model", "tiny", "-o")
    assert refused(tmp_path, capsys, *words, scan) == "NOT_WRITABLE"
    assert refused(tmp_path, capsys, *words, scan / "below") == "NOT_WRITABLE"
    assert refused(tmp_path, capsys, *words, "a\0b") == "NOT_WRITABLE"


def test_dicom_output_of_another_image_is_refused_before_it_is_segmented(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg.pipeline.segment", lambda *_args, **_more: pytest.fail("hours were spent"))
    words = ("segment", scan, "--model", "tiny", "-o", tmp_path / "out", "--export", "dicom-seg")
    assert refused(tmp_path, capsys, *words) == "NO_DICOM_SOURCE"


# ---------------------------------------------------------------------- models and settings


def test_an_unknown_model_is_refused_by_name(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("segment", scan, "--model", "brain", "-o", tmp_path / "out")
    assert refused(tmp_path, capsys, *words) == "UNKNOWN_MODEL"
    assert refused(tmp_path, capsys, "models", "show", "brain") == "UNKNOWN_MODEL"


@pytest.mark.parametrize("damage", ["truncated", "zeros", "pickle", "missing", "empty"])
def test_damaged_weights_are_refused(
    damage: str, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "broken")
    weights = bundle / "models" / "model.pt"
    good = weights.read_bytes()
    match damage:
        case "truncated":
            weights.write_bytes(good[: len(good) // 2])
        case "zeros":
            weights.write_bytes(bytes(len(good)))
        case "pickle":
            weights.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR.")
        case "missing":
            weights.unlink()
        case "empty":
            weights.write_bytes(b"")
    refused(tmp_path, capsys, "segment", scan, "--model", bundle, "-o", tmp_path / "out")


@pytest.mark.parametrize("where", ["metadata", "inference", "network", "roi"])
def test_code_in_a_bundle_is_not_run(
    where: str, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attack = f"$__import__('os').system('touch {tmp_path / 'owned'}')"
    bundle = write_tiny_bundle(tmp_path / "evil")
    recipe = tiny_inference()
    match where:
        case "metadata":
            (bundle / "configs" / "metadata.json").write_text(json.dumps({"name": attack}))
        case "inference":
            recipe = dict.fromkeys(recipe, attack)
        case "network":
            recipe["network_def"] = attack
        case "roi":
            recipe["inferer"] = dict(recipe["inferer"]) | {"roi_size": attack}
    (bundle / "configs" / "inference.json").write_text(json.dumps(recipe))
    refused(tmp_path, capsys, "segment", scan, "--model", bundle, "-o", tmp_path / "out")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"network_def": 3}', "\x00\xff"])
def test_json_that_is_none_is_refused(
    text: str, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "broken")
    (bundle / "configs" / "inference.json").write_text(text, encoding="latin-1")
    refused(tmp_path, capsys, "segment", scan, "--model", bundle, "-o", tmp_path / "out")


def test_a_plan_over_the_limit_is_refused_before_it_starts(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("segment", scan, "--model", "tiny", "-o", tmp_path / "out", "--max-memory-gb", "0.1")
    assert refused(tmp_path, capsys, *words) == "OVER_MEMORY_LIMIT"


def test_too_many_images_for_a_model_are_refused(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("segment", scan, scan, "--model", "tiny", "-o", tmp_path / "out")
    assert refused(tmp_path, capsys, *words) == "CHANNELS_MISMATCH"


def test_a_class_that_the_model_lacks_is_refused(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("segment", scan, "--model", "tiny", "--separate", "lesion", "-o", tmp_path / "out")
    before = everything_under(tmp_path)
    assert run([str(word) for word in words]) == 1
    assert "error [UNKNOWN_LABEL]" in capsys.readouterr().err
    assert everything_under(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ("segment",),
        ("segment", "a.nii", "-o", "out"),
        ("segment", "a.nii", "--model", "tiny"),
        ("segment", "a.nii", "--model", "tiny", "-o", "out", "--overlap", "1.5"),
        ("segment", "a.nii", "--model", "tiny", "-o", "out", "--device", "tpu"),
        ("segment", "a.nii", "--model", "tiny", "-o", "out", "--no-such-flag"),
        ("measure",),
        ("evaluate", "a.nii"),
        ("evaluate", "a.nii", "b.nii", "--tolerance-mm", "-1"),
        ("convert", "a.nii"),
        ("models", "shw"),
        ("segmnt",),
    ],
)
def test_wrong_usage_is_exit_code_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(list(words)) == 2
    said = capsys.readouterr()
    assert code_of(said.err) == "WRONG_USAGE"
    assert said.out == ""


def test_with_json_a_failure_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(tmp_path / "none.nii"), str(tmp_path / "b.nii"), "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["code"] == "FILE_NOT_FOUND" == code_of(said.err)
    assert run(["convert", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "WRONG_USAGE"
