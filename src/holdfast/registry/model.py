"""What a profile says: one source, how to read it, and what a record of it looks like.

Pure types, no I/O. The published JSON Schema and the reference are generated from these structs
and their docstrings, so that what is documented, what is checked and what the drone reads is one
thing. Everything that collection will ever need is modelled from the first day, because the model
fixes the schema of what is stored; publishing refuses, by name, a part that this build cannot carry
out yet (``supported.py``).

A profile is data: no code, no secrets (only references to them).
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from msgspec import NODEFAULT, UNSET, Meta, Struct, UnsetType, convert, field, json, structs

from holdfast.kernel.canonical import canonical, digest
from holdfast.kernel.errors import Corrupt

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
    Meta(
        pattern=r"^[0-9]{1,6}(ms|s|m|h|d|w)$",
        description="a whole number and ms, s, m, h, d or w, such as 15m",
    ),
]
SecretReference = Annotated[
    str,
    Meta(
        pattern=r"^secret://(env/[A-Z0-9_]{1,128}|file/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127})$",
        description="secret://env/NAME (reads HOLDFAST_SECRET_NAME) or secret://file/NAME",
    ),
]
Address = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s#]+$",
        max_length=4096,
        description="an http:// or https:// address without spaces and fragment",
    ),
]
Text = Annotated[str, Meta(max_length=4096)]
Path = Annotated[
    str,
    Meta(
        min_length=1, max_length=1024, description="an RFC 9535 JSONPath, XPath or a column's name"
    ),
]
Positive = Annotated[int, Meta(ge=1, le=2**53 - 1)]
NotNegative = Annotated[int, Meta(ge=0, le=2**53 - 1)]
DecimalText = Annotated[
    str,
    Meta(
        pattern=r"^-?[0-9]+(\.[0-9]+)?$",
        max_length=64,
        description="an exact decimal: a number, kept as it is written",
    ),
]
Mapped = Meta(max_length=1000)
"""Bounds what one record can hold; a wider table is unpivoted."""
Frequency = Literal["A", "S", "Q", "M", "W", "D", "H", "I"]
Place = Literal["query", "body"]
Span = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,6}(ms|s|m|h|d|w|mo|y)$",
        description="as a duration, and with mo or y in months or years of the calendar",
    ),
]


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every part of a profile is immutable and refuses members it does not know."""


# --- the source ---------------------------------------------------------------------------------


class JsonFormat(_Part, frozen=True, kw_only=True, tag="json", tag_field="type"):
    """One JSON document (RFC 8259)."""

    records: Path = "$[*]"
    """Where the records are: a streamable path of names, indexes and ``[*]``, such as
    ``$.data[*]``."""
    header: bool = False
    """The records are arrays and the first of them names the columns."""
    keys: list[FieldName] = []
    """Names for the member names that the ``[*]`` of ``records`` pass through when they walk over
    an object; fields read them as ``#name``."""
    encoding: str = "utf-8"
    """JSON is UTF-8 whatever its media type says (RFC 8259). A byte order mark of UTF-16 or UTF-32
    is heeded; for a source that breaks the rule otherwise, this names its encoding."""


class NdjsonFormat(_Part, frozen=True, kw_only=True, tag="ndjson", tag_field="type"):
    """One JSON value a line."""

    encoding: str = "utf-8"
    """As for ``json``."""


class GeojsonFormat(_Part, frozen=True, kw_only=True, tag="geojson", tag_field="type"):
    """A GeoJSON FeatureCollection (RFC 7946); a record is a feature."""

    sequence: bool = False
    """A feature a line instead of a collection (RFC 8142 and its newline-delimited kin)."""


class CsvFormat(_Part, frozen=True, kw_only=True, tag="csv", tag_field="type"):
    """Delimited text (RFC 4180 and its dialects; a TSV has ``delimiter: "\\t"``)."""

    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    """What stands between two cells."""
    quote: Annotated[str, Meta(min_length=1, max_length=1)] = '"'
    """What stands around a cell that holds a delimiter or a line break; doubled inside."""
    escape: Annotated[str, Meta(max_length=1)] = ""
    """The escape character, where quotes are not doubled."""
    encoding: str = "auto"
    """The character encoding, such as ``windows-1252``. ``auto``: what the ``charset`` of the media
    type says, else UTF-8. A byte order mark is believed before either."""
    header: bool | list[str] = True
    """``true``: the first row names the columns; a list: these are the columns and there is no
    such row."""
    skip_lines: NotNegative = 0
    """Lines to skip before the header."""
    header_starts: Text = ""
    """The text of the header's first cell: rows before it are a preamble of any length and are
    skipped."""
    skip_after_header: NotNegative = 0
    """Rows to skip after the header (a row of units, or of HXL tags)."""
    skip_rows: Annotated[list[Text], Meta(max_length=32)] = []
    """Rows whose first cell with text is one of these are no records: totals, repeated headers,
    tags. ``Total*`` means every text that begins so."""
    comment: Annotated[str, Meta(max_length=8)] = ""
    """Lines that begin with this are skipped."""
    stop_at: str = ""
    """Reading ends at the first row whose first cell begins with this (footnotes)."""
    ragged: Literal["reject", "pad"] = "reject"
    """What happens to a row with more or fewer cells than the header."""


