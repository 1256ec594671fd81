"""Mapping stored raw bytes again, for whoever checks a receipt: no server, no network."""

from __future__ import annotations

from pathlib import Path

from holdfast.collect.content import SpooledContent
from holdfast.collect.formats import reader_of
from holdfast.collect.mapping import Mapping
from holdfast.collect.model import Bounds, ReadContext
from holdfast.records.content import encode_sorted
from holdfast.records.model import Reject
from holdfast.registry.model import Profile


def remapped(
    profile: Profile, path: Path, *, response: int, position: int, charset: str = ""
) -> bytes | str:
    """The canonical record that the bytes at ``path`` give at ``position``; or why none.

    ``charset`` is what the source called their encoding when it sent them. Raises what reading and
    mapping raise. Blocking, and it reads from the beginning: occurrence numbers are counted.
    """
    if profile.key == "position" and response:
        return "its key counts equal rows over all responses of its run, and only one was supplied"
    mapping = Mapping(profile)
    source = profile.source
    bounds = Bounds(content_bytes_max=profile.limits.max_bytes)
    content = SpooledContent(path, bounds, source.compression, source.member, charset)
    context = ReadContext(bounds=bounds, enclosing=mapping.enclosing)
    for row in reader_of(source.format)(content, source.format, context):
        for found in mapping.map(row, response):
            if found.position != position:
                continue
            if isinstance(found, Reject):
                return f"the row is refused: {found.field}: {found.reason}"
            return encode_sorted(found)
    return f"there is no row {position}"
