"""A zipped model used as it lies: unpacked once into the cache, found there the next time.

A zip of a bundle or of nnU-Net's folders is told from a TorchScript file or a checkpoint, which are
zips too, by what lies in it. It is unpacked under the same care as an installed one (`unpack`).
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from medseg.cache import CACHE_VARIABLE, cache_folder
from medseg.errors import WriteError
from medseg.models.formats import model_root
from medseg.models.unpack import unpack_zip
from medseg.models.weights import file_sha256


def is_archive(path: Path) -> bool:
    """Whether a path is a zip that is neither TorchScript nor a checkpoint of torch."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as parts:
            names = parts.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return False
    return not any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names)


def unpacked(archive: Path) -> Path:
    """Where the model of a zip lies, unpacked.

    Args:
        archive: the zip.

    Returns:
        The topmost model in it. Nothing stays behind of a zip that is refused.

    Raises:
        ModelError: as `unpack_zip`; `NO_MODEL_INSIDE`.
        WriteError: `NOT_WRITABLE` or `DISK_FULL`.
    """
    place = cache_folder() / "unpacked" / file_sha256(archive)
    if not place.is_dir():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(dir=place.parent, prefix=".new-"))
        except OSError as error:
            raise WriteError(
                "NOT_WRITABLE",
                f"expected a cache folder to unpack into, got: {error.strerror}; set {CACHE_VARIABLE}",
            ) from error
        try:
            unpack_zip(archive, fresh)
            model_root(fresh)
            if not place.is_dir():  # another process may have been quicker
                fresh.replace(place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return model_root(place)
