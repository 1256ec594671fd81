"""Make the real SQLite's disk fail on demand.

SQLite reaches its files through a table of functions. For one open file that table is replaced by
a copy in which the named function asks us first: so a flush fails exactly where a disk would fail
it, with all of SQLite's own handling above, and nothing of ours is replaced.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pysqlite3

_METHODS = ("version", "close", "read", "write", "truncate", "sync")
_FILE_POINTER = 7
_JOURNAL_POINTER = 28
_IOERR_WRITE = 10 | (3 << 8)
_IOERR_FSYNC = 10 | (4 << 8)
_FULL = 13
_METHODS_BYTES = 20 * ctypes.sizeof(ctypes.c_void_p)
# xSync(file, flags), xWrite(file, bytes, amount, offset)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_WRITE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
)


def _library() -> ctypes.CDLL:
    (found,) = Path(pysqlite3.__file__).parent.glob("_sqlite3*.so")
    return ctypes.CDLL(str(found))


class FailingDisk:
    """Lets one function of one open file fail while ``failing`` is set; counts the calls."""

    def __init__(self) -> None:
        self.failing = False
        self.calls = 0


@contextmanager
def failing_log(driver: Any, what: str) -> Iterator[FailingDisk]:
    """Within the block, ``sync`` or ``write`` of the write-ahead log of ``driver`` can fail."""
    disk = FailingDisk()
    file = _file(driver, _JOURNAL_POINTER)
    table = ctypes.cast(file, ctypes.POINTER(ctypes.c_void_p))
    original_table = table[0]
    copy = (ctypes.c_char * _METHODS_BYTES).from_buffer_copy(
        (ctypes.c_char * _METHODS_BYTES).from_address(original_table)
    )
    slots = ctypes.cast(copy, ctypes.POINTER(ctypes.c_void_p))
    slot = _METHODS.index(what)
    kind, code = (_SYNC, _IOERR_FSYNC) if what == "sync" else (_WRITE, _FULL)
    real = ctypes.cast(slots[slot], kind)

    @kind
    def asked(*arguments: Any) -> int:
        disk.calls += 1
        return code if disk.failing else real(*arguments)

    slots[slot] = ctypes.cast(asked, ctypes.c_void_p).value
    table[0] = ctypes.addressof(copy)
    try:
        yield disk
    finally:
        # SQLite may have closed the file meanwhile (the handle reopened): its memory is then not
        # ours to write to. The copy is kept alive instead, for ever: it is small.
        disk.failing = False
        _kept.append((copy, asked))


_kept: list[Any] = []


def _file(driver: Any, operation: int) -> int:
    library = _library()
    library.sqlite3_file_control.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_void_p,
    ]
    # The connection object begins with its reference count, its type, and the sqlite3 handle.
    handle = ctypes.c_void_p.from_address(id(driver) + 2 * ctypes.sizeof(ctypes.c_void_p)).value
    file = ctypes.c_void_p()
    answer = library.sqlite3_file_control(handle, b"main", operation, ctypes.byref(file))
    assert answer == 0
    assert file.value
    return file.value
