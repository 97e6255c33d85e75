"""What an exception means for whoever typed the command: a code, a sentence, an exit code."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from medseg.errors import CancelledError, MedsegError, SettingsError

FAILED = 1
WRONG_USAGE = 2
CANCELLED = 130

OS_REASONS = {
    errno.ENOSPC: ("DISK_FULL", "the disk is full; free some space or choose another folder"),
    errno.EDQUOT: ("DISK_FULL", "the disk quota is used up; free some space or choose another folder"),
    errno.EFBIG: (
        "DISK_FULL",
        "a file would exceed the size limit; raise the limit or change the folder",
    ),
    errno.EACCES: ("NOT_PERMITTED", "the system refuses access; check owner and permissions"),
    errno.EPERM: ("NOT_PERMITTED", "the system refuses access; check owner and permissions"),
    errno.EROFS: ("NOT_PERMITTED", "the disk is read-only; choose another folder"),
    errno.ENOENT: ("FILE_NOT_FOUND", "a file or folder is missing; check the spelling"),
    errno.EMFILE: ("TOO_MANY_FILES", "too many open files; raise the limit (`ulimit -n`)"),
}


@dataclass(frozen=True)
class Failure:
    """One failed command.

    Attributes:
        code: stable word in capitals.
        message: what was expected, what came, the cure.
        exit_code: of the process.
    """

    code: str
    message: str
    exit_code: int = FAILED


def failure_of(error: BaseException) -> Failure:
    """What to tell about an exception that reached the top."""
    match error:
        case CancelledError():
            failure = Failure(error.code, str(error), CANCELLED)
        case KeyboardInterrupt():
            failure = Failure("CANCELLED", "stopped on request; nothing was written", CANCELLED)
        case SettingsError():
            failure = Failure(error.code, str(error), WRONG_USAGE)
        case MedsegError():
            failure = Failure(error.code, str(error))
        case MemoryError():
            failure = Failure("OUT_OF_MEMORY", "too little memory is free; close programs or crop the scan")
        case OSError():
            failure = _os_failure(error)
        case ImportError():
            words = f"a package cannot be loaded: {error}; `medseg doctor` tells more"
            failure = Failure("NOT_INSTALLED", words)
        case _:
            words = f"unforeseen {type(error).__name__}; please report it with what --verbose tells"
            failure = Failure("INTERNAL", words)
    return failure


def _os_failure(error: OSError) -> Failure:
    if error.errno in OS_REASONS:
        return Failure(*OS_REASONS[error.errno])
    return Failure("SYSTEM", f"the system said: {error.strerror or type(error).__name__}")
