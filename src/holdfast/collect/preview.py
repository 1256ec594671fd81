"""One page of a source, read as a profile says, and nothing of it kept."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from holdfast.collect.content import SpooledContent
from holdfast.collect.cursor import CursorState
from holdfast.collect.draft import Draft, draft
from holdfast.collect.errors import ParseFailed
from holdfast.collect.formats import reader_of
from holdfast.collect.infer import InferredField, fields_of
from holdfast.collect.mapping import Mapping
from holdfast.collect.mapping_fields import zone_of
from holdfast.collect.model import Bounds, RawRow
from holdfast.collect.pages import Walk
from holdfast.collect.requests import (
    NO_CREDENTIALS,
    Manners,
    credentials,
    request,
    without_secrets,
)
from holdfast.collect.robots import Robots
from holdfast.collect.secrets import SecretStore
from holdfast.collect.settings import CollectSettings
from holdfast.collect.tokens import Tokens
from holdfast.collect.windows import sections_of
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.errors import Invalid, NotFound
from holdfast.kernel.ids import DEFAULT_TENANT
from holdfast.kernel.outbound import (
    Fetched,
    OutboundClient,
    OutboundRequest,
    SourceBusy,
    SourceUnavailable,
)
from holdfast.kernel.outbound.address import parse_target
from holdfast.records.listing import period_text, unit_words
from holdfast.records.model import MappedRecord, Reject
from holdfast.registry.model import Limits, Profile
from holdfast.registry.source import JsonFormat, LinkPagination, Source

ROWS_LOOKED_AT = 1_000
RETRIES_MAX = 1
"""Somebody sits and waits: they hear of a failure sooner than a run does, and may try again."""
_PIECE_BYTES = 1024 * 1024
TOLD_AFTER_SECONDS = 3.0
TOLD_EVERY_SECONDS = 10.0

Told = Callable[[str], None]


class Preview(Struct, frozen=True, kw_only=True):
    """What one page would bring. ``problem`` is why reading stopped early, if it did."""

    profile: str
    url: str
    address: str
    status: int
    media_type: str
    size_bytes: int
    digest: str
    replayed: bool
    rows: int
    whole: bool
    """Whether the page has no more rows than were looked at."""
    records: list[MappedRecord]
    rejects: list[Reject]
    rejected: int
    """Rejects: of a row that becomes several records each may be one, as a run counts them."""
    rejected_rows: int
    """Rows of which at least one reject came."""
    max_rejects: int
    """How many rejects the profile allows a run."""
    fields: list[InferredField]
    problem: str = ""
    repeated: int = 0
    """Rows that were looked at whose key an earlier one has."""
    repeated_key: list[Any] = []
    """The first such key."""
    empty: list[str] = []
    """Fields of the profile that have a value in none of the records that came of these rows."""

    def check(self) -> None:
        """Raises :class:`Invalid` if nothing can be collected this way: the page cannot be read to
        its end, or not one of its rows becomes a record."""
        if self.problem:
            raise Invalid(self.problem, code="parse")
        if self.rejects and not self.records:
            raise Invalid(
                f"cannot use this mapping: not one of {self.rows} rows became a record",
                code="mapping",
                hint="the rejects say why, row by row; `fields` says what came",
            )

    def notes(self) -> list[str]:
        """What of this page a run would fail for, and what a person should look at."""
        found: list[str] = []
        if self.repeated:
            shown = ", ".join(map(str, self.repeated_key))
            found.append(
                f"{self.repeated} of these rows repeat the key of another, first {shown}; "
                "add the field that tells them apart to `key`, or say by `duplicates` which counts "
                "(by default the run fails)"
            )
        if self.rejected > self.max_rejects:
            found.append(
                f"{self.rejected} rejects are more than the {self.max_rejects} that "
                "`max_rejects` in the profile allows: a run would fail"
            )
        if self.empty:
            found.append(
                f"without a value in any of these records: {', '.join(self.empty)}; see that the "
                "paths are right"
            )
        return found


async def preview(
    profile: Profile,
    settings: CollectSettings,
    *,
    url: str = "",
    limit: int = 10,
    told: Told | None = None,
) -> Preview:
    """Fetch the first page and map its first rows; at most ``limit`` records and rejects.

    ``url`` is asked instead of the source's own. The fetch obeys the same guard, limits and secret
    bindings as a drone's; what fails is repeated once at most. Nothing is stored; the fetched file
    is gone when this returns. ``told`` hears what is being waited for, where that takes long.
    Raises what fetching raises, and :class:`MappingRefused`.
    """
    source = profile.source
    if url:
        source = msgspec.structs.replace(source, url=url)
        profile = msgspec.structs.replace(profile, source=source)
    store = SecretStore(settings.secret_variables, settings.secrets_dir)
    clock = SystemClock()
    cursor = (
        CursorState(profile.cursor, zone_of(profile.timezone), None) if profile.cursor else None
    )
    mapping = Mapping(profile)
    first = Walk(source, 1, sections_of(profile, cursor, clock.now())).first
    with tempfile.TemporaryDirectory(prefix="holdfast-preview-") as folder:
        async with OutboundClient(settings.outbound) as outbound:
            given = await credentials(source, store, DEFAULT_TENANT, Tokens(outbound, clock))
            asked = request(source, _manners(profile.limits), first, given)
            async with waiting(asked, told):
                if not source.robots:
                    await Robots(outbound, clock).check(first.url)
                fetched = await _fetched(outbound, asked, Path(folder))
        assert fetched.path is not None
        found = _read(profile, mapping, fetched, limit)
        problem = without_secrets(source, given, found.problem)
        return msgspec.structs.replace(found, problem=problem)


def preview_file(profile: Profile, page: Path, *, limit: int = 10, charset: str = "") -> Preview:
    """As :func:`preview`, of bytes that are here, such as a run has kept. Nothing is asked for.

    ``charset`` is what the source called their encoding when it sent them: a run believes it.
    Raises :class:`NotFound` for a file that cannot be read, and :class:`MappingRefused`.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with page.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                size += len(piece)
    except OSError as error:
        raise NotFound(f"cannot read {page}: {error.strerror}") from error
    fetched = Fetched(
        path=page,
        digest=f"sha256:{digest.hexdigest()}",
        size_bytes=size,
        wire_bytes=0,
        status=200,
        headers={"content-type": f"; charset={charset}"} if charset else {},
        url=str(page),
        final_url=str(page),
        address="",
        fetched_at="",
        duration_seconds=0.0,
        requests=0,
        replayed=False,
    )
    return _read(profile, Mapping(profile), fetched, limit)


