"""Pictures that were drawn, kept for whoever looks again: a report never changes.

Each is drawn by a child process for a second or so, and a front page shows several of them.
"""

from __future__ import annotations

from collections import OrderedDict

Key = tuple[str, str, str]
"""Tenant, report, format."""


class Drawings:
    """The pictures looked at last, as many as fit into ``bytes_max``."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._kept: OrderedDict[Key, bytes] = OrderedDict()

    def get(self, key: Key) -> bytes | None:
        """The picture, if it is kept."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep(self, key: Key, drawn: bytes) -> bytes:
        """Keep it, and forget those that nobody looked at for longest."""
        self._bytes += len(drawn) - len(self._kept.pop(key, b""))
        self._kept[key] = drawn
        while self._bytes > self._bytes_max:
            _, old = self._kept.popitem(last=False)
            self._bytes -= len(old)
        return drawn
