"""The two files that no restore goes back behind: erasures, and holds and retentions.

Beside the keys, not in the backups of the data; a line each, only ever added to. A line is durable
before what it tells of is answered. A last line that a crash cut off was never answered: it is left
out when the file is read, and cut away before the next is added.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from holdfast.kernel.errors import Corrupt
from holdfast.kernel.files import flush_folder, write_over
from holdfast.keyring.model import ErasureLine, RestrictionLine

ERASURES = "erasures.jsonl"
RESTRICTIONS = "restrictions.jsonl"
FILES = (ERASURES, RESTRICTIONS)

Line = TypeVar("Line", ErasureLine, RestrictionLine)
encode_line = msgspec.json.Encoder(order="sorted").encode
_decode_erasure = msgspec.json.Decoder(ErasureLine).decode
_decode_restriction = msgspec.json.Decoder(RestrictionLine).decode


def read_erasures(folder: Path) -> list[ErasureLine]:
    """Every erasure that the folder's file knows."""
    return _read(folder / ERASURES, _decode_erasure, "erasures")


def read_restrictions(folder: Path) -> list[RestrictionLine]:
    """Every hold and retention that the folder's file knows, and every release."""
    return _read(folder / RESTRICTIONS, _decode_restriction, "holds and retentions")


def _read(path: Path, decode: Callable[[bytes], Line], what: str) -> list[Line]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    *whole, _rest = data.split(b"\n")
    try:
        return [decode(line) for line in whole if line]
    except msgspec.DecodeError as error:
        raise Corrupt(
            f"cannot read the {what} in {path}: the file is damaged",
            code=f"{path.stem}-damaged",
            hint="put back the copy that you keep apart from backups",
        ) from error


def add_erasure(folder: Path, line: ErasureLine) -> None:
    """Add an erasure, durable on return; nothing if it is there."""
    if not any(
        (known.tenant, known.erasure.subject) == (line.tenant, line.erasure.subject)
        for known in read_erasures(folder)
    ):
        _add(folder / ERASURES, [line])


def add_restrictions(folder: Path, lines: Iterable[RestrictionLine]) -> None:
    """Add what was placed or released, durable on return."""
    _add(folder / RESTRICTIONS, list(lines))


def _add(path: Path, lines: list[Line]) -> None:
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = not path.exists()
    with os.fdopen(
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "r+b"
    ) as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)  # what another cuts away may be our line
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)
        file.write(b"".join(encode_line(line) + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    if fresh:
        flush_folder(path.parent)


def join(target: Path, others: Iterable[Path]) -> None:
    """Make the files of ``target`` know what any of these folders knows: none is undone by an
    older list. For a restore, where nobody else writes."""
    folders = [target, *others]
    erasures: dict[tuple[str, str], ErasureLine] = {}
    restrictions: dict[bytes, RestrictionLine] = {}
    for folder in folders:
        for erased in read_erasures(folder):
            erasures.setdefault((erased.tenant, erased.erasure.subject), erased)
        for line in read_restrictions(folder):
            restrictions.setdefault(encode_line(line), line)
    _write(target / ERASURES, [encode_line(line) for line in erasures.values()])
    _write(target / RESTRICTIONS, list(restrictions))


def _write(path: Path, lines: list[bytes]) -> None:
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_over(path, b"".join(line + b"\n" for line in lines))
