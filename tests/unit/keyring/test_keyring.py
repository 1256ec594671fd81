"""Keys: made, wrapped, found again, rotated, destroyed, and held against their master."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pysqlite3 import dbapi2

from holdfast.kernel.clock import SystemClock
from holdfast.kernel.errors import (
    Corrupt,
    HoldfastError,
    Internal,
    Invalid,
    OutcomeUnknown,
    Unavailable,
    Unsupported,
)
from holdfast.kernel.outbox import Sealed, Unsealed
from holdfast.keyring import EnvelopeSealer, Keyring, MasterKeys, open_keyring
from holdfast.keyring.backends import open_store
from holdfast.keyring.backends.postgresql import PostgresKeyStore
from holdfast.keyring.errors import (
    KeyDestroyed,
    KeyringMissing,
    MasterKeyForeign,
    MasterKeyMissing,
    NotThisRole,
)
from holdfast.keyring.master import MasterKey, parse_master, render_master
from holdfast.keyring.model import EVENTS, NAMES, PURPOSES, RECORDS
from holdfast.keyring.ports import KeyStore, Rows
from holdfast.keyring.sealer import KeyringPeople
from tests.support.postgres import PostgresServer, binaries, postgres_server, run_apart
from tests.support.proxy import CuttingProxy
from tests.support.waiting import until
from tests.unit.keyring.conftest import StoreFiles, having

CLOCK = SystemClock()


def file_masters(path: Path) -> Callable[[bool], MasterKeys]:
    def masters(may_create: bool) -> MasterKeys:
        return MasterKeys.create(path) if may_create else MasterKeys.from_file(path)

    return masters


def opened(store: KeyStore, path: Path, **more: Any) -> Keyring:
    given: dict[str, Any] = {"new_id": "keyring-1", "expected": None} | more
    return open_keyring(store, file_masters(path), CLOCK, **given)


@pytest.fixture
def keyring(store: KeyStore, tmp_path: Path) -> Keyring:
    return opened(store, tmp_path / "master.key")


def test_a_key_is_the_same_after_a_restart(
    store: KeyStore, keyring: Keyring, tmp_path: Path
) -> None:
    first = keyring.current("default", EVENTS)
    again = opened(store, tmp_path / "master.key", expected="keyring-1")
    assert again.current("default", EVENTS) == first
    assert again.find("default", EVENTS, first.id) == first
    assert again.id == "keyring-1"


def test_tenants_and_purposes_have_keys_of_their_own(keyring: Keyring) -> None:
    keys = [keyring.current(t, p) for t in ("one", "two") for p in (EVENTS, RECORDS)]
    assert len({key.secret for key in keys}) == 4
    assert len({key.id for key in keys}) == 4
    with pytest.raises(KeyDestroyed):
        keyring.find("two", EVENTS, keys[0].id)
    assert keyring.find_many("one", RECORDS, [keys[0].id]) == {}


async def test_what_is_opened_tells_whose_own_its_key_is(keyring: Keyring) -> None:
    people, sealer = KeyringPeople(keyring), EnvelopeSealer(keyring)
    jane, joe, again = people.named("default", ["jane", "joe", "jane"])
    assert (jane, jane != joe) == (again, True)
    assert not [each for each in keyring.describe().keys if each.kind == "subject"]
    people.admit("default", {jane, joe})
    hers = sealer.seal("default", EVENTS, "e", b"x", subject=jane)
    nobodys = sealer.seal("default", EVENTS, "e", b"x")

    async def opened(tenant: str = "default") -> list[Unsealed | None]:
        return await people.opened(tenant, EVENTS, [("e", hers), ("e", nobodys)])

    assert await opened() == [Unsealed(b"x", jane), Unsealed(b"x", "")]
    keyring.rotate_tenant("default")
    assert await opened() == [Unsealed(b"x", jane), Unsealed(b"x", "")]
    assert await opened("other") == [None, None]
    keyring.store.transact(
        lambda rows: rows.all("DELETE FROM keyring_keys WHERE subject = $1", jane)
    )
    assert await opened() == [None, Unsealed(b"x", "")]


def test_a_process_has_no_keys_for_what_is_not_its_business(
    store: KeyStore, tmp_path: Path
) -> None:
    keyring = opened(store, tmp_path / "master.key", purposes={EVENTS})
    keyring.current("default", EVENTS)
    for call in (
        lambda: keyring.current("default", RECORDS),
        lambda: keyring.subject_token("default", "jane"),
        lambda: keyring.subject_keys("default", ["00"]),
        lambda: keyring.object_key("default", "name"),
    ):
        with pytest.raises(NotThisRole):
            call()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("tenant", "other"),
        ("purpose", RECORDS),
        ("subject", "jane"),
        ("kind", "object"),
        ("id", "00" * 16),
        ("wrapped_by_version", 9),
    ],
)
def test_a_wrapped_key_opens_only_as_what_it_was_made_for(
    store: KeyStore, keyring: Keyring, tmp_path: Path, column: str, value: object
) -> None:
    key = keyring.current("default", EVENTS)
    keyring.current("other", NAMES)
    store.transact(
        lambda rows: rows.all(
            f"UPDATE keyring_keys SET {column} = $1 WHERE kind = 'purpose' AND purpose = $2",
            value,
            EVENTS,
        )
    )
    assert opened(store, tmp_path / "master.key").check().damaged == [
        str(value) if column == "id" else key.id.hex()
    ]


def test_sealed_under_a_subject_it_is_gone_with_the_subject(
    keyring: Keyring, store: KeyStore
) -> None:
    sealer = EnvelopeSealer(keyring)
    token = keyring.subject_token("default", "jane@example.org")
    sealed = sealer.seal("default", EVENTS, "e-1", b"about jane", subject=token)
    plain = sealer.seal("default", EVENTS, "e-1", b"about nobody")
    assert sealer.unseal("default", EVENTS, "e-1", sealed) == b"about jane"
    store.transact(lambda rows: rows.all("DELETE FROM keyring_keys WHERE kind = 'subject'"))
    with pytest.raises(KeyDestroyed):
        sealer.unseal("default", EVENTS, "e-1", sealed)
    assert sealer.unseal("default", EVENTS, "e-1", plain) == b"about nobody"


def test_the_sealer_refuses_what_it_did_not_make(keyring: Keyring) -> None:
    sealer = EnvelopeSealer(keyring)
    sealed = sealer.seal("default", EVENTS, "e-1", b"plain")
    for tenant, purpose, object_id in (
        ("default", EVENTS, "e-2"),
        ("default", RECORDS, "e-1"),
        ("other", EVENTS, "e-1"),
    ):
        with pytest.raises((Corrupt, KeyDestroyed)):
            sealer.unseal(tenant, purpose, object_id, sealed)
    with pytest.raises(Corrupt):
        sealer.unseal("default", EVENTS, "e-1", Sealed("clear", b"plain"))
    with pytest.raises(Corrupt):
        sealer.unseal("default", EVENTS, "e-1", Sealed(sealed.algorithm, b""))


def test_a_subjects_name_is_keyed_and_stays(keyring: Keyring) -> None:
    token = keyring.subject_token("default", "jane")
    assert token == keyring.subject_token("default", "jane")
    assert token != keyring.subject_token("other", "jane")
    assert "jane" not in token
    keyring.rotate_tenant("default")
    assert token == keyring.subject_token("default", "jane")


def test_object_keys_are_destroyed_one_by_one(keyring: Keyring) -> None:
    first, second = (keyring.object_key("default", name) for name in ("a", "b"))
    assert keyring.object_key("default", "a") == first
    assert keyring.destroy_objects("default", ["a", "none"]) == 1
    assert keyring.find_many("default", "raw-response", [first.id, second.id]) == {
        second.id: second
    }
    assert keyring.object_key("default", "a") != first


# --- rotation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("master", [True, False])
def test_what_was_sealed_before_a_rotation_is_read_after_it(
    store: KeyStore, keyring: Keyring, tmp_path: Path, master: bool
) -> None:
    sealer = EnvelopeSealer(keyring)
    before = {n: sealer.seal("default", EVENTS, n, n.encode()) for n in ("a", "b")}
    keyring.subject_keys("default", ["11" * 16, "22" * 16])
    keyring.object_key("default", "name")
    if master:
        keyring.rotate_master()
    else:
        keyring.rotate_tenant("default")
    between = sealer.seal("default", EVENTS, "c", b"c")
    steps = 0
    while keyring.rewrap(limit=1).pending:
        steps += 1
        assert steps < 20
    for ring in (keyring, opened(store, tmp_path / "master.key")):
        again = EnvelopeSealer(ring)
        for name, sealed in (before | {"c": between}).items():
            assert again.unseal("default", EVENTS, name, sealed) == name.encode()
        assert ring.check().damaged == []
    new = sealer.seal("default", EVENTS, "d", b"d")
    assert (new.algorithm == before["a"].algorithm) is master
    info = keyring.describe()
    assert [each.version for each in info.masters] == [2 if master else 1]
    assert {each.wrapped_by_version for each in info.keys if each.kind != "tenant"} == {
        1 if master else 2
    }


def test_rewrapping_goes_on_where_it_was_killed(
    store: KeyStore, keyring: Keyring, tmp_path: Path
) -> None:
    """Whatever step was the last, a new process finds every key and finishes."""
    path = tmp_path / "master.key"
    tokens = [f"{n:032x}" for n in range(7)]
    keys = keyring.subject_keys("default", tokens)
    for _ in range(3):
        ring = opened(store, path)
        ring.rotate_master()
        ring.rotate_tenant("default")
        while True:
            survivor = opened(store, path)  # a process that lived for one step only
            assert survivor.subject_keys("default", tokens) == keys
            if not survivor.rewrap(limit=2).pending:
                break
    info = opened(store, path).describe()
    assert [each.version for each in info.masters] == [4]
    assert opened(store, path).check().keys == len(tokens) + 1


def test_a_master_key_that_was_made_but_not_yet_used_is_taken_up(
    store: KeyStore, keyring: Keyring, tmp_path: Path
) -> None:
    """Killed between the file and the store: the next start finds both versions, and goes on."""
    key = keyring.current("default", EVENTS)
    path = tmp_path / "master.key"
    MasterKeys.from_file(path).add_version()
    again = opened(store, path)
    assert again.current("default", EVENTS) == key
    while again.rewrap().pending:
        pass
    assert [each.version for each in again.describe().masters] == [2]
    assert opened(store, path).current("default", EVENTS) == key


def test_of_two_rotations_at_once_neither_takes_the_others_version_away(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    MasterKeys.create(path)
    both = threading.Barrier(2)

    def random(length: int) -> bytes:
        # Both would have read by now, if they could.
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.3)
        return os.urandom(length)

    with ThreadPoolExecutor(2) as pool:
        masters = [MasterKeys.from_file(path) for _ in range(2)]
        made = list(pool.map(lambda each: each.add_version(random), masters))
    assert sorted(key.version for key in made) == [2, 3]
    kept = MasterKeys.from_file(path).versions
    assert [key.version for key in kept] == [1, 2, 3]
    assert all(key in kept for key in made)


def test_a_process_that_missed_a_rotation_does_not_wrap_under_what_is_retired(
    store: KeyStore, keyring: Keyring, tmp_path: Path
) -> None:
    path = tmp_path / "master.key"
    other = opened(store, path)
    keyring.rotate_master()
    while keyring.rewrap().pending:
        pass
    key = other.current("newcomer", EVENTS)
    while other.rewrap().pending:
        pass
    again = opened(store, path)
    assert [each.version for each in again.describe().masters] == [2]
    assert again.current("newcomer", EVENTS) == key


# --- the master key and the start ----------------------------------------------------------------


def test_nothing_is_made_over_what_is_there(
    store: KeyStore, keyring: Keyring, tmp_path: Path
) -> None:
    keyring.current("default", EVENTS)
    path = tmp_path / "master.key"
    kept = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Invalid):
        MasterKeys.create(path)
    assert path.read_bytes() == kept
    path.unlink()
    with pytest.raises(FileNotFoundError):
        opened(store, path)
    assert not path.exists()


def test_a_foreign_master_key_stops_the_start(
    store: KeyStore, keyring: Keyring, tmp_path: Path
) -> None:
    keyring.current("default", EVENTS)
    other = tmp_path / "other.key"
    MasterKeys.create(other)
    with pytest.raises(MasterKeyForeign) as raised:
        opened(store, other)
    assert "key import" in raised.value.hint


def test_a_missing_version_that_still_wraps_stops_the_start(
    store: KeyStore, keyring: Keyring, tmp_path: Path
) -> None:
    keyring.current("default", EVENTS)
    keyring.rotate_master()
    path = tmp_path / "master.key"
    newest = max(MasterKeys.from_file(path).versions, key=lambda key: key.version)
    path.write_text(render_master([newest]))
    with pytest.raises(MasterKeyMissing):
        opened(store, path)


def test_data_without_its_keyring_stops_the_start(store: KeyStore, tmp_path: Path) -> None:
    with pytest.raises(KeyringMissing):
        opened(store, tmp_path / "master.key", expected="keyring-1")
    assert not (tmp_path / "master.key").exists()
    opened(store, tmp_path / "master.key")
    with pytest.raises(KeyringMissing):
        opened(store, tmp_path / "master.key", expected="another")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "holdfast-master-1 1 00 00\n",
        "holdfast-master-1 1 " + "ab" * 32 + " 00000000\n",
        render_master([MasterKey(1, bytes(32))]).replace("0000 ", "0001 "),
        render_master([MasterKey(1, bytes(32))]) * 2,
    ],
)
def test_a_damaged_master_key_is_said_to_be(text: str, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(Corrupt) as raised:
        MasterKeys.from_file(path)
    assert raised.value.code == "master-key-damaged"


def test_a_master_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    MasterKeys.create(tmp_path / "master.key")
    (tmp_path / "master.key").chmod(0o640)
    with pytest.raises(Invalid) as raised:
        MasterKeys.from_file(tmp_path / "master.key")
    assert "chmod 600" in raised.value.hint


def test_a_key_that_is_handed_in_is_rotated_by_handing_in_the_next(
    store: KeyStore, keyring: Keyring, tmp_path: Path
) -> None:
    key = keyring.current("default", EVENTS)
    text = (tmp_path / "master.key").read_text()
    given = MasterKeys.from_text(text)
    ring = open_keyring(store, lambda _: given, CLOCK, new_id="x", expected=None)
    with pytest.raises(Unsupported):
        ring.rotate_master()
    both = MasterKeys.from_text(text + render_master([MasterKey(2, bytes(range(32)))]))
    behind = ring
    ring = open_keyring(store, lambda _: both, CLOCK, new_id="x", expected=None)
    while ring.rewrap().pending:
        pass
    with pytest.raises(MasterKeyMissing):  # it would have been lost with the old version
        behind.current("newcomer", EVENTS)
    second = MasterKeys.from_text(render_master([MasterKey(2, bytes(range(32)))]))
    ring = open_keyring(store, lambda _: second, CLOCK, new_id="x", expected=None)
    assert ring.current("default", EVENTS) == key
    assert parse_master(text, "the text")[0].version == 1


# --- the store ----------------------------------------------------------------------------------


def test_a_unit_that_raises_leaves_nothing(store: KeyStore) -> None:
    def unit(rows: Rows) -> None:
        rows.all("INSERT INTO keyring_meta (name, value) VALUES ($1, $2)", "a", "b")
        raise Invalid("no")

    with pytest.raises(Invalid):
        store.transact(unit)
    assert store.transact(lambda rows: rows.all("SELECT * FROM keyring_meta")) == []


def test_a_unit_that_hides_a_failure_stores_nothing(store: KeyStore) -> None:
    def unit(rows: Rows) -> None:
        rows.all("INSERT INTO keyring_meta (name, value) VALUES ($1, $2)", "a", "b")
        with suppress(Exception):
            rows.all("SELECT nothing FROM nowhere")
            pytest.fail("there is no such table")

    if isinstance(store, PostgresKeyStore):
        with pytest.raises(Internal):
            store.transact(unit)
        assert store.transact(lambda rows: rows.all("SELECT * FROM keyring_meta")) == []
    else:  # SQLite goes on as if the statement had not been there
        store.transact(unit)
        assert len(store.transact(lambda rows: rows.all("SELECT * FROM keyring_meta"))) == 1


class Unheard:
    """A connection whose commits are done, and told as failed."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def execute(self, statement: str, *values: Any) -> Any:
        found = self._driver.execute(statement, *values)
        if statement == "COMMIT":
            raise dbapi2.OperationalError("disk I/O error")
        return found


