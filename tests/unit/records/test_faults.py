"""Every transaction lost once, before or after it was committed; several workers at once.

A worker that gets no answer sends the same thing again. Whatever was lost, in the end the records
are there once, the events are there once, and nothing else is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, func, select

from holdfast.kernel.database import Database
from holdfast.kernel.database.handle import Isolation
from holdfast.kernel.errors import Conflict, HoldfastError, OutcomeUnknown, Unavailable
from holdfast.kernel.outbox import BEGINNING
from holdfast.kernel.principal import Principal
from holdfast.records import store
from holdfast.records.model import RecordFilter, Run, RunStatus
from tests.unit.records.helpers import OPERATOR, Attempt, Bench, bench_on, profile, record

T = TypeVar("T")
RATES = RecordFilter(profile="rates")
WRITES_MAX = 60


class LosesOne(Database):
    """A real database whose write number ``at`` is lost: not done, or done and not answered."""

    def __init__(self, inner: Database) -> None:
        self.dialect = inner.dialect
        self._inner = inner
        self.at = -1
        self.committed = False
        self.writes = 0

    async def write(
        self,
        principal: Principal,
        unit: Callable[[Connection], T],
        *,
        size_bytes: int = 0,
        isolation: Isolation = "serializable",
    ) -> T:
        number, self.writes = self.writes, self.writes + 1
        if number == self.at and not self.committed:
            raise Unavailable("cannot use the database: it was lost")
        found = await self._inner.write(principal, unit, size_bytes=size_bytes, isolation=isolation)
        if number == self.at:
            raise OutcomeUnknown("cannot tell: the answer was lost")
        return found

    async def read(self, principal: Principal, unit: Callable[[Connection], T]) -> T:
        return await self._inner.read(principal, unit)

    async def administer(self, unit: Callable[[Connection], T]) -> T:
        return await self._inner.administer(unit)

    async def check(self) -> None:
        await self._inner.check()


async def stubbornly(call: Callable[[], Awaitable[T]]) -> T:
    """As a worker does: the same again, until there is an answer."""
    for _ in range(5):
        try:
            return await call()
        except (Unavailable, OutcomeUnknown):
            continue
    raise AssertionError("no answer")


async def story(bench: Bench) -> Run:
    """Publish, change and withdraw; a worker dies, another takes over and finishes."""
    first = bench.attempt(fence=1)
    await _collected(first, [record(f"s{at}", "1") for at in (0, 1, 4, 5)], "complete")
    dead = bench.attempt(fence=2)
    await stubbornly(dead.open)
    await stubbornly(dead.respond)
    await stubbornly(lambda: dead.post([record("s0", "9"), record("s9", "9")]))
    heir = bench.attempt(fence=3, run=dead.run)
    last = [record("s0", "1"), record("s1", "2"), record("s7", "1")]
    return await _collected(heir, last, "complete")


async def _collected(attempt: Attempt, records: list[Any], outcome: str) -> Run:
    await stubbornly(attempt.open)
    await stubbornly(attempt.respond)
    batches = [records[at : at + 3] for at in range(0, len(records), 3)]
    for number, batch in enumerate(batches):
        await stubbornly(lambda number=number, batch=batch: attempt.post(batch, sequence=number))  # type: ignore[misc]
    return await stubbornly(lambda: attempt.finish(outcome, batches=len(batches)))


async def outcome_of(bench: Bench) -> dict[str, Any]:
    """All there is to see in the end."""
    page = await bench.service.records(OPERATOR, RecordFilter(profile="rates", withdrawn=True))
    runs = (await bench.service.runs(OPERATOR)).items

    def unit(conn: Connection) -> list[int]:
        return [
            conn.execute(select(func.count()).where(table.c.tenant == OPERATOR.tenant)).scalar_one()
            for table in (store.revisions, store.seen, store.publications)
        ]

    ready = await bench.db.read(
        OPERATOR,
        lambda conn: bench.service._handles.outbox.ready(conn, OPERATOR, BEGINNING, 1000),
    )
    return {
        "records": {
            one.key[0]: (one.measures["rate"].value, one.revision, one.withdrawn)
            for one in page.items
        },
        "runs": [(run.status, run.new, run.changed, run.withdrawn, run.batches) for run in runs],
        "rows": await bench.db.read(OPERATOR, unit),
        "events": [entry.event.type for entry in ready],
    }


@pytest.mark.parametrize("committed", [False, True])
async def test_each_transaction_may_be_lost_once(
    sqlite_database: Database, tmp_path: Path, committed: bool
) -> None:
    lost = LosesOne(sqlite_database)
    expected, at = None, -1
    while True:
        lost.at, lost.writes, lost.committed = at, 0, committed
        folder = tmp_path / str(at)
        async with bench_on(lost, folder, cleaning_rows=1, withdrawal_rows=1) as bench:
            run = await story(bench)
            assert run.status is RunStatus.SUCCEEDED
            found = await outcome_of(bench)
        total = lost.writes
        await _empty(sqlite_database)
        if expected is None:
            expected = found
            assert found["records"]["s1"] == ("2", 2, False)
            assert found["records"]["s5"] == ("1", 2, True)
        assert found == expected, f"write {at} of {total}, committed: {committed}"
        at += 1
        if at >= total:
            break
        assert at < WRITES_MAX


async def _empty(database: Database) -> None:
    from holdfast.kernel.outbox import outbox

    def unit(conn: Connection) -> None:
        for table in (
            store.counters, store.runs, store.responses, store.batches, store.revisions,
            store.heads, store.publications, store.seen, store.rejects, store.shapes, store.notices,
            outbox,
        ):  # fmt: skip
            store.remove(conn, table, table.c.tenant == OPERATOR.tenant)

    await database.write(OPERATOR, unit)


async def test_batches_at_once_count_once_each(database: Database, tmp_path: Path) -> None:
    async with bench_on(database, tmp_path) as bench:
        attempt = bench.attempt()
        await attempt.open()
        await attempt.respond()
        batches = [[record(f"s{at}-{n}", "1") for n in range(20)] for at in range(8)]
        # Each twice, at the same time: as when an answer is lost and the worker is impatient.
        receipts = await asyncio.gather(
            *(
                attempt.post(batch, sequence=number)
                for number, batch in enumerate(batches)
                for _ in range(2)
            )
        )
        assert sum(receipt.repeated for receipt in receipts) == 8
        run = await attempt.finish(batches=8)
        assert (run.records, run.new, run.batches) == (160, 160, 8)


async def test_two_processes_share_a_database(postgres_database: Database, tmp_path: Path) -> None:
    """Two services know nothing of each other's locks; the version number keeps them apart."""
    async with (
        bench_on(postgres_database, tmp_path / "a") as one,
        bench_on(postgres_database, tmp_path / "b") as two,
    ):
        attempt = one.attempt()
        await attempt.open()
        await attempt.respond()
        also = Attempt(two, attempt.claim, attempt.digests)
        receipts = await asyncio.gather(
            *(
                (attempt if number % 2 else also).post([record(f"s{number}", "1")], sequence=number)
                for number in range(12)
            )
        )
        assert not any(receipt.repeated for receipt in receipts)
        runs = await asyncio.gather(attempt.finish(batches=12), also.finish(batches=12))
        assert runs[0] == runs[1]
        assert (runs[0].status, runs[0].new) == (RunStatus.SUCCEEDED, 12)


