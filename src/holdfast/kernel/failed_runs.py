"""Whose fault it is that a run came to nothing, by the code that the run carries. Pure.

A run fails where its source, its profile or the way to it does not do what is needed; only where a
drone itself broke is it a defect of ours.
"""

from __future__ import annotations

from holdfast.kernel.errors import BY_KIND, HoldfastError, Kind

EXIT_STATUS = 1
"""What a command ends with whose run came to nothing, whatever the reason."""

_CODES: dict[Kind, frozenset[str]] = {
    Kind.UNAVAILABLE: frozenset(
        {
            *("http-status", "lease-expired", "lease-unheard", "protocol-error", "spool"),
            *("spool-failed", "status", "stopped", "timeout", "tls-refused", "truncated"),
            *("role-unreachable", "unreachable", "worker-lost"),
        }
    ),
    Kind.EXHAUSTED: frozenset({"host-busy", "quota", "source-busy"}),
    Kind.DENIED: frozenset(
        {
            *("address-refused", "guard-refused", "redirect-refused", "robots"),
            *("secret-refused", "token-refused"),
        }
    ),
    Kind.TOO_LARGE: frozenset(
        {
            "limit",
            "limit-bytes",
            "limit-pages",
            "limit-records",
            "parse-bound",
            "response-too-large",
            "too-large",
        }
    ),
    Kind.INVALID: frozenset({"mapping", "pagination", "parse", "secret-missing", "source-refused"}),
    Kind.CONFLICT: frozenset(
        {
            *("batches-missing", "cancelled", "deadline", "duplicate-keys", "expectation-failed"),
            *("incomplete", "keys-unclear", "rehearsal", "rejects", "schema-drift", "shrunk"),
            *("too-few-records", "too-many-records", "too-many-rejects"),
        }
    ),
    Kind.INTERNAL: frozenset({"internal"}),
}


KNOWN = frozenset().union(*_CODES.values())
"""The codes of runs that are told apart here."""


def kind_of(code: str) -> Kind:
    """What kind of failure a run's ``code`` is.

    One that this version does not know, from a drone or a role of another, is told as a conflict:
    what came does not go with what is there. Only where a drone says so is it a defect of ours.
    """
    return next((kind for kind, codes in _CODES.items() if code in codes), Kind.CONFLICT)


def failed_run(detail: str, *, code: str, hint: str) -> HoldfastError:
    """The failure of a run as an error of its kind, for a command that has waited for it."""
    found = BY_KIND[kind_of(code)](detail, code=code or "run-failed", hint=hint)
    found.exit_status = EXIT_STATUS
    return found
