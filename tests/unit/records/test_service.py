"""The aggregator from a worker's side, on both databases."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.fleet.grants import GrantMismatch
from holdfast.kernel import merkle
from holdfast.kernel.clock import timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import (
    Denied,
    HoldfastError,
    Invalid,
    NotFound,
    TooLarge,
    Unauthenticated,
)
from holdfast.kernel.ids import TenantId
from holdfast.kernel.outbox import BEGINNING, Entry
from holdfast.kernel.principal import (
    ALL_PERMISSIONS,
    WORKER_PERMISSIONS,
    Principal,
    PrincipalKind,
)
from holdfast.records import reading, store
from holdfast.records.errors import (
    BatchConflict,
    DigestMismatch,
    NoSuchRecord,
    NoSuchRun,
    ProfileBusy,
    ResponseConflict,
    ResponseMissing,
    RunEnded,
    RunNotOpen,
    RunOvertaken,
    StaleFence,
)
from holdfast.records.model import (
    PeriodValue,
    RecordFilter,
    Reject,
    RunClose,
    RunFilter,
    RunOpen,
    RunStatus,
)
from holdfast.records.publishing import batch_leaf
from holdfast.records.signed import SignedBatch
from holdfast.records.store import named_objects
from tests.unit.records.helpers import (
    OPERATOR,
    START,
    Attempt,
    Bench,
    bench_on,
    profile,
    raw,
    record,
)

RATES = RecordFilter(profile="rates")


@pytest.fixture
async def bench(database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(database, tmp_path) as found:
        yield found


@pytest.fixture
async def quick(sqlite_database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    """For what does not depend on the database."""
    async with bench_on(sqlite_database, tmp_path) as found:
        yield found


async def states(bench: Bench, which: RecordFilter = RATES) -> dict[Any, Any]:
    page = await bench.service.records(OPERATOR, which, limit=1000)
    return {one.key[0]: one.measures["rate"].value for one in page.items}


async def events(bench: Bench, kind: str) -> list[Entry]:
    found = await bench.db.read(
        OPERATOR,
        lambda conn: bench.service._handles.outbox.ready(conn, OPERATOR, BEGINNING, 1000),
    )
    return [entry for entry in found if entry.event.type == kind]


async def working(bench: Bench, **members: Any) -> Attempt:
    attempt = bench.attempt(**members)
    await attempt.open()
    await attempt.respond()
    return attempt


# --- publishing ---------------------------------------------------------------------------------


async def test_a_complete_run_publishes_everything_at_once(bench: Bench) -> None:
    attempt = await working(bench)
    receipt = await attempt.post([record("CA", "4.1"), record("NV", "5.0", position=1)])
    assert (receipt.new, receipt.changed, receipt.unchanged) == (2, 0, 0)
    assert await states(bench) == {}
    run = await attempt.finish()
    assert (run.status, run.publication, run.new) == (RunStatus.SUCCEEDED, 1, 2)
    assert await states(bench) == {"CA": "4.1", "NV": "5.0"}


async def test_changes_and_withdrawals_become_revisions(bench: Bench) -> None:
    await bench.collect([record("CA", "4.1"), record("NV", "5.0")])
    bench.clock.advance(60)
    again = await bench.collect([record("CA", "4.1"), record("NV", "5.1")], fence=2)
    assert (again.unchanged, again.changed, again.withdrawn) == (1, 1, 0)
    bench.clock.advance(60)
    third = await bench.collect([record("NV", "5.1")], fence=3)
    assert (third.unchanged, third.withdrawn, third.publication) == (1, 1, 3)
    bench.clock.advance(60)
    back = await bench.collect([record("NV", "5.1"), record("CA", "4.1")], fence=4)
    assert (back.new, back.unchanged) == (1, 1)
    page = await bench.service.records(OPERATOR, RATES)
    by_state = {one.key[0]: one.id for one in page.items}
    nevada = await bench.service.record(OPERATOR, by_state["NV"])
    assert [one.revision for one in nevada.revisions] == [1, 2]
    assert nevada.revisions[0].recorded_to == nevada.revisions[1].recorded_from
    california = await bench.service.record(OPERATOR, by_state["CA"])
    # Exactly these: an integer would not be a boolean on the wire.
    assert [repr(one.withdrawn) for one in california.revisions] == ["False", "True", "False"]
    assert california.revisions[1].provenance is None
    assert california.record.provenance is not None
    then = await bench.service.record(
        OPERATOR, by_state["NV"], as_of=nevada.revisions[0].recorded_from
    )
    assert then.record.revision == 1


async def test_a_complete_run_that_finds_nothing_new_succeeds_without_a_publication(
    bench: Bench,
) -> None:
    await bench.collect([record("CA", "4.1")])
    run = await bench.collect([record("CA", "4.1")], fence=2)
    assert (run.status, run.publication, run.unchanged) == (RunStatus.SUCCEEDED, 1, 1)
    assert len(await events(bench, "records.ingested")) == 1
    assert len(await events(bench, "run.finished")) == 2


async def test_a_partial_run_stays_hidden_unless_asked_for(bench: Bench) -> None:
    await bench.collect([record("CA", "4.1"), record("NV", "5.0")])
    attempt = await working(bench, fence=2)
    await attempt.post([record("CA", "9.9"), record("OR", "3.0")])
    run = await attempt.finish("partial", code="limit-reached", reason="max_pages", cursor="c9")
    assert (run.status, run.publication, run.code) == (RunStatus.PARTIAL, None, "limit-reached")
    assert await states(bench) == {"CA": "4.1", "NV": "5.0"}
    asked = RecordFilter(profile="rates", run=attempt.run)
    assert await states(bench, asked) == {"CA": "9.9", "OR": "3.0"}
    later = await bench.collect([record("CA", "4.1"), record("NV", "5.0")], fence=3)
    assert (later.unchanged, later.withdrawn) == (2, 0)
    assert await states(bench, asked) == {"CA": "9.9", "OR": "3.0"}
    plan_of = await working(bench, fence=4)
    plan = await bench.service.plan(OPERATOR, plan_of.grant, plan_of.run)
    assert plan.cursor is None


async def test_the_cursor_moves_at_publication(bench: Bench) -> None:
    attempt = await working(bench)
    await attempt.post([record("CA", "1")])
    assert (await bench.service.plan(OPERATOR, attempt.grant, attempt.run)).cursor is None
    await attempt.finish(cursor="2025-01")
    following = await working(bench, fence=2)
    plan = await bench.service.plan(OPERATOR, following.grant, following.run)
    assert (plan.cursor, plan.publication) == ("2025-01", 1)
    assert plan.validators["https://example.org/rates.json?page=0"].etag == '"0"'


async def test_validators_belong_to_one_profile_version(bench: Bench) -> None:
    await bench.collect([record("CA", "1")])
    bench.profiles.add(profile(title="Other"))
    attempt = await working(bench, fence=2)
    plan = await bench.service.plan(OPERATOR, attempt.grant, attempt.run)
    assert (plan.publication, plan.validators) == (1, {})


async def test_unchanged_is_for_a_run_without_batches(bench: Bench) -> None:
    await bench.collect([record("CA", "1")])
    attempt = await working(bench, fence=2)
    run = await attempt.finish("unchanged")
    assert (run.status, run.withdrawn) == (RunStatus.UNCHANGED, 0)
    assert await states(bench) == {"CA": "1"}
    other = await working(bench, fence=3)
    await other.post([record("CA", "1")])
    with pytest.raises(Invalid) as found:
        await other.finish("unchanged")
    assert found.value.code == "run-has-batches"


@pytest.mark.parametrize(
    ("changes", "records", "rejects", "code"),
    [
        ({"expect": {"min_records": 2}}, [record("CA", "1")], 0, "too-few-records"),
        ({"expect": {"max_records": 1}}, [record("CA", "1"), record("NV", "1")], 0,
         "too-many-records"),
        ({"expect": {"required": ["measures.rate"]}}, [record("CA", None)], 0,
         "expectation-failed"),
        ({"expect": {"required": ["attributes.flag"]}}, [record("CA", "1")], 0,
         "expectation-failed"),
        ({"expect": {"ranges": {"measures.rate": {"min": "0", "max": "100"}}}},
         [record("CA", "100.1")], 0, "expectation-failed"),
        ({"expect": {"ranges": {"measures.rate": {"min": "0"}}}}, [record("CA", "-0.1")], 0,
         "expectation-failed"),
        ({"max_rejects": 1}, [record("CA", "1")], 2, "too-many-rejects"),
        ({}, [record("CA", "1"), record("CA", "2")], 0, "duplicate-keys"),
    ],
)  # fmt: skip
async def test_what_the_profile_expects_fails_the_run_and_publishes_nothing(
    sqlite_database: Database,
    tmp_path: Path,
    changes: dict[str, Any],
    records: list[Any],
    rejects: int,
    code: str,
) -> None:
    async with bench_on(sqlite_database, tmp_path, profile(**changes)) as bench:
        attempt = await working(bench)
        bad = [
            Reject(response=0, position=at, field="rate", reason="not a number", excerpt="x")
            for at in range(rejects)
        ]
        await attempt.post(records, rejects=bad)
        run = await attempt.finish()
        assert (run.status, run.code) == (RunStatus.FAILED, code)
        assert run.reason
        assert await states(bench) == {}
        kept = await bench.service.rejects(OPERATOR, RunFilter(run=attempt.run))
        assert len(kept.items) == rejects
        assert await bench.db.read(OPERATOR, _rows) == 0


async def test_a_null_measure_is_outside_no_range(
    sqlite_database: Database, tmp_path: Path
) -> None:
    one = profile(expect={"ranges": {"measures.rate": {"min": "0", "max": "5"}}})
    async with bench_on(sqlite_database, tmp_path, one) as bench:
        run = await bench.collect([record("CA", None), record("NV", "5"), record("OR", "0")])
        assert run.status is RunStatus.SUCCEEDED


def _rows(conn: Any) -> int:
    from sqlalchemy import func, select

    table = store.revisions
    count = select(func.count()).where(table.c.tenant == OPERATOR.tenant)
    return int(conn.execute(count).scalar_one())


# --- batches ------------------------------------------------------------------------------------


async def test_a_batch_is_one_batch_however_often_it_comes(bench: Bench) -> None:
    attempt = await working(bench)
    records = [record("CA", "1")]
    first = await attempt.post(records)
    assert await attempt.post(records) == msgspec.structs.replace(first, repeated=True)
    with pytest.raises(BatchConflict):
        await attempt.post([record("CA", "2")])
    run = await attempt.finish()
    assert (run.batches, run.records) == (1, 1)
    # Even after the end the answer is the same; what is new is refused.
    assert (await attempt.post(records)).repeated
    with pytest.raises(RunEnded):
        await attempt.post([record("NV", "1")], sequence=1)


async def test_batches_that_never_came_fail_the_run(bench: Bench) -> None:
    attempt = await working(bench)
    await attempt.post([record("CA", "1")], sequence=0)
    await attempt.post([record("NV", "1")], sequence=2)
    run = await attempt.finish(batches=2)
    assert (run.status, run.code) == (RunStatus.FAILED, "batches-missing")


async def test_rows_refer_to_bytes_that_are_stored(bench: Bench) -> None:
    attempt = await working(bench)
    with pytest.raises(ResponseMissing):
        await attempt.post([record("CA", "1", response=1)])
    with pytest.raises(ResponseMissing):
        await attempt.post([], rejects=[Reject(response=7, position=0, field="a", reason="b")])


async def test_many_records_in_one_batch(bench: Bench) -> None:
    from holdfast.records.model import MappedRecord

    def many(value: str, count: int) -> list[MappedRecord]:
        return [record(f"s{number}", value, position=number) for number in range(count)]

    first = await bench.collect(many("1", 2500), size=2500)
    assert first.new == 2500
    changed = [*many("1", 1200), *many("2", 2400)[1200:]]
    second = await bench.collect(changed, size=1500, fence=2)
    assert (second.unchanged, second.changed, second.withdrawn) == (1200, 1200, 100)
    seen = await _all(bench, 700)
    assert len(seen) == 2400
    assert len({one.id for one in seen}) == 2400


async def _all(bench: Bench, limit: int, which: RecordFilter = RATES) -> list[Any]:
    found, cursor = [], None
    while True:
        page = await bench.service.records(OPERATOR, which, cursor=cursor, limit=limit)
        found += page.items
        cursor = page.next
        if cursor is None:
            return found


# --- fences -------------------------------------------------------------------------------------


async def test_a_higher_fence_takes_over_and_the_old_attempt_is_nothing(bench: Bench) -> None:
    old = await working(bench)
    await old.post([record("CA", "1"), record("NV", "1")])
    new = await working(bench, run=old.run, fence=2)
    with pytest.raises(StaleFence):
        await old.post([record("OR", "1")], sequence=1)
    with pytest.raises(StaleFence):
        await old.post([record("CA", "1"), record("NV", "1")])
    with pytest.raises(StaleFence):
        await old.finish()
    with pytest.raises(StaleFence):
        await old.open()
    with pytest.raises(StaleFence):
        await old.respond(1)
    receipt = await new.post([record("CA", "2")])
    assert (receipt.new, receipt.changed) == (1, 0)
    run = await new.finish()
    assert (run.attempts, run.records, run.batches) == (2, 1, 1)
    assert await states(bench) == {"CA": "2"}

    def superseded(conn: Any) -> list[bool]:
        key = store.of_key(store.batches, OPERATOR.tenant, run=old.run)
        rows = conn.execute(store.batches.select().where(key).order_by(store.batches.c.fence))
        return [row.superseded for row in rows]

    assert await bench.db.read(OPERATOR, superseded) == [True, False]


async def test_a_grant_is_for_one_run_fence_tenant_and_worker(quick: Bench) -> None:
    attempt = await working(quick)
    other = quick.attempt()
    batch = attempt.batch([])
    service = quick.service
    with pytest.raises(GrantMismatch):
        await service.post_batch(OPERATOR, other.grant, batch)
    higher = quick.attempt(run=attempt.run, fence=2)
    with pytest.raises(GrantMismatch):
        await service.post_batch(OPERATOR, higher.grant, batch)
    with pytest.raises(RunNotOpen):
        await higher.post([])
    foreign = Principal(TenantId("other"), "operator", PrincipalKind.OPERATOR, ALL_PERMISSIONS)
    with pytest.raises(GrantMismatch):
        await service.post_batch(foreign, attempt.grant, batch)
    for subject, fine in (("worker-1", True), ("worker-2", False)):
        worker = Principal(OPERATOR.tenant, subject, PrincipalKind.WORKER, WORKER_PERMISSIONS)
        if fine:
            await service.post_batch(worker, attempt.grant, batch)
        else:
            with pytest.raises(GrantMismatch):
                await service.post_batch(worker, attempt.grant, batch)
    forged = attempt.grant[:-3] + "AAA"
    with pytest.raises(Unauthenticated):
        await service.post_batch(OPERATOR, forged, batch)


async def test_a_lease_that_ran_out_interrupts_and_a_renewed_one_goes_on(bench: Bench) -> None:
    attempt = await working(bench, lease_seconds=30)
    await attempt.post([record("CA", "1")])
    bench.clock.advance(60)
    assert await bench.service.sweep(OPERATOR) == 1
    assert (await bench.service.run(OPERATOR, attempt.run)).status is RunStatus.INTERRUPTED
    with pytest.raises(Unauthenticated) as found:
        await attempt.post([record("NV", "1")], sequence=1)
    assert found.value.code == "token-expired"
    attempt.renewed()
    await attempt.post([record("NV", "1")], sequence=1)
    assert (await bench.service.run(OPERATOR, attempt.run)).status is RunStatus.RUNNING
    assert (await attempt.finish(batches=2)).new == 2


async def test_an_attempt_that_leaves_says_why_until_the_next_one_opens(bench: Bench) -> None:
    first = await working(bench)
    await first.post([record("CA", "1")])
    left = await first.finish("interrupted", code="unreachable", reason="nobody answers")
    assert (left.status, left.code) == (RunStatus.INTERRUPTED, "unreachable")
    assert left.reason == "nobody answers"
    assert left.finished_at is None
    second = bench.attempt(run=first.run, fence=2)
    opened = await second.open()
    assert (opened.status, opened.code, opened.reason) == (RunStatus.RUNNING, "", "")
    with pytest.raises(StaleFence):
        await first.finish("interrupted", code="unreachable")


async def test_one_run_of_a_profile_at_a_time(bench: Bench) -> None:
    first = await working(bench, fence=5)
    with pytest.raises(ProfileBusy):
        await bench.attempt(fence=5).open()
    await first.post([record("CA", "1")])
    # A later lease means that the coordinator has ended the first.
    second = await working(bench, fence=6)
    with pytest.raises(RunOvertaken):
        await first.post([record("NV", "1")], sequence=1)
    with pytest.raises(RunOvertaken):
        await first.finish()
    with pytest.raises(RunOvertaken):
        await first.open()
    await second.post([record("OR", "2")])
    await second.finish()
    assert await states(bench) == {"OR": "2"}
    assert (await bench.service.run(OPERATOR, first.run)).status is RunStatus.INTERRUPTED


async def test_profiles_do_not_disturb_each_other(
    sqlite_database: Database, tmp_path: Path
) -> None:
    async with bench_on(sqlite_database, tmp_path, profile("rates"), profile("others")) as bench:
        one, two = await working(bench), await working(bench, name="others")
        await one.post([record("CA", "1")])
        await two.post([record("CA", "2")])
        await one.finish()
        await two.finish()
        assert await states(bench) == {"CA": "1"}
        assert await states(bench, RecordFilter(profile="others")) == {"CA": "2"}


# --- closing ------------------------------------------------------------------------------------


def closing(attempt: Attempt, outcome: str = "failed") -> RunClose:
    claim = attempt.claim
    return msgspec.convert(
        {
            "run": claim.run,
            "fence": claim.fence,
            "profile": claim.profile,
            "profile_digest": claim.digest,
            "task": claim.task,
            "outcome": outcome,
            "code": "task-dead",
            "reason": "every attempt failed",
        },
        RunClose,
    )


async def test_a_run_nobody_opened_can_be_closed(bench: Bench) -> None:
    attempt = bench.attempt()
    closed = await bench.service.close(OPERATOR, closing(attempt))
    assert (closed.status, closed.attempts, closed.code) == (RunStatus.FAILED, 0, "task-dead")
    assert await bench.service.close(OPERATOR, closing(attempt)) == closed
    assert (await attempt.open()).status is RunStatus.FAILED
    with pytest.raises(RunEnded):
        await attempt.post([record("CA", "1")])


async def test_closing_drops_what_was_staged_and_frees_the_profile(bench: Bench) -> None:
    attempt = await working(bench)
    await attempt.post([record("CA", "1")])
    closed = await bench.service.close(OPERATOR, closing(attempt, "cancelled"))
    assert closed.status is RunStatus.CANCELLED
    assert (await attempt.finish()).status is RunStatus.CANCELLED
    await bench.collect([record("NV", "1")], fence=1)
    assert await states(bench) == {"NV": "1"}


async def test_a_late_close_does_not_undo_a_publication(bench: Bench) -> None:
    attempt = await working(bench)
    await attempt.post([record("CA", "1")])
    published = await attempt.finish()
    assert await bench.service.close(OPERATOR, closing(attempt)) == published


async def test_workers_close_nothing(quick: Bench) -> None:
    worker = Principal(OPERATOR.tenant, "worker-1", PrincipalKind.WORKER, WORKER_PERMISSIONS)
    with pytest.raises(Denied):
        await quick.service.close(worker, closing(quick.attempt()))


# --- raw responses ------------------------------------------------------------------------------


async def test_raw_bytes_are_kept_once_and_come_back_as_they_were(bench: Bench) -> None:
    content = b"".join(b'{"a": %d}' % number for number in range(10_000))
    first = await working(bench)
    await first.respond(1, content)
    one = await bench.service.put_response(
        OPERATOR, first.grant, first.run, raw(1, content), content
    )
    assert one.repeated
    second = await bench.service.put_response(
        OPERATOR, first.grant, first.run, raw(2, content), content
    )
    assert second.repeated
    scanned = bench.service._handles.objects.scan(OPERATOR)
    stored = [found async for found in scanned if found.size_bytes > 300]  # all but the empty list
    assert len(stored) == 1
    assert stored[0].size_bytes < len(content) / 2
    body = await bench.service.response_body(OPERATOR, first.run, 1)
    assert b"".join([chunk async for chunk in body.chunks]) == content
    listed = await bench.service.responses(OPERATOR, first.run)
    assert [one.response.sequence for one in listed] == [0, 1, 2]
    names = [found.name for found in stored]
    asked = [*names, "none"]
    named = await bench.db.read(OPERATOR, lambda conn: named_objects(conn, OPERATOR, asked))
    assert named == set(names)


async def test_bytes_that_are_not_the_announced_ones_are_refused(quick: Bench) -> None:
    attempt = await working(quick)
    service = quick.service
    for content in (b"shorter", b"longer than what was announced", b"other-bytes"):
        with pytest.raises(DigestMismatch):
            await service.put_response(
                OPERATOR, attempt.grant, attempt.run, raw(1, b"these bytes"), content
            )
    with pytest.raises(ResponseConflict):
        await service.put_response(OPERATOR, attempt.grant, attempt.run, raw(0, b"x"), b"x")
    await attempt.respond(1, b"known bytes")
    with pytest.raises(DigestMismatch):
        # Naming a digest is not holding its bytes.
        await service.put_response(
            OPERATOR, attempt.grant, attempt.run, raw(2, b"known bytes"), b"guess bytes"
        )


async def test_an_answer_without_bytes_is_kept_too(quick: Bench) -> None:
    attempt = await working(quick)
    await attempt.respond(1, b"", status=304, not_modified=True)
    body = await quick.service.response_body(OPERATOR, attempt.run, 1)
    assert [chunk async for chunk in body.chunks] == []


async def test_raw_responses_are_bounded(sqlite_database: Database, tmp_path: Path) -> None:
    async with bench_on(sqlite_database, tmp_path, response_bytes_max=10) as bench:
        attempt = await working(bench)
        with pytest.raises(TooLarge) as found:
            await attempt.respond(1, b"more than ten bytes")
        assert found.value.code == "response-too-large"


# --- reading ------------------------------------------------------------------------------------


async def test_a_list_that_was_begun_stays_in_its_publication(bench: Bench) -> None:
    await bench.collect([record(f"s{at}", "1") for at in range(5)])
    first = await bench.service.records(OPERATOR, RATES, limit=2)
    await bench.collect([record(f"s{at}", "2") for at in range(3, 8)], fence=2)
    second = await bench.service.records(OPERATOR, RATES, cursor=first.next, limit=10)
    seen = [*first.items, *second.items]
    assert [one.key[0] for one in seen] == [f"s{at}" for at in range(5)]
    assert {one.measures["rate"].value for one in seen} == {"1"}
    assert second.publication == 1
    other = RecordFilter(profile="rates", vintage="first")
    with pytest.raises(Invalid):
        await bench.service.records(OPERATOR, other, cursor=first.next)


async def test_records_are_filtered_by_period_and_dimension(bench: Bench) -> None:
    await bench.collect(
        [record(state, "1", month=month) for state in ("CA", "NV") for month in range(1, 7)]
    )
    spring = RecordFilter(profile="rates", start="2025-03-01", end="2025-05-01")
    assert len((await bench.service.records(OPERATOR, spring)).items) == 4
    nevada = msgspec.structs.replace(spring, dimensions={"state": "NV"})
    found = (await bench.service.records(OPERATOR, nevada)).items
    assert [(one.key[0], one.period and one.period.start) for one in found] == [
        ("NV", "2025-03-01"), ("NV", "2025-04-01"),
    ]  # fmt: skip
    nobody = RecordFilter(profile="rates", dimensions={"state": "N"})
    assert (await bench.service.records(OPERATOR, nobody)).items == []


async def test_bytes_that_were_few_when_stored_are_handed_out_in_pieces(quick: Bench) -> None:
    content = bytes(40 * 2**20)
    attempt = await working(quick)
    await attempt.respond(1, content)
    body = await quick.service.response_body(OPERATOR, attempt.run, 1)
    sizes = [len(chunk) async for chunk in body.chunks]
    assert sum(sizes) == len(content)
    assert max(sizes) <= 9 * 2**20


async def test_a_time_as_a_bound_counts_whatever_its_fraction(quick: Bench) -> None:
    hours = [f"2025-01-31T{hour:02d}:00:00.000000Z" for hour in (0, 1, 2)]
    await quick.collect(
        [
            record("CA", "1"),  # all of January
            *(
                msgspec.structs.replace(
                    record("CA", "1"),
                    key=["CA", start],
                    period=PeriodValue(start=start, end=start, frequency="I"),
                )
                for start in hours
            ),
        ]
    )
    for start, end, expected in (
        ("2025-01-31T00:00:00Z", "2025-01-31T02:00:00Z", hours[:2]),
        ("2025-01-31T01:00:00Z", "2025-02-01", hours[1:]),
        ("2025-01-31T01:00:00.5Z", "2025-01-31T02:00:00.5Z", hours[2:]),
        ("2025-01-01T00:00:00Z", "2025-01-31T00:00:00Z", ["2025-01-01"]),
    ):
        which = RecordFilter(profile="rates", start=start, end=end)
        found = (await quick.service.records(OPERATOR, which)).items
        assert [one.period and one.period.start for one in found] == expected


async def test_a_dimension_filter_compares_values_not_text(bench: Bench) -> None:
    rows = [
        msgspec.structs.replace(
            record(name, "1", flag='"state":"5"'), dimensions={"state": value, "other": 5}
        )
        for name, value in (("a", 5), ("b", 55), ("c", "5"), ("d", True), ("e", None))
    ]
    await bench.collect(rows)
    for wanted, expected in (("5", ["a", "c"]), ("55", ["b"]), ("true", ["d"]), ("", [])):
        which = RecordFilter(profile="rates", dimensions={"state": wanted})
        found = await _all(bench, 1, which)
        assert [one.key[0] for one in found] == expected


async def test_of_very_many_revisions_any_is_found_and_those_left_out_are_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "REVISIONS_MAX", 3)
    for rate in range(8):
        await bench.collect([record("CA", str(rate))], fence=rate + 1)
        bench.clock.advance(60)
    staged = bench.attempt(fence=9)
    await staged.open()
    await staged.respond()
    await staged.post([record("CA", "99")])
    (identity,) = [one.id for one in (await bench.service.records(OPERATOR, RATES)).items]

    async def told(as_of: str | None = None) -> tuple[int, list[int], int]:
        found = await bench.service.record(OPERATOR, identity, as_of=as_of)
        listed = [one.revision for one in found.revisions]
        return found.record.revision, listed, found.omitted

    assert await told() == (8, [6, 7, 8], 5)
    at = [timestamp(START + timedelta(seconds=60 * number + 30)) for number in range(8)]
    assert await told(at[6]) == (7, [6, 7, 8], 5)
    assert await told(at[4]) == (5, [3, 4, 5], 5)
    assert await told(at[0]) == (1, [1], 7)
    with pytest.raises(NoSuchRecord):
        await told("2020-01-01T00:00:00Z")


async def test_a_record_is_found_by_its_key_as_it_is_shown(quick: Bench) -> None:
    """A part may be a text, a number or a truth value; two keys may look alike."""
    keys: list[list[Any]] = [["5", 7], [5, "x"], [True, "x"], ["a", 0]]
    rows = [msgspec.structs.replace(record("a", "1"), key=key) for key in keys]
    await quick.collect(rows)
    for key in keys:
        shown = [str(part) for part in key]
        found = await quick.service.record_by_key(OPERATOR, "rates", shown)
        assert found.record.key == key
    for strange in (["5", "7.0"], ["05", "7"], ["a", "-0"], ["a", str(2**60)], ["a", "\x00"]):
        with pytest.raises(NotFound):
            await quick.service.record_by_key(OPERATOR, "rates", strange)
    later = quick.attempt(fence=2)
    await later.open()
    await later.respond()
    await later.post([msgspec.structs.replace(record("b", "1"), key=["staged", 1])])
    with pytest.raises(NotFound):
        await quick.service.record_by_key(OPERATOR, "rates", ["staged", "1"])


async def test_a_key_that_cannot_be_one_is_not_looked_for(
    quick: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs a digest for each key that is shown so: off the loop, and not for what cannot be."""
    find = quick.service.record_by_key
    digest, asked = quick.service._keys(OPERATOR, "rates").key, list[int]()

    def noted(message: bytes) -> bytes:
        asked.append(threading.get_ident())
        return digest(message)

    monkeypatch.setattr(quick.service._keys(OPERATOR, "rates"), "key", noted)
    for key in (["CA", "2025-01-01"], ["1"] * 40):
        with pytest.raises(NotFound):
            await find(OPERATOR, "rates", key)
    await quick.collect([record("CA", "4.1")])
    asked.clear()
    with pytest.raises(Invalid, match="3 of its key's 2 parts"):
        await find(OPERATOR, "rates", ["1"] * 3)
    with pytest.raises(Invalid, match="9000 bytes"):
        await find(OPERATOR, "rates", ["ä" * 4000, "1" * 1000])
    assert asked == []
    with pytest.raises(NotFound):
        await find(OPERATOR, "rates", ["1", "2"])
    assert len(asked) == 4
    assert threading.get_ident() not in asked