def test_a_commit_that_fails_on_sqlite_is_no_promise_that_nothing_was_done(tmp_path: Path) -> None:
    store: Any = open_store(f"sqlite:///{tmp_path / 'keyring.db'}")
    driver, store._driver = store._driver, Unheard(store._driver)
    with pytest.raises(OutcomeUnknown):
        store.transact(lambda rows: rows.all("INSERT INTO keyring_meta VALUES ('a', 'b')"))
    store._driver = driver
    assert store.transact(lambda rows: rows.all("SELECT * FROM keyring_meta")) == [("a", "b")]
    store.close()


def test_threads_take_turns(keyring: Keyring) -> None:
    found: list[bytes] = []

    def work() -> None:
        for n in range(5):
            found.append(keyring.subject_keys("default", [f"{n:032x}"])[f"{n:032x}"].secret)  # type: ignore[union-attr]

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 20
    assert len(set(found)) == 5


def the_wrapped(store: KeyStore, kind: str) -> list[bytes]:
    statement = "SELECT wrapped FROM keyring_keys WHERE kind = $1"
    return [bytes(row[0]) for row in store.transact(lambda rows: rows.all(statement, kind))]


def table_file(store: KeyStore) -> Any:
    """The number of the file that the server has the table of keys in."""
    return store.transact(lambda rows: rows.all("SELECT pg_relation_filenode('keyring_keys')"))


