"""The ``source`` of a profile: where the bytes come from, how they are asked for and how read.

Pure types, no I/O, like the rest of the model (``model.py``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from holdfast.registry.parts import (
    Address,
    Columns,
    FieldName,
    Name,
    NotNegative,
    Part,
    Path,
    Place,
    Positive,
    SecretReference,
    Span,
    Text,
)


class JsonFormat(Part, frozen=True, kw_only=True, tag="json", tag_field="type"):
    """One JSON document (RFC 8259)."""

    records: Path = "$[*]"
    """Where the records are: a streamable path of names, indexes and ``[*]``, such as
    ``$.data[*]``."""
    header: bool = False
    """The records are arrays and the first of them names the columns."""
    columns: bool = False
    """What stands at ``records`` is an object of columns, an array each: ``{"time": […], "rain":
    […]}``. All are equally long, members that are no arrays are left out, and the whole object may
    have the size of one record. The fields read the columns by their names."""
    keys: list[FieldName] = []
    """Names for the member names that the ``[*]`` of ``records`` pass through when they walk over
    an object; fields read them as ``#name``."""
    skip_rows: Annotated[list[Text], Meta(max_length=32)] = []
    """What stands at ``records`` and has one of these as its first value is no record: a first
    object that holds the names of the members, a total. ``Total*`` means every text that begins
    so. For ``pagination`` it is a row of the source like all others."""
    encoding: str = "utf-8"
    """JSON is UTF-8 whatever its media type says (RFC 8259). A byte order mark of UTF-16 or UTF-32
    is heeded; for a source that breaks the rule otherwise, this names its encoding."""


class NdjsonFormat(Part, frozen=True, kw_only=True, tag="ndjson", tag_field="type"):
    """One JSON value a line."""

    skip_rows: Annotated[list[Text], Meta(max_length=32)] = []
    """As for ``json``."""
    encoding: str = "utf-8"
    """As for ``json``."""


class GeojsonFormat(Part, frozen=True, kw_only=True, tag="geojson", tag_field="type"):
    """A GeoJSON FeatureCollection (RFC 7946); a record is a feature."""

    sequence: bool = False
    """A feature a line instead of a collection (RFC 8142 and its newline-delimited kin)."""


class CsvFormat(Part, frozen=True, kw_only=True, tag="csv", tag_field="type"):
    """Delimited text (RFC 4180 and its dialects; a TSV has ``delimiter: "\\t"``)."""

    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    """What stands between two cells."""
    quote: Annotated[str, Meta(min_length=1, max_length=1)] = '"'
    """What stands around a cell that holds a delimiter or a line break; doubled inside."""
    escape: Annotated[str, Meta(max_length=1)] = ""
    """The escape character, where quotes are not doubled."""
    encoding: str = "auto"
    """The character encoding, such as ``windows-1252``. ``auto``: what the ``charset`` of the media
    type says, else UTF-8. A byte order mark is believed before either. What the media type calls
    ``iso-8859-1`` is read as windows-1252, as browsers do, and ``shift_jis``, ``gb2312`` and
    ``euc-kr`` as ``cp932``, ``gb18030`` and ``cp949``; one that is named here is read as it is.
    UTF-8 that the media type calls an encoding of a byte a letter fails the run until this says
    which holds."""
    header: bool | list[str] = True
    """``true``: the first row names the columns; a list: these are the columns and there is no
    such row. Columns of one name (``Value``, ``Value``) are ``Value_1`` and ``Value_2``, one
    without a name is ``c4``, by its number."""
    places: Annotated[dict[Text, Columns], Meta(max_length=1000)] = {}
    """Columns at fixed places in the line, by name: ``{id: 1-11, elevation: 32-37, name: 42-}``,
    counted in characters from 1. Then nothing is a delimiter, and the file's own header, if it has
    one, is skipped by ``header_starts`` or ``skip_lines``. A line is a reject where something
    stands in no place, as a value does that goes on beyond its own (so what is not read needs a
    name, too), and where it ends before its last column begins (unless ``ragged: pad``)."""
    header_rows: Annotated[int, Meta(ge=1, le=8)] = 1
    """How many rows the header has. Their cells are joined to one name: ``2019`` over ``Male`` is
    ``2019 | Male``. An empty cell in an upper row has what stands to its left there, as merged
    cells do, up to the next cell of a row above it; a column with cells in no row has no name."""
    skip_lines: NotNegative = 0
    """Lines to skip before the header."""
    header_starts: Text = ""
    """The text of the header's first cell (of the first cell with text of its first row): rows
    before it are a preamble of any length and are skipped."""
    skip_after_header: NotNegative = 0
    """Rows to skip after the header (a row of units, or of HXL tags)."""
    skip_rows: Annotated[list[Text], Meta(max_length=32)] = []
    """Rows whose first cell with text is one of these are no records: totals, repeated headers,
    tags. ``Total*`` means every text that begins so, an empty text rows of empty cells. A repeated
    header that names other columns than the first fails the run. For ``pagination`` they are rows
    of the source like all others."""
    fill_down: Annotated[list[Text], Meta(max_length=32)] = []
    """Columns whose empty cells have what stands above them, as where cells are merged: a region
    that is written once for its rows. The outer one first: where it begins anew, the inner ones
    have nothing above them. Rows that are skipped fill nothing. With ``pagination`` a row that has
    nothing above it on its page is a reject."""
    comment: Annotated[str, Meta(max_length=8)] = ""
    """Lines that begin with this are skipped."""
    stop_at: str = ""
    """Reading ends at the first row whose first cell begins with this (footnotes)."""
    ragged: Literal["reject", "pad"] = "reject"
    """What happens to a row with more or fewer cells than the header."""


