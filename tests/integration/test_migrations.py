"""The schema as migrated is the schema as declared, and data survives the way there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from holdfast import __version__
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import create_schema, metadata, open_database
from holdfast.kernel.errors import Corrupt, Unavailable, Unsupported
from holdfast.kernel.principal import operator
from holdfast.migrations import load_tables
from holdfast.migrations import runner as runner_module
from holdfast.migrations.runner import Migrated, check_schema, migrate
from tests.support.postgres import PostgresServer

ONE = operator()
CLOCK = SystemClock()
HEAD = runner_module._revisions()[0]


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a database in which nothing is."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state/holdfast.db"
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    name = await postgres.fresh_database()
    yield postgres.dsn(name)
    await postgres.drop_database(name)


async def migrated(url: str, tmp_path: Path, version: str = __version__) -> Migrated:
    return await migrate(url, clock=CLOCK, version=version, backups=tmp_path / "backups")


def differences(conn: Connection) -> list[object]:
    context = MigrationContext.configure(conn, opts={"compare_type": True})
    return [
        each
        for each in compare_metadata(context, metadata)
        if not (each[0] == "remove_table" and each[1].name == "alembic_version")
    ]


async def test_the_migrated_schema_is_the_declared_one(empty_url: str, tmp_path: Path) -> None:
    load_tables()
    await migrated(empty_url, tmp_path)
    async with open_database(empty_url, clock=CLOCK) as database:
        found = await database.administer(differences)
        assert found == [], (
            "run: python -m holdfast.migrations.generate 'why' --oldest-code VERSION"
        )
        assert await database.tenants() == ["default"]
        await check_schema(database, version=__version__)


async def test_it_can_be_worked_with_as_the_created_one(
    empty_url: str, database_url: str, tmp_path: Path
) -> None:
    """Sequences, rights and row security are there: what a test database has, a served one has."""
    if empty_url.split(":")[0] != database_url.split(":")[0]:
        return
    await migrated(empty_url, tmp_path)

    shapes = []
    for url in (empty_url, database_url):
        async with open_database(url, clock=CLOCK) as database:
            found = await database.administer(shape)
            shapes.append({line for line in found if "alembic" not in line})
    assert shapes[0] - shapes[1] == set()
    assert shapes[1] - shapes[0] == set()


def shape(conn: Connection) -> set[str]:
    """Everything the engine itself says about tables, columns, keys, indexes and rights."""
    if conn.dialect.name == "sqlite":
        asked = [
            'SELECT m.name, c.name, c.type, c."notnull", c.dflt_value, c.pk FROM sqlite_master m,'
            " pragma_table_xinfo(m.name) c WHERE m.type = 'table'",
            'SELECT m.name, i.name, i."unique", i.origin, i.partial, k.seqno, k.name'
            " FROM sqlite_master m, pragma_index_list(m.name) i, pragma_index_info(i.name) k"
            " WHERE m.type = 'table'",
            "SELECT m.name, f.* FROM sqlite_master m, pragma_foreign_key_list(m.name) f"
            " WHERE m.type = 'table'",
            "SELECT name, replace(sql, '\"', '') FROM sqlite_master WHERE type = 'index'",
        ]
    else:
        asked = [
            "SELECT table_name, column_name, data_type, is_nullable, column_default"
            " FROM information_schema.columns WHERE table_schema = 'public'",
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = CAST('public' AS regnamespace)",
            "SELECT relname, relkind, relrowsecurity, relforcerowsecurity, CAST(relacl AS text)"
            " FROM pg_class WHERE relnamespace = CAST('public' AS regnamespace)",
            "SELECT tablename, policyname, qual, with_check FROM pg_policies",
        ]
    return {str(tuple(row)) for query in asked for row in conn.execute(text(query))}


async def test_doing_it_again_does_nothing(empty_url: str, tmp_path: Path) -> None:
    assert await migrated(empty_url, tmp_path) == Migrated(None, HEAD, None)
    assert await migrated(empty_url, tmp_path) == Migrated(HEAD, HEAD, None)
    assert not (tmp_path / "backups").exists()


async def test_many_at_once_do_it_once(empty_url: str, tmp_path: Path) -> None:
    answers = await asyncio.gather(
        *(migrated(empty_url, tmp_path) for _ in range(4)), return_exceptions=True
    )
    done = [each for each in answers if isinstance(each, Migrated)]
    assert [each.before for each in done].count(None) == 1
    # One process per file: on SQLite the others may be told that the file is in use.
    assert all(isinstance(each, Migrated | Unavailable) for each in answers)
    await migrated(empty_url, tmp_path)


async def set_state(url: str, revision: str, oldest: str) -> None:
    def unit(conn: Connection) -> None:
        conn.execute(
            text("UPDATE schema_state SET revision = :revision, oldest_code = :oldest"),
            {"revision": revision, "oldest": oldest},
        )

    async with open_database(url, clock=CLOCK) as database:
        await database.administer(unit)


async def test_a_newer_schema_that_admits_this_release_is_left_alone(
    empty_url: str, tmp_path: Path
) -> None:
    await migrated(empty_url, tmp_path)
    await set_state(empty_url, "9999", "0.0.9")
    assert await migrated(empty_url, tmp_path) == Migrated("9999", "9999", None)
    async with open_database(empty_url, clock=CLOCK) as database:
        await check_schema(database, version="0.1.0")


async def test_a_newer_schema_that_has_left_this_release_behind_is_refused(
    empty_url: str, tmp_path: Path
) -> None:
    await migrated(empty_url, tmp_path)
    await set_state(empty_url, "9999", "0.10.0")
    with pytest.raises(
        Unsupported, match=r"needs Holdfast 0\.10\.0 or newer, this is 0\.9\.3"
    ) as caught:
        await migrated(empty_url, tmp_path, version="0.9.3")
    assert "restore the copy" in caught.value.hint
    async with open_database(empty_url, clock=CLOCK) as database:
        with pytest.raises(Unsupported):
            await check_schema(database, version="0.9.3")
        await check_schema(database, version="0.10.0rc1")


async def test_a_database_without_schema_is_not_served(empty_url: str) -> None:
    async with open_database(empty_url, clock=CLOCK) as database:
        with pytest.raises((Unsupported, Unavailable), match="cannot start"):
            await check_schema(database, version=__version__)


def test_the_files_names_tell_the_history() -> None:
    """A start with nothing to migrate reads names, and does not load Alembic for it."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(runner_module.configuration())
    walked = [revision.revision for revision in script.walk_revisions()]
    assert runner_module._revisions() == walked
    assert script.get_heads() == [HEAD]


