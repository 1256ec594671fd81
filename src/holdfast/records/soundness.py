"""Whether each stored revision still says what was recorded of it.

A row keeps a keyed digest of its whole content beside the body, and the key lies outside of the
database: a body that was changed there, by a hand or by a disk, does not have it any more. Of a
withdrawn record the body is its predecessor's: if they differ, both are named where the predecessor
is the changed one. A sealed part is opened with its person's key; of
whoever is erased the digest is over what is left in clear. One that no key opens is explained by
nothing but an erasure of its person on record: a row in which another key is named is not taken for
theirs. (That the row is of an erased person nobody can check once it does not open.)

The digest speaks of the content alone. That a run and its place in the raw bytes are the recorded
ones is what a receipt shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from holdfast.kernel.database import Database
from holdfast.kernel.errors import Corrupt
from holdfast.kernel.principal import Principal
from holdfast.kernel.secrets import TenantSecrets
from holdfast.keyring import Keyring
from holdfast.keyring.envelope import key_id_of
from holdfast.keyring.model import RECORDS, DataKey
from holdfast.records.content import RecordKeys, content_of, decode_content, encode_sorted
from holdfast.records.errors import RecordAltered
from holdfast.records.model import MappedRecord
from holdfast.records.personal import joined, unsealed_part

ROWS_AT_ONCE = 500
NAMED_MAX = 1000
"""So many are named; all are counted."""

PAGE = (
    "SELECT r.profile, r.sequence, r.record, r.revision, r.withdrawn, r.content, r.body,"
    " r.sealed, p.body AS before, r.subject"
    " FROM record_revisions AS r LEFT JOIN record_revisions AS p"
    " ON p.tenant = r.tenant AND p.profile = r.profile AND p.sequence = r.previous"
    " WHERE r.tenant = :tenant AND (r.profile, r.sequence) > (:profile, :sequence)"
    " ORDER BY r.profile, r.sequence LIMIT :most"
)
"""The next rows, for either driver; see :class:`Row` for what they are."""


class Keys(Protocol):
    """What a keyring tells of who is in records."""

    def find_many(
        self, tenant: str, purpose: str, key_ids: Iterable[bytes]
    ) -> Mapping[bytes, DataKey]:
        """Those of a tenant's keys that there are."""
        ...

    def erased(self, tenant: str, tokens: Iterable[str]) -> set[str]:
        """Which of these people are erased."""
        ...


class Row(NamedTuple):
    """A stored revision; ``before`` is the body of the one that it replaced."""

    profile: str
    sequence: int
    record: bytes
    revision: int
    withdrawn: bool
    content: bytes
    body: str
    sealed: bytes | None
    before: str | None
    subject: str | None = None


class Checked(Struct, kw_only=True):
    """What looking at revisions found; ``named`` are the first of those that are ``altered``."""

    revisions: int = 0
    altered: int = 0
    named: list[str] = []
    closed: int = 0
    """Sealed, and there is no key, because the person is erased: nobody can read them."""
    unopened: int = 0
    """Sealed, and there is no such key, though the person is not erased."""
    unopened_named: list[str] = []
    shut: int = 0
    """Sealed, and there was no keyring to look into."""

    @property
    def told(self) -> str:
        """The outcome in words."""
        wrong = []
        if self.altered:
            wrong.append(
                f"{self.altered:,} are not what was recorded: " + _some(self.named, self.altered)
            )
        if self.unopened:
            wrong.append(
                f"{self.unopened:,} cannot be opened, and no erasure says why: "
                + _some(self.unopened_named, self.unopened)
            )
        if wrong:
            return f"of {self.revisions:,} revisions " + "; and ".join(wrong)
        read = self.revisions - self.closed - self.shut
        return (
            f"{read:,} revisions are what was recorded"
            + (f", {self.closed:,} are of people who were erased" if self.closed else "")
            + (
                f", {self.shut:,} are sealed and were not looked into: the keyring is not opened "
                "here"
                if self.shut
                else ""
            )
        )

    def check(self, where: str = "") -> None:
        """:class:`RecordAltered` if any is not what was recorded, or nobody knows."""
        what = f"{where} is not sound: {self.told}" if where else self.told
        if self.altered:
            raise altered(what)
        if self.unopened:
            raise unopened(what)

    def add(self, other: Checked) -> None:
        """Count what another look found, too."""
        self.revisions += other.revisions
        self.altered += other.altered
        self.closed += other.closed
        self.unopened += other.unopened
        self.shut += other.shut
        self.named = (self.named + other.named)[:NAMED_MAX]
        self.unopened_named = (self.unopened_named + other.unopened_named)[:NAMED_MAX]


def _some(named: list[str], of: int) -> str:
    more = of - len(named)
    return "; ".join(named) + (f" (and {more:,} more)" if more else "")


