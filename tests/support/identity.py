"""Identity made of its own parts, for tests: two tenants, a clock that the test holds, and clients
whose token is the name of whoever they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, text

from holdfast.identity.granting import Parts
from holdfast.identity.people import store
from holdfast.kernel.clock import Clock, ManualClock, timestamp
from holdfast.kernel.credentials import Peppers
from holdfast.kernel.database import Database
from holdfast.kernel.http import AppSpec, create_app
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.ids import TenantId, id_source
from holdfast.kernel.outbox import BEGINNING, Entry, Outbox
from holdfast.kernel.principal import Principal, operator
from tests.support.fleet import QuietSealer

ME = operator()
ELSEWHERE = operator(TenantId("elsewhere"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
async def parts(database: Database, clock: ManualClock) -> Parts:
    """What every service of identity is made of; random bytes count up."""

    def unit(conn: Connection) -> None:
        conn.execute(
            text("INSERT INTO tenants (id, created_at) VALUES ('elsewhere', '2026-01-01')")
        )

    await database.administer(unit)
    counted = iter(range(1, 1_000_000))
    return Parts(
        database,
        Outbox(QuietSealer()),
        Peppers({1: b"\x05" * 32}),
        clock,
        id_source(clock),
        lambda size: next(counted).to_bytes(size, "big"),
    )


def app_for(who: Mapping[str, Principal], handlers: Sequence[Any], clock: Clock) -> Any:
    """An application of these handlers; a request's token is a name in ``who``."""

    async def authenticate(connection: Any) -> Principal:
        return who[connection.headers["authorization"].removeprefix("Bearer ")]

    return create_app(
        AppSpec(
            role="identity",
            version="0",
            handlers=handlers,
            authenticate=authenticate,
            clock=clock,
        )
    )


@asynccontextmanager
async def apis_for(
    who: Mapping[str, Principal], handlers: Sequence[Any], clock: Clock
) -> AsyncIterator[dict[str, ApiClient]]:
    """A client of :func:`app_for` for each of them, closed at the end of the block."""
    app = app_for(who, handlers, clock)
    apis = {name: ApiClient.for_app(app, token=name) for name in who}
    try:
        yield apis
    finally:
        for api in apis.values():
            await api.aclose()


async def events(database: Database, principal: Principal = ME) -> list[Entry]:
    """What was emitted in a tenant and is not in its ledger yet."""
    outbox = Outbox(QuietSealer())
    return await database.read(
        principal, lambda conn: outbox.ready(conn, principal, BEGINNING, 1000)
    )


async def join(parts: Parts, roles: list[str], principal: Principal = ME) -> str:
    """A person who is there."""
    identity = parts.new_id()
    values = {
        "tenant": principal.tenant,
        "id": identity,
        "name": "Ada",
        "email": "",
        "roles": str(roles).replace("'", '"'),
        "created_at": timestamp(parts.clock.now()),
        "created_by": "operator",
        "event_id": parts.new_id(),
    }
    await parts.database.write(principal, lambda conn: store.add_person(conn, values))
    return identity
