"""An event says whom it is about: sealed under their own key, unreadable once they are erased."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from holdfast.kernel.canonical import canonical, decode_strict
from holdfast.kernel.clock import SystemClock, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Invalid, TooLarge, Unsupported
from holdfast.kernel.ids import TenantId, id_source
from holdfast.kernel.outbox import Outbox, commitment
from holdfast.kernel.principal import operator, service
from holdfast.keyring import EnvelopeSealer, Keyring, MasterKeys, open_keyring
from holdfast.keyring.backends import open_store
from holdfast.keyring.errors import SubjectUnknown
from holdfast.keyring.model import EraseRequest
from holdfast.keyring.ports import KeyStore, Rows
from holdfast.keyring.sealer import KeyringPeople
from holdfast.keyring.subjects import SubjectsService
from holdfast.ledger.errors import (
    AppendPartlyKnown,
    EventIdReused,
    SubjectErased,
    VersionConflict,
)
from holdfast.ledger.exporting import export
from holdfast.ledger.frames import read_leaf
from holdfast.ledger.model import Append, NewEvent, Proof, Relay, RelayedEvent
from holdfast.ledger.service import LedgerService
from holdfast.ledger.verifying import verify
from tests.support.ledger import NOW, ONE, event, event_id, everything, ledger_on, one

T = TypeVar("T")
JANE, JOE = "jane.doe@example.org", "joe.bloggs@example.org"


@pytest.fixture
def keyring(tmp_path: Path) -> Iterator[Keyring]:
    store = open_store(f"sqlite:///{tmp_path / 'keyring.db'}")
    yield open_keyring(
        store,
        lambda _: MasterKeys.create(tmp_path / "master.key"),
        SystemClock(),
        new_id="k",
        expected=None,
    )
    store.close()


@pytest.fixture
async def ledger(
    database: Database, keyring: Keyring, tmp_path: Path
) -> AsyncIterator[LedgerService]:
    options = {"sealer": EnvelopeSealer(keyring), "people": KeyringPeople(keyring)}
    async with ledger_on(database, tmp_path, **options) as made:
        yield made


@pytest.fixture
def subjects(database: Database, keyring: Keyring, tmp_path: Path) -> SubjectsService:
    clock = SystemClock()
    outbox = Outbox(EnvelopeSealer(keyring))
    return SubjectsService(
        keyring, database, outbox, clock, id_source(clock), lists=tmp_path / "lists", backup_days=7
    )


def about(number: int, who: str, **more: object) -> NewEvent:
    return event(number, payload={"n": number, "mail": who}, about=who, **more)


async def erase(subjects: SubjectsService, who: str) -> int:
    return (await subjects.erase(ONE, EraseRequest(subject=who, reason="asked"))).keys


async def test_what_is_about_somebody_is_unreadable_once_they_are_erased_and_proofs_hold(
    ledger: LedgerService, subjects: SubjectsService, tmp_path: Path
) -> None:
    await ledger.append(ONE, Append(events=[about(0, JANE), event(1), about(2, JOE)]))
    token = await subjects.token(ONE, JANE)
    found = await everything(ledger)
    assert [entry.payload for entry in found] == [
        {"n": 0, "mail": JANE},
        {"n": 1},
        {"n": 2, "mail": JOE},
    ]
    assert [entry.about for entry in found] == [token, "", await subjects.token(ONE, JOE)]
    assert msgspec.json.decode(msgspec.json.encode(found[1])).get("about") is None
    proofs = [await ledger.inclusion(ONE, position) for position in range(3)]
    with pytest.raises(SubjectUnknown):
        await erase(subjects, JANE.upper())
    assert await erase(subjects, JANE) == 1

    after = await everything(ledger)
    assert [(e.payload, e.erased, e.about) for e in after[:1]] == [(None, True, "")]
    assert after[1:] == found[1:]
    for before in proofs:
        now = await ledger.inclusion(ONE, before.position, before.size)
        assert (now.leaf, now.root, now.path) == (before.leaf, before.root, before.path)
        leaf = read_leaf(before.leaf.encode())
        assert before.payload is not None
        assert commitment(bytes.fromhex(before.salt), before.payload.encode()).hex() == (
            leaf.commitment
        )
    lines = [line async for line in verify(ledger, ONE)]
    assert (lines[-1].sound, lines[-1].erased) == (True, 1)
    exported = [line async for line in export(ledger, ONE)]
    assert [line.payload is None for line in exported[:3]] == [True, False, False]
    assert JANE not in repr(exported)


async def test_nobodys_name_is_stored(
    ledger: LedgerService, database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    named = event(0, payload={"n": 0}, about=JANE)
    await ledger.append(ONE, Append(events=[named]))
    assert JANE not in repr([line async for line in export(ledger, ONE)])
    if database.dialect == "sqlite":
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or JANE.encode() not in path.read_bytes(), path
    rows = keyring.store.transact(lambda rows: rows.all("SELECT * FROM keyring_keys"))
    assert JANE not in repr(rows)


async def test_the_same_id_about_another_is_another_event(ledger: LedgerService) -> None:
    first = await ledger.append(ONE, Append(events=[about(0, JANE)]))
    again = await ledger.append(ONE, Append(events=[about(0, JANE)]))
    assert (again.repeated, again.events) == (True, first.events)
    await ledger.append(ONE, one(1))
    for number, who in ((0, ""), (0, JOE), (1, JANE)):
        payload = {"n": 0, "mail": JANE} if number == 0 else {"n": 1}
        with pytest.raises(EventIdReused):
            await ledger.append(ONE, Append(events=[event(number, payload=payload, about=who)]))
    # Both in one commit: the second waits while the first is written, or is planned with it.
    twice = [about(2, JANE), msgspec.structs.replace(about(2, JANE), about=JOE)]
    begun = [await ledger.begin(ONE, Append(events=[each])) for each in twice]
    assert not (await begun[0]).repeated
    with pytest.raises(EventIdReused):
        await begun[1]
    assert len(await everything(ledger)) == 3


async def test_a_key_that_was_rotated_makes_nobody_another(
    ledger: LedgerService, keyring: Keyring
) -> None:
    await ledger.append(ONE, Append(events=[about(0, JANE), event(1)]))
    keyring.rotate_tenant(ONE.tenant)
    while keyring.rewrap().pending:
        pass
    assert (await ledger.append(ONE, Append(events=[about(0, JANE), event(1)]))).repeated


async def test_after_an_erasure_what_was_appended_is_known_and_nothing_more_is_taken(
    ledger: LedgerService, subjects: SubjectsService
) -> None:
    wanted = Append(events=[about(0, JANE), event(1)])
    first = await ledger.append(ONE, wanted)
    await erase(subjects, JANE)
    again = await ledger.append(ONE, wanted)
    assert (again.repeated, again.events) == (True, first.events)
    for other in ("", JOE):
        changed = msgspec.structs.replace(about(0, JANE), about=other)
        with pytest.raises(EventIdReused):
            await ledger.append(ONE, Append(events=[changed]))
    for events in ([about(5, JANE)], [event(6), about(5, JANE)]):
        with pytest.raises(SubjectErased):
            await ledger.append(ONE, Append(events=events))
    with pytest.raises(AppendPartlyKnown):
        await ledger.append(ONE, Append(events=[event(1), event(7)]))
    assert len(await everything(ledger)) == 2


async def test_an_append_is_whole_whoever_its_events_are_about(ledger: LedgerService) -> None:
    events = [about(n, (JANE, JOE, "")[n % 3] or JANE, stream=f"notes/{n % 2}") for n in range(6)]
    with pytest.raises(VersionConflict):
        await ledger.append(ONE, Append(events=events, expected={"notes/0": 0, "notes/1": 1}))
    assert await everything(ledger) == []
    await ledger.append(ONE, Append(events=events, expected={"notes/0": 0, "notes/1": 0}))
    assert [entry.payload for entry in await everything(ledger)] == [e.payload for e in events]


async def test_what_is_refused_makes_nobody_known(
    ledger: LedgerService, subjects: SubjectsService
) -> None:
    for bad in (
        event(0, stream="No Stream", about=JANE),
        event(0, payload={"n": 1.5}, about=JANE),
        event(0, id="no-id", about=JANE),
    ):
        with pytest.raises(Invalid):
            await ledger.append(ONE, Append(events=[bad]))
    with pytest.raises(SubjectUnknown):
        await erase(subjects, JANE)


async def test_nor_does_what_is_refused_for_what_the_log_has(
    ledger: LedgerService, subjects: SubjectsService, keyring: Keyring
) -> None:
    """A version that has moved, an id that is taken, somebody erased, too much at once."""
    taken = [about(0, JOE), event(1)]
    await ledger.append(ONE, Append(events=taken))
    await erase(subjects, JOE)
    known = keyring.describe()
    large = {"n": "x" * 60_000}
    for append, refused in (
        (Append(events=[about(2, JANE)], expected={taken[0].stream: 7}), VersionConflict),
        (Append(events=[about(1, JANE)]), EventIdReused),
        (Append(events=[taken[1], about(3, JANE)]), AppendPartlyKnown),
        (Append(events=[about(4, JANE), about(5, JOE, id="")]), SubjectErased),
        (
            Append(events=[event(n, payload=large, about=JANE, id="") for n in range(200)]),
            TooLarge,
        ),
    ):
        with pytest.raises(refused):
            await ledger.append(ONE, append)
    assert keyring.describe() == known
    with pytest.raises(SubjectUnknown):
        await erase(subjects, JANE)
    # What is not refused is taken, and a repetition of it answered, as ever.
    again = Append(events=[about(2, JANE)], expected={taken[0].stream: 2})
    first = await ledger.append(ONE, again)
    assert (await ledger.append(ONE, again)).events == first.events
    assert await erase(subjects, JANE) == 1


async def test_what_is_expected_counts_what_is_in_line_before(ledger: LedgerService) -> None:
    """The second is begun while the first, which brings its version, is on its way."""
    first, second = about(0, JANE), about(1, JOE)
    begun = [
        await ledger.begin(ONE, Append(events=[each], expected={each.stream: version}))
        for version, each in enumerate((first, second))
    ]
    assert [(await each).events[0].version for each in begun] == [1, 2]


async def test_another_tenant_knows_nobody_of_this_one(
    ledger: LedgerService, subjects: SubjectsService
) -> None:
    other = operator(TenantId("other"))
    await ledger.append(ONE, Append(events=[about(0, JANE)]))
    await ledger.append(other, Append(events=[about(0, JANE)]))
    await subjects.erase(other, EraseRequest(subject=JANE, reason="theirs"))
    assert (await everything(ledger, other))[0].erased
    assert (await everything(ledger))[0].payload == {"n": 0, "mail": JANE}


class Watched:
    """A keyring's store that notes who asks it, and can be made not to answer for a while."""

    def __init__(self, store: KeyStore) -> None:
        self.store = store
        self.asked: list[str] = []
        self.answers = threading.Event()
        self.answers.set()
        self.met = threading.Event()
        self.overdue = False

    def transact(self, unit: Callable[[Rows], T]) -> T:
        self.asked.append(threading.current_thread().name)
        if not self.answers.is_set():
            self.met.set()
        self.overdue = not self.answers.wait(10) or self.overdue
        return self.store.transact(unit)

    def scrub(self) -> None:
        self.store.scrub()

    def close(self) -> None:
        self.store.close()


