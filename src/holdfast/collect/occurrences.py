"""How often each content was seen in a run: what tells repeated rows apart, in their order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

HELD_MAX = 200_000
"""Contents kept in memory; beyond that they go to a file, so that memory stays bounded."""


class Occurrences:
    """Counts equal contents. Deterministic: the n-th equal row of a run has number n.

    ``spill`` is a file for what does not fit in memory (about 40 bytes a row), made when it is
    first needed; it is worthless afterwards and belongs to whoever named it. Without one everything
    is kept in memory. Used from one thread at a time.
    """

    def __init__(self, spill: Path | None = None, held_max: int = HELD_MAX) -> None:
        self._spill = spill
        self._held_max = held_max
        self._held: dict[bytes, int] = {}
        self._file: sqlite3.Connection | None = None

    def number(self, content: bytes) -> int:
        """How many equal contents came before this one. ``content`` is a digest."""
        number = self._held.get(content)
        if number is None:
            number = self._from_file(content) if self._file is not None else 0
            if len(self._held) >= self._held_max and self._spill is not None:
                self._to_file(self._spill)
        self._held[content] = number + 1
        return number

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _from_file(self, content: bytes) -> int:
        assert self._file is not None
        row = self._file.execute("SELECT number FROM seen WHERE content = ?", (content,)).fetchone()
        return int(row[0]) if row else 0

    def _to_file(self, path: Path) -> None:
        if self._file is None:
            import sqlite3  # few runs come this far

            # Nothing of it outlives the run, so nothing of it needs to reach the disk.
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode = OFF")
            self._file.execute("PRAGMA synchronous = OFF")
            self._file.execute(
                "CREATE TABLE seen (content BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID"
            )
        self._file.execute("BEGIN")
        self._file.executemany(
            "INSERT INTO seen VALUES (?, ?) ON CONFLICT DO UPDATE SET number = excluded.number",
            sorted(self._held.items()),
        )
        self._file.execute("COMMIT")
        self._held.clear()