def checked(
    secrets: TenantSecrets, tenant: str, rows: Iterable[Sequence[Any]], keyring: Keys | None
) -> Checked:
    """Compare rows of :data:`PAGE` with their digests; without a ``keyring`` those in clear."""
    found, every = Checked(), [Row(*row) for row in rows]
    wanted = {key_id_of(bytes(row.sealed)) for row in every if row.sealed is not None}
    there: Mapping[bytes, DataKey] = {}
    if wanted and keyring is not None:
        there = keyring.find_many(tenant, RECORDS, wanted)
    keys: dict[str, RecordKeys] = {}
    lacking: list[Row] = []
    for row in every:
        mine = keys.get(row.profile)
        if mine is None:
            mine = keys[row.profile] = RecordKeys(secrets, tenant, row.profile)
        found.revisions += 1
        sound = is_sound(mine, tenant, row, there)
        if sound is None:
            lacking.append(row)
        elif not sound:
            found.altered += 1
            found.named.append(_name(row))
    if keyring is None:
        found.shut = len(lacking)
        return found
    # Asked for after the keys: whoever is erased in between has none, and is on record.
    erased = keyring.erased(tenant, {row.subject for row in lacking if row.subject})
    for row in lacking:
        if row.subject in erased:
            found.closed += 1
        else:
            found.unopened += 1
            found.unopened_named.append(_name(row))
    return found


def _name(row: Row) -> str:
    return f"{row.profile} {bytes(row.record).hex()} revision {row.revision}"


def is_sound(
    keys: RecordKeys, tenant: str, row: Any, there: Mapping[bytes, DataKey]
) -> bool | None:
    """Whether the row's body is the recorded one; ``None`` if it is sealed and its key not there.

    ``row`` is a :class:`Row`, or has its names.
    """
    content = bytes(row.content)
    if row.withdrawn:
        return content == b"" and row.before in (None, row.body)
    try:
        if row.sealed is None:
            return keys.content(row.body.encode()) == content
        sealed = bytes(row.sealed)
        key = there.get(key_id_of(sealed))
        if key is None:
            return None
        part = unsealed_part(tenant, row.profile, row.sequence, key, sealed)[1]
        whole = joined(decode_content(row.body), part)
        record = MappedRecord(
            response=0,
            position=0,
            key=whole.key,
            dimensions=whole.dimensions,
            measures=whole.measures,
            attributes=whole.attributes,
            period=whole.period,
        )
        return keys.content(content_of(encode_sorted(record))) == content
    except (Corrupt, msgspec.MsgspecError, AttributeError, ValueError):
        return False


async def check_revisions(
    db: Database, secrets: TenantSecrets, keyring: Keyring, principal: Principal
) -> Checked:
    """Look at every revision of the tenant, page by page, off the event loop."""
    found, after = Checked(), ("", -1)

    def unit(conn: Connection) -> list[Any]:
        asked = {
            "tenant": principal.tenant,
            "profile": after[0],
            "sequence": after[1],
            "most": ROWS_AT_ONCE,
        }
        return list(conn.execute(text(PAGE), asked).all())

    while rows := await db.read(principal, unit):
        after = (rows[-1].profile, rows[-1].sequence)
        found.add(await asyncio.to_thread(checked, secrets, principal.tenant, rows, keyring))
    return found


def check_shown(keys: RecordKeys, tenant: str, rows: Sequence[Any]) -> None:
    """Refuse a chain of revisions, oldest first, of which one is not what was recorded.

    What is sealed is not opened for that, and passes.
    """
    before: str | None = None
    for row in rows:
        if is_sound(keys, tenant, _in_chain(row, before), {}) is False:
            raise altered(
                f"cannot show the record {row.record.hex()}: its revision {row.revision} of "
                f"{row.profile} is not what was recorded"
            )
        before = row.body


def _in_chain(row: Any, before: str | None) -> Row:
    return Row(
        row.profile,
        row.sequence,
        row.record,
        row.revision,
        row.withdrawn,
        row.content,
        row.body,
        row.sealed,
        before,
    )


def altered(what: str) -> RecordAltered:
    """The one way to say that a stored record is not what was recorded."""
    return RecordAltered(
        what,
        hint="somebody or something changed the database; mapping the raw response again does not "
        "mend it: stop Holdfast and let `holdfast doctor --deep` name every such revision, then "
        "restore a backup from before (`holdfast backup drill FILE` tells whether it is sound)",
    )


def unopened(what: str) -> RecordAltered:
    """The one way to say that a sealed record has no key, though nobody has destroyed it."""
    return RecordAltered(
        what,
        hint="somebody or something changed the database, or the keyring is from before those "
        "records: restore both from backups of one time (`holdfast backup drill FILE` tells "
        "whether they are sound)",
    )
