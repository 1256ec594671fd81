"""The aggregator's tables and its SQL, one text for both databases.

**How a publication works.** Every profile has a *head*: the number of its last publication. A row
belongs to publications ``from_publication`` ≤ p < ``to_publication``. A running attempt stages rows
with ``from_publication`` = head + 1 and lets the rows they replace end there; no reader at the head
sees any of it. Publishing moves the head by one. So it costs the same for one row as for millions,
and a reader of an older publication is never disturbed.

At most one attempt stages for a profile: the *slot*, in the head's row. Its rows are those with a
sequence of at least ``slot_first``. While the slot is neither ``open`` nor ``closing`` its rows are
being removed (``discard``) or hidden for good (``hide``: ``from_publication`` becomes null), in
steps; until that is done nobody else gets the slot, so nobody can publish over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    LargeBinary,
    Row,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    func,
    insert,
    not_,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import ColumnElement

from holdfast.kernel.database import bulk_insert, tenant_table
from holdfast.kernel.principal import Principal
from holdfast.records.staging import ROW_COLUMNS, SEEN_BYTES, Latest
from holdfast.records.within import Asked, Within

T = TypeVar("T")

IN_MAX = 1000
"""Values in one ``IN``: far below both databases' bounds on parameters."""


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default=text("''"))


counters = tenant_table(
    "record_counters",
    _count("runs"),
    _count("results"),
    _count("notices"),
)
"""The numbers of the last run opened and of the last one ended. They are drawn from this row, one
transaction after the other, so they are in the order in which runs became visible or final: a list
by number skips nothing that is committed late."""

