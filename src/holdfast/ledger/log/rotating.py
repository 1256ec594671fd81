"""Another key: the log is signed with it from here on, and tells of it in the same transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from holdfast.kernel.telemetry import get_logger
from holdfast.ledger import store
from holdfast.ledger.errors import LedgerReadOnly, LogMoved, NotSequencer
from holdfast.ledger.log.keys import new_signer
from holdfast.ledger.log.leadership import Opened, Signer
from holdfast.ledger.log.tenant_log import TenantLog
from holdfast.ledger.model import NO_KEY, Prepared
from holdfast.ledger.plan import Wanted
from holdfast.ledger.store import LogKey, Origin

log = get_logger("ledger")

Telling = Callable[[LogKey, LogKey], Prepared]
"""The event that says that the second key is in the place of the first."""


async def rotate(tenant_log: TenantLog, telling: Telling) -> None:
    """Sign with a new key from here on. The old one signs a last time: so far it is valid.

    One that is lost is valid as far as it signed; the log is writable again with the new one. The
    key and the entry of ``telling`` are there together, or neither is: that entry is the first one
    that only the new key can vouch for.
    """
    parts, soundness = tenant_log.parts, tenant_log.soundness
    # Witnesses may take their time, and nobody is to wait for them to append.
    with contextlib.suppress(LedgerReadOnly):
        await tenant_log.checkpoint()
    async with tenant_log.sequencer.storing, tenant_log.publisher.signing:
        try:
            await tenant_log.publisher.checkpoint_held(ask=False)
            state = await tenant_log.open()
            made, lost = await _another(tenant_log, state.origin), False
        except LedgerReadOnly:
            if soundness.damage is None or soundness.damage.reason != NO_KEY:
                raise
            state = await tenant_log.opening.open_under(partial(_another, tenant_log))
            made, lost = state.signer, True
        try:
            await _keep(tenant_log, state, made, telling)
        except BaseException:
            tenant_log.leadership.close()
            raise
    if lost:
        log.warning("a key that is lost was replaced", tenant=parts.tenant, key=made.key.number)


async def _another(tenant_log: TenantLog, origin: Origin) -> Signer:
    """A key that is valid from where the one in force ends: no checkpoint that anybody has of it
    stops being valid."""
    keys = await _keys(tenant_log)
    _, rows = await tenant_log.published.in_database()
    said = await tenant_log.published.in_file()
    sizes = [each.valid_from for each in keys] + [origin.started_size]
    sizes += [told[origin.origin].size for told in (rows, said) if origin.origin in told]
    return await new_signer(tenant_log.parts, origin, keys, max(sizes))


async def _keep(tenant_log: TenantLog, state: Opened, made: Signer, telling: Telling) -> None:
    """Put the key into the database, and what tells of it into the log."""
    before = (await _keys(tenant_log))[-1]
    events = await tenant_log.parts.sealed([telling(before, made.key)])
    add = partial(store.add_key, tenant=tenant_log.tenant, key=made.key)
    wanted = Wanted.of(events, each=True)
    try:
        [outcome] = await tenant_log.sequencer.commit_once(state, [wanted], add)
    except LogMoved as error:  # once only: the old key may have signed more elsewhere
        raise NotSequencer(
            "cannot begin a key: another instance has taken over this tenant's log"
        ) from error
    if isinstance(outcome, Exception):
        raise outcome
    state.signer, state.published = made, None


async def _keys(tenant_log: TenantLog) -> list[LogKey]:
    return await tenant_log.parts.read(partial(store.keys, tenant=tenant_log.tenant))
