"""Raw responses: the bytes the source sent, kept once, before anything refers to them.

Each is sealed under a key of its own, so that it can be destroyed whole.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import zstandard
from sqlalchemy import Connection, Row, case, select

from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import Corrupt, Denied, NotFound, TooLarge
from holdfast.kernel.ids import EventId
from holdfast.kernel.objects.orphans import confirm, noted
from holdfast.kernel.outbox import Event
from holdfast.kernel.principal import Permission, Principal
from holdfast.kernel.telemetry import request_id
from holdfast.keyring.model import RESPONSES, DataKey
from holdfast.keyring.stream import MAGIC as STREAM_MAGIC
from holdfast.keyring.stream import sealed_stream, unsealed_stream
from holdfast.records import store
from holdfast.records.base import Part, seen_run
from holdfast.records.errors import DigestMismatch, ResponseConflict
from holdfast.records.model import RawResponse, StoredResponse
from holdfast.records.ports import ResponseBody
from holdfast.records.slots import check_attempt, check_slot

CHUNK_BYTES = 256 * 1024
EXPANDED_BYTES = 256
"""Compressed bytes that are expanded at a time."""
EMPTY_DIGEST = f"sha256:{hashlib.sha256(b'').hexdigest()}"


class RawResponses(Part):
    """The part of the service that keeps raw responses."""

    async def put_response(
        self,
        principal: Principal,
        grant: str,
        run: str,
        response: RawResponse,
        content: bytes | AsyncIterator[bytes],
    ) -> StoredResponse:
        """Keep one raw response of the run's current attempt; durable on return.

        Size and digest are checked while the bytes arrive: :class:`DigestMismatch` if they are not
        the announced ones, ``TooLarge`` beyond this aggregator's bound. The same number with the
        same digest again is one response, with another :class:`ResponseConflict`. If the process
        dies here there is at most an object that no row names.
        """
        claim = self._grant(principal, grant, run)
        self._check(response)
        rules = await self._rules(principal, claim.profile, claim.digest)
        personal = rules.marks is not None

        def look(conn: Connection) -> StoredResponse | None:
            found = store.find(conn, store.runs, principal.tenant, run=run)
            row = check_attempt(found, run, claim.fence)
            key = {"run": run, "fence": claim.fence, "sequence": response.sequence}
            known = store.find(conn, store.responses, principal.tenant, **key)
            if known is not None:
                return again(known, response)
            check_slot(row, store.find(conn, store.heads, principal.tenant, profile=row.profile))
            return None

        name = self._handles.objects.name(principal, response.digest)
        name = name if response.size_bytes else ""

        def first_look(conn: Connection) -> tuple[StoredResponse | None, int]:
            known, generation = look(conn), noted(conn, principal)
            if name and known is None:
                # What is being destroyed gets no new key, which nobody would name.
                confirm(conn, principal, name, generation)
            return known, generation

        chunks = _one(content) if isinstance(content, bytes) else content
        known, generation = await self._db.read(principal, first_look)
        if known is not None:
            await _drained(_checked(chunks, response))
            return known
        there = await self._store(principal, response, chunks)
        stored = StoredResponse(
            run=run,
            fence=claim.fence,
            response=response,
            stored_at=timestamp(self._clock.now()),
            repeated=there,
        )

        def unit(conn: Connection) -> StoredResponse:
            again = look(conn)
            if again is not None:
                return again
            if name:
                confirm(conn, principal, name, generation)
            add_response(conn, principal.tenant, stored, name, personal=personal)
            touch(conn, principal.tenant, stored, claim.lease_expires_at)
            return stored

        answer = await self._db.write(principal, unit)
        self._metrics.response_bytes.inc(response.size_bytes)
        return answer

    def _check(self, response: RawResponse) -> None:
        most = self._settings.response_bytes_max
        if response.size_bytes > most:
            raise TooLarge(
                f"cannot keep the response {response.sequence}: it has {response.size_bytes} "
                f"bytes, at most {most} are taken",
                code="response-too-large",
            )
        if not response.size_bytes and response.digest != EMPTY_DIGEST:
            raise DigestMismatch(
                f"cannot keep the response {response.sequence}: its digest is not that of no bytes"
            )

    async def _store(
        self, principal: Principal, response: RawResponse, chunks: AsyncIterator[bytes]
    ) -> bool:
        """Store the bytes, checked while they pass; whether they were there already."""
        checked = _checked(chunks, response)
        if not response.size_bytes:
            await _drained(checked)
            return False
        if await self._handles.objects.exists(principal, response.digest):
            # Whoever names a digest must also hold its bytes.
            await _drained(checked)
            return True
        compressed = _compressed(checked, self._settings.compression_level)
        name = self._handles.objects.name(principal, response.digest)
        keyring = self._handles.keyring
        key = await keyring.apart(keyring.object_key, principal.tenant, name)
        sealed = sealed_stream(key, principal.tenant, RESPONSES, name, compressed)
        return not await self._handles.objects.put_stream(principal, response.digest, sealed)

    async def responses(self, principal: Principal, run: str) -> list[StoredResponse]:
        """The raw responses of the run's current attempt, in order."""

        def unit(conn: Connection) -> list[StoredResponse]:
            row = seen_run(conn, principal, run)
            found = conn.execute(
                select(store.responses)
                .where(store.of_key(store.responses, principal.tenant, run=run, fence=row.fence))
                .order_by(store.responses.c.sequence)
            )
            return [stored_response(each) for each in found]

        return await self._db.read(principal, unit)

    async def response_body(self, principal: Principal, run: str, sequence: int) -> ResponseBody:
        """One raw response with its bytes, handed out. ``Corrupt``, at the end, if they are not
        its own.

        They hold all that the source sent: where the profile marks what is people's own, now or
        when they came, they are for those with ``records:personal`` only; nothing of a page can be
        sealed apart. That they were handed out is an event, written before anything of them is.
        """
        profile, row = await self._response(principal, run, sequence)
        personal = await self._names_people(principal, profile, row)
        if personal and not principal.may(Permission.RECORDS_PERSONAL):
            raise Denied(
                f"cannot show the response {sequence} of the run {run[:64]}: {profile} has "
                f"personal fields, and {Permission.RECORDS_PERSONAL} is missing",
                code="permission-missing",
                hint="what of it is nobody's own is in its records: `holdfast record list "
                f"--profile {profile}`",
            )
        stored = stored_response(row)
        await self._note_download(principal, profile, stored, personal=personal)
        return ResponseBody(stored, self._body(principal, stored.response))

    async def _stored_body(self, principal: Principal, run: str, sequence: int) -> ResponseBody:
        """One raw response for a worker that maps it again: what it makes of it is sealed."""
        _, row = await self._response(principal, run, sequence)
        stored = stored_response(row)
        return ResponseBody(stored, self._body(principal, stored.response))

    async def _response(
        self, principal: Principal, run: str, sequence: int
    ) -> tuple[str, Row[tuple[object, ...]]]:
        """The profile of the run and the account of its response, whose bytes are there."""

        def unit(conn: Connection) -> tuple[str, Row[tuple[object, ...]]]:
            row = store.find(conn, store.runs, principal.tenant, run=run)
            key = {"run": run, "sequence": sequence}
            found = row and store.find(
                conn, store.responses, principal.tenant, fence=row.fence, **key
            )
            if row is None or found is None or not principal.sees(row.profile):
                raise NotFound(
                    f"cannot find the response {sequence} of the run {run[:64]}",
                    code="response-not-found",
                )
            return row.profile, found

        profile, row = await self._db.read(principal, unit)
        if row.erased_at:
            raise NotFound(
                f"cannot read the response {sequence} of the run {run[:64]}: it was destroyed at "
                f"{row.erased_at}, because somebody who was in it, or may have been, was erased",
                code="response-erased",
            )
        return profile, row

    async def _names_people(self, principal: Principal, profile: str, row: Row[Any]) -> bool:
        """Whether the bytes may name people: by the version they came under, or the newest, or
        because there is nobody to ask."""
        if row.personal:
            return True
        try:
            # Marks are often an afterthought; what came before them holds the same fields.
            return await self._marks_now(principal, profile) is not None
        except NotFound:
            return True

    async def _note_download(
        self, principal: Principal, profile: str, stored: StoredResponse, *, personal: bool
    ) -> None:
        event = Event(
            id=EventId(self._new_id()),
            stream=f"profile/{profile}",
            type="response.downloaded",
            time=self._clock.now(),
            payload={
                "digest": stored.response.digest,
                "personal": "opened" if personal else "none",
                "profile": profile,
                "response": stored.response.sequence,
                "run": stored.run,
            },
            request_id=request_id(),
        )
        await self._db.write(
            principal, lambda conn: self._handles.outbox.emit(conn, principal, event)
        )

    async def _body(self, principal: Principal, response: RawResponse) -> AsyncIterator[bytes]:
        if not response.size_bytes:
            return
        found = hashlib.sha256()
        expander = zstandard.ZstdDecompressor().decompressobj()
        async for chunk in self._unsealed(principal, response.digest):
            at = 0
            while at < len(chunk):
                try:
                    plain, at = await asyncio.to_thread(expanded, expander, chunk, at)
                except zstandard.ZstdError as error:
                    raise Corrupt(
                        f"cannot read the response {response.digest}: its object is damaged"
                    ) from error
                found.update(plain)
                if plain:
                    yield plain
        if f"sha256:{found.hexdigest()}" != response.digest:
            raise Corrupt(f"cannot read the response {response.digest}: its bytes are others")

    async def _unsealed(self, principal: Principal, digest: str) -> AsyncIterator[bytes]:
        """The compressed bytes of an object; those from before there was a keyring as they are."""
        chunks = self._handles.objects.stream(principal, digest)
        first = await anext(chunks, b"")
        if not first.startswith(STREAM_MAGIC):
            yield first
            async for chunk in chunks:
                yield chunk
            return
        tenant, name = principal.tenant, self._handles.objects.name(principal, digest)

        async def find(key_id: bytes) -> DataKey:
            keyring = self._handles.keyring
            return await keyring.apart(keyring.find, tenant, RESPONSES, key_id)

        opened = unsealed_stream(find, tenant, RESPONSES, name, _after(first, chunks))
        async for chunk in opened:
            yield chunk


