"""Sealing what is too large for one envelope: frames of a stream, each an envelope of its own.

``HFS1``, then for each frame its length in four bytes and its envelope, bound to the object, its
number and whether it is the last: frames that are dropped, doubled, reordered or cut off at the end
are ``Corrupt``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from holdfast.kernel.errors import Corrupt
from holdfast.keyring.envelope import OVERHEAD_BYTES, Context, key_id_of, seal, unseal
from holdfast.keyring.model import DataKey

MAGIC = b"HFS1"
FRAME_BYTES = 256 * 1024
_FRAME_MAX = FRAME_BYTES + OVERHEAD_BYTES
_LENGTH = 4


async def sealed_stream(
    key: DataKey, tenant: str, purpose: str, object_id: str, chunks: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """The frames of ``chunks``; memory stays flat."""
    yield MAGIC
    number, held = 0, bytearray()
    async for chunk in chunks:
        held += chunk
        # The last frame is told apart only at the end: one is always held back.
        while len(held) > FRAME_BYTES:
            plain, held = bytes(held[:FRAME_BYTES]), held[FRAME_BYTES:]
            yield await asyncio.to_thread(
                seal_frame, key, tenant, purpose, object_id, number, plain, last=False
            )
            number += 1
    yield await asyncio.to_thread(
        seal_frame, key, tenant, purpose, object_id, number, bytes(held), last=True
    )


async def unsealed_stream(
    find: Callable[[bytes], Awaitable[DataKey]],
    tenant: str,
    purpose: str,
    object_id: str,
    chunks: AsyncIterator[bytes],
) -> AsyncGenerator[bytes, None]:
    """What :func:`sealed_stream` was given; ``find`` gives the key of an id."""
    frames = _Frames()
    key: DataKey | None = None
    number = 0
    async for chunk in chunks:
        frames.feed(chunk)
        while (frame := frames.next()) is not None:
            if frames.over:
                raise _cut("something follows its end")
            if key is None:
                key = await find(key_id_of(frame))
            plain, frames.over = await asyncio.to_thread(
                open_frame, key, tenant, purpose, object_id, number, frame
            )
            number += 1
            yield plain
    if not frames.over or frames.rest:
        raise _cut("it is cut off" if not frames.over else "something follows its end")


def seal_frame(
    key: DataKey,
    tenant: str,
    purpose: str,
    object_id: str,
    number: int,
    plain: bytes,
    *,
    last: bool,
) -> bytes:
    """One frame with its length in front."""
    context = Context(tenant, purpose, object_id, _version(number, last=last))
    sealed = seal(key.secret, key.id, context, plain)
    return len(sealed).to_bytes(_LENGTH, "big") + sealed


def open_frame(
    key: DataKey, tenant: str, purpose: str, object_id: str, number: int, frame: bytes
) -> tuple[bytes, bool]:
    """The frame's bytes, and whether it is the last."""
    # All but the last frame are full: the length tells which one it claims to be.
    last = len(frame) != _FRAME_MAX
    try:
        context = Context(tenant, purpose, object_id, _version(number, last=last))
        return unseal(key.secret, context, frame), last
    except Corrupt:
        if last:
            raise
        context = Context(tenant, purpose, object_id, _version(number, last=True))
        return unseal(key.secret, context, frame), True


class _Frames:
    """Cuts what arrives into frames."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._begun = False
        self.over = False

    @property
    def rest(self) -> int:
        return len(self._held)

    def feed(self, chunk: bytes) -> None:
        self._held += chunk
        if not self._begun and len(self._held) >= len(MAGIC):
            if not self._held.startswith(MAGIC):
                raise _cut("it is not a sealed stream")
            del self._held[: len(MAGIC)]
            self._begun = True

    def next(self) -> bytes | None:
        if not self._begun or len(self._held) < _LENGTH:
            return None
        size = int.from_bytes(self._held[:_LENGTH], "big")
        if not OVERHEAD_BYTES <= size <= _FRAME_MAX:
            raise _cut("a frame has an impossible length")
        if len(self._held) < _LENGTH + size:
            return None
        frame = bytes(self._held[_LENGTH : _LENGTH + size])
        del self._held[: _LENGTH + size]
        return frame


def _version(number: int, *, last: bool) -> str:
    return f"{number}/last" if last else str(number)


def _cut(reason: str) -> Corrupt:
    return Corrupt(f"cannot open what is sealed: {reason}", code="envelope-invalid")
