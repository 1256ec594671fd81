"""What was recognised in a page: the members of a profile's source that say how to read it."""

from __future__ import annotations

from typing import Any

from holdfast.collect.errors import ParseFailed

ROWS_LOOKED_AT = 1_000

Plain = dict[str, Any]


class Recognised:
    """``source``: the members of a profile's source that say how to read the page.

    ``around`` are paths that lead out of a record to what probably identifies it; ``notes`` are for
    the person who reads the draft. ``document`` is what a JSON text holds, ``count`` how many
    records, as far as that is known.
    """

    def __init__(
        self, form: Plain, *, around: list[str] | None = None, count: int | None = None
    ) -> None:
        self.document: Any = None
        self.count = count
        self.source: Plain = {"format": form}
        self.around = around or []
        self.notes: list[str] = []

    @property
    def form(self) -> Plain:
        found: Plain = self.source["format"]
        return found


def other(kind: str, what: str) -> ParseFailed:
    return ParseFailed(
        f"cannot write a profile: this is {what}, and no {kind}",
        hint="without --format it is told from the bytes",
    )
