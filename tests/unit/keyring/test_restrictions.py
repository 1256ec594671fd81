"""Holds and retentions that a restore of an older keyring does not undo, nor their release."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.kernel.clock import SystemClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Corrupt, Invalid
from holdfast.kernel.ids import DEFAULT_TENANT, id_source
from holdfast.kernel.outbox import Outbox
from holdfast.kernel.principal import operator
from holdfast.keyring import EnvelopeSealer, Keyring, MasterKeys, open_keyring
from holdfast.keyring.backends.schema import NAMES
from holdfast.keyring.errors import SubjectHeld, SubjectRetained
from holdfast.keyring.lines import RESTRICTIONS, add_restrictions, join, read_restrictions
from holdfast.keyring.model import (
    EraseRequest,
    Release,
    Restriction,
    RestrictionLine,
    RetainRequest,
    SubjectRequest,
    only,
)
from holdfast.keyring.ports import KeyStore
from holdfast.keyring.restrictions import merge, releases, restrictions, standing
from holdfast.keyring.subjects import SubjectsService

ME = operator()
TABLES = ("keyring_restrictions", "keyring_releases")


@dataclass
class Stepping(SystemClock):
    """Steps on a second each time it is looked at, or back."""

    steps: random.Random = field(default_factory=lambda: random.Random(0))
    at: datetime = datetime(2026, 11, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self.at += timedelta(seconds=self.steps.choice([1, 1, 1, 0, -5]))
        return self.at


@pytest.fixture
def keyring(store: KeyStore, tmp_path: Path) -> Keyring:
    return open_keyring(
        store,
        lambda _: MasterKeys.create(tmp_path / "master.key"),
        SystemClock(),
        new_id="k",
        expected=None,
    )


def subjects(
    keyring: Keyring, database: Database, lists: Path, clock: SystemClock | None = None
) -> SubjectsService:
    return SubjectsService(
        keyring,
        database,
        Outbox(EnvelopeSealer(keyring)),
        clock or SystemClock(),
        id_source(SystemClock()),
        lists=lists,
        backup_days=7,
    )


def snapshot(store: KeyStore) -> dict[str, list[tuple[Any, ...]]]:
    """What a backup has of holds, retentions and releases."""
    return store.transact(
        lambda rows: {t: rows.all(f"SELECT {', '.join(NAMES[t])} FROM {t}") for t in TABLES}
    )


def bring_back(store: KeyStore, kept: dict[str, list[tuple[Any, ...]]]) -> None:
    def unit(rows: Any) -> None:
        for table, found in kept.items():
            rows.all(f"DELETE FROM {table}")
            places = ", ".join(f"${n}" for n in range(1, len(NAMES[table]) + 1))
            columns = ", ".join(NAMES[table])
            if found:
                rows.many(f"INSERT INTO {table} ({columns}) VALUES ({places})", found)

    store.transact(unit)


async def test_whatever_was_held_or_released_after_a_backup_is_so_after_its_restore(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Random holds, retentions and releases, under a clock that steps back now and then; a keyring
    from any moment in between comes back to the last of them, also by half of the file."""
    chance = random.Random(20261128)
    clock = Stepping(steps=chance)
    service = subjects(keyring, database, tmp_path, clock)
    moments = [snapshot(keyring.store)]
    for number in range(40):
        who = SubjectRequest(subject=chance.choice(["jane", "joe"]), reason=f"case {number}")
        what = chance.choice(["hold", "hold", "release", "release", "retain"])
        if what == "hold":
            await service.hold(ME, who)
        elif what == "release":
            await service.release(ME, who)
        else:
            until = f"20{chance.randint(30, 90)}-01-01T00:00:00Z"
            try:
                await service.retain(
                    ME, RetainRequest(subject=who.subject, reason=who.reason, until=until)
                )
            except Invalid:
                continue
        moments.append(snapshot(keyring.store))
    await service.hold(ME, SubjectRequest(subject="jane", reason="the last"))
    await service.release(ME, SubjectRequest(subject="joe", reason="the last"))
    wanted = (await service.list(ME)).restrictions
    assert sorted(each.kind for each in wanted) == ["hold", "retention", "retention"]
    kept = (tmp_path / RESTRICTIONS).read_bytes()
    for moment in moments:
        bring_back(keyring.store, moment)
        await service.resume([DEFAULT_TENANT])
        assert (await service.list(ME)).restrictions == wanted
        assert (tmp_path / RESTRICTIONS).read_bytes() == kept
    # What the file lacks the keyring has: it is told to the file, and stands.
    lines = kept.splitlines(keepends=True)
    for cut in range(0, len(lines), 5):
        (tmp_path / RESTRICTIONS).write_bytes(b"".join(lines[:cut]))
        await service.resume([DEFAULT_TENANT])
        assert (await service.list(ME)).restrictions == wanted
        bring_back(keyring.store, moments[0])
        await service.resume([DEFAULT_TENANT])
        assert (await service.list(ME)).restrictions == wanted