def again(known: Row[tuple[object, ...]], response: RawResponse) -> StoredResponse:
    stored = stored_response(known)
    if stored.response.digest != response.digest:
        raise ResponseConflict(
            f"cannot keep the response {response.sequence} of the run {stored.run}: "
            "its number was used for other bytes"
        )
    return StoredResponse(
        run=stored.run,
        fence=stored.fence,
        response=stored.response,
        stored_at=stored.stored_at,
        repeated=True,
    )


def add_response(
    conn: Connection, tenant: str, stored: StoredResponse, name: str, *, personal: bool
) -> None:
    response = stored.response
    store.add(
        conn,
        store.responses,
        tenant=tenant,
        run=stored.run,
        fence=stored.fence,
        sequence=response.sequence,
        digest=response.digest,
        size_bytes=response.size_bytes,
        url=response.url,
        address=response.address,
        status=response.status,
        media_type=response.media_type,
        etag=response.etag,
        last_modified=response.last_modified,
        fetched_at=response.fetched_at,
        replayed=response.replayed,
        not_modified=response.not_modified,
        request=response.request,
        following=response.following,
        total=response.total,
        open_ended=response.open_ended,
        final_url=response.final_url,
        cut=response.cut,
        stored_at=stored.stored_at,
        object=name,
        personal=personal,
    )