class XmlFormat(_Part, frozen=True, kw_only=True, tag="xml", tag_field="type"):
    """XML, read without entities, DTDs or network."""

    records: Path
    """The path of the repeated element from the root, by names: ``/rss/channel/item``, or
    ``//generic:Series/generic:Obs`` at any depth."""
    namespaces: dict[str, str] = {}
    """Prefix to namespace, for the paths of this profile."""
    encoding: str = "auto"
    """``auto``: a byte order mark, the ``charset`` of the media type, the XML declaration or
    UTF-8, in this order."""


class FeedFormat(_Part, frozen=True, kw_only=True, tag="feed", tag_field="type"):
    """RSS or Atom (RFC 4287); a record is an item or entry, its fields are XPaths from there.

    The prefixes ``atom``, ``rss`` (1.0), ``rdf``, ``dc``, ``dcterms``, ``content``, ``sy``,
    ``georss``, ``geo``, ``gml``, ``media``, ``cap``, ``m`` and ``d`` (OData) are known.
    """

    namespaces: dict[str, str] = {}
    """Further prefixes, for the paths of this profile."""
    encoding: str = "auto"
    """As for ``xml``."""


class JsonStatFormat(_Part, frozen=True, kw_only=True, tag="json-stat", tag_field="type"):
    """A JSON-stat 2.0 dataset; a record is one cell with its categories.

    The columns are the dimensions by their id (the category's code), ``<id>.label`` (its text),
    ``value``, ``status`` and, where no dimension has that id, ``unit``. ``$$`` paths reach the
    dataset's own members, such as ``$$.updated``.
    """


class XlsxFormat(_Part, frozen=True, kw_only=True, tag="xlsx", tag_field="type"):
    """One sheet of a workbook (.xlsx).

    A number is read as it is stored, a date as ISO 8601 text, a formula as its last result.
    """

    sheet: str | Positive = 1
    """Its name, or its position from 1."""
    header_row: Positive = 1
    """The row that names the columns, from 1, as a spreadsheet counts."""
    header_starts: Text = ""
    """Instead: the text of the header's first cell with text; rows before it are skipped."""
    skip_after_header: NotNegative = 0
    """Rows to skip after the header."""
    skip_rows: Annotated[list[Text], Meta(max_length=32)] = []
    """As for ``csv``."""
    stop_at: Text = ""
    """Reading ends at the first row whose first cell with text begins with this (footnotes)."""


class PluginFormat(_Part, frozen=True, kw_only=True, tag="plugin", tag_field="type"):
    """A format that another package brings under the entry-point group ``holdfast.formats``."""

    name: Name
    """The name of the entry point."""
    options: dict[str, str] = {}
    """What that format is told; its own documentation says what it understands."""


Format = (
    JsonFormat
    | NdjsonFormat
    | GeojsonFormat
    | CsvFormat
    | XmlFormat
    | FeedFormat
    | JsonStatFormat
    | XlsxFormat
    | PluginFormat
)


class PagePagination(_Part, frozen=True, kw_only=True, tag="page", tag_field="type"):
    """A page number; ends after ``total_pages``, at ``total_records``, or where ``end`` says."""

    parameter: Text = "page"
    """The parameter that carries the page number."""
    start: NotNegative = 1
    """The number of the first page."""
    size_parameter: Text = ""
    """The parameter that carries the page size, if the source has one."""
    size: NotNegative = 0
    """The page size to ask for; needs ``size_parameter``."""
    total_pages: Path | None = None
    """Path, in the body, of the number of pages."""
    number: Path | None = None
    """Path, in the body, of the number of the page as the source gives it back: another than was
    asked for is an error."""
    end: Literal["empty", "short", "missing"] = "empty"
    """What the last page is where no total is known: one without records, the first with fewer
    than ``size``, or the one before an answer 404."""
    total_records: Path | None = None
    """Path, in the body, of the number of records. The run must bring exactly so many rows."""
    total_header: Text = ""
    """The response header that says the number of records, such as ``X-Total-Count``."""
    incomplete: Literal["fail", "partial"] = "fail"
    """What it means when the source gave fewer or more rows than it said: a failed run, or a
    partial one, which is kept out of sight."""
    into: Place = "query"
    """Where the parameters go: the query, or the body of a POST, as members of its JSON object
    (``$.paging.page`` names an inner one) or fields of its form."""


