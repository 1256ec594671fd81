"""Count a worker's claims, so that a lease it never heard of can be told"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The oldest release that can work with the schema as this revision leaves it.
oldest_code = "0.1.0"


def upgrade() -> None:
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("claim", sa.BigInteger(), nullable=True))

    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("settled", sa.BigInteger(), nullable=True))
