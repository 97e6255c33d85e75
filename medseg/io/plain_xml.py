"""XML from strangers: parsed only where it declares no entities of its own."""

from __future__ import annotations

import re
from xml.etree import ElementTree

_DECLARATION = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)


def parse_plain_xml(content: bytes) -> ElementTree.Element | None:
    """The root element, or None where the text is no XML or declares entities or a document type."""
    if _DECLARATION.search(content):
        return None
    try:
        return ElementTree.fromstring(content.strip(b"\0 \r\n\t"))  # noqa: S314  (no DTD: checked above)
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
