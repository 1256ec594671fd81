"""What a door tells of itself: who came in vain, and login links, which open it to whoever has one.

A door has no ledger of its own. It keeps *notes* for a few seconds, one for each kind of thing that
happened to one caller, with a count: a flood of refusals is a handful of events that say how many,
and none goes uncounted. The identity role writes them down as events. Until it has, they are in a
file as well (:mod:`holdfast.identity.notebook`), so that a door that is killed forgets none.

Nothing secret is in a note: not the credential, not the path with its ids and queries, and of the
address the network only, since events are for ever. The log has the whole of it under the same
request id, for as long as logs are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, ip_network

from msgspec.structs import replace

from holdfast.identity.notebook import TEXT_MAX, AuditNote, Notebook, Tally, note_of
from holdfast.kernel.clock import Clock, parse_timestamp, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, HoldfastError, Invalid
from holdfast.kernel.ids import DEFAULT_TENANT, EventId, NewId, TenantId
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import service
from holdfast.kernel.telemetry import get_logger

log = get_logger("audit")

REFUSED = "access.refused"
LINK_MADE = "access.link-made"
TYPES = (REFUSED, LINK_MADE)
NOBODY = "nobody"
VARIOUS = "various"
REUSED = "event-id-reused"

KEEP_SECONDS = 5.0
SYNC_SECONDS = 1.0
KINDS_MAX = 50
"""Different notes of one period; what comes besides is counted together."""
PATIENCE_SECONDS = 60.0
"""Notes that wait longer than this to be taken are something to look at."""


@dataclass(frozen=True, slots=True)
class Happened:
    """One of the things that notes are made of."""

    type: str
    code: str
    tenant: str = ""
    subject: str = ""
    method: str = ""
    route: str = ""
    address: str = ""
    request_id: str = ""


Kind = tuple[str, str, str, str, str, str, str]
"""What makes two things one note: type, code, tenant, subject, method, route, network."""


def kind_of(what: Happened | AuditNote) -> Kind:
    """The note that ``what`` is counted in; no part of it longer than one may be."""
    network = what.network if isinstance(what, AuditNote) else network_of(what.address)
    tenant, subject = what.tenant or DEFAULT_TENANT, what.subject or NOBODY
    type_, code, method, route = (
        each[:TEXT_MAX] for each in (what.type, what.code, what.method, what.route)
    )
    return (type_, code, tenant[:TEXT_MAX], subject[:TEXT_MAX], method, route, network)


Record = Callable[[Sequence[AuditNote]], Awaitable[None]]


class Trail:
    """The notes of one door, on their way to the ledger. Bounded, whatever comes; none is dropped.

    There are two pages: one that is written on, and one that is being handed over. While that is
    not taken, the first goes on counting: an outage of an hour costs how finely is told when
    things happened, and nothing of how often.
    """

    def __init__(
        self, record: Record, clock: Clock, new_id: NewId, notebook: Notebook | None = None
    ) -> None:
        """Without a ``notebook`` notes are kept in memory only.

        With one, what an earlier life of this door left in it is told first.
        """
        self._record = record
        self._clock = clock
        self._new_id = new_id
        self._notebook = notebook
        self._page: dict[Kind, Tally] = {}
        self._handed: list[AuditNote] = []
        self._waits_since: float | None = None
        if notebook is not None:
            self._handed = [note_of(each) for each in notebook.handed()]
            self._page = {kind_of(each.note): each for each in notebook.open()}

    def note(self, what: Happened) -> None:
        """Note it; never raises, never waits."""
        now = timestamp(self._clock.now())
        kind = kind_of(what)
        if kind not in self._page and len(self._page) >= KINDS_MAX:
            kind = kind_of(Happened(what.type, VARIOUS))
        found = self._page.get(kind)
        if found is None:
            fresh = _first(kind, self._new_id(), what.request_id, now)
            found = self._page[kind] = Tally(fresh, len(self._page), 1, now)
            if self._notebook is not None:
                self._notebook.begin(found)
        else:
            found.count += 1
            found.last = now
            if self._notebook is not None:
                self._notebook.again(found)

    async def flush(self) -> None:
        """Hand over what was noted; what is not taken now is handed over again the next time."""
        if not self._handed and self._page:
            self._handed = [note_of(each) for each in self._page.values()]
            self._page = {}
            if self._notebook is not None:
                await self._notebook.turn()
        if not self._handed:
            return
        try:
            try:
                await self._record(self._handed)
            except (Invalid, Conflict):
                await self._one_by_one()
        except HoldfastError as error:
            if self._waits_since is None:
                self._waits_since = self._clock.monotonic()
            log.warning(
                "audit notes wait: the identity role does not take them",
                detail=error.detail,
                waiting=len(self._handed),
            )
            return
        self._handed, self._waits_since = [], None
        if self._notebook is not None:
            self._notebook.taken()

    async def _one_by_one(self) -> None:
        """One of them is not taken as it is: told plainly, so that it is counted all the same.

        One that was told before with another count (a page lost its last second with the power)
        stays as it was told: its event is for ever.
        """
        for note in self._handed:
            try:
                await self._record([note])
            except Invalid:
                log.exception("an audit note is not one", code=note.code)
                await self._plainly(note)
            except Conflict as error:
                _told_before(note, error)

    async def _plainly(self, note: AuditNote) -> None:
        plain = _first(kind_of(Happened(note.type, VARIOUS)), note.id, "", note.first)
        try:
            await self._record([replace(plain, count=note.count, last=note.last)])
        except Invalid:
            log.exception("an audit note cannot be told", note=note.id, count=note.count)
        except Conflict as error:
            _told_before(note, error)

    async def loop(self) -> None:
        """Hand over every few seconds, and once more when told to stop.

        What is noted goes to the disk every second meanwhile, however long handing over takes.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hand_over())
                if self._notebook is not None:
                    group.create_task(self._keep(self._notebook))
        finally:
            await self.flush()

    async def _hand_over(self) -> None:
        while True:
            await self.flush()  # at first what an earlier life of this door left
            await self._clock.sleep(KEEP_SECONDS)

    async def _keep(self, notebook: Notebook) -> None:
        while True:
            await self._clock.sleep(SYNC_SECONDS)
            await notebook.sync()

    async def check(self) -> str | None:
        """Readiness: degraded while notes are taken by nobody, or cannot be kept on disk."""
        since = self._waits_since
        waits = since is not None and self._clock.monotonic() - since > PATIENCE_SECONDS
        broken = self._notebook is not None and self._notebook.broken
        return "degraded" if waits or broken else None


