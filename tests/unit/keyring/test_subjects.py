"""Erasing a subject, what refuses it, and taking it up again after a crash or a restore."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import asyncpg
import msgspec
import pytest

from holdfast.app.backup.create import dump_tables, load_tables
from holdfast.kernel.clock import Clock, ManualClock, SystemClock
from holdfast.kernel.database import Database
from holdfast.kernel.errors import Corrupt, Invalid, Unavailable
from holdfast.kernel.ids import DEFAULT_TENANT, TenantId, id_source
from holdfast.kernel.outbox import BEGINNING, Entry, Outbox, Sealed
from holdfast.kernel.principal import Principal, operator
from holdfast.keyring import EnvelopeSealer, KeyDestroyed, Keyring, MasterKeys, open_keyring
from holdfast.keyring.backends import open_store
from holdfast.keyring.backends.postgresql import PostgresKeyStore
from holdfast.keyring.copies import note_copies
from holdfast.keyring.errors import SubjectHeld, SubjectRetained, SubjectUnknown
from holdfast.keyring.lines import read_erasures
from holdfast.keyring.model import (
    EVENTS,
    ErasedParts,
    EraseRequest,
    Erasure,
    RetainRequest,
    SubjectRequest,
)
from holdfast.keyring.ports import KeyStore, Rows
from holdfast.keyring.restrictions import restrictions
from holdfast.keyring.subjects import LEFT_SECONDS, SubjectsService
from tests.support.postgres import PostgresServer
from tests.unit.keyring.conftest import having

T = TypeVar("T")
CLOCK = SystemClock()
ME = operator()
JANE = SubjectRequest(subject="jane@example.org", reason="her request")
ERASE_JANE = EraseRequest(subject=JANE.subject, reason=JANE.reason)


class Died(BaseException):
    """The process is gone."""


@dataclass
class Copies:
    """Keeps copies, of everybody or of ``known``; told of erasures. ``dies`` that often first."""

    dies: int = 0
    known: set[str] | None = None
    stuck: set[tuple[str, str]] = field(default_factory=set)
    """Whose copies cannot be removed."""
    seen: list[tuple[str, str]] = field(default_factory=list)

    async def knows(self, principal: Principal, subject: str) -> bool:
        return self.known is None or subject in self.known

    async def erase(self, principal: Principal, erasure: Erasure) -> ErasedParts:
        if self.dies:
            self.dies -= 1
            raise Died
        if (principal.tenant, erasure.subject) in self.stuck:
            raise Unavailable("cannot remove a raw response: the store does not answer")
        self.seen.append((principal.tenant, erasure.subject))
        return ErasedParts(records=1)


@pytest.fixture
def keyring(tmp_path: Path) -> Iterator[Keyring]:
    store = open_store(f"sqlite:///{tmp_path / 'keyring.db'}")
    yield open_keyring(
        store,
        lambda _: MasterKeys.create(tmp_path / "master.key"),
        CLOCK,
        new_id="k",
        expected=None,
    )
    store.close()


def subjects(
    keyring: Keyring,
    database: Database,
    tmp_path: Path,
    copies: Copies | None = None,
    *,
    sealer: EnvelopeSealer | None = None,
    clock: Clock = CLOCK,
    kept_in: str | None = "the-database",
) -> SubjectsService:
    service = SubjectsService(
        keyring,
        database,
        Outbox(sealer or EnvelopeSealer(keyring)),
        clock,
        id_source(clock),
        lists=tmp_path,
        backup_days=7,
    )
    if copies is not None:
        service.add_eraser(copies, kept_in, notes=True)
    return service


async def events(database: Database, keyring: Keyring) -> list[Entry]:
    outbox = Outbox(EnvelopeSealer(keyring))
    return await database.read(ME, lambda conn: outbox.ready(conn, ME, BEGINNING, 100))


async def test_an_erasure_destroys_the_key_tells_everybody_and_leaves_its_evidence(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    copies = Copies()
    service = subjects(keyring, database, tmp_path, copies)
    token = await service.token(ME, JANE.subject)
    sealer = EnvelopeSealer(keyring)
    sealed = sealer.seal("default", EVENTS, "e", b"about jane", subject=token)
    before = datetime.now(UTC)
    done = await service.erase(ME, ERASE_JANE)
    assert (done.state, done.keys, done.subject) == ("done", 1, token)
    assert datetime.fromisoformat(done.unrecoverable_by) >= before + timedelta(days=7)
    assert copies.seen == [("default", token)]
    with pytest.raises(KeyDestroyed):
        sealer.unseal("default", EVENTS, "e", sealed)
    with pytest.raises(KeyDestroyed):
        sealer.seal("default", EVENTS, "e2", b"more of jane", subject=token)
    (event,) = await events(database, keyring)
    assert event.event.type == "subject.erased"
    assert event.event.payload["unrecoverable_by"] == done.unrecoverable_by
    assert event.event.payload["subject"] == token
    assert b"jane" not in event.payload


async def test_erasing_again_answers_the_same(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    service = subjects(keyring, database, tmp_path, Copies())
    first = await service.erase(ME, ERASE_JANE)
    again = await service.erase(ME, EraseRequest(subject=JANE.subject, reason="again"))
    assert again == msgspec.structs.replace(first, repeated=True)
    assert len(await events(database, keyring)) == 1
    assert len(read_erasures(tmp_path)) == 1


async def test_a_name_that_nobody_ever_heard_of_is_refused_and_nothing_happens(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    copies = Copies(known=set())
    service = subjects(keyring, database, tmp_path, copies)
    jane = await service.token(ME, JANE.subject)
    keyring.subject_keys("default", [jane])
    for stranger in ("Jane@example.org", "jane@example.org ", "joe"):
        with pytest.raises(SubjectUnknown) as raised:
            await service.erase(ME, EraseRequest(subject=stranger, reason="a typo"))
        assert stranger not in raised.value.detail
        assert "to the letter" in raised.value.hint
    found = await service.list(ME)
    assert (found.erasures, copies.seen, await events(database, keyring)) == ([], [], [])
    assert read_erasures(tmp_path) == []
    assert (await service.erase(ME, ERASE_JANE)).keys == 1


async def test_who_is_known_by_copies_alone_is_erased(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """A keyring from before they came, beside data from after."""
    copies = Copies(known=set())
    service = subjects(keyring, database, tmp_path, copies)
    copies.known = {await service.token(ME, JANE.subject)}
    done = await service.erase(ME, ERASE_JANE)
    assert (done.state, done.keys, len(copies.seen)) == ("done", 0, 1)


async def test_a_name_is_erased_before_it_comes_if_that_is_meant(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    service = subjects(keyring, database, tmp_path, Copies(known=set()))
    wanted = EraseRequest(subject=JANE.subject, reason="never again", even_unknown=True)
    done = await service.erase(ME, wanted)
    assert (done.state, done.keys, done.repeated) == ("done", 0, False)
    assert keyring.subject_keys("default", [done.subject]) == {done.subject: None}
    assert (await service.erase(ME, ERASE_JANE)).repeated


async def test_a_hold_refuses_with_its_reason_until_it_is_released(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    service = subjects(keyring, database, tmp_path, Copies())
    token = await service.token(ME, JANE.subject)
    key = keyring.subject_keys("default", [token])[token]
    await service.hold(ME, SubjectRequest(subject=JANE.subject, reason="case 12/2026"))
    with pytest.raises(SubjectHeld) as raised:
        await service.erase(ME, ERASE_JANE)
    assert "case 12/2026" in raised.value.detail
    assert keyring.subject_keys("default", [token])[token] == key
    await service.release(ME, SubjectRequest(subject=JANE.subject, reason="closed"))
    assert (await service.erase(ME, ERASE_JANE)).state == "done"
    kinds = [entry.event.type for entry in await events(database, keyring)]
    assert kinds == ["subject.held", "subject.released", "subject.erased"]


@dataclass
class Between:
    """A store in which Jane is erased between any two units of somebody else's."""

    store: KeyStore
    tenant: str
    token: str

    def transact(self, unit: Callable[[Rows], T]) -> T:
        result = self.store.transact(unit)
        self.store.transact(self._erase)
        return result

    def _erase(self, rows: Rows) -> None:
        rows.all("DELETE FROM keyring_keys WHERE kind = 'subject' AND subject = $1", self.token)
        row = (self.tenant, self.token, "e", "erasing", "asked", "me", "t", "t", 1, "")
        rows.many(
            "INSERT INTO keyring_erasures (tenant, subject, id, state, reason, requested_by,"
            " requested_at, unrecoverable_by, keys, done_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
            [row],
        )

    def scrub(self) -> None:
        self.store.scrub()

    def close(self) -> None:
        self.store.close()