async def test_of_a_key_that_is_the_content_the_number_of_parts_is_known_too(
    sqlite_database: Database, tmp_path: Path
) -> None:
    async with bench_on(sqlite_database, tmp_path, profile(key="position")) as bench:
        first = msgspec.structs.replace(record("CA", "4.1"), key=["a" * 64, 0])
        await bench.collect([first])
        found = await bench.service.record_by_key(OPERATOR, "rates", ["a" * 64, "0"])
        assert found.record.key == first.key
        with pytest.raises(Invalid, match="3 of its key's 2 parts"):
            await bench.service.record_by_key(OPERATOR, "rates", ["1", "2", "3"])


@pytest.mark.parametrize(
    "which",
    [
        RecordFilter(profile="rates", as_of="yesterday"),
        RecordFilter(profile="rates", as_of="2026-01-01"),
        RecordFilter(profile="rates", as_of="2999-01-01T00:00:00Z"),
        RecordFilter(profile="rates", start="01/02/2025"),
        RecordFilter(profile="rates", start="2025-13-01"),
        RecordFilter(profile="rates", end="2025-02-29T00:00:00Z"),
        RecordFilter(profile="rates", dimensions={"a b": "1"}),
    ],
)
async def test_filters_that_make_no_sense_are_refused(quick: Bench, which: RecordFilter) -> None:
    with pytest.raises(Invalid):
        await quick.service.records(OPERATOR, which)