def test_a_destroyed_key_is_nowhere_in_the_files(
    store: KeyStore, keyring: Keyring, store_files: StoreFiles
) -> None:
    keyring.subject_keys("default", ["11" * 16, "22" * 16])
    keyring.object_key("default", "kept")
    kept = the_wrapped(store, "object") + the_wrapped(store, "subject")
    keyring.object_key("default", "name")
    (wrapped,) = set(the_wrapped(store, "object")) - set(kept)
    assert store_files(wrapped)
    keyring.destroy_objects("default", ["name"])
    store.scrub()
    assert store_files(wrapped) == []
    assert all(store_files(each) for each in kept)
    keyring.rotate_tenant("default")
    while keyring.rewrap().pending:
        pass
    assert [each for each in kept if store_files(each)] == []


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_it_is_gone_from_the_file_though_somebody_may_yet_see_its_row(
    store_url: str, store: KeyStore, keyring: Keyring, store_files: StoreFiles
) -> None:
    """A snapshot from before keeps dead rows as long as it lives: a vacuum brings them along."""
    keyring.object_key("default", "name")
    (wrapped,) = the_wrapped(store, "object")

    async def body() -> None:
        connection = await asyncpg.connect(store_url)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.fetch("SELECT 1 FROM pg_class LIMIT 1")
                await asyncio.to_thread(keyring.destroy_objects, "default", ["name"])
                await asyncio.to_thread(store.scrub)
                assert await asyncio.to_thread(store_files, wrapped) == []
        finally:
            await connection.close()

    run_apart(body)


