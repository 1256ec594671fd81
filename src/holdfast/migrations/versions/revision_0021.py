"""Remember that damage was met in a log"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# The oldest release that can work with the schema as this revision leaves it.
oldest_code = "0.1.0"


def upgrade() -> None:
    op.create_table(
        "ledger_damage",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("met_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_ledger_damage")),
    )
