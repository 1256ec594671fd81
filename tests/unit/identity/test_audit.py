"""What a door notes: bounded whatever comes, nothing uncounted, nothing secret."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.app.commands.audit import began, wanted
from holdfast.identity import notebook
from holdfast.identity.audit import (
    KINDS_MAX,
    NOBODY,
    REFUSED,
    SYNC_SECONDS,
    VARIOUS,
    Happened,
    Trail,
    network_of,
    stream_of,
)
from holdfast.identity.notebook import AuditNote, Notebook
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Conflict, Invalid, Unavailable
from holdfast.kernel.ids import id_source
from tests.support.waiting import until

NOW = datetime(2026, 11, 27, tzinfo=UTC)


class Kept:
    """Where notes go; it may be away."""

    def __init__(self) -> None:
        self.notes: list[AuditNote] = []
        self.away = False
        self.refuses = self.told = ""

    async def record(self, notes: Sequence[AuditNote]) -> None:
        if self.away:
            raise Unavailable("cannot reach the identity")
        if self.refuses in [note.code for note in notes]:
            raise Invalid("cannot take a note")
        if self.told in [note.code for note in notes]:
            raise Conflict("cannot emit the event", code="event-id-reused")
        self.notes += notes


def trail() -> tuple[Trail, Kept, ManualClock]:
    clock, kept = ManualClock(NOW), Kept()
    return Trail(kept.record, clock, id_source(clock)), kept, clock


def refused(code: str = "token-unknown", address: str = "192.0.2.77", **more: str) -> Happened:
    return Happened(REFUSED, code=code, address=address, **more)


async def test_the_same_again_is_a_count() -> None:
    door, kept, clock = trail()
    for number in range(1000):
        door.note(refused(request_id=f"r-{number}"))
        clock.advance(0.001)
    await door.flush()
    [note] = kept.notes
    assert (note.count, note.request_id, note.subject) == (1000, "r-0", NOBODY)
    assert (note.first, note.last) == ("2026-11-27T00:00:00.000000Z", "2026-11-27T00:00:00.999000Z")
    assert note.network == "192.0.2.0/24"
    await door.flush()
    assert len(kept.notes) == 1


async def test_a_flood_of_different_things_is_bounded_and_all_of_it_is_counted() -> None:
    door, kept, _ = trail()
    for number in range(10_000):
        door.note(refused(code=f"c{number}"))
    await door.flush()
    assert len(kept.notes) == KINDS_MAX + 1
    assert sum(note.count for note in kept.notes) == 10_000
    assert kept.notes[-1].code == VARIOUS
    assert len({note.id for note in kept.notes}) == len(kept.notes)


async def test_while_nobody_takes_them_notes_are_bounded_and_every_one_is_counted() -> None:
    door, kept, clock = trail()
    kept.away = True
    for _ in range(30):
        for number in range(2 * KINDS_MAX):
            door.note(refused(code=f"c{number}"))
        await door.flush()
        clock.advance(5.0)
    assert await door.check() == "degraded"
    kept.away = False
    await door.flush()
    await door.flush()
    assert len(kept.notes) == 2 * (KINDS_MAX + 1)
    assert sum(note.count for note in kept.notes) == 30 * 2 * KINDS_MAX
    assert await door.check() is None


async def test_a_note_that_is_not_one_keeps_no_other_from_being_told_and_is_counted() -> None:
    door, kept, _ = trail()
    kept.refuses = "c3"
    for number in range(5):
        door.note(refused(code=f"c{number}", request_id="r"))
    await door.flush()
    assert [note.code for note in kept.notes] == ["c0", "c1", "c2", VARIOUS, "c4"]
    assert kept.notes[3].request_id == ""
    door.note(refused())
    await door.flush()
    assert len(kept.notes) == 6


async def test_a_note_that_was_told_with_another_count_keeps_no_other_waiting() -> None:
    door, kept, _ = trail()
    kept.told = "c1"
    for number in range(3):
        door.note(refused(code=f"c{number}"))
    await door.flush()
    assert [note.code for note in kept.notes] == ["c0", "c2"]
    door.note(refused(code="c3"))
    await door.flush()
    assert [note.code for note in kept.notes] == ["c0", "c2", "c3"]


# --- on disk


def again(path: Path, kept: Kept, clock: ManualClock) -> Trail:
    """The door in its next life; the last one was killed where it stood."""
    return Trail(kept.record, clock, id_source(clock), Notebook(path))


async def test_a_door_that_is_killed_forgets_nothing_and_tells_nothing_twice(
    tmp_path: Path,
) -> None:
    clock, kept = ManualClock(NOW), Kept()
    door = again(tmp_path / "gateway", kept, clock)
    for number in range(100):
        door.note(refused(code=f"c{number % 3}", request_id=f"r-{number}"))
    kept.away = True
    door = again(tmp_path / "gateway", kept, clock)
    door.note(refused(code="c0"))
    await door.flush()
    door.note(refused(code="c0"))
    # It is killed after the notes were taken and before it could know.
    page, kept.away = (tmp_path / "gateway.handed").read_bytes(), False
    await again(tmp_path / "gateway", kept, clock).flush()
    (tmp_path / "gateway.handed").write_bytes(page)
    door = again(tmp_path / "gateway", kept, clock)
    await door.flush()
    await door.flush()
    first, second, rest = kept.notes[:3], kept.notes[3:6], kept.notes[6:]
    assert first == second
    assert {note.code: note.count for note in first} == {"c0": 35, "c1": 33, "c2": 33}
    assert [(note.code, note.count) for note in rest] == [("c0", 1)]
    assert [note.request_id for note in first] == ["r-0", "r-1", "r-2"]
    await again(tmp_path / "gateway", kept, clock).flush()
    assert len(kept.notes) == 7


async def test_a_line_that_was_cut_off_and_a_full_page_cost_no_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "PAGE_BYTES_MAX", 1000)
    clock, kept = ManualClock(NOW), Kept()
    door = again(tmp_path / "gateway", kept, clock)
    for number in range(500):
        door.note(refused(code=f"c{number % 2}"))
    page = tmp_path / "gateway.open"
    assert page.stat().st_size < 2000
    assert page.stat().st_mode & 0o777 == 0o600
    page.write_bytes(page.read_bytes() + b'{"id": "hal')
    door = again(tmp_path / "gateway", kept, clock)
    door.note(refused(code="c1"))
    door = again(tmp_path / "gateway", kept, clock)
    await door.flush()
    assert {note.code: note.count for note in kept.notes} == {"c0": 250, "c1": 251}


async def test_a_count_that_was_cut_off_counts_for_no_other_note(tmp_path: Path) -> None:
    clock, kept = ManualClock(NOW), Kept()
    door = again(tmp_path / "door", kept, clock)
    for number in range(12):
        door.note(refused(code=f"c{number}"))
    door.note(refused(code="c11"))
    page = tmp_path / "door.open"
    whole = page.read_bytes()
    for cut in (b"1", b"11", b"11 2026"):
        page.write_bytes(whole + cut)
        told = {each.note.code: each.count for each in Notebook(tmp_path / "door").open()}
        assert told == {f"c{number}": 1 + (number == 11) for number in range(12)}


async def test_a_line_that_is_broken_costs_its_own_note_only(tmp_path: Path) -> None:
    clock, kept = ManualClock(NOW), Kept()
    door = again(tmp_path / "door", kept, clock)
    for code in ("c0", "c1", "c2", "c1", "c2", "c2", "c0"):
        door.note(refused(code=code))
    page = tmp_path / "door.open"
    first, *rest = page.read_bytes().splitlines(keepends=True)
    page.write_bytes(first[:20] + b"\n" + b"".join(rest))
    door = again(tmp_path / "door", kept, clock)
    door.note(refused(code="c2"))
    await again(tmp_path / "door", kept, clock).flush()
    assert [(each.code, each.count) for each in kept.notes] == [("c1", 2), ("c2", 4)]


async def test_what_is_longer_than_a_note_may_be_is_cut_and_survives_a_kill(
    tmp_path: Path,
) -> None:
    clock, kept = ManualClock(NOW), Kept()
    door = again(tmp_path / "door", kept, clock)
    door.note(refused(code="c" * 300, subject="s" * 300, request_id="r" * 300))
    door = again(tmp_path / "door", kept, clock)
    door.note(refused(code="c" * 300, subject="s" * 300))
    await door.flush()
    assert [(each.code, each.count) for each in kept.notes] == [("c" * 200, 2)]


async def test_a_page_that_cannot_be_written_is_told_of_and_written_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, kept = ManualClock(NOW), Kept()
    door = again(tmp_path / "gateway", kept, clock)
    door.note(refused(code="c0"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(notebook, "_write_all", full)
        door.note(refused(code="c1"))
        assert await door.check() == "degraded"
    door.note(refused(code="c1"))
    assert await door.check() is None
    await again(tmp_path / "gateway", kept, clock).flush()
    assert {note.code: note.count for note in kept.notes} == {"c0": 1, "c1": 2}


@pytest.mark.parametrize("failing", ["_write_all", "_sync"])
async def test_a_disk_that_is_well_again_is_found_out_though_nothing_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    kept, clock = Kept(), ManualClock(NOW)
    pages = Notebook(tmp_path / "door")
    door = Trail(kept.record, clock, id_source(clock), pages)

    def fails(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(notebook, failing, fails)
        door.note(refused())
        for _ in range(3):
            await pages.sync()
            assert await door.check() == "degraded"
    await pages.sync()
    assert await door.check() is None
    assert [each.count for each in map(notebook.note_of, pages.open())] == [1]
    pages.close()
    assert len(Notebook(tmp_path / "door").open()) == 1


async def test_notes_go_to_the_disk_while_whoever_takes_them_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked, answer = ManualClock(NOW), asyncio.Event(), asyncio.Event()
    synced: list[Path | None] = []

    async def record(_: Sequence[AuditNote]) -> None:
        asked.set()
        await answer.wait()

    def sync(descriptor: int, handed: Path | None, _: Path) -> None:
        os.close(descriptor)
        synced.append(handed)

    monkeypatch.setattr(notebook, "_sync", sync)
    door = Trail(record, clock, id_source(clock), Notebook(tmp_path / "door"))
    door.note(refused(code="c0"))
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(door.loop())
        await asked.wait()
        try:
            for number in range(3):
                door.note(refused(code=f"c{number}"))

                def once_more(count: int = len(synced)) -> bool:
                    clock.advance(SYNC_SECONDS)
                    return len(synced) > count

                await until(once_more)
        finally:
            answer.set()
            loop.cancel()


@pytest.mark.parametrize("failing", ["open", "replace"])
@pytest.mark.parametrize("taken", [True, False])
async def test_a_page_that_cannot_be_turned_is_mended_and_a_kill_forgets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, *, taken: bool
) -> None:
    kept, clock = Kept(), ManualClock(NOW)
    pages = Notebook(tmp_path / "door")
    door = Trail(kept.record, clock, id_source(clock), pages)
    door.note(refused(code="c0"))
    kept.away = not taken

    def fails(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(*{"open": (os, "open"), "replace": (Path, "replace")}[failing], fails)
        await door.flush()
        assert await door.check() == "degraded"
        door.note(refused(code="c1"))
        assert await door.check() == "degraded"
    door.note(refused(code="c1"))
    await pages.sync()
    assert await door.check() is None
    # It is killed here, and once more before anything was taken.
    kept.away = False
    door = again(tmp_path / "door", kept, clock)
    door = again(tmp_path / "door", kept, clock)
    await door.flush()
    await door.flush()
    assert {each.id: (each.code, each.count) for each in kept.notes} == {
        kept.notes[0].id: ("c0", 1),
        kept.notes[-1].id: ("c1", 2),
    }
    assert len(kept.notes) == 2


async def test_a_page_that_lacks_a_note_is_not_handed_over_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, clock = Kept(), ManualClock(NOW)
    pages = Notebook(tmp_path / "door")
    door = Trail(kept.record, clock, id_source(clock), pages)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(notebook, "_write_all", full)
        door.note(refused())
    kept.away = True
    await door.flush()
    assert await door.check() is None
    # It is killed before anything else was written.
    kept.away = False
    await again(tmp_path / "door", kept, clock).flush()
    assert [each.count for each in kept.notes] == [1]


async def test_a_note_that_is_on_both_pages_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, clock = Kept(), ManualClock(NOW)
    door = again(tmp_path / "door", kept, clock)
    for code in ("c0", "c0", "c1"):
        door.note(refused(code=code))
    # It was killed between writing one page anew and the other.
    (tmp_path / "door.handed").write_bytes((tmp_path / "door.open").read_bytes())
    door = again(tmp_path / "door", kept, clock)
    door.note(refused(code="c2"))
    door.note(refused(code="c2"))
    door = again(tmp_path / "door", kept, clock)
    await door.flush()
    await door.flush()
    assert [(each.code, each.count) for each in kept.notes] == [("c0", 2), ("c1", 1), ("c2", 2)]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("", ""),
        ("<script>", ""),
    ],
)
def test_an_address_is_told_as_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("subject", "stream"),
    [
        ("operator", "access/operator"),
        ("0190a1b2-0000-7000-8000-000000000000", "access/0190a1b2-0000-7000-8000-000000000000"),
        ("T-Ab", "access/t-ab"),
        ("a/../b", "access/other"),
        ("", "access/other"),
        ("é", "access/other"),
        ("x" * 101, "access/other"),
    ],
)
def test_every_subject_has_a_stream_that_is_a_name(subject: str, stream: str) -> None:
    assert stream_of(subject) == stream


def test_since_is_a_duration_or_a_time() -> None:
    assert began("7d", NOW) == NOW - timedelta(days=7)
    assert began("90m", NOW) == NOW - timedelta(minutes=90)
    assert began("2026-11-01T00:00:00Z", NOW) == datetime(2026, 11, 1, tzinfo=UTC)
    for bad in ("", "d", "7", "-1d", "yesterday", "99999999999d", "7 d"):
        with pytest.raises(Invalid):
            began(bad, NOW)


def test_with_a_name_everything_that_it_did_is_wanted_and_else_what_is_about_access() -> None:
    someone = frozenset({"operator", "0190a1b2"})
    assert wanted("profile.published", "operator", someone, "")
    assert wanted("profile.published", "0190a1b2-0000", someone, "")
    assert not wanted("profile.published", "operators", someone, "")
    assert not wanted("api-key.created", "other", someone, "")
    assert wanted("api-key.created", "other", frozenset(), "")
    assert not wanted("profile.published", "operator", frozenset(), "")
    assert wanted("profile.published", "operator", frozenset(), "profile.")
    assert not wanted("api-key.created", "operator", someone, "access.")
