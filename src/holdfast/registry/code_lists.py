"""Code lists shipped beside profiles: ``codes/NAME.csv``, next to the profile or a folder above.

A list becomes part of the profile when the profile is read from its file, so that whatever was
collected under it can be told from the profile's digest alone, and a drone needs no files.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.kernel.errors import Invalid
from holdfast.kernel.ids import is_name
from holdfast.registry.document import read_document
from holdfast.registry.model import GROUPS

FOLDER = "codes"
BYTES_MAX = 128 * 1024
_ASKED = re.compile(rb"codes\s*[\"']?\s*:")


def with_code_lists(data: bytes, beside: Path, *, media_type: str = "application/yaml") -> bytes:
    """The document ``data`` of a file in ``beside`` with the lists it names and does not hold.

    They are added behind what is there, so every line keeps its number. A document that cannot be
    read, and a list that is nowhere, are left for others to complain of. Raises :class:`Invalid`
    for a list that is no table of two columns.
    """
    if not _ASKED.search(data):
        return data
    plain = read_document(data, media_type=media_type).plain
    if not isinstance(plain, dict):
        return data
    held = plain.get("code_lists")
    lists = held if isinstance(held, dict) else {}
    found: dict[str, dict[str, str]] = {}
    for name in _named(plain):
        if name not in lists and (path := _file(name, beside)) is not None:
            found[name] = read_list(path)
    if not found:
        return data
    if held is not None or "json" in media_type:
        plain["code_lists"] = {**lists, **found}
        return json.dumps(plain, default=str, ensure_ascii=False, indent=1).encode()
    text = json.dumps(found, ensure_ascii=False)
    return data.rstrip() + b"\ncode_lists: " + text.encode() + b"\n"


def _named(plain: Mapping[str, Any]) -> list[str]:
    """The names of lists that fields ask for, each once."""
    names: list[str] = []
    for group in GROUPS:
        fields = plain.get(group)
        for entry in fields.values() if isinstance(fields, dict) else ():
            name = entry.get("codes") if isinstance(entry, dict) else None
            if isinstance(name, str) and is_name(name) and name not in names:
                names.append(name)
    return names


def _file(name: str, beside: Path) -> Path | None:
    for folder in (beside / FOLDER, beside.parent / FOLDER):
        path = folder / f"{name}.csv"
        if path.is_file():
            return path
    return None


def read_list(path: Path) -> dict[str, str]:
    """The list in a file: under a header, a code and what it stands for in each row."""
    try:
        with path.open("rb") as stream:
            data = stream.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise Invalid(f"cannot use the code list {path}: more than {BYTES_MAX} bytes")
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Invalid(f"cannot read the code list {path}: {error}") from error
    found: dict[str, str] = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != 2 or row[0] in found or not row[0]:
            wrong = "the code comes twice" if row[0] in found else "it needs a code and a text"
            raise Invalid(f"cannot use the code list {path}: line {number}: {wrong}")
        found[row[0]] = row[1]
    return found


def stamp(folder: Path) -> int:
    """A number that changes when a list that the folder's profiles can reach does."""
    total = 0
    for path in sorted({*folder.rglob(f"{FOLDER}/*.csv"), *(folder.parent / FOLDER).glob("*.csv")}):
        try:
            found = path.stat()
        except OSError:
            continue
        total = hash((total, str(path), found.st_mtime_ns, found.st_size))
    return total
