"""From a URL to an open handle."""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from holdfast.kernel.clock import Clock
from holdfast.kernel.database.handle import Database
from holdfast.kernel.errors import Invalid, Unsupported

SCHEMES = ("sqlite", "postgresql")
POSTGRESQL_NEEDS = ("asyncpg", "greenlet")
"""What the server engine loads beside SQLAlchemy, which asks for neither by itself."""


@asynccontextmanager
async def open_database(
    url: str,
    *,
    clock: Clock,
    password: str | None = None,
    random: Callable[[], float] = random_module.random,
) -> AsyncIterator[Database]:
    """The database that ``url`` names, open until the block ends.

    ``sqlite:///relative/path``, ``sqlite:////absolute/path`` or ``postgresql://…`` as the operator
    wrote it; ``password`` may come separately. ``random`` (0 ≤ x < 1) spreads retries.

    Raises ``Invalid`` for a URL of another scheme, ``Unavailable`` if the file belongs to another
    process or cannot be opened. PostgreSQL is first contacted by the first unit.
    """
    scheme = url.split("://", 1)[0]
    if scheme == "sqlite":
        from holdfast.kernel.database.sqlite import SqliteDatabase

        embedded = SqliteDatabase(sqlite_path(url), clock=clock)
        await asyncio.to_thread(embedded.open)
        try:
            yield embedded
        finally:
            await _to_the_end(asyncio.to_thread(embedded.close))
        return
    if scheme == "postgresql":
        try:
            from holdfast.kernel.database.postgresql import PostgresDatabase
        except ImportError as error:
            missing = [name for name in POSTGRESQL_NEEDS if find_spec(name) is None]
            raise Unsupported(
                "cannot open a PostgreSQL database: not installed "
                f"{'are' if len(missing) > 1 else 'is'} {' and '.join(missing) or error.name}",
                hint=f"pip install {' '.join(missing)}, or install holdfast[postgres]"
                if missing
                else "install holdfast[postgres]",
            ) from error
        server = PostgresDatabase(url, clock=clock, random=random, password=password)
        try:
            yield server
        finally:
            await _to_the_end(server.close())
        return
    raise Invalid(
        f"cannot open the database: the scheme {scheme!r} is not known",
        hint=f"known are {', '.join(f'{known}://' for known in SCHEMES)}",
    )


def sqlite_path(url: str) -> Path:
    """The file that a ``sqlite:///`` URL names; ``Invalid`` if it names none."""
    path = url.removeprefix("sqlite:///")
    if path == url or not path or path == ":memory:":
        raise Invalid(
            "cannot open the database: a file is needed",
            hint="write sqlite:///relative/path or sqlite:////absolute/path",
        )
    return Path(path)


async def _to_the_end(closing: Coroutine[object, object, None]) -> None:
    """Wait for ``closing`` even if cancelled meanwhile: what is open here holds a lock."""
    task = asyncio.ensure_future(closing)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()