class OffsetPagination(_Part, frozen=True, kw_only=True, tag="offset", tag_field="type"):
    """A record offset; ends at ``total_records``, or where ``end`` says."""

    parameter: Text = "offset"
    """The parameter that carries the offset."""
    limit_parameter: Text = "limit"
    """The parameter that carries the page size."""
    limit: Positive = 1000
    """The page size to ask for."""
    number: Path | None = None
    """Path, in the body, of the offset as the source gives it back: another than was asked for is
    an error."""
    end: Literal["auto", "short", "empty", "missing"] = "auto"
    """What the last page is where no total is known. ``auto``: one shorter than ``limit``; if that
    is the first, one request more makes sure that the source does not give less than it is asked
    for. Otherwise as for page numbers."""
    total_records: Path | None = None
    """Path, in the body, of the number of records. The run must bring exactly so many rows."""
    total_header: Text = ""
    """The response header that says the number of records, such as ``X-Total-Count``."""
    incomplete: Literal["fail", "partial"] = "fail"
    """What it means when the source gave fewer or more rows than it said: a failed run, or a
    partial one, which is kept out of sight."""
    into: Place = "query"
    """Where the parameters go: the query, or the body of a POST, as members of its JSON object
    (``$.paging.page`` names an inner one) or fields of its form."""


class CursorPagination(_Part, frozen=True, kw_only=True, tag="cursor", tag_field="type"):
    """An opaque cursor or token of the last answer; ends when it is absent, null or empty.

    Exactly one of ``path`` and ``header`` is given.
    """

    parameter: Text
    """The parameter that sends it back."""
    path: Path | None = None
    """Where it stands in the body."""
    header: Text = ""
    """The response header that carries it."""
    more: Path | None = None
    """Path, in the body, of whether there is more: a page that denies it is the last, one that
    affirms it must have a cursor."""
    total_records: Path | None = None
    """Path, in the body, of the number of records. The run must bring exactly so many rows."""
    total_header: Text = ""
    """The response header that says the number of records, such as ``X-Total-Count``."""
    incomplete: Literal["fail", "partial"] = "fail"
    """What it means when the source gave fewer or more rows than it said: a failed run, or a
    partial one, which is kept out of sight."""
    into: Place = "query"
    """Where the parameters go: the query, or the body of a POST, as members of its JSON object
    (``$.paging.page`` names an inner one) or fields of its form."""


class LinkPagination(_Part, frozen=True, kw_only=True, tag="link", tag_field="type"):
    """The ``Link: …; rel="next"`` header (RFC 8288)."""

    total_records: Path | None = None
    """Path, in the body, of the number of records. The run must bring exactly so many rows."""
    total_header: Text = ""
    """The response header that says the number of records, such as ``X-Total-Count``."""
    incomplete: Literal["fail", "partial"] = "fail"
    """What it means when the source gave fewer or more rows than it said: a failed run, or a
    partial one, which is kept out of sight."""


class NextUrlPagination(_Part, frozen=True, kw_only=True, tag="next-url", tag_field="type"):
    """The address of the next page taken from the body; ends when it is absent, null or empty."""

    path: Path
    """Where it stands in the body."""
    total_records: Path | None = None
    """Path, in the body, of the number of records. The run must bring exactly so many rows."""
    total_header: Text = ""
    """The response header that says the number of records, such as ``X-Total-Count``."""
    incomplete: Literal["fail", "partial"] = "fail"
    """What it means when the source gave fewer or more rows than it said: a failed run, or a
    partial one, which is kept out of sight."""


Pagination = (
    PagePagination | OffsetPagination | CursorPagination | LinkPagination | NextUrlPagination
)


class BearerAuth(_Part, frozen=True, kw_only=True, tag="bearer", tag_field="type"):
    """``Authorization: Bearer …`` (RFC 6750)."""

    token: SecretReference
    """The token."""


class BasicAuth(_Part, frozen=True, kw_only=True, tag="basic", tag_field="type"):
    """``Authorization: Basic …`` (RFC 7617)."""

    username: Text
    """The user name: a text or a secret reference."""
    password: SecretReference
    """The password."""


class ApiKeyAuth(_Part, frozen=True, kw_only=True, tag="api-key", tag_field="type"):
    """A key in a header or, where the source leaves no choice, in the query."""

    key: SecretReference
    """The key."""
    header: Text = ""
    """The header that carries it; exactly one of ``header`` and ``parameter``."""
    parameter: Text = ""
    """The query parameter that carries it; scrubbed from every recorded address."""