def test_nothing_of_a_destroyed_key_is_left_on_a_server_that_has_gone_through_its_log(
    tmp_path: Path,
) -> None:
    """What `docs/operating/postgresql.md` says about the write-ahead log, on a server apart."""
    with postgres_server() as server, closing(open_store(server.dsn())) as store:
        keyring = opened(store, tmp_path / "master.key")
        keyring.object_key("default", "name")
        (wrapped,) = the_wrapped(store, "object")
        keyring.destroy_objects("default", ["name"])
        store.scrub()
        server.execute("CHECKPOINT")
        left = having(wrapped, server.folder)
        assert left
        assert {each.parent.name for each in left} == {"pg_wal"}
        server.execute("ALTER SYSTEM SET wal_recycle = off")
        server.execute("SELECT pg_reload_conf()")
        for _ in range(2):
            server.execute("SELECT pg_switch_wal()")
            server.execute("CHECKPOINT")
        assert having(wrapped, server.folder) == []


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_table_in_use_is_scrubbed_later_by_whoever_asks(
    store_url: str, store: KeyStore, keyring: Keyring, store_files: StoreFiles
) -> None:
    keyring.object_key("default", "name")
    (wrapped,) = the_wrapped(store, "object")
    hurried = PostgresKeyStore(store_url, schema="holdfast_keyring", scrub_lock_seconds=0.05)

    async def body() -> None:
        connection = await asyncpg.connect(store_url)
        try:
            async with connection.transaction():
                await connection.fetch("SELECT count(*) FROM holdfast_keyring.keyring_keys")
                await asyncio.to_thread(keyring.destroy_objects, "default", ["name"])
                with pytest.raises(Unavailable) as raised:
                    await asyncio.to_thread(hurried.scrub)
                assert "dump" in raised.value.hint
                # It is not held up for longer than that, and what was destroyed is so.
                await asyncio.to_thread(keyring.object_key, "default", "another")
        finally:
            await connection.close()

    with closing(hurried):
        run_apart(body)
    assert len(the_wrapped(store, "object")) == 1
    assert store_files(wrapped)
    store.scrub()
    assert store_files(wrapped) == []


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_the_table_is_written_anew_once_for_all_that_was_destroyed(
    store_url: str, store: KeyStore, keyring: Keyring
) -> None:
    """It costs what all keys cost: not for each erasure of many, nor where no key was there."""

    def file() -> Any:
        return table_file(store)

    keyring.object_key("default", "name")
    first = file()
    keyring.destroy_objects("default", ["nobody's"])
    delete = "DELETE FROM keyring_keys WHERE subject = $1"
    store.transact(lambda rows: rows.all(delete, "nobody's"))
    store.scrub()
    assert file() == first
    other = open_store(store_url)
    keyring.object_key("default", "another")
    store.transact(lambda rows: rows.all(delete, "name"))
    assert keyring.destroy_objects("default", ["another"]) == 1
    assert file() == first  # whoever destroyed them is not done yet
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(each.scrub) for each in (store, other) * 2]:
            done.result()
    second = file()
    assert second != first
    store.scrub()
    other.close()
    open_store(store_url).close()
    assert file() == second


