"""How fast a folder of CT is listed by headers alone, and in how much memory.

    PYTHONPATH=tests python benchmarks/dicom_scan.py [--files 301] [--size 512] [--series 301] [--folder DIR]
    PYTHONPATH=tests python benchmarks/dicom_scan.py --files 100000 --size 16 --series 250

Each look is a process of its own: the first knows nothing, the second finds the first one's headers in the
cache folder, the third looks twice and is timed at the second, whose headers are in memory (of 20,000
files at most). The system's file cache is warm: the files were just written. For up to 2,000 files,
pydicom's `dcmread(stop_before_pixels=True)` is timed too. Peak memory is that of the whole process; beside it
stands that of a process that only imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dicom_bytes as raw
import numpy as np

LOOKS = ("import alone", "first look", "second process", "second look", "pydicom")
MOST_FOR_PYDICOM = 2000


def write_files(folder: Path, files: int, size: int, per_series: int) -> None:
    """CT series of so many slices, each with as many private and text elements as a scanner writes."""
    pixels = np.zeros((size, size), np.uint16).tobytes()
    padding = b"".join(
        raw.element(0x00091000 + n, "LO", raw.text(f"private value {n}")) for n in range(120)
    ) + raw.element(0x00101030, "DS", raw.text("70"))
    for n in range(files):
        place = folder / f"{n // per_series:05d}"
        if n % per_series == 0:
            place.mkdir()
        one = raw.image(n % per_series).us(0x00280010, size).us(0x00280011, size)
        one = one.put(raw.PIXELS, "OW", pixels)
        for tag, part in ((0x00080018, f"3.{n}"), (0x0020000D, "1"), (0x0020000E, "2")):
            one = one.put(tag, "UI", raw.uid(f"{raw.ROOT}.{part}.{n // per_series}"))
        content = one.bytes()
        at = content.find(b"\x10\0\x10\0PN")
        (place / f"{n % per_series:05d}").write_bytes(content[:at] + padding + content[at:])


def look(what: str, folder: Path) -> dict[str, float]:
    """One look in this process: wall clock, processor, peak memory, steps of progress, series."""
    import resource

    from medseg.io.dicom_series import list_series
    from medseg.progress import Progress, silent

    told: list[Progress] = []
    found = 0
    if what == "second look":
        list_series(folder, progress=silent)
    start, used = time.perf_counter(), time.process_time()
    if what == "pydicom":
        import pydicom

        for path in folder.rglob("*"):
            if path.is_file():
                pydicom.dcmread(path, stop_before_pixels=True)
    elif what != "import alone":
        found = len(list_series(folder, progress=told.append))
    return {
        "wall s": time.perf_counter() - start,
        "processor s": time.process_time() - used,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "progress": len(told),
        "series": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=301)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--series", type=int, default=301)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--look", nargs=2)
    given = parser.parse_args()
    if given.look:
        print(json.dumps(look(given.look[0], Path(given.look[1]))))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        cache, folder = Path(name) / "cache", Path(name) / "files"
        folder.mkdir()
        start = time.perf_counter()
        write_files(folder, given.files, given.size, given.series)
        print(f"{given.files} files written in {time.perf_counter() - start:.0f} s")
        time.sleep(2.5)  # a file is kept in the cache only when it is older than two seconds
        for what in LOOKS:
            if what == "pydicom" and given.files > MOST_FOR_PYDICOM:
                continue
            done = subprocess.run(
                [sys.executable, __file__, "--look", what, str(folder)],
                env={**os.environ, "XDG_CACHE_HOME": str(cache)},
                capture_output=True,
                text=True,
                check=True,
            )
            figures = json.loads(done.stdout)
            print(f"{what:>15}: " + ", ".join(f"{key} {value:.2f}" for key, value in figures.items()))
        kept = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        print(f"cache on disk: {kept / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
