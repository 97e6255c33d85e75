"""Decode `N.dcm` of a folder into `N.npy` beside it: run as a script, in a process that may die.

It imports nothing of medseg. The files are bare ones that medseg wrote; only their codestreams come
from outside.
"""

from __future__ import annotations

import sys
from pathlib import Path

MEMORY_BYTES = 3 * 2**30


def limit_memory(limit: int = MEMORY_BYTES) -> None:
    """Let allocations beyond a limit fail, where the system can do that."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def decode_folder(folder: Path) -> None:
    """Decode every file of a folder.

    Args:
        folder: holds `N.dcm`; gets `N.npy`, `(rows, columns)` stored values.

    Raises:
        RuntimeError: a decoder fails; the process ends.
    """
    import numpy as np
    import SimpleITK as sitk

    for path in sorted(folder.glob("*.dcm")):
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
        np.save(path.with_suffix(".npy"), array.reshape(array.shape[-2:]))


if __name__ == "__main__":
    limit_memory()
    decode_folder(Path(sys.argv[1]))