async def test_a_range_that_ends_before_it_begins_is_refused_wherever_one_is_taken(
    quick: Bench,
) -> None:
    """Nothing lies in it, and whoever turned the two around would take that for an answer."""
    service, day = quick.service, "2026-01-0{}T00:00:00Z".format
    turned = RunFilter(since=day(2), until=day(1))
    back = RunOpen(run="", fence=1, kind="backfill", range_start=day(2), range_end=day(1))
    attempt = quick.attempt()
    asked = [
        service.records(OPERATOR, RecordFilter(profile="rates", start="2026", end="2025-12")),
        service.stream(OPERATOR, RecordFilter(profile="rates", start="2026-01", end="2026")),
        service.runs(OPERATOR, turned),
        service.results(OPERATOR, turned),
        service.rejects(OPERATOR, turned),
        service.open(OPERATOR, attempt.grant, msgspec.structs.replace(back, run=attempt.run)),
    ]
    for one in asked:
        with pytest.raises(Invalid) as refused:
            await one
        assert refused.value.code == "range-reversed"
        assert refused.value.hint
    assert (await service.runs(OPERATOR, RunFilter(since=day(1), until=day(2)))).items == []
    shown = await service.records(OPERATOR, RecordFilter(profile="rates", start="2025", end="2026"))
    assert shown.items == []