class XmlFormat(Part, frozen=True, kw_only=True, tag="xml", tag_field="type"):
    """XML, read without entities, DTDs or network."""

    records: Path
    """The path of the repeated element from the root, by names: ``/rss/channel/item``, or
    ``//generic:Series/generic:Obs`` at any depth."""
    namespaces: dict[str, str] = {}
    """Prefix to namespace, for the paths of this profile."""
    encoding: str = "auto"
    """``auto``: a byte order mark, the ``charset`` of the media type, the XML declaration or
    UTF-8, in this order. As for ``csv`` an encoding of a byte a letter is not believed of UTF-8."""


class FeedFormat(Part, frozen=True, kw_only=True, tag="feed", tag_field="type"):
    """RSS or Atom (RFC 4287); a record is an item or entry, its fields are XPaths from there.

    The prefixes ``atom``, ``rss`` (1.0), ``rdf``, ``dc``, ``dcterms``, ``content``, ``sy``,
    ``georss``, ``geo``, ``gml``, ``media``, ``cap``, ``m`` and ``d`` (OData) are known.
    """

    namespaces: dict[str, str] = {}
    """Further prefixes, for the paths of this profile."""
    encoding: str = "auto"
    """As for ``xml``."""


class JsonStatFormat(Part, frozen=True, kw_only=True, tag="json-stat", tag_field="type"):
    """A JSON-stat 2.0 dataset; a record is one cell with its categories.

    A cell that has a status and no value is a record whose value is missing. The columns are the
    dimensions by their id (the category's code), ``<id>.label`` (its text), ``value``, ``status``
    and, where no dimension has that id, ``unit``. ``$$`` paths reach the dataset's own members,
    such as ``$$.updated``.
    """


class SheetFormat(Part, frozen=True, kw_only=True):
    """What sheets of workbooks have in common, whatever wrote them."""

    sheet: str | Positive = 1
    """Its name, or its position from 1."""
    header_row: Positive = 1
    """The row that names the columns, from 1, as a spreadsheet counts."""
    header_rows: Annotated[int, Meta(ge=1, le=8)] = 1
    """As for ``csv``; ``header_row`` is the first of them."""
    header_starts: Text = ""
    """Instead: the text of the header's first cell with text; rows before it are skipped."""
    skip_after_header: NotNegative = 0
    """Rows to skip after the header."""
    skip_rows: Annotated[list[Text], Meta(max_length=32)] = []
    """As for ``csv``."""
    fill_down: Annotated[list[Text], Meta(max_length=32)] = []
    """As for ``csv``."""
    stop_at: Text = ""
    """Reading ends at the first row whose first cell with text begins with this (footnotes)."""


