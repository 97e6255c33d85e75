"""A bundle's own Python, run because the user said so (`--trust-code`), by MONAI's own `ConfigParser`.

What runs: the expression at a key whose value is needed and cannot be read as data, everything that it
refers to, the recipe's `imports`, and modules of the bundle's folder (`scripts/`) that these name. It
runs in this process with all rights of the user. `run`, `initialize` and `evaluating` never run.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.errors import ModelError

_ONE_AT_A_TIME = threading.RLock()
"""The folder that modules come from belongs to the whole process."""


class TrustedRecipe:
    """Values of a recipe as MONAI gives them.

    Args:
        folder: of the bundle; becomes `bundle_root`.
        root: the recipe's content.
    """

    def __init__(self, folder: Path, root: Mapping[str, Any]) -> None:
        self._folder = folder.absolute()
        self._root = {**root, "bundle_root": str(self._folder)}

    def value(self, key: str) -> Any:
        """What MONAI makes of a key; code runs.

        Raises:
            ModelError: `TRUSTED_CODE_FAILED`, with what the code raised.
        """
        from pydoc import ErrorDuringImport

        from monai.bundle.config_parser import ConfigParser

        with _modules_of(self._folder):
            try:
                return ConfigParser(self._root).get_parsed_content(key)
            except (
                ArithmeticError, AssertionError, AttributeError, ErrorDuringImport, ImportError, LookupError,
                NameError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
            ) as error:  # fmt: skip
                raise ModelError(
                    "TRUSTED_CODE_FAILED",
                    f"expected the bundle's code to give {key!r}, got {type(error).__name__}: {error}; "
                    "install what it needs, or repair it",
                ) from error


@contextmanager
def _modules_of(folder: Path) -> Iterator[None]:
    """The bundle's folder comes first where modules are looked for; its modules are forgotten after.

    So two bundles with `scripts/` of their own do not get each other's.
    """
    with _ONE_AT_A_TIME:
        own = {path.stem for path in folder.glob("*.py")} | {
            path.name for path in folder.iterdir() if path.is_dir()
        }
        before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in own}
        for name in before:
            del sys.modules[name]
        sys.path.insert(0, str(folder))
        try:
            yield
        finally:
            sys.path.remove(str(folder))
            for name in [name for name in sys.modules if name.partition(".")[0] in own]:
                del sys.modules[name]
            sys.modules.update(before)