async def test_another_tenant_sees_nothing_and_cannot_tell(bench: Bench) -> None:
    run = await bench.collect([record("CA", "1")])
    page = await bench.service.records(OPERATOR, RATES)
    other = Principal(TenantId("other"), "operator", PrincipalKind.OPERATOR, ALL_PERMISSIONS)
    service = bench.service
    assert (await service.records(other, RATES)).items == []
    assert (await service.runs(other)).items == []
    assert (await service.freshness(other)) == []
    for error, call in (
        (NoSuchRecord, lambda one: service.record(other, one)),
        (NoSuchRun, lambda _: service.run(other, run.id)),
        (NoSuchRun, lambda _: service.responses(other, run.id)),
    ):
        with pytest.raises(error) as theirs:
            await call(page.items[0].id)
        assert theirs.value.kind.value == "not-found"
    for strange in ("", "x" * 32, "A" * 32, "00", "0" * 32):
        with pytest.raises(NoSuchRecord):
            await service.record(OPERATOR, strange)


async def test_lists_of_runs_results_and_rejects_are_paged(bench: Bench) -> None:
    runs = []
    for fence in range(1, 5):
        attempt = await working(bench, fence=fence)
        bad = [Reject(response=0, position=at, field="rate", reason="no") for at in range(3)]
        await attempt.post([record("CA", str(fence))], rejects=bad)
        runs.append((await attempt.finish()).id)
        bench.clock.advance(60)
    service = bench.service

    async def walked(call: Any, **members: Any) -> list[Any]:
        found, cursor = [], None
        while True:
            page = await call(OPERATOR, RunFilter(**members), cursor=cursor, limit=2)
            found += page.items
            cursor = page.next
            if cursor is None:
                return found

    assert [one.id for one in await walked(service.runs)] == runs[::-1]
    assert [one.run for one in await walked(service.results)] == runs[::-1]
    assert len(await walked(service.runs, status=RunStatus.FAILED)) == 4
    assert await walked(service.runs, profile="none") == []
    assert len(await walked(service.runs, since="2026-01-01T00:02:00Z")) == 2
    found = await walked(service.rejects)
    assert [one.run for one in found] == [run for run in runs[::-1] for _ in range(3)]
    assert [one.position for one in found] == [0, 1, 2] * 4
    assert len(await walked(service.rejects, run=runs[0])) == 3


