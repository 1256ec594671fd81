"""Runs a command of the program in a process that dies, as by kill -9, where it is about to write.

``python -m tests.support.dying FILE WHEN COMMAND…``: each moment at which it begins to change a
file, or says something to a database, is noted in FILE; at the moment of the number WHEN (from 1; 0
for none), or the first whose note has the words WHEN, it is gone. Moments count from the first
folder on whose name has ``restoring`` in it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from holdfast.app.main import main

CHANGES = frozenset({"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink"})
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Moments:
    """Counts them, and dies."""

    def __init__(self, note: Path, last: str) -> None:
        self._note = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._last = last
        self._words = "" if last.isdecimal() else last
        self._count = 0
        self._counts = False

    def reached(self, what: str) -> None:
        """One is there."""
        if not self._counts:
            return
        self._count += 1
        os.write(self._note, f"{what}\n".encode())
        if str(self._count) == self._last or (self._words and self._words in what):
            os.kill(os.getpid(), signal.SIGKILL)

    def audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The interpreter is about to do something."""
        if event == "os.mkdir" and "restoring" in str(arguments[0]):
            self._counts = True
        if event in CHANGES or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        ):
            named = arguments[0] if isinstance(arguments[0], str | bytes | os.PathLike) else ""
            self.reached(f"{event} {Path(os.fsdecode(named)).name}")

    def watch(self, kind: type, *names: str) -> None:
        """Each call of these methods is a moment, before it is made."""
        for name in names:
            call = getattr(kind, name)

            def counted(self_: Any, *given: Any, _call: Any = call, **more: Any) -> Any:
                told = given[0] if given and isinstance(given[0], str) else ""
                self.reached(f"sql {' '.join(told.split())[:60]}")
                return _call(self_, *given, **more)

            setattr(kind, name, counted)


if __name__ == "__main__":
    moments = Moments(Path(sys.argv[1]), sys.argv[2])
    sys.addaudithook(moments.audited)
    moments.watch(asyncpg.Connection, "execute", "executemany", "copy_to_table", "prepare", "fetch")
    moments.watch(PreparedStatement, "fetch")
    sys.argv[1:] = sys.argv[3:]
    main()
