"""A TIFF's list of pages, walked before a parser follows it.

Each page names the next; a list that runs in a circle, or tags without number, would keep
tifffile busy for ever.
"""

from __future__ import annotations

import struct
from io import BufferedReader
from pathlib import Path

from medseg.errors import ReadError
from medseg.files import opened

MAX_PAGES = 2**17
MAX_TAGS = 4096
SUB_PAGES = 330
"""Tag that hangs further lists of pages below a page: pyramids, which no z stack needs."""


def first_page_tags(path: Path) -> tuple[int, ...]:
    """Codes of the first page's tags, after all pages were found to be in order.

    Raises:
        ReadError: `WRONG_FORMAT`, `BAD_HEADER`, `NOT_A_VOLUME`, `PIXELS_TRUNCATED`.
    """
    with opened(path) as stream:
        try:
            pages = _walked(stream)
        except (struct.error, OverflowError) as error:
            raise ReadError(
                "PIXELS_TRUNCATED", "expected a whole list of pages, got a cut one; copy the file again"
            ) from error
    if not pages:
        raise ReadError("BAD_HEADER", "expected a TIFF with pages, got none; write the file again")
    return pages[0]


def _walked(stream: BufferedReader) -> list[tuple[int, ...]]:
    """Tag codes of each page."""
    mark = stream.read(4)
    order = {b"II": "<", b"MM": ">"}.get(mark[:2], "")
    version = int.from_bytes(mark[2:], "big" if order == ">" else "little")
    if not order or version not in (42, 43):
        raise ReadError("WRONG_FORMAT", "expected a TIFF, got something else; give the file its own suffix")
    # classic: tag count, bytes of a tag, offset; BigTIFF the same, wider
    count_as, tag_bytes, offset_as = ("H", 12, "I") if version == 42 else ("Q", 20, "Q")
    if version == 43:
        stream.read(4)
    pages: list[tuple[int, ...]] = []
    met: set[int] = set()
    while (position := _number(stream, order + offset_as)) != 0:
        stream.seek(position)
        count = _number(stream, order + count_as)
        if position in met or len(met) >= MAX_PAGES or not 1 <= count <= MAX_TAGS:
            raise ReadError(
                "BAD_HEADER",
                "expected pages that follow each other, got a circle or none; write it again",
            )
        met.add(position)
        entries = stream.read(count * tag_bytes)
        codes = tuple(code for (code,) in struct.iter_unpack(f"{order}H{tag_bytes - 2}x", entries))
        if SUB_PAGES in codes:
            raise ReadError(
                "NOT_A_VOLUME", "expected one stack of pages, got pages below pages; save the full size alone"
            )
        pages.append(codes)
    return pages


def _number(stream: BufferedReader, form: str) -> int:
    value: int = struct.unpack(form, stream.read(struct.calcsize(form)))[0]
    return value
