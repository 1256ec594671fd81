"""What a page's headers and request were, so that a later attempt goes on from it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# The oldest release that can work with the schema as this revision leaves it.
oldest_code = "0.1.0"


def upgrade() -> None:
    with op.batch_alter_table("run_responses", schema=None) as batch_op:
        for name in ("request", "following", "total"):
            batch_op.add_column(
                sa.Column(name, sa.Text(), server_default=sa.text("''"), nullable=False)
            )
        batch_op.add_column(
            sa.Column("open_ended", sa.Boolean(), server_default=sa.text("FALSE"), nullable=False)
        )