async def test_while_the_server_has_the_bytes_in_its_table_an_erasure_is_not_done(
    sqlite_database: Database, postgres: PostgresServer, tmp_path: Path
) -> None:
    """A dump reads the table, which then cannot be written anew; the next time it is."""
    name = await postgres.fresh_database()
    dsn, schema = postgres.dsn(name), "holdfast_keyring"
    store = await asyncio.to_thread(PostgresKeyStore, dsn, schema=schema, scrub_lock_seconds=0.05)
    try:
        keyring = open_keyring(
            store,
            lambda _: MasterKeys.create(tmp_path / "master.key"),
            CLOCK,
            new_id="k",
            expected=None,
        )
        copies = Copies()
        service = subjects(keyring, sqlite_database, tmp_path, copies)
        token = await service.token(ME, JANE.subject)
        keyring.subject_keys("default", [token])
        find = "SELECT wrapped FROM keyring_keys WHERE subject = $1"
        ((wrapped,),) = store.transact(lambda rows: rows.all(find, token))
        dump = await asyncpg.connect(dsn)
        async with dump.transaction():
            await dump.fetch(f"SELECT count(*) FROM {schema}.keyring_keys")
            with pytest.raises(Unavailable, match="its table is in use"):
                await service.erase(ME, ERASE_JANE)
            with pytest.raises(Unavailable):
                await service.finish()
            assert await service.check() == "degraded"
            assert [each.state for each in (await service.list(ME)).erasures] == ["erasing"]
            assert keyring.erased("default", [token]) == {token}
        await dump.close()
        assert await service.finish() == 1
        assert [each.state for each in (await service.list(ME)).erasures] == ["done"]
        assert await service.check() is None
        await postgres.value("CHECKPOINT")
        left = {each.parent.name for each in having(bytes(wrapped), postgres.folder)}
        assert left <= {"pg_wal"}
    finally:
        await asyncio.to_thread(store.close)
        await postgres.drop_database(name)


