"""What Alembic runs. The connection, its transaction and the lock are the runner's."""

from alembic import context

from holdfast.kernel.database import metadata
from holdfast.migrations import load_tables

load_tables()
connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    # SQLite alters a table by rebuilding it.
    render_as_batch=connection.dialect.name == "sqlite",
    transaction_per_migration=False,
)
context.run_migrations()
