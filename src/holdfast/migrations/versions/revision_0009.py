"""Remember which objects were removed, and in which generation"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# The oldest release that can work with the schema as this revision leaves it.
oldest_code = "0.1.0"


def upgrade() -> None:
    op.create_table(
        "collected_objects",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("condemned", sa.Boolean(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "object", name=op.f("pk_collected_objects")),
    )
    with op.batch_alter_table("collected_objects", schema=None) as batch_op:
        batch_op.create_index(
            "ix_collected_objects_generation", ["tenant", "generation"], unique=False
        )
