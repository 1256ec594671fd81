"""What the server engine adds to the handle's promises: row security, contention, lost lines."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, text, update

from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import APPLICATION_ROLE, Database, create_schema, open_database
from holdfast.kernel.database.postgresql import PostgresDatabase, PostgresLimits
from holdfast.kernel.errors import (
    Conflict,
    Exhausted,
    Internal,
    OutcomeUnknown,
    Unavailable,
    Unsupported,
)
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import operator
from holdfast.keyring.backends import open_store
from holdfast.migrations.runner import check_schema
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.proxy import CuttingProxy
from tests.support.tables import SAMPLE, counters
from tests.support.waiting import until

ONE = operator()
OTHER = operator(TenantId("other"))


@pytest.fixture
async def db(postgres_database: Database) -> Database:
    await create_schema(postgres_database, SAMPLE)
    return postgres_database


def put(name: str, tenant: str = "default"):
    def unit(conn: Connection) -> None:
        conn.execute(insert(counters), {"tenant": tenant, "name": name, "value": 0})

    return unit


def all_names(conn: Connection) -> set[str]:
    """No condition on the tenant: what the engine lets through."""
    return set(conn.execute(select(counters.c.name)).scalars())


def increment(conn: Connection) -> int:
    own = (counters.c.tenant == "default") & (counters.c.name == "n")
    now = conn.execute(select(counters.c.value).where(own)).scalar_one() + 1
    conn.execute(update(counters).where(own).values(value=now))
    return now


# --- row security -------------------------------------------------------------------------------


async def test_the_program_works_as_a_role_that_owns_nothing_and_bypasses_nothing(
    postgres_database: Database,
) -> None:
    def unit(conn: Connection) -> None:
        role = (
            conn.execute(text("SELECT * FROM pg_roles WHERE rolname = current_user")).one()._mapping
        )
        assert role["rolname"] == APPLICATION_ROLE
        for right in ("rolsuper", "rolbypassrls", "rolcanlogin", "rolcreaterole", "rolcreatedb"):
            assert not role[right], right
        owned = conn.execute(
            text("SELECT count(*) FROM pg_class WHERE relowner = CAST(current_user AS regrole)")
        ).scalar_one()
        assert owned == 0

    await postgres_database.read(ONE, unit)
    await postgres_database.write(ONE, unit)


OF_TENANTS = (
    "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relkind IN ('r', 'p')"
    " AND a.attname = 'tenant' AND NOT a.attisdropped AND "
)
UNPROTECTED = (
    "(NOT c.relrowsecurity OR NOT c.relforcerowsecurity"
    " OR NOT EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid))"
)


@pytest.fixture
def keyrings(postgres_url: str) -> list[str]:
    """The schemas of the keyrings beside the data: a named one, and one of a role's own."""
    names = ["holdfast_keyring", "holdfast_keyring_aggregator"]
    for name in names:
        open_store(postgres_url, schema=name).close()
    return names


async def test_every_table_of_a_tenant_is_under_forced_row_security(
    postgres_database: Database, keyrings: list[str]
) -> None:
    """In every schema; but for the keyring's, which is for no tenant's unit of work at all."""

    def unit(conn: Connection) -> tuple[set[str], list[str]]:
        bare = conn.execute(text(OF_TENANTS + UNPROTECTED)).all()
        every = conn.execute(text(OF_TENANTS + "true")).all()
        outside = [f"{schema}.{table}" for schema, table in bare if schema not in keyrings]
        return {schema for schema, _ in every}, outside

    schemas, outside = await postgres_database.administer(unit)
    assert schemas == {"public", *keyrings}
    assert outside == []


async def test_the_role_that_works_for_tenants_cannot_reach_a_key(
    postgres_database: Database, keyrings: list[str]
) -> None:
    """What row security does for the data: no statement in a tenant's unit sees anybody's key."""
    rights = text(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY(:names)"
        " AND c.relkind IN ('r', 'p') AND (has_schema_privilege(:role, n.oid, 'USAGE, CREATE')"
        " OR has_table_privilege(:role, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE'))"
    )

    def unit(conn: Connection) -> list[str]:
        given = {"names": keyrings, "role": APPLICATION_ROLE}
        return list(conn.execute(rights, given).scalars())

    assert await postgres_database.administer(unit) == []
    for schema in keyrings:
        look = text(f"SELECT count(*) FROM {schema}.keyring_keys")
        for work in (postgres_database.read, postgres_database.write):
            with pytest.raises(Internal) as caught:
                await work(ONE, lambda conn, look=look: conn.execute(look).scalar_one())
            assert "permission denied for schema" in caught.value.internal


