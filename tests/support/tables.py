"""Small tables for tests of the database handle itself; not part of the schema."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    LargeBinary,
    MetaData,
    Text,
)

from holdfast.kernel.database import tenant_table

SAMPLE = MetaData()

counters = tenant_table(
    "sample_counters",
    Column("name", Text, primary_key=True, nullable=False),
    Column("value", BigInteger, nullable=False),
    into=SAMPLE,
)
things = tenant_table(
    "sample_things",
    Column("id", Text, primary_key=True, nullable=False),
    Column("counter", Text),
    Column("size", BigInteger),
    Column("whole", Boolean),
    Column("data", LargeBinary),
    ForeignKeyConstraint(["tenant", "counter"], ["sample_counters.tenant", "sample_counters.name"]),
    into=SAMPLE,
)