async def test_rejects_beyond_the_bound_are_counted_not_kept(
    sqlite_database: Database, tmp_path: Path
) -> None:
    one = profile(max_rejects=100)
    async with bench_on(sqlite_database, tmp_path, one, rejects_kept_max=4) as bench:
        attempt = await working(bench)
        bad = [Reject(response=0, position=at, field="rate", reason="no") for at in range(3)]
        await attempt.post([record("CA", "1")], sequence=0, rejects=bad)
        await attempt.post([], sequence=1, rejects=bad)
        assert (await attempt.finish(batches=2)).rejects == 6
        assert len((await bench.service.rejects(OPERATOR)).items) == 4


async def test_freshness_says_what_is_stale(sqlite_database: Database, tmp_path: Path) -> None:
    async with bench_on(sqlite_database, tmp_path, profile(freshness="1h")) as bench:
        await bench.collect([record("CA", "1")])
        bench.clock.advance(3599)
        assert [one.stale for one in await bench.service.freshness(OPERATOR)] == [False]
        bench.clock.advance(2)
        found = await bench.service.freshness(OPERATOR)
        assert [(one.stale, one.records, one.freshness) for one in found] == [(True, 1, "1h")]
        assert (
            b'holdfast_profile_stale{profile="rates",tenant="default"} 1.0'
            in bench.metrics.render()
        )
        attempt = await working(bench, fence=2)
        await attempt.finish("unchanged")
        assert [one.stale for one in await bench.service.freshness(OPERATOR)] == [False]


