"""What a backup looks at is never whole in memory."""

from __future__ import annotations

from types import SimpleNamespace

import zstandard

from holdfast.app.backup.objects import _expand


async def test_what_expands_to_very_much_is_never_whole_in_memory() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(256 * 2**20))
    sizes: list[int] = []
    content = SimpleNamespace(update=lambda piece: sizes.append(len(piece)))
    await _expand(zstandard.ZstdDecompressor().decompressobj(), bomb, content)
    assert sum(sizes) == 256 * 2**20
    assert max(sizes) <= 16 * 2**20