class OAuth2Auth(
    _Part, frozen=True, kw_only=True, tag="oauth2-client-credentials", tag_field="type"
):
    """The client credentials grant of OAuth 2.0 (RFC 6749 §4.4)."""

    token_url: Address
    """The token endpoint."""
    client_id: Text
    """The client's identifier: a text or a secret reference."""
    client_secret: SecretReference
    """The client's secret; bound to the hosts of both the token endpoint and the source."""
    scope: Text = ""
    """The scope to ask for."""
    parameters: dict[str, str] = {}
    """What else the token endpoint wants to be told, such as an ``audience``."""
    style: Literal["basic", "post"] = "basic"
    """How the client authenticates to the token endpoint: by the ``Authorization`` header, or by
    fields of the form."""


Auth = BearerAuth | BasicAuth | ApiKeyAuth | OAuth2Auth


class Windows(_Part, frozen=True, kw_only=True):
    """Cut a long history into requests of at most ``span``, by two parameters.

    The last window ends when the run began. Where the profile has a ``cursor`` with the same
    parameter as ``start_parameter``, the first begins there.
    """

    start_parameter: Text
    """The parameter that carries the first moment of a window."""
    end_parameter: Text
    """The parameter that carries its end."""
    span: Span
    """The length of a window."""
    start: Text
    """Where the history begins, in ``format``."""
    format: Text = "%Y-%m-%d"
    """How the two parameters are written: a strftime pattern, ``epoch-s`` or ``epoch-ms``."""
    end: Literal["exclusive", "inclusive"] = "exclusive"
    """``inclusive``: the source counts the end in, so the end that is sent is one step of
    ``format`` (a day, a year) before the next window's start."""
    into: Place = "query"
    """Where the two parameters go, as for pagination."""


class Success(_Part, frozen=True, kw_only=True):
    """What a good body says, for sources that answer 200 to everything."""

    path: Path
    """Where the status stands in the body."""
    equals: list[str]
    """The values that mean success."""
    message: Path | None = None
    """Where the reason stands when it is something else."""


class Source(_Part, frozen=True, kw_only=True):
    """Where the bytes come from."""

    url: Address
    """The original address, also when a fetch is replayed from a recording."""
    homepage: Address | None = None
    """The page that describes the source to people."""
    method: Literal["GET", "POST"] = "GET"
    """The request method."""
    headers: dict[str, str] = {}
    """Request headers. No credentials here: use ``auth``."""
    parameters: dict[str, str] = {}
    """Query parameters, added to those of ``url``. No credentials here: use ``auth``."""
    body: Annotated[str, Meta(max_length=65536)] = ""
    """The body of a POST."""
    body_type: Text = "application/json"
    """The media type of ``body``."""
    auth: Auth | None = None
    """How to authenticate; secrets are references and reach https addresses only."""
    format: Format
    """How the bytes are to be read."""
    compression: Literal["auto", "none", "gzip", "deflate", "bzip2", "zip"] = "auto"
    """``auto``: what ``Content-Encoding`` says, and gzip, bzip2 and zip by their first bytes."""
    member: Text = ""
    """Name (or glob) of the one file to read inside a zip archive that has several."""
    pagination: Pagination | None = None
    """How further pages are asked for."""
    windows: Windows | None = None
    """How a long history is cut into requests."""
    success: Success | None = None
    """What the body must say for the answer to count."""
    unchanged: Literal["every-page", "first-page"] = "every-page"
    """What the source must say is not modified (304) for a run to be *unchanged*: every page of the
    last complete run, or only the first, for sources whose first page changes with any other."""
    robots: Text = ""
    """Why ``robots.txt`` does not apply, if the source is fetched against it."""


# --- the mapping --------------------------------------------------------------------------------


class Field(_Part, frozen=True, kw_only=True):
    """Where one value comes from and what it must be.

    Exactly one of ``path``, ``constant`` and ``join`` is given. In tabular formats a path is a
    column's name. In JSON it begins with ``$`` (or ``@``), the record; with ``$$``, the enclosing
    document, where each ``[*]`` stands for the same element as the one in ``records``; or with
    ``#``, one of the format's ``keys``. In XML it is an XPath from the record: ``name``, ``@unit``,
    ``a/b[@id='x']``; ``../header/@id`` and ``/root/updated`` reach what stands around it.
    """

    path: Path | None = None
    """Where the value stands."""
    constant: Text | None = None
    """The same value for every record, as text."""
    type: Literal["string", "integer", "decimal", "boolean", "date", "datetime"] = "string"
    """What the value must be; a row that fails goes to the rejects. Numbers stay exact."""
    format: Text = ""
    """For dates and times: a strptime pattern, ``epoch-s``, ``epoch-ms``, ``rfc-2822`` (as feeds
    and mail write it), or empty for ISO 8601; a time without a zone is in the profile's
    ``timezone``. For booleans: the texts that mean true and false, as in ``Y/N``."""
    nulls: list[str] | None = None
    """Spellings that mean "missing" in this field, instead of the profile's own list."""
    required: bool = False
    """A missing value is a reject. Key fields are always required."""
    pad: Annotated[int, Meta(ge=0, le=64)] = 0
    """Left-pad with zeros to this width (a FIPS code that lost its leading zero)."""
    split: Text = ""
    """Cut the text at this separator and take one ``part``."""
    part: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """Which part, from 0; negative from the end."""
    join: list[Path] = []
    """Several paths whose texts are joined by ``separator``."""
    separator: Text = ""
    """What stands between joined texts; with one ``path``, between the elements of an array."""
    codes: Text = ""
    """Name of a code list: of one in ``code_lists``, or of a file ``codes/NAME.csv`` beside the
    profile. The text becomes what the list has for it; one that is not in it is a reject."""
    thousands: Annotated[str, Meta(max_length=1)] = ""
    """The separator of thousands in a number written as text."""
    decimal: Annotated[str, Meta(min_length=1, max_length=1)] = "."
    """The decimal mark in a number written as text."""
    unit: Text = ""
    """The unit, preferably as UCUM or an ISO 4217 currency writes it."""
    unit_path: Path | None = None
    """Where the unit stands, when each record says its own."""
    multiplier: DecimalText = "1"
    """What one counts for: ``1000`` for a table in thousands. The value itself is kept as sent."""
    description: Text = ""
    """What the value means."""


