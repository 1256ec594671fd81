"""Units of work on workers and join tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from holdfast.fleet import makers, store, worker_store
from holdfast.fleet.credentials import WORKER_PREFIX
from holdfast.fleet.fates import Backoff, decide, fail
from holdfast.fleet.model import COLLECT, Worker, WorkerRegister, WorkerStatus
from holdfast.fleet.worker_store import WorkerRow
from holdfast.kernel.clock import parse_timestamp, timestamp
from holdfast.kernel.credentials import Peppers, is_secret_of, make_secret
from holdfast.kernel.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated
from holdfast.kernel.ids import EventId
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import Principal
from holdfast.kernel.telemetry import request_id
from holdfast.leases import Beat


def worker_of(row: Any, beat: Beat | None, held: Mapping[str, int], now: datetime) -> Worker:
    """A worker as the list shows it."""
    last = row.last_beat_at if beat is None else timestamp(beat.at)
    silent = max(0.0, (now - parse_timestamp(last)).total_seconds()) if last else None
    return Worker(
        id=row.id,
        name=row.name,
        status=WorkerStatus(row.status),
        capabilities=msgspec.json.decode(row.capabilities),
        labels=msgspec.json.decode(row.labels),
        region=row.region,
        capacity=row.capacity,
        version=row.version,
        registered_at=row.registered_at,
        last_beat_at=last,
        silent_seconds=None if silent is None else round(silent, 3),
        leases=held.get(row.id, 0),
        load={} if beat is None else dict(beat.data),
        key=row.signing_key,
        bound=bool(row.proved),
    )


def token_refused(reason: str) -> Unauthenticated:
    """Why a join token admits nobody."""
    return Unauthenticated(
        f"cannot register: the join token is not accepted: {reason}",
        code="join-token-invalid",
        hint="make a new one with `holdfast worker token`",
    )


def maker_over(reason: str) -> Unauthenticated:
    """Why somebody whom a door still remembers makes no join token any more."""
    return Unauthenticated(
        f"cannot make a join token: whoever asks may not any more ({reason})", code="maker-over"
    )


def reason_of(because: str) -> str:
    """Why a token whose time is over admits nobody, as it is told to whoever brings it."""
    return makers.REASONS.get(because, "it has ended" if because else "it has expired")


def check_certificate(name: str, certificate: str | None) -> None:
    """Return where the certificate is the worker's, or nobody is asked for one.

    It is the name that binds, not the key: a renewed certificate is the same worker's.
    """
    if certificate is None or certificate == name:
        return
    raise Unauthenticated(
        "cannot do this: the certificate is another's"
        if certificate
        else "cannot do this: workers present a certificate here",
        code="certificate-foreign" if certificate else "certificate-missing",
        hint="`holdfast pki client NAME` makes one, NAME being the worker's own; "
        "HOLDFAST_TLS_CLIENT_CERTIFICATE_FILE and HOLDFAST_TLS_CLIENT_KEY_FILE name it",
    )


def find_granted(
    conn: Connection, *, peppers: Peppers, tenant: str, token: str, secret: str
) -> WorkerRow | None:
    """The row of ``secret`` (``token`` is its identity), a join token or a credential, if it is one
    of the tenant's; how much it is still good for is seen by :func:`register`.
    """
    find = (
        worker_store.find_worker if is_secret_of(secret, WORKER_PREFIX) else worker_store.find_token
    )
    granted = find(conn, tenant, token)
    if granted is None or not peppers.matches(secret, bytes(granted.secret), granted.pepper):
        return None
    return granted


def register(
    conn: Connection,
    *,
    principal: Principal,
    outbox: Outbox,
    peppers: Peppers,
    token: str,
    secret: str,
    registration: WorkerRegister,
    now: datetime,
    fresh: str,
    random: bytes,
    event: EventId,
    proved: bool = False,
    certified: bool = False,
) -> tuple[str, str] | None:
    """The id and the new credential of the worker; nothing if the token is another tenant's.

    ``token`` is the identity in ``secret``: of a join token, or of the worker's own credential, by
    which it may register again under its name as long as that credential holds. ``proved`` is
    whether it showed that it holds its key, ``certified`` whether it came with its certificate.
    """
    tenant = principal.tenant
    mine = is_secret_of(secret, WORKER_PREFIX)
    granted = (worker_store.find_worker if mine else worker_store.find_token)(conn, tenant, token)
    if granted is None:
        return None
    if not peppers.matches(secret, bytes(granted.secret), granted.pepper):
        raise token_refused("it is not known here")
    if mine:
        if granted.name != registration.name:
            raise token_refused("it is another worker's credential")
        if granted.proved and not certified:
            raise token_refused("it is bound to a key; the join token admits a new one")
        token = granted.join_token
    elif granted.expires_at <= timestamp(now):
        raise token_refused(reason_of(granted.ended_because))
    capabilities = _granted_capabilities(granted, registration)
    if COLLECT in capabilities and not registration.key:
        raise Invalid(
            f"cannot register {registration.name}: whoever collects signs what it posts, and this "
            "registration brings no signing key",
            code="signing-key-needed",
            hint="update the drone: it makes a key each time it registers",
        )
    known = worker_store.find_worker_by_name(conn, tenant, registration.name)
    if known is not None:
        _check_takeover(known, granted)
    # A worker that the token admitted before may always come back.
    came_before = mine or (known is not None and known.join_token == token)
    if not came_before and not worker_store.use_token(conn, tenant, token):
        raise token_refused("it is used up")
    worker = fresh if known is None else known.id
    credential = make_secret(WORKER_PREFIX, worker, random)
    kept, pepper = peppers.seal(credential)
    values = {
        "tenant": tenant,
        "id": worker,
        "name": registration.name,
        "status": WorkerStatus.ALIVE.value,
        "capabilities": msgspec.json.encode(capabilities).decode(),
        "labels": msgspec.json.encode(registration.labels, order="sorted").decode(),
        "region": granted.region,
        "capacity": registration.capacity,
        "version": registration.version,
        "secret": kept,
        "pepper": pepper,
        "join_token": token,
        "registered_at": timestamp(now),
        "last_beat_at": timestamp(now),
        "signing_key": registration.key,
        "registration": event,
        "proved": int(proved),
    }
    worker_store.keep_worker(conn, values)
    payload = {
        "worker": worker,
        "region": granted.region,
        "capabilities": capabilities,
        "token": token,
        "again": known is not None,
        "key": registration.key,
        "bound": "certificate" if certified else "key" if proved else "nothing",
    }
    outbox.emit(
        conn,
        principal,
        Event(
            id=event,
            stream=f"worker/{worker}",
            type="worker.registered",
            time=now,
            payload=payload,
            subject=worker,
        ),
    )
    return worker, credential


def _granted_capabilities(granted: WorkerRow, registration: WorkerRegister) -> list[str]:
    if registration.region not in ("", granted.region):
        raise Denied(
            f"cannot register in the region {registration.region}: the join token does not "
            "grant it",
            code="region-not-granted",
        )
    capabilities = sorted(
        set(registration.capabilities) & set(msgspec.json.decode(granted.capabilities))
    )
    if not capabilities:
        raise Denied(
            "cannot register: the join token grants none of the worker's capabilities",
            code="capabilities-not-granted",
        )
    return capabilities


def _check_takeover(known: WorkerRow, granted: WorkerRow) -> None:
    if known.status == WorkerStatus.REVOKED.value:
        raise Denied(
            f"cannot register as {known.name}: that worker was revoked",
            code="worker-revoked",
            hint="give the worker another name",
        )
    if known.region != granted.region:
        raise Conflict(
            f"cannot register as {known.name}: a worker of another region has that name",
            code="worker-name-taken",
        )


def lose(
    conn: Connection,
    principal: Principal,
    outbox: Outbox,
    backoff: Backoff,
    worker: str,
    last_beat: datetime,
    now: datetime,
    event: EventId,
    ids: Sequence[EventId],
    chances: Sequence[float],
) -> list[str] | None:
    """A worker fell silent: free what it holds.

    The types of the events of its tasks; nothing if it was not alive.
    """
    changed = worker_store.set_status(
        conn, principal.tenant, worker, "lost", "alive", timestamp(last_beat)
    )
    if not changed:
        return None
    freed = _free(conn, principal, outbox, backoff, worker, now, "worker-lost", ids, chances)
    payload = {"worker": worker, "last_beat_at": timestamp(last_beat), "leases": len(freed)}
    outbox.emit(conn, principal, _event(event, worker, "worker.lost", payload, now, principal))
    return freed


def revoke(
    conn: Connection,
    principal: Principal,
    outbox: Outbox,
    backoff: Backoff,
    worker: str,
    now: datetime,
    event: EventId,
    ids: Sequence[EventId],
    chances: Sequence[float],
) -> tuple[WorkerRow, list[str]]:
    """Refuse a worker from now on and free what it holds.

    Its row, and the types of the events of its tasks.
    """
    tenant = principal.tenant
    row = worker_store.find_worker(conn, tenant, worker)
    if row is None:
        raise NotFound(f"cannot find the worker {worker}", code="worker-not-found")
    freed: list[str] = []
    if worker_store.set_status(conn, tenant, worker, "revoked", row.status, row.last_beat_at) and (
        row.status != WorkerStatus.REVOKED.value
    ):
        freed = _free(conn, principal, outbox, backoff, worker, now, "worker-revoked", ids, chances)
        payload = {"worker": worker, "leases": len(freed)}
        outbox.emit(
            conn, principal, _event(event, worker, "worker.revoked", payload, now, principal)
        )
    found = worker_store.find_worker(conn, tenant, worker)
    assert found is not None, "its row was just written"
    return found, freed


def _free(
    conn: Connection,
    principal: Principal,
    outbox: Outbox,
    backoff: Backoff,
    worker: str,
    now: datetime,
    code: str,
    ids: Sequence[EventId],
    chances: Sequence[float],
) -> list[str]:
    rows = store.held_by(conn, principal.tenant, worker, len(ids))
    reason = {
        "worker-lost": "the worker fell silent",
        "worker-revoked": "the worker was revoked",
    }[code]
    fates = [
        (
            row,
            fail(row, now, backoff, jitter=chance, code=code, reason=reason),
            id_,
            principal.subject,
        )
        for row, id_, chance in zip(rows, ids, chances, strict=False)
    ]
    return decide(conn, principal, outbox, now, fates)


def _event(
    id_: EventId,
    worker: str,
    type_: str,
    payload: dict[str, Any],
    now: datetime,
    principal: Principal,
) -> Event:
    return Event(
        id=id_,
        stream=f"worker/{worker}",
        type=type_,
        time=now,
        payload=payload,
        subject=principal.subject,
        request_id=request_id(),
    )
