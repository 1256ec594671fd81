"""The closed set of ways in which a call can fail.

Every failure that leaves a slice is a :class:`HoldfastError` of one of these kinds. Drivers
translate foreign exceptions once (``raise … from``); HTTP, gRPC and the CLI map a kind through the
tables below and nowhere else. A slice subclasses for a failure with fields worth having, and gives
the subclass its own ``code``.

Messages read "cannot X: reason" and name their subject. ``detail`` is what the caller sees;
``internal`` is what only the log records.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

import msgspec


class Kind(StrEnum):
    """What went wrong, in the terms a caller can act on."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    DENIED = "denied"
    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    TOO_LARGE = "too-large"
    UNSUPPORTED = "unsupported"
    MISDIRECTED = "misdirected"
    EXHAUSTED = "exhausted"
    UNAVAILABLE = "unavailable"
    OUTCOME_UNKNOWN = "outcome-unknown"
    CORRUPT = "corrupt"
    INTERNAL = "internal"


HTTP_STATUS: dict[Kind, int] = {
    Kind.INVALID: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.DENIED: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.TOO_LARGE: 413,
    Kind.UNSUPPORTED: 415,
    Kind.MISDIRECTED: 421,
    Kind.EXHAUSTED: 429,
    Kind.UNAVAILABLE: 503,
    # The work may or may not have happened; repeating it with the same id is safe.
    Kind.OUTCOME_UNKNOWN: 503,
    Kind.CORRUPT: 500,
    Kind.INTERNAL: 500,
}
"""Kind → HTTP status (RFC 9110). The reverse, for clients, goes by the ``code`` and ``kind``
members of the problem document, never by the status alone."""

EXIT_STATUS: dict[Kind, int] = {
    Kind.INVALID: 2,
    Kind.UNSUPPORTED: 2,
    Kind.TOO_LARGE: 2,
    Kind.UNAUTHENTICATED: 3,
    Kind.DENIED: 3,
    Kind.MISDIRECTED: 3,
    Kind.NOT_FOUND: 4,
    Kind.CONFLICT: 5,
    Kind.EXHAUSTED: 6,
    Kind.UNAVAILABLE: 6,
    Kind.OUTCOME_UNKNOWN: 6,
    Kind.CORRUPT: 7,
    Kind.INTERNAL: 1,
}
"""Kind → exit status of the command line."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong with an input, where it is, and what would be right.

    ``line`` counts from 1 and is 0 where the input has no lines.
    """

    path: str
    message: str
    hint: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = ", ".join(
            part for part in (f"line {self.line}" * (self.line > 0), self.path) if part
        )
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class HoldfastError(Exception):
    """Base of every failure that a caller of Holdfast can see.

    ``code`` is a stable, lower-case, hyphenated name for scripts; it defaults to the kind.
    ``problems`` lists *all* that is wrong with an input, not the first.
    ``retry_after_seconds`` is set when waiting that long may help.
    """

    kind: ClassVar[Kind] = Kind.INTERNAL
    code: str = ""

    def __init__(
        self,
        detail: str,
        *,
        code: str = "",
        hint: str = "",
        problems: Sequence[Problem] = (),
        retry_after_seconds: float | None = None,
        internal: str = "",
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code or self.kind.value
        self.hint = hint
        self.problems = tuple(problems)
        self.retry_after_seconds = retry_after_seconds
        self.internal = internal
        self.exit_status: int | None = None
        """What the command line ends with, where that is not its kind's."""


class Invalid(HoldfastError):
    """The input breaks a rule; repeating it cannot help."""

    kind = Kind.INVALID


class Unauthenticated(HoldfastError):
    """Nobody we know, or a credential that no longer holds."""

    kind = Kind.UNAUTHENTICATED


class Denied(HoldfastError):
    """Known, and not allowed."""

    kind = Kind.DENIED


class NotFound(HoldfastError):
    """No such thing for this caller: the same answer whether another tenant has it or not."""

    kind = Kind.NOT_FOUND


class Conflict(HoldfastError):
    """The input is fine, the current state is not: an old version, a stale fence, a used id."""

    kind = Kind.CONFLICT


class TooLarge(HoldfastError):
    """Beyond a stated bound; the message says which and how much."""

    kind = Kind.TOO_LARGE


class Unsupported(HoldfastError):
    """Understood, and not something this build or this backend does."""

    kind = Kind.UNSUPPORTED


class Misdirected(HoldfastError):
    """A Host or role that this process does not answer for (RFC 9110 §15.5.20)."""

    kind = Kind.MISDIRECTED


class Exhausted(HoldfastError):
    """A rate or a quota is used up for now."""

    kind = Kind.EXHAUSTED


class Unavailable(HoldfastError):
    """A part that is needed does not answer; nothing was done."""

    kind = Kind.UNAVAILABLE


class OutcomeUnknown(HoldfastError):
    """The work may have happened. Repeat it with the same id to learn which."""

    kind = Kind.OUTCOME_UNKNOWN


class Corrupt(HoldfastError):
    """Stored bytes, a proof, a signature or a ciphertext is not what it must be. Never retried."""

    kind = Kind.CORRUPT


class Internal(HoldfastError):
    """A defect of ours. The caller sees the request id, the log sees the rest."""

    kind = Kind.INTERNAL


def _leaf_kinds() -> dict[Kind, type[HoldfastError]]:
    return {cls.kind: cls for cls in HoldfastError.__subclasses__() if cls.__module__ == __name__}


BY_KIND: dict[Kind, type[HoldfastError]] = _leaf_kinds()
"""Kind → the kernel's own class, so that clients can raise what the service raised."""
