"""A log or an index that is damaged where nobody looks: noticed, told, and mended or continued."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from holdfast.kernel.clock import ManualClock, SystemClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, Corrupt, HoldfastError, Unavailable
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import Principal, operator
from holdfast.kernel.telemetry import Metrics
from holdfast.leases import MemoryLeases
from holdfast.ledger import store
from holdfast.ledger.errors import IndexIncomplete, IndexWrong, LedgerReadOnly, NotSequencer
from holdfast.ledger.exporting import export
from holdfast.ledger.frames import damaged
from holdfast.ledger.log import restarting
from holdfast.ledger.log.leadership import LEAD_SECONDS
from holdfast.ledger.looking import look_over
from holdfast.ledger.service import LedgerService
from tests.support.ledger import NOW, ONE, everything, ledger_on, one, verdict
from tests.support.ledger_damage import COMMITS, EACH, change, filled, flip, forge, lose_tail
from tests.support.waiting import until


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


async def meet(ledger: LedgerService, how: str) -> None:
    """Have somebody come upon the commit at 20."""
    if how == "read":
        await ledger.read(ONE, first=25, limit=1)
    elif how == "stream":
        await ledger.read(ONE, stream=f"notes/{25 % 7}")
    elif how == "proof":
        await ledger.inclusion(ONE, 25, 100)
    elif how == "append":
        await ledger.append(ONE, one(25, f"notes/{25 % 7}"))
    elif how == "export":
        async for _ in export(ledger, ONE):
            pass
    else:
        found = await verdict(ledger)
        assert (found.sound, found.position) == (False, 20)
        raise Corrupt("as the others do")


async def stopped(ledger: LedgerService, signed: int = COMMITS * EACH, at: int = 20) -> None:
    """Nothing is appended or signed, and it says so and where."""
    with pytest.raises(LedgerReadOnly, match=f"position {at}"):
        await ledger.append(ONE, one(5000))
    status = await ledger.status(ONE)
    assert status.damage is not None
    assert (status.writable, status.damage.reason, status.damage.first) == (False, "damaged", at)
    assert await ledger.check() == "degraded"
    assert f"\n{signed}\n" in await ledger.checkpoint(ONE)


@pytest.mark.parametrize("how", ["read", "stream", "proof", "append", "export", "verify"])
async def test_damage_that_anybody_meets_stops_the_log_until_the_bytes_are_mended(
    database: Database, tmp_path: Path, clock: ManualClock, how: str
) -> None:
    metrics = Metrics()
    signed = COMMITS * EACH + (how == "export")  # which begins with a checkpoint
    async with ledger_on(database, tmp_path, clock=clock, metrics=metrics) as ledger:
        await filled(ledger)
        await ledger.append(ONE, one(4000))  # not published: nothing is signed any more
        before = await flip(database, 20)
        assert (await ledger.status(ONE)).writable
        assert b"holdfast_ledger_read_only_logs 0.0" in metrics.render()
        with pytest.raises((Corrupt, LedgerReadOnly)):
            await meet(ledger, how)
        assert await ledger.check() == "degraded"
        assert b"holdfast_ledger_read_only_logs 1.0" in metrics.render()
        await stopped(ledger, signed)
        assert (await ledger.read(ONE, first=600)).items
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await ledger.open_all()
        await stopped(ledger, signed)
        await change(
            database,
            "UPDATE ledger_commits SET frame = :frame WHERE tenant = :tenant AND first = 20",
            frame=before,
        )
        await stopped(ledger, signed)  # nobody has looked
        assert (await verdict(ledger)).sound
        await ledger.append(ONE, one(4001))
    await flip(database, 20)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        with pytest.raises((Corrupt, LedgerReadOnly)):
            await meet(ledger, how)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        assert (await ledger.restart(ONE, "the disk of the test")).writable
        assert (await ledger.append(ONE, one(25))).events[0].position == 21
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await ledger.append(ONE, one(26))
        assert await ledger.check() is None


async def test_damage_that_could_not_be_written_down_is_not_forgotten(
    database: Database, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("the database of the test is away")

    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        before = await flip(database, 20)
        with monkeypatch.context() as patch:
            patch.setattr(store, "keep_damage", away)
            with pytest.raises((Corrupt, LedgerReadOnly)):
                await meet(ledger, "read")
            with pytest.raises(HoldfastError):
                await ledger.append(ONE, one(5000))
        await stopped(ledger)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await ledger.open_all()
        await stopped(ledger)  # by now it is written down
        await change(
            database,
            "UPDATE ledger_commits SET frame = :frame WHERE tenant = :tenant AND first = 20",
            frame=before,
        )
        assert (await verdict(ledger)).sound
        await ledger.append(ONE, one(5001))


async def test_damage_that_is_met_while_what_was_not_written_down_is_looked_for_counts(
    database: Database, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("the database of the test is away")

    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        await flip(database, 20)
        soundness = ledger.log_of(ONE).soundness
        look = soundness.recompute

        async def and_then(**how: bool) -> Any:
            monkeypatch.setattr(soundness, "recompute", look)
            found = await look(**how)
            await flip(database, 300)
            with monkeypatch.context() as patch:
                patch.setattr(store, "keep_damage", away)
                with pytest.raises((Corrupt, LedgerReadOnly)):
                    await ledger.read(ONE, first=300, limit=1)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(store, "keep_damage", away)
            with pytest.raises((Corrupt, LedgerReadOnly)):
                await meet(ledger, "read")
        await flip(database, 20)  # and back again: it was mended
        soundness.look_again()
        monkeypatch.setattr(soundness, "recompute", and_then)
        await stopped(ledger, at=300)


@pytest.mark.parametrize("when", ["opened", "renewed"])
@pytest.mark.parametrize("written", [True, False])
async def test_damage_that_is_met_while_a_log_is_opened_or_renewed_stops_it(
    database: Database,
    tmp_path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    written: bool,
) -> None:
    """Whether or not it could be written down then, by a reader that comes in between."""

    def away(*_: object) -> None:
        raise Unavailable("the database of the test is away")

    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        log = ledger.log_of(ONE)
        where: Any = log.recovery if when == "opened" else log.soundness
        name = "recovered" if when == "opened" else "remembered"
        whole = getattr(where, name)

        async def and_then(*given: Any) -> Any:
            monkeypatch.setattr(where, name, whole)
            found = await whole(*given)
            await flip(database, 20)
            with monkeypatch.context() as patch:
                if not written:
                    patch.setattr(store, "keep_damage", away)
                with pytest.raises(Corrupt):
                    await meet(ledger, "read")
            return found

        if when == "opened":
            log.leadership.close()
        else:
            clock.advance(LEAD_SECONDS * 0.6)
        monkeypatch.setattr(where, name, and_then)
        for _ in range(2):
            await stopped(ledger)
        clock.advance(LEAD_SECONDS * 2)
        await stopped(ledger)


async def test_damage_that_a_reader_could_not_write_down_is_told_once_it_can_be(
    database: Database, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("the database of the test is away")

    shared: Any = {"clock": clock, "leases": MemoryLeases(clock), "keys": tmp_path / "keys"}
    async with (
        ledger_on(database, tmp_path / "a", holder="a", **shared) as first,
        ledger_on(database, tmp_path / "b", holder="b", **shared) as second,
    ):
        await filled(first)
        await flip(database, 20)
        with monkeypatch.context() as patch:
            patch.setattr(store, "keep_damage", away)
            with pytest.raises(Corrupt):
                await meet(second, "read")
        note = await second.checkpoint(ONE)  # as it is asked every second
        assert f"\n{COMMITS * EACH}\n" in note
        with pytest.raises((NotSequencer, LedgerReadOnly)):
            await first.append(ONE, one(5000))
        await stopped(first)


@pytest.mark.parametrize("who", ["appends", "reads"])
async def test_damage_that_one_instance_meets_stops_the_one_that_appends(
    database: Database, tmp_path: Path, clock: ManualClock, who: str
) -> None:
    """And whichever of the two verifies that it is mended, that one goes on."""
    shared: Any = {"clock": clock, "leases": MemoryLeases(clock), "keys": tmp_path / "keys"}
    async with (
        ledger_on(database, tmp_path / "a", holder="a", **shared) as first,
        ledger_on(database, tmp_path / "b", holder="b", **shared) as second,
    ):
        await filled(first)
        before = await flip(database, 20)
        with pytest.raises(Corrupt):
            await second.read(ONE, first=25)
        with pytest.raises((NotSequencer, LedgerReadOnly)):
            await first.append(ONE, one(5000))
        await stopped(first)
        status = await second.status(ONE)
        assert status.damage is not None
        assert (status.damage.first, await second.check()) == (20, "degraded")
        await change(
            database,
            "UPDATE ledger_commits SET frame = :frame WHERE tenant = :tenant AND first = 20",
            frame=before,
        )
        await stopped(first)  # nobody has looked
        clock.advance(1)
        assert (await verdict(first if who == "appends" else second)).sound
        await first.append(ONE, one(5000))
        assert (await second.status(ONE)).damage is None
        assert await second.check() is None


async def test_what_is_whole_when_looked_at_again_is_not_damage(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        for position in (20, COMMITS * EACH, 10**6):
            await ledger.log_of(ONE).soundness.met(damaged(position, "it was so"), walked=True)
        await ledger.append(ONE, one(5000))
        assert await ledger.check() is None


class Paced(SystemClock):
    """Each look at the stopwatch is a hundredth of a second after the last; waiting is counted."""

    def __init__(self) -> None:
        self.looked = 0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        self.looked += 1
        return self.looked / 100

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.mark.parametrize("how", ["byte", "commit", "root"])
async def test_damage_is_noticed_though_nobody_reads(
    database: Database, tmp_path: Path, clock: ManualClock, how: str
) -> None:
    metrics, pace = Metrics(), Paced()
    async with ledger_on(database, tmp_path, clock=clock, metrics=metrics) as ledger:
        await filled(ledger)
        tenant_log = ledger.log_of(ONE)
        assert await look_over(tenant_log, pace, ledger.metrics)
        entries = COMMITS * EACH
        assert f"looked_over_entries_total {entries}.0".encode() in metrics.render()
        assert b"looked_over_timestamp_seconds 0.0" not in metrics.render()
        assert pace.slept == pytest.approx([0.19] * len(pace.slept))
        assert await ledger.check() is None
        if how == "byte":
            await flip(database, 20)
        elif how == "commit":
            lost = "DELETE FROM ledger_commits WHERE tenant = :tenant AND first = 20"
            await change(database, lost)
        else:  # a commit that is whole, of another log
            await forge(database, 20)
        assert not await look_over(tenant_log, pace, ledger.metrics)
        await stopped(ledger)
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await stopped(ledger)
        assert await look_over(ledger.log_of(ONE), pace, ledger.metrics), "nothing is ours to look"
        assert (await ledger.restart(ONE, "the disk of the test")).writable
        assert await look_over(ledger.log_of(ONE), pace, ledger.metrics)


async def test_a_log_that_no_look_comes_to_the_end_of_is_not_hidden_by_another(
    database: Database, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise Unavailable("the database is not there")

    never = b"looked_over_timestamp_seconds 0.0"
    metrics, other = Metrics(), operator(TenantId("other"))
    async with ledger_on(database, tmp_path, clock=clock, metrics=metrics) as ledger:
        for who in (ONE, other):
            await ledger.append(who, one(1))
        whole, broken = ledger.log_of(ONE), ledger.log_of(other)
        with monkeypatch.context() as patch:
            patch.setattr(broken.commits, "read", away)
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await look_over(broken, Paced(), ledger.metrics)
                assert await look_over(whole, Paced(), ledger.metrics)
                assert never in metrics.render()
        assert await look_over(broken, Paced(), ledger.metrics)
        assert never not in metrics.render()


@pytest.mark.parametrize(
    "lost",
    [
        "DELETE FROM ledger_events WHERE tenant = :tenant AND position = 5",
        "UPDATE ledger_versions SET position = 8 WHERE tenant = :tenant AND position = 5",
        "DELETE FROM ledger_streams WHERE tenant = :tenant AND stream = 'notes/5'",
        "UPDATE ledger_tiles SET hashes = root WHERE tenant = :tenant",
    ],
)
async def test_an_index_that_is_wrong_is_made_anew_though_nobody_asks(
    database: Database, tmp_path: Path, clock: ManualClock, lost: str
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        await change(database, lost)
        assert await look_over(ledger.log_of(ONE), Paced(), ledger.metrics)
        assert (await verdict(ledger)).sound
        assert (await ledger.append(ONE, one(5, "notes/5"))).repeated


@pytest.mark.parametrize("how", ["byte", "commit"])
async def test_a_restart_continues_from_damage_that_opening_does_not_see(
    database: Database, tmp_path: Path, clock: ManualClock, how: str
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
    if how == "byte":
        await flip(database, 20)
    else:
        await change(database, "DELETE FROM ledger_commits WHERE tenant = :tenant AND first = 20")
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        after = await ledger.restart(ONE, "the disk of the test")
        assert (after.writable, after.origin) == (True, "example.org/ledger/default/1")
        found = await everything(ledger)
        assert [entry.payload for entry in found[:20]] == [{"n": n} for n in range(20)]
        assert found[20].type == "ledger.restarted"
        assert found[20].payload is not None
        assert found[20].payload["damage"] == "damaged"
        assert (await verdict(ledger)).sound
        with pytest.raises(Conflict, match="nothing is wrong"):
            await ledger.restart(ONE, "again")


@pytest.mark.parametrize("how", ["not found", "no room"])
async def test_a_restart_cuts_nothing_that_it_could_not_copy(
    database: Database,
    tmp_path: Path,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    aside = tmp_path / "ledger" / "aside"
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        await flip(database, 20)
        driver = ledger.log_of(ONE).parts.shared.log
        read = driver.read

        async def short(principal: Principal, position: int, *how: int) -> Any:
            return [] if position == 20 else await read(principal, position, *how)

        if how == "not found":
            monkeypatch.setattr(driver, "read", short)
        else:
            aside.write_text("in the way of the folder")
        with pytest.raises((Corrupt, Unavailable)):
            await ledger.restart(ONE, "the disk of the test")
        assert await driver.end(ONE) == COMMITS * EACH
        monkeypatch.setattr(driver, "read", read)
        assert how == "no room" or not list(aside.iterdir())
        if how == "no room":
            aside.unlink()
        clock.advance(1)
        assert (await ledger.restart(ONE, "once more")).size == 21
        [copied] = aside.iterdir()
        assert copied.stat().st_size > 0


async def test_a_restart_is_not_broken_off_by_the_checkpoint_of_every_second(
    database: Database, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that lost its tail is tried anew whenever somebody asks, which takes the fence."""
    asking: list[asyncio.Task[str]] = []
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        await lose_tail(database, 590)
        log = ledger.log_of(ONE)
        log.leadership.close()
        set_aside = restarting._set_aside

        async def and_then(*given: Any) -> str:
            asking.append(asyncio.create_task(ledger.checkpoint(ONE)))
            # It is through, or waits for us.
            await until(lambda: asking[0].done() or bool(log.opening.lock._waiters))
            return await set_aside(*given)

        monkeypatch.setattr(restarting, "_set_aside", and_then)
        await ledger.restart(ONE, "a tail of the test")
        assert (await asking[0]).startswith("example.org/ledger/default/1\n")
        assert (await ledger.entry(ONE, 590)).type == "ledger.restarted"
        assert await ledger.check() is None
        assert (await verdict(ledger)).sound


