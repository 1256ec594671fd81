"""The garbage collector's pace in a program that is up."""

from __future__ import annotations

import gc


def settle() -> None:
    """Look no more at what was imported and built so far, and look at the rest less often.

    Rows in the making are many and die young, and by themselves. At its default pace, meant for
    fewer objects, the collector costs a tenth of the time, and each full look at a program of a
    hundred thousand objects holds up everybody for tens of milliseconds.
    """
    gc.freeze()
    gc.set_threshold(5_000, 5, 5)
