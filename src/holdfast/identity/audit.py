"""What is told of who came to the door in vain: refusals of note.

A door has no ledger of its own. It keeps *notes* for a few seconds, one for each kind of thing that
happened to one caller, with a count: a flood of refusals is a handful of events that say how many,
and none goes uncounted. The identity role writes them down as events.

Nothing secret is in a note: not the credential, not the path with its ids and queries, and of the
address the network only, since events are for ever. The log has the whole of it under the same
request id, for as long as logs are kept.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Annotated

from msgspec import Meta, Struct

from holdfast.kernel.clock import Clock, parse_timestamp, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import HoldfastError, Invalid
from holdfast.kernel.ids import DEFAULT_TENANT, EventId, NewId, TenantId
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import service
from holdfast.kernel.telemetry import get_logger

log = get_logger("audit")

REFUSED = "access.refused"
TYPES = (REFUSED,)
NOBODY = "nobody"
VARIOUS = "various"

KEEP_SECONDS = 5.0
KINDS_MAX = 50
"""Different notes of one period; what comes besides is counted together."""
WAITING_MAX = 500
"""Notes kept while the identity role does not answer."""

Text = Annotated[str, Meta(max_length=200)]


class AuditNote(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that happened at a door, ``count`` times from ``first`` to ``last``.

    ``subject`` is an opaque id, or ``nobody``. ``code`` says why it was refused. ``request_id`` is
    that of the first time.
    """

    id: Text
    type: Text
    tenant: Text
    subject: Text
    code: Text
    method: Text = ""
    route: Text = ""
    network: Text = ""
    request_id: Text = ""
    count: Annotated[int, Meta(ge=1)] = 1
    first: Text
    last: Text


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


@dataclass(slots=True)
class _Counted:
    what: Happened
    first: datetime
    last: datetime
    count: int = 1


Record = Callable[[Sequence[AuditNote]], Awaitable[None]]


class Trail:
    """The notes of one door, on their way to the ledger. Bounded, whatever comes."""

    def __init__(self, record: Record, clock: Clock, new_id: NewId) -> None:
        self._record = record
        self._clock = clock
        self._new_id = new_id
        self._now: OrderedDict[Happened, _Counted] = OrderedDict()
        self._waiting: list[AuditNote] = []

    def note(self, what: Happened) -> None:
        """Note it; never raises, never waits."""
        now = self._clock.now()
        kind = replace(what, request_id="", address=network_of(what.address))
        if kind not in self._now and len(self._now) >= KINDS_MAX:
            kind = Happened(what.type, VARIOUS)
        found = self._now.get(kind)
        if found is None:
            self._now[kind] = _Counted(replace(kind, request_id=what.request_id), now, now)
        else:
            found.count += 1
            found.last = now

    async def flush(self) -> None:
        """Hand over what was noted; what cannot be handed over is kept for the next time."""
        counted, self._now = self._now, OrderedDict()
        self._waiting += [self._note_of(each) for each in counted.values()]
        if not self._waiting:
            return
        try:
            await self._record(self._waiting)
        except Invalid:
            # One of them will never be taken: it must not keep the others from it.
            log.exception("an audit note is not one")
            self._waiting, tried = [], self._waiting
            for note in tried:
                with contextlib.suppress(Invalid):
                    await self._record([note])
        except HoldfastError as error:
            lost = self._waiting[:-WAITING_MAX]
            self._waiting = self._waiting[-WAITING_MAX:]
            log.warning(
                "audit notes wait: the identity role does not take them",
                detail=error.detail,
                waiting=len(self._waiting),
                dropped=sum(note.count for note in lost),
            )
        else:
            self._waiting = []

    async def loop(self) -> None:
        """Hand over every few seconds, and once more when told to stop."""
        try:
            while True:
                await self._clock.sleep(KEEP_SECONDS)
                await self.flush()
        finally:
            await self.flush()

    def _note_of(self, counted: _Counted) -> AuditNote:
        what = counted.what
        return AuditNote(
            id=self._new_id(),
            type=what.type,
            tenant=what.tenant or DEFAULT_TENANT,
            subject=what.subject or NOBODY,
            code=what.code,
            method=what.method,
            route=what.route,
            network=what.address,
            request_id=what.request_id,
            count=counted.count,
            first=timestamp(counted.first),
            last=timestamp(counted.last),
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
