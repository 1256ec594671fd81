"""The types of the keyring; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from msgspec import Meta, Struct

S = TypeVar("S", bound=Struct)
SUBJECT_TOKEN_BYTES = 16

EVENTS = "event-payload"
RECORDS = "record"
RESPONSES = "raw-response"
NAMES = "subject-names"
BACKUPS = "backup"
PURPOSES = frozenset({EVENTS, RECORDS, RESPONSES, NAMES, BACKUPS})
"""What keys are for. A key of one purpose opens nothing of another."""

Kind = Literal["tenant", "purpose", "subject", "object"]
"""``tenant`` keys wrap the others; a ``purpose`` key seals what has no subject; a ``subject`` key
seals one person's data; an ``object`` key seals one raw response."""

Text = Annotated[str, Meta(min_length=1, max_length=500)]


@dataclass(frozen=True, slots=True)
class DataKey:
    """An opened key: lives in memory, never in a file, a row, a log or an answer."""

    id: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"DataKey({self.id.hex()})"


class KeyInfo(Struct, frozen=True, kw_only=True):
    """What may be told of a wrapped key."""

    id: str
    tenant: str
    kind: Kind
    purpose: str
    subject: str
    version: int
    wrapped_by: str
    created_at: str


class KeyCounts(Struct, frozen=True, kw_only=True):
    """How many keys of a kind a tenant has, and under which version of what they are wrapped."""

    tenant: str
    kind: Kind
    purpose: str
    keys: int
    version: int
    wrapped_by_version: int


class MasterInfo(Struct, frozen=True, kw_only=True):
    """A version of the master key, by its id."""

    version: int
    id: str
    wraps: int
    current: bool


class KeyringInfo(Struct, frozen=True, kw_only=True):
    """The keyring as `holdfast key list` shows it."""

    keyring: str
    masters: list[MasterInfo]
    keys: list[KeyCounts]
    erased_subjects: int
    held_subjects: int


class Rotation(Struct, frozen=True, kw_only=True):
    """What a rotation made, and how many keys are to be wrapped anew."""

    what: Literal["master", "tenant"]
    version: int
    pending: int


class KeysHandled(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody did with the keys in the files of a data directory, for the record: which
    versions of a master key it was, by their ids, and what was put back."""

    what: Literal["exported", "imported"]
    masters: Annotated[
        list[Annotated[str, Meta(pattern=r"^[0-9a-f]{8,64}$(?!\n)")]],
        Meta(min_length=1, max_length=1000),
    ]
    parts: Annotated[
        list[Literal["master-key", "tenant-secret", "erasures", "restrictions"]],
        Meta(max_length=4),
    ] = []


class Rewrapped(Struct, frozen=True, kw_only=True):
    """One step of rewrapping."""

    done: int
    pending: int
    retired: int = 0


class Checked(Struct, frozen=True, kw_only=True):
    """What `holdfast key check` found: every wrapped key was opened."""

    keys: int
    damaged: list[str] = []


# --- subjects -----------------------------------------------------------------------------------


class SubjectRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose data, and why. The subject travels in a body, never in an address or a log."""

    subject: Text
    reason: Text


class LookRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of whom it is asked how the keyrings stand to them."""

    subject: Text


class EraseRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to erase, and why.

    ``even_unknown``: also a name that nobody ever heard of here. Whatever comes in under it later,
    from a source, from an append or out of an older backup, is dropped.
    """

    subject: Text
    reason: Text
    even_unknown: bool = False


class RetainRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keep the subject's data until then."""

    subject: Text
    reason: Text
    until: Text


class Restriction(Struct, frozen=True, kw_only=True):
    """Why a subject may not be erased: a legal hold (no end), or a retention until a time."""

    subject: str
    kind: Literal["hold", "retention"]
    reason: str
    until: str
    placed_by: str
    placed_at: str


class Release(Struct, frozen=True, kw_only=True):
    """A legal hold that was released: every one on the subject that was placed by ``through``."""

    subject: str
    reason: str
    through: str
    released_by: str
    released_at: str


class Erasure(Struct, frozen=True, kw_only=True):
    """A subject whose keys are destroyed. ``subject`` is its keyed name, never what it stands for.

    ``unrecoverable_by``: when the last backup of the keyring that may hold the key has expired, and
    on PostgreSQL the server's write-ahead log from before.
    ``state`` is ``erasing`` until every copy beside the keys is gone too. ``repeated``: it is the
    answer to a request for what had been done before.
    """

    id: str
    subject: str
    state: Literal["erasing", "done"]
    reason: str
    requested_by: str
    requested_at: str
    unrecoverable_by: str
    keys: int
    done_at: str = ""
    repeated: bool = False


class ErasedParts(Struct, frozen=True, kw_only=True):
    """What an eraser removed beside the keys."""

    records: int = 0
    responses: int = 0
    projections: int = 0

    def plus(self, other: ErasedParts) -> ErasedParts:
        return ErasedParts(
            records=self.records + other.records,
            responses=self.responses + other.responses,
            projections=self.projections + other.projections,
        )


class Standing(Struct, frozen=True, kw_only=True):
    """How one keyring stands to one person.

    ``keyring`` is its id, the same for every role that shares it. ``known``: somebody of that name
    has a key here, occurs in data or was erased. ``restrictions`` are those that refuse an erasure
    now. ``roles`` are told by whoever asks several.
    """

    keyring: str
    subject: str
    known: bool
    restrictions: list[Restriction] = []
    erasure: Erasure | None = None
    roles: list[str] = []


class ErasedIn(Struct, frozen=True, kw_only=True):
    """An erasure in one of several keyrings, and the roles whose keyring it is."""

    roles: list[str]
    erasure: Erasure


class Erased(Erasure, frozen=True, kw_only=True):
    """The answer to an erasure. Of several ``keyrings`` it is what they come to: the first one's
    that had a key, with the keys of all, done when all are, repeated if all were."""

    keyrings: list[ErasedIn] = []


class PlacedIn(Struct, frozen=True, kw_only=True):
    """A hold or a retention in one of several keyrings."""

    roles: list[str]
    known: bool
    restriction: Restriction


class Placed(Restriction, frozen=True, kw_only=True):
    """The answer to a hold or a retention.

    It is placed whether or not anybody is ``known`` by that name: somebody may be held before they
    come. ``erased_at``: when they were erased, if they were; then there is nothing left to keep.
    """

    known: bool
    erased_at: str = ""
    keyrings: list[PlacedIn] = []


class SubjectsIn(Struct, frozen=True, kw_only=True):
    """The restrictions and erasures in one of several keyrings."""

    roles: list[str]
    restrictions: list[Restriction]
    erasures: list[Erasure]


class Subjects(Struct, frozen=True, kw_only=True):
    """The restrictions and erasures of a tenant; of several ``keyrings``, all of theirs.

    Each keyring has a name of its own for a person. ``keyring`` is the id where it is one.
    """

    restrictions: list[Restriction]
    erasures: list[Erasure]
    keyring: str = ""
    keyrings: list[SubjectsIn] = []


class ErasureLine(Struct, frozen=True, kw_only=True):
    """One line of the erasure file: enough to erase again after any restore."""

    tenant: str
    erasure: Erasure


class RestrictionLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the file of holds and retentions: one that was placed, or a release."""

    tenant: str
    placed: Restriction | None = None
    released: Release | None = None


def only(kind: type[S], found: S) -> S:
    """What an answer has of ``kind``, which it extends."""
    return kind(**{name: getattr(found, name) for name in kind.__struct_fields__})
