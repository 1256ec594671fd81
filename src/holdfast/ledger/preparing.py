"""Events on their way into the log: checked, named, committed to.

What is about somebody is sealed here, under that person's key. The rest is sealed together with
what waits beside it, when its turn has come: whoever does so may have to wait for the keyring.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime

import msgspec

from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.errors import Denied, HoldfastError, Invalid, TooLarge, Unsupported
from holdfast.kernel.ids import EventId, NewId
from holdfast.kernel.outbox import (
    PAYLOAD_BYTES_MAX,
    SALT_BYTES,
    Event,
    check_names,
    checked_header,
    checked_payload,
    commitment,
)
from holdfast.kernel.principal import Principal
from holdfast.kernel.telemetry import request_id
from holdfast.ledger.log.parts import KEY_DESTROYED, LogParts, seal
from holdfast.ledger.model import (
    APPEND_BYTES_MAX,
    ERASED,
    EVENTS_MAX,
    EXPECTED_MAX,
    OWN_STREAMS,
    Append,
    NewEvent,
    Prepared,
    RelayedEvent,
    stream_name,
)
from holdfast.ledger.plan import Wanted
from holdfast.ledger.ports import People

Foresee = Callable[[Wanted], Awaitable[HoldfastError | None]]
"""What an append would be refused with, as things are; nothing is stored."""
SEALING_BYTES = 128
"""No less than what sealing adds to a payload."""


class Preparer:
    """Makes of what callers and roles give what the log takes. Keeps nothing."""

    def __init__(self, parts: LogParts, new_id: NewId) -> None:
        self._parts = parts
        self._new_id = new_id

    async def wanted(
        self, principal: Principal, append: Append, foresee: Foresee
    ) -> Wanted | HoldfastError:
        """The events of a caller's append, checked and named; or what the log refuses them with.

        Whoever an event is about has a key from then on. So for such an append ``foresee`` is asked
        first, whether it would be refused: nobody gets to be known by what is not stored.
        """
        told = self._checked(principal, append)
        if not any(given.about for given in append.events):
            return _bounded([self.made(principal, event, when) for event, when in told], append)
        people = self._parts.people
        if people is None:
            raise Unsupported("cannot append about somebody: this ledger has no keyring")
        bare = await people.apart(self._bare, principal, append, told, people)
        refused = await foresee(bare)
        if refused is not None:
            return refused
        return await people.apart(self._keyed, principal, append, bare, people)

    def _checked(self, principal: Principal, append: Append) -> list[tuple[Event, str]]:
        """The events but for whom they are about; what can be refused without them is."""
        if not append.events:
            raise Invalid("cannot append: there are no events")
        if len(append.events) > EVENTS_MAX or len(append.expected) > EXPECTED_MAX:
            raise TooLarge(
                f"cannot append {len(append.events)} events at once: at most {EVENTS_MAX}"
            )
        for stream, version in append.expected.items():
            if not stream_name(stream) or not 0 <= version < 2**53:
                raise Invalid(f"cannot expect version {version} of {stream[:80]!r}: no such thing")
        return [self._told(principal, event) for event in append.events]

    def _bare(
        self,
        principal: Principal,
        append: Append,
        told: Sequence[tuple[Event, str]],
        people: People,
    ) -> Wanted:
        """The append as it will be, not sealed yet; what is about who was erased never will be."""
        names = sorted({given.about for given in append.events} - {""})
        named = {"": ""} | dict(zip(names, people.named(principal.tenant, names), strict=True))
        erased = people.erased(principal.tenant, set(named.values()) - {""})
        made = []
        for given, (event, when) in zip(append.events, told, strict=True):
            about = named[given.about]
            each = self.made(principal, msgspec.structs.replace(event, about=about), when)
            made.append(replace(each, sealing=ERASED) if about in erased else each)
        return _bounded(made, append)

    def _keyed(self, principal: Principal, append: Append, bare: Wanted, people: People) -> Wanted:
        """The same, sealed; each person that it is about has a key from now on.

        Nothing can be sealed under a key that is no more. What was appended before the erasure is
        answered as it was; what was not is refused where it is known to be new.
        """
        people.admit(principal.tenant, {each.about for each in bare.events} - {""})
        sealed = []
        for each in bare.events:
            try:
                sealed.append(each if each.sealing == ERASED else self._seal(principal, each))
            except HoldfastError as error:
                if error.code != KEY_DESTROYED:
                    raise
                sealed.append(replace(each, sealing=ERASED))
        return _bounded(sealed, append)

    def _told(self, principal: Principal, given: NewEvent) -> tuple[Event, str]:
        """The event but for whom it is about, and when it happened if that was said."""
        if given.stream.partition("/")[0] in OWN_STREAMS:
            raise Denied(
                f"cannot append to {given.stream[:80]}: Holdfast's own roles record there",
                code="stream-reserved",
                hint="for everybody: begin its name with something of your own, as in orders/17; "
                f"these are taken: {', '.join(sorted(OWN_STREAMS))}",
            )
        moment = _moment(given.time)
        event = Event(
            id=EventId(given.id or self._new_id()),
            stream=given.stream,
            type=given.type,
            time=moment or self._parts.clock.now(),
            payload=given.payload,
            subject=principal.subject,
            request_id=request_id(),
        )
        return event, "" if moment is None else timestamp(moment)

    def made(
        self, principal: Principal, event: Event, when: str, salt: bytes | None = None
    ) -> Prepared:
        """An event and its commitment, not sealed yet; ``when`` it happened, if said."""
        salt = self._parts.random(SALT_BYTES) if salt is None else salt
        payload = checked_payload(event)
        check_names(event, event.subject)
        checked_header(principal.tenant, event, event.subject, len(payload))
        return Prepared(
            id=event.id,
            stream=event.stream,
            type=event.type,
            time=when,
            subject=event.subject,
            request=event.request_id,
            about=event.about,
            length=len(payload),
            commitment=commitment(salt, payload),
            payload=payload,
            salt=salt,
            sealing="",
            sealed=b"",
        )

    def _seal(self, principal: Principal, made: Prepared) -> Prepared:
        return seal(self._parts.sealer, principal.tenant, made)

    async def relayed(
        self, principal: Principal, given: Sequence[RelayedEvent]
    ) -> Sequence[Prepared]:
        """Events of a role's outbox, which have their commitments already."""

        def work() -> list[Prepared]:
            return [self._relayed(principal, each) for each in given]

        people = self._parts.people
        if people is None or not any(each.about for each in given):
            return work()
        return await people.apart(work)

    def _relayed(self, principal: Principal, given: RelayedEvent) -> Prepared:
        moment = _moment(given.time)
        try:
            salt, told = bytes.fromhex(given.salt), bytes.fromhex(given.commitment)
        except ValueError as error:
            raise Invalid(
                f"cannot relay the event {given.id[:80]}: no salt, no commitment"
            ) from error
        if moment is None or len(told) != 32 or not 0 <= given.length <= PAYLOAD_BYTES_MAX:
            raise Invalid(f"cannot relay the event {given.id[:80]}: it is not whole")
        event = Event(
            id=EventId(given.id),
            stream=given.stream,
            type=given.type,
            time=moment,
            payload=given.payload or {},
            subject=given.subject,
            request_id=given.request_id,
            about=given.about,
        )
        if given.payload is None and not salt:
            return self._nameless(principal, event, timestamp(moment), given.length, told)
        made = self.made(principal, event, timestamp(moment), salt)
        if len(salt) != SALT_BYTES or made.commitment != told:
            raise Invalid(f"cannot relay the event {given.id[:80]}: its payload is not its own")
        return self._seal(principal, made) if event.about else made

    def _nameless(
        self, principal: Principal, event: Event, when: str, length: int, told: bytes
    ) -> Prepared:
        """An event about a person who was erased before it came here: all but its payload."""
        check_names(event, event.subject)
        checked_header(principal.tenant, event, event.subject, length)
        return Prepared(
            id=event.id,
            stream=event.stream,
            type=event.type,
            time=when,
            subject=event.subject,
            request=event.request_id,
            about=event.about,
            length=length,
            commitment=told,
            payload=b"",
            salt=b"",
            sealing=ERASED,
            sealed=b"",
        )


def _bounded(events: Sequence[Prepared], append: Append) -> Wanted:
    """The append; refused alike before and after it is sealed if it is too large at once."""
    check_ids(events)
    wanted = Wanted.of(events, append.expected)
    size = sum(SALT_BYTES + SEALING_BYTES + each.length for each in events) + 1024 * len(events)
    if size > APPEND_BYTES_MAX:
        raise TooLarge(f"cannot append: over {APPEND_BYTES_MAX} bytes at once")
    return wanted


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return parse_timestamp(text)
    except ValueError as error:
        raise Invalid(
            f"cannot read the time {text[:40]!r}: it is not RFC 3339 with an offset",
            hint="such as 2026-11-01T00:00:00Z",
        ) from error


def check_ids(events: Sequence[Prepared]) -> None:
    """``Invalid`` for events of one append that share an id."""
    if len({event.id for event in events}) != len(events):
        raise Invalid(
            "cannot append: an event id is given twice", hint="each event has an id of its own"
        )
