"""${message}"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None

# The oldest release that can work with the schema as this revision leaves it.
oldest_code = "OLDEST_CODE"


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
