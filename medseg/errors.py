"""What can go wrong, in a family small enough to be caught by name.

Every message says what was expected, what came, and the cure. `code` is stable: scripts may
rely on it. No message holds a patient's name, id or date.
"""

from __future__ import annotations


class MedsegError(Exception):
    """Base of every error that medseg raises on purpose.

    Args:
        code: stable word in capitals, such as `NOT_A_VOLUME`.
        message: expected, got, cure.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[MedsegError], tuple[str, str]]:
        """Rebuild from code and message, so that an error survives a process boundary."""
        return type(self), (self.code, str(self))


class GeometryError(MedsegError, ValueError):
    """A grid that cannot be what it claims, or two grids that had to be the same."""


class VolumeError(MedsegError, ValueError):
    """Voxels or labels that do not fit what is to be done with them."""


class SettingsError(MedsegError, ValueError):
    """A setting out of its bounds, or settings that contradict each other."""


class ReadError(MedsegError, OSError):
    """A file or folder that cannot be read as a volume."""

    def __str__(self) -> str:
        return str(self.args[0])


class WriteError(MedsegError, OSError):
    """A result that cannot be written where it should go."""

    def __str__(self) -> str:
        return str(self.args[0])


class DownloadError(MedsegError, OSError):
    """A file that could not be fetched from the web, or is not the one that was meant."""

    def __str__(self) -> str:
        return str(self.args[0])


class ModelNotFoundError(MedsegError, LookupError):
    """No model of that name, or no model in that folder."""


class ModelError(MedsegError, ValueError):
    """A model that is damaged, refused, or does not fit the image."""


class DeviceMemoryError(MedsegError, MemoryError):
    """The plan needs more memory than it may have."""


class CancelledError(MedsegError):
    """The caller asked to stop."""

    def __init__(self, code: str = "CANCELLED", message: str = "stopped on request") -> None:
        super().__init__(code, message)