@pytest.fixture
def watched(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> Watched:
    store = Watched(keyring.store)
    monkeypatch.setattr(keyring, "_store", store)
    return store


async def test_the_keys_of_a_page_are_asked_for_at_once_and_never_in_the_loop(
    ledger: LedgerService, watched: Watched
) -> None:
    events = [about(n, f"p{n % 7}@example.org") for n in range(40)]
    await ledger.append(ONE, Append(events=events[:20]))
    await ledger.append(ONE, Append(events=events[20:]))
    proof = await ledger.inclusion(ONE, 3)
    for reading in (
        ledger.read(ONE, limit=40),
        ledger.read(ONE, stream=proof_stream(proof), limit=40),
        ledger.inclusion(ONE, 3, 40),
        ledger.append(ONE, Append(events=events[:20])),
    ):
        repeats = reading.__name__ == "append"
        watched.asked.clear()
        await reading
        assert repeats or len(watched.asked) == 1
        assert watched.asked
        assert all(name.startswith("keyring") for name in watched.asked), watched.asked
    watched.asked.clear()
    lines = [line async for line in export(ledger, ONE)]
    assert (len(lines), len(watched.asked)) == (41, 2), "one for each commit"


def proof_stream(proof: Proof) -> str:
    return read_leaf(proof.leaf.encode()).stream


async def test_a_keyring_that_does_not_answer_holds_up_what_is_about_people_alone(
    ledger: LedgerService, watched: Watched
) -> None:
    await ledger.append(ONE, one(0))
    watched.answers.clear()
    waiting = [
        asyncio.create_task(ledger.append(ONE, Append(events=[about(100 + n, JANE)])))
        for n in range(40)  # more than threads of the default pool
    ]
    try:
        assert await asyncio.to_thread(watched.met.wait, 10)
        for number in range(1, 6):
            await ledger.append(ONE, one(number))
        assert (await ledger.read(ONE)).items[-1].payload == {"n": 5}
        assert not watched.overdue, "they had to wait for the keyring"
    finally:
        watched.answers.set()
    assert len(await asyncio.gather(*waiting)) == 40


async def test_the_key_that_payloads_are_sealed_under_is_never_asked_for_in_the_loop(
    ledger: LedgerService, keyring: Keyring, watched: Watched
) -> None:
    """Nor does an append come before one that was begun before it and waits for that key."""
    relayed = relayable(50)
    for number, doing in enumerate(
        (
            lambda: ledger.append(ONE, one(1)),
            lambda: ledger.relay(service("registry", ONE.tenant), relayed),
            lambda: ledger.rotate(ONE),
        )
    ):
        keyring._current.clear()  # as it is once a minute
        watched.asked.clear()
        await doing()
        assert watched.asked, number
        assert all(name.startswith("sealing") for name in watched.asked), watched.asked
    keyring._current.clear()
    watched.answers.clear()
    first = await ledger.begin(ONE, one(2))
    assert await asyncio.to_thread(watched.met.wait, 10)
    second = await ledger.begin(ONE, one(3))
    watched.answers.set()
    placed = [(await each).events[0].position for each in (first, second)]
    assert placed == sorted(placed)
    assert not watched.overdue


def relayable(number: int) -> Relay:
    """An event of a role's outbox, as it comes from another process."""
    payload = canonical({"n": number})
    salt = bytes(32)
    return Relay(
        events=[
            RelayedEvent(
                id=event_id(number),
                stream="profile/a",
                type="profile.published",
                time=timestamp(NOW),
                subject="operator",
                request_id="",
                about="",
                length=len(payload),
                commitment=commitment(salt, payload).hex(),
                payload={"n": number},
                salt=salt.hex(),
            )
        ]
    )


async def test_a_ledger_without_a_keyring_says_so(
    ledger: LedgerService, database: Database, tmp_path: Path
) -> None:
    bare = LedgerService(replace(ledger._parts, people=None), id_source(SystemClock()))
    with pytest.raises(Unsupported):
        await bare.append(ONE, Append(events=[about(0, JANE)]))
    await bare.close()


def test_a_name_is_bounded() -> None:
    said = b'{"stream":"notes/a","type":"note.added","payload":{},"about":"%s"}'
    assert decode_strict(said % b"x")
    msgspec.json.decode(said % (b"x" * 500), type=NewEvent)
    for bad in (b"x" * 501, b"\\ud800"):
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(said % bad, type=NewEvent)
