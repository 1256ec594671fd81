"""The ledger's promise, on both databases: order, versions, ids, atomicity, proofs, recovery."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.kernel import merkle
from holdfast.kernel.clock import ManualClock, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import (
    Conflict,
    Corrupt,
    Denied,
    HoldfastError,
    Invalid,
    TooLarge,
    Unavailable,
)
from holdfast.kernel.ids import TenantId
from holdfast.kernel.outbox import commitment
from holdfast.kernel.principal import operator
from holdfast.ledger import notes, tree
from holdfast.ledger.errors import (
    AppendPartlyKnown,
    ClockSteppedBack,
    EntryUnknown,
    EventIdReused,
    LedgerReadOnly,
    SizeUnknown,
    VersionConflict,
)
from holdfast.ledger.frames import read_leaf
from holdfast.ledger.log.restarting import Restarted, restart
from holdfast.ledger.model import Append, LedgerStatus, NewEvent, Prepared
from holdfast.ledger.service import LedgerService
from holdfast.ledger.signer import PublishedFile
from holdfast.ledger.store import Published
from tests.support.ledger import NOW, ONE, event, everything, ledger_on, one, verdict
from tests.support.ledger_damage import brought_back, change, damage, flip, kept, lose_tail

OTHER = operator(TenantId("other"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def ledger(database: Database, tmp_path: Path, clock: ManualClock):
    async with ledger_on(database, tmp_path, clock=clock) as made:
        yield made


# --- appending -----------------------------------------------------------------------------------


async def test_what_is_appended_is_read_in_order(ledger: LedgerService) -> None:
    for number in range(3):
        placed = (await ledger.append(ONE, one(number))).events[0]
        assert (placed.position, placed.version) == (number, number + 1)
    found = await everything(ledger)
    assert [(e.position, e.version, e.payload) for e in found] == [
        (0, 1, {"n": 0}),
        (1, 2, {"n": 1}),
        (2, 3, {"n": 2}),
    ]
    assert {entry.subject for entry in found} == {"operator"}
    assert {entry.recorded for entry in found} == {timestamp(NOW)}


async def test_streams_have_versions_of_their_own(ledger: LedgerService) -> None:
    for number in range(9):
        await ledger.append(ONE, one(number, f"notes/{'abc'[number % 3]}"))
    found = (await ledger.read(ONE, stream="notes/b")).items
    assert [(e.position, e.version) for e in found] == [(1, 1), (4, 2), (7, 3)]
    page = await ledger.read(ONE, stream="notes/b", first=2, limit=1)
    assert [e.version for e in page.items] == [2]
    page = await ledger.read(ONE, stream="notes/b", first=2, limit=1, cursor=page.next)
    assert [e.version for e in page.items] == [3]
    assert page.next is None
    assert (await ledger.read(ONE, stream="notes/none")).items == []
    listed = (await ledger.streams(ONE, prefix="notes/")).items
    assert [(each.stream, each.version) for each in listed] == [
        ("notes/a", 3),
        ("notes/b", 3),
        ("notes/c", 3),
    ]


async def test_an_expected_version_must_be_the_one_there_is(ledger: LedgerService) -> None:
    await ledger.append(ONE, one(1, expected=0))
    for wrong in (0, 2, 9):
        with pytest.raises(VersionConflict, match="at version 1") as refused:
            await ledger.append(ONE, one(2, expected=wrong))
        assert refused.value.current == 1
    await ledger.append(ONE, one(2, expected=1))
    assert len(await everything(ledger)) == 2


async def test_of_concurrent_appends_with_an_expected_version_one_wins(
    ledger: LedgerService,
) -> None:
    for turn in range(5):
        wanted = [
            ledger.append(ONE, one(100 * turn + number, expected=turn)) for number in range(20)
        ]
        outcomes = await asyncio.gather(*wanted, return_exceptions=True)
        assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1
        assert all(isinstance(o, VersionConflict) for o in outcomes if isinstance(o, Exception))
    assert len(await everything(ledger)) == 5


async def test_a_version_that_no_stream_can_have_is_none_of_it(ledger: LedgerService) -> None:
    await ledger.append(ONE, one(1))
    for first in (2, 2**53, 10**30):
        assert (await ledger.read(ONE, stream="notes/a", first=first)).items == []


async def test_an_append_to_several_streams_is_whole_or_not_there(ledger: LedgerService) -> None:
    both = Append(events=[event(1, "notes/a"), event(2, "notes/b")], expected={"notes/c": 0})
    assert [p.stream for p in (await ledger.append(ONE, both)).events] == ["notes/a", "notes/b"]
    half = Append(
        events=[event(3, "notes/a"), event(4, "notes/b")], expected={"notes/a": 1, "notes/b": 7}
    )
    with pytest.raises(VersionConflict):
        await ledger.append(ONE, half)
    assert [entry.position for entry in await everything(ledger)] == [0, 1]


async def test_the_same_event_again_is_answered_as_the_first_time(
    ledger: LedgerService, clock: ManualClock
) -> None:
    first = await ledger.append(ONE, one(1, expected=0))
    clock.advance(5)
    again = await ledger.append(ONE, one(1, expected=0))
    assert again.repeated
    assert again.events == first.events
    together = await asyncio.gather(*(ledger.append(ONE, one(2)) for _ in range(10)))
    assert len({answer.events[0].position for answer in together}) == 1
    assert len(await everything(ledger)) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"payload": {"n": 2}},
        {"type": "note.changed"},
        {"stream": "notes/b"},
        {"time": "2020-01-01T00:00:00Z"},
    ],
)
async def test_an_id_with_other_content_is_a_conflict(ledger: LedgerService, changed) -> None:
    await ledger.append(ONE, one(1))
    with pytest.raises(EventIdReused):
        await ledger.append(ONE, Append(events=[event(1, **changed)]))
    assert len(await everything(ledger)) == 1


async def test_an_append_of_which_half_is_there_is_refused(ledger: LedgerService) -> None:
    await ledger.append(ONE, one(1))
    with pytest.raises(AppendPartlyKnown):
        await ledger.append(ONE, Append(events=[event(1), event(2)]))
    assert len(await everything(ledger)) == 1


BAD = [
    (Append(events=[]), Invalid),
    (Append(events=[event(1, "Notes")]), Invalid),
    (Append(events=[event(1, "notes/a\n")]), Invalid),
    (Append(events=[event(1, "notes/\x00")]), Invalid),
    (Append(events=[event(1, type="no type")]), Invalid),
    (Append(events=[event(1, id="1")]), Invalid),
    (Append(events=[event(1, time="yesterday")]), Invalid),
    (Append(events=[event(1, time="2026-01-01T00:00:00")]), Invalid),
    (Append(events=[event(1, payload={"x": 0.5})]), Invalid),
    (Append(events=[event(1, payload={"x": 2**60})]), Invalid),
    (Append(events=[event(1), event(1)]), Invalid),
    (Append(events=[event(1)], expected={"notes/a": -1}), Invalid),
    (Append(events=[event(1)], expected={"no stream": 1}), Invalid),
    (Append(events=[event(1, payload={"x": "y" * (1 << 20)})]), TooLarge),
    (Append(events=[event(n) for n in range(1001)]), TooLarge),
    (Append(events=[event(1, "run/0190")]), Denied),
]


@pytest.mark.parametrize(("append", "kind"), BAD)
async def test_bad_appends_are_refused_and_write_nothing(
    ledger: LedgerService, append: Append, kind: type[HoldfastError]
) -> None:
    with pytest.raises(kind):
        await ledger.append(ONE, append)
    assert await everything(ledger) == []


async def test_time_never_runs_backwards_in_the_log(
    ledger: LedgerService, clock: ManualClock
) -> None:
    await ledger.append(ONE, one(1))
    clock._now -= timedelta(seconds=30)
    second = await ledger.append(ONE, one(2))
    assert second.events[0].recorded == timestamp(NOW)
    clock._now -= timedelta(hours=1)
    with pytest.raises(ClockSteppedBack):
        await ledger.append(ONE, one(3))
    assert len(await everything(ledger)) == 2
    clock._now = NOW + timedelta(seconds=1)
    third = await ledger.append(ONE, one(3))
    assert third.events[0].recorded == timestamp(NOW + timedelta(seconds=1))


async def test_a_clock_that_was_ahead_is_accepted_on_the_record_and_appends_go_on(
    ledger: LedgerService, clock: ManualClock
) -> None:
    with pytest.raises(Conflict):
        await ledger.accept_clock(ONE, "nothing is in the log yet")
    clock._now = NOW + timedelta(days=365)
    await ledger.append(ONE, one(1))
    ahead = timestamp(clock.now())
    with pytest.raises(Conflict):
        await ledger.accept_clock(ONE, "nothing is wrong")
    clock._now = NOW
    assert await ledger.check_clock() == "degraded"
    for _ in range(2):  # also once the log was closed by a refusal
        status = await ledger.status(ONE)
        assert (status.writable, status.damage) == (False, None)
        assert "31536000 s behind the last entry" in status.stopped
        with pytest.raises(ClockSteppedBack):
            await ledger.append(ONE, one(2))
        assert await ledger.check_clock() == "degraded"
    with pytest.raises(Invalid):
        await ledger.accept_clock(ONE, " ")
    assert (await ledger.accept_clock(ONE, "the clock was ahead")).writable
    with pytest.raises(Conflict):
        await ledger.accept_clock(ONE, "twice")
    assert await ledger.check_clock() is None
    clock.advance(5)
    # Whoever takes over learns of it from the log.
    tenant_log = ledger.log_of(ONE)
    tenant_log.sequencer._accepted = ""
    tenant_log.leadership.close()
    await ledger.append(ONE, one(2))
    clock._now = NOW + timedelta(days=365, seconds=1)
    await ledger.append(ONE, one(3))
    found = await everything(ledger)
    times = [entry.recorded for entry in found]
    assert times == [ahead, ahead, ahead, timestamp(clock.now())]
    assert found[1].type == "ledger.clock-accepted"
    assert found[1].payload == {
        "reason": "the clock was ahead",
        "clock": timestamp(NOW),
        "last": ahead,
        "behind_seconds": 31536000,
    }
    # What was accepted is that clock, not any.
    clock._now = NOW
    with pytest.raises(ClockSteppedBack):
        await ledger.append(ONE, one(4))


async def test_reading_as_of_a_time_is_reading_what_was_recorded_by_then(
    ledger: LedgerService, clock: ManualClock
) -> None:
    moments = []
    for number in range(12):
        await ledger.append(ONE, one(number, f"notes/{'ab'[number % 2]}"))
        moments.append(clock.now())
        clock.advance(number % 3)
    for moment in [NOW - timedelta(seconds=1), *moments, moments[-1] + timedelta(seconds=59)]:
        all_of_it = await everything(ledger, as_of=moment)
        expected = [e for e in await everything(ledger) if e.recorded <= timestamp(moment)]
        assert all_of_it == expected
        of_stream = (await ledger.read(ONE, stream="notes/a", as_of=moment)).items
        assert of_stream == [e for e in expected if e.stream == "notes/a"]
    ahead = clock.now() + timedelta(minutes=2)
    for asking in (ledger.read(ONE, as_of=ahead), ledger.moment(ONE, ahead)):
        with pytest.raises(Invalid) as raised:
            await asking
        assert raised.value.code == "moment-ahead"
    clock._now = NOW - timedelta(minutes=30)  # what is recorded has come, whatever the clock says
    assert await everything(ledger, as_of=moments[-1]) == await everything(ledger)


async def test_a_follower_sees_everything_once_and_in_order(ledger: LedgerService) -> None:
    for number in range(5):
        await ledger.append(ONE, one(number))
    seen = []

    async def follow() -> None:
        async for entry in ledger.follow(ONE, first=2, seconds=5):
            seen.append(entry.position)
            if len(seen) == 8:
                return

    following = asyncio.create_task(follow())
    for number in range(5, 10):
        await ledger.append(ONE, one(number))
    await asyncio.wait_for(following, 20)
    assert seen == list(range(2, 10))


# --- proofs --------------------------------------------------------------------------------------


async def test_every_entry_is_proven_in_every_size(ledger: LedgerService) -> None:
    for number in range(11):
        await ledger.append(ONE, one(number))
    for size in range(1, 12):
        for position in range(size):
            proof = await ledger.inclusion(ONE, position, size)
            hashed = merkle.leaf_hash(proof.leaf.encode())
            path = [bytes.fromhex(part) for part in proof.path]
            merkle.check_inclusion(hashed, position, size, path, bytes.fromhex(proof.root))
            leaf = read_leaf(proof.leaf.encode())
            opened = commitment(bytes.fromhex(proof.salt), (proof.payload or "").encode())
            assert opened.hex() == leaf.commitment
    for first in range(12):
        for second in range(first, 12):
            proof = await ledger.consistency(ONE, first, second)
            if first == 0:
                assert proof.path == []
                continue
            tree.check_consistency(
                first,
                second,
                bytes.fromhex(proof.first_root),
                bytes.fromhex(proof.second_root),
                [bytes.fromhex(part) for part in proof.path],
            )
    with pytest.raises(SizeUnknown):
        await ledger.inclusion(ONE, 3, 12)
    with pytest.raises(SizeUnknown):
        await ledger.consistency(ONE, 3, 12)
    with pytest.raises(EntryUnknown):
        await ledger.inclusion(ONE, 11, 11)
    with pytest.raises(EntryUnknown):
        await ledger.entry(ONE, 11)


async def test_an_event_is_proven_by_its_id_to_its_own_tenant(ledger: LedgerService) -> None:
    placed = [(await ledger.append(ONE, one(number))).events[0] for number in range(3)]
    note = await ledger.checkpoint(ONE)
    for each in placed:
        proof = await ledger.event_proof(ONE, each.id)
        assert (proof.position, proof.size, proof.checkpoint) == (each.position, 3, note)
        assert read_leaf(proof.leaf.encode()).id == each.id
    for principal, event_id in ((OTHER, placed[0].id), (ONE, "0" * 32), (ONE, "")):
        with pytest.raises(EntryUnknown):
            await ledger.event_proof(principal, event_id)
    proofs = await ledger.event_proofs(ONE, [placed[0].id] * 100)
    assert [each.position for each in proofs] == [0] * 100
    for wrong in ([], [placed[0].id] * 101):
        with pytest.raises(Invalid):
            await ledger.event_proofs(ONE, wrong)


async def test_an_event_that_no_checkpoint_holds_yet_is_not_there_yet(
    ledger: LedgerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is committed first; whoever asks in between has to come again, not to despair."""
    for size in (0, 1):
        before = await ledger.checkpoint(ONE)
        placed = (await ledger.append(ONE, one(size))).events[0]

        async def held(note: str = before) -> str:
            return note

        with monkeypatch.context() as patch:
            patch.setattr(ledger.log_of(ONE), "checkpoint", held)
            with pytest.raises(EntryUnknown, match="no checkpoint holds it yet"):
                await ledger.event_proof(ONE, placed.id)
        assert (await ledger.event_proof(ONE, placed.id)).size == size + 1