class MeasureField(Field, frozen=True, kw_only=True):
    """A field that is a number: the same as a field, but ``type`` is ``decimal`` by default.

    Exactly one of ``path``, ``constant`` and ``join`` is given.
    """

    type: Literal["integer", "decimal"] = "decimal"
    """What the number must be; it stays exact either way."""


class Period(_Part, frozen=True, kw_only=True):
    """The time a record speaks of, with its frequency kept.

    ``A`` year, ``S`` half, ``Q`` quarter, ``M`` month, ``W`` ISO week, ``D`` day, ``H`` hour, ``I``
    instant. Exactly one of ``path`` and ``join`` is given. A time with an offset is brought to the
    profile's ``timezone`` before the period is cut, so that a local midnight written in UTC falls
    in the right month.
    """

    path: Path | None = None
    """Where the time stands."""
    join: list[Path] = []
    """Several paths (a year and a month) whose texts are joined by ``separator``."""
    separator: Text = "-"
    """What stands between joined texts."""
    frequency: Frequency
    """How long the period is."""
    format: Text = ""
    """A strptime pattern, ``epoch-s``, ``epoch-ms``, ``rfc-2822``, or empty for ISO 8601."""
    codings: Annotated[dict[str, Frequency], Meta(max_length=32)] = {}
    """The publisher's own spellings and the frequency each stands for: regular expressions of the
    whole text with the named groups ``year`` and ``sub`` (the number of the half, quarter, month or
    week) or, for days and hours, ``month``, ``day`` and ``hour``. With
    ``"(?P<year>[0-9]{4})-M13": A`` an annual average coded as month 13 is annual, never a month.
    ``end_year`` instead of ``year`` is the calendar year in which a year ends."""
    spellings: Annotated[dict[str, str], Meta(max_length=1000)] = {}
    """Texts that no pattern can read, and the period each stands for: ``1976``, ``1976-S2``,
    ``1976-Q3``, ``1976-07``, ``1976-W31`` or ``1976-07-01``."""
    year_start: Annotated[int, Meta(ge=1, le=12)] = 1
    """The month in which a year of frequency ``A`` begins, for fiscal, school and water years;
    ``2020/21``, ``2020-21`` and ``2020/2021`` are then read as the year that begins in 2020."""


class Unpivot(_Part, frozen=True, kw_only=True):
    """Turn a wide row into one record for each column that matches.

    Fields read the column's name as ``#column`` and its cell as ``#value``.
    """

    columns: Text
    """A regular expression that the whole name of a column must match."""
    skip_nulls: bool = True
    """Cells that are missing give no record."""


class Cursor(_Part, frozen=True, kw_only=True):
    """Where an incremental source continues: the greatest value at ``path`` published so far."""

    path: Path
    """Where the value stands in a record."""
    parameter: Text
    """The parameter that carries it."""
    into: Place = "query"
    """Where the parameter goes, as for pagination."""
    start: Text
    """The value of the first run."""
    overlap: Duration = "0s"
    """How far to go back before the cursor, for late arrivals."""
    format: Text = ""
    """How the value is read and written: a strptime pattern, ``epoch-s``, ``epoch-ms``, or empty
    for ISO 8601."""


class Range(_Part, frozen=True, kw_only=True):
    """Bounds, inclusive, for a measure; decimals, kept as written."""

    min: DecimalText | None = None
    """The smallest value allowed."""
    max: DecimalText | None = None
    """The greatest value allowed."""


