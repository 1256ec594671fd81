"""What holds of tasks whatever is done to them in whatever order: the units of work themselves, on
SQLite in memory, driven by hypothesis."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from pysqlite3 import dbapi2
from sqlalchemy import create_engine, text

from holdfast.fleet import rules, store, tasks, worker_store
from holdfast.fleet.fates import PUBLIC_STATUS, Backoff, Ended, decide, fail, give_up
from holdfast.fleet.model import Complete, Task, TaskStatus
from holdfast.kernel.clock import timestamp
from holdfast.kernel.database import metadata
from holdfast.kernel.errors import Conflict, HoldfastError
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import service
from tests.support.fleet import START, QuietSealer, numbered_ids

PRINCIPAL = service("coordinator")
TENANT = PRINCIPAL.tenant
BACKOFF = Backoff(first_seconds=10, most_seconds=100)
FINAL = {TaskStatus.SUCCEEDED, TaskStatus.DEAD, TaskStatus.CANCELLED}
WORKERS = ("w1", "w2")


class TaskMachine(RuleBasedStateMachine):
    """Submits, claims, ends, cancels, expires; remembers just enough to know what must hold."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        engine = create_engine("sqlite://", module=dbapi2)
        self.connection = engine.connect()
        metadata.create_all(self.connection)
        self.outbox = Outbox(QuietSealer())
        self.new_id = numbered_ids()
        self.now = START
        self.highest = 0
        self.final: dict[str, tuple[Any, ...]] = {}
        self.accepted: dict[tuple[str, int], str] = {}
        for worker in WORKERS:
            self._register(worker)

    def teardown(self) -> None:
        self.connection.close()
        self.connection.engine.dispose()

    def _register(self, worker: str) -> None:
        values: dict[str, Any] = {
            "tenant": TENANT,
            "id": worker,
            "name": worker,
            "status": "alive",
            "capabilities": "[]",
            "labels": "{}",
            "region": "",
            "capacity": 1,
            "version": "",
            "secret": b"",
            "pepper": 1,
            "join_token": "",
            "registered_at": timestamp(START),
            "last_beat_at": None,
            "signing_key": "",
            "registration": "",
            "proved": 0,
        }
        worker_store.keep_worker(self.connection, values)

    def _event(self) -> EventId:
        return EventId(self.new_id())

    # --- the operations -----------------------------------------------------------------------

    @rule(
        exclusive=st.sampled_from(["", "one"]),
        attempts=st.integers(1, 3),
        patience=st.none() | st.integers(5, 60),
        count=st.integers(1, 3),
    )
    def submit(self, exclusive: str, attempts: int, patience: int | None, count: int) -> None:
        submissions = []
        for _ in range(count):
            identity = self.new_id()
            moment = timestamp(self.now)
            deadline = None if patience is None else self.now + timedelta(seconds=patience)
            task = Task(
                id=identity,
                kind="collect",
                payload={},
                status=TaskStatus.QUEUED,
                capabilities=[],
                priority=0,
                residency="",
                fence=0,
                attempts=0,
                attempts_max=attempts,
                worker=None,
                created_at=moment,
                available_at=moment,
                deadline=None if deadline is None else timestamp(deadline),
                lease_seconds=30,
                lease_expires_at=None,
                finished_at=None,
                result=None,
                exclusive=exclusive,
            )
            event = Event(
                id=self._event(),
                stream=f"task/{identity}",
                type="task.submitted",
                time=self.now,
                payload={},
            )
            submissions.append(
                tasks.Submission(
                    task, rules.queue_name("collect", [], ""), "", identity, False, event
                )
            )
        answers, _ = tasks.submit(self.connection, PRINCIPAL, self.outbox, submissions, frozenset())
        assert all(isinstance(answer, Task) for answer in answers)
        if exclusive:
            assert len({answer.id for answer in answers if isinstance(answer, Task)}) == 1

    @rule(target=leases, worker=st.sampled_from(WORKERS), limit=st.integers(1, 3))
    def claim(self, worker: str, limit: int) -> Any:
        want = tasks.Want(worker, frozenset({"collect"}), limit)
        [claimed] = tasks.claim(self.connection, TENANT, self.now, [want])
        assert isinstance(claimed, tasks.Leased)
        assert len(claimed.tasks) <= limit
        for task in claimed.tasks:
            assert task.fence > self.highest
            self.highest = task.fence
        return multiple(*((task.id, task.fence, worker) for task in claimed.tasks))

    @rule(
        lease=leases,
        outcome=st.sampled_from(["succeeded", "failed"]),
        thief=st.none() | st.sampled_from(WORKERS),
        later=st.integers(0, 1),
    )
    def complete(
        self, lease: tuple[str, int, str], outcome: Any, thief: str | None, later: int
    ) -> None:
        identity, fence, worker = lease
        before = self._row(identity)
        end = Complete(fence=fence + later, outcome=outcome)
        ending = tasks.Ending(
            identity, thief or worker, end, f"sha256:{outcome}", self._event(), 0.5
        )
        [answer], _ = tasks.complete(
            self.connection, PRINCIPAL, self.outbox, self.now, BACKOFF, [ending]
        )
        held = (
            before.state == "leased"
            and before.fence == fence + later
            and before.worker == ending.worker
        )
        if held:
            assert isinstance(answer, Ended)
            self.accepted[identity, fence + later] = f"{ending.worker}:{outcome}"
        elif isinstance(answer, Ended):
            # The same account of the same lease, told again: nothing changed.
            told = self.accepted.get((identity, fence + later))
            assert told == f"{ending.worker}:{outcome}"
            assert tuple(self._row(identity)) == tuple(before)
        else:
            assert isinstance(answer, HoldfastError)
            assert tuple(self._row(identity)) == tuple(before)

    @rule(lease=leases)
    def cancel(self, lease: tuple[str, int, str]) -> None:
        before = self._row(lease[0])
        try:
            tasks.cancel(
                self.connection,
                PRINCIPAL,
                self.outbox,
                self.now,
                lease[0],
                self._event(),
                "cancelled",
                "",
            )
        except Conflict:
            assert before.state in ("succeeded", "dead")
        else:
            assert self._row(lease[0]).state == "cancelled"

    @rule(seconds=st.sampled_from([1, 10, 31, 60]))
    def pass_time(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        moment = timestamp(self.now)
        chance = random.Random(0)
        expired = store.expired(self.connection, TENANT, moment, 100, lock=True)
        fates = [
            (
                row,
                fail(row, self.now, BACKOFF, jitter=chance.random(), code="x", reason=""),
                self._event(),
                "",
            )
            for row in expired
        ]
        decide(self.connection, PRINCIPAL, self.outbox, self.now, fates)
        late = store.past_deadline(self.connection, TENANT, moment, 100, lock=True)
        ends = [
            (row, give_up(row, self.now, rules.State.DEAD, "late", ""), self._event(), "")
            for row in late
        ]
        decide(self.connection, PRINCIPAL, self.outbox, self.now, ends)

    # --- what must hold -----------------------------------------------------------------------

    def _row(self, identity: str) -> Any:
        return store.find_tasks(self.connection, TENANT, [identity])[identity]

    def _rows(self) -> Any:
        return store.list_tasks(self.connection, TENANT, {}, None, 1000)

    @invariant()
    def what_is_final_never_changes(self) -> None:
        for row in self._rows():
            if PUBLIC_STATUS[rules.State(row.state)] in FINAL:
                assert self.final.setdefault(row.id, tuple(row)) == tuple(row)
                assert row.finished_at is not None
            else:
                assert row.id not in self.final
                assert row.finished_at is None

    @invariant()
    def an_exclusive_name_has_one_unfinished_task(self) -> None:
        unfinished = [
            row for row in self._rows() if row.exclusive and row.state in rules.UNFINISHED
        ]
        assert len(unfinished) <= 1

    @invariant()
    def a_lease_has_a_holder_a_fence_and_an_end_and_nothing_else_has(self) -> None:
        fences = []
        for row in self._rows():
            if row.state == "leased":
                assert row.worker in WORKERS
                assert row.lease_expires_at is not None
                fences.append(row.fence)
            else:
                assert row.lease_expires_at is None
            assert (row.fence > 0) == (row.attempts > 0)
            assert row.attempts <= row.attempts_max
        assert len(set(fences)) == len(fences)

    @invariant()
    def a_run_is_closed_exactly_if_its_worker_did_not_end_it(self) -> None:
        for row in self._rows():
            begun_and_given_up = row.state in ("dead", "cancelled") and row.fence > 0
            assert (row.close_at is not None) == begun_and_given_up

    @invariant()
    def every_end_has_its_event(self) -> None:
        found = self.connection.execute(
            text(
                "SELECT stream, type FROM outbox WHERE tenant = :tenant"
                " AND type IN ('task.succeeded', 'task.dead', 'task.cancelled')"
            ),
            {"tenant": TENANT},
        ).all()
        assert sorted(found) == sorted(
            (f"task/{row.id}", f"task.{row.state}")
            for row in self._rows()
            if row.state in rules.FINAL
        )


TestTaskMachine = TaskMachine.TestCase
TestTaskMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