async def test_a_keyring_from_before_a_hold_or_a_retention_refuses_all_the_same(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    service = subjects(keyring, database, tmp_path)
    before = snapshot(keyring.store)
    await service.hold(ME, SubjectRequest(subject="jane", reason="case 12"))
    await service.retain(
        ME, RetainRequest(subject="joe", reason="tax law", until="2036-01-01T00:00:00Z")
    )
    bring_back(keyring.store, before)
    again = subjects(keyring, database, tmp_path)
    await again.resume([])
    with pytest.raises(SubjectHeld, match="case 12"):
        await again.erase(ME, EraseRequest(subject="jane", reason="x", even_unknown=True))
    with pytest.raises(SubjectRetained, match="tax law"):
        await again.erase(ME, EraseRequest(subject="joe", reason="x", even_unknown=True))


async def test_a_hold_of_before_the_file_was_kept_is_told_to_it(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    service = subjects(keyring, database, tmp_path)
    held = await service.hold(ME, SubjectRequest(subject="jane", reason="case 12"))
    (tmp_path / RESTRICTIONS).unlink()
    await service.resume([DEFAULT_TENANT])
    kept = RestrictionLine(tenant="default", placed=only(Restriction, held))
    assert read_restrictions(tmp_path) == [kept]


def restriction(kind: str, placed: int, until: str = "") -> Restriction:
    return Restriction(
        subject="s",
        kind=kind,  # type: ignore[arg-type]
        reason=f"{placed}",
        until=until,
        placed_by="me",
        placed_at=f"2026-11-{placed:02}T00:00:00.000000Z",
    )


def release(through: int) -> Release:
    moment = f"2026-11-{through:02}T00:00:00.000000Z"
    return Release(subject="s", reason="", through=moment, released_by="", released_at="")


def test_the_stricter_stands_unless_a_later_release_says_otherwise() -> None:
    first, second, third = (restriction("hold", day) for day in (1, 2, 3))
    long = restriction("retention", 1, "2036-01-01T00:00:00.000000Z")
    short = restriction("retention", 5, "2030-01-01T00:00:00.000000Z")
    for placed in itertools.permutations([first, second, third, short, long]):
        for released, hold in (
            ([], third),
            ([release(1), release(2)], third),
            ([release(3)], None),
        ):
            stands, last = standing(placed, released)
            assert stands.get(("s", "hold")) == hold
            assert stands["s", "retention"] == long
            assert last == ({"s": released[-1]} if released else {})


def test_what_one_tenant_is_told_says_nothing_of_another(store: KeyStore) -> None:
    lines = [RestrictionLine(tenant="other", placed=restriction("hold", 1))]
    assert store.transact(lambda rows: merge(rows, "default", lines)) == ([], [], [])
    assert store.transact(lambda rows: restrictions(rows, "other")) == []
    put_back, lifted, lacking = store.transact(lambda rows: merge(rows, "other", lines))
    assert ([e.reason for e in put_back], lifted, lacking) == (["1"], [], [])
    lines.append(RestrictionLine(tenant="other", released=release(1)))
    assert len(store.transact(lambda rows: merge(rows, "other", lines))[1]) == 1
    assert store.transact(lambda rows: restrictions(rows, "other")) == []
    assert store.transact(lambda rows: releases(rows, "other")) == [release(1)]
    assert store.transact(lambda rows: releases(rows, "default")) == []


def test_lists_are_joined_whatever_each_of_them_lacks(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    held = RestrictionLine(tenant="default", placed=restriction("hold", 1))
    freed = RestrictionLine(tenant="default", released=release(1))
    add_restrictions(one, [held])
    add_restrictions(two, [held, freed])
    join(one, [two, tmp_path / "none"])
    assert read_restrictions(one) == [held, freed]
    path = one / RESTRICTIONS
    path.write_bytes(path.read_bytes() + b'{"cut off')
    add_restrictions(one, [held])
    assert read_restrictions(one) == [held, freed, held]
    path.write_bytes(b"junk\n")
    with pytest.raises(Corrupt) as raised:
        read_restrictions(one)
    assert raised.value.code == "restrictions-damaged"