class Expect(_Part, frozen=True, kw_only=True):
    """What a complete run must satisfy, or nothing of it is published."""

    min_records: NotNegative = 0
    """At least this many records."""
    max_records: Positive | None = None
    """At most this many records."""
    required: Annotated[list[str], Mapped] = []
    """Fields (``measures.price``, ``period``) that no record may lack."""
    ranges: Annotated[dict[str, Range], Mapped] = {}
    """Bounds for measures, by field (``measures.price``)."""
    drift: Literal["fail", "report"] = "fail"
    """What a breaking change of shape means, against what earlier runs of this profile saw: a
    dimension, measure or period gone, another type or unit, numbers that jumped by about a power of
    ten or changed their sign. ``fail``: the run fails and nothing of it is published, until
    somebody accepts it (``holdfast run accept``). ``report``: it is published, and an event says
    so. Changes that are not breaking are always reported only."""
    drift_allowed: Annotated[list[Text], Mapped] = []
    """Fields (``measures.price``) and kinds (``unit-jumped``) that may change their shape."""
    shrinkage: Annotated[int, Meta(ge=1, le=100)] | None = None
    """Fail a run that brings this many percent fewer records than usual. A snapshot of 20 records
    or more that brings less than half is always reported, and one that brings nothing where
    something is published fails (unless ``drift`` is ``report``) until somebody accepts it."""


class Limits(_Part, frozen=True, kw_only=True):
    """Bounds on a run. Reaching one is an error with what was kept marked partial, never a cut."""

    max_bytes: Positive = 2_147_483_648
    """Bytes of all bodies of a run, after decompression."""
    max_records: Positive = 10_000_000
    """Records of a run."""
    max_pages: Positive = 10_000
    """Requests for pages of a run."""
    timeout: Duration = "60s"
    """How long one request may take to bring its next bytes."""
    max_duration: Duration = "1h"
    """How long a run may take."""
    requests_per_minute: Positive | None = None
    """Requests a minute to this source; one worker at a time collects a profile."""
    requests_per_day: Positive | None = None
    """Requests a day to this source, over the whole fleet."""
    concurrency: Positive = 1
    """Requests at once within a run: where the source has said how many pages there are, or windows
    cut its history. A crash may cost as many pages. The operator's bound on requests to one host at
    once counts too."""
    retries: Annotated[int, Meta(ge=0, le=20)] = 3
    """Repeats of a request that failed in a way that may pass."""


class Schedule(_Part, frozen=True, kw_only=True):
    """When to collect. Exactly one of ``every`` and ``cron`` is given."""

    every: Duration | None = None
    """An interval."""
    cron: Text | None = None
    """Five fields: minute, hour, day of month, month, day of week."""
    timezone: Text = "UTC"
    """The time zone that ``cron`` speaks of."""
    jitter: Duration = "0s"
    """Spread starts over this long, the same for the same profile each time."""


class Licence(_Part, frozen=True, kw_only=True):
    """The terms the publisher gives the data under."""

    name: Annotated[str, Meta(min_length=1, max_length=4096)]
    """The licence, by its usual name."""
    url: Address | None = None
    """Its text."""


class Profile(_Part, frozen=True, kw_only=True):
    """One source, how to read it, and what a record of it looks like."""

    version: Literal[1]
    """The version of this form of profile: 1."""
    name: Name
    """The name by which commands, files and metrics know the profile."""
    title: Text = ""
    """A line for people."""
    description: Text = ""
    """A paragraph for people."""
    publisher: Annotated[str, Meta(min_length=1, max_length=4096)]
    """Who publishes the data."""
    licence: Licence | Annotated[str, Meta(min_length=1, max_length=4096)]
    """The terms the publisher gives the data under: a name, or a name and an address."""
    attribution: Text = ""
    """The credit line that charts and exports print."""
    source: Source
    """Where the bytes come from and how to read them."""
    mode: Literal["snapshot", "append", "incremental"] = "snapshot"
    """``snapshot``: a complete run is the whole truth, and keys absent from it are withdrawn.
    ``append``: records arrive and stay. ``incremental``: each run asks for what is new since the
    ``cursor``."""
    cursor: Cursor | None = None
    """Where an incremental source continues."""
    key: Annotated[list[str], Meta(max_length=32)] | Literal["position"]
    """Fields (``dimensions.station``, ``period``) that identify a record; ``position`` is content
    plus occurrence number, for sources where whole rows repeat."""
    duplicates: Literal["error", "first", "last"] = "error"
    """What two records of one run with the same key mean."""
    timezone: Text = "UTC"
    """The source's own time zone: of its times without an offset, and of its days and months."""
    nulls: list[str] = field(default_factory=lambda: [""])
    """Spellings that mean "missing" in this source; the original is kept beside the record."""
    unpivot: Unpivot | None = None
    """How a wide row becomes several records."""
    dimensions: Annotated[dict[FieldName, Field | Path], Mapped] = {}
    """What a record is about. A bare text is a path."""
    measures: Annotated[dict[FieldName, MeasureField | Path], Mapped] = {}
    """The numbers. A bare text is a path."""
    attributes: Annotated[dict[FieldName, Field | Path], Mapped] = {}
    """What else is known of a record: status flags, notes. A bare text is a path."""
    period: Period | None = None
    """The time a record speaks of."""
    code_lists: Annotated[dict[Text, dict[str, str]], Meta(max_length=32)] = {}
    """Code lists by name: from the source's code to what stands for it, or to nothing (an empty
    text) where it is no value; ``*`` is for all other codes."""
    subject: Text = ""
    """The field (``dimensions.patient``) that names the person a record is about."""
    personal: Annotated[list[str], Mapped] = []
    """Fields that are sealed under the subject's key."""
    enabled: bool = True
    """Whether the profile may run."""
    schedule: Schedule | None = None
    """When it runs; without one, only when asked."""
    limits: Limits = field(default_factory=Limits)
    """Bounds on a run."""
    expect: Expect = field(default_factory=Expect)
    """What a complete run must satisfy."""
    max_rejects: NotNegative = 0
    """More rejected rows than this fail the run, and nothing of it is published."""
    freshness: Duration | None = None
    """How long silence is normal; after that the profile is stale."""


