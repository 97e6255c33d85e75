"""Standardised uptake value of PET, by body weight; only where the header says all that it needs.

SUVbw = activity concentration [Bq/ml] * weight [g] / (injected dose [Bq] * 2^(-(start - injection) /
half-life)). Source: QIBA, "SUV vendor-neutral pseudo-code", happy path for images in BQML.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from medseg.errors import ReadError
from medseg.io.dicom_archive import SourceReader
from medseg.io.dicom_elements import Elements, read_raw_header
from medseg.io.dicom_source import SourceFile
from medseg.io.dicom_values import decimal, word, words

_WEIGHT, _UNITS, _DECAY, _CORRECTED = 0x00101030, 0x00541001, 0x00541102, 0x00280051
_SERIES_DATE, _SERIES_TIME, _DATE, _TIME = 0x00080021, 0x00080031, 0x00080022, 0x00080032
_DRUG, _INJECTED_TIME, _DOSE = 0x00540016, 0x00181072, 0x00181074
_HALF_LIFE, _INJECTED = 0x00181075, 0x00181078
_WANTED = frozenset({_WEIGHT, _UNITS, _DECAY, _CORRECTED, _SERIES_DATE, _SERIES_TIME, _DATE, _TIME, _DRUG})
_SAME_FACTOR = 1e-6
_LONGEST = timedelta(days=2)


def suv_factor(reader: SourceReader, files: Sequence[SourceFile]) -> float:
    """What Bq/ml are multiplied with, the same for all files of a series.

    Args:
        reader: opens the files.
        files: of one PET series.

    Raises:
        ReadError: `NO_SUV` where units are no Bq/ml, a correction is missing, a number is absent or no
            number, or times contradict each other.
    """
    found = []
    for file in files:
        with reader.open(file) as (stream, size):
            found.append(_factor(read_raw_header(stream, size, _WANTED).elements))
    if not found or max(found) - min(found) > _SAME_FACTOR * max(found):
        raise _unknown("files that agree")
    return found[0]


def _unknown(what: str) -> ReadError:
    return ReadError("NO_SUV", f"expected {what} to compute SUV, got none; read the series without SUV")


def _number(elements: Elements, tag: int, name: str) -> float:
    found = decimal(elements, tag, "NO_SUV", name)
    if found is None or found <= 0:
        raise _unknown(f"a {name} above 0")
    return found


def _factor(elements: Elements) -> float:
    if word(elements, _UNITS) != "BQML":
        raise _unknown("units of Bq/ml")
    if not {"ATTN", "DECY"} <= set(words(elements, _CORRECTED)):
        raise _unknown("correction of attenuation and decay")
    drugs = elements.items.get(_DRUG, ())
    if len(drugs) != 1:
        raise _unknown("one radiopharmaceutical")
    weight_g = 1000 * _number(elements, _WEIGHT, "weight")
    dose = _number(drugs[0], _DOSE, "dose")
    decay = word(elements, _DECAY)
    if decay == "ADMIN":
        return weight_g / dose
    if decay != "START":
        raise _unknown("a known moment of decay correction")
    half_life = _number(drugs[0], _HALF_LIFE, "half-life")
    waited = _start(elements) - _injection(elements, drugs[0])
    if not timedelta() <= waited <= _LONGEST:
        raise _unknown("an injection before the scan")
    return float(weight_g / (dose * 2 ** (-waited.total_seconds() / half_life)))


def _moment(date: str, time: str) -> datetime:
    for form in ("%Y%m%d%H%M%S", "%Y%m%d%H%M%S.%f"):
        try:
            return datetime.strptime(date + time, form)
        except ValueError:
            continue
    raise _unknown("dates and times")


def _start(elements: Elements) -> datetime:
    """The series' time, unless it is that of a later processing."""
    series = _moment(word(elements, _SERIES_DATE), word(elements, _SERIES_TIME))
    if series > _moment(word(elements, _DATE), word(elements, _TIME)):
        raise _unknown("a series time that is the start of the scan")
    return series


def _injection(elements: Elements, drug: Elements) -> datetime:
    full = word(drug, _INJECTED)
    if len(full) >= len("YYYYMMDDHHMMSS"):
        return _moment(full[:8], full[8:].split("+")[0].split("-")[0])
    moment = _moment(word(elements, _SERIES_DATE), word(drug, _INJECTED_TIME))
    # A time alone that lies after the scan was the evening before.
    return moment - timedelta(days=1) if moment > _start(elements) else moment
