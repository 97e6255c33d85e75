"""What an exception means for whoever typed the command."""

from __future__ import annotations

import errno

import pytest

from medseg.cli.failures import failure_of
from medseg.errors import CancelledError, DeviceMemoryError, ReadError, SettingsError


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (ReadError("PIXELS_TRUNCATED", "expected more"), "PIXELS_TRUNCATED", 1),
        (DeviceMemoryError("OVER_MEMORY_LIMIT", "expected less"), "OVER_MEMORY_LIMIT", 1),
        (SettingsError("UNKNOWN_EXPORT", "expected nifti"), "UNKNOWN_EXPORT", 2),
        (CancelledError(), "CANCELLED", 130),
        (KeyboardInterrupt(), "CANCELLED", 130),
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL", 1),
        (OSError(errno.EDQUOT, "Quota exceeded"), "DISK_FULL", 1),
        (PermissionError(errno.EACCES, "Permission denied"), "NOT_PERMITTED", 1),
        (OSError(errno.EROFS, "Read-only file system"), "NOT_PERMITTED", 1),
        (OSError(errno.EIO, "Input/output error"), "SYSTEM", 1),
        (MemoryError(), "OUT_OF_MEMORY", 1),
        (ModuleNotFoundError("No module named 'torch'"), "NOT_INSTALLED", 1),
        (ZeroDivisionError("division by zero"), "INTERNAL", 1),
    ],
)
def test_every_kind_has_its_code(error: BaseException, code: str, exit_code: int) -> None:
    failure = failure_of(error)
    assert (failure.code, failure.exit_code) == (code, exit_code)
    assert failure.message


def test_no_path_and_no_unforeseen_words_are_told() -> None:
    secret = "DOE^JANE"  # noqa: S105  (a patient's name, which must not come out)
    assert secret not in failure_of(OSError(errno.EIO, "Input/output error", f"{secret}/a.nii")).message
    assert secret not in failure_of(RuntimeError(secret)).message