async def test_tiles_hold_the_tree_and_the_entries(ledger: LedgerService) -> None:
    for at in range(0, 600, 200):
        await ledger.append(ONE, Append(events=[event(n) for n in range(at, at + 200)]))
    leaves = []
    for path in ("entries/000", "entries/001", "entries/002.p/88"):
        data = await ledger.tile(ONE, path)
        while data:
            length = int.from_bytes(data[:2], "big")
            leaves.append(data[2 : 2 + length])
            data = data[2 + length :]
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    assert len(hashes) == 600
    assert await ledger.tile(ONE, "0/000") == b"".join(hashes[:256])
    assert await ledger.tile(ONE, "0/001.p/7") == b"".join(hashes[256:263])
    assert await ledger.tile(ONE, "0/002.p/88") == b"".join(hashes[512:])
    above = [merkle.root(hashes[:256]), merkle.root(hashes[256:512])]
    assert await ledger.tile(ONE, "1/000.p/2") == b"".join(above)
    for missing in ("0/002.p/89", "0/003", "1/000", "2/000.p/1", "0/0", "entries/002", "../x"):
        with pytest.raises(EntryUnknown):
            await ledger.tile(ONE, missing)
    assert (await ledger.status(ONE)).root == merkle.root(hashes).hex()
    proof = await ledger.inclusion(ONE, 300, 599)
    path = [bytes.fromhex(part) for part in proof.path]
    merkle.check_inclusion(hashes[300], 300, 599, path, merkle.root(hashes[:599]))