GROUPS = ("dimensions", "measures", "attributes")
"""The three parts of a record that hold named fields."""


def is_tabular(form: Format) -> bool:
    """Whether the fields of a format are columns with names."""
    return isinstance(form, CsvFormat | XlsxFormat | JsonStatFormat) or (
        isinstance(form, JsonFormat) and form.header
    )


def field_names(profile: Profile) -> list[str]:
    """Every field of a record by its full name: ``dimensions.station``, …, ``period``."""
    names = [f"{group}.{name}" for group in GROUPS for name in getattr(profile, group)]
    return [*names, "period"] if profile.period else names


def as_field(value: Field | str) -> Field:
    """A mapping entry in its long form: a bare text is a path."""
    return Field(path=value) if isinstance(value, str) else value


def as_measure(value: MeasureField | str) -> MeasureField:
    """A measure in its long form: a bare text is a path."""
    return MeasureField(path=value) if isinstance(value, str) else value


def as_licence(value: Licence | str) -> Licence:
    """A licence in its long form: a bare text is its name."""
    return Licence(name=value) if isinstance(value, str) else value


# --- one profile, one digest --------------------------------------------------------------------


def plain_profile(profile: Profile) -> dict[str, Any]:
    """``profile`` as plain data in its one form.

    A member that has its default is left out, however it was written, and short forms are written
    long: two profiles that mean the same have the same form. Defaults therefore never change
    within a version of the form.
    """
    plain = _plain(profile)
    assert isinstance(plain, dict)
    plain["licence"] = _plain(as_licence(profile.licence))
    for group in GROUPS:
        if group in plain:
            long = as_measure if group == "measures" else as_field
            plain[group] = {
                name: _plain(long(value)) for name, value in getattr(profile, group).items()
            }
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        config = value.__struct_config__
        plain = {config.tag_field: config.tag} if config.tag_field else {}
        for member in _members(type(value)):
            found = getattr(value, member.name)
            if found is UNSET or (not member.required and found == default_of(member)):
                continue
            plain[member.encode_name] = _plain(found)
        return plain
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


@cache
def _members(part: type[Struct]) -> tuple[structs.FieldInfo, ...]:
    return structs.fields(part)


def default_of(member: structs.FieldInfo) -> Any:
    """The value that a member has when it is left out."""
    if member.default is not NODEFAULT:
        return member.default
    return member.default_factory()


def canonical_profile(profile: Profile) -> bytes:
    """The canonical bytes of ``profile``: what its digest is of and what the registry keeps."""
    return canonical(plain_profile(profile))


def profile_digest(profile: Profile) -> str:
    """The digest that names this version of the profile, whoever computes it."""
    return digest(canonical_profile(profile))


def read_canonical(data: bytes) -> Profile:
    """The profile that :func:`canonical_profile` wrote.

    Raises :class:`Corrupt` if the bytes are anything but that form.
    """
    try:
        return convert(json.decode(data), Profile)
    except ValueError as error:
        raise Corrupt("cannot read a stored profile: it is not one", internal=str(error)) from error


# --- what the registry keeps about a profile ----------------------------------------------------


class ProfileVersion(Struct, frozen=True, kw_only=True):
    """One immutable version: its digest is that of the canonical bytes of ``profile``."""

    name: str
    digest: str
    profile: Profile
    published_at: str
    published_by: str


class ProfileVersionInfo(Struct, frozen=True, kw_only=True):
    """A version as the list of versions shows it; ``current`` is the one that runs."""

    name: str
    digest: str
    published_at: str
    published_by: str
    current: bool