async def test_a_tenant_sees_and_touches_only_its_own_rows(db: Database) -> None:
    await db.write(ONE, put("mine"))
    await db.write(OTHER, put("theirs", "other"))
    assert await db.read(ONE, all_names) == {"mine"}
    assert await db.read(OTHER, all_names) == {"theirs"}
    assert await db.write(ONE, all_names) == {"mine"}

    def change_all(conn: Connection) -> int:
        return conn.execute(text("UPDATE sample_counters SET value = 9")).rowcount

    def delete_all(conn: Connection) -> int:
        return conn.execute(text("DELETE FROM sample_counters")).rowcount

    assert await db.write(ONE, change_all) == 1
    assert await db.write(ONE, delete_all) == 1
    assert await db.read(OTHER, all_names) == {"theirs"}


async def test_a_row_cannot_be_written_for_another_tenant(db: Database) -> None:
    with pytest.raises(Internal) as caught:
        await db.write(ONE, put("planted", "other"))
    assert "row-level security" in caught.value.internal
    assert await db.read(OTHER, all_names) == set()


async def test_the_tenant_is_forgotten_with_its_transaction(db: Database) -> None:
    await db.write(ONE, put("mine"))
    assert isinstance(db, PostgresDatabase)
    for _ in range(3):
        async with db.engine.connect() as connection:
            names = await connection.run_sync(all_names)
            assert names == set()


async def test_a_unit_that_names_another_tenant_reaches_only_its_own_transaction(
    db: Database,
) -> None:
    """Even a unit that was talked into changing the setting cannot outlive its transaction."""
    await db.write(OTHER, put("theirs", "other"))

    def unit(conn: Connection) -> None:
        conn.execute(text("SELECT set_config('holdfast.tenant', 'other', true)"))

    await db.write(ONE, unit)
    assert await db.read(ONE, all_names) == set()


# --- contention ---------------------------------------------------------------------------------


async def test_read_committed_is_for_those_who_ask(db: Database) -> None:
    def level(conn: Connection) -> str:
        return conn.execute(text("SHOW transaction_isolation")).scalar_one()

    assert await db.write(ONE, level) == "serializable"
    assert await db.write(ONE, level, isolation="read committed") == "read committed"
    assert await db.read(ONE, level) == "repeatable read"


async def test_contention_is_repeated_and_bounded(
    postgres: PostgresServer, postgres_url: str
) -> None:
    runs = 0

    def always_conflicts(conn: Connection) -> None:
        nonlocal runs
        runs += 1
        conn.execute(text("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"))

    limits = PostgresLimits(attempts_max=4, retry_seconds_first=0.001)
    async with handle(postgres_url, limits) as db:
        with pytest.raises(Unavailable, match="contend") as caught:
            await db.write(ONE, always_conflicts)
    assert runs == 4
    assert caught.value.retry_after_seconds


async def test_a_unique_key_taken_meanwhile_is_looked_at_again(db: Database) -> None:
    """Look, then insert: of many at once one inserts, the others see the row in a second run."""

    def look_then_insert(conn: Connection) -> bool:
        own = (counters.c.tenant == "default") & (counters.c.name == "once")
        if conn.execute(select(counters.c.name).where(own)).first() is not None:
            return False
        put("once")(conn)
        return True

    for isolation in ("serializable", "read committed"):
        answers = await asyncio.gather(
            *(db.write(ONE, look_then_insert, isolation=isolation) for _ in range(12))
        )
        assert sorted(answers) == [False] * 11 + [isolation == "serializable"]


async def test_a_statement_that_takes_too_long_is_stopped(postgres_url: str) -> None:
    async with handle(postgres_url, PostgresLimits(statement_seconds=0.1)) as db:
        with pytest.raises(Unavailable, match="too long"):
            await db.write(ONE, lambda conn: conn.execute(text("SELECT pg_sleep(30)")) and None)
        assert await db.tenants() == ["default"]


async def test_a_lock_is_not_waited_for_without_end(postgres_url: str) -> None:
    async with handle(postgres_url, PostgresLimits(lock_seconds=0.1)) as db:
        await create_schema(db, SAMPLE)
        await db.write(ONE, put("n"))

        def nested(conn: Connection) -> None:
            from sqlalchemy.util import await_only

            increment(conn)
            await_only(db.write(ONE, increment))

        with pytest.raises(Unavailable, match="a lock was not free"):
            await db.write(ONE, nested)
        assert await db.write(ONE, increment) == 1


async def test_more_callers_than_connections_wait_and_then_are_told(postgres_url: str) -> None:
    limits = PostgresLimits(connections_max=2, connection_wait_seconds=0.2)
    async with handle(postgres_url, limits) as db:
        sleep = text("SELECT pg_sleep(60)")
        busy = [
            asyncio.ensure_future(db.write(ONE, lambda conn: conn.execute(sleep) and None))
            for _ in range(2)
        ]
        told: list[Exhausted] = []

        async def refused() -> bool:
            try:
                await db.tenants()
            except Exhausted as error:
                told.append(error)
            return bool(told)

        await until(refused)
        assert told[0].retry_after_seconds
        for unit in busy:
            unit.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        assert await db.tenants() == ["default"]


