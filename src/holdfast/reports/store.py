"""The reports' table and the statements on it. Units of work; no time, ids or randomness.

A report is written once and never changed. ``body`` is the whole answer as canonical JSON, its
data (the Parquet file) an object named by ``data_digest``. What makes two reports one is the
unique key: the spec, the inputs, and the version of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import BigInteger, Column, Connection, Index, Row, Text, text

from holdfast.kernel.canonical import canonical
from holdfast.kernel.database import tenant_table
from holdfast.kernel.objects import Objects
from holdfast.kernel.principal import Principal
from holdfast.reports.model import Report

reports = tenant_table(
    "reports",
    Column("id", Text, primary_key=True, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("spec_digest", Text, nullable=False),
    Column("inputs", Text, nullable=False),
    Column("inputs_root", Text, nullable=False),
    Column("computation", BigInteger, nullable=False),
    Column("outputs_root", Text, nullable=False),
    Column("data_digest", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Index("ix_reports_order", "tenant", "sequence", unique=True),
    Index("ix_reports_name", "tenant", "name", "sequence"),
    Index("ix_reports_same", "tenant", "spec_digest", "inputs_root", "computation", unique=True),
)
"""Computed reports; ``sequence`` counts a tenant's reports in the order of their commits."""

_FIND = text("SELECT body FROM reports WHERE tenant = :tenant AND id = :id")
_SAME = text(
    "SELECT body FROM reports WHERE tenant = :tenant AND spec_digest = :spec_digest"
    " AND inputs_root = :inputs_root AND computation = :computation"
)
_INSERT = text(
    "INSERT INTO reports (tenant, id, sequence, name, kind, status, spec, spec_digest, inputs,"
    " inputs_root, computation, outputs_root, data_digest, body, created_at, created_by, event_id)"
    " SELECT :tenant, :id, coalesce(max(sequence), 0) + 1, :name, :kind, :status, :spec,"
    " :spec_digest, :inputs, :inputs_root, :computation, :outputs_root, :data_digest, :body,"
    " :created_at, :created_by, :event_id FROM reports WHERE tenant = :tenant"
)
_LIST = text(
    "SELECT sequence, body FROM reports WHERE tenant = :tenant AND sequence < :before"
    " AND (:name = '' OR name = :name) AND created_at >= :since AND created_at < :until"
    " ORDER BY sequence DESC LIMIT :limit"
)


def find(conn: Connection, principal: Principal, report_id: str) -> Report | None:
    """The report with this id."""
    row = conn.execute(_FIND, {"tenant": principal.tenant, "id": report_id}).first()
    return None if row is None else _report(row)


_EVENT = text("SELECT event_id FROM reports WHERE tenant = :tenant AND id = :id")


def event_of(conn: Connection, principal: Principal, report_id: str) -> str:
    """The event of a report that is there."""
    found = conn.execute(_EVENT, {"tenant": principal.tenant, "id": report_id})
    return str(found.scalar_one())


def find_same(
    conn: Connection, principal: Principal, spec_digest: str, inputs_root: str, computation: int
) -> Report | None:
    """The report of this spec over these inputs."""
    values = {
        "tenant": principal.tenant,
        "spec_digest": spec_digest,
        "inputs_root": inputs_root,
        "computation": computation,
    }
    row = conn.execute(_SAME, values).first()
    return None if row is None else _report(row)


def insert(conn: Connection, principal: Principal, report: Report, event_id: str) -> None:
    """Write a new report."""
    conn.execute(
        _INSERT,
        {
            "tenant": principal.tenant,
            "id": report.id,
            "name": report.name,
            "kind": report.kind,
            "status": report.status,
            "spec": canonical(report.spec).decode(),
            "spec_digest": report.spec_digest,
            "inputs": canonical(report.inputs).decode(),
            "inputs_root": report.inputs_root,
            "computation": report.computation,
            "outputs_root": report.outputs_root,
            "data_digest": report.data_digest,
            "body": canonical(report).decode(),
            "created_at": report.created_at,
            "created_by": report.created_by,
            "event_id": event_id,
        },
    )


def newest(
    conn: Connection,
    principal: Principal,
    *,
    name: str,
    since: str,
    until: str,
    before: int,
    limit: int,
) -> list[tuple[int, Report]]:
    """Reports in falling order of their sequence, below ``before``."""
    rows = conn.execute(
        _LIST,
        {
            "tenant": principal.tenant,
            "name": name,
            "since": since,
            "until": until,
            "before": before,
            "limit": limit,
        },
    )
    return [(row.sequence, _report(row)) for row in rows]


_DIGESTS = text(
    "SELECT sequence, data_digest FROM reports WHERE tenant = :tenant AND sequence > :after"
    " ORDER BY sequence"
)


class NamedObjects:
    """Tells which stored names reports have: their rows hold digests, and names are keyed.

    What was once worked out is remembered: a report is never changed, and one that is gone keeps
    its object until the next start at most.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._known: dict[str, tuple[int, frozenset[str]]] = {}

    def __call__(self, conn: Connection, principal: Principal, names: Sequence[str]) -> set[str]:
        return set(self.all(conn, principal).intersection(names))

    def all(self, conn: Connection, principal: Principal) -> frozenset[str]:
        """Every stored name that a report of the tenant has."""
        last, known = self._known.get(principal.tenant, (0, frozenset()))
        rows = conn.execute(_DIGESTS, {"tenant": principal.tenant, "after": last}).all()
        if rows:
            known |= {self._objects.name(principal, row.data_digest) for row in rows}
            self._known[principal.tenant] = (rows[-1].sequence, known)
        return known


def _report(row: Row[tuple[object, ...]]) -> Report:
    return msgspec.json.decode(row.body, type=Report)
