"""A body on its way to a file, to memory, or to nowhere: decoded, counted, hashed and flushed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from holdfast.kernel.files import Descriptor, flush_folder, write_all
from holdfast.kernel.outbound.connection import Connection, Head
from holdfast.kernel.outbound.decode import BodyDecoder
from holdfast.kernel.outbound.excerpts import excerpt
from holdfast.kernel.outbound.model import (
    FetchLimits,
    OutboundRequest,
    ResponseTooLarge,
    SourceUnavailable,
    SpoolFailed,
)
from holdfast.kernel.outbound.scrubbing import scrub

_DRAIN_BYTES_MAX = 64 * 1024
_WRITE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Spooled:
    path: Path | None
    digest: str
    size_bytes: int
    wire_bytes: int
    content: bytes = b""
    failure: SourceUnavailable | ResponseTooLarge | None = None
    """Why there is no more of it."""


NOTHING = Spooled(None, "", 0, 0)


async def held(connection: Connection, head: Head, limits: FetchLimits, subject: str) -> Spooled:
    """Decode the body into memory."""
    decoder = _decoder(head, limits, subject)
    content = bytearray()
    async with aclosing(connection.body()) as body:
        async for data in body:
            for piece in decoder.feed(data):
                content += piece
    decoder.finish()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Spooled(None, digest, decoder.size_bytes, decoder.wire_bytes, bytes(content))


def _decoder(head: Head, limits: FetchLimits, subject: str) -> BodyDecoder:
    decoder = BodyDecoder(head.headers.get("content-encoding", ""), limits, subject)
    if head.framing == "length":
        decoder.announce(int(head.headers["content-length"].partition(",")[0]))
    return decoder


async def spool(
    connection: Connection, head: Head, request: OutboundRequest, subject: str, directory: Path
) -> Spooled:
    """Decode the body into a new file and flush it; no file is left if this fails."""
    decoder = _decoder(head, request.limits, subject)
    digest = hashlib.sha256()
    try:
        number, name = tempfile.mkstemp(prefix="fetch-", suffix=".raw", dir=directory)
    except OSError as error:
        raise _spool_failed(subject, directory, error) from error
    handle = Descriptor(number)
    failure: SourceUnavailable | ResponseTooLarge | None = None
    size_bytes = 0
    try:
        pending = bytearray()
        try:
            async with aclosing(connection.body()) as body:
                async for data in body:
                    for piece in decoder.feed(data):
                        digest.update(piece)
                        size_bytes += len(piece)
                        pending += piece
                        if len(pending) >= _WRITE_BYTES:
                            await handle.run(write_all, bytes(pending))
                            pending.clear()
            decoder.finish()
        except (SourceUnavailable, ResponseTooLarge) as error:
            if not (request.keep_cut and size_bytes):
                raise
            failure = error
        await handle.run(_finish_file, bytes(pending), directory)
    except OSError as error:
        _remove(name)
        raise _spool_failed(subject, directory, error) from error
    except BaseException:
        _remove(name)
        raise
    finally:
        handle.close()
    found = f"sha256:{digest.hexdigest()}"
    return Spooled(Path(name), found, size_bytes, decoder.wire_bytes, failure=failure)


def _spool_failed(subject: str, directory: Path, error: OSError) -> SpoolFailed:
    # Failures of the connection have their own kinds by now; what is left is the disk.
    return SpoolFailed(f"cannot keep {subject} in {directory}: {error.strerror or error}")


def _remove(name: str) -> None:
    Path(name).unlink()


def _finish_file(handle: int, data: bytes, directory: Path) -> None:
    """Bytes, then their name: both are on disk when this returns."""
    write_all(handle, data)
    os.fsync(handle)
    flush_folder(directory)


async def said(connection: Connection, head: Head, request: OutboundRequest) -> str:
    """How the text of a refusal begins; empty where it is none. As much is read as is drained."""
    content = bytearray()
    try:
        decoder = _decoder(head, request.limits, "")
        async with aclosing(connection.body()) as body:
            async for data in body:
                for piece in decoder.feed(data):
                    content += piece
                    if len(content) > _DRAIN_BYTES_MAX:
                        break  # little of it may unpack to much
                if max(decoder.wire_bytes, len(content)) > _DRAIN_BYTES_MAX:
                    connection.abort()
                    break
    except (SourceUnavailable, ResponseTooLarge):
        connection.abort()
    text = bytes(content[:_DRAIN_BYTES_MAX]).decode("utf-8", "replace")
    if "\0" in text:
        return ""
    # Again once it is as it is shown: a page spells a secret in ways of its own.
    return excerpt(scrub(text, request), lambda shown: scrub(shown, request))


async def drain(connection: Connection) -> None:
    """Read a body nobody wants, if it is short, so that the connection can be used again."""
    size_bytes = 0
    try:
        async with aclosing(connection.body()) as body:
            async for data in body:
                size_bytes += len(data)
                if size_bytes > _DRAIN_BYTES_MAX:
                    connection.abort()
                    return
    except SourceUnavailable:
        connection.abort()
