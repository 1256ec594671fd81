"""Whom the door asks about a person: the roles that seal people's data, wherever they run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from holdfast.app.tls import trust_of
from holdfast.identity.hop import HopAuth
from holdfast.kernel.http.pool import RolePool

if TYPE_CHECKING:
    from holdfast.app.system import Keys, System
    from holdfast.kernel.principal import Principal
    from holdfast.keyring.ports import People

KEEPERS = ("aggregator", "ledger")
"""The roles that hold keys of people: of records and raw responses, and of events about somebody.
In the order in which they are asked; of those that share a keyring the first is, which has copies
to remove beside the keys. All others seal events that are about nobody (``app.keys``)."""


def people_of(system: System, signing: Keys, elsewhere: Mapping[str, str]) -> People | None:
    """What answers for the people of this system at its door; nothing where no role keeps any.

    Roles elsewhere are asked as whoever asks here, never as this process: what somebody may not do
    at a role they may not do there by way of the door.
    """
    away = {role: elsewhere[role] for role in KEEPERS if role in elsewhere}
    if "gateway" not in system.roles or not away:
        here: People | None = system.subjects
        return here
    from holdfast.identity import HopSigner
    from holdfast.kernel.http.client import ApiClient
    from holdfast.keyring.client import SubjectsClient
    from holdfast.keyring.everywhere import SubjectsEverywhere

    signer = HopSigner("gateway", signing.own["gateway"], system.clock, system.new_id)
    trust = {role: trust_of(system.tls, [url]) for role, url in away.items()}

    @asynccontextmanager
    async def ask(principal: Principal) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            found: dict[str, Any] = {}
            for role in KEEPERS:
                if role not in away:
                    found[role] = system.subjects
                    continue
                client = httpx.AsyncClient(
                    base_url=away[role],
                    auth=HopAuth(signer, role, principal),
                    timeout=httpx.Timeout(60.0, connect=5.0),
                    transport=RolePool(trust[role]),
                    trust_env=False,
                )
                api = await stack.enter_async_context(ApiClient(client, role=role))
                found[role] = SubjectsClient(api)
            yield found

    return SubjectsEverywhere(ask)
