"""Mapping stored raw bytes again, for whoever checks a receipt: no server, no network."""

from __future__ import annotations

from pathlib import Path

from holdfast.collect.content import SpooledContent
from holdfast.collect.formats import reader_of
from holdfast.collect.mapping import Mapping
from holdfast.collect.model import Bounds
from holdfast.records.content import encode_sorted
from holdfast.records.model import Reject
from holdfast.registry.model import Profile


def remapped(
    profile: Profile, path: Path, *, response: int, position: int, charset: str = ""
) -> list[bytes] | str:
    """The canonical records that the bytes at ``path`` give at ``position``; or why none.

    A row is one record, but for a profile with ``unpivot``.

    ``charset`` is what the source called their encoding when it sent them. Raises what reading and
    mapping raise. Blocking, and it reads from the beginning: occurrence numbers are counted.
    """
    if profile.key == "position" and response:
        return "its key counts equal rows over all responses of its run, and only one was supplied"
    mapping = Mapping(profile)
    source = profile.source
    bounds = Bounds(content_bytes_max=profile.limits.max_bytes)
    content = SpooledContent(path, bounds, source.compression, source.member, charset)
    context = mapping.context(bounds)
    for row in reader_of(source.format)(content, source.format, context):
        # Those before it are mapped, too: they count for the occurrence numbers of keys.
        mapped = list(mapping.map(row, response))
        if row.position != position:
            continue
        records = [encode_sorted(each) for each in mapped if not isinstance(each, Reject)]
        refused = [f"{each.field}: {each.reason}" for each in mapped if isinstance(each, Reject)]
        return records or f"the row is refused: {'; '.join(refused)[:500]}"
    return f"there is no row {position}"
