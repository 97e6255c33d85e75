"""`medseg doctor`: what works on this machine, and what to install."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from typing import Any

from medseg.cli.options import Json
from medseg.cli.screen import print_json, print_table

PARTS = {
    "torch": "run models",
    "openvino": "run models faster on a CPU",
    "nncf": "int8 on a CPU (extra: pip install medseg[int8])",
    "monai": "build MONAI networks, train",
    "nibabel": "read and write NIfTI",
    "SimpleITK": "decode classic JPEG in DICOM",
    "tifffile": "read and write TIFF stacks",
    "isal": "fast gzip",
    "pydicom": "read DICOM",
    "openjpeg": "decode JPEG 2000 in DICOM",
    "libjpeg_rle": "decode RLE in DICOM",
    "jpeg_ls": "decode JPEG-LS in DICOM",
    "highdicom": "write DICOM SEG",
    "cc3d": "connected components",
    "edt": "distance transforms",
    "numba": "separate objects",
    "napari": "look at results (extra: pip install medseg[napari])",
}
"""Module -> what it is for."""

MODULES = {"libjpeg_rle": "rle"}
"""Where the module is not called as the row is."""


def doctor(
    *,
    json: Json = False,
) -> None:
    """Tell versions, devices, memory and optional parts of this machine."""
    from medseg.result import software_versions

    report: dict[str, Any] = {
        "versions": software_versions(),
        "system": {
            "platform": platform.platform(terse=True),
            "processors": os.cpu_count(),
            "memory_gb": memory_gb(),
            "python": sys.version.split()[0],
        },
        "devices": devices(),
        "parts": {name: importlib.util.find_spec(MODULES.get(name, name)) is not None for name in PARTS},
    }
    if json:
        print_json(report)
        return
    print_table("Versions", ["package", "version"], [[k, str(v)] for k, v in report["versions"].items()])
    system = report["system"] | {"devices": ", ".join(report["devices"])}
    print_table("Machine", ["", "value"], [[k, str(v)] for k, v in system.items()])
    parts = [[n, "yes" if there else "missing", PARTS[n]] for n, there in report["parts"].items()]
    print_table("Parts", ["module", "here", "for"], parts)


def memory_gb() -> float | None:
    """Memory of this machine in GB, or None where the system does not tell."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)


def devices() -> list[str]:
    """Devices that torch can use here, the processor first."""
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    found = ["cpu"]
    found += [f"cuda:{n} {torch.cuda.get_device_name(n)}" for n in range(torch.cuda.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])
