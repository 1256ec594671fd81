"""An entry as it is read: its payload unsealed, and held to what its leaf commits to."""

from __future__ import annotations

from holdfast.kernel.errors import Corrupt, HoldfastError
from holdfast.kernel.outbox import commitment
from holdfast.ledger.frames import Frame, plain_payload, read_leaf
from holdfast.ledger.log.parts import KEY_DESTROYED, TenantParts
from holdfast.ledger.model import ERASED, Entry


def entry_of(parts: TenantParts, frame: Frame, position: int) -> Entry:
    """The entry at ``position`` of a frame, its payload unsealed and held to its commitment."""
    stored = frame.entries[position - frame.first]
    leaf = read_leaf(stored.leaf)
    _, payload = opened(parts, leaf.id, stored.sealing, stored.sealed, leaf.commitment)
    return Entry(
        position=position,
        id=leaf.id,
        stream=leaf.stream,
        version=leaf.version,
        type=leaf.type,
        time=leaf.time,
        recorded=leaf.recorded,
        subject=leaf.subject,
        request_id=leaf.request,
        payload=None if payload is None else plain_payload(payload),
        about="" if payload is None else _about(parts, stored.sealing, stored.sealed),
        erased=payload is None,
    )


def _about(parts: TenantParts, sealing: str, sealed: bytes) -> str:
    try:
        return parts.about(sealing, sealed) or ""
    except HoldfastError as error:
        if error.code == KEY_DESTROYED:
            return ""  # erased since the payload was opened
        raise


def opened(
    parts: TenantParts, event_id: str, sealing: str, sealed: bytes, expected: str = ""
) -> tuple[bytes, bytes | None]:
    """Salt and payload; no payload once its key is destroyed. ``Corrupt`` if it is another's."""
    if sealing == ERASED:
        return b"", None
    try:
        salt, payload = parts.unsealed(event_id, sealing, sealed)
    except HoldfastError as error:
        if error.code == KEY_DESTROYED:
            return b"", None
        raise
    if expected and commitment(salt, payload).hex() != expected:
        raise Corrupt(f"cannot read the event {event_id}: its payload is not its own")
    return salt, payload
