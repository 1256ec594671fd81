"""One answer per key: for a day, in the caller's own transaction."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, text

from holdfast.kernel.database import Database
from holdfast.kernel.errors import Conflict, Invalid
from holdfast.kernel.idempotency import count_expired, forget_expired, once
from holdfast.kernel.ids import TenantId
from holdfast.kernel.principal import Principal, operator

ONE = operator()
OTHER = operator(TenantId("other"))
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def asking(
    answer: bytes,
    *,
    who: Principal = ONE,
    route: str = "POST /v1/tasks",
    key: str = "k",
    fingerprint: str = "f",
    now: datetime = NOW,
):
    def unit(conn: Connection) -> tuple[bytes, bool]:
        return once(conn, who, route, key, fingerprint, now, lambda: answer)

    return unit


async def test_a_repetition_gets_the_first_answer_and_runs_nothing(database: Database) -> None:
    assert await database.write(ONE, asking(b"first")) == (b"first", False)
    assert await database.write(ONE, asking(b"second")) == (b"first", True)


async def test_another_body_is_a_conflict(database: Database) -> None:
    await database.write(ONE, asking(b"first"))
    with pytest.raises(Conflict) as caught:
        await database.write(ONE, asking(b"second", fingerprint="g"))
    assert caught.value.code == "idempotency-key-reused"
    assert await database.write(ONE, asking(b"third")) == (b"first", True)


async def test_keys_are_apart_per_tenant_subject_and_route(database: Database) -> None:
    await database.write(ONE, asking(b"first"))
    somebody = replace(ONE, subject="somebody")
    for who, route in ((OTHER, "POST /v1/tasks"), (somebody, "POST /v1/tasks"), (ONE, "POST /x")):
        unit = asking(b"own", who=who, route=route, fingerprint="g")
        assert await database.write(who, unit) == (b"own", False)


async def test_a_key_is_free_again_after_a_day(database: Database) -> None:
    await database.write(ONE, asking(b"first"))
    almost = NOW + timedelta(hours=24) - timedelta(microseconds=1)
    assert await database.write(ONE, asking(b"x", now=almost)) == (b"first", True)
    later = NOW + timedelta(hours=24)
    assert await database.write(ONE, asking(b"new", fingerprint="g", now=later)) == (b"new", False)
    assert await database.write(ONE, asking(b"x", fingerprint="g", now=later)) == (b"new", True)


async def test_work_that_fails_leaves_the_key_free(database: Database) -> None:
    def unit(conn: Connection) -> tuple[bytes, bool]:
        def make() -> bytes:
            conn.execute(
                text("INSERT INTO outbox_position (tenant, sequence) VALUES ('default', 7)")
            )
            raise ZeroDivisionError

        return once(conn, ONE, "r", "k", "f", NOW, make)

    with pytest.raises(ZeroDivisionError):
        await database.write(ONE, unit)
    count = text("SELECT count(*) FROM outbox_position WHERE tenant = 'default'")
    assert await database.read(ONE, lambda conn: conn.execute(count).scalar()) == 0
    assert await database.write(ONE, asking(b"answer", route="r")) == (b"answer", False)


async def test_of_many_at_once_one_does_the_work(database: Database) -> None:
    answers = await asyncio.gather(
        *(database.write(ONE, asking(f"answer {i}".encode())) for i in range(20))
    )
    assert sorted(repeated for _, repeated in answers) == [False] + [True] * 19
    assert len({answer for answer, _ in answers}) == 1


async def test_a_key_that_is_none_is_refused(database: Database) -> None:
    for key in ("", "x" * 256, "a\nb", "\x00"):
        with pytest.raises(Invalid):
            await database.write(ONE, asking(b"never", key=key))


async def test_expired_answers_are_dropped_per_tenant(database: Database) -> None:
    for i in range(3):
        await database.write(ONE, asking(b"old", key=f"k{i}", now=NOW - timedelta(hours=25)))
    await database.write(ONE, asking(b"young", key="young"))
    old = NOW - timedelta(hours=25)
    await database.write(OTHER, asking(b"old", who=OTHER, now=old))
    assert await database.read(ONE, lambda conn: count_expired(conn, ONE, NOW)) == 3
    assert await database.write(ONE, lambda conn: forget_expired(conn, ONE, NOW, limit=2)) == 2
    assert await database.write(ONE, lambda conn: forget_expired(conn, ONE, NOW)) == 1
    assert await database.read(ONE, lambda conn: count_expired(conn, ONE, NOW)) == 0
    assert await database.write(ONE, asking(b"x", key="young")) == (b"young", True)
    assert await database.write(OTHER, lambda conn: forget_expired(conn, OTHER, NOW)) == 1
