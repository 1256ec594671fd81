"""Whoever lost the fence changes nothing any more: no index, no origin, no checkpoint."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast.kernel.clock import ManualClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Corrupt
from holdfast.kernel.signing import SigningKey
from holdfast.leases import MemoryLeases
from holdfast.ledger import store
from holdfast.ledger.errors import LedgerReadOnly, NotSequencer
from holdfast.ledger.log.leadership import LEAD_SECONDS
from holdfast.ledger.service import LedgerService
from holdfast.ledger.signer import verifier_of
from tests.support.ledger import NOW, ONE, everything, ledger_on, one, verdict
from tests.support.ledger_damage import COMMITS, EACH, change, filled, flip

SIZE = COMMITS * EACH


@dataclass(frozen=True, slots=True)
class Two:
    """Two instances on one database; the first appends to a log that is filled."""

    first: LedgerService
    second: LedgerService
    clock: ManualClock

    async def first_sleeps(self) -> None:
        """The first one is stopped for longer than its lease, and the second takes over."""
        self.clock.advance(LEAD_SECONDS + 1)
        placed = (await self.second.append(ONE, one(1000, "notes/1"))).events[0]
        assert (placed.position, placed.version) == (SIZE, 87)


@pytest.fixture
async def two(database: Database, tmp_path: Path) -> AsyncIterator[Two]:
    clock = ManualClock(NOW)
    shared: Any = {"clock": clock, "leases": MemoryLeases(clock), "keys": tmp_path / "keys"}
    async with (
        ledger_on(database, tmp_path / "a", holder="a", **shared) as first,
        ledger_on(database, tmp_path / "b", holder="b", **shared) as second,
    ):
        await filled(first)
        yield Two(first, second, clock)


async def index_size(database: Database) -> int:
    return (await database.read(ONE, lambda conn: store.index_state(conn, ONE.tenant))).size


async def nothing_is_lost(ledger: LedgerService) -> None:
    """The index is that of the log, and appends go on where they are to."""
    assert (await ledger.append(ONE, one(1, "notes/1"))).repeated
    placed = (await ledger.append(ONE, one(1001, "notes/1"))).events[0]
    assert (placed.position, placed.version) == (SIZE + 1, 88)
    assert len(await everything(ledger, stream="notes/1")) == 88
    found = await verdict(ledger)
    assert (found.sound, found.checked) == (True, SIZE + 2), found.reason


async def test_an_index_is_not_made_anew_by_whoever_slept_past_its_lease(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovery = two.first.log_of(ONE).recovery
    rebuild = recovery.rebuild

    async def slept(*how: Any) -> Any:
        await two.first_sleeps()
        return await rebuild(*how)

    monkeypatch.setattr(recovery, "rebuild", slept)
    with pytest.raises(NotSequencer):
        await two.first.rebuild(ONE)
    await nothing_is_lost(two.second)


async def test_an_index_that_is_half_made_is_gone_on_with_by_whoever_takes_over(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who began it wakes up, and adds nothing to what the other has made."""
    leadership = two.first.log_of(ONE).leadership
    keep, kept = leadership.keep, 0

    async def slept() -> None:
        nonlocal kept
        kept += 1
        if kept == COMMITS // 2:
            await two.first_sleeps()
            two.clock.advance(-(LEAD_SECONDS + 1))  # it does not even see how late it is
        else:
            await keep()

    monkeypatch.setattr(leadership, "keep", slept)
    with pytest.raises(NotSequencer):
        await two.first.rebuild(ONE)
    await nothing_is_lost(two.second)


@pytest.mark.parametrize("how", ["forgotten", "300", "7"])
async def test_an_append_adds_to_no_index_that_ends_elsewhere_and_has_it_brought_up(
    two: Two, database: Database, how: str
) -> None:
    """What the index holds is looked at in the append's own transaction, whoever changed it."""
    await two.first.append(ONE, one(1000, "notes/1"))
    if how == "forgotten":
        await database.write(ONE, lambda conn: store.clear_index(conn, ONE.tenant))
    else:
        await change(database, f"UPDATE ledger_index SET size = {how} WHERE tenant = :tenant")
    await nothing_is_lost(two.first)
    assert await index_size(database) == SIZE + 2


class DiedError(Exception):
    """The process is no more."""


