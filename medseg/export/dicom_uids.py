"""Unique identifiers that follow from the content: the same result is the same DICOM object.

An identifier is `2.25.` and the number of a name-based UUID (PS3.5 B.2, RFC 9562 version 5), so a
rerun replaces its object in an archive instead of adding a twin, and any change of a voxel, a
name, the source or the software makes another object.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from importlib import metadata

from medseg.io.dicom_source import DicomSource
from medseg.result import RunRecord, hash_volume
from medseg.volume import InstanceVolume, LabelVolume

_NAMESPACE = uuid.UUID("7f0c9e1c-7a57-5d0b-9f64-0d8a5b1e6f42")

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")

_FORMAT = "1"
"""Raised when the writers write the same content in another way."""


def uid_of(*parts: str) -> str:
    """The identifier of a thing named by these parts; at most 44 characters."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(31).join(parts)).int}"


def is_uid(text: str) -> bool:
    """Whether a text can be referenced as a DICOM UID: digits and dots, at most 64 characters."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def medseg_version() -> str:
    """Version of medseg as installed, or `"unknown"` where it runs from a plain folder."""
    try:
        return metadata.version("medseg")
    except metadata.PackageNotFoundError:
        return "unknown"


def result_digest(
    labels: LabelVolume, source: DicomSource, instances: InstanceVolume | None, record: RunRecord
) -> str:
    """Hash of all that goes into the DICOM objects of one result, the same for each of them.

    Args:
        labels: classes.
        source: slices that they belong to.
        instances: separated objects, or None.
        record: its model's name, version and hash count; its times and machine do not.
    """
    digest = hashlib.sha256()
    words = [_FORMAT, medseg_version(), record.model, record.model_version, record.model_sha256]
    words += [source.study_uid, source.series_uid]
    words += [f"{s.sop_instance_uid} {s.frame} {s.tile}" for s in source.slices]
    for volume in (labels, instances):
        if volume is not None:
            words += [repr(volume.labels.labels), hash_volume(volume)]
    if instances is not None:
        words.append(repr(sorted(instances.classes.items())))
    digest.update("\x1f".join(words).encode())
    return digest.hexdigest()
