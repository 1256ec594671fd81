"""Which raw bytes go with an erasure, and which are somebody else's to keep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from holdfast.kernel.database import Database
from holdfast.kernel.errors import NotFound, Unavailable
from holdfast.kernel.objects.orphans import OrphanSweep
from holdfast.kernel.principal import Principal
from holdfast.keyring.model import EraseRequest
from holdfast.keyring.ports import KeyStore, Rows
from holdfast.keyring.subjects import SubjectsService
from holdfast.records import erasing
from holdfast.records.model import Reject
from holdfast.records.store import named_objects
from tests.unit.records.helpers import OPERATOR, Attempt, Bench, bench_on, raw
from tests.unit.records.test_personal import CLINIC, JANE, JOE, visit

T = TypeVar("T")
MAX = "max@example.org"
WARD = msgspec.structs.replace(CLINIC, name="ward")
PLAIN = msgspec.structs.replace(CLINIC, name="plain", subject="", personal=[])
REJECT = Reject(response=0, position=9, field="measures.weight", reason="no number", excerpt="x")


@pytest.fixture
async def bench(database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(database, tmp_path, CLINIC, WARD, PLAIN) as made:
        yield made


@pytest.fixture
def subjects(bench: Bench, tmp_path: Path) -> SubjectsService:
    handles = bench.service._handles
    made = SubjectsService(
        handles.keyring,
        bench.db,
        handles.outbox,
        bench.clock,
        bench.new_id,
        lists=tmp_path,
        backup_days=7,
    )
    made.add_eraser(bench.service)
    return made


def page(*names: str) -> bytes:
    """What a source sends about these people."""
    return f"a page about {' and '.join(names)}".encode()


async def erase(subjects: SubjectsService, who: str) -> None:
    request = EraseRequest(subject=who, reason="asked", even_unknown=True)
    assert (await subjects.erase(OPERATOR, request)).state == "done"


async def begun(bench: Bench, name: str = "clinic", *, fence: int = 1, run: str = "") -> Attempt:
    attempt = bench.attempt(name, fence=fence, run=run or None)
    await attempt.open()
    return attempt


async def collect(
    bench: Bench, *pages: tuple[str, ...], name: str = "clinic", rejects: int = 0
) -> str:
    """A complete run, each page about these people; the run's id."""
    attempt = await begun(bench, name)
    for number, names in enumerate(pages):
        await attempt.respond(number, page(*names))
        records = [visit(who, at, response=number) for at, who in enumerate(names)]
        await attempt.post(records, sequence=number, rejects=[REJECT] * rejects)
    ended = await attempt.finish(batches=len(pages))
    assert ended.status == "succeeded", ended.reason
    return attempt.run


async def fails(bench: Bench, *pages: tuple[str, ...], name: str = "clinic") -> str:
    attempt = await begun(bench, name, fence=2)
    for number, names in enumerate(pages):
        await attempt.respond(number, page(*names))
    await attempt.finish("failed", code="x", reason="y")
    return attempt.run


async def left(bench: Bench, run: str) -> list[bytes]:
    """The raw bytes of the run that are there and can be read."""
    found = []
    for stored in await bench.service.responses(OPERATOR, run):
        with contextlib.suppress(NotFound):
            body = await bench.service.response_body(OPERATOR, run, stored.response.sequence)
            found.append(b"".join([chunk async for chunk in body.chunks]))
    return found


async def plan(bench: Bench, attempt: Attempt) -> dict[str, Any]:
    return (await bench.service.plan(OPERATOR, attempt.grant, attempt.run)).validators


# --- runs that find nothing new -----------------------------------------------------------------


async def test_a_run_does_not_rest_on_bytes_that_were_destroyed(
    bench: Bench, subjects: SubjectsService
) -> None:
    """Nor on what is left of them: whoever asks for the rest alone takes it for all there is."""
    await collect(bench, (JANE,), (JOE,))
    attempt = await begun(bench)
    assert len(await plan(bench, attempt)) == 2
    await erase(subjects, JANE)
    assert await plan(bench, attempt) == {}


