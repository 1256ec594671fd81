"""One webhook: notices delivered to an address of the operator's, signed, at least once.

The form is that of the Standard Webhooks specification: the header ``webhook-id`` names the notice
(the same at every attempt), ``webhook-timestamp`` is the second of the attempt, and
``webhook-signature`` is ``v1,`` and the base64 of HMAC-SHA256 over ``id.timestamp.body`` under the
shared secret. Whoever receives one checks the signature, refuses old timestamps, and drops ids that
came before.

A notice is taken before it is sent, so that two instances do not send it together; if the process
dies meanwhile it is due again after a minute. What is not answered with 2xx is tried again, ever
more rarely, for about three days; then the notice says that it was given up.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, select

from holdfast.kernel.canonical import canonical
from holdfast.kernel.clock import Clock, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import HoldfastError, Invalid
from holdfast.kernel.files import read_handed
from holdfast.kernel.outbound import (
    FetchLimits,
    OutboundClient,
    OutboundRequest,
    OutboundSettings,
    parse_target,
)
from holdfast.kernel.principal import Principal
from holdfast.kernel.telemetry import get_logger
from holdfast.records import store
from holdfast.records.metrics import RecordsMetrics

NOTICE_TYPES = (
    "run.failed",
    "run.partial",
    "run.withheld",
    "source.drifted",
    "source.shrunk",
    "source.stale",
    "source.fresh",
)
"""What there is to be told of."""
SECRET_BYTES_MIN = 24
SECRET_FILE_BYTES_MAX = 4096
TAKEN_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 10.0
PAUSE_SECONDS_MAX = 4 * 3600.0
ATTEMPTS_MAX = 30
AT_ONCE = 20
LIMITS = FetchLimits(
    size_bytes_max=64 * 1024,
    redirects_max=0,
    total_seconds=10.0,
    connect_seconds=5.0,
    idle_seconds=10.0,
    retries=0,
)

log = get_logger("watch")


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where notices go. ``secret`` is shared with the receiver; ``outbound`` names private hosts
    that may be contacted."""

    url: str
    secret: bytes
    outbound: OutboundSettings


def read_secret(path: Path) -> bytes:
    """The secret in a file: text as it is, or base64 behind ``whsec_``.

    ``Invalid`` if the file cannot be read, or the secret is too short to be one.
    """
    try:
        text = read_handed(path, "the webhook's secret", SECRET_FILE_BYTES_MAX).strip()
        secret = (
            base64.b64decode(text.removeprefix(b"whsec_"), validate=True)
            if text.startswith(b"whsec_")
            else text
        )
    except OSError as error:
        raise Invalid(f"cannot read the webhook's secret {path}: {error.strerror}") from error
    except (ValueError, binascii.Error) as error:
        raise Invalid(f"cannot read the webhook's secret {path}: it is not base64") from error
    if len(secret) < SECRET_BYTES_MIN:
        raise Invalid(
            f"cannot use the webhook's secret {path}: it has {len(secret)} bytes, "
            f"at least {SECRET_BYTES_MIN} are needed",
            hint="openssl rand -base64 32 > FILE",
        )
    return secret


def signature(secret: bytes, notice: str, seconds: int, body: bytes) -> str:
    """The value of ``webhook-signature``."""
    message = f"{notice}.{seconds}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, message, hashlib.sha256).digest()).decode()


