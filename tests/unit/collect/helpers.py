"""Profiles and pages for the tests of this slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

import holdfast.sample
from holdfast.collect.content import SpooledContent
from holdfast.collect.formats import reader_of
from holdfast.collect.mapping import Mapping
from holdfast.collect.model import Bounds, RawRow, ReadContext
from holdfast.records.model import MappedRecord, Reject
from holdfast.registry.model import Profile
from holdfast.registry.source import Format

SAMPLE = Path(holdfast.sample.__file__).parent / "data"


def profile(source: dict[str, Any], **parts: Any) -> Profile:
    """A profile with the parts that a test is not about filled in."""
    url = {"url": "https://example.org/data"}
    given = {"version": 1, "name": "test", "publisher": "p", "licence": "l", "key": "position"}
    return msgspec.convert({**given, "source": {**url, **source}, **parts}, Profile)


def format_of(**parts: Any) -> Format:
    """A format by its members as a profile has them."""
    return profile({"format": parts}).source.format


def rows(
    data: bytes,
    spec: Format,
    directory: Path,
    *,
    bounds: Bounds | None = None,
    enclosing: tuple[str, ...] = (),
    **content: Any,
) -> list[RawRow]:
    """What a format reads from ``data``."""
    path = directory / "page"
    path.write_bytes(data)
    bounds = bounds or Bounds()
    context = ReadContext(bounds=bounds, enclosing=enclosing)
    return list(reader_of(spec)(SpooledContent(path, bounds, **content), spec, context))


def mapped(path: Path, source: Profile) -> tuple[list[MappedRecord], list[Reject]]:
    """All that one page gives under a profile."""
    mapping = Mapping(source)
    context = mapping.context(Bounds())
    spec = source.source.format
    records: list[MappedRecord] = []
    rejects: list[Reject] = []
    content = SpooledContent(path, Bounds(), source.source.compression, source.source.member)
    for row in reader_of(spec)(content, spec, context):
        for found in mapping.map(row, 0):
            if isinstance(found, Reject):
                rejects.append(found)
            else:
                records.append(found)
    return records, rejects