async def test_a_run_that_finds_nothing_new_brings_nobody_back(
    bench: Bench, subjects: SubjectsService
) -> None:
    await collect(bench, (JANE, MAX), (JOE,))
    attempt = await begun(bench)  # it has its plan, with both pages in it
    await attempt.respond(1, page(JOE))
    await erase(subjects, JANE)
    await attempt.respond(0, page(JANE, MAX))
    assert (await attempt.finish("unchanged")).status == "unchanged"
    # Of the other page the last complete run has told whom it names.
    assert await left(bench, attempt.run) == [page(JOE)]
    await erase(subjects, MAX)
    assert await left(bench, attempt.run) == [page(JOE)]
    await erase(subjects, JOE)
    assert await left(bench, attempt.run) == []


async def test_what_a_run_with_rejects_brought_stays_where_it_comes_again(
    bench: Bench, subjects: SubjectsService
) -> None:
    """Until the next erasure: so long it stays for that run, and each that finds nothing new would
    else make the next one fetch and map everything."""
    await erase(subjects, JANE)
    first = await collect(bench, (JOE,), rejects=1)
    attempt = await begun(bench)
    await attempt.respond(0, page(JOE))
    await attempt.finish("unchanged")
    assert [await left(bench, run) for run in (first, attempt.run)] == [[page(JOE)]] * 2
    await erase(subjects, MAX)
    assert [await left(bench, run) for run in (first, attempt.run)] == [[], []]


@pytest.mark.parametrize("next_", ["the worker asks again", "the sweeper", "another erasure"])
async def test_what_a_killed_process_did_not_come_to_remove_goes_all_the_same(
    bench: Bench, subjects: SubjectsService, monkeypatch: pytest.MonkeyPatch, next_: str
) -> None:
    class Died(BaseException):
        pass

    async def dies(*_: object) -> None:
        raise Died

    await collect(bench, (JANE,), (JOE,))
    await erase(subjects, JANE)
    assert await bench.service.sweep(OPERATOR) == 0
    failed, same = await begun(bench, fence=2), await begun(bench, "ward", fence=2)
    with monkeypatch.context() as patched:
        patched.setattr(bench.service, "_destroy_responses", dies)
        for attempt, outcome in ((failed, "failed"), (same, "unchanged")):
            await attempt.respond(0, page(JANE, attempt.claim.profile))
            await attempt.respond(1, page(JOE))
            with pytest.raises(Died):
                await attempt.finish(outcome)
            assert len(await left(bench, attempt.run)) == 2
    if next_ == "the sweeper":
        await bench.service.sweep(OPERATOR)
    elif next_ == "another erasure":
        await erase(subjects, MAX)
    else:
        for attempt in (failed, same):
            assert (await attempt.open()).finished_at
    for attempt in (failed, same):
        assert await left(bench, attempt.run) == [page(JOE)]


class Noting:
    """The keyring's store, with a note of each destruction in it and each scrubbing."""

    def __init__(self, store: KeyStore) -> None:
        self.store = store
        self.noted = list[str]()

    def transact(self, unit: Callable[[Rows], T]) -> T:
        def noting(rows: Rows) -> T:
            many = rows.many

            def noted(statement: str, values: list[tuple[Any, ...]]) -> None:
                if values and statement.startswith("DELETE FROM keyring_keys"):
                    self.noted.append("destroyed")
                many(statement, values)

            rows.many = noted  # type: ignore[method-assign]
            return unit(rows)

        return self.store.transact(noting)

    def scrub(self) -> None:
        self.noted.append("scrubbed")
        self.store.scrub()

    def close(self) -> None:
        self.store.close()


async def test_the_keyring_is_scrubbed_once_for_an_erasure_and_not_for_what_comes_later(
    bench: Bench, subjects: SubjectsService
) -> None:
    """Before it is done, after the last response; a source that goes on naming them makes nobody
    wait for it."""
    keyring = bench.service._handles.keyring
    store = keyring._store = Noting(keyring.store)
    first = await collect(bench, (JANE,), (JOE,))
    assert store.noted == []
    await erase(subjects, JANE)
    assert await left(bench, first) == [page(JOE)]
    assert store.noted == ["scrubbed", "destroyed", "scrubbed"]  # first for her own keys
    store.noted.clear()
    named = await collect(bench, (JANE, JOE))
    await fails(bench, (JANE, MAX))
    assert await left(bench, named) == []
    assert store.noted == ["destroyed"] * 2
    await bench.service.sweep(OPERATOR)
    assert "scrubbed" not in store.noted
    await erase(subjects, MAX)
    assert store.noted[-1] == "scrubbed"