class Webhook:
    """Delivers notices that are due. ``random`` answers numbers from 0 to 1.

    Raises :class:`AddressInvalid` for an address that is none. Nobody is told its path: chat
    services give out addresses that whoever knows them may write to.
    """

    def __init__(
        self,
        db: Database,
        settings: WebhookSettings,
        *,
        clock: Clock,
        random: Callable[[], float],
        metrics: RecordsMetrics,
    ) -> None:
        self._db = db
        self._settings = settings
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._target = parse_target(settings.url)
        self._stack = AsyncExitStack()
        self._outbound: OutboundClient | None = None
        self._spool: Path | None = None

    async def __aenter__(self) -> Webhook:
        self._outbound = await self._stack.enter_async_context(
            OutboundClient(self._settings.outbound, clock=self._clock)
        )
        folder = tempfile.TemporaryDirectory(prefix="holdfast-webhook-")
        self._spool = Path(self._stack.enter_context(folder))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def deliver_due(self, principal: Principal) -> int:
        """Try each notice that is due, the oldest first, some at a time; how many were told."""
        told = 0
        for row in await self._due(principal):
            if await self._take(principal, row):
                told += await self._deliver(principal, row)
        return told

    async def _due(self, principal: Principal) -> list[Any]:
        notices, now = store.notices, timestamp(self._clock.now())
        statement = (
            select(notices)
            .where(
                notices.c.tenant == principal.tenant,
                notices.c.due_at.is_not(None),
                notices.c.due_at <= now,
            )
            .order_by(notices.c.due_at, notices.c.number)
            .limit(AT_ONCE)
        )
        return list(await self._db.read(principal, lambda conn: conn.execute(statement).all()))

    async def _take(self, principal: Principal, row: Any) -> bool:
        """Whether it is ours to send; nobody else takes it for a minute."""
        until = timestamp(self._clock.now() + timedelta(seconds=TAKEN_SECONDS))
        notices = store.notices
        condition = and_(
            store.of_key(notices, principal.tenant, notice=row.notice),
            notices.c.due_at == row.due_at,
        )
        values = {"due_at": until, "attempts": row.attempts + 1}
        return await self._db.write(
            principal, lambda conn: store.change(conn, notices, condition, values) == 1
        )

    async def _deliver(self, principal: Principal, row: Any) -> bool:
        problem, wished = await self._sent(principal, row)
        now = self._clock.now()
        if not problem:
            values: dict[str, Any] = {"due_at": None, "delivered_at": timestamp(now), "problem": ""}
        else:
            values = {"problem": problem[:500], "due_at": self._again_at(row, now, wished)}
            log.warning("webhook.failed", notice=row.notice, error=problem)
        outcome = "told" if not problem else ("failed" if values["due_at"] else "given-up")
        self._metrics.deliveries.labels(outcome).inc()

        def unit(conn: Connection) -> None:
            key = store.of_key(store.notices, principal.tenant, notice=row.notice)
            store.change(conn, store.notices, key, values)

        await self._db.write(principal, unit)
        return not problem

    async def _sent(self, principal: Principal, row: Any) -> tuple[str, float]:
        """What went wrong (empty if nothing did), and the pause that the receiver wishes."""
        assert self._outbound is not None
        assert self._spool is not None
        body = body_of(principal.tenant, row)
        seconds = int(self._clock.now().timestamp())
        request = OutboundRequest(
            url=self._settings.url,
            method="POST",
            headers={
                "webhook-id": row.notice,
                "webhook-timestamp": str(seconds),
                "webhook-signature": signature(self._settings.secret, row.notice, seconds, body),
            },
            body=body,
            body_type="application/json",
            limits=LIMITS,
        )
        try:
            answer = await self._outbound.fetch(request, self._spool)
        except HoldfastError as error:
            return self._without_address(error.detail), error.retry_after_seconds or 0.0
        if answer.path is not None:
            answer.path.unlink(missing_ok=True)
        return "", 0.0

    def _without_address(self, text: str) -> str:
        """``text`` with the host alone: whoever knows the whole address may write to it."""
        for spelling in (self._settings.url, self._target.url):
            text = text.replace(spelling, self._target.host_port)
        return text

    def _again_at(self, row: Any, now: datetime, wished: float) -> str | None:
        """When to try again; ``None`` once it was tried often enough."""
        if row.attempts + 1 >= ATTEMPTS_MAX:
            return None
        pause = min(PAUSE_SECONDS_MAX, FIRST_PAUSE_SECONDS * 2.0 ** min(row.attempts, 20))
        pause = max(pause * (0.5 + self._random() / 2), min(wished, PAUSE_SECONDS_MAX))
        return timestamp(now + timedelta(seconds=pause))


def body_of(tenant: str, row: Any) -> bytes:
    """The body of a delivery: the same bytes at every attempt."""
    return canonical(
        {
            "at": row.at,
            "data": msgspec.json.decode(row.payload),
            "id": row.notice,
            "profile": row.profile,
            "run": row.run,
            "tenant": tenant,
            "type": row.type,
        }
    )
