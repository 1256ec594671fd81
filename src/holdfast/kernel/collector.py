"""How a program that is up treats its memory: the collector's pace, and what is given back."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
_BLOCK_BYTES = 256 * 1024
_ARENAS = 2


def hold_back() -> None:
    """Do not look while a program starts: nearly all that it makes stays, and looking at a growing
    heap again and again is a tenth of the time until it is ready. :func:`settle` ends this."""
    gc.disable()


def settle() -> None:
    """Look no more at what was imported and built so far, and look at the rest less often.

    Rows in the making are many and die young, and by themselves. At its default pace, meant for
    fewer objects, the collector costs a tenth of the time, and each full look at a program of a
    hundred thousand objects holds up everybody for tens of milliseconds.

    Batches and pages are blocks of megabytes, made in one thread and dropped in another. glibc,
    left alone, learns to take such blocks from its heaps, one for every thread, and gives hardly
    any of it back: the process would grow with what passed through it. Elsewhere nothing is set.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _BLOCK_BYTES)
        mallopt(_ARENA_MAX, _ARENAS)
    # What died meanwhile stays with the rest: half a megabyte, against a tenth of a second.
    gc.freeze()
    gc.enable()
    gc.set_threshold(5_000, 5, 5)