async def test_of_two_attempts_at_once_the_higher_fence_wins(
    database: Database, tmp_path: Path
) -> None:
    """The old worker keeps going while the new one takes over: never a mixture of the two."""
    async with bench_on(database, tmp_path) as bench:
        old = bench.attempt(fence=1)
        await old.open()
        await old.respond()

        async def goes_on() -> str:
            for number in range(30):
                try:
                    await old.post([record(f"old{number}", "1")], sequence=number)
                except Conflict as error:
                    return error.code
            return ""

        async def takes_over() -> Run:
            new = bench.attempt(fence=2, run=old.run)
            await new.open()
            await new.respond()
            await new.post([record("new", "1")])
            return await new.finish()

        code, run = await asyncio.gather(goes_on(), takes_over())
        assert code in ("stale-fence", "run-ended")
        assert (run.status, run.records) == (RunStatus.SUCCEEDED, 1)
        page = await bench.service.records(OPERATOR, RATES)
        assert [one.key[0] for one in page.items] == ["new"]


async def test_many_profiles_at_once(database: Database, tmp_path: Path) -> None:
    profiles = [profile(f"p{number}") for number in range(5)]
    async with bench_on(database, tmp_path, *profiles) as bench:
        runs = await asyncio.gather(
            *(
                bench.collect([record(f"s{at}", "1") for at in range(30)], name=one.name, size=10)
                for one in profiles
            )
        )
        assert {run.status for run in runs} == {RunStatus.SUCCEEDED}
        numbers = [one.run for one in (await bench.service.results(OPERATOR)).items]
        assert len(set(numbers)) == 5


async def test_a_refusal_leaves_nothing_behind(sqlite_database: Database, tmp_path: Path) -> None:
    async with bench_on(sqlite_database, tmp_path) as bench:
        attempt = bench.attempt()
        await attempt.open()
        with pytest.raises(HoldfastError):
            await attempt.post([record("CA", "1")])
        before = await outcome_of(bench)
        assert before["rows"] == [0, 0, 0]


@pytest.mark.parametrize("by", ["sweeper", "next attempt"])
async def test_what_the_answer_does_not_wait_for_is_cleaned_later(
    sqlite_database: Database, tmp_path: Path, by: str
) -> None:
    async with bench_on(sqlite_database, tmp_path, cleaning_rows=1) as bench:
        await bench.collect([record(f"s{at}", "1") for at in range(12)])
        attempt = bench.attempt(fence=2)
        await attempt.open()
        await attempt.respond()
        await attempt.post([record(f"s{at}", "2") for at in range(12)])
        assert (await attempt.finish("failed")).status is RunStatus.FAILED
        assert (await outcome_of(bench))["rows"][0] > 12
        if by == "sweeper":
            await bench.service.sweep(OPERATOR)
            assert (await outcome_of(bench))["rows"] == [12, 0, 1]
        run = await bench.collect([record(f"s{at}", "1") for at in range(12)], fence=3)
        assert (run.unchanged, run.changed, run.withdrawn) == (12, 0, 0)
        assert (await outcome_of(bench))["rows"] == [12, 0, 1]
