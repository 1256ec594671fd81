"""Whether a PostgreSQL server has on its disk what it says it has.

``synchronous_commit`` is each connection's own and set there; these are the server's. Without
``fsync`` it answers before anything is flushed, without ``full_page_writes`` a page that was half
written at a power cut stays half.
"""

from __future__ import annotations

import asyncpg

from holdfast.kernel.database.errors import unavailable

FLUSHING = ("fsync", "full_page_writes")
CONNECT_SECONDS = 10.0


async def unflushed(dsn: str, password: str | None = None) -> list[str]:
    """Which of the server's settings let it lose what it has acknowledged; none, as a rule."""
    try:
        connection = await asyncpg.connect(
            dsn, password=password, timeout=CONNECT_SECONDS, command_timeout=CONNECT_SECONDS
        )
        try:
            rows = await connection.fetch(
                "SELECT name FROM pg_settings WHERE name = ANY($1) AND setting = 'off'"
                " ORDER BY name",
                FLUSHING,
            )
        finally:
            await connection.close(timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise unavailable("it does not answer, or refuses the connection", error) from error
    return [row["name"] for row in rows]