async def test_checkpoints_are_signed_and_keys_rotate(ledger: LedgerService) -> None:
    await ledger.append(ONE, one(1))
    first = await ledger.checkpoint(ONE)
    assert await ledger.checkpoint(ONE) == first
    await ledger.append(ONE, one(2))
    trust = await ledger.rotate(ONE)
    await ledger.append(ONE, one(3))
    second = await ledger.checkpoint(ONE)
    trust = await ledger.trust(ONE)
    old, new = (notes.VerifierKey.parse(each.key) for each in trust.keys)
    assert [(each.valid_from, each.valid_to) for each in trust.keys] == [(0, 2), (2, None)]
    note, signers = notes.open_note(first, [old, new])
    assert signers == [old]
    assert notes.parse_checkpoint(note.text).size == 1
    note, signers = notes.open_note(second, [old, new])
    assert signers == [new]
    assert notes.parse_checkpoint(note.text).size == 4
    with pytest.raises(notes.NoteRefused):
        notes.open_note(second, [old])
    told = await ledger.entry(ONE, 2)
    assert (told.stream, told.type, told.subject) == (
        "ledger/keys",
        "ledger.key-rotated",
        "operator",
    )
    assert told.payload == {
        "key": trust.keys[1].key,
        "before": trust.keys[0].key,
        "origin": trust.keys[1].origin,
        "valid_from": 2,
    }
    assert (await verdict(ledger)).sound


