"""Verbs, exit codes, and how a failure is told.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some cases of a batch failed, 130 cancelled.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
import traceback
import warnings
from typing import Any, NoReturn

from cyclopts import App, CycloptsError, Parameter

from medseg import __version__
from medseg.cli.failures import WRONG_USAGE, Failure, failure_of

VERBS = {
    "segment": "Segment a scan: labels, table of measures and record into a folder.",
    "separate": "Tell the objects of a class apart: lesions, nuclei; count and measure them.",
    "refine": "Move the borders of a label map to where its scan has its own.",
    "measure": "Measure every class of a label map.",
    "evaluate": "Compare a label map with a reference, class by class.",
    "series": "List what a folder, DICOMDIR or zip holds, and what of it can be read.",
    "convert": "Write an image or label map in another format.",
    "batch": "Segment many cases, each in a guarded process; resumes by itself.",
    "receive": "Receive studies from a scanner or PACS and segment them (extra: network).",
    "send": "Send DICOM files to a PACS and tell which were stored (extra: network).",
    "fetch": "List and fetch series of a DICOMweb service (extra: network).",
    "train": "Train a model on your own images and labels, or let one go on learning from them.",
    "view": "Look at scans, segment and correct them in napari (extra: napari).",
    "models": "List the models at hand, or show one.",
    "doctor": "Tell what works on this machine: versions, devices, memory.",
}
"""Each lives in `medseg.cli.VERB` under the same name and is imported only when it is called."""


def build_app() -> App:
    """The command line as data; nothing heavy is imported."""
    app = App(
        name="medseg",
        help="Segment 3D medical scans: named organs, counted objects, exact files. Not a medical device.",
        version=__version__,
        help_epilogue="Every command takes --json and --verbose. `medseg COMMAND --help` tells its options.",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=()),
    )
    for verb, words in VERBS.items():
        app.command(f"medseg.cli.{verb}:{verb}", name=verb, help=words)
    return app


def run(arguments: list[str]) -> int:
    """Run one command line.

    Args:
        arguments: words after `medseg`.

    Returns:
        The exit code.
    """
    wants_json = "--json" in arguments
    verbose = "--verbose" in arguments
    try:
        code = build_app()(
            [word for word in arguments if word != "--verbose"],
            result_action="return_value",
            exit_on_error=False,
            print_error=False,
        )
    except CycloptsError as error:
        words = " ".join(str(error).split())
        return _tell(Failure("WRONG_USAGE", f"{words} (`medseg --help` tells how)", WRONG_USAGE), wants_json)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the top: whatever came is told, never lost
        if verbose:
            traceback.print_exc()
        return _tell(failure_of(error), wants_json)
    return code if isinstance(code, int) else 0


def main() -> NoReturn:
    """Entry point of the `medseg` command."""
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, _stop)
    _set_up_messages("--verbose" in sys.argv)
    sys.exit(run(sys.argv[1:]))


def _stop(_signal: int, _frame: Any) -> NoReturn:
    """Leave by an exception, so that half-written files are cleared away as on Ctrl-C."""
    raise KeyboardInterrupt


def _tell(failure: Failure, wants_json: bool) -> int:
    """Say what went wrong; with `--json` also as the one object on standard output."""
    print(f"error [{failure.code}]: {failure.message}", file=sys.stderr)
    if wants_json:
        import json

        print(json.dumps({"error": {"code": failure.code, "message": failure.message}}))
    return failure.exit_code


def _set_up_messages(verbose: bool) -> None:
    """Quiet by default; what a reader had to assume is always told, on standard error.

    A letter that the terminal or pipe cannot show (Windows, `LC_ALL=C`) must not end a command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO if verbose else logging.CRITICAL, format="%(name)s: %(message)s")
    warnings.resetwarnings()
    warnings.simplefilter("default" if verbose else "ignore")
    warnings.filterwarnings("always", message=r"\[[A-Z_0-9]+\] ", category=UserWarning)
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, category: type[Warning], *_place: Any, **_more: Any) -> None:
    words = str(message)
    print(f"note {words}" if words.startswith("[") else f"{category.__name__}: {words}", file=sys.stderr)


if __name__ == "__main__":
    main()
