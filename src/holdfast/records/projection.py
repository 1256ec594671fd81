"""Parquet copies of what is published: built when first asked for, kept beside, rebuilt at will.

A projection belongs to (tenant, profile, publication, vintage); it never changes, so it is built
once and found again by its name. It is written under another name, flushed and renamed: whoever
opens it sees all of it. Throwing the folder away costs nothing but time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from weakref import WeakValueDictionary

import msgspec
from sqlalchemy import Connection, select

from holdfast.kernel.children import run_child
from holdfast.kernel.errors import Invalid
from holdfast.kernel.principal import Principal
from holdfast.records import store
from holdfast.records.base import Handles
from holdfast.records.columns import (
    FREQUENCIES_KEY,
    PERSONAL_COLUMNS,
    SEALED_KEY,
    Column,
    Row,
    columns_of,
    split_columns,
)
from holdfast.records.content import FieldNames
from holdfast.records.errors import NotPublished
from holdfast.records.model import ProjectionInfo, RecordFilter
from holdfast.records.parquet import Job, Written, build, write_frame
from holdfast.records.personal import marks_of
from holdfast.records.reading import (
    STREAM_ROWS,
    check_filter,
    personal_of,
    runs_of,
    scope_of,
    times_of,
)
from holdfast.records.unsealing import Unsealing
from holdfast.registry.model import Profile, as_licence
from holdfast.registry.time_rules import frequencies_of

Vintage = Literal["latest", "first"]
BUILD_SECONDS = 1800.0
LAYOUT = ".3"
"""In the files' names: one that an earlier layout was written in is never taken for today's."""


@dataclass(frozen=True, slots=True)
class Edition:
    """One publication as a table: which one, under which versions, with which columns."""

    profile: str
    publication: int
    vintage: str
    recorded_at: str
    profile_digest: str
    records: int
    columns: list[Column]
    """What everybody sees; a personal field has none of these."""
    version: Profile
    personal: bool
    """Whether the records are about people, whose fields are sealed."""
    sealed: list[Column]
    """The columns of personal fields, for those who may see them."""

    whole: list[Column]
    """Both, in their order."""

    frequencies: list[str]
    """Those that the periods can have, by all versions."""


class Projecting(Unsealing):
    """The part of the service that makes tables."""

    def __init__(self, handles: Handles) -> None:
        super().__init__(handles)
        self._building: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        self._checked: dict[Path, tuple[int, int, ProjectionInfo]] = {}

    async def projection(
        self,
        principal: Principal,
        profile: str,
        *,
        as_of: str | None = None,
        vintage: str = "latest",
    ) -> ProjectionInfo:
        """The Parquet file of what is published, or was at ``as_of``; built if it is not there.

        The same publication and vintage give the same bytes. :class:`NotPublished` if there was
        nothing. The file stays for a while after a later publication, not for ever: whoever reads
        it compares the digest, and asks again if it is gone.
        """
        edition = await self.edition(principal, profile, as_of=as_of, vintage=vintage)
        return await self.projection_of(principal, edition)

    async def projection_of(self, principal: Principal, edition: Edition) -> ProjectionInfo:
        """The same for an edition that was chosen before: its, whatever was published since."""
        folder = self._settings.projections / principal.tenant / edition.profile
        path = folder / f"{edition.publication}-{edition.vintage}{LAYOUT}.parquet"
        lock = self._building.setdefault(path, asyncio.Lock())
        async with lock:
            known = await asyncio.to_thread(self._known, path)
            if known is not None:
                return known
            found = await self._build(principal, edition, path)
            await asyncio.to_thread(self._prune, folder, path)
            return found

    async def edition(
        self, principal: Principal, profile: str, *, as_of: str | None = None, vintage: str
    ) -> Edition:
        """Which publication that is, and its columns."""
        if vintage not in get_args(Vintage):
            raise Invalid(f"cannot read the vintage {vintage[:40]!r}: it is latest or first")
        which = RecordFilter(profile=profile, as_of=as_of)
        check_filter(which)

        def unit(conn: Connection) -> tuple[Any, list[str]]:
            scope = scope_of(conn, principal.tenant, which, self._clock.now())
            table = store.publications
            row = store.find(
                conn, table, principal.tenant, profile=profile, publication=scope.publication
            )
            if row is None:
                raise NotPublished(
                    f"cannot find records of {profile[:64]}: nothing is published"
                    + (f" as of {as_of}" if as_of else "")
                )
            digests = conn.execute(
                select(table.c.profile_digest)
                .distinct()
                .where(
                    store.of_key(table, principal.tenant, profile=profile),
                    table.c.publication <= scope.publication,
                )
            ).scalars()
            return row, sorted(set(digests) - {row.profile_digest})

        row, older = await self._db.read(principal, unit)
        versions = [
            (await self._version(principal, profile, digest)).profile
            for digest in [*older, row.profile_digest]
        ]
        fields = msgspec.json.decode(row.fields, type=FieldNames)
        marks = [found for version in versions if (found := marks_of(version)) is not None]
        # What one version marks is not all there in any table: left out, not null in some rows.
        whole = [*columns_of(versions, fields), *(PERSONAL_COLUMNS if marks else ())]
        clear, sealed = split_columns(whole, (place for each in marks for place in each.places))
        return Edition(
            profile=profile,
            publication=row.publication,
            vintage=vintage,
            recorded_at=row.recorded_at,
            profile_digest=row.profile_digest,
            records=row.records,
            columns=clear,
            personal=bool(marks),
            sealed=sealed,
            whole=whole,
            frequencies=sorted(
                {
                    each
                    for version in versions
                    if version.period
                    for each in frequencies_of(version.period)
                }
            ),
            version=versions[-1],
        )

    async def table_rows(self, principal: Principal, edition: Edition) -> AsyncIterator[list[Row]]:
        """The rows of an edition, some at a time, in the order in which they were staged."""
        after = -1
        while True:
            found, last = await self._db.read(
                principal,
                lambda conn, after=after: _rows(conn, principal.tenant, edition, after),  # type: ignore[misc]
            )
            if not found:
                return
            after = last
            yield found

    async def _build(self, principal: Principal, edition: Edition, path: Path) -> ProjectionInfo:
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True, mode=0o700)
        unique = self._new_id()
        rows, target = (path.with_name(f".{unique}.{kind}") for kind in ("rows", "parquet"))
        try:
            with rows.open("wb") as file:
                async for some in self.table_rows(principal, edition):
                    await asyncio.to_thread(write_frame, file, some)
            job = Job(
                rows=str(rows),
                target=str(target),
                columns=edition.columns,
                metadata={
                    "holdfast.profile": edition.profile,
                    "holdfast.profile_digest": edition.profile_digest,
                    "holdfast.publication": str(edition.publication),
                    "holdfast.vintage": edition.vintage,
                    "holdfast.recorded_at": edition.recorded_at,
                    "holdfast.title": edition.version.title,
                    "holdfast.publisher": edition.version.publisher,
                    "holdfast.licence": as_licence(edition.version.licence).name,
                    "holdfast.attribution": edition.version.attribution,
                    **_sealed_names(edition),
                },
            )
            written = await self._written(job, edition.records)
            info = ProjectionInfo(
                profile=edition.profile,
                publication=edition.publication,
                rows=written.rows,
                digest=written.digest,
                size_bytes=written.size_bytes,
                path=str(path),
                recorded_at=edition.recorded_at,
                profile_digest=edition.profile_digest,
            )
            await asyncio.to_thread(_install, target, path, info)
        finally:
            rows.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
        return info

    async def _written(self, job: Job, records: int) -> Written:
        if records <= self._settings.projection_thread_rows:
            plain = await asyncio.to_thread(build, msgspec.to_builtins(job))
        else:
            plain = await run_child(
                "holdfast.records.parquet:build", job, timeout_seconds=BUILD_SECONDS
            )
        return msgspec.convert(plain, Written)

    def _known(self, path: Path) -> ProjectionInfo | None:
        """The projection at ``path``, if it is there and its bytes are the ones it was made of."""
        try:
            status = path.stat()
            info = msgspec.json.decode(_account(path).read_bytes(), type=ProjectionInfo)
        except (OSError, msgspec.DecodeError):
            return None
        known = self._checked.get(path)
        if known is not None and known[:2] == (status.st_mtime_ns, status.st_size):
            return known[2]
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if f"sha256:{found}" != info.digest:
            return None
        info = msgspec.structs.replace(info, path=str(path))
        self._checked[path] = (status.st_mtime_ns, status.st_size, info)
        return info

    def _prune(self, folder: Path, newest: Path) -> None:
        """Remove all but the newest few of a profile, and what a dead process left half-made."""
        files = sorted(folder.glob("[0-9]*.parquet"), key=_age, reverse=True)
        for path in files[self._settings.projections_kept :]:
            if path != newest:
                self._checked.pop(path, None)
                path.unlink(missing_ok=True)
                _account(path).unlink(missing_ok=True)
        limit = self._clock.now().timestamp() - BUILD_SECONDS
        for path in folder.glob(".*"):
            if _age(path) < limit:
                path.unlink(missing_ok=True)


def _sealed_names(edition: Edition) -> dict[str, str]:
    if not edition.personal:
        return {}
    told = {SEALED_KEY: [column.name for column in edition.sealed]}
    if any(column.part == "period" for column in edition.sealed):
        told[FREQUENCIES_KEY] = edition.frequencies
    return {key: msgspec.json.encode(names).decode() for key, names in told.items()}


def _account(path: Path) -> Path:
    return path.with_suffix(".json")


def _age(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _install(target: Path, path: Path, info: ProjectionInfo) -> None:
    """Give the finished file its name; its account follows, so an account always has its file."""
    target.replace(path)
    temporary = target.with_suffix(".json")
    temporary.write_bytes(msgspec.json.encode(info))
    temporary.replace(_account(path))
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rows(conn: Connection, tenant: str, edition: Edition, after: int) -> tuple[list[Row], int]:
    table = store.revisions.c
    shown = (
        [table.from_publication <= edition.publication, table.revision == 1]
        if edition.vintage == "first"
        else [store.visible(edition.publication), table.withdrawn.is_(False)]
    )
    statement = (
        select(
            table.sequence,
            table.record,
            table.revision,
            table.run,
            table.from_publication,
            table.to_publication,
            table.body,
            table.subject,
            table.sealed,
            table.withdrawn,
        )
        .where(
            store.of_key(store.revisions, tenant, profile=edition.profile),
            table.sequence > after,
            *shown,
        )
        .order_by(table.sequence)
        .limit(STREAM_ROWS)
    )
    rows = conn.execute(statement).all()
    if not rows:
        return [], after
    times = times_of(conn, tenant, edition.profile, rows)
    runs = runs_of(conn, tenant, {row.run for row in rows})
    made = [
        Row(
            row.record.hex(),
            row.revision,
            runs[row.run].run,
            times[row.from_publication],
            row.body,
            row.sequence,
            row.subject or "",
            bytes(row.sealed or b""),
            personal_of(row),
        )
        for row in rows
    ]
    return made, rows[-1].sequence