def touch(conn: Connection, tenant: str, stored: StoredResponse, lease: str) -> None:
    """Note the worker's newest lease, and whether anything of the run was replayed."""
    runs = store.runs
    values: dict[str, object] = {
        "status": "running",
        "lease_expires_at": case(
            (runs.c.lease_expires_at < lease, lease), else_=runs.c.lease_expires_at
        ),
    }
    if stored.response.replayed:
        values["replayed"] = True
    store.change(conn, runs, store.of_key(runs, tenant, run=stored.run), values)


def stored_response(row: Row[tuple[object, ...]]) -> StoredResponse:
    return StoredResponse(
        run=row.run,
        fence=row.fence,
        response=RawResponse(
            sequence=row.sequence,
            digest=row.digest,
            size_bytes=row.size_bytes,
            url=row.url,
            address=row.address,
            status=row.status,
            media_type=row.media_type,
            etag=row.etag,
            last_modified=row.last_modified,
            fetched_at=row.fetched_at,
            replayed=row.replayed,
            not_modified=row.not_modified,
            request=row.request,
            following=row.following,
            total=row.total,
            open_ended=row.open_ended,
            final_url=row.final_url,
            cut=row.cut,
        ),
        stored_at=row.stored_at,
    )


def expanded(expander: Any, chunk: bytes, at: int) -> tuple[bytes, int]:
    """Some of what ``chunk`` holds from ``at`` on, decompressed, and where the rest begins.

    Few bytes can hold very many: a page of blanks in a chunk would be in memory whole. So the chunk
    is taken in small pieces, of which none can hold more than 8 MiB (a block of four bytes stands
    for 128 KiB at most).
    """
    pieces: list[bytes] = []
    size = 0
    while at < len(chunk) and size < CHUNK_BYTES:
        piece = expander.decompress(chunk[at : at + EXPANDED_BYTES])
        at += EXPANDED_BYTES
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces), at


# --- streams ------------------------------------------------------------------------------------


async def _one(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]


async def _after(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in chunks:
        yield chunk


async def _drained(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


async def _checked(chunks: AsyncIterator[bytes], response: RawResponse) -> AsyncIterator[bytes]:
    """The same chunks; raises at the first byte too many, and at the end if they are others."""
    found, size = hashlib.sha256(), 0
    async for chunk in chunks:
        size += len(chunk)
        if size > response.size_bytes:
            raise DigestMismatch(
                f"cannot keep the response {response.sequence}: more bytes came than the "
                f"{response.size_bytes} announced"
            )
        found.update(chunk)
        yield chunk
    if size != response.size_bytes or f"sha256:{found.hexdigest()}" != response.digest:
        raise DigestMismatch(
            f"cannot keep the response {response.sequence}: the {size} bytes that came are not "
            f"the {response.size_bytes} announced as {response.digest}"
        )


async def _compressed(chunks: AsyncIterator[bytes], level: int) -> AsyncIterator[bytes]:
    encoder = zstandard.ZstdCompressor(level=level).compressobj()
    async for chunk in chunks:
        out = await asyncio.to_thread(encoder.compress, chunk)
        if out:
            yield out
    yield encoder.flush()
