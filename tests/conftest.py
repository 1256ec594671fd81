"""What every test has at hand, and the two rules of the run.

``database`` is an open handle with the whole schema, once on SQLite and once on PostgreSQL.
Every statement on SQLite is watched for its tenant. With ``HOLDFAST_CI=1`` a skip is a failure.
Long modules begin first, so that no worker is left alone with one at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings

from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import Database, create_schema, open_database
from holdfast.migrations import load_tables
from tests.support.hygiene import GUARD, Guard
from tests.support.postgres import PostgresServer, postgres_server, run_apart
from tests.support.tenancy import TenancyWatch

_TEMPLATE = "holdfast_template"
_FIRST = (
    "e2e/test_kill.py",
    "e2e/test_sample.py",
    "e2e/test_recorded_sources.py",
    "e2e/test_bad_input.py",
    "e2e/test_kill_pages.py",
    "e2e/test_fleet.py",
    "e2e/test_containers.py",
    "e2e/test_ledger_kill.py",
    "e2e/test_console.py",
    "e2e/",
    "integration/",
    "conformance/",
)
"""The longest; the two that keep whole stacks of processes busy are not asked for together."""
_watch = TenancyWatch()
# An example may take as long as a busy machine takes for it.
settings.register_profile("holdfast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("holdfast")
# Where a test says nothing httpx gives up after five seconds: a slow disk takes as long.
for _part in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, _part, 60.0)

# A shell that runs the suite in the background lets it, and whatever it starts, ignore interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart() -> None:
    _watch.start()


def pytest_sessionfinish() -> None:
    _watch.stop()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In their turn, each under an id of its own: of several under one, a worker runs one alone."""
    seen: set[str] = set()
    for item in items:
        if label := getattr(item, "operation_label", None):  # Schemathesis names it so, no more
            item._id = f"{item.nodeid}[{label}]"
        if item.nodeid in seen:
            raise pytest.UsageError(f"two tests have the id {item.nodeid}")
        seen.add(item.nodeid)
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    path = item.nodeid.partition("::")[0].removeprefix("tests/")
    return next((turn for turn, of in enumerate(_FIRST) if path.startswith(of)), len(_FIRST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _skips_fail():
        report.outcome = "failed"
        report.longrepr = f"skipped, and HOLDFAST_CI=1 allows no skip: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    if report.skipped and _skips_fail():
        report.outcome = "failed"
        report.longrepr = f"skipped, and HOLDFAST_CI=1 allows no skip: {report.longrepr}"
    return report


def _skips_fail() -> bool:
    return os.environ.get("HOLDFAST_CI") == "1"


_settled: set[Path] = set()
_SERVING = ("tests/e2e/", "tests/integration/")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """What programs wrote holds no secret: a test's when it is over, a module's after its last."""
    yield
    last = nextitem is None or nextitem.path != item.path
    looked_at = GUARD.active or item.nodeid.startswith(_SERVING)
    base: Path = item.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    own = getattr(item, "funcargs", {}).get("tmp_path")
    folders = sorted(base.iterdir()) if last else [own] if own is not None else []
    new = [each for each in folders if each not in _settled and not each.is_symlink()]
    if last or looked_at:
        _settled.update(new)
    found = GUARD.settle(new) if looked_at and new else []
    if last:
        GUARD.forget()
    if found:
        pytest.fail("secrets where none may be:\n" + "\n".join(found), pytrace=False)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _statements_carry_tenant() -> Iterator[None]:
    yield
    offences = _watch.take()
    assert not offences, f"statements without their tenant: {offences}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real server for this worker's tests; no secret is in its files and log when they end."""
    with postgres_server() as server:
        yield server
        assert Guard().settle([server.folder]) == []


@pytest.fixture(scope="session")
def _postgres_template(postgres: PostgresServer) -> str:
    # Sorted as people sort, as in the databases of the official image: what leans on the order of
    # bytes ("~ comes after everything") breaks there.
    collation = postgres.collation
    postgres.execute(
        f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0"
        f" LC_COLLATE '{collation}' LC_CTYPE '{collation}'"
    )
    load_tables()
    _create(postgres.dsn(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "holdfast.db"
    load_tables()
    _create(f"sqlite:///{path}")
    return path


def _create(url: str) -> None:
    async def body() -> None:
        async with open_database(url, clock=SystemClock()) as database:
            await create_schema(database)

    run_apart(body)


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh SQLite database with the whole schema."""
    path = tmp_path / "holdfast.db"
    shutil.copyfile(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
async def postgres_url(postgres: PostgresServer, _postgres_template: str) -> AsyncIterator[str]:
    """A fresh PostgreSQL database with the whole schema."""
    name = await postgres.fresh_database(_postgres_template)
    yield postgres.dsn(name)
    await postgres.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database with the whole schema: the test runs on both engines."""
    kind = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(kind)
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open handle with the whole schema: the test runs on both engines."""
    async with open_database(database_url, clock=SystemClock()) as handle:
        yield handle


@pytest.fixture
async def sqlite_database(sqlite_url: str) -> AsyncIterator[Database]:
    """An open handle with the whole schema on SQLite."""
    async with open_database(sqlite_url, clock=SystemClock()) as handle:
        yield handle


@pytest.fixture
async def postgres_database(postgres_url: str) -> AsyncIterator[Database]:
    """An open handle with the whole schema on PostgreSQL."""
    async with open_database(postgres_url, clock=SystemClock()) as handle:
        yield handle
