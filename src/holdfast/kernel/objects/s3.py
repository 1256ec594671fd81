"""Objects in an S3-compatible store, by obstore with conditional writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from holdfast.kernel.errors import NotFound, Unavailable
from holdfast.kernel.files import opened
from holdfast.kernel.objects.driver import CHUNK_BYTES, Source, StoredObject

_CONDITIONAL_BYTES_MAX = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """Where the store is and who asks: they come separately from the URL."""

    endpoint: str = ""
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    allow_http: bool = False


class S3Objects:
    """The driver for ``s3://``.

    Of concurrent puts exactly one is first for objects up to 32 MiB (one conditional request);
    larger ones go in parts, are looked for before, and if two still race the last one wins whole:
    both are encodings of the same content.
    """

    def __init__(self, bucket: str, prefix: str, credentials: S3Credentials) -> None:
        options: dict[str, Any] = {"virtual_hosted_style_request": False}
        if credentials.endpoint:
            options["endpoint"] = credentials.endpoint
        if credentials.access_key_id:
            options["access_key_id"] = credentials.access_key_id
            options["secret_access_key"] = credentials.secret_access_key
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            region=credentials.region,
            client_options={"allow_http": credentials.allow_http, "timeout": timedelta(seconds=60)},
            **options,
        )

    async def close(self) -> None:
        """Nothing is held."""

    async def put(self, name: str, source: Source) -> bool:
        if not isinstance(source, bytes):
            head, rest = await _first_bytes(source)
            if rest is not None:
                return await self._put_in_parts(name, head, rest)
            source = head
        if len(source) > _CONDITIONAL_BYTES_MAX:
            return await self._put_in_parts(name, source, None)
        try:
            await obstore.put_async(self._store, name, source, mode="create")
        except AlreadyExistsError:
            return False
        except (BaseError, OSError) as error:
            raise _unavailable(error) from error
        return True

    async def _put_in_parts(
        self, name: str, head: bytes, rest: AsyncIterator[bytes] | None
    ) -> bool:
        if await self.head(name) is not None:
            return False

        async def chunks() -> AsyncIterator[bytes]:
            yield head
            if rest is not None:
                async for chunk in rest:
                    yield chunk

        try:
            await obstore.put_async(self._store, name, chunks())
        except (BaseError, OSError) as error:
            raise _unavailable(error) from error
        return True

    async def get(self, name: str, start: int, length: int | None) -> AsyncIterator[bytes]:
        if length == 0:
            if await self.head(name) is None:
                raise NotFound("cannot read the object: there is none")
            return
        try:
            if start:
                # A range beyond the end is an error to the store and empty to us.
                found = await obstore.head_async(self._store, name)
                if start >= found["size"]:
                    return
            options: Any = {}
            if length is not None:
                options = {"range": (start, start + length)}
            elif start:
                options = {"range": {"offset": start}}
            answer = await obstore.get_async(self._store, name, options=options)
            async for chunk in answer.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)
        except FileNotFoundError:
            raise NotFound("cannot read the object: there is none") from None
        except (BaseError, OSError) as error:
            raise _unavailable(error) from error

    async def head(self, name: str) -> StoredObject | None:
        try:
            found = await obstore.head_async(self._store, name)
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise _unavailable(error) from error
        return StoredObject(name, found["size"], found["last_modified"])

    async def delete(self, name: str) -> None:
        try:
            await obstore.delete_async(self._store, name)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise _unavailable(error) from error

    async def scan(self, prefix: str) -> AsyncIterator[StoredObject]:
        try:
            async for page in obstore.list(self._store, prefix=prefix):
                for found in page:
                    yield StoredObject(found["path"], found["size"], found["last_modified"])
        except (BaseError, OSError) as error:
            raise _unavailable(error) from error

    async def sweep(self, before: datetime) -> int:
        """Interrupted uploads in parts are the bucket's lifecycle rule's to remove."""
        return 0


async def _first_bytes(
    source: Path | AsyncIterator[bytes],
) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """All of it if it is small; else its beginning and the rest."""
    chunks = _file_chunks(source) if isinstance(source, Path) else source
    head = bytearray()
    async for chunk in chunks:
        head += chunk
        if len(head) > _CONDITIONAL_BYTES_MAX:
            return bytes(head), chunks
    return bytes(head), None


async def _file_chunks(path: Path) -> AsyncIterator[bytes]:
    file = await opened(path, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES * 16):
            yield chunk
    finally:
        file.close()


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(
        "cannot use the object store: it does not answer as it should",
        code="objects-unavailable",
        retry_after_seconds=5.0,
        internal=f"{type(error).__name__}: {error}",
    )
