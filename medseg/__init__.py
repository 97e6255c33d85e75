"""medseg: give it a scan and a model; get named organs, counted objects, measures and exact files.

Names are handed out lazily (PEP 562), so that `import medseg` costs nothing: each is imported
from its module when it is first asked for. A new public name stands in three places below:
the imports for editors, `__all__` and the table; `tests/test_public_api.py` holds them equal.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.errors import (
        CancelledError,
        DeviceMemoryError,
        GeometryError,
        MedsegError,
        ModelError,
        ModelNotFoundError,
        ReadError,
        SettingsError,
        VolumeError,
        WriteError,
    )
    from medseg.geometry import Geometry
    from medseg.labels import Code, Label, LabelSet
    from medseg.measure.regions import Region, measure_regions
    from medseg.progress import CancelToken, Progress
    from medseg.resample import resample_labels, resample_volume
    from medseg.result import Result, RunRecord
    from medseg.volume import InstanceVolume, LabelVolume, Volume

__version__ = "0.1.0"

__all__ = [
    "CancelToken",
    "CancelledError",
    "Code",
    "DeviceMemoryError",
    "Geometry",
    "GeometryError",
    "InstanceVolume",
    "Label",
    "LabelSet",
    "LabelVolume",
    "MedsegError",
    "ModelError",
    "ModelNotFoundError",
    "Progress",
    "ReadError",
    "Region",
    "Result",
    "RunRecord",
    "SettingsError",
    "Volume",
    "VolumeError",
    "WriteError",
    "__version__",
    "measure_regions",
    "resample_labels",
    "resample_volume",
]

_HOME = {
    "CancelToken": "medseg.progress",
    "CancelledError": "medseg.errors",
    "Code": "medseg.labels",
    "DeviceMemoryError": "medseg.errors",
    "Geometry": "medseg.geometry",
    "GeometryError": "medseg.errors",
    "InstanceVolume": "medseg.volume",
    "Label": "medseg.labels",
    "LabelSet": "medseg.labels",
    "LabelVolume": "medseg.volume",
    "MedsegError": "medseg.errors",
    "ModelError": "medseg.errors",
    "ModelNotFoundError": "medseg.errors",
    "Progress": "medseg.progress",
    "ReadError": "medseg.errors",
    "Region": "medseg.measure.regions",
    "Result": "medseg.result",
    "RunRecord": "medseg.result",
    "SettingsError": "medseg.errors",
    "Volume": "medseg.volume",
    "VolumeError": "medseg.errors",
    "WriteError": "medseg.errors",
    "measure_regions": "medseg.measure.regions",
    "resample_labels": "medseg.resample",
    "resample_volume": "medseg.resample",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
