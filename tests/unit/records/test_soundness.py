"""A record that was changed in the database is not taken for what was recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from holdfast.kernel.database import Database
from holdfast.keyring.model import EraseRequest
from holdfast.keyring.subjects import SubjectsService
from holdfast.records import soundness
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


async def test_what_is_sealed_without_a_key_is_counted_apart(bench: Bench) -> None:
    await collect(bench, [visit(JANE, 1)])
    handles = bench.service._handles

    def unit(conn):
        asked = {"tenant": OPERATOR.tenant, "profile": "", "sequence": -1, "most": 9}
        return conn.execute(text(soundness.PAGE), asked).all()

    rows = await bench.db.read(OPERATOR, unit)
    found = soundness.checked(handles.secrets, OPERATOR.tenant, rows, lambda *_: {})
    assert (found.revisions, found.altered, found.closed) == (1, 0, 1)
    assert found.told == "0 revisions are what was recorded, 1 are sealed and have no key"
