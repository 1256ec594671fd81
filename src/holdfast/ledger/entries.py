"""Entries as they are read: payloads unsealed, and held to what their leaves commit to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from holdfast.kernel.errors import Corrupt, HoldfastError
from holdfast.kernel.outbox import SALT_BYTES, Sealed, commitment
from holdfast.ledger.frames import Leaf, Stored, plain_payload, read_leaf
from holdfast.ledger.log.parts import KEY_DESTROYED, TenantParts
from holdfast.ledger.model import ERASED, Entry


class Payload(NamedTuple):
    """What a sealed payload opens to. ``payload`` is None once its key is destroyed."""

    salt: bytes
    payload: bytes | None
    about: str | None


GONE = Payload(b"", None, "")


async def entries_of(parts: TenantParts, stored: Sequence[tuple[int, Stored]]) -> list[Entry]:
    """The entries at these positions, as they lie in the log."""
    leaves = [read_leaf(each.leaf) for _, each in stored]
    opened = await payloads_of(
        parts, [(leaf, each) for leaf, (_, each) in zip(leaves, stored, strict=True)]
    )
    return [
        Entry(
            position=position,
            id=leaf.id,
            stream=leaf.stream,
            version=leaf.version,
            type=leaf.type,
            time=leaf.time,
            recorded=leaf.recorded,
            subject=leaf.subject,
            request_id=leaf.request,
            payload=None if found.payload is None else plain_payload(found.payload),
            about=found.about or "",
            erased=found.payload is None,
        )
        for (position, _), leaf, found in zip(stored, leaves, opened, strict=True)
    ]


async def payloads_of(parts: TenantParts, stored: Sequence[tuple[Leaf, Stored]]) -> list[Payload]:
    """Salts and payloads; ``Corrupt`` if one is another's."""
    asked = [
        (leaf.id, Sealed(each.sealing, each.sealed))
        for leaf, each in stored
        if each.sealing != ERASED
    ]
    answers = iter(await parts.opened(asked) if asked else [])
    found = []
    for leaf, each in stored:
        answer = None if each.sealing == ERASED else next(answers)
        if answer is None:
            found.append(GONE)
            continue
        salt, payload = answer.plain[:SALT_BYTES], answer.plain[SALT_BYTES:]
        _check(leaf.id, salt, payload, leaf.commitment)
        found.append(Payload(salt, payload, answer.about))
    return found


def opened(
    parts: TenantParts, event_id: str, sealing: str, sealed: bytes, expected: str
) -> tuple[bytes, bytes | None]:
    """Salt and payload of one entry, for whoever is in a thread; no payload once its key is
    destroyed. ``Corrupt`` if it is another's."""
    if sealing == ERASED:
        return b"", None
    try:
        salt, payload = parts.unsealed(event_id, sealing, sealed)
    except HoldfastError as error:
        if error.code == KEY_DESTROYED:
            return b"", None
        raise
    _check(event_id, salt, payload, expected)
    return salt, payload


def _check(event_id: str, salt: bytes, payload: bytes, expected: str) -> None:
    if commitment(salt, payload).hex() != expected:
        raise Corrupt(f"cannot read the event {event_id}: its payload is not its own")
