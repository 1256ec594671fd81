"""What becomes of the appends that wait: which are taken, where they lie, what they hear. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.merkle import leaf_hash
from holdfast.kernel.outbox import commitment
from holdfast.ledger.errors import (
    AppendPartlyKnown,
    EventIdReused,
    SubjectErased,
    VersionConflict,
)
from holdfast.ledger.frames import Leaf, Stored, leaf_bytes
from holdfast.ledger.model import ERASED, Placed, Prepared
from holdfast.ledger.store import IndexRow


@dataclass(frozen=True, slots=True)
class Wanted:
    """An append that waits. ``each``: events that are there already are passed over."""

    events: Sequence[Prepared]
    expected: Mapping[str, int] = field(default_factory=dict)
    each: bool = False
    size_bytes: int = 0
    """Roughly what it adds to the log."""

    asked: bool = False
    """It is asked only whether it would be refused: nothing of it is stored."""

    @classmethod
    def of(
        cls,
        events: Sequence[Prepared],
        expected: Mapping[str, int] | None = None,
        *,
        each: bool = False,
    ) -> Wanted:
        """An append of these events."""
        size = sum(len(event.sealed) or event.length for event in events) + 1024 * len(events)
        return cls(events, expected or {}, each, size)


@dataclass(frozen=True, slots=True)
class Known:
    """An event that the log holds (or that an earlier append of the same commit brings)."""

    position: int
    leaf: Leaf
    salt: bytes | None
    """None once the payload's key is destroyed: then only the header is compared."""

    about: str | None = None
    """Whose own key the payload is sealed under; None where nobody can tell."""


Outcome = list[Placed] | HoldfastError


@dataclass(slots=True)
class Plan:
    """One commit, and what each append is answered once it is durable."""

    outcomes: list[Outcome] = field(default_factory=list)
    repeated: list[bool] = field(default_factory=list)
    entries: list[Stored] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    rows: list[IndexRow] = field(default_factory=list)
    payload_bytes: int = 0


def plan(
    wanted: Sequence[Wanted],
    versions: dict[str, int],
    known: dict[str, Known],
    *,
    tenant: str,
    first: int,
    recorded: str,
) -> Plan:
    """Decide the appends in their order; a later one sees what an earlier one brings.

    ``versions`` and ``known`` hold what the log has of the streams and ids that are named; both are
    brought up to what the plan makes of them.
    """
    made = Plan()
    for each in wanted:
        try:
            outcome, repeated = _one(made, each, versions, known, tenant, first, recorded)
        except HoldfastError as error:
            made.outcomes.append(error)
            made.repeated.append(False)
        else:
            made.outcomes.append(outcome)
            made.repeated.append(repeated)
    return made


def _one(
    made: Plan,
    wanted: Wanted,
    versions: dict[str, int],
    known: dict[str, Known],
    tenant: str,
    first: int,
    recorded: str,
) -> tuple[list[Placed], bool]:
    fresh = [event for event in wanted.events if not _there(event, known, wanted.each)]
    if not fresh:
        return [_placed(known[event.id]) for event in wanted.events], True
    if len(fresh) < len(wanted.events) and not wanted.each:
        raise AppendPartlyKnown(
            f"cannot append: {len(wanted.events) - len(fresh)} of {len(wanted.events)} events are "
            "in the ledger already, and the others are not",
            hint="an append is repeated whole, with the same ids, or has fresh ids throughout",
        )
    for event in fresh:
        if event.sealing == ERASED and not wanted.each:
            raise SubjectErased(
                f"cannot append the event {event.id}: the person it is about was erased",
                hint="keep nothing more about them; nothing of this append was stored",
            )
    for stream, expected in wanted.expected.items():
        current = versions.get(stream, 0)
        if current != expected:
            raise VersionConflict(stream, expected, current)
    if wanted.asked:
        return [], False
    for event in fresh:
        _add(made, event, versions, known, tenant, first + len(made.entries), recorded)
    return [_placed(known[event.id]) for event in wanted.events], False


def _there(event: Prepared, known: Mapping[str, Known], relayed: bool) -> bool:
    """Whether the log holds this event; ``EventIdReused`` if it holds another under its id."""
    found = known.get(event.id)
    if found is None:
        return False
    leaf = found.leaf
    same = (leaf.stream, leaf.type, leaf.length, leaf.subject) == (
        event.stream,
        event.type,
        event.length,
        event.subject,
    ) and event.time in ("", leaf.time)
    if found.salt is not None:
        same = same and found.about in (None, event.about)
    elif not relayed:
        # It is about somebody who was erased; so it is the same only if this one is, too.
        same = same and event.sealing == ERASED
    if same and found.salt is not None and event.salt:
        theirs = commitment(found.salt, event.payload).hex()
        same = hmac.compare_digest(theirs, leaf.commitment)
    if not same:
        raise EventIdReused(
            f"cannot append the event {event.id}: the id was used with other content"
        )
    return True


def _add(
    made: Plan,
    event: Prepared,
    versions: dict[str, int],
    known: dict[str, Known],
    tenant: str,
    position: int,
    recorded: str,
) -> None:
    version = versions.get(event.stream, 0) + 1
    leaf = Leaf(
        commitment=event.commitment.hex(),
        id=event.id,
        length=event.length,
        recorded=recorded,
        request=event.request,
        stream=event.stream,
        subject=event.subject,
        tenant=tenant,
        time=event.time or recorded,
        type=event.type,
        version=version,
    )
    data = leaf_bytes(leaf)
    versions[event.stream] = version
    known[event.id] = Known(position, leaf, event.salt or None, event.about)
    made.entries.append(Stored(data, event.sealing, event.sealed))
    made.hashes.append(leaf_hash(data))
    made.rows.append(IndexRow(position, event.stream, version, event.id))
    made.payload_bytes += event.length


def _placed(known: Known) -> Placed:
    leaf = known.leaf
    return Placed(
        id=leaf.id,
        position=known.position,
        stream=leaf.stream,
        version=leaf.version,
        recorded=leaf.recorded,
    )
