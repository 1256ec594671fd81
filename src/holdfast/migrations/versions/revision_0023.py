"""Keep what the first entry of an origin cites, until it is in the log and after"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

# The oldest release that can work with the schema as this revision leaves it.
oldest_code = "0.1.0"


def upgrade() -> None:
    with op.batch_alter_table("ledger_origins", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("cites", sa.Text(), server_default=sa.text("''"), nullable=False)
        )
