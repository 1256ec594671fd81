"""Sign-ins under way: begun at a door, finished once, within minutes, by whichever instance."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Row

from holdfast.identity.granting import Parts
from holdfast.identity.signin import passkey_store as store
from holdfast.identity.signin.passkey_model import CEREMONY_SECONDS, ceremony_over
from holdfast.kernel.clock import timestamp
from holdfast.kernel.ids import DEFAULT_TENANT, is_id
from holdfast.kernel.principal import service

UNDER_WAY_MAX = 20_000

T = TypeVar("T")


class Ceremonies:
    """What was asked of a browser, until it answers.

    Nobody is signed in yet, so that all are kept in the system's own tenant; whose the thing is
    stands in the data. A ceremony is taken out before its answer is looked at: it is never
    answered twice, not even wrongly. ``most`` are kept, the newest: whoever begins them without
    end shuts nobody out, as the one who comes next is done in less time than that takes.
    """

    def __init__(self, parts: Parts, most: int = UNDER_WAY_MAX) -> None:
        self._parts = parts
        self._most = most
        self._system = service("identity", DEFAULT_TENANT)

    async def begin(self, kind: str, data: msgspec.Struct) -> str:
        """Keep ``data`` for five minutes, under the id that is the answer."""
        now = self._parts.clock.now()
        values: dict[str, Any] = {
            "tenant": self._system.tenant,
            "id": self._parts.new_id(),
            "kind": kind,
            "data": msgspec.json.encode(data).decode(),
            "expires_at": timestamp(now + timedelta(seconds=CEREMONY_SECONDS)),
        }

        def unit(conn: Connection) -> None:
            store.begin_ceremony(conn, values, timestamp(now), self._most)

        await self._parts.database.write(self._system, unit)
        return str(values["id"])

    async def take(self, ceremony: str, kind: str, type_: type[T]) -> T:
        """What was kept; :class:`Unauthenticated` (``ceremony-over``) if it is not there."""
        if not is_id(ceremony):
            raise ceremony_over()

        def unit(conn: Connection) -> Row[Any] | None:
            return store.take_ceremony(conn, self._system.tenant, ceremony, kind)

        found = await self._parts.database.write(self._system, unit)
        if found is None or found.expires_at <= timestamp(self._parts.clock.now()):
            raise ceremony_over()
        return msgspec.json.decode(found.data, type=type_)
