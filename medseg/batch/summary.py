"""The table at the end: one row per input, as CSV and as a page. No times, so reruns give equal bytes."""

from __future__ import annotations

import csv
import html
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.files import write_text

CSV_FILE = "summary.csv"
HTML_FILE = "summary.html"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class SummaryRow:
    """One input of a batch at the end.

    Attributes:
        case: its name.
        state: `done`, `failed` or `skipped`.
        code: stable reason, or empty.
        reason: the same for people.
        folder: of its result, relative to the output folder; empty where there is none.
        facts: short words on the result, such as the number of regions.
    """

    case: str
    state: str
    code: str = ""
    reason: str = ""
    folder: str = ""
    facts: str = ""

    def cells(self) -> tuple[str, ...]:
        """Its cells, in the order of `HEADS`."""
        return (self.case, self.state, self.code, self.reason, self.folder, self.facts)


HEADS = ("case", "state", "code", "reason", "folder", "facts")


def write_summary(folder: Path, title: str, rows: Sequence[SummaryRow]) -> None:
    """Write `summary.csv` and `summary.html`.

    Raises:
        WriteError: `NOT_WRITABLE` or `DISK_FULL`.
    """
    ordered = sorted(rows, key=lambda row: row.case)
    write_text(folder / CSV_FILE, csv_text(ordered))
    write_text(folder / HTML_FILE, html_text(title, ordered))


def csv_text(rows: Sequence[SummaryRow]) -> str:
    """Rows as CSV; a cell that a spreadsheet would run as a formula gets an apostrophe before it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADS)
    for row in rows:
        writer.writerow(f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell for cell in row.cells())
    return text.getvalue()


def html_text(title: str, rows: Sequence[SummaryRow]) -> str:
    """Rows as one page that needs nothing from outside."""
    counts = Counter(row.state for row in rows)
    words = ", ".join(f"{counts[state]} {state}" for state in ("done", "failed", "skipped"))
    body = "\n".join(_html_row(row) for row in rows)
    heads = "".join(f"<th>{head}</th>" for head in HEADS if head != "folder")
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222 }}
table {{ border-collapse: collapse }}
th, td {{ text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #ddd; vertical-align: top }}
.done {{ color: #197a3e }} .failed {{ color: #b3261e; font-weight: 600 }} .skipped {{ color: #8a6d00 }}
</style>
<h1>{html.escape(title)}</h1>
<p>{len(rows)} inputs: {words}.</p>
<table><thead><tr>{heads}</tr></thead><tbody>
{body}
</tbody></table>
</html>
"""


def _html_row(row: SummaryRow) -> str:
    case, state, code, reason, folder, facts = (html.escape(cell) for cell in row.cells())
    name = f'<a href="{folder}/">{case}</a>' if folder else case
    return (
        f'<tr><td>{name}</td><td class="{state}">{state}</td><td>{code}</td>'
        f"<td>{reason}</td><td>{facts}</td></tr>"
    )
