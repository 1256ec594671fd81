"""Identifiers: typed, time-ordered, made from arguments.

Ids are UUIDv7 (RFC 9562 §5.7) in their 36-character text form: they sort by creation time, which
keeps the newest rows of an index together, and they carry no name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import NewType, Protocol

from holdfast.kernel.clock import Clock

TenantId = NewType("TenantId", str)
ProfileName = NewType("ProfileName", str)
ProfileDigest = NewType("ProfileDigest", str)
RunId = NewType("RunId", str)
TaskId = NewType("TaskId", str)
WorkerId = NewType("WorkerId", str)
ReportId = NewType("ReportId", str)
EventId = NewType("EventId", str)
RequestId = NewType("RequestId", str)

DEFAULT_TENANT = TenantId("default")

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_VARIANT = {f"{digit:x}": f"{8 | digit & 3:x}" for digit in range(16)}
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


class NewId(Protocol):
    """A source of fresh ids."""

    def __call__(self) -> str: ...


def uuid7(unix_milliseconds: int, random: bytes) -> str:
    """A UUIDv7 of the given moment and ten random bytes."""
    if not 0 <= unix_milliseconds < 1 << 48:
        raise ValueError("cannot make an id: the time is outside 48 bits of milliseconds")
    if len(random) != 10:
        raise ValueError("cannot make an id: ten random bytes are needed")
    time, rand = f"{unix_milliseconds:012x}", random.hex()
    # Version 7 and twelve bits; variant 0b10 and the last sixty-two. Cut from text: two are made
    # for every task.
    return f"{time[:8]}-{time[8:]}-7{rand[:3]}-{_VARIANT[rand[4]]}{rand[5:8]}-{rand[8:]}"


def id_source(clock: Clock, random: Callable[[int], bytes] = os.urandom) -> NewId:
    """A source of ids: the time from ``clock``, ten bytes from ``random`` at each call."""

    def new_id() -> str:
        return uuid7(int(clock.now().timestamp() * 1000), random(10))

    return new_id


def is_id(text: str) -> bool:
    """Whether ``text`` is an id as :func:`uuid7` writes it."""
    return _ID.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether ``text`` may name a profile, tenant or worker.

    1–64 of ``a-z 0-9 . _ -``, beginning and ending with a letter or digit: safe in a path, a URL,
    a file name and a metric label alike.
    """
    return _NAME.fullmatch(text) is not None
