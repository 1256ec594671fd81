"""A record that was changed in the database is not taken for what was recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select, text

from holdfast.kernel.database import Database
from holdfast.keyring.envelope import key_id_of
from holdfast.keyring.model import EraseRequest
from holdfast.keyring.subjects import SubjectsService
from holdfast.records import soundness, store
from holdfast.records.errors import RecordAltered
from holdfast.records.model import RecordFilter
from holdfast.records.soundness import Checked, check_revisions
from tests.unit.records.helpers import OPERATOR, Bench, bench_on, profile, record
from tests.unit.records.test_personal import CLINIC, JANE, JOE, collect, visit


@pytest.fixture
async def bench(database: Database, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_on(database, tmp_path, profile(), CLINIC) as made:
        yield made


async def look(bench: Bench) -> Checked:
    handles = bench.service._handles
    return await check_revisions(bench.db, handles.secrets, handles.keyring, OPERATOR)


async def alter(bench: Bench, name: str, was: str, becomes: str, revision: int = 1) -> None:
    """What somebody does who may write in the database, and has no key."""
    statement = text(
        "UPDATE record_revisions SET body = replace(body, :was, :becomes)"
        " WHERE tenant = :tenant AND profile = :profile AND revision = :revision"
    )
    values = {"was": was, "becomes": becomes, "profile": name, "revision": revision}

    def unit(conn):
        conn.execute(statement, {"tenant": OPERATOR.tenant, **values})

    await bench.db.write(OPERATOR, unit)


async def test_each_revision_that_was_changed_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soundness, "ROWS_AT_ONCE", 3)  # several pages, the last one short
    first = [record(f"s{number}", f"{number}.5", position=number) for number in range(6)]
    await bench.collect(first)
    await bench.collect([record("s0", "7.25"), *first[1:5]])  # one changes, one is withdrawn
    found = await look(bench)
    assert (found.revisions, found.altered, found.closed) == (8, 0, 0)
    assert found.told == "8 revisions are what was recorded"
    page = await bench.service.records(OPERATOR, RecordFilter(profile="rates"))
    ids = {one.dimensions["state"]: one.id for one in page.items}
    before = {name: await bench.service.record(OPERATOR, one) for name, one in ids.items()}

    await alter(bench, "rates", '"value":"1.5"', '"value":"99.9"')
    await alter(bench, "rates", '"value":"5.5"', '"value":"99.9"', 2)  # of the withdrawal
    await alter(bench, "rates", '"value":"7.25"', "not JSON", 2)
    found = await look(bench)
    assert found.altered == 3
    assert f"rates {ids['s1']} revision 1" in found.named
    assert f"rates {ids['s0']} revision 2" in found.named
    assert "of 8 revisions 3 are not what was recorded: rates " in found.told
    with pytest.raises(RecordAltered) as refused:
        await bench.service.record(OPERATOR, ids["s1"])
    assert "its revision 1 of rates is not what was recorded" in refused.value.detail
    assert "doctor --deep" in refused.value.hint
    assert await bench.service.record(OPERATOR, ids["s2"]) == before["s2"]


async def test_what_is_sealed_is_compared_whole_and_who_is_erased_is_not_damaged(
    bench: Bench, tmp_path: Path
) -> None:
    handles = bench.service._handles
    subjects = SubjectsService(
        handles.keyring,
        bench.db,
        handles.outbox,
        bench.clock,
        bench.new_id,
        lists=tmp_path,
        backup_days=7,
    )
    subjects.add_eraser(bench.service)
    await collect(bench, [visit(JANE, 1), visit(JOE, 1), visit(JOE, 2)])
    await collect(bench, [visit(JANE, 1), visit(JOE, 1, "70")])  # one changes, one is withdrawn
    assert (await look(bench)).told == "5 revisions are what was recorded"
    await subjects.erase(OPERATOR, EraseRequest(subject=JOE, reason="asked"))
    await collect(bench, [visit(JANE, 1), visit(JOE, 1, "71")])
    found = await look(bench)
    assert (found.altered, found.closed) == (0, 0)
    assert found.revisions >= 5

    # The clear part of all three first ones; and a withdrawal no more says what it withdrew.
    await alter(bench, "clinic", '"value":"4"', '"value":"5"')
    assert (await look(bench)).altered == 4


async def test_a_key_that_was_destroyed_on_record_is_told_from_one_that_is_missing(
    bench: Bench, tmp_path: Path
) -> None:
    handles = bench.service._handles
    await collect(bench, [visit(JANE, 1), visit(JOE, 1)])
    jane = handles.keyring.subject_token(OPERATOR.tenant, JANE)
    joe = handles.keyring.subject_token(OPERATOR.tenant, JOE)
    statement = text(
        "UPDATE record_revisions SET sealed = :sealed WHERE tenant = :tenant AND subject = :joe"
    )

    def change(conn) -> None:
        """Of Joe's row another key is named, which there is not."""
        mine = store.of_key(store.revisions, OPERATOR.tenant, subject=joe)
        sealed = bytes(conn.execute(select(store.revisions.c.sealed).where(mine)).scalar_one())
        sealed = sealed.replace(key_id_of(sealed), b"another key's id")
        conn.execute(statement, {"sealed": sealed, "tenant": OPERATOR.tenant, "joe": joe})

    def erase(rows) -> None:
        """Jane is erased, and what her key has sealed is not removed yet."""
        rows.all("DELETE FROM keyring_keys WHERE kind = 'subject' AND subject = $1", jane)
        rows.all(
            "INSERT INTO keyring_erasures (tenant, subject, id, state, reason, requested_by,"
            " requested_at, unrecoverable_by, keys, done_at)"
            " VALUES ($1, $2, 'e', 'erasing', 'asked', 'me', 't', 't', 1, '')",
            OPERATOR.tenant,
            jane,
        )

    handles.keyring.store.transact(erase)
    found = await look(bench)
    assert (found.altered, found.closed, found.unopened) == (0, 1, 0)
    assert found.told == "1 revisions are what was recorded, 1 are of people who were erased"
    await bench.db.write(OPERATOR, change)
    found = await look(bench)
    assert (found.revisions, found.altered, found.closed, found.unopened) == (2, 0, 1, 1)
    [named] = found.unopened_named
    assert named.startswith("clinic ")
    assert named.endswith(" revision 1")
    assert f"of 2 revisions 1 cannot be opened, and no erasure says why: {named}" in found.told
    with pytest.raises(RecordAltered, match="no erasure says why") as refused:
        found.check("the backup")
    assert "keyring" in (refused.value.hint or "")
    # Both at once: each is told.
    both = Checked(altered=1, named=["rates 1"], unopened=1, unopened_named=["clinic 2"])
    assert "not what was recorded: rates 1" in both.told
    assert "no erasure says why: clinic 2" in both.told


async def test_where_no_keyring_opens_what_is_sealed_is_told_to_be_not_looked_into(
    bench: Bench,
) -> None:
    await collect(bench, [visit(JANE, 1)])
    await bench.collect([record("s1", "1.5")])
    secrets = bench.service._handles.secrets

    def unit(conn):
        asked = {"tenant": OPERATOR.tenant, "profile": "", "sequence": -1, "most": 9}
        return conn.execute(text(soundness.PAGE), asked).all()

    rows = await bench.db.read(OPERATOR, unit)
    found = soundness.checked(secrets, OPERATOR.tenant, rows, None)
    assert (found.revisions, found.closed, found.unopened, found.shut) == (2, 0, 0, 1)
    assert found.told == (
        "1 revisions are what was recorded, 1 are sealed and were not looked into: the keyring is "
        "not opened here"
    )
    found.check("the backup")