async def test_a_refusal_at_the_commit_is_a_refusal_and_not_an_unknown_outcome(
    db: Database,
) -> None:
    def unit(conn: Connection) -> None:
        conn.execute(
            text("ALTER TABLE sample_counters ADD UNIQUE (value) DEFERRABLE INITIALLY DEFERRED")
        )

    await db.administer(unit)
    await db.write(ONE, put("a"))
    with pytest.raises(Conflict):
        await db.write(ONE, put("b"))
    assert await db.read(ONE, all_names) == {"a"}


# --- lost lines ---------------------------------------------------------------------------------


@asynccontextmanager
async def handle(url: str, limits: PostgresLimits) -> AsyncIterator[PostgresDatabase]:
    database = PostgresDatabase(url, clock=SystemClock(), random=lambda: 0.5, limits=limits)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def through_proxy(
    postgres: PostgresServer, url: str, folder: Path
) -> AsyncIterator[tuple[Database, CuttingProxy]]:
    proxy = CuttingProxy()
    async with proxy.between(postgres.folder, folder):
        dsn = url.replace(str(postgres.folder), str(folder))
        async with open_database(dsn, clock=SystemClock()) as database:
            yield database, proxy


async def test_a_line_lost_before_the_commit_was_sent_means_nothing_was_done(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path, db: Database
) -> None:
    async with through_proxy(postgres, postgres_url, tmp_path) as (far, proxy):
        await far.write(ONE, put("before"))
        proxy.word = b"lost"
        with pytest.raises(Unavailable):
            await far.write(ONE, put("lost"))
        proxy.word = None
        assert proxy.cuts == 1
        await far.write(ONE, put("after"))
    assert await db.read(ONE, all_names) == {"before", "after"}


@pytest.mark.parametrize("before", [True, False])
async def test_a_line_lost_during_the_commit_is_an_unknown_outcome(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path, db: Database, before: bool
) -> None:
    async with through_proxy(postgres, postgres_url, tmp_path) as (far, proxy):
        proxy.word, proxy.before = b"COMMIT", before
        with pytest.raises(OutcomeUnknown) as caught:
            await far.write(ONE, put("unknown"))
        proxy.word = None
        assert "same id" in caught.value.hint
        assert proxy.cuts == 1
        # Both happen, which is why nobody may claim to know.
        assert await far.read(ONE, all_names) == (set() if before else {"unknown"})


async def test_a_server_that_restarts_is_found_again(tmp_path: Path) -> None:
    with postgres_server() as server:
        async with open_database(server.dsn(), clock=SystemClock()) as db:
            await create_schema(db)
            await create_schema(db, SAMPLE)
            # Several pooled connections, all of which the restart will kill.
            await asyncio.gather(*(db.write(ONE, put(f"n{i}")) for i in range(6)))
            server.stop(signal.SIGINT)
            for call in (db.check(), db.tenants(), db.write(ONE, put("never"))):
                with pytest.raises(Unavailable):
                    await call
            server.start()
            await db.check()
            await db.write(ONE, put("after"))
            assert "never" not in await db.read(ONE, all_names)


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    async with open_database(
        f"postgresql://postgres@/none?host={tmp_path}", clock=SystemClock()
    ) as db:
        for call in (db.check(), db.tenants(), db.write(ONE, put("never"))):
            with pytest.raises(Unavailable, match="does not answer"):
                await call


async def test_a_database_without_our_schema_is_refused(
    postgres: PostgresServer,
) -> None:
    name = await postgres.fresh_database()
    async with open_database(postgres.dsn(name), clock=SystemClock()) as db:
        with pytest.raises((Unavailable, Internal)):
            await db.tenants()
        with pytest.raises((Unavailable, Unsupported), match="cannot start"):
            await check_schema(db, version="0.1.0")
    await postgres.drop_database(name)


async def test_a_cancelled_unit_gives_its_connection_back(postgres_url: str) -> None:
    async with handle(postgres_url, PostgresLimits(connections_max=1)) as db:
        sleep = text("SELECT pg_sleep(20)")
        running = asyncio.ensure_future(db.write(ONE, lambda conn: conn.execute(sleep) and None))
        await asyncio.sleep(0.2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await asyncio.wait_for(db.tenants(), 15) == ["default"]


async def test_a_password_may_come_apart_from_the_address(tmp_path: Path) -> None:
    with postgres_server() as server:
        server.execute("ALTER ROLE postgres PASSWORD 'long and secret'")
        rules = server.folder / "data" / "pg_hba.conf"
        rules.write_text("local all all scram-sha-256\n")
        server.stop()
        server.start()
        async with open_database(
            server.dsn(), clock=SystemClock(), password="long and secret"
        ) as db:
            await create_schema(db)
            assert await db.tenants() == ["default"]
        async with open_database(server.dsn(), clock=SystemClock(), password="wrong") as db:
            with pytest.raises(Unavailable) as caught:
                await db.tenants()
            assert "refuses the password" in caught.value.detail
