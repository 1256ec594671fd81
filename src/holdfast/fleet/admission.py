"""The part of the coordinator that admits workers: join tokens, credentials, revocation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
from sqlalchemy import Connection

from holdfast.fleet import makers, store, tasks, worker_store, workers
from holdfast.fleet.base import Base
from holdfast.fleet.credentials import JOIN_PREFIX, WORKER_PREFIX
from holdfast.fleet.model import (
    JoinToken,
    JoinTokenCreate,
    JoinTokenInfo,
    Worker,
    WorkerCredential,
    WorkerRegister,
    WorkerStatus,
    WorkerSummary,
)
from holdfast.identity.access.model import unconfirmed
from holdfast.identity.access.store import unconfirmed_since
from holdfast.identity.model import MAKERS_MAX, Standing
from holdfast.kernel.clock import timestamp
from holdfast.kernel.credentials import identity_of, is_secret_of, make_secret
from holdfast.kernel.errors import NotFound, Unauthenticated
from holdfast.kernel.http.paging import page_size
from holdfast.kernel.idempotency import Asked, one_secret
from holdfast.kernel.ids import EventId, TenantId
from holdfast.kernel.principal import WORKER_PERMISSIONS, Principal, PrincipalKind, service

REGISTER = ("POST", "/v1/workers/register")
"""What a worker asks for when it registers: its proof says so."""


class Admission(Base):
    """Who may work."""

    async def worker_token_create(
        self, principal: Principal, create: JoinTokenCreate, *, idempotency_key: str = ""
    ) -> JoinToken:
        """A join token that admits workers of one region with these capabilities.

        Its text is in this answer and nowhere else. What a key or a person makes ends with them,
        and no later than the key: :class:`Unavailable` where nobody says whether they still may.
        """
        identity, now = self.new_id(), self.clock.now()
        secret = make_secret(JOIN_PREFIX, identity, self._random(32))
        kept, pepper = self._peppers.seal(secret)
        expires_at = timestamp(now + timedelta(seconds=create.expires_seconds))
        made = {
            "created_at": timestamp(now),
            "created_by": principal.subject,
            "created_as": principal.kind.value,
        }
        if makers.is_asked_about(principal.kind.value):
            standing = await self._standing(principal, SimpleNamespace(**made), "make a join token")
            if standing.reason:
                raise workers.maker_over(standing.reason)
            expires_at = min(expires_at, standing.until or expires_at)
        capabilities = sorted(set(create.capabilities))
        values = {
            "tenant": principal.tenant,
            "id": identity,
            "secret": kept,
            "pepper": pepper,
            "region": create.region,
            "capabilities": msgspec.json.encode(capabilities).decode(),
            "expires_at": expires_at,
            "uses": 0,
            "uses_max": create.uses_max,
            **made,
        }
        payload = {
            "token": identity,
            "region": create.region,
            "capabilities": capabilities,
            "expires_at": expires_at,
        }
        event = self.event(
            f"join-token/{identity}", "join-token.created", payload, principal.subject
        )

        asked = Asked.of(idempotency_key, create)

        def unit(conn: Connection) -> None:
            one_secret(
                conn, principal, "workers.tokens", asked, now, identity,
                "`holdfast worker token-end {}`",
            )  # fmt: skip
            worker_store.add_token(conn, values)
            self.outbox.emit(conn, principal, event)

        await self.database.write(principal, unit)
        return JoinToken(
            id=identity,
            token=secret,
            region=create.region,
            capabilities=capabilities,
            expires_at=expires_at,
            uses_max=create.uses_max,
        )

    async def join_token_lasts(self, principal: Principal, secret: str, seconds: float) -> bool:
        """Whether this join token still admits any number of workers for so long.

        False for whatever is not one of this system's, too.
        """
        until = timestamp(self.clock.now() + timedelta(seconds=seconds))
        found = await self._own_token(principal, secret)
        return found is not None and found.uses_max is None and found.expires_at > until

    async def end_join_token(self, principal: Principal, secret: str) -> None:
        """Admit nobody by this join token from now on; whom it admitted stays. Twice is fine, and
        so is what is no token of this system."""
        found = await self._own_token(principal, secret)
        if found is None:
            return
        await self.end_join_token_of(principal, found.id)

    async def end_join_token_of(self, principal: Principal, token: str) -> JoinTokenInfo:
        """The same by the token's id. Raises :class:`NotFound` where there is none."""
        found, now = await self._end_token(principal, token, makers.ENDED, {})
        if found is None:
            raise NotFound(
                f"cannot end the join token {token}: there is none of that id",
                code="join-token-not-found",
                hint="holdfast worker token-list",
            )
        return _info(found, now)

    async def _end_token(
        self, principal: Principal, token: str, because: str, more: Mapping[str, str]
    ) -> tuple[Any, str]:
        """End it, on the record unless it was over already; its row, and the moment."""
        payload = {"token": token, **more}
        event = self.event(f"join-token/{token}", "join-token.ended", payload, principal.subject)
        now = timestamp(self.clock.now())

        def unit(conn: Connection) -> Any:
            if worker_store.end_token(conn, principal.tenant, token, now, because):
                self.outbox.emit(conn, principal, event)
            return worker_store.find_token(conn, principal.tenant, token)

        return await self.database.write(principal, unit), now

    async def _standing(self, principal: Principal, row: Any, what: str) -> Standing:
        maker = makers.maker_of(principal.tenant, row)
        [found] = await makers.ask(self.makers, principal, [maker], f"cannot {what}")
        return found

    async def _check_maker(self, principal: Principal, row: Any) -> None:
        """``join-token-invalid`` if the token has ended with its maker; then it stays ended."""
        if not makers.is_asked_about(row.created_as):
            return
        standing = await self._standing(principal, row, "register")
        if standing.reason:
            await self._end_with_maker(principal, row, standing.reason)
            raise workers.token_refused(workers.reason_of(standing.reason))

    async def _end_with_maker(self, principal: Principal, row: Any, reason: str) -> None:
        more = {"with": row.created_by, "because": reason}
        await self._end_token(principal, row.id, reason, more)

    async def end_tokens_of_makers(self, principal: Principal) -> int:
        """End every join token whose maker may not have it any more; how many.

        Such a token admits nobody anyway. This brings it on the record and into the list, and sees
        to it that it stays so, whatever its maker may again later.
        """
        after, ended, more = "", 0, True
        while more:
            now = timestamp(self.clock.now())
            rows = await self.database.read(
                principal,
                lambda conn, after=after, now=now: worker_store.asked_tokens(  # type: ignore[misc]
                    conn, principal.tenant, after, MAKERS_MAX, now
                ),
            )
            wanted = [makers.maker_of(principal.tenant, row) for row in rows]
            if not wanted:
                break
            found = await makers.ask(
                self.makers, principal, wanted, "cannot look after join tokens"
            )
            for row, standing in zip(rows, found, strict=True):
                if standing.reason:
                    await self._end_with_maker(principal, row, standing.reason)
                    ended += 1
            after, more = rows[-1].id, len(rows) == MAKERS_MAX
        return ended

    async def list_join_tokens(
        self, principal: Principal, *, before: str = "", limit: int = 100, maker: str = ""
    ) -> tuple[list[JoinTokenInfo], str | None]:
        """Join tokens, the newest first, those that admit nobody any more too; and where the next
        page begins (``before``), ``None`` at the end. With ``maker`` those that they made."""
        limit = page_size(limit)
        rows = await self.database.read(
            principal,
            lambda conn: worker_store.page_of_tokens(
                conn, principal.tenant, before, limit + 1, maker
            ),
        )
        now = timestamp(self.clock.now())
        found = [_info(row, now) for row in rows[:limit]]
        return found, found[-1].id if len(rows) > limit else None

    async def _own_token(self, principal: Principal, secret: str) -> Any:
        """The row of a join token, if it is whole and one of the principal's tenant."""
        if not is_secret_of(secret, JOIN_PREFIX):
            return None
        try:
            identity = identity_of(secret, JOIN_PREFIX)
        except Unauthenticated:
            return None
        found = await self.database.read(
            principal, lambda conn: worker_store.find_token(conn, principal.tenant, identity)
        )
        if found is None or not self._peppers.matches(secret, bytes(found.secret), found.pepper):
            return None
        return found

    async def register(
        self,
        join_token: str,
        registration: WorkerRegister,
        certificate: str | None = None,
        proof: str | None = None,
    ) -> WorkerCredential:
        """Admit a worker by its join token, or take over the name of one that came back.

        A worker that still has a credential that holds may register again with that instead.
        Where the door asks for certificates, ``certificate`` is the name in the one shown (empty:
        none was), and must be the worker's. ``proof`` is what it signed for this request with the
        key it brings (empty: nothing; ``None``: nobody asks): from then on its credential is good
        only with such a proof each time. See :mod:`holdfast.fleet.proofs`.

        Raises :class:`Unauthenticated` (``join-token-invalid``) for a token that is not, no longer
        or too often used, or whose maker may not any more, and for another's or no certificate;
        :class:`Unavailable` (``maker-unasked``) where that cannot be told now; :class:`Denied`
        (``access-unconfirmed``) for what came with a restored backup and is not confirmed, for
        a region or capabilities it does not grant, or a revoked name; :class:`Conflict`
        (``worker-name-taken``) when the name works in another region.
        """
        workers.check_certificate(registration.name, certificate)
        if proof:
            self._proofs.check(proof, *REGISTER, join_token, registration.key)
        elif proof is not None and self.settings.bound_only and not certificate:
            raise Unauthenticated(
                f"cannot register {registration.name}: it does not prove that it holds its key",
                code="proof-missing",
                hint="update the drone: it proves that by itself",
            )
        mine = is_secret_of(join_token, WORKER_PREFIX)
        identity = identity_of(join_token, WORKER_PREFIX if mine else JOIN_PREFIX)
        now = self.clock.now()
        fresh = self.new_id()
        secrets = self._random(32)
        event = EventId(self.new_id())
        for tenant in await self.database.tenants():
            principal = service("coordinator", tenant)
            # Looked up by a read first: a stranger's token makes nobody write.
            look = partial(
                workers.find_granted,
                peppers=self._peppers,
                tenant=tenant,
                token=identity,
                secret=join_token,
            )
            granted = await self.database.read(principal, look)
            if granted is None:
                continue
            made = granted.registered_at if mine else granted.created_at
            since = await self.database.read(
                principal,
                lambda conn, tenant=tenant, made=made: unconfirmed_since(conn, tenant, made),  # type: ignore[misc]
            )
            if since:
                raise unconfirmed(since)
            if not mine and granted.expires_at > timestamp(now):
                await self._check_maker(principal, granted)
            unit = partial(
                workers.register,
                principal=principal,
                outbox=self.outbox,
                peppers=self._peppers,
                token=identity,
                secret=join_token,
                registration=registration,
                now=now,
                fresh=fresh,
                random=secrets,
                event=event,
                proved=bool(proof),
                certified=bool(certificate),
            )
            admitted = await self.database.write(principal, unit)
            if admitted is not None:
                worker, credential = admitted
                self._tenant_of_worker[worker] = tenant
                await self.leases.beat(principal, worker, now)
                return WorkerCredential(
                    worker=worker,
                    name=registration.name,
                    credential=credential,
                    beat_seconds=self.settings.beat_seconds,
                    lost_after_seconds=self.settings.lost_after_seconds,
                )
        raise workers.token_refused("it is not known here")

    async def authenticate_worker(
        self, credential: str, certificate: str | None = None
    ) -> Principal:
        """See :meth:`find_worker_holder`; for those who look at no proof."""
        return (await self.find_worker_holder(credential, certificate))[0]

    async def find_worker_holder(
        self, credential: str, certificate: str | None = None
    ) -> tuple[Principal, str]:
        """Who holds ``credential``, and the key that has to sign for each request with it: empty
        where the certificate binds, or nothing does. ``certificate`` as for :meth:`register`.

        Raises :class:`Unauthenticated`: ``certificate-missing``, ``certificate-foreign``;
        ``credential-malformed``; ``worker-unknown`` when it is
        not, or no longer, anybody's (the worker then registers again); ``worker-revoked``.
        :class:`Denied` (``access-unconfirmed``) for one of a restored backup that nobody has
        confirmed yet: it may have been revoked since.
        """
        worker = identity_of(credential, WORKER_PREFIX)
        row, tenant = await self._find_worker(worker)
        if row is None or not self._peppers.matches(credential, bytes(row.secret), row.pepper):
            row = None
        refusal = tasks.refusal_of_worker(row)
        if refusal is not None:
            raise refusal
        if row.unconfirmed_since:
            raise unconfirmed(row.unconfirmed_since)
        workers.check_certificate(row.name, certificate)
        key = row.signing_key if row.proved and certificate is None else ""
        return Principal(tenant, worker, PrincipalKind.WORKER, WORKER_PERMISSIONS), key

    async def list_workers(
        self, principal: Principal, *, after: str = "", limit: int = 100
    ) -> tuple[list[Worker], str | None]:
        """Workers by name, and where the next page begins (``after``); ``None`` at the end."""
        limit = page_size(limit)
        tenant = principal.tenant

        def unit(conn: Connection) -> tuple[Sequence[Any], Mapping[str, int]]:
            page = worker_store.page_of_workers(conn, tenant, after, limit + 1)
            return page, store.leases_held(conn, tenant)

        rows, held = await self.database.read(principal, unit)
        beats = await self.leases.beats(principal)
        now = self.clock.now()
        found = [workers.worker_of(row, beats.get(row.id), held, now) for row in rows[:limit]]
        return found, found[-1].name if len(rows) > limit else None

    async def summarise_workers(self, principal: Principal, *, limit: int = 50) -> WorkerSummary:
        """How many workers there are, and some of them, the alive first; without their loads."""
        limit = page_size(limit)
        tenant = principal.tenant

        def unit(conn: Connection) -> tuple[dict[str, int], Sequence[Any], Mapping[str, int]]:
            some = worker_store.first_workers(conn, tenant, limit)
            return store.count_workers(conn, tenant), some, store.leases_held(conn, tenant)

        counts, rows, held = await self.database.read(principal, unit)
        return WorkerSummary(
            counts={WorkerStatus(status): count for status, count in counts.items()},
            workers=[workers.worker_of(row, None, held, self.clock.now()) for row in rows],
            lost_after_seconds=self.settings.lost_after_seconds,
        )

    async def revoke_worker(self, principal: Principal, worker: str) -> Worker:
        """Refuse this worker from now on and free what it holds. Twice is fine."""
        now = self.clock.now()
        ids = [EventId(self.new_id()) for _ in range(self.settings.batch_max)]
        chances = [self.chance() for _ in ids]
        event = EventId(self.new_id())

        def unit(conn: Connection) -> Any:
            return workers.revoke(
                conn, principal, self.outbox, self.backoff, worker, now, event, ids, chances
            )

        row, events = await self.hot(principal.tenant, unit)
        self.metrics.ended(events)
        await self.leases.forget(principal, worker)
        return workers.worker_of(row, None, {}, now)

    async def _find_worker(self, worker: str) -> tuple[Any, TenantId]:
        known = self._tenant_of_worker.get(worker)
        tenants = [known] if known is not None else await self.database.tenants()
        for tenant in tenants:
            row = await self.database.read(
                service("coordinator", tenant),
                lambda conn, tenant=tenant: worker_store.find_worker_at_door(conn, tenant, worker),  # type: ignore[misc]
            )
            if row is not None:
                self._tenant_of_worker[worker] = tenant
                return row, tenant
        self._tenant_of_worker.pop(worker, None)
        return None, TenantId("")


def _info(row: Any, now: str) -> JoinTokenInfo:
    unused = row.uses_max is None or row.uses < row.uses_max
    return JoinTokenInfo(
        id=row.id,
        region=row.region,
        capabilities=msgspec.json.decode(row.capabilities),
        created_at=row.created_at,
        expires_at=row.expires_at,
        uses=row.uses,
        uses_max=row.uses_max,
        admits=unused and row.expires_at > now,
        created_by=row.created_by,
        created_as=row.created_as,
        ended=row.ended_because,
    )