# --- evidence -----------------------------------------------------------------------------------


async def test_the_event_of_a_publication_carries_a_root_that_the_rows_give_again(
    bench: Bench,
) -> None:
    await bench.collect([record("CA", "1"), record("NV", "1"), record("OR", "1")], size=2)
    run = await bench.collect([record("CA", "2"), record("NV", "1")], fence=2)
    for entry, count in zip(await events(bench, "records.ingested"), (3, 2), strict=True):
        payload = entry.event.payload
        assert payload["profile_digest"] == run.profile_digest
        assert payload["responses_count"] == 1
        assert sum(batch["rows"] for batch in payload["batches"]) == count
        rebuilt = await bench.db.read(
            OPERATOR, lambda conn, payload=payload: _roots(conn, bench, payload)
        )
        assert rebuilt == [batch["root"] for batch in payload["batches"]]
        leaves = [
            merkle.leaf_hash(batch_leaf(batch))
            for batch in await bench.db.read(
                OPERATOR, lambda conn, payload=payload: _batches(conn, payload)
            )
        ]
        assert merkle.root(leaves).hex() == payload["root"]
    assert [batch["kind"] for batch in payload["batches"]] == ["posted", "withdrawals"]


def _batches(conn: Any, payload: dict[str, Any]) -> list[Any]:
    """The batches that the event lists, as they are kept."""
    found = [
        store.find(
            conn, store.batches, OPERATOR.tenant, run=payload["run"], fence=payload["fence"],
            kind=batch["kind"], sequence=batch["sequence"],
        )
        for batch in payload["batches"]
    ]  # fmt: skip
    assert None not in found
    return found