@pytest.mark.parametrize("noted", [True, False], ids=["killed", "earlier-release"])
@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_what_others_left_is_scrubbed_as_it_is_opened(
    store_url: str, store: KeyStore, keyring: Keyring, store_files: StoreFiles, noted: bool
) -> None:
    keyring.object_key("default", "name")
    (wrapped,) = the_wrapped(store, "object")
    store.transact(lambda rows: rows.all("DELETE FROM keyring_keys WHERE subject = 'name'"))
    if not noted:
        store.transact(lambda rows: rows.all("DROP TABLE keyring_unscrubbed"))
    assert store_files(wrapped)
    open_store(store_url).close()
    assert store_files(wrapped) == []


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_rewrapping_is_scrubbed_by_whoever_repeats_it(
    store_url: str, store: KeyStore, keyring: Keyring, store_files: StoreFiles, tmp_path: Path
) -> None:
    """The first has wrapped and retired all, and cannot write the table anew while it is read."""
    keyring.object_key("default", "name")
    (old,) = the_wrapped(store, "object")
    keyring.rotate_tenant("default")
    hurried = PostgresKeyStore(store_url, schema="holdfast_keyring", scrub_lock_seconds=0.05)

    async def body() -> None:
        connection = await asyncpg.connect(store_url)
        try:
            async with connection.transaction():
                await connection.fetch("SELECT count(*) FROM holdfast_keyring.keyring_keys")
                with pytest.raises(Unavailable, match="its table is in use"):
                    await asyncio.to_thread(ring.rewrap)
        finally:
            await connection.close()

    with closing(hurried):
        ring = opened(hurried, tmp_path / "master.key")
        run_apart(body)
        assert store_files(old)
        again = ring.rewrap()
    assert (again.done, again.pending, again.retired) == (0, 0, 0)
    assert store_files(old) == []
    first = table_file(store)
    keyring.rewrap()
    assert table_file(store) == first


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_dump_that_meets_a_scrub_has_every_key(
    store_url: str, store: KeyStore, keyring: Keyring
) -> None:
    """Its snapshot is from before, its look at the table from after: frozen rows are there for it,
    where a rewriting ALTER TABLE leaves none, without an error."""
    # More than are moved at a time.
    made = "INSERT INTO keyring_keys SELECT 'default', n::TEXT, 'object', 'responses', n::TEXT, 1,"
    made += " 'x', 1, '\\x00'::BYTEA, '' FROM generate_series(1, 50000) n"
    store.transact(lambda rows: rows.all(made))
    keyring.object_key("default", "name")
    rights = "GRANT SELECT ON keyring_keys TO pg_monitor"
    store.transact(lambda rows: rows.all(rights))
    shape = (
        "SELECT c.oid, c.relacl::TEXT, c.relowner, (SELECT array_agg(indexrelid ORDER BY 1)"
        " FROM pg_index WHERE indrelid = c.oid) FROM pg_class c WHERE c.relname = 'keyring_keys'"
    )
    before, file = store.transact(lambda rows: rows.all(shape)), table_file(store)

    async def body() -> None:
        connection = await asyncpg.connect(store_url)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
                await asyncio.to_thread(keyring.destroy_objects, "default", ["name"])
                await asyncio.to_thread(store.scrub)
                dump = await asyncio.create_subprocess_exec(
                    *(binaries() / "pg_dump", f"--snapshot={snapshot}"),
                    store_url,
                    stdout=asyncio.subprocess.PIPE,
                )
                text, _ = await dump.communicate()
                assert dump.returncode == 0
                assert text.count(b"\tobject\t") == 50_000
                assert text.count(b"\ttenant\t") == 1
        finally:
            await connection.close()

    run_apart(body)
    assert table_file(store) != file
    assert store.transact(lambda rows: rows.all(shape)) == before
    assert store.transact(lambda rows: rows.all("SELECT to_regclass('keyring_moving')")) == [
        (None,)
    ]


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_units_read_what_those_before_them_left_whatever_the_server_isolates_by_default(
    store_url: str, keyring: Keyring, tmp_path: Path
) -> None:
    async def strict() -> None:
        connection = await asyncpg.connect(store_url)
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(
            f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"
        )
        await connection.close()

    run_apart(strict)
    entered, go_on = threading.Event(), threading.Event()
    asked = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

    def first(rows: Rows) -> None:
        rows.all("INSERT INTO keyring_meta (name, value) VALUES ('first', 'was here')")
        entered.set()
        assert go_on.wait(240)

    def second(rows: Rows) -> list[tuple[Any, ...]]:
        return rows.all("SELECT value FROM keyring_meta WHERE name = 'first'")

    async def waits() -> None:
        connection = await asyncpg.connect(store_url)

        async def somebody() -> bool:
            return bool(await connection.fetch(asked))

        await until(somebody)
        await connection.close()

    with (
        closing(open_store(store_url)) as one,
        closing(open_store(store_url)) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        before = pool.submit(one.transact, first)
        assert entered.wait(240)
        after = pool.submit(two.transact, second)
        try:
            run_apart(waits)
        finally:
            go_on.set()
        before.result()
        assert after.result() == [("was here",)]


def test_a_second_process_on_the_file_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'keyring.db'}"
    store = open_store(url)
    with pytest.raises(Unavailable):
        open_store(url)
    store.close()
    open_store(url).close()


