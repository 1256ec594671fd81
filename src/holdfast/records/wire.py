"""How records travel over HTTP: header names, and a filter as query parameters and back."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec

from holdfast.kernel.errors import Invalid
from holdfast.kernel.structs import said
from holdfast.records.model import RawResponse, RecordFilter, RunFilter

GRANT_HEADER = "Holdfast-Grant"
RESPONSE_HEADER = "Holdfast-Response"
PUBLICATION_HEADER = "Holdfast-Publication"
PERSONAL_HEADER = "Holdfast-Personal"


def encode_response(response: RawResponse) -> str:
    """The account of a raw response as a header's value."""
    return base64.urlsafe_b64encode(msgspec.json.encode(response)).decode("ascii")


def decode_response(text: str) -> RawResponse:
    """The account in a header; :class:`Invalid` if it is none."""
    try:
        plain = base64.b64decode(text, altchars=b"-_", validate=True)
        if base64.urlsafe_b64encode(plain).decode("ascii") != text:
            raise ValueError("it is not spelled canonically")
        return msgspec.json.decode(plain, type=RawResponse)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise Invalid(
            f"cannot read the header {RESPONSE_HEADER}: {error}",
            code="header-invalid",
            hint="send the response's JSON in base64url",
        ) from error


def content_digest(digest: str) -> str:
    """A digest as the header Content-Digest spells it (RFC 9530)."""
    raw = bytes.fromhex(digest.partition(":")[2])
    return f"sha-256=:{base64.b64encode(raw).decode('ascii')}:"


def filter_parameters(which: RecordFilter) -> dict[str, Any]:
    """A filter as query parameters."""
    return {
        "profile": which.profile,
        "as_of": which.as_of,
        "vintage": None if which.vintage == "latest" else which.vintage,
        "run": which.run,
        "period_from": which.start,
        "period_to": which.end,
        "withdrawn": which.withdrawn or None,
        "provenance": which.provenance or None,
        "dimension": [f"{name}={value}" for name, value in which.dimensions.items()] or None,
    }


def record_filter(
    *,
    profile: str,
    as_of: str | None,
    vintage: str,
    run: str | None,
    period_from: str | None,
    period_to: str | None,
    dimension: Sequence[str],
    withdrawn: bool,
    provenance: bool,
) -> RecordFilter:
    """The filter in query parameters; each ``dimension`` is ``NAME=VALUE``."""
    dimensions = [text.partition("=") for text in dimension]
    for name, separator, _ in dimensions:
        if not separator:
            raise Invalid(
                f"cannot filter by dimension={name[:60]}: it has no value",
                hint="write dimension=NAME=VALUE",
            )
    plain = {
        "profile": profile,
        "as_of": as_of,
        "vintage": vintage,
        "run": run,
        "start": period_from,
        "end": period_to,
        "withdrawn": withdrawn,
        "provenance": provenance,
        "dimensions": {name: value for name, _, value in dimensions},
    }
    found: RecordFilter = converted(plain, RecordFilter)
    return found


def run_filter(*, profile: str, status: str, run: str, since: str, until: str) -> RunFilter:
    """The filter of runs in query parameters."""
    plain: dict[str, Any] = {
        "profile": profile,
        "status": status or None,
        "run": run,
        "since": since,
        "until": until,
    }
    found: RunFilter = converted(plain, RunFilter)
    return found


def run_parameters(which: RunFilter | None) -> dict[str, Any]:
    """A filter of runs as query parameters; what is empty is left out."""
    found = {} if which is None else msgspec.to_builtins(which)
    return {name: value or None for name, value in found.items()}


def converted(plain: Any, kind: type[Any]) -> Any:
    """``plain`` as ``kind``; :class:`Invalid` says what is wrong with the parameters."""
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise Invalid(
            f"cannot accept the request: {said(error, kind)}", code="request-invalid"
        ) from error