def test_a_start_with_nothing_to_migrate_does_without_alembic(tmp_path: Path) -> None:
    asked = (
        "import asyncio, pathlib, sys\n"
        "from holdfast.kernel.clock import SystemClock\n"
        "from holdfast.migrations.runner import migrate\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "url = f'sqlite:///{folder}/holdfast.db'\n"
        "asyncio.run(migrate(url, clock=SystemClock(), version='0.1.0', backups=folder))\n"
        "print('alembic' in sys.modules)"
    )
    told = [
        subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [done.stdout.split()[-1] for done in told] == ["True", "False"]


# --- a later revision ---------------------------------------------------------------------------

LATER = '''
"""Rebuild a table that others point to, and add one."""
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"
oldest_code = "0.1.0"

def upgrade() -> None:
    op.create_table("later", sa.Column("tenant", sa.Text(), primary_key=True, nullable=False))
    with op.batch_alter_table("tenants", recreate="always") as batch:
        batch.add_column(sa.Column("note", sa.Text(), nullable=True))
    {more}
'''


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Give the runner a history with one more revision."""
    import shutil

    real = Path(runner_module.__file__).parent

    def make(more: str = "pass") -> None:
        copy = tmp_path / "history"
        shutil.copytree(real, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "versions" / "revision_9999.py").write_text(LATER.format(head=HEAD, more=more))
        monkeypatch.setattr(runner_module, "HISTORY", copy)

    return make


async def test_data_survives_and_an_embedded_database_is_copied_before(
    empty_url: str, tmp_path: Path, later
) -> None:
    await migrated(empty_url, tmp_path)

    def put(conn: Connection) -> None:
        conn.execute(text("INSERT INTO tenants VALUES ('second', '2026-01-01T00:00:00.000000Z')"))

    async with open_database(empty_url, clock=CLOCK) as database:
        await database.write(ONE, put)
    later()
    done = await migrated(empty_url, tmp_path)
    assert (done.before, done.after) == (HEAD, "9999")
    async with open_database(empty_url, clock=CLOCK) as database:
        assert await database.tenants() == ["default", "second"]
        assert await database.administer(lambda conn: inspect(conn).has_table("later"))
    if empty_url.startswith("postgresql"):
        assert done.copy is None
        return
    assert done.copy is not None
    assert done.copy.parent == tmp_path / "backups"
    assert done.copy.stat().st_mode & 0o077 == 0
    async with open_database(f"sqlite:///{done.copy}", clock=CLOCK) as database:
        assert await database.tenants() == ["default", "second"]
        assert not await database.administer(lambda conn: inspect(conn).has_table("later"))


async def test_a_migration_that_fails_changes_nothing(
    empty_url: str, tmp_path: Path, later
) -> None:
    await migrated(empty_url, tmp_path)
    later(more='raise RuntimeError("half way")')
    with pytest.raises(RuntimeError, match="half way"):
        await migrated(empty_url, tmp_path)
    async with open_database(empty_url, clock=CLOCK) as database:
        assert not await database.administer(lambda conn: inspect(conn).has_table("later"))
        state = text("SELECT revision FROM schema_state")
        assert await database.administer(lambda conn: conn.execute(state).scalar()) == HEAD


async def test_a_database_in_use_is_not_migrated(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/holdfast.db"
    async with open_database(url, clock=CLOCK):
        with pytest.raises(Unavailable, match="uses it"):
            await migrated(url, tmp_path)


async def test_a_file_that_is_no_database_is_not_migrated(tmp_path: Path) -> None:
    path = tmp_path / "holdfast.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(Corrupt):
        await migrated(f"sqlite:///{path}", tmp_path)
    assert path.read_bytes() == b"no database" * 1000


async def test_a_schema_made_for_tests_is_equal_too(database_url: str) -> None:
    load_tables()
    async with open_database(database_url, clock=CLOCK) as database:
        await create_schema(database)
        assert await database.administer(differences) == []
