"""An object without a name goes after a day, one with a name never, whoever is in the middle.

The writers are the aggregator and the reporter's table as they are, on both databases; the sweep is
stopped, or dies, between any two of its steps.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text

from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Invalid, Unavailable
from holdfast.kernel.ids import TenantId
from holdfast.kernel.objects import Objects
from holdfast.kernel.objects.orphans import OrphanSweep, noted
from holdfast.kernel.principal import operator
from holdfast.records import store
from holdfast.records.store import named_objects
from holdfast.reports.store import NamedObjects
from tests.unit.records.helpers import OPERATOR, Attempt, Bench, bench_on, raw

CONTENT = b"[1, 2, 3]" * 100
OTHER = operator(TenantId("other"))


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
async def bench(database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(database, tmp_path) as found:
        yield found


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC))


def objects_of(bench: Bench) -> Objects:
    found: Objects = bench.service._handles.objects
    return found


def sweep_of(bench: Bench, clock: ManualClock, objects: Objects | None = None) -> OrphanSweep:
    found = objects or objects_of(bench)
    return OrphanSweep(bench.db, found, [named_objects, NamedObjects(found)], clock)


def aged(folder: Path, seconds: float = 2 * 86400) -> None:
    """Everything stored until now was stored two days ago."""
    then = time.time() - seconds
    for path in (folder / "objects").rglob("*"):
        if path.is_file() and path.parent.name != ".incoming":
            os.utime(path, (then, then))


async def orphan(bench: Bench, data: bytes = CONTENT) -> str:
    """The object of a writer that died before it named it."""
    from zstandard import ZstdCompressor

    await objects_of(bench).put_bytes(OPERATOR, digest(data), ZstdCompressor().compress(data))
    return objects_of(bench).name(OPERATOR, digest(data))


async def started(bench: Bench) -> Attempt:
    attempt = bench.attempt(fence=1 + len(bench.attempts))
    bench.attempts[attempt.run] = attempt
    await attempt.open()
    return attempt


async def put(attempt: Attempt, sequence: int = 0, data: bytes = CONTENT) -> None:
    """As a drone does: again, while the aggregator says that this may help."""
    for _ in range(50):
        try:
            await attempt.respond(sequence, data)
            return
        except Unavailable as error:
            assert error.code == "object-collected"  # noqa: PT017
            await asyncio.sleep(0)
    raise AssertionError("refused again and again")


async def body(bench: Bench, run: str, sequence: int = 0) -> bytes:
    found = await bench.service.response_body(OPERATOR, run, sequence)
    return b"".join([chunk async for chunk in found.chunks])


async def test_what_has_a_name_stays_and_the_rest_goes_after_a_day(
    bench: Bench, clock: ManualClock, tmp_path: Path
) -> None:
    attempt = await started(bench)
    await put(attempt)
    report = b"the data of a report"
    await objects_of(bench).put_bytes(OPERATOR, digest(report), report)
    await bench.db.write(OPERATOR, lambda conn: insert_report(conn, digest(report)))
    await objects_of(bench).put_bytes(OTHER, digest(b"x"), b"of another tenant")
    lost = [await orphan(bench, data) for data in (b"first", b"second")]
    sweep = sweep_of(bench, clock)
    assert (await sweep.sweep(OPERATOR)).objects == 0
    aged(tmp_path)
    would = await sweep.sweep(OPERATOR, dry_run=True)
    assert (would.objects, would.size_bytes > 0) == (2, True)
    assert await objects_of(bench).exists(OPERATOR, digest(b"first"))
    assert await sweep.sweep(OPERATOR) == would
    left = {found.name async for found in objects_of(bench).scan(OPERATOR)}
    assert not left & set(lost)
    assert len(left) == 2
    assert await body(bench, attempt.run) == CONTENT
    assert await objects_of(bench).read(OPERATOR, digest(report)) == report
    assert await objects_of(bench).exists(OTHER, digest(b"x"))


def insert_report(conn: Connection, data_digest: str) -> None:
    columns = "id name kind status spec spec_digest inputs inputs_root outputs_root data_digest"
    names = [*columns.split(), "body", "created_at", "created_by", "event_id"]
    values = dict.fromkeys(names, "x") | {"data_digest": data_digest}
    conn.execute(
        text(
            f"INSERT INTO reports (tenant, sequence, computation, {', '.join(names)})"
            f" VALUES ('default', 1, 1, {', '.join(':' + name for name in names)})"
        ),
        values,
    )


async def test_a_writer_that_saw_its_object_before_the_sweep_took_it_stores_it_again(
    bench: Bench, clock: ManualClock, tmp_path: Path
) -> None:
    """The paused writer: it knows that its bytes are there, and has not named them yet."""
    name = await orphan(bench)
    aged(tmp_path)
    attempt = await started(bench)
    paused, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield CONTENT[:100]
        # The first bytes were asked for after the object was found to be there.
        paused.set()
        await go_on.wait()
        yield CONTENT[100:]

    writing = asyncio.create_task(
        bench.service.put_response(OPERATOR, attempt.grant, attempt.run, raw(0, CONTENT), slowly())
    )
    await paused.wait()
    assert (await sweep_of(bench, clock).sweep(OPERATOR)).objects == 1
    go_on.set()
    with pytest.raises(Unavailable) as refused:
        await writing
    assert (refused.value.code, refused.value.retry_after_seconds) == ("object-collected", 1)
    assert await named(bench) == set()
    await put(attempt)
    assert await named(bench) == {name}
    assert await body(bench, attempt.run) == CONTENT
    # Young and named by now; and when it is old it is named still.
    aged(tmp_path)
    assert (await sweep_of(bench, clock).sweep(OPERATOR)).objects == 0
    assert await body(bench, attempt.run) == CONTENT


class Halting(Objects):
    """Stops before it removes anything, until told to go on; or dies there."""

    def __init__(self, whole: Objects, *, dies: bool = False) -> None:
        super().__init__(whole._driver, whole._secrets)
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self._dies = dies

    async def remove_old(self, principal, name, before):  # type: ignore[no-untyped-def]
        self.reached.set()
        if self._dies:
            raise asyncio.CancelledError
        await self.go_on.wait()
        return await super().remove_old(principal, name, before)


async def test_a_writer_that_comes_while_the_sweep_is_about_to_remove_is_refused(
    bench: Bench, clock: ManualClock, tmp_path: Path
) -> None:
    await orphan(bench)
    aged(tmp_path)
    halting = Halting(objects_of(bench))
    sweeping = asyncio.create_task(sweep_of(bench, clock, halting).sweep(OPERATOR))
    await halting.reached.wait()
    attempt = await started(bench)
    with pytest.raises(Unavailable) as refused:
        await attempt.respond(0, CONTENT)
    assert refused.value.code == "object-collected"
    # Another sweep leaves alone what is being removed already.
    assert (await sweep_of(bench, clock).sweep(OPERATOR)).objects == 0
    halting.go_on.set()
    assert (await sweeping).objects == 1
    await put(attempt)
    assert await body(bench, attempt.run) == CONTENT


async def test_a_writer_that_names_it_first_keeps_it(
    bench: Bench, clock: ManualClock, tmp_path: Path
) -> None:
    """The sweep has looked and found no name; before it condemns, there is one."""
    await orphan(bench)
    aged(tmp_path)
    attempt = await started(bench)
    looks = 0

    def late(conn: Connection, principal, names):  # type: ignore[no-untyped-def]
        nonlocal looks
        looks += 1
        if looks == 1:
            return set()  # what a look before the writer's commit saw
        return named_objects(conn, principal, names)

    await put(attempt)
    sweep = OrphanSweep(bench.db, objects_of(bench), [late], clock)
    assert (await sweep.sweep(OPERATOR)).objects == 0
    assert looks == 2
    assert await body(bench, attempt.run) == CONTENT


async def test_what_a_sweep_that_died_had_condemned_the_next_one_finishes(
    bench: Bench, clock: ManualClock, tmp_path: Path
) -> None:
    name = await orphan(bench)
    aged(tmp_path)
    with pytest.raises(asyncio.CancelledError):
        await sweep_of(bench, clock, Halting(objects_of(bench), dies=True)).sweep(OPERATOR)
    attempt = await started(bench)
    with pytest.raises(Unavailable):
        await attempt.respond(0, CONTENT)
    clock.advance(2 * 3600)
    await sweep_of(bench, clock).sweep(OPERATOR)
    await put(attempt)
    assert await named(bench) == {name}
    assert await body(bench, attempt.run) == CONTENT


async def test_what_was_removed_is_forgotten_after_a_week_but_not_the_count(
    bench: Bench, clock: ManualClock, tmp_path: Path
) -> None:
    for data in (b"first", b"second"):
        await orphan(bench, data)
        aged(tmp_path)
        assert (await sweep_of(bench, clock).sweep(OPERATOR)).objects == 1
    before = await bench.db.read(OPERATOR, lambda conn: noted(conn, OPERATOR))
    clock.advance(8 * 86400)
    await sweep_of(bench, clock).sweep(OPERATOR)
    left = text("SELECT count(*) FROM collected_objects WHERE tenant = 'default'")
    assert await bench.db.read(OPERATOR, lambda conn: conn.execute(left).scalar_one()) == 1
    assert await bench.db.read(OPERATOR, lambda conn: noted(conn, OPERATOR)) == before > 0


async def test_another_tenants_object_is_not_removed_by_its_name(bench: Bench) -> None:
    await objects_of(bench).put_bytes(OTHER, digest(b"x"), b"x")
    name = objects_of(bench).name(OTHER, digest(b"x"))
    with pytest.raises(Invalid):
        await objects_of(bench).remove_old(OPERATOR, name, datetime.now(UTC) + timedelta(days=1))


@pytest.mark.parametrize("seed", [1, 2])
async def test_sweeps_and_writers_at_random_lose_nothing_that_has_a_name(
    bench: Bench, clock: ManualClock, tmp_path: Path, seed: int
) -> None:
    """Few contents, many writers, everything old at once: what is named can always be read."""
    chance = random.Random(seed)
    contents = [bytes([65 + n]) * 300 for n in range(4)]
    attempts = [await started(bench)]
    done = asyncio.Event()
    removed = 0

    async def sweeping() -> None:
        nonlocal removed
        while not done.is_set():
            aged(tmp_path)
            removed += (await sweep_of(bench, clock).sweep(OPERATOR)).objects
            await asyncio.sleep(0)

    async def writing(sequence: int, data: bytes) -> None:
        if chance.random() < 0.5:
            await orphan(bench, data)
        await put(attempts[0], sequence, data)

    sweeps = asyncio.create_task(sweeping())
    for wave in range(6):
        await asyncio.gather(
            *(writing(wave * 4 + n, chance.choice(contents) + bytes([wave])) for n in range(4))
        )
        await orphan(bench, b"left over in wave %d" % wave)
    done.set()
    await sweeps
    assert removed > 0
    for found in await bench.service.responses(OPERATOR, attempts[0].run):
        assert len(await body(bench, attempts[0].run, found.response.sequence)) == 301


async def named(bench: Bench) -> set[str]:
    asked = select(store.responses.c.object).where(store.responses.c.tenant == "default")
    return set(await bench.db.read(OPERATOR, lambda conn: conn.execute(asked).scalars().all()))