def _told_before(note: AuditNote, error: Conflict) -> None:
    if error.code != REUSED:
        raise error
    log.error("an audit note was told before", note=note.id, count=note.count)


def _first(kind: Kind, identity: str, request_id: str, now: str) -> AuditNote:
    type_, code, tenant, subject, method, route, network = kind
    return AuditNote(
        id=identity,
        type=type_,
        tenant=tenant,
        subject=subject,
        code=code,
        method=method,
        route=route,
        network=network,
        request_id=request_id[:TEXT_MAX],
        first=now,
        last=now,
    )


class AuditLog:
    """Notes as events of this process's own outbox."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._db = database
        self._outbox = outbox

    async def record(self, notes: Sequence[AuditNote]) -> None:
        """Write them; the same notes again are the same events."""
        of: dict[TenantId, list[Event]] = {}
        for note in notes:
            of.setdefault(TenantId(note.tenant), []).append(_event(note))
        for tenant, events in of.items():
            principal = service("identity", tenant)
            unit = partial(self._outbox.emit_many, principal=principal, events=events)
            await self._db.write(principal, unit)


def network_of(address: str) -> str:
    """The network an address is in: enough to see a pattern, too little to name a household."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return ""
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    if parsed.is_loopback:
        return str(parsed)
    return str(ip_network((parsed, 24 if parsed.version == 4 else 48), strict=False))


def stream_of(subject: str) -> str:
    """Where what a subject did at the door is written."""
    plain = subject.lower()
    fits = plain.isascii() and plain.replace("-", "").isalnum() and plain[-1:] != "-"
    return f"access/{plain}" if fits and plain[0] != "-" and len(plain) <= 100 else "access/other"


def _event(note: AuditNote) -> Event:
    payload = {
        "code": note.code,
        "count": note.count,
        "method": note.method,
        "route": note.route,
        "network": note.network,
        "first": note.first,
        "last": note.last,
    }
    return Event(
        id=EventId(note.id),
        stream=stream_of(note.subject),
        type=note.type,
        time=parse_timestamp(note.first),
        payload={name: value for name, value in payload.items() if value != ""},
        subject=note.subject,
        request_id=note.request_id,
    )