def _roots(conn: Any, bench: Bench, payload: dict[str, Any]) -> list[str]:
    """The batch roots, from what is kept of the records and nothing else."""
    keys = bench.service._keys(OPERATOR, payload["profile"])
    found = []
    for row in _batches(conn, payload):
        leaves, signed = [], SignedBatch(row)
        for number in range(row.first_row, row.first_row + row.rows):
            kept = store.find(
                conn, store.revisions, OPERATOR.tenant, profile=payload["profile"], sequence=number
            )
            assert kept is not None
            leaves.append(signed.leaf_hash(keys, payload["run"], payload["profile_digest"], kept))
        found.append(merkle.root(leaves).hex())
    return found


async def test_every_end_of_a_run_is_an_event(bench: Bench) -> None:
    for fence, outcome in enumerate(("complete", "partial", "failed", "cancelled", "unchanged"), 1):
        attempt = await working(bench, fence=fence)
        if outcome != "unchanged":
            await attempt.post([record("CA", str(fence))])
        await attempt.finish(outcome)
    found = await events(bench, "run.finished")
    assert [entry.event.payload["status"] for entry in found] == [
        "succeeded", "partial", "failed", "cancelled", "unchanged",
    ]  # fmt: skip


async def test_state_and_event_commit_together_or_not_at_all(quick: Bench) -> None:
    """A batch of the run's own makes the event impossible: then nothing is published."""
    attempt = await working(quick)
    await attempt.post([record("CA", "1")])
    used = quick.new_id()
    quick.service._new_id = lambda: used  # the same id for two different events: one is refused
    with pytest.raises(HoldfastError):
        await attempt.finish()
    assert await states(quick) == {}
    assert await events(quick, "run.finished") == []
    assert (await quick.service.run(OPERATOR, attempt.run)).status is RunStatus.RUNNING
    quick.service._new_id = quick.new_id
    assert (await attempt.finish()).status is RunStatus.SUCCEEDED


async def test_what_is_counted(quick: Bench) -> None:
    await quick.collect([record("CA", "1"), record("NV", "1")])
    await quick.collect([record("CA", "2")], fence=2)
    shown = quick.metrics.render().decode()
    for line in (
        'holdfast_records_ingested_total{change="new"} 2.0',
        'holdfast_records_ingested_total{change="changed"} 1.0',
        'holdfast_records_ingested_total{change="withdrawn"} 1.0',
        'holdfast_publications_total{profile="rates",tenant="default"} 2.0',
        'holdfast_runs_total{status="succeeded"} 2.0',
        'holdfast_batches_total{answer="stored"} 2.0',
    ):
        assert line in shown
