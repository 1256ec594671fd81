"""Keep with a raw response which address answered in the end, and whether it is all of it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

# The oldest release that can work with the schema as this revision leaves it.
oldest_code = "0.1.0"


def upgrade() -> None:
    with op.batch_alter_table("run_responses", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("final_url", sa.Text(), server_default=sa.text("''"), nullable=False)
        )
        batch_op.add_column(
            sa.Column("cut", sa.Boolean(), server_default=sa.text("FALSE"), nullable=False)
        )
