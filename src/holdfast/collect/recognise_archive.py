"""Which file of an archive holds the data. A guess."""

from __future__ import annotations

import zipfile
from pathlib import Path

from holdfast.collect.content import is_folder
from holdfast.collect.errors import ParseFailed

_DATA_NAMES = (
    ".csv", ".tsv", ".txt", ".json", ".ndjson", ".jsonl", ".geojson", ".xml", ".xlsx", ".ods",
)  # fmt: skip


def lone_in(path: Path) -> str:
    """The name of the only file in an archive."""
    try:
        entries = zipfile.ZipFile(path).infolist()
    except (zipfile.BadZipFile, OSError):
        return ""
    names = [entry.filename for entry in entries if not is_folder(entry)]
    return names[0] if len(names) == 1 else ""


def member_of(path: Path) -> str:
    """The file of an archive to read: its only one, or the largest that looks like data."""
    try:
        entries = [e for e in zipfile.ZipFile(path).infolist() if not is_folder(e)]
    except (zipfile.BadZipFile, OSError) as error:
        raise ParseFailed(f"cannot write a profile: a broken archive: {error}") from error
    if len(entries) < 2:
        return ""
    data = [e for e in entries if e.filename.lower().endswith(_DATA_NAMES)] or entries
    return max(data, key=lambda entry: entry.file_size).filename