def _manners(limits: Limits) -> Manners:
    return Manners(msgspec.structs.replace(limits, retries=min(limits.retries, RETRIES_MAX)))


@contextlib.asynccontextmanager
async def waiting(
    asked: OutboundRequest,
    told: Told | None,
    *,
    after_seconds: float = TOLD_AFTER_SECONDS,
    every_seconds: float = TOLD_EVERY_SECONDS,
) -> AsyncIterator[None]:
    """While the block takes longer than ``after_seconds``, ``told`` hears of what it waits for."""
    if told is None:
        yield
        return
    host, bounds = parse_target(asked.url).host_port, asked.limits

    async def tell() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.sleep(after_seconds)
        tries = f"at most {bounds.retries + 1} tries, each" if bounds.retries else "one try,"
        about = f"{tries} until nothing comes for {bounds.idle_seconds:g} s"
        while True:
            told(f"waiting for {host} since {loop.time() - begun:.0f} s: {about}")
            await asyncio.sleep(every_seconds)

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling


async def _fetched(outbound: OutboundClient, asked: OutboundRequest, folder: Path) -> Fetched:
    """The page; a refusal is told in the source's own words, too."""
    try:
        return await outbound.fetch(asked, folder)
    except (SourceUnavailable, SourceBusy) as error:
        if error.said:
            error.detail = f"{error.detail}; the source says: {error.said}"
        raise