class XlsxFormat(SheetFormat, frozen=True, kw_only=True, tag="xlsx", tag_field="type"):
    """One sheet of a workbook (.xlsx).

    A number is read as it is stored, a date as ISO 8601 text, a formula as its last result; one
    whose result the file does not hold is a reject where a field reads it. A time that went by
    (shown with ``[h]``, ``[mm]`` or ``[ss]``) is stored in days: 30:00:00 is 1.25. Columns are
    named as in ``csv``.
    """


class OdsFormat(SheetFormat, frozen=True, kw_only=True, tag="ods", tag_field="type"):
    """One sheet of an OpenDocument spreadsheet (.ods); values and columns as in ``xlsx``."""


class PluginFormat(Part, frozen=True, kw_only=True, tag="plugin", tag_field="type"):
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
    | OdsFormat
    | PluginFormat
)


class PagePagination(Part, frozen=True, kw_only=True, tag="page", tag_field="type"):
    """A page number; ends after ``total_pages``, where ``more`` denies it, at ``total_records``, or
    where ``end`` says."""

    parameter: Text = "page"
    """The parameter that carries the page number."""
    start: NotNegative = 1
    """The number of the first page."""
    size_parameter: Text = ""
    """The parameter that carries the page size, if the source has one."""
    size: NotNegative = 0
    """The page size to ask for; needs ``size_parameter``."""
    total_pages: Path | None = None
    """Path, in the body, of the number of pages. One that changes within a run fails it."""
    more: Path | None = None
    """Path, in the body, of whether there is more: a page that denies it is the last, after one
    that affirms it must come another with records, and one that says nothing ends as ``end`` says.
    Not with ``total_pages``."""
    number: Path | None = None
    """Path, in the body, of the number of the page as the source gives it back: another than was
    asked for is an error."""
    end: Literal["empty", "short", "missing"] = "empty"
    """What the last page is where neither a total nor ``more`` says so: one without records, the
    first with fewer than ``size``, or the one before an answer 404."""
    total_records: Path | None = None
    """Path, in the body, of the number of records. The run must bring exactly so many rows, with or
    without those that are skipped, and one in which the number changes fails."""
    total_header: Text = ""
    """The response header that says the number of records, such as ``X-Total-Count``."""
    incomplete: Literal["fail", "partial"] = "fail"
    """What it means when the source gave fewer or more rows than it said, or said another number
    later: a failed run, or a partial one, which is kept out of sight."""
    into: Place = "query"
    """Where the parameters go: the query, or the body of a POST, as members of its JSON object
    (``$.paging.page`` names an inner one) or fields of its form."""


class OffsetPagination(Part, frozen=True, kw_only=True, tag="offset", tag_field="type"):
    """A record offset; ends where ``more`` denies it, at ``total_records``, or as ``end`` says."""

    parameter: Text = "offset"
    """The parameter that carries the offset."""
    limit_parameter: Text = "limit"
    """The parameter that carries the page size."""
    limit: Positive = 1000
    """The page size to ask for."""
    number: Path | None = None
    """Path, in the body, of the offset as the source gives it back: another than was asked for is
    an error."""
    more: Path | None = None
    """Path, in the body, of whether there is more, such as ``$.exceededTransferLimit``: a page that
    denies it is the last, after one that affirms it must come another with records, however short
    it is, and one that says nothing ends as ``end`` says."""
    end: Literal["auto", "short", "empty", "missing"] = "auto"
    """What the last page is where neither a total nor ``more`` says so. ``auto``: one shorter than
    ``limit``; if that is the first, one request more makes sure that the source does not give less
    than it is asked for. Otherwise as for page numbers."""
    total_records: Path | None = None
    """Path, in the body, of the number of records. The run must bring exactly so many rows, with or
    without those that are skipped, and one in which the number changes fails."""
    total_header: Text = ""
    """The response header that says the number of records, such as ``X-Total-Count``."""
    counts: Literal["auto", "rows", "records"] = "auto"
    """What an offset of the source counts where rows are skipped: all of them, or the records alone
    (a row of tags stands on every page beside them). ``auto``: told from pages that are longer than
    ``limit``; a run in which a page of just ``limit`` rows had skipped ones fails and asks for it,
    unless as many records came as a total says."""
    incomplete: Literal["fail", "partial"] = "fail"
    """What it means when the source gave fewer or more rows than it said, or said another number
    later: a failed run, or a partial one, which is kept out of sight."""
    into: Place = "query"
    """Where the parameters go: the query, or the body of a POST, as members of its JSON object
    (``$.paging.page`` names an inner one) or fields of its form."""


