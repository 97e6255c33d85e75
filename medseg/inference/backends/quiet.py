"""OpenVINO and NNCF without their telemetry.

On import, both packages write an identifier into the user's home folder, and converting or
quantising a model then reports to their maker, unless the user opted out on this machine. Both go
without where the package `openvino_telemetry` cannot be imported; so it cannot be, while they load.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medseg.errors import SettingsError

_TELEMETRY = "openvino_telemetry"
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Let imports inside find no `openvino_telemetry`."""
    with _ONE_AT_A_TIME:
        present = _TELEMETRY in sys.modules
        kept = sys.modules.get(_TELEMETRY)
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # documented: such an import fails
        try:
            yield
        finally:
            del sys.modules[_TELEMETRY]
            if present and kept is not None:
                sys.modules[_TELEMETRY] = kept


def import_quietly(name: str) -> Any:
    """A module of OpenVINO or NNCF.

    Args:
        name: such as `"openvino"`.

    Raises:
        SettingsError: `NO_BACKEND`, it is not installed or cannot be loaded here.
    """
    try:
        with without_telemetry():
            return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        extra = "pip install 'medseg[int8]'" if package == "nncf" else f"pip install {package}"
        raise SettingsError(
            "NO_BACKEND",
            f"expected the package {package}, got none that loads here; install it ({extra}) or choose "
            "--backend torch and --precision f32",
        ) from error
