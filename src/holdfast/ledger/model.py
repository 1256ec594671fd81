"""What the ledger is asked and what it answers. Frozen; no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta, Struct

ERASED = "erased"
"""How an event is said to be sealed whose payload nobody can read any more."""

EVENTS_MAX = 1000
"""Events of one append."""

EXPECTED_MAX = 1000
APPEND_BYTES_MAX = 8 * 1024 * 1024
CLOCK_ALARM_SECONDS = 1.0
CLOCK_REFUSE_SECONDS = 3600.0
CLOCK_STREAM = "ledger/clock"
CLOCK_ACCEPTED = "ledger.clock-accepted"
"""An operator said that the clock, which is behind the last entry, is right."""
OWN_STREAMS = frozenset(
    {"access", "api-key", "invitation", "join-token", "passkey", "person", "role", "session"}
    | {"profile", "run", "report", "task", "worker", "ledger", "key", "panel", "document", "tenant"}
    | {"backup", "subject"}
)
"""First segments of the streams in which the roles record what they did: nobody else appends."""

NO_KEY = "no-key"
"""The reason of a log that this instance cannot sign: whoever has its key can go on."""

LOST_TAIL = "lost-tail"
"""The reason of a log that is shorter, or older, than somebody was told."""

PUBLISHED_DAMAGED = "published-damaged"
"""The reason of a log of which nobody knows any more what the outside was told."""

PUBLISHED_UNKNOWN = "published-unknown"
"""The reason of a log that a restore brought back to where nobody knows what was published of it
after the backup was made."""

_STREAM = re.compile(r"[a-z][a-z0-9-]{0,62}(?:/[a-z0-9](?:[a-z0-9._:-]{0,126}[a-z0-9])?){0,4}")


class NewEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An event to be appended.

    ``id`` is a UUIDv7 of the caller's making: the same id is the same event, however often it is
    sent; left out, one is made, and a repetition is another event. ``time`` is when it happened
    (RFC 3339); left out, it is when it was recorded.

    ``about`` names the person whose data the payload holds, to the letter as `ledger erase` will
    name them. The payload is then sealed under that person's own key, and nobody can read it once
    they are erased. The name is not stored; what is read back has a keyed one in its place.
    """

    stream: str
    type: str
    payload: dict[str, Any]
    id: str = ""
    time: str = ""
    about: Annotated[str, Meta(min_length=1, max_length=500)] = ""


