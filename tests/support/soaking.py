"""How much longer than its seeded sample a test is in a soak.

What `make test` does with a few seeds, tests marked ``soak`` do with many in ``make soak``.
"""

from __future__ import annotations

import os


def scale() -> int:
    """How many times longer: 1 but in a soak."""
    return int(os.environ.get("HOLDFAST_SOAK_SCALE", "1"))