runs = tenant_table(
    "runs",
    Column("run", Text, primary_key=True, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("profile", Text, nullable=False),
    Column("profile_digest", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("started_at", Text, nullable=False),
    Column("lease_expires_at", Text, nullable=False),
    Column("finished_at", Text),
    Column("published_at", Text),
    Column("publication", BigInteger),
    Column("replayed", Boolean, nullable=False, server_default=text("FALSE")),
    Column("first_row", BigInteger, nullable=False),
    Column("end_row", BigInteger, nullable=False),
    _count("batches"),
    _count("records"),
    _count("new"),
    _count("changed"),
    _count("unchanged"),
    _count("present"),
    _count("withdrawn"),
    _count("unasked"),
    _count("kept"),
    _count("withheld"),
    _count("unkeyed"),
    _count("duplicates"),
    _count("rejects"),
    _count("violations"),
    _count("pages"),
    _count("requests"),
    _count("bytes_fetched"),
    _text("repeat"),
    _text("violation"),
    Column("fields", Text, nullable=False, server_default=text("'{}'")),
    Column("cursor", Text),
    _text("code"),
    _text("reason"),
    Column("event", Text),
    Column("result", BigInteger),
    Column("kind", Text, nullable=False, server_default=text("'collect'")),
    Column("range_start", Text),
    Column("range_end", Text),
    Column("rehearsal", Boolean, nullable=False, server_default=text("FALSE")),
    _count("usual"),
    Column("drift", Text, nullable=False, server_default=text("'[]'")),
    Column("drift_accepted", Boolean, nullable=False, server_default=text("FALSE")),
    Column("asked", Text),
    Index("ix_runs_result", "tenant", "result"),
    Index("ix_runs_number", "tenant", "number", unique=True),
    Index("ix_runs_profile", "tenant", "profile", "number"),
    Index("ix_runs_lease", "tenant", "status", "lease_expires_at"),
)
"""Runs and the counts of their current attempt. Their rows lie in
``first_row`` ≤ sequence < ``end_row``. ``asked``: what one of a snapshot may withdraw, from when it
begins to close; null until then."""

responses = tenant_table(
    "run_responses",
    Column("run", Text, primary_key=True, nullable=False),
    Column("fence", BigInteger, primary_key=True, nullable=False),
    Column("sequence", BigInteger, primary_key=True, nullable=False),
    Column("digest", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("url", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("status", BigInteger, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("etag", Text, nullable=False),
    Column("last_modified", Text, nullable=False),
    Column("fetched_at", Text, nullable=False),
    Column("replayed", Boolean, nullable=False),
    Column("not_modified", Boolean, nullable=False),
    Column("stored_at", Text, nullable=False),
    Column("object", Text, nullable=False),
    _text("request"),
    _text("following"),
    _text("total"),
    Column("open_ended", Boolean, nullable=False, server_default=text("FALSE")),
    _text("final_url"),
    Column("cut", Boolean, nullable=False, server_default=text("FALSE")),
    Column("personal", Boolean, nullable=False, server_default=text("FALSE")),
    _text("erased_at"),
    Index("ix_run_responses_object", "tenant", "object"),
)
"""What the source sent, by attempt. The bytes are an object, zstd-compressed; ``object`` is its
stored name, empty where there are no bytes (any more: ``erased_at``). ``personal``: it may name
people, because its profile has a subject."""

batches = tenant_table(
    "run_batches",
    Column("run", Text, primary_key=True, nullable=False),
    Column("fence", BigInteger, primary_key=True, nullable=False),
    Column("kind", Text, primary_key=True, nullable=False),
    Column("sequence", BigInteger, primary_key=True, nullable=False),
    Column("digest", Text, nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("rejects", BigInteger, nullable=False),
    Column("new", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("unchanged", BigInteger, nullable=False),
    Column("duplicates", BigInteger, nullable=False),
    Column("first_row", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("root", Text, nullable=False),
    Column("received_at", Text, nullable=False),
    Column("superseded", Boolean, nullable=False, server_default=text("FALSE")),
    Column("header", Text),
    Column("signature", Text),
    Column("signing_key", Text),
    Column("registration", Text),
    Column("seed", LargeBinary),
    Column("places", LargeBinary),
    Column("cover", LargeBinary),
)
"""Batches as they were answered. ``kind`` is ``posted`` by the worker or, for those made at the end
of a snapshot, ``withdrawals``. ``rows`` of them begin at ``first_row``: the leaves of ``root``, in
order. What an abandoned attempt posted is ``superseded``.

``header`` is what the worker signed (null for withdrawals, and for batches of releases before it
was asked for), with the ``signing_key`` that the event ``registration`` tells of. ``seed`` makes
the salts of its records (null where there are personal fields), ``places`` says which of its
records became rows, and ``cover`` proves these rows in the tree that was signed."""

revisions = tenant_table(
    "record_revisions",
    Column("profile", Text, primary_key=True, nullable=False),
    Column("sequence", BigInteger, primary_key=True, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("run", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("previous", BigInteger),
    Column("from_publication", BigInteger),
    Column("to_publication", BigInteger),
    Column("withdrawn", Boolean, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("response", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("period_start", Text),
    Column("period_end", Text),
    Column("body", Text, nullable=False),
    Column("subject", Text),
    Column("sealed", LargeBinary),
    Column("commitment", LargeBinary),
)
"""Every revision of every record; see the module's text.

Of a record about a person ``subject`` is the person's keyed name, ``body`` has no personal fields,
and ``sealed`` has them with the salt of the leaf, under the person's own key; ``commitment`` is
what the leaf says, because nobody can compute it again once the person is erased (``sealed`` is
null then). A withdrawal of such a record has the name only."""

Index(
    "ix_record_revisions_subject",
    revisions.c.tenant,
    revisions.c.subject,
    revisions.c.sequence,
    sqlite_where=revisions.c.subject.is_not(None),
    postgresql_where=revisions.c.subject.is_not(None),
)

appearances = tenant_table(
    "record_subjects",
    Column("subject", Text, primary_key=True, nullable=False),
    Column("run", Text, primary_key=True, nullable=False),
    Column("fence", BigInteger, primary_key=True, nullable=False),
    Column("response", BigInteger, primary_key=True, nullable=False),
)
"""Who occurs in which raw response, records that had not changed included: erasing a person
destroys these responses whole."""

# One entry for each record there is: its latest row. It answers "is this key known, and did its
# content change" from the index alone, however long the history is.
Index(
    "ix_record_revisions_latest",
    revisions.c.tenant,
    revisions.c.record,
    revisions.c.sequence,
    revisions.c.content,
    # Constant as far as this index goes; with them in it SQLite need not look at the row.
    revisions.c.from_publication,
    revisions.c.to_publication,
    sqlite_where=and_(
        revisions.c.from_publication.is_not(None), revisions.c.to_publication.is_(None)
    ),
    postgresql_where=and_(
        revisions.c.from_publication.is_not(None), revisions.c.to_publication.is_(None)
    ),
)

heads = tenant_table(
    "record_heads",
    Column("profile", Text, primary_key=True, nullable=False),
    _count("publication"),
    _count("next_row"),
    _count("live"),
    _count("version"),
    Column("recorded_at", Text),
    Column("succeeded_at", Text),
    Column("profile_digest", Text),
    Column("plan_run", Text),
    Column("cursor", Text),
    Column("fields", Text, nullable=False, server_default=text("'{}'")),
    Column("slot_run", Text),
    Column("slot_fence", BigInteger),
    Column("slot_first", BigInteger),
    Column("slot_state", Text),
    Column("slot_position", BigInteger),
    Column("stale_since", Text),
    Column("last_run", Text),
)
"""One row a profile. ``version`` changes with every change to the profile's rows or its slot:
whoever prepared a change outside of a transaction checks it inside."""

publications = tenant_table(
    "record_publications",
    Column("profile", Text, primary_key=True, nullable=False),
    Column("publication", BigInteger, primary_key=True, nullable=False),
    Column("run", Text, nullable=False),
    Column("recorded_at", Text, nullable=False),
    Column("profile_digest", Text, nullable=False),
    Column("cursor", Text),
    Column("records", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("root", Text, nullable=False),
    Column("fields", Text, nullable=False),
    Column("event", Text, nullable=False),
    Index("ix_record_publications_time", "tenant", "profile", "recorded_at"),
)
"""The history of the heads. ``recorded_at`` strictly grows within a profile."""

seen = tenant_table(
    "record_seen",
    Column("run", Text, primary_key=True, nullable=False),
    Column("chunk", BigInteger, primary_key=True, nullable=False),
    Column("bits", LargeBinary, nullable=False),
    Column("kept", LargeBinary),
)
"""Which published rows came again in the attempt that holds the slot, and which of them it met in
a row that was rejected (``kept``); gone when it ends."""

rejects = tenant_table(
    "record_rejects",
    Column("run_number", BigInteger, primary_key=True, nullable=False),
    Column("fence", BigInteger, primary_key=True, nullable=False),
    Column("number", BigInteger, primary_key=True, nullable=False),
    Column("run", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("response", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("field", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("excerpt", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("unkeyed", Boolean, nullable=False, server_default=text("FALSE")),
    Index("ix_record_rejects_profile", "tenant", "profile", "run_number", "number"),
)
"""Rows that failed typing, numbered from 1 within an attempt in the order of their arrival.
``unkeyed``: nobody can tell which record it is."""

REJECT_COLUMNS = (
    "tenant",
    "run_number",
    "fence",
    "number",
    "run",
    "profile",
    "response",
    "position",
    "field",
    "reason",
    "excerpt",
    "at",
    "unkeyed",
)


shapes = tenant_table(
    "run_shapes",
    Column("run", Text, primary_key=True, nullable=False),
    Column("profile", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("mapping", Text, nullable=False),
    Column("good", Boolean, nullable=False, server_default=text("FALSE")),
    Column("records", BigInteger, nullable=False, server_default=text("0")),
    Column("live", BigInteger, nullable=False, server_default=text("0")),
    Column("gone", BigInteger, nullable=False, server_default=text("0")),
    Column("shape", Text, nullable=False, server_default=text("'{}'")),
    Column("columns", Text, nullable=False, server_default=text("'[]'")),
    Index("ix_run_shapes_good", "tenant", "profile", "mapping", "good", "number"),
)
"""What each run saw, as counts (see :mod:`holdfast.records.shape`). The ``good`` ones, published or
accepted, are the history that later runs are compared with. Of ``live`` records before the run
``gone`` did not come again."""

notices = tenant_table(
    "notices",
    Column("notice", Text, primary_key=True, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("due_at", Text),
    _count("attempts"),
    Column("delivered_at", Text),
    _text("problem"),
    Index("ix_notices_number", "tenant", "number", unique=True),
    Index("ix_notices_due", "tenant", "due_at"),
)
"""What somebody should be told about a source. ``due_at`` is when the webhook is tried next; null
once it answered, was given up, or where there is none."""


def of_key(table: Table, tenant: str, **key: Any) -> ColumnElement[bool]:
    """The row of ``table`` with this tenant and key."""
    return and_(table.c.tenant == tenant, *(table.c[name] == value for name, value in key.items()))


def find(conn: Connection, table: Table, tenant: str, **key: Any) -> Row[Any] | None:
    """The row with this key, or ``None``."""
    return conn.execute(select(table).where(of_key(table, tenant, **key))).first()


def within_limits(table: Table, principal: Principal) -> list[ColumnElement[bool]]:
    """What keeps a list of ``table`` to the profiles that ``principal`` is limited to, if any."""
    if principal.profiles is None:
        return []
    return [table.c.profile.in_(sorted(principal.profiles))]


def add(conn: Connection, table: Table, **values: Any) -> None:
    """Insert one row."""
    conn.execute(insert(table).values(**values))


def change(
    conn: Connection, table: Table, condition: ColumnElement[bool], values: Mapping[str, Any]
) -> int:
    """Update the rows under ``condition``; how many they were."""
    return conn.execute(update(table).where(condition).values(**values)).rowcount


def remove(conn: Connection, table: Table, condition: ColumnElement[bool]) -> int:
    """Delete the rows under ``condition``; how many they were."""
    return conn.execute(delete(table).where(condition)).rowcount


_NEXT_RUN = text(
    "INSERT INTO record_counters (tenant, runs) VALUES (:tenant, 1)"
    " ON CONFLICT (tenant) DO UPDATE SET runs = record_counters.runs + 1 RETURNING runs"
)
_NEXT_RESULT = text(
    "INSERT INTO record_counters (tenant, results) VALUES (:tenant, 1)"
    " ON CONFLICT (tenant) DO UPDATE SET results = record_counters.results + 1 RETURNING results"
)


def next_run_number(conn: Connection, tenant: str) -> int:
    """A number higher than that of every run opened before."""
    return int(conn.execute(_NEXT_RUN, {"tenant": tenant}).scalar_one())


def next_result_number(conn: Connection, tenant: str) -> int:
    """A number higher than that of every run ended before."""
    return int(conn.execute(_NEXT_RESULT, {"tenant": tenant}).scalar_one())


def last_result(conn: Connection, tenant: str) -> int:
    """The number of the run that ended last; 0 if none has."""
    found = find(conn, counters, tenant)
    return 0 if found is None else int(found.results)


def runs_ended(conn: Connection, tenant: str, after: int, through: int) -> list[str]:
    """The runs whose numbers of their ends lie behind ``after``, through ``through``."""
    mine = and_(runs.c.tenant == tenant, runs.c.result.between(after + 1, through))
    return list(conn.execute(select(runs.c.run).where(mine)).scalars())


_NEXT_NOTICE = text(
    "INSERT INTO record_counters (tenant, notices) VALUES (:tenant, 1)"
    " ON CONFLICT (tenant) DO UPDATE SET notices = record_counters.notices + 1 RETURNING notices"
)


def next_notice_number(conn: Connection, tenant: str) -> int:
    """A number higher than that of every notice before."""
    return int(conn.execute(_NEXT_NOTICE, {"tenant": tenant}).scalar_one())


_PUT_SHAPE = text(
    "INSERT INTO run_shapes (tenant, run, profile, number, mapping, shape)"
    " VALUES (:tenant, :run, :profile, :number, :mapping, :shape)"
    " ON CONFLICT (tenant, run) DO UPDATE SET shape = excluded.shape"
)


def shape_text(conn: Connection, tenant: str, run: str) -> bytes:
    """What a run has seen so far, encoded."""
    found = conn.execute(select(shapes.c.shape).where(of_key(shapes, tenant, run=run))).scalar()
    return b"{}" if found is None else str(found).encode()


def put_shape(conn: Connection, **values: Any) -> None:
    """Store what a run has seen so far."""
    conn.execute(_PUT_SHAPE, values)


# --- hot paths, named ---------------------------------------------------------------------------

_LATEST_POSTGRESQL = text(
    "SELECT record, sequence, content FROM record_revisions WHERE tenant = :tenant"
    " AND from_publication IS NOT NULL AND to_publication IS NULL AND record = ANY(:records)"
).bindparams(bindparam("records", type_=ARRAY(LargeBinary)))


def latest_rows(conn: Connection, tenant: str, records: Sequence[bytes]) -> dict[bytes, Latest]:
    """The latest row of each of these records that has one. Answered from the index alone."""
    found: dict[bytes, Latest] = {}
    for some in parts(sorted(records)):
        if conn.dialect.name == "sqlite":
            rows: Iterable[Any] = _driver_rows(conn, _latest_text(len(some)), (tenant, *some))
        else:
            rows = conn.execute(_LATEST_POSTGRESQL, {"tenant": tenant, "records": list(some)}).all()
        for record, sequence, content in rows:
            found[record] = Latest(sequence, content)
    return found


@lru_cache(maxsize=32)
def _latest_text(count: int) -> str:
    # S608: only question marks are put in; values travel as parameters.
    return (
        "SELECT record, sequence, content FROM record_revisions WHERE tenant = ?"  # noqa: S608
        " AND from_publication IS NOT NULL AND to_publication IS NULL"
        f" AND record IN ({','.join('?' * count)})"
    )


def _driver_rows(conn: Connection, statement: str, values: Sequence[Any]) -> list[Any]:
    """Plain tuples from the driver: thousands of small rows, without an object for each."""
    cursor = conn.connection.cursor()
    try:
        return list(cursor.execute(statement, values).fetchall())
    finally:
        cursor.close()


def rows_by_sequence(
    conn: Connection, tenant: str, profile: str, sequences: Sequence[int], *columns: str
) -> list[Row[Any]]:
    """These columns (after ``sequence``) of the rows with these sequences."""
    wanted = [revisions.c.sequence, *(revisions.c[name] for name in columns)]
    found: list[Row[Any]] = []
    for some in parts(sorted(sequences)):
        found += conn.execute(
            select(*wanted).where(
                of_key(revisions, tenant, profile=profile), revisions.c.sequence.in_(some)
            )
        ).all()
    return found


def destroyed_rows(
    conn: Connection, tenant: str, profile: str, sequences: Sequence[int]
) -> dict[int, str]:
    """Of these rows those whose bytes were destroyed, and when these were fetched."""
    joined = revisions.join(
        runs, and_(runs.c.tenant == revisions.c.tenant, runs.c.number == revisions.c.run)
    ).join(
        responses,
        and_(
            responses.c.tenant == runs.c.tenant,
            responses.c.run == runs.c.run,
            responses.c.fence == runs.c.fence,
            responses.c.sequence == revisions.c.response,
        ),
    )
    wanted = select(revisions.c.sequence, responses.c.fetched_at).select_from(joined)
    found: dict[int, str] = {}
    for some in parts(sorted(sequences)):
        rows = conn.execute(
            wanted.where(
                of_key(revisions, tenant, profile=profile),
                revisions.c.sequence.in_(some),
                responses.c.erased_at != "",
            )
        )
        found |= {row.sequence: row.fetched_at for row in rows}
    return found


def set_ends(
    conn: Connection,
    tenant: str,
    profile: str,
    sequences: Sequence[int],
    publication: int | None,
    *,
    only: int | None = None,
) -> None:
    """Let these rows end at ``publication``, or not at all; ``only`` those that end at ``only``."""
    for some in parts(sorted(sequences)):
        condition = and_(of_key(revisions, tenant, profile=profile), revisions.c.sequence.in_(some))
        if only is not None:
            condition = and_(condition, revisions.c.to_publication == only)
        change(conn, revisions, condition, {"to_publication": publication})


def hide_rows(conn: Connection, tenant: str, profile: str, sequences: Sequence[int]) -> None:
    """Take these rows out of every publication."""
    for some in parts(sorted(sequences)):
        change(
            conn,
            revisions,
            and_(of_key(revisions, tenant, profile=profile), revisions.c.sequence.in_(some)),
            {"from_publication": None},
        )


def insert_rows(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Add staged rows, in the order of :data:`~holdfast.records.staging.ROW_COLUMNS`."""
    bulk_insert(conn, revisions, ROW_COLUMNS, rows)


_NOTE_SUBJECT = text(
    "INSERT INTO record_subjects (tenant, subject, run, fence, response)"
    " VALUES (:tenant, :subject, :run, :fence, :response) ON CONFLICT DO NOTHING"
)


def note_subjects(conn: Connection, rows: Sequence[tuple[str, str, str, int, int]]) -> None:
    """Note who occurs in which response: tenant, subject, run, fence, response."""
    names = ("tenant", "subject", "run", "fence", "response")
    if rows:
        conn.execute(_NOTE_SUBJECT, [dict(zip(names, row, strict=True)) for row in rows])


def subject_seen(conn: Connection, tenant: str, subject: str) -> bool:
    """Whether a record, or a raw response, was ever about this person, by their keyed name."""
    return any(
        conn.execute(
            select(table.c.tenant).where(of_key(table, tenant, subject=subject)).limit(1)
        ).first()
        for table in (revisions, appearances)
    )


def seen_bits(conn: Connection, tenant: str, run: str, chunks: Sequence[int]) -> dict[int, bytes]:
    """The seen bits of these chunks, as far as there are any."""
    found: dict[int, bytes] = {}
    for some in parts(chunks):
        rows = conn.execute(
            select(seen.c.chunk, seen.c.bits).where(
                of_key(seen, tenant, run=run), seen.c.chunk.in_(some)
            )
        )
        found.update({row.chunk: bytes(row.bits) for row in rows})
    return found


def kept_bits(conn: Connection, tenant: str, run: str) -> dict[int, bytes]:
    """The bits of the published rows that the attempt met in rejected ones."""
    rows = conn.execute(
        select(seen.c.chunk, seen.c.kept).where(
            of_key(seen, tenant, run=run), seen.c.kept.is_not(None)
        )
    )
    return {row.chunk: bytes(row.kept) for row in rows}


def came_bits(conn: Connection, tenant: str, run: str, chunks: Sequence[int]) -> dict[int, bytes]:
    """The bits, in these chunks, of what came in the attempt, in good rows or in rejected ones."""
    found: dict[int, bytes] = {}
    for some in parts(chunks):
        rows = conn.execute(
            select(seen.c.chunk, seen.c.bits, seen.c.kept).where(
                of_key(seen, tenant, run=run), seen.c.chunk.in_(some)
            )
        )
        for row in rows:
            bits = int.from_bytes(row.bits) | int.from_bytes(row.kept or b"")
            found[row.chunk] = bits.to_bytes(SEEN_BYTES)
    return found


def all_seen(conn: Connection, tenant: str, run: str) -> dict[int, bytes]:
    """All seen bits of a run's attempt."""
    rows = conn.execute(select(seen.c.chunk, seen.c.bits).where(of_key(seen, tenant, run=run)))
    return {row.chunk: bytes(row.bits) for row in rows}


_PUT_SEEN = text(
    "INSERT INTO record_seen (tenant, run, chunk, bits) VALUES (:tenant, :run, :chunk, :bits)"
    " ON CONFLICT (tenant, run, chunk) DO UPDATE SET bits = excluded.bits"
).bindparams(bindparam("bits", type_=LargeBinary))


def put_seen(
    conn: Connection, tenant: str, run: str, bits: Mapping[int, bytes | bytearray]
) -> None:
    """Store the seen bits of these chunks."""
    for chunk, value in sorted(bits.items()):
        conn.execute(
            _PUT_SEEN, {"tenant": tenant, "run": run, "chunk": chunk, "bits": bytes(value)}
        )


_PUT_KEPT = text(
    "INSERT INTO record_seen (tenant, run, chunk, bits, kept)"
    " VALUES (:tenant, :run, :chunk, :bits, :kept)"
    " ON CONFLICT (tenant, run, chunk) DO UPDATE SET kept = excluded.kept"
).bindparams(bindparam("bits", type_=LargeBinary), bindparam("kept", type_=LargeBinary))


def put_kept(
    conn: Connection, tenant: str, run: str, bits: Mapping[int, bytes | bytearray]
) -> None:
    """Store the kept bits of these chunks."""
    for chunk, value in sorted(bits.items()):
        values = {"tenant": tenant, "run": run, "chunk": chunk}
        conn.execute(_PUT_KEPT, {**values, "bits": bytes(SEEN_BYTES), "kept": bytes(value)})


def last_complete(conn: Connection, tenant: str, profile: str) -> Row[Any] | None:
    """The last complete run of a profile, whose bytes its snapshot is."""
    head = find(conn, heads, tenant, profile=profile)
    if head is None or not head.plan_run:
        return None
    return find(conn, runs, tenant, run=head.plan_run)


def posted_sequences(conn: Connection, tenant: str, run: str, fence: int) -> tuple[int, int]:
    """How many batches the attempt has posted, and the highest number among them (−1: none)."""
    row = conn.execute(
        select(func.count(), func.max(batches.c.sequence)).where(
            of_key(batches, tenant, run=run, fence=fence, kind="posted")
        )
    ).one()
    return int(row[0]), -1 if row[1] is None else int(row[1])


def visible(publication: int) -> ColumnElement[bool]:
    """The rows that belong to a publication."""
    return and_(
        revisions.c.from_publication <= publication,
        or_(revisions.c.to_publication.is_(None), revisions.c.to_publication > publication),
    )


def asked_for(asked: Asked) -> ColumnElement[bool]:
    """The rows that a run asked for: by a day or a moment, or those that have neither."""
    start = revisions.c.period_start
    undated = [start.is_(None)] if asked.undated else []
    return or_(*undated, *map(_begins_within, asked.ranges))


def _begins_within(within: Within) -> ColumnElement[bool]:
    start = revisions.c.period_start
    is_moment = start.contains("T", autoescape=True)
    found = []
    for kind, (first, end) in ((not_(is_moment), within.days), (is_moment, within.moments)):
        found.append(and_(kind, start >= first, *([start < end] if end else [])))
    return or_(*found)


def parts(values: Sequence[T]) -> Iterable[Sequence[T]]:
    """``values`` in the order they have, so many at a time as one statement takes."""
    for start in range(0, len(values), IN_MAX):
        yield values[start : start + IN_MAX]


_COLUMNS = [f'"{column.name}"' for column in revisions.columns]
_LISTED = "CASE WHEN {0}from_publication <= :until AND {0}revision <= :newest THEN 1 ELSE 0 END"
# Names of our own table; values travel as parameters.
_CHAIN = text(
    "WITH RECURSIVE chain AS ("  # noqa: S608
    f" SELECT {', '.join(_COLUMNS)}, {_LISTED.format('')} AS listed FROM record_revisions"
    " WHERE tenant = :tenant AND profile = :profile AND sequence = :sequence"
    " UNION ALL"
    # CROSS JOIN keeps SQLite from looking for each row's successor instead of its predecessor.
    f" SELECT {', '.join(f'older.{name}' for name in _COLUMNS)},"
    f" chain.listed + {_LISTED.format('older.')}"
    " FROM chain CROSS JOIN record_revisions AS older"
    " WHERE older.tenant = :tenant AND older.profile = :profile"
    " AND older.sequence = chain.previous AND chain.listed < :limit)"
    f" SELECT {', '.join(_COLUMNS)} FROM chain"
    " WHERE from_publication <= :until AND revision <= :newest ORDER BY sequence DESC LIMIT :limit"
).columns(*revisions.columns)
_NEWEST = 2**62


def latest_of_record(conn: Connection, tenant: str, record: bytes) -> Any:
    """Profile and sequence of a record's latest row, published or staged; ``None`` if none."""
    return conn.execute(
        select(revisions.c.profile, revisions.c.sequence).where(
            revisions.c.tenant == tenant,
            revisions.c.record == record,
            revisions.c.from_publication.is_not(None),
            revisions.c.to_publication.is_(None),
        )
    ).first()


def chain_of_record(
    conn: Connection,
    tenant: str,
    profile: str,
    sequence: int,
    limit: int,
    *,
    until: int,
    newest: int = _NEWEST,
) -> Sequence[Row[Any]]:
    """The row and those before it, newest first, by following ``previous``: at most ``limit``, of
    publications up to ``until`` and of revisions up to ``newest``."""
    key = {"tenant": tenant, "profile": profile, "sequence": sequence}
    bounds = {"limit": limit, "until": until, "newest": newest}
    return conn.execute(_CHAIN, {**key, **bounds}).all()


def publication_at(conn: Connection, tenant: str, profile: str, moment: str) -> int:
    """The publication that was the head at ``moment``; 0 before the first."""
    found = conn.execute(
        select(func.max(publications.c.publication)).where(
            of_key(publications, tenant, profile=profile), publications.c.recorded_at <= moment
        )
    ).scalar()
    return int(found or 0)


def holds(conn: Connection, needle: str) -> ColumnElement[bool]:
    """Whether a row's canonical text contains ``needle``. Named per dialect."""
    find_text = func.instr if conn.dialect.name == "sqlite" else func.strpos
    return find_text(revisions.c.body, needle) > 0


def object_names(
    conn: Connection, principal: Principal, after: str, limit: int, *, anyhow: bool = False
) -> list[str]:
    """Stored names that raw responses have: ``limit`` behind ``after``, in order or ``anyhow``."""
    column = responses.c.object
    found = (
        select(column)
        .where(responses.c.tenant == principal.tenant, column > after, column != "")
        .group_by(column)
        .order_by(func.random() if anyhow else column)
        .limit(limit)
    )
    return list(conn.execute(found).scalars())


def named_objects(conn: Connection, principal: Principal, names: Sequence[str]) -> set[str]:
    """Which of these stored names a raw response of any attempt has."""
    column, found = responses.c.object, set[str]()
    for some in parts(names):
        rows = conn.execute(
            select(column)
            .distinct()
            .where(responses.c.tenant == principal.tenant, column.in_(some))
        )
        found |= set(rows.scalars())
    return found
