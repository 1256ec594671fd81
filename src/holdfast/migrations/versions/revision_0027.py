"""Mark the rejected rows of which nobody can tell which record they are"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

# The oldest release that can work with the schema as this revision leaves it.
oldest_code = "0.1.0"


def upgrade() -> None:
    with op.batch_alter_table("record_rejects", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("unkeyed", sa.Boolean(), server_default=sa.text("FALSE"), nullable=False)
        )