DAMAGE: list[tuple[str, Any]] = [
    ("wrapped_by", "zz"),
    ("wrapped_by", "00" * 16),
    ("wrapped_by_version", "x"),
    ("wrapped", b""),
    ("wrapped", "text"),
    ("wrapped", 7),
    ("subject", "another"),
    ("kind", "tenant"),
    ("id", "zz"),
]


@pytest.mark.parametrize(("column", "value"), DAMAGE)
def test_a_damaged_row_is_one_key_that_does_not_open(
    column: str, value: Any, tmp_path: Path
) -> None:
    """SQLite keeps in a column what a flipped bit makes of it, whatever its type."""
    store = open_store(f"sqlite:///{tmp_path / 'keyring.db'}")
    keyring = opened(store, tmp_path / "master.key")
    good, bad = keyring.object_key("default", "good"), keyring.object_key("default", "bad")
    change = f"UPDATE keyring_keys SET {column} = $1 WHERE subject = 'bad'"
    store.transact(lambda rows: rows.all(change, value))
    again = opened(store, tmp_path / "master.key")
    assert again.check().damaged == [value if column == "id" else bad.id.hex()]
    assert again.object_key("default", "good") == good
    if column not in ("subject", "kind", "id"):
        with pytest.raises(Corrupt):
            again.object_key("default", "bad")
    store.close()


