"""How inner loops become machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(loop: Loop) -> Loop:
    """The loop as machine code that releases the interpreter's lock.

    Code is kept on disk where a cache can be written, so that it is made once per installation.
    No fast-math: every sum is made in the order that is written, so that a block of a volume
    gives the very bits of the whole.
    """
    try:
        return cast(Loop, numba.njit(nogil=True, cache=True)(loop))
    except RuntimeError:  # numba's word for "no folder to cache in": a read-only installation
        return cast(Loop, numba.njit(nogil=True)(loop))