async def test_a_log_that_is_read_only_says_so_while_it_is_looked_at_anew(
    database: Database, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is whenever somebody asks for a checkpoint or its status: every second."""
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        await lose_tail(database, 590)
        log = ledger.log_of(ONE)
        log.leadership.close()
        assert not (await ledger.status(ONE)).writable
        recovered = log.recovery.recovered
        said: list[Any] = []

        async def and_then(*given: Any) -> Any:
            found = await recovered(*given)
            said.append((await ledger.check(), log.damage and log.damage.reason))
            return found

        monkeypatch.setattr(log.recovery, "recovered", and_then)
        assert not (await ledger.status(ONE)).writable
        assert said == [("degraded", "lost-tail")]


async def test_a_new_origin_says_how_much_of_what_was_lost_before_it_leaves_out(
    database: Database, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarting, "EARLIER_MAX", 2)
    said = []
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        for number in range(5):
            await flip(database, 20)
            clock.advance(1)
            await ledger.restart(ONE, f"restart {number}")
            payload = (await ledger.entry(ONE, 20)).payload
            assert payload is not None
            said.append((len(payload["earlier"]), payload["earlier_left_out"]))
    assert said == [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]


@pytest.mark.parametrize("lost", [True, False])
async def test_a_loss_that_one_head_file_alone_knows_of_is_told_after_the_restart_of_another(
    database: Database, tmp_path: Path, clock: ManualClock, lost: bool
) -> None:
    """Each instance has a head file of its own, and cites that alone, with where the log ended."""
    shared: Any = {"clock": clock, "leases": MemoryLeases(clock), "keys": tmp_path / "keys"}
    end = COMMITS * EACH
    async with ledger_on(database, tmp_path / "a", holder="a", **shared) as first:
        await filled(first)
        for number in range(10):
            await first.append(ONE, one(3000 + number))
    if lost:
        await lose_tail(database, end + 5)
    await flip(database, end + 3)
    async with ledger_on(database, tmp_path / "b", holder="b", **shared) as second:
        await second.restart(ONE, "the disk of the test")
        payload = (await second.entry(ONE, end + 3)).payload
        assert payload is not None
        assert (payload["size"], payload["known_size"]) == (end + 3, end + (5 if lost else 10))
        assert payload["head_size"] is None
        for number in range(20):  # past what is lost
            await second.append(ONE, one(3500 + number))
    async with ledger_on(database, tmp_path / "a", holder="a", **shared) as first:
        if not lost:
            await first.append(ONE, one(4000))
            assert await first.check() is None
            assert (await verdict(first)).sound
            return
        for _ in range(2):
            with pytest.raises(LedgerReadOnly, match=r"knows of 610 entries .* tells of 605"):
                await first.append(ONE, one(4000))
        status = await first.status(ONE)
        assert status.damage is not None
        assert (status.damage.reason, status.damage.first, status.damage.last) == (
            "lost-tail",
            end + 5,
            end + 9,
        )
        assert await first.check() == "degraded"
        found = await verdict(first)
        assert not found.sound
        assert "610" in (found.reason or "")
        await first.restart(ONE, "what is lost is lost")
        payload = (await first.entry(ONE, end + 24)).payload
        assert payload is not None
        assert (payload["damage"], payload["head_size"]) == ("lost-tail", end + 10)
        await first.append(ONE, one(4100))
        assert await first.check() is None
        assert (await verdict(first)).sound
    async with ledger_on(database, tmp_path / "b", holder="b", **shared) as second:
        await second.append(ONE, one(4200))
        assert (await verdict(second)).sound


async def test_an_event_that_was_taken_twice_keeps_its_first_place(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        lost = "DELETE FROM ledger_events WHERE tenant = :tenant AND position = 5"
        await change(database, lost)
        found = await verdict(ledger)
        assert (found.sound, found.position) == (False, 5)
        assert "ledger rebuild" in found.reason
        taken = await ledger.append(ONE, one(5, "notes/5"))
        assert (taken.events[0].position, taken.repeated) == (COMMITS * EACH, False)
        await ledger.append(ONE, one(900, "notes/z"))
        assert not (await verdict(ledger)).sound
        after = await ledger.rebuild(ONE)
        assert (after.size, after.writable) == (COMMITS * EACH + 2, True)
        again = await ledger.append(ONE, one(5, "notes/5"))
        assert (again.events[0].position, again.repeated) == (5, True)
        assert [e.payload for e in await everything(ledger, stream="notes/z")] == [{"n": 900}]
        assert len(await everything(ledger)) == COMMITS * EACH + 2
        found = await verdict(ledger)
        assert (found.sound, found.twice) == (True, [COMMITS * EACH]), found.reason
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        assert (await verdict(ledger)).sound


async def test_a_proof_is_never_made_of_a_damaged_tile(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        where = "WHERE tenant = :tenant AND level = 0 AND number = 1"
        right = await ledger.inclusion(ONE, 3, 520)
        tile = await database.read(ONE, lambda c: store.find_tile(c, ONE.tenant, 0, 1))
        assert tile is not None
        bad = tile[:5] + bytes([tile[5] ^ 1]) + tile[6:]
        await change(database, f"UPDATE ledger_tiles SET hashes = :bad {where}", bad=bad)
        for question in (
            ledger.inclusion(ONE, 300, 520),
            ledger.consistency(ONE, 300, 520),
            ledger.tile(ONE, "0/001"),
        ):
            with pytest.raises(IndexWrong, match="tile 0/1"):
                await question
        assert (await ledger.inclusion(ONE, 3, 520)).root == right.root
        await ledger.rebuild(ONE)
        assert (await ledger.inclusion(ONE, 300, 520)).root == right.root


async def test_an_append_that_the_index_stands_against_says_what_mends_it(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        lost = "DELETE FROM ledger_streams WHERE tenant = :tenant AND stream = 'notes/5'"
        await change(database, lost)
        with pytest.raises(IndexWrong, match="index has other rows") as refused:
            await ledger.append(ONE, one(900, "notes/5"))
        assert "ledger rebuild" in refused.value.hint
        await ledger.rebuild(ONE)
        assert (await ledger.append(ONE, one(900, "notes/5"))).events[0].version == 86
        assert (await verdict(ledger)).sound


@pytest.mark.parametrize("how", ["cancelled", "damaged"])
async def test_a_rebuild_that_breaks_off_is_never_read_from_and_is_gone_on_with(
    database: Database, tmp_path: Path, clock: ManualClock, how: str
) -> None:
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        await filled(ledger)
        truth = await everything(ledger)
        stream = await everything(ledger, stream="notes/3")
        if how == "damaged":
            before = await flip(database, 300)
            with pytest.raises(HoldfastError, match="position 300"):
                await ledger.rebuild(ONE)
            assert await ledger.check() == "degraded"
            assert await everything(ledger, stream="notes/3", first=80) == stream[79:]
            values = "SET frame = :frame WHERE tenant = :tenant AND first = 300"
            await change(database, f"UPDATE ledger_commits {values}", frame=before)
            return

        async def size() -> int:
            return (await database.read(ONE, lambda conn: store.index_state(conn, ONE.tenant))).size

        task = asyncio.create_task(ledger.rebuild(ONE))
        while not 0 < await size() < len(truth):
            assert not task.done()
        # While it is made: by position from the log itself, from the index not at all.
        assert (await ledger.read(ONE, first=590)).items == truth[590:]
        for question in (
            ledger.read(ONE, stream="notes/3", first=80),
            ledger.streams(ONE),
            ledger.event_proof(ONE, truth[590].id),
        ):
            with pytest.raises(IndexIncomplete):
                await question
        task.cancel()
        await asyncio.wait([task])
        assert 0 < await size() < len(truth)
    async with ledger_on(database, tmp_path, clock=clock, holder="next") as ledger:
        assert await everything(ledger) == truth
        with pytest.raises(IndexIncomplete):
            await ledger.read(ONE, stream="notes/3")
        assert (await ledger.append(ONE, one(3, "notes/3"))).repeated
        assert await everything(ledger, stream="notes/3") == stream
        assert (await verdict(ledger)).sound
