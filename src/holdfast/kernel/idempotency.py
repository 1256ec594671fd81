"""One answer per idempotency key: the first one, for a day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Column, Connection, Index, LargeBinary, Text, text

from holdfast.kernel.canonical import digest
from holdfast.kernel.clock import timestamp
from holdfast.kernel.database import tenant_table
from holdfast.kernel.errors import Conflict, Invalid
from holdfast.kernel.principal import Principal

KEPT_FOR = timedelta(hours=24)
KEY_LENGTH_MAX = 255

idempotency = tenant_table(
    "idempotency",
    Column("subject", Text, primary_key=True, nullable=False),
    Column("route", Text, primary_key=True, nullable=False),
    Column("key", Text, primary_key=True, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("expires_at", Text, nullable=False),
    Index("ix_idempotency_expires_at", "tenant", "expires_at"),
)
"""What was answered to each (tenant, subject, route, key)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The idempotency key that a request came with, if any, and the digest of its body."""

    key: str = ""
    fingerprint: str = ""

    @classmethod
    def of(cls, key: str, body: Any) -> Asked:
        """For a body as it was decoded."""
        return cls(key, digest(msgspec.json.encode(body, order="sorted")) if key else "")


_FIND = text(
    "SELECT fingerprint, answer, expires_at FROM idempotency"
    " WHERE tenant = :tenant AND subject = :subject AND route = :route AND key = :key"
)
_KEEP = text(
    "INSERT INTO idempotency (tenant, subject, route, key, fingerprint, answer, expires_at)"
    " VALUES (:tenant, :subject, :route, :key, :fingerprint, :answer, :expires_at)"
)
_FORGET = text(
    "DELETE FROM idempotency"
    " WHERE tenant = :tenant AND subject = :subject AND route = :route AND key = :key"
)
_EXPIRED = "WHERE tenant = :tenant AND expires_at <= :now"
_COUNT_EXPIRED = text(f"SELECT count(*) FROM idempotency {_EXPIRED}")  # noqa: S608 - constants
_FORGET_EXPIRED = text(
    "DELETE FROM idempotency WHERE tenant = :tenant AND (subject, route, key) IN"  # noqa: S608
    f" (SELECT subject, route, key FROM idempotency {_EXPIRED} ORDER BY expires_at LIMIT :limit)"
)


_SETTLE = text(
    "UPDATE idempotency SET answer = :answer"
    " WHERE tenant = :tenant AND subject = :subject AND route = :route AND key = :key"
)


def settle(conn: Connection, principal: Principal, route: str, key: str, answer: bytes) -> None:
    """Let repetitions under ``key`` get this answer instead of the one that was kept."""
    row_key = {"tenant": principal.tenant, "subject": principal.subject, "route": route, "key": key}
    conn.execute(_SETTLE, {**row_key, "answer": answer})


def once(
    conn: Connection,
    principal: Principal,
    route: str,
    key: str,
    fingerprint: str,
    now: datetime,
    make: Callable[[], bytes],
) -> tuple[bytes, bool]:
    """The answer for ``key``, and whether it is a repetition.

    The first call runs ``make`` (which works on the same ``conn``) and keeps its answer for 24
    hours in the same transaction: the work and the memory of it are there together or not at all.
    A repetition with the same ``fingerprint`` (a digest of the request's body) gets that answer
    and runs nothing; with another it is a ``Conflict``. Keys are apart per (tenant, subject,
    route). The answer must not hold a secret: it would be shown again.
    """
    if not 1 <= len(key) <= KEY_LENGTH_MAX or not key.isprintable():
        raise Invalid(
            f"cannot use the idempotency key: 1 to {KEY_LENGTH_MAX} printable characters are needed"
        )
    row_key = {
        "tenant": principal.tenant,
        "subject": principal.subject,
        "route": route,
        "key": key,
    }
    found = conn.execute(_FIND, row_key).one_or_none()
    if found is not None and found.expires_at > timestamp(now):
        if found.fingerprint != fingerprint:
            raise Conflict(
                "cannot repeat the request: the idempotency key was used with another body",
                code="idempotency-key-reused",
                hint="use a fresh key for a new request",
            )
        return bytes(found.answer), True
    if found is not None:
        conn.execute(_FORGET, row_key)
    answer = make()
    conn.execute(
        _KEEP,
        {
            **row_key,
            "fingerprint": fingerprint,
            "answer": answer,
            "expires_at": timestamp(now + KEPT_FOR),
        },
    )
    return answer, False


def one_secret(
    conn: Connection,
    principal: Principal,
    route: str,
    asked: Asked,
    now: datetime,
    made: str,
    hint: str,
) -> None:
    """Have at most one secret made under an idempotency key; before anything of it is written.

    A secret is in one answer and nowhere else, so a repetition cannot have that answer again, and
    must not have another secret: it is a ``Conflict`` that names what the first request ``made``.
    ``hint`` says what to do with that (``{}``) if the answer never came. Without an idempotency key
    nothing is held.
    """
    if not asked.key:
        return
    first, again = once(conn, principal, route, asked.key, asked.fingerprint, now, made.encode)
    if again:
        raise Conflict(
            f"cannot show the secret of {first.decode()} again: it was in the first answer only",
            code="secret-shown-once",
            hint=f"if that answer never came: {hint.format(first.decode())}; "
            "then ask again with a fresh Idempotency-Key",
        )


def forget_expired(conn: Connection, principal: Principal, now: datetime, limit: int = 1000) -> int:
    """Drop up to ``limit`` answers of the tenant that are older than a day; how many."""
    values = {"tenant": principal.tenant, "now": timestamp(now), "limit": limit}
    return conn.execute(_FORGET_EXPIRED, values).rowcount


def count_expired(conn: Connection, principal: Principal, now: datetime) -> int:
    """How many answers of the tenant are older than a day."""
    values = {"tenant": principal.tenant, "now": timestamp(now)}
    return int(conn.execute(_COUNT_EXPIRED, values).scalar_one())
