"""What a process keeps doing is begun again when it fails."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import asyncpg
import pytest
import structlog

from holdfast.app.keys import SCRUB_SECONDS, scrub_now_and_then
from holdfast.app.services import for_each
from holdfast.app.system import PAUSE_SECONDS, PAUSE_SECONDS_MAX, _forever
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.errors import Unavailable
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import Principal, service
from holdfast.keyring import MasterKeys, open_keyring
from holdfast.keyring.backends.postgresql import PostgresKeyStore
from tests.support.postgres import PostgresServer


class Hours(SystemClock):
    """Goes only as it is told, and remembers how long was waited."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.passed = 0.0

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


class Turns(SystemClock):
    """Whoever sleeps goes on when told to; a turn is over when they sleep again."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._asleep, self._go = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._asleep.release()
        await self._go.acquire()

    async def asleep(self) -> None:
        await self._asleep.acquire()

    async def turn(self) -> None:
        self._go.release()
        await self.asleep()


@pytest.mark.parametrize(
    ("failure", "traced"),
    [
        (Unavailable("cannot use the database: the disk is full"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("a defect"), True),
    ],
)
async def test_only_defects_are_traced(failure: Exception, traced: bool) -> None:
    failures = iter([failure])

    async def loop() -> None:
        for each in failures:
            raise each

    with structlog.testing.capture_logs() as said:
        await _forever("test", loop, Hours())
    assert [line["log_level"] != "warning" for line in said] == [traced]


async def test_a_loop_that_had_been_well_begins_again_soon() -> None:
    clock, lives = Hours(), iter([0.0] * 9 + [3600.0])

    async def loop() -> None:
        lived = next(lives, None)
        if lived is None:
            return
        clock.passed += lived
        raise RuntimeError("it fails")

    await _forever("test", loop, clock)
    assert clock.waits[:3] == [PAUSE_SECONDS, 2 * PAUSE_SECONDS, 4 * PAUSE_SECONDS]
    assert clock.waits[-2:] == [PAUSE_SECONDS_MAX, PAUSE_SECONDS]


async def test_what_is_destroyed_between_erasures_is_scrubbed_once_an_hour(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """A dump in the way is waited for until the next time; then it goes on."""
    name = await postgres.fresh_database()
    dsn, clock = postgres.dsn(name), Turns()
    store = await asyncio.to_thread(
        PostgresKeyStore, dsn, schema="holdfast_keyring", scrub_lock_seconds=0.05
    )
    keyring = open_keyring(
        store,
        lambda _: MasterKeys.create(tmp_path / "master.key"),
        clock,
        new_id="k",
        expected=None,
    )
    dump = await asyncpg.connect(dsn)

    async def owed() -> int:
        return int(await dump.fetchval("SELECT count(*) FROM holdfast_keyring.keyring_unscrubbed"))

    task = asyncio.create_task(scrub_now_and_then(keyring, clock))
    try:
        keyring.object_key("default", "name")
        assert keyring.destroy_objects("default", ["name"]) == 1
        await clock.asleep()
        assert await owed() == 1
        async with dump.transaction():
            await dump.fetch("SELECT count(*) FROM holdfast_keyring.keyring_keys")
            with structlog.testing.capture_logs() as said:
                await clock.turn()
            assert [line["log_level"] for line in said] == ["warning"]
        assert await owed() == 1
        await clock.turn()
        assert await owed() == 0
        assert clock.waits == [SCRUB_SECONDS] * 3
    finally:
        task.cancel()
        await asyncio.wait([task])
        await dump.close()
        await asyncio.to_thread(keyring.close)
        await postgres.drop_database(name)


async def test_a_tenant_whose_step_fails_holds_up_no_other_and_no_later_step() -> None:
    done = list[tuple[str, str]]()

    async def sweep(principal: Principal) -> None:
        if principal.tenant == "broken":
            raise Unavailable("cannot use the object store")
        done.append((principal.tenant, "sweep"))

    async def watch(principal: Principal) -> None:
        done.append((principal.tenant, "watch"))

    tenants = [service("aggregator", TenantId(name)) for name in ("broken", "sound")]
    with structlog.testing.capture_logs() as said:
        assert await for_each(tenants, [sweep, watch]) == 1
    assert done == [("broken", "watch"), ("sound", "sweep"), ("sound", "watch")]
    assert [(line["tenant"], line["step"]) for line in said] == [("broken", "sweep")]
