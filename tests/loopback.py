"""A network namespace for the tests of the network: they see nothing outside, and nothing sees them."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


@contextmanager
def own_network() -> Iterator[bool]:
    """This thread and what it starts, in a network of loopback alone; False where that is not permitted."""
    if sys.platform != "linux":
        yield False
        return
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            yield False
            return
        try:
            _bring_up_loopback()
            yield True
        finally:
            if libc.setns(before, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "the tests cannot leave their network namespace")
    finally:
        os.close(before)


def _bring_up_loopback() -> None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        known = fcntl.ioctl(one, _SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        (flags,) = struct.unpack("16xh22x", known)
        fcntl.ioctl(one, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