def test_a_damaged_file_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "keyring.db").write_bytes(b"not a database" * 100)
    with pytest.raises(Corrupt):
        open_store(f"sqlite:///{tmp_path / 'keyring.db'}")


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(HoldfastError) as raised:
        open_store("mysql://x")
    assert "sqlite://" in raised.value.hint


def test_purposes_are_the_ones_that_are_used() -> None:
    assert {EVENTS, RECORDS, NAMES} < PURPOSES


@pytest.mark.parametrize("before", [True, False])
async def test_a_commit_that_is_not_answered_is_no_promise_that_nothing_was_done(
    postgres: PostgresServer, tmp_path: Path, before: bool
) -> None:
    name = await postgres.fresh_database()
    proxy = CuttingProxy()
    try:
        async with proxy.between(postgres.folder, tmp_path):
            dsn = postgres.dsn(name).replace(str(postgres.folder), str(tmp_path))
            store = await asyncio.to_thread(open_store, dsn)
            try:
                keyring = await asyncio.to_thread(opened, store, tmp_path / "master.key")
                await asyncio.to_thread(keyring.object_key, "default", "raw")
                proxy.word, proxy.before = b"COMMIT", before
                # Keys that nobody was given are found again, and reading stores nothing.
                for call in (
                    lambda: keyring.object_key("default", "fresh"),
                    lambda: keyring.erased("default", ["00"]),
                ):
                    with pytest.raises(Unavailable):
                        await asyncio.to_thread(call)
                with pytest.raises(OutcomeUnknown):
                    await asyncio.to_thread(keyring.destroy_objects, "default", ["raw"])
                assert proxy.cuts == 3
                proxy.word = None
                # Both happen, which is why nobody may claim to know.
                again = await asyncio.to_thread(keyring.destroy_objects, "default", ["raw"])
                assert again == (1 if before else 0)
            finally:
                await asyncio.to_thread(store.close)
    finally:
        await postgres.drop_database(name)
