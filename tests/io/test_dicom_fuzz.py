"""Random damage and measured memory: whatever a file holds, the parent lives and stays small."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import dicom_bytes as raw
import numpy as np
import pytest
from hostile_dicom import CASES
from hostile_places import frame_groups, multiframe

from medseg.errors import MedsegError, ReadError
from medseg.io.dicom_series import list_series, read_all

HEADER_MEMORY_BYTES = 2**30
"""Address space of a process that looks at headers; Python with numpy takes about half of it."""

_LOOK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
from medseg.io.dicom_series import list_series
for path in sys.argv[1:]:
    try:
        print([info.code for info in list_series(path)])
    except OSError as error:
        print(error.code)
"""


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Some bytes changed, cut out, doubled or put in; never the mark."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 6))):
        at = int(random.integers(132, max(133, min(len(data), 900))))
        kind, length = int(random.integers(4)), int(random.integers(1, 9))
        noise = random.integers(0, 256, length, dtype=np.uint8).tobytes()
        if kind == 0:
            data[at : at + length] = noise
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = noise
        else:
            data[at:at] = data[at : at + 40]
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_never_leaves_the_family_of_errors(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    originals = [one.bytes() for one in raw.series(3)]
    originals.append(multiframe(frame_groups(raw.SLICES)).bytes())
    for n in range(60):
        folder = tmp_path / str(n)
        folder.mkdir()
        for k, original in enumerate(originals[:3] if n % 2 else originals[3:]):
            content = damaged(original, random) if k == 0 or n % 3 == 0 else original
            (folder / f"{k}.dcm").write_bytes(content)
        with warnings.catch_warnings():
            # What was assumed is not under test.
            warnings.simplefilter("ignore")
            try:
                volumes = list(read_all(folder))
            except MedsegError:
                continue
        assert all(np.isfinite(v.array).all() for v in volumes)


def write_cut(path: Path, content: bytes, length: int) -> Path:
    path.write_bytes(content[:length])
    return path


def test_every_cut_of_a_file_is_refused_or_listed(tmp_path: Path) -> None:
    content = raw.image().bytes()
    path = tmp_path / "cut.dcm"
    whole = list_series(write_cut(path, content, len(content)))
    for length in range(0, len(content), 7):
        try:
            infos = list_series(write_cut(path, content, length))
        except ReadError as refused:
            codes = {refused.code}
        else:
            codes = {info.code for info in infos}
            assert infos != whole
        assert codes <= {"NOT_DICOM", "TRUNCATED", "PIXELS_TRUNCATED", "NOT_AN_IMAGE"}


@pytest.mark.skipif(sys.platform == "win32", reason="address space cannot be limited there")
def test_bombs_are_looked_at_within_a_gigabyte(tmp_path: Path) -> None:
    wanted = ("d13", "d14", "d31", "d32", "d36", "d37", "d39", "z03", "z04")
    cases = [c for c in CASES if c.name.startswith(wanted)]
    paths = []
    for n, case in enumerate(cases):
        place = tmp_path / str(n)
        place.mkdir()
        paths.append(case.build(place))
    done = subprocess.run(
        [sys.executable, "-c", _LOOK.format(limit=HEADER_MEMORY_BYTES), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases)
    for case, line in zip(cases, lines, strict=True):
        assert case.code in line