# --- whose bytes they are ------------------------------------------------------------------------


async def test_a_run_that_fails_takes_nothing_from_whoever_has_told_of_the_same_bytes(
    bench: Bench, subjects: SubjectsService
) -> None:
    owner = await collect(bench, (JOE,), (MAX,))
    await fails(bench, (JOE,), name="ward")
    await erase(subjects, JANE)
    assert await left(bench, owner) == [page(JOE), page(MAX)]
    failed = await fails(bench, (JOE,), (JANE,), name="ward")
    assert await left(bench, owner) == [page(JOE), page(MAX)]
    assert await left(bench, failed) == [page(JOE)]
    await erase(subjects, JOE)
    assert await left(bench, failed) == []
    assert await left(bench, owner) == [page(MAX)]


@pytest.mark.parametrize(
    ("name", "of"), [("clinic", "clinic"), ("plain", "plain"), ("ward", "clinic")]
)
async def test_who_marks_nobody_or_rejected_rows_has_not_told_whom_they_name(
    bench: Bench, subjects: SubjectsService, name: str, of: str
) -> None:
    await erase(subjects, JANE)
    other = await collect(bench, (JOE,), name=name, rejects=int(name != "plain"))
    assert await left(bench, other) == [page(JOE)]
    bench.profiles.add(msgspec.structs.replace(CLINIC, name="plain"))
    await fails(bench, (JOE,), name=of)
    assert await left(bench, other) == []


async def test_a_run_that_was_taken_over_and_has_rejects_keeps_what_it_brought_twice(
    bench: Bench, subjects: SubjectsService
) -> None:
    await erase(subjects, JANE)
    first = await begun(bench)
    await first.respond(0, page(JOE))
    await first.respond(1, page(MAX))
    second = await begun(bench, fence=2, run=first.run)
    await second.respond(0, page(JOE))
    await second.post([visit(JOE, 1)], rejects=[REJECT])
    assert (await second.finish()).status == "succeeded"
    assert await left(bench, first.run) == [page(JOE)]
    await erase(subjects, MAX)
    assert await left(bench, first.run) == []


# --- bytes that come again meanwhile --------------------------------------------------------------


async def test_a_run_does_not_name_bytes_that_are_destroyed_while_it_finds_them_there(
    bench: Bench, subjects: SubjectsService
) -> None:
    """A row whose bytes are missing stops every backup."""
    await collect(bench, (JANE,))
    attempt = await begun(bench)
    content = page(JANE)

    async def slowly() -> AsyncIterator[bytes]:
        await erase(subjects, JANE)
        yield content

    service, response = bench.service, raw(0, content)
    with pytest.raises(Unavailable) as refused:
        await service.put_response(OPERATOR, attempt.grant, attempt.run, response, slowly())
    assert refused.value.code == "object-collected"
    assert await service.responses(OPERATOR, attempt.run) == []
    await attempt.respond(0, content)
    assert await left(bench, attempt.run) == [content]
    await attempt.post([visit(JANE, 0)])
    assert await left(bench, attempt.run) == []


