"""What a profile says: one source, how to read it, and what a record of it looks like.

Pure types, no I/O. The published JSON Schema is generated from these structs, so that what is
documented, what is checked and what the drone reads is one thing. Everything that collection will
ever need is modelled from the first day, because the model fixes the schema of what is stored;
publishing refuses, by name, a part that this build cannot carry out yet.

A profile is data: no code, no secrets (only references to them).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$",
        description="1-64 of a-z 0-9 . _ - that begin and end with a letter or digit",
    ),
]
FieldName = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="lower-case words joined by _")
]
Duration = Annotated[
    str,
    Meta(pattern=r"^[0-9]{1,6}(ms|s|m|h|d|w)$", description="a whole number and ms, s, m, h, d, w"),
]
SecretReference = Annotated[
    str,
    Meta(
        pattern=r"^secret://(env|file)/[A-Za-z0-9_.-]{1,128}$",
        description="secret://env/NAME (HOLDFAST_SECRET_NAME) or secret://file/NAME",
    ),
]
Address = Annotated[str, Meta(pattern=r"^https?://[^\s#]+$", max_length=4096)]
Text = Annotated[str, Meta(max_length=4096)]
Path = Annotated[
    str,
    Meta(min_length=1, max_length=1024, description="RFC 9535 JSONPath, XPath or a column's name"),
]
Positive = Annotated[int, Meta(ge=1, le=2**53 - 1)]
NotNegative = Annotated[int, Meta(ge=0, le=2**53 - 1)]
DecimalText = Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?$", max_length=64)]


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every part of a profile is immutable and refuses members it does not know."""


# --- the source ---------------------------------------------------------------------------------


class JsonFormat(_Part, frozen=True, kw_only=True, tag="json", tag_field="type"):
    """One JSON document; ``records`` is a streamable path such as ``$.data[*]``.

    With ``header: true`` the records are arrays and the first of them names the columns.
    """

    records: Path = "$[*]"
    header: bool = False
    encoding: str = "utf-8"


class NdjsonFormat(_Part, frozen=True, kw_only=True, tag="ndjson", tag_field="type"):
    """One JSON value a line."""

    encoding: str = "utf-8"


class GeojsonFormat(_Part, frozen=True, kw_only=True, tag="geojson", tag_field="type"):
    """A GeoJSON FeatureCollection (RFC 7946) or a sequence of features; a record is a feature."""

    sequence: bool = False


class CsvFormat(_Part, frozen=True, kw_only=True, tag="csv", tag_field="type"):
    """Delimited text with a header row (RFC 4180 and its dialects; TSV by ``delimiter: "\\t"``)."""

    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Meta(min_length=1, max_length=1)] = '"'
    escape: Annotated[str, Meta(max_length=1)] = ""
    encoding: str = "utf-8"
    header: bool | list[str] = True
    skip_lines: NotNegative = 0
    skip_after_header: NotNegative = 0
    comment: Annotated[str, Meta(max_length=8)] = ""
    stop_at: str = ""
    ragged: Literal["reject", "pad"] = "reject"


class XmlFormat(_Part, frozen=True, kw_only=True, tag="xml", tag_field="type"):
    """XML; ``records`` is the path of the repeated element, prefixes from ``namespaces``."""

    records: Path
    namespaces: dict[str, str] = {}


class FeedFormat(_Part, frozen=True, kw_only=True, tag="feed", tag_field="type"):
    """RSS 2.0 or Atom (RFC 4287); a record is an item or entry."""


class JsonStatFormat(_Part, frozen=True, kw_only=True, tag="json-stat", tag_field="type"):
    """A JSON-stat 2.0 dataset; a record is one cell with its categories."""


class XlsxFormat(_Part, frozen=True, kw_only=True, tag="xlsx", tag_field="type"):
    """One sheet of a workbook, by name or by position from 1."""

    sheet: str | Positive = 1
    header_row: Positive = 1
    skip_after_header: NotNegative = 0


Format = (
    JsonFormat
    | NdjsonFormat
    | GeojsonFormat
    | CsvFormat
    | XmlFormat
    | FeedFormat
    | JsonStatFormat
    | XlsxFormat
)


class PagePagination(_Part, frozen=True, kw_only=True, tag="page", tag_field="type"):
    """A page number in the query; ends at an empty page or after ``total_pages`` (a path)."""

    parameter: str = "page"
    start: NotNegative = 1
    size_parameter: str = ""
    size: NotNegative = 0
    total_pages: Path | None = None
    total_records: Path | None = None


class OffsetPagination(_Part, frozen=True, kw_only=True, tag="offset", tag_field="type"):
    """A record offset in the query; ends at a page shorter than ``limit``."""

    parameter: str = "offset"
    limit_parameter: str = "limit"
    limit: Positive = 1000
    total_records: Path | None = None