class CursorPagination(Part, frozen=True, kw_only=True, tag="cursor", tag_field="type"):
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
    """Path, in the body, of the number of records. The run must bring exactly so many rows, with or
    without those that are skipped, and one in which the number changes fails."""
    total_header: Text = ""
    """The response header that says the number of records, such as ``X-Total-Count``."""
    incomplete: Literal["fail", "partial"] = "fail"
    """What it means when the source gave fewer or more rows than it said, or said another number
    later: a failed run, or a partial one, which is kept out of sight."""
    into: Place = "query"
    """Where the parameters go: the query, or the body of a POST, as members of its JSON object
    (``$.paging.page`` names an inner one) or fields of its form."""


class LinkPagination(Part, frozen=True, kw_only=True, tag="link", tag_field="type"):
    """The ``Link: …; rel="next"`` header (RFC 8288)."""

    total_records: Path | None = None
    """Path, in the body, of the number of records. The run must bring exactly so many rows, with or
    without those that are skipped, and one in which the number changes fails."""
    total_header: Text = ""
    """The response header that says the number of records, such as ``X-Total-Count``."""
    incomplete: Literal["fail", "partial"] = "fail"
    """What it means when the source gave fewer or more rows than it said, or said another number
    later: a failed run, or a partial one, which is kept out of sight."""


class NextUrlPagination(Part, frozen=True, kw_only=True, tag="next-url", tag_field="type"):
    """The address of the next page taken from the body; ends when it is absent, null or empty."""

    path: Path
    """Where it stands in the body."""
    total_records: Path | None = None
    """Path, in the body, of the number of records. The run must bring exactly so many rows, with or
    without those that are skipped, and one in which the number changes fails."""
    total_header: Text = ""
    """The response header that says the number of records, such as ``X-Total-Count``."""
    incomplete: Literal["fail", "partial"] = "fail"
    """What it means when the source gave fewer or more rows than it said, or said another number
    later: a failed run, or a partial one, which is kept out of sight."""


Pagination = (
    PagePagination | OffsetPagination | CursorPagination | LinkPagination | NextUrlPagination
)


class BearerAuth(Part, frozen=True, kw_only=True, tag="bearer", tag_field="type"):
    """``Authorization: Bearer …`` (RFC 6750)."""

    token: SecretReference
    """The token."""


class BasicAuth(Part, frozen=True, kw_only=True, tag="basic", tag_field="type"):
    """``Authorization: Basic …`` (RFC 7617)."""

    username: Text
    """The user name: a text or a secret reference."""
    password: SecretReference
    """The password."""


class ApiKeyAuth(Part, frozen=True, kw_only=True, tag="api-key", tag_field="type"):
    """A key in a header or, where the source leaves no choice, in the query."""

    key: SecretReference
    """The key."""
    header: Text = ""
    """The header that carries it; exactly one of ``header`` and ``parameter``."""
    parameter: Text = ""
    """The query parameter that carries it; scrubbed from every recorded address."""


class OAuth2Auth(
    Part, frozen=True, kw_only=True, tag="oauth2-client-credentials", tag_field="type"
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


class Windows(Part, frozen=True, kw_only=True):
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
    """Where the history begins, in ``format``. What begins before it a run does not ask for, and
    does not withdraw; a backfill may bring it."""
    format: Text = "%Y-%m-%d"
    """How the two parameters are written: a strftime pattern, ``epoch-s`` or ``epoch-ms``."""
    end: Literal["exclusive", "inclusive"] = "exclusive"
    """``inclusive``: the source counts the end in, so the end that is sent is one step of
    ``format`` (a day, a year) before the next window's start."""
    into: Place = "query"
    """Where the two parameters go, as for pagination."""


class Success(Part, frozen=True, kw_only=True):
    """What a good body says, for sources that answer 200 to everything."""

    path: Path
    """Where the status stands in the body."""
    equals: list[str]
    """The values that mean success."""
    message: Path | None = None
    """Where the reason stands when it is something else."""


class Source(Part, frozen=True, kw_only=True):
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
