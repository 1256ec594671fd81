"""Keep the keys of workers, and what they signed of each batch"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# The oldest release that can work with the schema as this revision leaves it.
oldest_code = "0.1.0"


def upgrade() -> None:
    with op.batch_alter_table("workers", schema=None) as batch_op:
        for name in ("signing_key", "registration"):
            batch_op.add_column(
                sa.Column(name, sa.Text(), server_default=sa.text("('')"), nullable=False)
            )
    with op.batch_alter_table("run_batches", schema=None) as batch_op:
        for name in ("header", "signature", "signing_key", "registration"):
            batch_op.add_column(sa.Column(name, sa.Text(), nullable=True))
        for name in ("seed", "places", "cover"):
            batch_op.add_column(sa.Column(name, sa.LargeBinary(), nullable=True))