class CursorPagination(_Part, frozen=True, kw_only=True, tag="cursor", tag_field="type"):
    """An opaque cursor or token taken from the body at ``path``; ends when it is absent."""

    parameter: str
    path: Path


class LinkPagination(_Part, frozen=True, kw_only=True, tag="link", tag_field="type"):
    """The ``Link: …; rel="next"`` header (RFC 8288)."""


class NextUrlPagination(_Part, frozen=True, kw_only=True, tag="next-url", tag_field="type"):
    """The address of the next page taken from the body at ``path``."""

    path: Path


Pagination = (
    PagePagination | OffsetPagination | CursorPagination | LinkPagination | NextUrlPagination
)


class BearerAuth(_Part, frozen=True, kw_only=True, tag="bearer", tag_field="type"):
    """``Authorization: Bearer …`` (RFC 6750)."""

    token: SecretReference


class BasicAuth(_Part, frozen=True, kw_only=True, tag="basic", tag_field="type"):
    """``Authorization: Basic …`` (RFC 7617)."""

    username: Text | SecretReference
    password: SecretReference


class ApiKeyAuth(_Part, frozen=True, kw_only=True, tag="api-key", tag_field="type"):
    """A key in a header, or, where the source leaves no choice, in the query."""

    key: SecretReference
    header: str = ""
    parameter: str = ""


class OAuth2Auth(
    _Part, frozen=True, kw_only=True, tag="oauth2-client-credentials", tag_field="type"
):
    """The client credentials grant of OAuth 2.0 (RFC 6749 §4.4)."""

    token_url: Address
    client_id: Text
    client_secret: SecretReference
    scope: Text = ""


Auth = BearerAuth | BasicAuth | ApiKeyAuth | OAuth2Auth


class Windows(_Part, frozen=True, kw_only=True):
    """Cut a long history into requests of at most ``span``, by two query parameters."""

    start_parameter: str
    end_parameter: str
    span: Duration
    start: str
    format: str = "%Y-%m-%d"


class Source(_Part, frozen=True, kw_only=True):
    """Where the bytes come from. ``url`` is the original address even when a fetch is replayed."""

    url: Address
    homepage: Address | None = None
    method: Literal["GET", "POST"] = "GET"
    headers: dict[str, str] = {}
    parameters: dict[str, str] = {}
    body: str = ""
    body_type: str = "application/json"
    auth: Auth | None = None
    format: Format
    compression: Literal["auto", "none", "gzip", "deflate", "bzip2", "zip"] = "auto"
    member: str = ""
    """Name (or glob) of the one file to read inside a zip archive."""
    pagination: Pagination | None = None
    windows: Windows | None = None
    robots: Text = ""
    """Why ``robots.txt`` does not apply, if a page is fetched against it."""


# --- the mapping --------------------------------------------------------------------------------


class Field(_Part, frozen=True, kw_only=True):
    """Where one value comes from and what it must be.

    Exactly one of ``path`` and ``constant`` is given. ``path`` is relative to the record (``$.a``
    or ``@.a``), a column's name for tabular formats; a path that begins with ``$$`` starts at the
    enclosing document.
    """

    path: Path | None = None
    constant: Text | None = None
    type: Literal["string", "integer", "decimal", "boolean", "date", "datetime"] = "string"
    format: str = ""
    """strptime pattern, ``epoch-s``, ``epoch-ms``, or empty for ISO 8601."""
    nulls: list[str] | None = None
    """Spellings that mean "missing" here; the profile's own list when absent."""
    required: bool = False
    pad: NotNegative = 0
    """Left-pad with zeros to this width (a FIPS code that lost its leading zero)."""
    split: str = ""
    part: int = 0
    join: list[Path] = []
    separator: str = ""
    codes: str = ""
    """Name of a code list shipped beside the profiles."""
    thousands: Annotated[str, Meta(max_length=1)] = ""
    decimal: Annotated[str, Meta(min_length=1, max_length=1)] = "."
    unit: Text = ""
    unit_path: Path | None = None
    multiplier: DecimalText = "1"
    description: Text = ""


class Period(_Part, frozen=True, kw_only=True):
    """The time a record speaks of, with its frequency kept.

    ``A`` year, ``S`` half, ``Q`` quarter, ``M`` month, ``W`` ISO week, ``D`` day, ``H`` hour,
    ``I`` instant. ``codings`` sends a publisher's own spelling (a regular expression with named
    groups) to a frequency: an annual average coded as month 13 is annual, never a month.
    """

    path: Path | None = None
    join: list[Path] = []
    separator: str = "-"
    frequency: Literal["A", "S", "Q", "M", "W", "D", "H", "I"]
    format: str = ""
    codings: dict[str, Literal["A", "S", "Q", "M", "W", "D", "H", "I"]] = {}