async def test_a_restart_that_dies_anywhere_leaves_no_log_that_others_go_on_with(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acknowledged entries are lost with it, which no checkpoint knew of: somebody must hear."""
    clock = ManualClock(NOW)
    shared: Any = {"clock": clock, "leases": MemoryLeases(clock), "keys": tmp_path / "keys"}
    write = database.write
    left = 0

    async def dying(*given: Any, **how: Any) -> Any:
        nonlocal left
        if left == 0:
            raise DiedError
        left -= 1
        return await write(*given, **how)

    size, restarts = 0, 0
    async with ledger_on(database, tmp_path / "b", holder="b", **shared) as second:
        for steps in range(12):  # those that come after make the index anew, a commit at a time
            async with ledger_on(database, tmp_path / f"a{steps}", holder="a", **shared) as first:
                for number in range(3):
                    placed = await first.append(ONE, one(steps * 10 + number))
                    if number == 0:
                        await first.checkpoint(ONE)
                size = placed.events[0].position
                await flip(database, size)
                with pytest.raises(Corrupt):
                    await first.read(ONE, first=size)
                left = steps
                monkeypatch.setattr(database, "write", dying)
                with contextlib.suppress(DiedError):
                    await first.restart(ONE, "the disk of the test")
                    restarts += 1
                monkeypatch.setattr(database, "write", write)
            clock.advance(LEAD_SECONDS + 1)
            if restarts:
                break
            with pytest.raises(LedgerReadOnly):
                await second.append(ONE, one(5000 + steps))
            assert await second.check() == "degraded"
            await second.restart(ONE, "the disk of the test, again")
            assert (await second.entry(ONE, size)).type == "ledger.restarted"
            await second.append(ONE, one(6000 + steps))
            clock.advance(LEAD_SECONDS + 1)
        assert steps > 3
        assert (await verdict(second)).sound


@pytest.mark.parametrize("who", ["the same", "another"])
async def test_a_checkpoint_under_way_is_not_signed_past_the_end_of_its_origin(
    two: Two, database: Database, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """A restart comes in between: what it cites was the last that was told of the old origin."""
    for number in range(1000, 1003):
        await two.first.append(ONE, one(number))
    await flip(database, SIZE + 1)
    published = two.first.log_of(ONE).published
    keep, about_to, goes_on = published.keep, asyncio.Event(), asyncio.Event()

    async def paused(*given: Any) -> bool:
        about_to.set()
        await goes_on.wait()
        return await keep(*given)

    monkeypatch.setattr(published, "keep", paused)
    under_way = asyncio.create_task(two.first.checkpoint(ONE))
    await about_to.wait()
    waiting = asyncio.create_task(two.first.checkpoint(ONE))
    restarting = two.first
    if who == "another":
        two.clock.advance(LEAD_SECONDS + 1)
        restarting = two.second
    await restarting.restart(ONE, "the disk of the test")
    goes_on.set()
    with pytest.raises(NotSequencer):
        await under_way
    rows = await database.read(ONE, lambda conn: store.checkpoints(conn, ONE.tenant))
    cited = (await restarting.entry(ONE, SIZE + 1)).payload
    assert cited is not None
    assert rows["example.org/ledger/default"].size == cited["published_size"] == SIZE
    if who == "the same":
        assert (await waiting).startswith("example.org/ledger/default/1\n")
    else:
        await asyncio.gather(waiting, return_exceptions=True)
    assert (await verdict(restarting)).sound


async def left_behind(two: Two, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is stopped when about to take the fence anew, and the second begins another
    origin meanwhile."""
    for number in range(1000, 1003):
        await two.first.append(ONE, one(number))
    await flip(database, SIZE + 1)
    two.first.log_of(ONE).leadership.close()
    driver = two.first.log_of(ONE).parts.shared.log
    seize = driver.seize

    async def slept(*given: Any) -> int:
        monkeypatch.setattr(driver, "seize", seize)
        two.clock.advance(LEAD_SECONDS + 1)
        assert (await two.second.restart(ONE, "the disk of the test")).size == SIZE + 2
        return await seize(*given)

    monkeypatch.setattr(driver, "seize", slept)


async def test_whoever_slept_through_a_restart_goes_on_under_the_new_origin(
    two: Two, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head file knows of more than is left: of the origin that ended, and that is told."""
    await left_behind(two, database, monkeypatch)
    placed = (await two.first.append(ONE, one(2000))).events[0]
    assert placed.position == SIZE + 2
    two.clock.advance(LEAD_SECONDS + 1)  # the lease is its own again, and its state what it was
    assert (await two.first.checkpoint(ONE)).startswith("example.org/ledger/default/1\n")
    assert await two.first.check() is None
    assert (await verdict(two.first)).sound
    two.clock.advance(LEAD_SECONDS + 1)
    await two.second.append(ONE, one(2001))
    assert (await verdict(two.second)).sound


async def test_a_key_is_not_replaced_by_whoever_slept_meanwhile(
    two: Two, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has signed more under it, which would not be valid any more."""
    await two.first.append(ONE, one(1000))
    load, slept = SigningKey.load_or_create, asyncio.Event()
    loop = asyncio.get_running_loop()

    def paused(*given: Any) -> SigningKey:
        made = load(*given)
        asyncio.run_coroutine_threadsafe(elsewhere(), loop).result(60)
        return made

    async def elsewhere() -> None:
        two.clock.advance(LEAD_SECONDS + 1)
        await two.second.append(ONE, one(1001))
        await two.second.checkpoint(ONE)
        slept.set()

    monkeypatch.setattr(SigningKey, "load_or_create", paused)
    with pytest.raises(NotSequencer):
        await two.first.rotate(ONE)
    assert slept.is_set()
    [key] = (await two.second.trust(ONE)).keys
    assert key.valid_to is None
    assert (await verdict(two.second)).sound


@pytest.mark.parametrize("key", ["there", "lost"])
async def test_a_key_is_replaced_and_told_of_in_the_log_or_neither(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Whatever write the process dies at."""
    clock = ManualClock(NOW)
    write = database.write
    left = 0

    async def dying(*given: Any, **how: Any) -> Any:
        nonlocal left
        if left == 0:
            raise DiedError
        left -= 1
        return await write(*given, **how)

    for steps in range(100):
        async with ledger_on(database, tmp_path, clock=clock) as ledger:
            await ledger.append(ONE, one(steps))
        if key == "lost":
            for path in (tmp_path / "keys").iterdir():
                path.unlink()
        async with ledger_on(database, tmp_path, clock=clock) as ledger:
            left, done = steps, False
            monkeypatch.setattr(database, "write", dying)
            with contextlib.suppress(DiedError):
                await ledger.rotate(ONE)
                done = True
            monkeypatch.setattr(database, "write", write)
        async with ledger_on(database, tmp_path, clock=clock) as ledger:
            with contextlib.suppress(LedgerReadOnly):
                await ledger.open_all()
            keys = await database.read(ONE, lambda conn: store.keys(conn, ONE.tenant))
            told = [e for e in await everything(ledger) if e.type == "ledger.key-rotated"]
            assert len(told) == len(keys) - 1
            for event, made in zip(told, keys[1:], strict=True):
                assert event.payload is not None
                assert event.payload["key"] == verifier_of(made).text()
                assert event.payload["valid_from"] == made.valid_from <= event.position
            if done:
                break
            if not (await ledger.status(ONE)).writable:
                await ledger.rotate(ONE)
    assert steps > 2
    assert done
    async with ledger_on(database, tmp_path, clock=clock) as ledger:
        assert (await verdict(ledger)).sound


@pytest.mark.parametrize("when", ["before the fence", "while looking again"])
async def test_damage_that_another_meets_while_a_log_is_opened_is_seen(
    two: Two, database: Database, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """What was looked at is not what is there by the time that it is gone on with."""
    log = two.first.log_of(ONE)

    async def met_elsewhere() -> None:
        two.clock.advance(1)
        await flip(database, 300)
        with pytest.raises(Corrupt):
            await two.second.read(ONE, first=300, limit=1)

    if when == "before the fence":
        where: Any = log.parts.shared.log
        name = "seize"
        log.leadership.close()
    else:
        where, name = log.soundness, "recompute"
        await flip(database, 20)
        with pytest.raises(Corrupt):
            await two.first.read(ONE, first=25, limit=1)
        await flip(database, 20)  # and back again: it was mended
        log.soundness.look_again()
    whole = getattr(where, name)

    async def slept(*given: Any) -> Any:
        monkeypatch.setattr(where, name, whole)
        if name == "seize":
            await met_elsewhere()
            return await whole(*given)
        found = await whole(*given)
        await met_elsewhere()
        return found

    monkeypatch.setattr(where, name, slept)
    for _ in range(2):
        with pytest.raises(LedgerReadOnly, match="position 300"):
            await two.first.append(ONE, one(2000))
    assert not (await two.first.status(ONE)).writable
    await flip(database, 300)
    two.first.log_of(ONE).soundness.look_again()
    await two.first.append(ONE, one(2000))
    assert (await verdict(two.first)).sound