async def first_draft(
    url: str,
    settings: CollectSettings,
    *,
    name: str,
    kind: str = "",
    records: str = "",
    sheet: str = "",
    header_row: int = 0,
    told: Told | None = None,
) -> Draft:
    """Fetch the page at ``url`` and draft a profile from it; nothing is stored.

    The fetch obeys the same guard and limits as a drone's, repeats once at most what fails, and
    sends no credentials. ``told`` is as for :func:`preview`.
    """
    # A header is kept where a profile has a use for it; with this one `Link` is.
    source = Source(url=url, format=JsonFormat(), pagination=LinkPagination())
    clock = SystemClock()
    first = Walk(source, 1, ()).first
    with tempfile.TemporaryDirectory(prefix="holdfast-init-") as folder:
        async with OutboundClient(settings.outbound) as outbound:
            asked = request(source, _manners(Limits()), first, NO_CREDENTIALS)
            async with waiting(asked, told):
                await Robots(outbound, clock).check(first.url)
                fetched = await _fetched(outbound, asked, Path(folder))
        assert fetched.path is not None
        return draft(
            fetched.path,
            name=name,
            url=url,
            charset=fetched.charset,
            kind=kind,
            records=records,
            sheet=sheet,
            header_row=header_row,
            link=fetched.headers.get("link", ""),
        )


def _read(profile: Profile, mapping: Mapping, fetched: Fetched, limit: int) -> Preview:
    source = profile.source
    bounds = Bounds(content_bytes_max=profile.limits.max_bytes)
    assert fetched.path is not None
    content = SpooledContent(
        fetched.path, bounds, source.compression, source.member, fetched.charset
    )
    context = mapping.context(bounds)
    reader = reader_of(source.format)(content, source.format, context)
    rows: list[RawRow] = []
    problem, whole = "", False
    try:
        rows += islice(reader, ROWS_LOOKED_AT)
        whole = next(reader, None) is None
    except ParseFailed as error:
        told = f"{error.detail}; the source says: {error.said}" if error.said else error.detail
        problem = f"{told} ({error.hint})" if error.hint else told
    records: list[MappedRecord] = []
    rejects: list[Reject] = []
    keys: set[str] = set()
    repeats: list[MappedRecord] = []
    filled: set[str] = set()
    for row in rows:
        for found in mapping.map(row, 0):
            if isinstance(found, Reject):
                rejects.append(found)
                continue
            if len(records) < limit:
                records.append(found)
            filled.update(name for name, value in flat(found).items() if value is not None)
            key = repr(found.key)
            if key in keys and profile.key != "position":
                repeats.append(found)
            keys.add(key)
    return Preview(
        profile=profile.name,
        url=fetched.url,
        address=fetched.address,
        status=fetched.status,
        media_type=fetched.media_type,
        size_bytes=fetched.size_bytes,
        digest=fetched.digest,
        replayed=fetched.replayed,
        rows=len(rows),
        whole=whole,
        records=records,
        rejects=rejects[:limit],
        rejected=len(rejects),
        rejected_rows=len({reject.position for reject in rejects}),
        max_rejects=profile.max_rejects,
        fields=fields_of(rows, source.format),
        problem=problem,
        repeated=len(repeats),
        repeated_key=list(repeats[0].key) if repeats else [],
        empty=[name for name in _names(profile) if name not in filled] if records else [],
    )


def _names(profile: Profile) -> list[str]:
    """What the columns of :func:`flat` are called that the profile itself names."""
    period = ["period"] if profile.period is not None else []
    return [*profile.dimensions, *period, *profile.measures, *profile.attributes]


def flat(record: MappedRecord) -> dict[str, Any]:
    """A record as one line of a table."""
    found: dict[str, Any] = dict(record.dimensions)
    if record.period:
        found["period"] = period_text(record.period)
        found["frequency"] = record.period.frequency
    for name, measure in record.measures.items():
        words = unit_words(measure.unit, measure.multiplier)
        there = measure.value is not None
        found[name] = f"{measure.value} {words}" if there and words else measure.value
    return {**found, **record.attributes}