class Hooked:
    """The objects of the bench, with something that happens after one was removed."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.objects = bench.service._handles.objects
        self._removed = self.objects.delete
        self.then: list[Callable[[], Awaitable[None]]] = []
        monkeypatch.setattr(self.objects, "delete", self._delete)

    async def _delete(self, principal: Principal, digest: str) -> None:
        await self._removed(principal, digest)
        if self.then:
            await self.then.pop()()


def keys_of(bench: Bench, content: bytes) -> int:
    """How many keys there are for these bytes."""
    handles = bench.service._handles
    name = handles.objects.name(OPERATOR, raw(0, content).digest)
    statement = "SELECT id FROM keyring_keys WHERE subject = $1"
    return len(handles.keyring.store.transact(lambda rows: rows.all(statement, name)))


async def test_bytes_that_come_while_they_are_destroyed_are_stored_anew_under_a_name(
    bench: Bench, subjects: SubjectsService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their row was told destroyed with the others, and they stayed, with a key, for ever."""
    await collect(bench, (JANE,))
    early, late = await begun(bench), await begun(bench, "ward")
    content, hooked = page(JANE), Hooked(bench, monkeypatch)
    looked, go_on = asyncio.Event(), asyncio.Event()
    there = hooked.objects.exists

    async def exists(principal: Principal, digest: str) -> bool:
        """The early one has found the way free, and looks what is there once it is removed."""
        if not looked.is_set():
            looked.set()
            await go_on.wait()
        return await there(principal, digest)

    monkeypatch.setattr(hooked.objects, "exists", exists)
    writing = asyncio.create_task(early.respond(0, content))
    await looked.wait()

    async def then() -> None:
        refused = "object-collected"
        with pytest.raises(Unavailable) as at_the_door:
            await late.respond(0, content)
        assert at_the_door.value.code == refused
        assert keys_of(bench, content) == 0
        go_on.set()
        with pytest.raises(Unavailable) as at_the_end:
            await writing
        assert at_the_end.value.code == refused

    hooked.then.append(then)
    await erase(subjects, JANE)
    for attempt in (early, late):
        assert await bench.service.responses(OPERATOR, attempt.run) == []
        await attempt.respond(0, content)
        assert await left(bench, attempt.run) == [content]
    # They have names now, so the next erasure finds them.
    await erase(subjects, MAX)
    assert await left(bench, early.run) == []
    assert not await there(OPERATOR, raw(0, content).digest)
    assert keys_of(bench, content) == 0


async def test_of_two_who_destroy_the_same_bytes_the_later_one_does_so_once_more(
    bench: Bench, subjects: SubjectsService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one lets runs bring them again, which the second one is about to remove."""
    await collect(bench, (JANE, MAX))
    attempt, content = await begun(bench), page(JANE, MAX)
    hooked = Hooked(bench, monkeypatch)

    async def then() -> None:
        await erase(subjects, MAX)
        await attempt.respond(0, content)
        assert await left(bench, attempt.run) == [content]

    hooked.then.append(then)
    await erase(subjects, JANE)
    assert await left(bench, attempt.run) == []
    assert not await hooked.objects.exists(OPERATOR, raw(0, content).digest)
    assert keys_of(bench, content) == 0
    other = await begun(bench, "ward")
    await other.respond(0, content)
    assert await left(bench, other.run) == [content]


@pytest.mark.parametrize("at", ["destroy_objects", "delete", "note_destroyed"])
@pytest.mark.parametrize("next_", ["erasure", "start", "sweep of another process"])
async def test_whoever_dies_while_destroying_keeps_no_run_from_its_bytes_for_ever(
    bench: Bench,
    subjects: SubjectsService,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    next_: str,
) -> None:
    class Died(BaseException):
        pass

    def dies(*_: object, **__: object) -> None:
        raise Died

    run, content = await collect(bench, (JANE,)), page(JANE)
    await bench.service.sweep(OPERATOR)
    attempt, handles = await begun(bench), bench.service._handles
    holders = {"destroy_objects": handles.keyring, "delete": handles.objects}
    with monkeypatch.context() as patched:
        patched.setattr(holders.get(at, erasing), at, dies)
        with pytest.raises(Died):
            await erase(subjects, JANE)
    with pytest.raises(Unavailable):
        await attempt.respond(0, content)
    orphans = OrphanSweep(bench.db, handles.objects, [named_objects], bench.clock)
    if next_ == "erasure":
        await erase(subjects, JANE)
    elif next_ == "start":
        bench.service._looked.clear()
        bench.clock.advance(1)
        await bench.service.sweep(OPERATOR)
    else:
        bench.clock.advance(2 * 3600)
        # It does not lift what rows name still: their bytes are gone, or are to go.
        await orphans.sweep(OPERATOR)
        await collect(bench, (JOE,), name="ward")
        await bench.service.sweep(OPERATOR)
    assert await left(bench, run) == []
    attempt.renewed()
    await attempt.respond(0, content)
    assert await left(bench, attempt.run) == [content]
