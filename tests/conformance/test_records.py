"""The aggregator against a plain model: the same operations, the same answers, on both databases.

Seeded: a failure names its seed, and the seed repeats it. Workers take over, die, come back late,
send batches twice, out of order or altered; coordinators close; leases run out; the service starts
anew. After every step what readers see is compared.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.kernel.clock import timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.app import Connection
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import BEGINNING, Event
from holdfast.kernel.principal import Principal
from holdfast.keyring import EnvelopeSealer
from holdfast.ledger.relay import _prepared
from holdfast.records.client import RecordsClient
from holdfast.records.errors import NoSuchRecord, ReceiptNotYet
from holdfast.records.http import handlers
from holdfast.records.model import RecordFilter, Reject, Run, RunClose, RunFilter
from holdfast.records.receipt import verify_receipt
from holdfast.records.service import RecordsService
from tests.conformance.records_oracle import Oracle, RefusedError, Rejected, Row
from tests.support.ledger import ledger_on
from tests.support.signing import PUBLIC_KEY, REGISTRATION
from tests.support.soaking import scale
from tests.unit.records.helpers import OPERATOR, START, Attempt, Bench, bench_on, profile, record

STATES = ["AL", "CA", "NV", "OR", "TX", "WA", "WY"]
VALUES = ["1.0", "1.1", "-2"]
SEEDS = range(3 * scale())
STEPS = 80

POLICIES = [
    ("snapshot", "error"),
    ("snapshot", "last"),
    ("append", "first"),
    ("incremental", "last"),
]


def key_of(state: Rejected) -> list[Any] | None:
    """The key of a rejected row as a worker tells it."""
    return state if state is None else ([state, "2025-01-01"] if state else [])  # type: ignore[return-value]


@dataclass
class Trial:
    """One seeded run of operations against the service (or its client) and the model."""

    bench: Bench
    local: RecordsService
    """The service itself, for what is not asked over HTTP."""
    oracle: Oracle
    dice: random.Random
    attempts: list[Attempt] = field(default_factory=list)
    sent: dict[tuple[str, int], dict[int, tuple[list[Row], list[Rejected]]]] = field(
        default_factory=dict
    )
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    fence: int = 0

    @property
    def now(self) -> float:
        return (self.bench.clock.now() - START).total_seconds()

    async def both(self, name: str, model: Any, real: Any) -> tuple[Any, Any]:
        """Do it in the model and for real; the same code of refusal, or two answers."""
        code, expected = "", None
        try:
            expected = model()
        except RefusedError as refused:
            code = refused.code
        if code:
            with pytest.raises(HoldfastError) as found:
                await real()
            assert found.value.code == code, name
            self.outcomes[name, code] += 1
            return None, None
        answer = await real()
        self.outcomes[name, "done"] += 1
        return expected, answer

    # --- operations ---------------------------------------------------------------------------

    async def open_new(self) -> None:
        # Mostly a later lease, sometimes a task of the same fence that should not be there.
        self.fence += self.dice.random() < 0.8
        attempt = self.bench.attempt(
            fence=max(1, self.fence), lease_seconds=self.dice.choice([5, 60])
        )
        await self._open(attempt)

    async def take_over(self) -> None:
        if not self.attempts:
            return
        self.fence += 1
        before = self.dice.choice([self.attempts[-1], self.dice.choice(self.attempts)])
        attempt = self.bench.attempt(fence=self.fence, run=before.run)
        await self._open(attempt)

    async def open_again(self) -> None:
        if self.attempts:
            attempt = self.dice.choice(self.attempts)
            attempt.renewed()
            await self._open(attempt)

    async def _open(self, attempt: Attempt) -> None:
        fence, lease = attempt.claim.fence, self._lease(attempt)
        expected, run = await self.both(
            "open",
            lambda: self.oracle.open(attempt.run, fence, lease, self.now),
            attempt.open,
        )
        if run is not None:
            self._compare_run(run)
            if not expected.final:
                await attempt.respond()
                self.attempts.append(attempt)

    def _lease(self, attempt: Attempt) -> float:
        from holdfast.kernel.clock import parse_timestamp

        return (parse_timestamp(attempt.claim.lease_expires_at) - START).total_seconds()

    async def post(self) -> None:
        if not self.attempts:
            return
        # Mostly the newest worker; now and then one that should have stopped.
        attempt = self.attempts[-1] if self.dice.random() < 0.7 else self.dice.choice(self.attempts)
        attempt.renewed()
        sent = self.sent.setdefault((attempt.run, attempt.claim.fence), {})
        sequence = len(sent) + (self.dice.random() < 0.08)
        if sent and self.dice.random() < 0.3:
            sequence = self.dice.choice(sorted(sent))  # again, or altered
        if sequence in sent and self.dice.random() < 0.6:
            rows, rejects = sent[sequence]
        else:
            width = self.dice.choice([0, 1, 3, 6])
            rows = [(self.dice.choice(STATES), self.dice.choice(VALUES)) for _ in range(width)]
            if self.oracle.duplicates == "error" and self.dice.random() < 0.85:
                used = {key for batch, _ in sent.values() for key, _ in batch}
                rows = list({key: (key, value) for key, value in rows if key not in used}.values())
            rejects = []
            if self.dice.random() < 0.12:
                rejects = [self.dice.choice([None, "", *STATES])]
        await self._post(attempt, sequence, rows, rejects)

    async def _post(
        self, attempt: Attempt, sequence: int, rows: list[Row], rejects: list[Rejected]
    ) -> None:
        fence, lease = attempt.claim.fence, self._lease(attempt)
        records = [record(key, value, position=at) for at, (key, value) in enumerate(rows)]
        bad = [
            Reject(response=0, position=at, field="rate", reason="none", key=key_of(state))
            for at, state in enumerate(rejects)
        ]
        expected, receipt = await self.both(
            "post",
            lambda: self.oracle.post(attempt.run, fence, sequence, rows, rejects, lease),
            lambda: attempt.post(records, sequence=sequence, rejects=bad),
        )
        if receipt is not None:
            assert receipt.repeated is expected
            assert (receipt.records, receipt.rejects) == (len(rows), len(rejects))
            self.sent[attempt.run, fence][sequence] = (rows, rejects)

    async def finish(self) -> None:
        if not self.attempts:
            return
        attempt = (
            self.attempts[-1] if self.dice.random() < 0.85 else self.dice.choice(self.attempts)
        )
        attempt.renewed()
        outcome = self.dice.choices(
            ["complete", "partial", "failed", "cancelled", "unchanged"], [12, 2, 1, 1, 1]
        )[0]
        batches = len(self.sent.get((attempt.run, attempt.claim.fence), {}))
        batches += self.dice.random() < 0.05
        cursor = self.dice.choice([None, f"c{self.now}"])
        _, run = await self.both(
            "finish",
            lambda: self.oracle.finish(
                attempt.run, attempt.claim.fence, outcome, batches, cursor, self.now
            ),
            lambda: attempt.finish(outcome, batches=batches, cursor=cursor),
        )
        if run is not None:
            self._compare_run(run)

    async def close(self) -> None:
        if self.attempts and self.dice.random() < 0.8:
            claim = self.dice.choice(self.attempts).claim
        else:
            claim = self.bench.attempt(fence=max(1, self.fence)).claim
        outcome = self.dice.choice(["failed", "cancelled"])
        request = RunClose(
            run=claim.run,
            fence=claim.fence,
            profile=claim.profile,
            profile_digest=claim.digest,
            task=claim.task,
            outcome=outcome,
        )
        _, run = await self.both(
            "close",
            lambda: self.oracle.close(claim.run, claim.fence, outcome),
            lambda: self.bench.service.close(OPERATOR, request),
        )
        if run is not None:
            self._compare_run(run)

    async def wait(self) -> None:
        self.bench.clock.advance(self.dice.choice([0.5, 7, 90]))
        expected = self.oracle.sweep(self.now)
        assert await self.local.sweep(OPERATOR) == expected
        self.outcomes["sweep", "done" if expected else "nothing"] += 1

    async def restart(self) -> None:
        if self.bench.service is not self.local:
            return
        handles = self.local._handles
        self.local = self.bench.service = RecordsService(
            **{name: getattr(handles, name) for name in handles.__dataclass_fields__}
        )

    # --- comparisons --------------------------------------------------------------------------

    def _compare_run(self, run: Run) -> None:
        model = self.oracle.runs[run.id]
        assert (run.status, run.fence, run.attempts) == (model.status, model.fence, model.attempts)
        assert run.publication == model.publication
        if model.final and model.counts:
            assert run.code == model.code
            names = ["records", "new", "changed", "unchanged", "duplicates", "rejects"]
            assert {n: getattr(run, n) for n in names} == {n: model.counts[n] for n in names}
            if model.status == "succeeded":
                assert run.withdrawn == model.counts["absent"]
                assert (run.kept, run.withheld) == (model.counts["kept"], model.counts["withheld"])

    async def compare(self) -> None:
        """What everybody can see: the head, and one other view of it."""
        assert await self._visible(RecordFilter(profile="rates")) == self.oracle.states[-1]
        await self.dice.choice([self._compare_past, self._compare_first, self._compare_runs])()

    async def _compare_past(self) -> None:
        moment = self.dice.uniform(-1, self.now)
        as_of = timestamp(START + timedelta(seconds=moment))
        seen = await self._visible(RecordFilter(profile="rates", as_of=as_of))
        assert seen == self.oracle.at(moment)

    async def _compare_first(self) -> None:
        first = await self._visible(RecordFilter(profile="rates", vintage="first"))
        assert first == self.oracle.first()

    async def _compare_runs(self) -> None:
        page = await self.bench.service.runs(OPERATOR, RunFilter(), limit=1000)
        statuses = {run.id: run.status.value for run in page.items}
        assert statuses == {run: model.status for run, model in self.oracle.runs.items()}
        number = await self.bench.service.publication(OPERATOR, "rates")
        assert number == len(self.oracle.states) - 1

    async def _visible(self, which: RecordFilter) -> dict[str, str]:
        found: dict[str, str] = {}
        cursor = None
        while True:
            page = await self.bench.service.records(
                OPERATOR, which, cursor=cursor, limit=self.dice.choice([2, 100, 100])
            )
            for one in page.items:
                assert one.key[0] not in found
                found[str(one.key[0])] = str(one.measures["rate"].value)
            cursor = page.next
            if cursor is None:
                return found

    async def compare_histories(self) -> None:
        which = RecordFilter(profile="rates", withdrawn=True)
        page = await self.bench.service.records(OPERATOR, which, limit=1000)
        seen = {}
        for one in page.items:
            history = await self.bench.service.record(OPERATOR, one.id)
            seen[one.key[0]] = [
                None if each.withdrawn else each.measures["rate"].value
                for each in history.revisions
            ]
            assert [each.revision for each in history.revisions] == list(
                range(1, len(history.revisions) + 1)
            )
        assert seen == self.oracle.revisions


@pytest.mark.soak
@pytest.mark.parametrize(("mode", "duplicates"), POLICIES)
async def test_service_agrees_with_the_model(
    database: Database, tmp_path: Path, mode: str, duplicates: str
) -> None:
    outcomes: Counter[tuple[str, str]] = Counter()
    # A server takes several times as long for the same; one seed shows that it agrees.
    seeds = SEEDS if database.dialect == "sqlite" else SEEDS[: max(1, len(SEEDS) // 3)]
    for seed in seeds:
        name = f"{mode} {duplicates} seed {seed}"
        async with _bench(database, tmp_path / str(seed), mode, duplicates) as bench:
            outcomes += await _tried(bench, mode, duplicates, name)
    if len(seeds) >= 3:
        wanted = {
            *(("open", code) for code in ("done", "stale-fence", "run-overtaken")),
            *(("post", code) for code in ("done", "stale-fence", "batch-conflict", "run-ended")),
            *((name, "done") for name in ("finish", "close", "sweep")),
        }
        assert wanted <= outcomes.keys(), "an operation never failed, or never succeeded"


async def test_the_client_agrees_with_the_model(sqlite_database: Database, tmp_path: Path) -> None:
    """The same operations through the served routes and the client that speaks to them."""

    async def authenticate(connection: Connection) -> Principal:
        return OPERATOR

    async with _bench(sqlite_database, tmp_path, "snapshot", "error") as bench:
        spec = AppSpec(
            role="aggregator",
            version="0",
            handlers=handlers(bench.service),
            authenticate=authenticate,
            clock=bench.clock,
        )
        async with ApiClient.for_app(create_app(spec)) as api:
            outcomes = await _tried(bench, "snapshot", "error", "client", RecordsClient(api))
        assert {("open", "done"), ("post", "done"), ("finish", "done")} <= outcomes.keys()


def _bench(
    database: Database, folder: Path, mode: str, duplicates: str
) -> AbstractAsyncContextManager[Bench]:
    one = profile(mode=mode, duplicates=duplicates, max_rejects=1)
    return bench_on(database, folder, one, cleaning_rows=3, withdrawal_rows=2)


async def _tried(
    bench: Bench, mode: str, duplicates: str, name: str, client: RecordsClient | None = None
) -> Counter[tuple[str, str]]:
    await _forget(bench.db)
    local: RecordsService = bench.service
    bench.service = client or local
    trial = Trial(bench, local, Oracle(mode, duplicates, 1), random.Random(name))
    steps = [
        trial.post, trial.finish, trial.open_new, trial.take_over,
        trial.open_again, trial.close, trial.wait, trial.restart,
    ]  # fmt: skip
    try:
        for _ in range(STEPS):
            await trial.dice.choices(steps, [40, 10, 10, 9, 10, 2, 5, 1])[0]()
            await trial.compare()
        await trial.compare_histories()
    except BaseException as error:
        error.add_note(f"repeat with: {name}")
        raise
    return trial.outcomes


async def _forget(database: Database) -> None:
    """Empty tables for the next seed."""
    from holdfast.kernel.outbox import outbox
    from holdfast.records import store

    def unit(conn: Any) -> None:
        for table in (
            store.counters, store.runs, store.responses, store.batches, store.revisions,
            store.heads, store.publications, store.seen, store.rejects, store.shapes, store.notices,
            outbox,
        ):  # fmt: skip
            store.remove(conn, table, table.c.tenant == OPERATOR.tenant)

    await database.write(OPERATOR, unit)


async def test_a_receipt_waits_for_the_ledger_and_then_holds(
    database: Database, tmp_path: Path
) -> None:
    async with _bench(database, tmp_path, "snapshot", "error") as bench:
        attempt = bench.attempt()
        await attempt.open()
        await attempt.respond()
        await attempt.post([record("CA", "1"), record("WA", "2")])
        await attempt.finish()
        page = await bench.service.records(OPERATOR, RecordFilter(profile="rates"))
        assert len(page.items) == 2
        with pytest.raises(ReceiptNotYet):
            await bench.service.receipt(OPERATOR, page.items[1].id)
        with pytest.raises(NoSuchRecord):
            await bench.service.receipt(OPERATOR, page.items[1].id, revision=2)
        handles = bench.service._handles
        registered = Event(
            id=EventId(REGISTRATION),
            stream="worker/worker-1",
            type="worker.registered",
            time=bench.clock.now(),
            payload={"worker": "worker-1", "key": PUBLIC_KEY},
        )
        await database.write(OPERATOR, lambda conn: handles.outbox.emit(conn, OPERATOR, registered))
        async with ledger_on(
            database, tmp_path, clock=bench.clock, sealer=EnvelopeSealer(handles.keyring)
        ) as ledger:
            sealed = await database.read(
                OPERATOR, lambda conn: handles.outbox.ready(conn, OPERATOR, BEGINNING, 100)
            )
            await ledger.append_prepared(OPERATOR, [_prepared(entry) for entry in sealed])
            parts = {name: getattr(handles, name) for name in handles.__dataclass_fields__}
            service = RecordsService(**parts | {"ledger": ledger})
            policy = await ledger.trust(OPERATOR)
            for one in page.items:
                found = verify_receipt(await service.receipt(OPERATOR, one.id), policy)
                assert (found.record, (found.content or {})["key"]) == (one.id, one.key)
                assert found.worker_key == PUBLIC_KEY


def test_the_oracle_can_disagree() -> None:
    oracle = Oracle("snapshot", "error", 0)
    oracle.open("r", 1, 10, 0)
    oracle.post("r", 1, 0, [("CA", "1")], [], 10)
    done = oracle.finish("r", 1, "complete", 1, None, 1)
    assert done.status == "succeeded"
    assert oracle.states == [{}, {"CA": "1"}]
    with pytest.raises(RefusedError):
        oracle.post("r", 1, 1, [], [], 10)
    assert msgspec.json.encode(done.counts)