# --- tenants -------------------------------------------------------------------------------------


async def test_tenants_share_nothing(ledger: LedgerService) -> None:
    await ledger.append(ONE, one(1))
    await ledger.append(OTHER, one(1, payload={"theirs": True}))
    assert [e.payload for e in await everything(ledger, ONE)] == [{"n": 1}]
    assert [e.payload for e in await everything(ledger, OTHER)] == [{"theirs": True}]
    mine, theirs = await ledger.trust(ONE), await ledger.trust(OTHER)
    assert not {key.key for key in mine.keys} & {key.key for key in theirs.keys}
    assert not set(mine.origins) & set(theirs.origins)


# --- starting again ------------------------------------------------------------------------------


async def test_a_ledger_that_is_opened_again_goes_on(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    expected = []
    for turn in range(4):
        async with ledger_on(database, tmp_path, clock=clock) as ledger:
            events = [event(1000 * turn + n, f"notes/{n % 3}") for n in range(150)]
            await ledger.append(ONE, Append(events=events))
            await ledger.append(ONE, Append(events=events))
            expected += [each.id for each in events]
            assert [entry.id for entry in await everything(ledger)] == expected
            found = await verdict(ledger)
            assert (found.sound, found.checked) == (True, len(expected))


async def test_an_index_that_is_lost_is_made_anew(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        for at in range(0, 400, 100):
            events = [event(n, f"notes/{n % 7}") for n in range(at, at + 100)]
            await ledger.append(ONE, Append(events=events))
        before = await everything(ledger), await ledger.status(ONE)
    for lost in (
        "DELETE FROM ledger_tiles WHERE tenant = :tenant",
        "DELETE FROM ledger_index WHERE tenant = :tenant",
        "UPDATE ledger_tiles SET root = hashes WHERE tenant = :tenant",
    ):
        await change(database, lost)
        if "ledger_index" in lost:
            for table in ("streams", "versions", "events", "tiles"):
                await change(database, f"DELETE FROM ledger_{table} WHERE tenant = :tenant")
        async with ledger_on(database, tmp_path, clock=clock) as ledger:
            status = await ledger.status(ONE)
            assert (await everything(ledger), status) == before
            assert (await verdict(ledger)).sound


@pytest.mark.parametrize("how", ["tail", "middle", "byte", "head"])
async def test_a_log_that_lost_something_says_so_and_goes_on_only_under_a_new_origin(
    database: Database, tmp_path: Path, clock: ManualClock, how: str
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        for number in range(10):
            await ledger.append(ONE, one(number))
        await ledger.checkpoint(ONE)
    await damage(database, tmp_path, how)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        with pytest.raises(LedgerReadOnly):
            await ledger.append(ONE, one(10))
        status = await ledger.status(ONE)
        assert not status.writable
        assert status.damage is not None
        assert await ledger.check() == "degraded"
        if how == "tail":
            assert (status.damage.reason, status.damage.first, status.damage.last) == (
                "lost-tail",
                7,
                9,
            )
        unsound = await verdict(ledger)
        assert not unsound.sound
        assert unsound.position == {"tail": 7, "middle": 4, "byte": 5, "head": 10}[how]
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        with pytest.raises(LedgerReadOnly):
            await ledger.append(ONE, one(10))
        after = await ledger.restart(ONE, "the disk of the test")
        assert after.writable
        assert after.origin == "example.org/ledger/default/1"
        kept = {"tail": 7, "middle": 4, "byte": 5, "head": 10}[how]
        found = await everything(ledger)
        assert [entry.payload for entry in found[:kept]] == [{"n": n} for n in range(kept)]
        assert found[kept].type == "ledger.restarted"
        assert found[kept].payload["published_size"] == 10
        await ledger.append(ONE, one(100))
        note, _ = notes.open_note(
            await ledger.checkpoint(ONE),
            [notes.VerifierKey.parse(key.key) for key in (await ledger.trust(ONE)).keys],
        )
        assert notes.parse_checkpoint(note.text).origin == after.origin
        with pytest.raises(Conflict, match="nothing is wrong"):
            await ledger.restart(ONE, "again")


async def test_a_restart_that_broke_off_before_its_first_entry_leaves_the_log_read_only(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    """Nothing in the log would say that there was another one before."""

    def died(made: Restarted) -> Prepared:
        raise RuntimeError(f"before the first entry of {made.origin.origin}")

    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        for number in range(10):
            await ledger.append(ONE, one(number))
        await ledger.checkpoint(ONE)
    await damage(database, tmp_path, "tail")
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        with pytest.raises(RuntimeError, match="default/1"):
            await restart(ledger.log_of(ONE), "the disk of the test", died)
        with pytest.raises(LedgerReadOnly, match="lacks the first entry"):
            await ledger.append(ONE, one(10))
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        with pytest.raises(LedgerReadOnly, match="default/1 lacks the first entry"):
            await ledger.append(ONE, one(10))
        status = await ledger.status(ONE)
        assert status.damage is not None
        assert (status.damage.reason, status.damage.first) == ("restart-broke-off", 7)
        after, *_ = await asyncio.gather(
            ledger.restart(ONE, "once more"),
            *(ledger.append(ONE, one(number)) for number in range(20, 40)),
            return_exceptions=True,
        )
        assert isinstance(after, LedgerStatus), after
        assert after.origin == "example.org/ledger/default/2"
        await ledger.append(ONE, one(50))
        found = await everything(ledger)
        first = found[7]
        assert first.type == "ledger.restarted"
        assert first.payload["before"] == "example.org/ledger/default/1"
        assert first.payload["published_origin"] == "example.org/ledger/default"
        assert (first.payload["size"], first.payload["published_size"]) == (7, 10)
        assert [told(each) for each in first.payload["earlier"]] == [
            ("default/1", "lost-tail", 7, 10, "the disk of the test"),
        ], "what was lost then is told now"
        assert (await verdict(ledger)).sound
    await lose_tail(database, 7)  # and the entry that told it
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await ledger.restart(ONE, "the same disk")
        first = (await everything(ledger))[7]
        assert told(first.payload)[:3] == ("default/3", "lost-tail", 7)
        assert [told(each)[:2] for each in first.payload["earlier"]] == [
            ("default/1", "lost-tail"),
            ("default/2", "restart-broke-off"),
        ]
        await ledger.append(ONE, one(60))
    await flip(database, 8)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await ledger.restart(ONE, "the same disk")
        assert (await everything(ledger))[8].payload["earlier"] == [], "the log has it all"


def told(cites: dict[str, Any]) -> tuple[Any, ...]:
    names = ("damage", "size", "head_size", "reason")
    return (cites["origin"].removeprefix("example.org/ledger/"), *(cites[name] for name in names))


async def test_a_log_that_lost_twice_is_sound_past_what_it_had_told(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        for number in range(6):
            await ledger.append(ONE, one(number))
        await ledger.checkpoint(ONE)  # of more than is left in the end, of less than the first loss
        for number in range(6, 10):
            await ledger.append(ONE, one(number))
    for number, how in ((100, "tail"), (200, "middle")):
        await damage(database, tmp_path, how)
        async with ledger_on(database, tmp_path, clock=clock) as ledger:
            with pytest.raises(LedgerReadOnly):
                await ledger.append(ONE, one(number))
            await ledger.restart(ONE, "the disk of the test")
            for more in range(number, number + 8):
                await ledger.append(ONE, one(more))
                found = await verdict(ledger)
                assert found.sound, found.reason


async def test_nothing_is_signed_below_what_was_published(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    """A restore brings the database and the head file back, not the published sizes."""
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        for number in range(3):
            await ledger.append(ONE, one(number))
        backup = await kept(database)
        for number in range(3, 5):
            await ledger.append(ONE, one(number))
        await ledger.checkpoint(ONE)
    await brought_back(database, backup)
    (tmp_path / "ledger" / "default.head").unlink()
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        with pytest.raises(LedgerReadOnly, match="published"):
            await ledger.append(ONE, one(9))
        with pytest.raises(LedgerReadOnly, match="published"):
            await ledger.checkpoint(ONE)


async def test_a_log_from_before_its_last_checkpoint_gives_no_older_one(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await ledger.append(ONE, one(1))
        await ledger.checkpoint(ONE)
        backup = await kept(database)
        await ledger.append(ONE, one(2))
        await ledger.checkpoint(ONE)
    await brought_back(database, backup)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        with pytest.raises(LedgerReadOnly, match="knows of 2"):
            await ledger.checkpoint(ONE)


async def test_a_checkpoint_whose_release_broke_off_is_not_given_before_the_file_knows_it(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    """Else a log from before it would tell another story under the same origin."""
    published = tmp_path / "published"
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        for number in range(3):
            await ledger.append(ONE, one(number))
        backup = await kept(database)
        await ledger.append(ONE, one(3))
        published.touch()  # a file, where a folder is to be made
        with pytest.raises(Unavailable, match="could not be made durable"):
            await ledger.checkpoint(ONE)
        published.unlink()
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        told = notes.parse_checkpoint(notes.parse_note(await ledger.checkpoint(ONE)).text)
        assert told.size == 4
    assert PublishedFile(published / "default.json").read() == {told.origin: told}
    await brought_back(database, backup)
    (tmp_path / "ledger" / "default.head").unlink()
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        with pytest.raises(LedgerReadOnly, match="published"):
            await ledger.append(ONE, one(9))


async def test_a_size_is_never_published_with_another_root(tmp_path: Path) -> None:
    file = PublishedFile(tmp_path / "default.json")
    first = Published("here", 4, b"\x01" * 32, "", "")
    file.write(first)
    file.write(first)
    other = replace(first, root=b"\x02" * 32)
    with pytest.raises(Corrupt, match="another root"):
        file.write(other)
    for known in (other, replace(other, size=3)):
        file.learn([known])
    assert file.read()["here"].root == first.root
    file.learn([replace(other, size=5)])
    with pytest.raises(Corrupt, match="5 was published before"):
        file.write(first)


async def test_the_newest_checkpoint_is_that_of_the_newest_origin_whatever_the_clock_said(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        for number in range(10):
            await ledger.append(ONE, one(number))
        await ledger.checkpoint(ONE)
    await damage(database, tmp_path, "tail")
    earlier = ManualClock(NOW - timedelta(minutes=10))
    async with ledger_on(database, tmp_path, clock=earlier) as ledger:
        await ledger.restart(ONE, "the disk of the test")
        second = await ledger.checkpoint(ONE)
    await damage(database, tmp_path, "byte")
    async with ledger_on(database, tmp_path, clock=earlier) as ledger:
        with pytest.raises(LedgerReadOnly):
            await ledger.append(ONE, one(20))
        assert await ledger.checkpoint(ONE) == second


@pytest.mark.parametrize("length", [3, 30], ids=["shorter", "longer"])
async def test_a_log_from_before_a_restart_takes_no_name_that_was_published(
    database: Database, tmp_path: Path, clock: ManualClock, length: int
) -> None:
    """Its next origin would have that name, and another tree under it."""
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        for number in range(10):
            await ledger.append(ONE, one(number))
        await ledger.checkpoint(ONE)
        backup = await kept(database)
    await damage(database, tmp_path, "tail")
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        with pytest.raises(LedgerReadOnly):
            await ledger.append(ONE, one(10))
        first = await ledger.restart(ONE, "the disk of the test")
        for number in range(length):
            await ledger.append(ONE, one(100 + number))
        told = notes.parse_checkpoint(notes.parse_note(await ledger.checkpoint(ONE)).text)
        assert told.origin == first.origin
    await brought_back(database, backup)
    (tmp_path / "ledger" / "default.head").unlink()
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        with pytest.raises(LedgerReadOnly, match=f"older than {first.origin}"):
            await ledger.append(ONE, one(10))
        with pytest.raises(LedgerReadOnly, match=f"older than {first.origin}"):
            await ledger.checkpoint(ONE)
        second = await ledger.restart(ONE, "the backup of the test")
        assert second.origin == "example.org/ledger/default/2"
        for number in range(50):
            await ledger.append(ONE, one(200 + number))
        now = notes.parse_checkpoint(notes.parse_note(await ledger.checkpoint(ONE)).text)
        assert now.origin == second.origin
        assert (await verdict(ledger)).sound
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await ledger.append(ONE, one(300))
        assert (await ledger.status(ONE)).writable


async def test_reading_damaged_bytes_is_an_error_never_a_wrong_answer(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        for number in range(8):
            await ledger.append(ONE, one(number))
        await damage(database, tmp_path, "byte")
        with pytest.raises(Corrupt):
            await ledger.read(ONE)
        with pytest.raises(Corrupt):
            await ledger.entry(ONE, 5)
        assert (await ledger.entry(ONE, 4)).payload == {"n": 4}


async def test_a_new_event_without_id_or_time_gets_both(ledger: LedgerService) -> None:
    given = NewEvent(stream="notes/a", type="note.added", payload={})
    first, second = [await ledger.append(ONE, Append(events=[given])) for _ in range(2)]
    assert first.events[0].id != second.events[0].id
    assert (await ledger.entry(ONE, 0)).time == timestamp(NOW)