async def test_a_copy_of_the_keyring_is_of_one_moment(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Either her key is in it, or that she was erased: of both, the erasure would be done again and
    leave the key."""
    token = await subjects(keyring, database, tmp_path).token(ME, JANE.subject)
    keyring.subject_keys("default", [token])
    copied = dump_tables(Between(keyring.store, "default", token))
    assert token.encode() in copied["keyring_keys"]
    assert copied["keyring_erasures"] == b""


async def test_whoever_was_erased_has_no_key_whatever_a_copy_brought_back(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    service = subjects(keyring, database, tmp_path, Copies())
    token = await service.token(ME, JANE.subject)
    sealer = EnvelopeSealer(keyring)
    sealed = sealer.seal("default", EVENTS, "e", b"about jane", subject=token)
    before = dump_tables(keyring.store)["keyring_keys"]
    await service.erase(ME, ERASE_JANE)
    hers = b"".join(line for line in before.splitlines(keepends=True) if token.encode() in line)
    keyring.store.transact(lambda rows: load_tables(rows, {"keyring_keys": hers}))
    await service.reopen()  # as a restore leaves it
    assert sealer.unseal("default", EVENTS, "e", sealed) == b"about jane", "the copy has her key"
    assert keyring.subject_keys("default", [token]) == {token: None}, "nothing new under it"
    (tmp_path / "erasures.jsonl").unlink()  # the restored system does not have the list
    assert await subjects(keyring, database, tmp_path, Copies()).resume([DEFAULT_TENANT]) == 1
    with pytest.raises(KeyDestroyed):
        sealer.unseal("default", EVENTS, "e", sealed)
    assert (await service.list(ME)).erasures[0].state == "done"


class Mute(EnvelopeSealer):
    """Dies where the evidence would be sealed."""

    def seal(
        self, tenant: str, purpose: str, object_id: str, plain: bytes, *, subject: str = ""
    ) -> Sealed:
        raise Died


async def test_a_hold_is_not_lifted_without_evidence_of_it(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    service = subjects(keyring, database, tmp_path, Copies())
    await service.hold(ME, JANE)
    dying = subjects(keyring, database, tmp_path, sealer=Mute(keyring))
    with pytest.raises(Died):
        await dying.release(ME, JANE)
    with pytest.raises(SubjectHeld):
        await service.erase(ME, ERASE_JANE)
    await service.release(ME, JANE)
    assert (await service.erase(ME, ERASE_JANE)).state == "done"
    kinds = [entry.event.type for entry in await events(database, keyring)]
    assert kinds == ["subject.held", "subject.released", "subject.erased"]


class Meanwhile(EnvelopeSealer):
    """Where the evidence of a release is sealed, somebody places the hold anew."""

    def seal(
        self, tenant: str, purpose: str, object_id: str, plain: bytes, *, subject: str = ""
    ) -> Sealed:
        self._keyring.store.transact(
            lambda rows: rows.all(
                "UPDATE keyring_restrictions SET reason = 'case 13', placed_by = 'counsel'"
            )
        )
        return super().seal(tenant, purpose, object_id, plain, subject=subject)


async def test_a_hold_that_is_placed_while_the_one_before_is_released_stays(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    service = subjects(keyring, database, tmp_path, Copies())
    await service.hold(ME, JANE)
    left = await subjects(keyring, database, tmp_path, sealer=Meanwhile(keyring)).release(ME, JANE)
    assert [each.reason for each in left.restrictions] == ["case 13"]
    with pytest.raises(SubjectHeld):
        await service.erase(ME, ERASE_JANE)


async def test_a_retention_refuses_until_it_is_over_and_moves_forward_only(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    service = subjects(keyring, database, tmp_path, Copies())

    def until(when: str) -> RetainRequest:
        return RetainRequest(subject=JANE.subject, reason="tax law", until=when)

    await service.retain(ME, until("2036-01-01T00:00:00Z"))
    with pytest.raises(SubjectRetained) as raised:
        await service.erase(ME, ERASE_JANE)
    assert "tax law" in raised.value.detail
    assert "2036-01-01" in raised.value.detail
    with pytest.raises(Invalid):
        await service.retain(ME, until("2030-01-01T00:00:00Z"))
    with pytest.raises(Invalid):
        await service.retain(ME, until("soon"))
    other = EraseRequest(subject="joe", reason="x")
    over = RetainRequest(subject="joe", reason="over", until="2020-01-01T00:00:00Z")
    with pytest.raises(Invalid) as refused:
        await service.retain(ME, over)
    assert refused.value.code == "moment-over"
    then = ManualClock(datetime(2019, 1, 1, tzinfo=UTC))
    await subjects(keyring, database, tmp_path, clock=then).retain(ME, over)
    assert (await service.erase(ME, other)).state == "done"


async def test_what_is_erased_can_no_longer_be_held_back_by_another_tenant(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    service = subjects(keyring, database, tmp_path, Copies())
    other = operator(TenantId("other"))
    await service.hold(other, SubjectRequest(subject=JANE.subject, reason="theirs"))
    assert (await service.erase(ME, ERASE_JANE)).state == "done"
    assert (await service.list(ME)).restrictions == []
    assert (await service.list(other)).erasures == []


async def test_after_a_crash_it_is_taken_up_again(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    copies = Copies(dies=2)
    service = subjects(keyring, database, tmp_path, copies)
    token = await service.token(ME, JANE.subject)
    keyring.subject_keys("default", [token])
    with pytest.raises(Died):
        await service.erase(ME, ERASE_JANE)
    # Whatever else is not done: the key is gone already, and a hold comes too late.
    assert keyring.subject_keys("default", [token]) == {token: None}
    with pytest.raises(Died):
        await subjects(keyring, database, tmp_path, copies).resume([DEFAULT_TENANT])
    assert await events(database, keyring) == []
    again = subjects(keyring, database, tmp_path, copies)
    assert await again.resume([DEFAULT_TENANT]) == 1
    assert copies.seen == [("default", token)]
    assert [e.event.type for e in await events(database, keyring)] == ["subject.erased"]
    assert await again.resume([DEFAULT_TENANT]) == 0


async def test_an_erasure_is_done_by_who_has_the_copies_whoever_was_asked(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Two roles share the keyring, and only one of them knows what lies beside the keys."""
    copies = Copies()
    keeper = subjects(keyring, database, tmp_path, copies)
    other = subjects(keyring, database, tmp_path / "other")
    await keeper.resume([])
    token = await other.token(ME, JANE.subject)
    keyring.subject_keys("default", [token])
    begun = await other.erase(ME, ERASE_JANE)
    assert (begun.state, begun.keys, begun.repeated) == ("erasing", 1, False)
    assert keyring.subject_keys("default", [token]) == {token: None}
    # Asked again or started again it does not take the copies for removed.
    again = await other.erase(ME, ERASE_JANE)
    assert (again.state, again.repeated) == ("erasing", True)
    assert await other.resume([DEFAULT_TENANT]) == 0
    assert (copies.seen, await events(database, keyring)) == ([], [])
    assert await keeper.finish() == 1
    assert copies.seen == [("default", token)]
    [event] = await events(database, keyring)
    assert (event.event.type, event.event.subject) == ("subject.erased", ME.subject)
    assert (await other.erase(ME, ERASE_JANE)).state == "done"
    assert await keeper.finish() == 0


async def test_an_erasure_that_cannot_be_finished_holds_up_nobody_else_s(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    copies = Copies()
    keeper = subjects(keyring, database, tmp_path, copies)
    asked = subjects(keyring, database, tmp_path / "other")
    await keeper.resume([])
    whose = [operator(TenantId(name)) for name in ("abel", "abel", "zoe")]
    tenants = {who.tenant for who in whose}
    tokens = []
    for number, who in enumerate(whose):
        name = f"{number}@example.org"
        tokens.append((who.tenant, await asked.token(who, name)))
        keyring.subject_keys(who.tenant, [tokens[-1][1]])
        await asked.erase(who, EraseRequest(subject=name, reason="asked"))
    copies.stuck = {tokens[0]}
    for again in (keeper.finish, lambda: keeper.resume([DEFAULT_TENANT, *tenants])):
        with pytest.raises(Unavailable, match="cannot remove a raw response"):
            await again()
        assert sorted(copies.seen) == sorted(tokens[1:])
        assert await keeper.check() == "degraded"
    listed = [each for who in whose[1:] for each in (await asked.list(who)).erasures]
    assert [t.subject for t in listed if t.state != "done"] == [tokens[0][1]]
    copies.stuck = set()
    assert await keeper.finish() == 1
    assert (await keeper.check(), len(copies.seen)) == (None, 3)


async def test_who_has_copies_and_comes_later_removes_them_of_whoever_was_erased_before(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """A ledger alone with its keyring ends its erasures; then an aggregator comes to share it."""
    ledger = subjects(keyring, database, tmp_path / "ledger")
    await ledger.resume([DEFAULT_TENANT])
    token = await ledger.token(ME, JANE.subject)
    keyring.subject_keys("default", [token])
    done = await ledger.erase(ME, ERASE_JANE)
    assert (done.state, done.keys) == ("done", 1)
    copies = Copies()
    assert await subjects(keyring, database, tmp_path, copies).resume([DEFAULT_TENANT]) == 1
    assert copies.seen == [("default", token)]
    assert [e.event.type for e in await events(database, keyring)] == ["subject.erased"]
    # Once: neither at the next start, nor where a second one of the same data comes.
    assert await subjects(keyring, database, tmp_path, copies).resume([DEFAULT_TENANT]) == 0
    second = Copies()
    assert await subjects(keyring, database, tmp_path, second).resume([DEFAULT_TENANT]) == 0
    assert (len(copies.seen), second.seen) == (1, [])


async def test_what_was_ended_where_an_earlier_release_has_noted_copies_is_taken_up_once_more(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Its ledger had ended erasures before its aggregator's note, which took none of them up."""
    ledger = subjects(keyring, database, tmp_path / "ledger")
    await ledger.erase(ME, msgspec.structs.replace(ERASE_JANE, even_unknown=True))
    keyring.store.transact(
        lambda rows: rows.all("INSERT INTO keyring_meta (name, value) VALUES ('copies', 'kept')")
    )
    copies = Copies()
    assert await subjects(keyring, database, tmp_path, copies).resume([DEFAULT_TENANT]) == 1
    assert len(copies.seen) == 1


async def test_only_a_process_on_the_database_with_the_copies_ends_an_erasure(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """A command opens all roles on the ledger's directory, and so does who has a copy too many."""
    clock = ManualClock(CLOCK.now())
    keeper = subjects(keyring, database, tmp_path, Copies())
    await keeper.resume([])
    wanted = msgspec.structs.replace(ERASE_JANE, even_unknown=True)
    for kept_in in (None, "", "another"):
        other = subjects(keyring, database, tmp_path / "other", clock=clock)
        other.add_eraser(Copies(), kept_in)
        assert (await other.erase(ME, wanted)).state == "erasing"
        assert await other.resume([DEFAULT_TENANT]) == 0
        for left, degraded in ((LEFT_SECONDS - 1, None), (1, "degraded")):
            await other.watch()
            clock.advance(left)
            assert await other.check() == degraded
    assert await events(database, keyring) == []
    assert await keeper.finish() == 1
    await other.watch()
    assert await other.check() is None
    # Another that is served takes it over, and whoever had it before ends nothing more.
    copies = Copies()
    later = subjects(keyring, database, tmp_path / "later", copies, kept_in="another")
    assert (await later.resume([DEFAULT_TENANT]), len(copies.seen)) == (1, 1)
    joe = EraseRequest(subject="joe", reason="asked", even_unknown=True)
    assert (await keeper.erase(ME, joe)).state == "erasing"
    assert (await later.finish(), len(copies.seen)) == (1, 2)


async def test_what_is_left_to_another_is_removed_here_once_and_told_once(
    database: Database, keyring: Keyring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An aggregator whose note another one's has replaced looks every two seconds all the same."""
    copies = Copies()
    keeper = subjects(keyring, database, tmp_path, copies)
    await keeper.resume([])
    later = subjects(keyring, database, tmp_path / "later", Copies(), kept_in="another")
    await later.resume([])
    asked = subjects(keyring, database, tmp_path / "asked")
    for who in ("jane", "joe"):
        await asked.erase(ME, EraseRequest(subject=who, reason="asked", even_unknown=True))
    capsys.readouterr()
    for _ in range(3):
        assert await keeper.finish() == 0
        assert len(copies.seen) == 2
    assert capsys.readouterr().err.count("left to who has copies") == 2
    # Asked again it looks again; and it ends them once they are its own.
    assert (await keeper.erase(ME, EraseRequest(subject="joe", reason="asked"))).state == "erasing"
    assert len(copies.seen) == 3
    keyring.store.transact(lambda rows: note_copies(rows, "the-database"))
    assert await keeper.finish() == 2


async def test_raw_responses_under_the_keyring_tell_that_somebody_has_copies(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """Whoever has them is of a release that noted nothing, or is not started yet."""
    ledger = subjects(keyring, database, tmp_path / "ledger")
    other = operator(TenantId("other"))
    keyring.object_key("default", "a-response")
    assert (await ledger.resume([DEFAULT_TENANT]), await ledger.finish()) == (0, 0)
    for who in (ME, other):
        await ledger.erase(who, msgspec.structs.replace(ERASE_JANE, even_unknown=True))
    [left], [done] = [(await ledger.list(who)).erasures for who in (ME, other)]
    assert (left.state, done.state) == ("erasing", "done")
    assert await events(database, keyring) == []
    copies = Copies()
    keeper = subjects(keyring, database, tmp_path, copies)
    assert await keeper.resume([DEFAULT_TENANT, other.tenant]) == 2
    assert sorted(copies.seen) == [("default", left.subject), ("other", done.subject)]
    assert await keeper.check() is None


async def test_who_has_copies_may_come_while_another_ends_an_erasure(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    copies = Copies()
    keeper = subjects(keyring, database, tmp_path, copies)

    class Comes(EnvelopeSealer):
        """Starts, where the evidence is sealed of what the other takes for done."""

        def seal(
            self, tenant: str, purpose: str, object_id: str, plain: bytes, *, subject: str = ""
        ) -> Sealed:
            keyring.store.transact(lambda rows: note_copies(rows, "the-database"))
            return super().seal(tenant, purpose, object_id, plain, subject=subject)

    keyring.current("default", EVENTS)
    ledger = subjects(keyring, database, tmp_path / "ledger", sealer=Comes(keyring))
    wanted = msgspec.structs.replace(ERASE_JANE, even_unknown=True)
    assert (await ledger.erase(ME, wanted)).state == "erasing"
    assert await keeper.finish() == 1
    assert len(copies.seen) == 1
    assert [e.event.type for e in await events(database, keyring)] == ["subject.erased"]


@pytest.mark.parametrize("units", range(4))
async def test_what_a_hold_says_of_the_person_is_of_the_moment_in_which_it_is_placed(
    keyring: Keyring, sqlite_database: Database, tmp_path: Path, units: int
) -> None:
    service = subjects(keyring, sqlite_database, tmp_path)
    token = await service.token(ME, JANE.subject)
    keyring.subject_keys("default", [token])

    class Once(Between):
        """She is erased once, after so many units of the hold's."""

        left = units
        held_before = False

        def transact(self, unit: Callable[[Rows], T]) -> T:
            if self.left == 0:
                self.held_before = bool(self.store.transact(lambda r: restrictions(r, "default")))
                self.store.transact(self._erase)
            self.left -= 1
            return self.store.transact(unit)

    racing = Once(keyring.store, "default", token)
    there = Keyring(racing, keyring.masters, CLOCK)
    held = await subjects(there, sqlite_database, tmp_path, sealer=EnvelopeSealer(keyring)).hold(
        ME, JANE
    )
    if racing.left >= 0:  # it was over before
        racing.left = 0
        racing.transact(lambda _: None)
    assert (held.known, held.erased_at) == (True, "" if racing.held_before else "t")


async def test_an_erasure_under_way_is_not_begun_a_second_time(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    copies = Copies()
    service = subjects(keyring, database, tmp_path, copies)
    found: list[int] = []

    class Slow(Copies):
        async def erase(self, principal: Principal, erasure: Erasure) -> ErasedParts:
            found.append(await service.finish())
            return ErasedParts()

    service.add_eraser(Slow(), "the-database")
    assert (await service.erase(ME, ERASE_JANE)).state == "done"
    assert (found, len(copies.seen)) == ([0], 1)


async def test_a_keyring_from_before_the_erasure_is_made_to_forget_again(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    """The erasure file outlives the restore of an older keyring."""
    copies = Copies()
    service = subjects(keyring, database, tmp_path, copies)
    token = await service.token(ME, JANE.subject)
    key = keyring.subject_keys("default", [token])[token]
    assert key is not None
    kept = keyring.store.transact(lambda rows: rows.all("SELECT * FROM keyring_keys"))
    await service.erase(ME, ERASE_JANE)

    def restored(rows) -> None:  # type: ignore[no-untyped-def]
        rows.all("DELETE FROM keyring_erasures")
        rows.all("DELETE FROM keyring_keys")
        places = ", ".join(f"${n}" for n in range(1, 11))
        rows.many(f"INSERT INTO keyring_keys VALUES ({places})", kept)

    keyring.store.transact(restored)
    assert keyring.subject_keys("default", [token])[token] == key
    await subjects(keyring, database, tmp_path, copies).resume([DEFAULT_TENANT])
    assert keyring.subject_keys("default", [token]) == {token: None}
    assert copies.seen == [("default", token)] * 2


async def test_a_line_that_a_crash_cut_off_is_written_again(
    database: Database, keyring: Keyring, tmp_path: Path
) -> None:
    service = subjects(keyring, database, tmp_path, Copies())
    await service.erase(ME, ERASE_JANE)
    path = tmp_path / "erasures.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    await service.erase(ME, EraseRequest(subject="joe", reason="x"))
    assert len(read_erasures(tmp_path)) == 2
    path.write_bytes(b"junk\n" + whole)
    with pytest.raises(Corrupt):
        read_erasures(tmp_path)
