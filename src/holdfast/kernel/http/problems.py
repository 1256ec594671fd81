"""Problem details (RFC 9457): how a failure looks on the wire, both ways.

The server renders a :class:`~holdfast.kernel.errors.HoldfastError` with :func:`document`; the
client raises it again with :func:`error_from`. Neither side imports a web framework here: drones
are the base install.
"""

from __future__ import annotations

import math

import msgspec

from holdfast.kernel.errors import BY_KIND, HTTP_STATUS, HoldfastError, Kind, Problem

CONTENT_TYPE = "application/problem+json"
FOREIGN_ANSWER = "foreign-answer"
"""Of an error that no Holdfast told: something else answers there, or stands in between."""
PROBLEM_EVENT = "problem"
"""The name of the event that says why a stream of events is over."""
CODE_HEADER = b"holdfast-code"
"""Why, for whoever passes the answer on without reading it."""

TITLES: dict[Kind, str] = {
    Kind.INVALID: "The input breaks a rule",
    Kind.UNAUTHENTICATED: "Nobody we know",
    Kind.DENIED: "Not allowed",
    Kind.NOT_FOUND: "No such thing",
    Kind.CONFLICT: "The current state does not admit this",
    Kind.TOO_LARGE: "Beyond a stated bound",
    Kind.UNSUPPORTED: "Not something this does",
    Kind.MISDIRECTED: "Not for this process",
    Kind.EXHAUSTED: "Used up for now",
    Kind.UNAVAILABLE: "A needed part does not answer",
    Kind.OUTCOME_UNKNOWN: "It may or may not have happened",
    Kind.CORRUPT: "Stored data is not what it must be",
    Kind.INTERNAL: "A defect of ours",
}

STATUS_BY_CODE: dict[str, int] = {
    "method-not-allowed": 405,
    "request-timeout": 408,
    "precondition-failed": 412,
    "range-not-satisfiable": 416,
    "precondition-required": 428,
    "headers-too-large": 431,
    "url-too-long": 414,
    "method-unknown": 405,
    "http-version-unsupported": 505,
}
"""Codes for which HTTP has a status of its own, more exact than their kind's."""


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is an error."""

    type: str
    title: str
    status: int
    code: str
    kind: str
    detail: str
    instance: str = ""
    request_id: str = ""
    problems: tuple[Problem, ...] = ()
    hint: str = ""
    retry_after_seconds: float | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ProblemDocument).decode


def status_of(error: HoldfastError) -> int:
    """The HTTP status of a failure: its code's own if HTTP has one, else its kind's."""
    return STATUS_BY_CODE.get(error.code, HTTP_STATUS[error.kind])


def document(error: HoldfastError, *, instance: str, request_id: str) -> ProblemDocument:
    """What the caller sees of ``error``. An internal failure shows nothing but the request id."""
    hidden = error.kind is Kind.INTERNAL
    return ProblemDocument(
        type=f"urn:holdfast:problem:{error.code}",
        title=TITLES[error.kind],
        status=status_of(error),
        code=error.code,
        kind=error.kind.value,
        detail="cannot answer: something went wrong on our side" if hidden else error.detail,
        instance=instance,
        request_id=request_id,
        problems=() if hidden else error.problems,
        hint="the log tells more under this request id" if hidden else error.hint,
        retry_after_seconds=error.retry_after_seconds,
    )


def encode(found: ProblemDocument) -> bytes:
    """The bytes of a problem document; text that is not Unicode is replaced, never an error."""
    try:
        return _encode(found)
    except UnicodeEncodeError:
        # A caller's lone surrogate may have found its way into the detail.
        return _encode(
            msgspec.structs.replace(
                found, detail=_clean(found.detail), instance=_clean(found.instance), problems=()
            )
        )


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def headers_of(error: HoldfastError) -> list[tuple[bytes, bytes]]:
    """The headers that belong to a failure: its code, ``Retry-After``, ``WWW-Authenticate``."""
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"cache-control", b"no-store"),
        (CODE_HEADER, error.code.encode()),
    ]
    if error.retry_after_seconds is not None:
        seconds = max(1, math.ceil(error.retry_after_seconds))
        headers.append((b"retry-after", str(seconds).encode()))
    if error.kind is Kind.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def error_from(status: int, content_type: str, body: bytes, retry_after: str = "") -> HoldfastError:
    """The failure that an answer with an error status tells of.

    Goes by the document's ``kind`` and ``code``; an answer that is no problem document (a proxy in
    between wrote it) is judged by its status alone.
    """
    if content_type.partition(";")[0].strip().lower() == CONTENT_TYPE:
        try:
            found = _decode(body)
            kind = Kind(found.kind)
        except (msgspec.DecodeError, ValueError):
            pass
        else:
            return BY_KIND[kind](
                found.detail,
                code=found.code,
                hint=found.hint,
                problems=found.problems,
                retry_after_seconds=found.retry_after_seconds,
                internal=f"request {found.request_id}" if found.request_id else "",
            )
    return BY_KIND[_kind_of(status)](
        f"cannot go on: the server answered {status} without saying why, as no Holdfast does",
        code=FOREIGN_ANSWER,
        retry_after_seconds=float(retry_after) if retry_after.isdecimal() else None,
    )


_FOREIGN: dict[int, Kind] = {
    408: Kind.UNAVAILABLE,
    405: Kind.UNSUPPORTED,
    505: Kind.UNSUPPORTED,
    412: Kind.CONFLICT,
    422: Kind.INVALID,
    501: Kind.UNSUPPORTED,
    502: Kind.OUTCOME_UNKNOWN,
    503: Kind.UNAVAILABLE,
    504: Kind.OUTCOME_UNKNOWN,
}


def _kind_of(status: int) -> Kind:
    if status in _FOREIGN:
        return _FOREIGN[status]
    for kind, number in HTTP_STATUS.items():
        if number == status and kind is not Kind.CORRUPT:
            return kind
    return Kind.INVALID if 400 <= status < 500 else Kind.INTERNAL
