"""Keep who made a join token and why it ended, and which permissions people lost"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# The oldest release that can work with the schema as this revision leaves it.
oldest_code = "0.1.0"


def upgrade() -> None:
    with op.batch_alter_table("join_tokens", schema=None) as batch_op:
        for name in ("created_by", "created_as", "ended_because"):
            batch_op.add_column(
                sa.Column(name, sa.Text(), server_default=sa.text("('')"), nullable=False)
            )
    with op.batch_alter_table("people", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("lost_at", sa.Text(), server_default=sa.text("('{}')"), nullable=False)
        )