class Append(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events that are appended together or not at all, to one stream or to several.

    ``expected`` says at which version (how many events) a stream must be before; 0 says that it
    must not exist.
    """

    events: list[NewEvent]
    expected: dict[str, int] = {}


class Placed(Struct, frozen=True, kw_only=True):
    """Where an event lies."""

    id: str
    position: int
    stream: str
    version: int
    recorded: str


class Appended(Struct, frozen=True, kw_only=True):
    """The answer to an append: durable. ``repeated``: it had been there before."""

    events: list[Placed]
    repeated: bool = False


class RelayedEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event of a role's outbox, with salt and commitment in hexadecimal.

    ``payload`` is null and ``salt`` empty if it is about a person who was erased meanwhile.
    """

    id: str
    stream: str
    type: str
    time: str
    subject: str
    request_id: str
    about: str
    length: int
    commitment: str
    payload: dict[str, Any] | None
    salt: str


class Relay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events of an outbox in their order; those that are there already are passed over."""

    events: list[RelayedEvent]


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry as it is read. Once its key is destroyed it is ``erased`` and has no payload.

    ``about`` is the keyed name of the person whose own key its payload is sealed under, if it is
    somebody's: the ``subject`` of holds and erasures.
    """

    position: int
    id: str
    stream: str
    version: int
    type: str
    time: str
    recorded: str
    subject: str
    request_id: str = ""
    payload: dict[str, Any] | None = None
    about: str = ""
    erased: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """An event that has been checked: it lacks its place, and its seal while ``sealing`` is empty.

    ``payload`` and ``salt`` are empty if it comes from an outbox and is about a person who was
    erased meanwhile: what it was committed to, and that it happened, stay.
    """

    id: str
    stream: str
    type: str
    time: str
    subject: str
    request: str
    about: str
    length: int
    commitment: bytes
    payload: bytes
    salt: bytes
    sealing: str
    sealed: bytes


class StreamInfo(Struct, frozen=True, kw_only=True):
    """A stream: how many events it has, and where the last one lies."""

    stream: str
    version: int
    position: int


class Proof(Struct, frozen=True, kw_only=True):
    """An entry, and that it is in the tree of a checkpoint; hashes are hexadecimal.

    ``leaf`` is the text that is hashed; ``salt`` and ``payload`` open its commitment.
    """

    position: int
    leaf: str
    salt: str
    payload: str | None
    size: int
    root: str
    path: list[str]
    checkpoint: str


class Consistency(Struct, frozen=True, kw_only=True):
    """That the tree of ``second`` entries extends that of ``first``."""

    first: int
    second: int
    first_root: str
    second_root: str
    path: list[str]


class KeyInfo(Struct, frozen=True, kw_only=True):
    """A key of the log, in its C2SP spelling; a retired one is valid up to ``valid_to``."""

    key: str
    origin: str
    valid_from: int
    valid_to: int | None = None


class Trust(Struct, frozen=True, kw_only=True):
    """What a verifier elsewhere needs to know of this log. ``format`` 1."""

    format: int
    tenant: str
    origins: list[str]
    keys: list[KeyInfo]
    witnesses: list[str] = []


class Damage(Struct, frozen=True, kw_only=True):
    """The log is not what it was: what is missing or wrong, and how that was seen.

    ``first`` and ``last`` are the positions concerned; ``last`` is null where it is not known.
    """

    reason: str
    detail: str
    first: int
    last: int | None = None


class LedgerStatus(Struct, frozen=True, kw_only=True):
    """How a tenant's log stands. ``root`` is hexadecimal."""

    size: int
    root: str
    origin: str
    recorded: str
    writable: bool
    published_size: int
    damage: Damage | None = None
    withheld: str = ""
    """Why no checkpoint is given: what a witness says. Appends go on."""
    stopped: str = ""
    """Why nothing is appended though the log is sound: what is wrong with the clock."""


class Reason(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why the operator does what cannot be undone."""

    reason: str


class Progress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of a verification: how far it is, and at the end what was found.

    ``sound`` is absent until the end. ``position`` is that of the first entry that is not sound.
    ``twice`` are positions (the first 100) of events that stand at an earlier one, too: the entry
    is as it was written, and was taken a second time while the index lacked the first.
    """

    checked: int
    size: int
    sound: bool | None = None
    position: int | None = None
    reason: str = ""
    code: str = ""
    """What is not sound, for programs: ``index-damaged``, ``entry-unsound``, …"""
    root: str = ""
    erased: int = 0
    checkpoints: int = 0
    twice: list[int] = []


class Moment(Struct, frozen=True, kw_only=True):
    """A size of the log: how many entries had been recorded by a time, or have been by now."""

    position: int
    as_of: str | None = None


class ProjectionStatus(Struct, frozen=True, kw_only=True):
    """A projection: it reflects the first ``position`` of the log's ``size`` entries.

    ``rules`` and ``generation`` say by which rules it was folded, and how often it was made anew.
    """

    name: str
    position: int
    size: int
    rules: int
    generation: int
    started_at: str


class Folded(Struct, frozen=True, kw_only=True):
    """The state of one key, and the size of the log since which it is so."""

    key: str
    since: int
    state: dict[str, Any]


class FoldedPage(Struct, frozen=True, kw_only=True):
    """Some states of a projection by key, as of ``position``, and the cursor of what follows."""

    items: list[Folded]
    position: int
    next: str | None = None


class FoldProgress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of a rebuild: how far it is; ``serving`` in the last one, once it took over."""

    folded: int
    size: int
    serving: bool = False


class ExportLine(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A line of an export: an entry with what opens it, or at the end the checkpoint over all.

    An erased entry has neither salt nor payload.
    """

    position: int | None = None
    leaf: str = ""
    salt: str = ""
    payload: str | None = None
    checkpoint: str = ""
    entries: int | None = None


def stream_name(text: str) -> bool:
    """Whether ``text`` can name a stream."""
    return _STREAM.fullmatch(text) is not None
