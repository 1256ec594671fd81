"""Options that many commands share; the only module of the kernel that loads their library.

Apart from ``kernel.cli``, so that a program that stays (``up``, ``serve``, ``drone``) can print and
fail like every command without holding a library that it has no use for.
"""

from __future__ import annotations

from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

LimitOption = Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most this many.")]