class LimitsOverride(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator's bounds: each member given replaces the profile's, the others stay."""

    max_bytes: Positive | None = None
    max_records: Positive | None = None
    max_pages: Positive | None = None
    timeout: Duration | None = None
    max_duration: Duration | None = None
    requests_per_minute: Positive | None = None
    requests_per_day: Positive | None = None
    concurrency: Positive | None = None
    retries: Annotated[int, Meta(ge=0, le=20)] | None = None


class ProfileOverrides(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator changed without a new version: paused or not, schedule, limits."""

    paused: bool = False
    schedule: Schedule | None = None
    limits: LimitsOverride | None = None


class OverridesChange(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A partial change of the overrides; a member left out stays as it is, ``null`` clears it."""

    paused: bool | UnsetType = UNSET
    schedule: Schedule | None | UnsetType = UNSET
    limits: LimitsOverride | None | UnsetType = UNSET


class ProfileStatus(Struct, frozen=True, kw_only=True):
    """A profile as the list shows it.

    ``problem`` is why the newest file was not taken; the version shown keeps running. ``digest`` is
    empty for a profile whose only file was never good. ``revision`` grows with every change, for
    conditional writes.
    """

    name: str
    title: str
    digest: str
    published_at: str
    enabled: bool
    overrides: ProfileOverrides
    problem: str = ""
    runnable: bool = True
    """Published, enabled, not paused, not removed: what the coordinator schedules."""
    removed: bool = False
    """The file it came from is gone."""
    file: str = ""
    """The file it came from, relative to the profiles' folder."""
    schedule: Schedule | None = None
    """The schedule in force."""
    freshness: str | None = None
    publisher: str = ""
    revision: int = 0


class RunnableProfile(Struct, frozen=True, kw_only=True):
    """A profile that may run, with everything the coordinator needs to run it."""

    name: str
    digest: str
    title: str
    schedule: Schedule | None
    """The operator's schedule, or else the profile's own."""
    limits: Limits
    """The profile's limits with the operator's in their place."""
    limits_override: LimitsOverride | None
    freshness: str | None


class RunnableSet(Struct, frozen=True, kw_only=True):
    """All profiles that may run; ``etag`` changes whenever one of them does."""

    etag: str
    profiles: list[RunnableProfile]


class Change(Struct, frozen=True, kw_only=True):
    """One member that differs between two profiles; ``None`` where a side has no such member."""

    path: str
    before: str | None = None
    after: str | None = None


class PublishResult(Struct, frozen=True, kw_only=True):
    """What publishing did, or would do.

    ``created``: this digest was never published before. ``changed``: the head moves to it.
    """

    version: ProfileVersion
    created: bool
    changed: bool
    dry_run: bool
    previous: str
    """Digest of the version that ran before; empty for a new profile."""
    diff: list[Change]


class ProfileDiff(Struct, frozen=True, kw_only=True):
    """What differs between two versions of one profile."""

    name: str
    before: str
    after: str
    changes: list[Change]


class ProfileEvent(Struct, frozen=True, kw_only=True):
    """One row of a profile's history, stamped with the event that is its evidence."""

    sequence: int
    action: Literal["published", "paused", "resumed", "overridden", "removed", "restored"]
    digest: str
    overrides: ProfileOverrides
    at: str
    by: str
    event: str


def effective_limits(limits: Limits, override: LimitsOverride | None) -> Limits:
    """``limits`` with each member that the operator gave in its place."""
    if override is None:
        return limits
    given = {key: value for key, value in structs.asdict(override).items() if value is not None}
    return structs.replace(limits, **given)


def changed_overrides(current: ProfileOverrides, change: OverridesChange) -> ProfileOverrides:
    """``current`` after ``change``."""
    given = {key: value for key, value in structs.asdict(change).items() if value is not UNSET}
    return structs.replace(current, **given)


def diff_profiles(before: Profile | None, after: Profile | None) -> list[Change]:
    """Every member that differs, by path, in the order of the paths.

    Lists are compared whole: a list's order means something.
    """
    left = _leaves(plain_profile(before)) if before else {}
    right = _leaves(plain_profile(after)) if after else {}
    return [
        Change(path=path, before=left.get(path), after=right.get(path))
        for path in sorted(left.keys() | right.keys())
        if left.get(path) != right.get(path)
    ]


def _leaves(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        leaves: dict[str, str] = {}
        for key, item in value.items():
            leaves |= _leaves(item, f"{path}.{key}" if path else key)
        return leaves
    return {path: json.encode(value).decode()}


def calendar_months(span: str) -> int:
    """The months of a :data:`Span` of the calendar; 0 for one that is a :data:`Duration`."""
    if span.endswith("mo"):
        return int(span[:-2])
    return int(span[:-1]) * 12 if span.endswith("y") else 0


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
