"""How fast a folder of CT is listed: 301 files of 512 x 512, headers only.

    PYTHONPATH=tests python benchmarks/dicom_scan.py [FILES]

The first look after start (the system's file cache is warm: the files were just written), a second look
in the same process (medseg's own cache), and pydicom's `dcmread(stop_before_pixels=True)` for comparison.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dicom_bytes as raw
import numpy as np

from medseg.io.dicom_series import list_series


def seconds(work: Callable[[], object]) -> str:
    """Wall clock and processor; on a busy machine only the second says something."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return f"{time.perf_counter() - start:.2f} s ({time.process_time() - used:.2f} s of processor)"


def main(count: int) -> None:
    pixels = np.zeros((512, 512), np.uint16).tobytes()
    # As many private and text elements as a scanner writes.
    padding = b"".join(
        raw.element(0x00091000 + n, "LO", raw.text(f"private value {n}")) for n in range(120)
    ) + raw.element(0x00101030, "DS", raw.text("70"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n in range(count):
            one = raw.image(n).us(0x00280010, 512).us(0x00280011, 512).put(raw.PIXELS, "OW", pixels)
            content = one.bytes()
            at = content.find(b"\x10\0\x10\0PN")
            (folder / f"{n:04d}").write_bytes(content[:at] + padding + content[at:])

        def by_pydicom() -> None:
            import pydicom

            for path in folder.iterdir():
                pydicom.dcmread(path, stop_before_pixels=True)

        first = seconds(lambda: list_series(folder))
        second = seconds(lambda: list_series(folder))
        other = seconds(by_pydicom)
    print(f"{count} files: first look {first}, second {second}; pydicom {other}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 301)
