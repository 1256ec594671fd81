"""Find accounts elsewhere by issuer and subject: their ids say nothing of them"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# The oldest release that can work with the schema as this revision leaves it.
oldest_code = "0.1.0"


def upgrade() -> None:
    with op.batch_alter_table("person_accounts", schema=None) as batch_op:
        batch_op.create_index(
            "ix_person_accounts_subject", ["tenant", "issuer", "subject"], unique=True
        )