class Cursor(_Part, frozen=True, kw_only=True):
    """Where an incremental source continues: the greatest value at ``path`` published so far."""

    path: Path
    parameter: str
    start: str
    overlap: Duration = "0s"
    format: str = ""


class Range(_Part, frozen=True, kw_only=True):
    """Bounds, inclusive, for a measure; decimals as text."""

    min: DecimalText | None = None
    max: DecimalText | None = None


class Expect(_Part, frozen=True, kw_only=True):
    """What a complete run must satisfy, or nothing of it is published."""

    min_records: NotNegative = 0
    max_records: Positive | None = None
    required: list[str] = []
    ranges: dict[str, Range] = {}


class Limits(_Part, frozen=True, kw_only=True):
    """Bounds on a run. Reaching one is an error with what was kept marked partial, never a cut."""

    max_bytes: Positive = 2_147_483_648
    max_records: Positive = 10_000_000
    max_pages: Positive = 10_000
    timeout: Duration = "60s"
    max_duration: Duration = "1h"
    requests_per_minute: Positive | None = None
    requests_per_day: Positive | None = None
    concurrency: Positive = 1
    retries: NotNegative = 3


class Schedule(_Part, frozen=True, kw_only=True):
    """When to collect: every so often, or by cron expression. Exactly one of the two."""

    every: Duration | None = None
    cron: Text | None = None
    timezone: str = "UTC"
    jitter: Duration = "0s"
    """Spread starts over this long, the same for the same profile each time."""


class Licence(_Part, frozen=True, kw_only=True):
    """The terms the publisher gives the data under."""

    name: Text
    url: Address | None = None


class Profile(_Part, frozen=True, kw_only=True):
    """One source, how to read it, and what a record of it looks like (version 1)."""

    version: Literal[1]
    name: Name
    title: Text = ""
    description: Text = ""
    publisher: Text
    licence: Licence | Text
    attribution: Text = ""
    """The credit line that charts and exports print."""
    source: Source
    mode: Literal["snapshot", "append", "incremental"] = "snapshot"
    cursor: Cursor | None = None
    key: list[str] | Literal["position"]
    """Fields (``dimensions.station``, ``period``) that identify a record; ``position`` is content
    plus occurrence number, for sources where whole rows repeat."""
    duplicates: Literal["error", "first", "last"] = "error"
    timezone: str = "UTC"
    nulls: list[str] = field(default_factory=lambda: [""])
    dimensions: dict[FieldName, Field | Path] = {}
    measures: dict[FieldName, Field | Path] = {}
    attributes: dict[FieldName, Field | Path] = {}
    period: Period | None = None
    subject: str = ""
    personal: list[str] = []
    enabled: bool = True
    schedule: Schedule | None = None
    limits: Limits = field(default_factory=Limits)
    expect: Expect = field(default_factory=Expect)
    max_rejects: NotNegative = 0
    freshness: Duration | None = None
    """How long silence is normal; after that the profile is stale."""


# --- what the registry keeps about a profile ----------------------------------------------------


class ProfileVersion(Struct, frozen=True, kw_only=True):
    """One immutable version: its digest is that of the canonical bytes of ``profile``."""

    name: str
    digest: str
    profile: Profile
    published_at: str
    published_by: str


class ProfileOverrides(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator changed without a new version: paused or not, schedule, limits."""

    paused: bool = False
    schedule: Schedule | None = None
    limits: Limits | None = None


class ProfileStatus(Struct, frozen=True, kw_only=True):
    """A profile as the list shows it; ``problem`` is why the newest file was not taken."""

    name: str
    title: str
    digest: str
    published_at: str
    enabled: bool
    overrides: ProfileOverrides
    problem: str = ""
    runnable: bool = True
    """Published, enabled and not paused: what the coordinator schedules."""


class OverridesChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partial change of the overrides; a member left out stays as it is, ``null`` clears it."""

    paused: bool | UnsetType = UNSET
    schedule: Schedule | None | UnsetType = UNSET
    limits: Limits | None | UnsetType = UNSET


def duration_seconds(text: str) -> float:
    """The seconds that a :data:`Duration` names."""
    for suffix, factor in (
        ("ms", 0.001),
        ("s", 1),
        ("m", 60),
        ("h", 3600),
        ("d", 86400),
        ("w", 604800),
    ):
        if text.endswith(suffix) and text[: -len(suffix)].isdigit():
            return int(text[: -len(suffix)]) * factor
    raise ValueError(f"cannot read the duration {text!r}")


def as_field(value: Field | str) -> Field:
    """A mapping entry in its long form: a bare text is a path."""
    return Field(path=value) if isinstance(value, str) else value
