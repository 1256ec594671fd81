"""Sessions: what is said of them, and the rules that need no store."""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct

from holdfast.kernel.clock import parse_timestamp, timestamp

SESSION_PREFIX = "hfs"
SESSIONS = "sessions"
"""Kind of cursor."""

TOUCH_SECONDS = 60.0
"""How stale ``seen_at`` may get: a session in use is written at most once a minute, and where
little silence is allowed, at most once in a quarter of that."""
SESSIONS_OF_ONE_MAX = 100
"""Open sessions of one person; with one more, the oldest ends."""
SESSION_KEPT_DAYS = 30
"""How long a session that is over stays listed."""

Text200 = Annotated[str, Meta(max_length=200)]


class SessionBegin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody signed in at a door. ``credential`` is what they signed in with: the session ends
    with it. ``replaces`` is the session their browser had: it ends now."""

    tenant: Text200
    subject: Text200
    kind: Text200
    credential: Text200
    address: Text200 = ""
    agent: Text200 = ""
    replaces: Annotated[str, Meta(max_length=400)] = ""


class SessionBegun(Struct, frozen=True, kw_only=True):
    """A new session; ``secret`` is for the cookie and is kept nowhere."""

    id: str
    secret: str
    tenant: str
    subject: str
    seconds: int


class SessionLookup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the door asks: whose is this?"""

    secret: Annotated[str, Meta(max_length=400)]


class SessionHolder(Struct, frozen=True, kw_only=True):
    """Whom a session speaks for, and until when at most."""

    id: str
    tenant: str
    subject: str
    kind: str
    name: str
    permissions: list[str]
    credential: str
    expires_at: str


class Session(Struct, frozen=True, kw_only=True):
    """A session as it is listed: never its secret."""

    id: str
    subject: str
    credential: str
    began_at: str
    seen_at: str
    expires_at: str
    address: str
    agent: str
    state: str
    current: bool = False


def csrf_of(secret: str) -> str:
    """What a page of this session must send back with every write. A page of another site cannot
    know it: it follows from the cookie, which no script can read."""
    return hmac.new(secret.encode(errors="replace"), b"holdfast csrf", "sha256").hexdigest()


def expires_at(began_at: str, seen_at: str, seconds: float, idle_seconds: float) -> str:
    """When the session is over if nobody comes: its whole life, or silence, whichever is first."""
    whole = parse_timestamp(began_at) + timedelta(seconds=seconds)
    silent = parse_timestamp(seen_at) + timedelta(seconds=idle_seconds)
    return timestamp(min(whole, silent))


def is_stale(seen_at: str, now: datetime, idle_seconds: float) -> bool:
    """Whether it is time to write that the session was seen."""
    seconds = min(TOUCH_SECONDS, idle_seconds / 4)
    return now - parse_timestamp(seen_at) >= timedelta(seconds=seconds)
