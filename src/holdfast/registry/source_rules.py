"""Whether the parts of a source fit together: address, headers, secrets, format, pages. Pure."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from urllib.parse import unquote_plus, urlsplit

import msgspec

from holdfast.kernel.errors import Problem
from holdfast.registry.model import (
    Profile,
)
from holdfast.registry.parts import Place, calendar_months
from holdfast.registry.path_rules import body_path_problems, records_path_problems
from holdfast.registry.source import (
    ApiKeyAuth,
    BasicAuth,
    BearerAuth,
    CsvFormat,
    CursorPagination,
    FeedFormat,
    JsonFormat,
    NdjsonFormat,
    OAuth2Auth,
    OffsetPagination,
    PagePagination,
    SheetFormat,
    XmlFormat,
)
from holdfast.registry.time_rules import EPOCHS, time_format_problems
from holdfast.registry.xpath import record_steps

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")

_SECRET_NAMES = re.compile(
    r"(?:.*[-_.])?"
    r"(?:api|access|app|auth|subscription|registration|private|secret|client|user|consumer|licen[cs]e)"
    r"[-_.]?(?:key|token|secret|sig|signature)"
    r"|(?:.*[-_.])?(?:password|passwd|pwd|passphrase|secret|token|signature|credentials?)"
    r"|key|apikey|appid|app_id|sig|jwt|authorization|auth",
    re.I,
)
"""Names of headers and parameters that carry credentials wherever they are met."""

_OURS = {
    "host": "it comes from the address",
    "content-length": "it comes from the body",
    "transfer-encoding": "it comes from the body",
    "content-type": "write source.body_type",
    "connection": "the client keeps its own connections",
    "upgrade": "the client keeps its own connections",
    "te": "the client keeps its own connections",
    "accept-encoding": "write source.compression",
    "range": "bodies are read whole",
    "if-none-match": "conditional requests are made from what was published",
    "if-modified-since": "conditional requests are made from what was published",
    "user-agent": "it carries the operator's contact",
}
_CREDENTIAL_HEADERS = {"cookie", "proxy-authorization", "www-authenticate"}


def source_problems(profile: Profile) -> Iterator[Problem]:
    """What is wrong with the source of ``profile``."""
    source = profile.source
    yield from address_problems(source.url, "source.url")
    if source.homepage:
        yield from address_problems(source.homepage, "source.homepage")
    for name, value in source.headers.items():
        yield from _header(name, value)
    for name, value in source.parameters.items():
        yield from parameter_problems(name, value, f"source.parameters.{name}")
    if source.body and source.method != "POST":
        yield Problem("source.body", "only a POST has a body", "write method: POST")
    if source.method == "POST" and not source.body:
        yield Problem("source.body", "a POST needs a body")
    if source.member and source.compression not in {"auto", "zip"}:
        yield Problem("source.member", "only a zip archive has members", "compression: zip")
    if source.success and not source.success.equals:
        yield Problem("source.success.equals", "no value means success")
    yield from _auth(profile)
    yield from _format(profile)
    yield from _pagination(profile)
    yield from _windows(profile)


def address_problems(address: str, where: str) -> Iterator[Problem]:
    """What is wrong with an address: no host, credentials in it, or signs of mangling."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        yield Problem(where, f"this is no address: {error}")
        return
    if not parts.hostname or port == 0:
        yield Problem(where, "the address has no host and port to reach")
    if "@" in parts.netloc:
        yield Problem(where, "the address carries credentials", _SECRET_HINT)
    if CONTROL.search(address) or "\\" in address:
        yield Problem(where, "the address holds a character that addresses do not have")
    if not parts.query:
        return
    for piece in parts.query.split("&"):
        name, equals, value = piece.partition("=")
        name, value = unquote_plus(name), unquote_plus(value)
        if not name:
            said = f"?{'=' if equals else ''}{value[:40]}" if piece else "an empty parameter"
            yield Problem(where, f"the query is mangled: {said} has no name")
        else:
            yield from parameter_problems(name, value, where)


_SECRET_HINT = "write source.auth with a secret reference such as secret://env/NAME"  # noqa: S105


def parameter_problems(name: str, value: str, where: str) -> Iterator[Problem]:
    """What is wrong with a query parameter: no name, or a credential in it."""
    if not name.strip():
        yield Problem(where, "a parameter has no name")
    if value.startswith("secret://"):
        yield Problem(where, "a secret reference is not resolved here", _SECRET_HINT)
    elif _SECRET_NAMES.fullmatch(name):
        said = f"{name} is a credential" if value else f"{name} has no value: mangled?"
        yield Problem(where, said, _SECRET_HINT)


def _header(name: str, value: str) -> Iterator[Problem]:
    where, lower = f"source.headers.{name}", name.lower()
    if not _TOKEN.fullmatch(name):
        yield Problem(where, f"{name!r} is no name of a header")
    elif lower in _OURS:
        yield Problem(where, f"{name} is not a profile's to set", _OURS[lower])
    elif _SECRET_NAMES.fullmatch(name) or lower in _CREDENTIAL_HEADERS:
        yield Problem(where, f"{name} is a credential", _SECRET_HINT)
    elif re.match(r"(bearer|basic|token|apikey) +\S", value, re.I):
        yield Problem(where, "the value is a credential", _SECRET_HINT)
    if value.startswith("secret://"):
        yield Problem(where, "a secret reference is not resolved here", _SECRET_HINT)
    if len(value) > 4096 or re.search(r"[^\t\x20-\x7e]", value):
        yield Problem(where, "a header's value is at most 4096 printable ASCII characters")


def _auth(profile: Profile) -> Iterator[Problem]:
    auth = profile.source.auth
    if auth is None:
        return
    if not profile.source.url.startswith("https://"):
        yield Problem("source.auth", "a secret is sent to https addresses only")
    match auth:
        case ApiKeyAuth(header=header, parameter=parameter):
            if bool(header) == bool(parameter):
                yield Problem("source.auth", "exactly one of header and parameter is needed")
            if header and (not _TOKEN.fullmatch(header) or header.lower() in _OURS):
                yield Problem("source.auth.header", f"{header!r} cannot carry a key")
            if parameter in profile.source.parameters:
                yield Problem("source.auth.parameter", f"{parameter} is also in parameters")
        case BasicAuth(username=username):
            if ":" in username and not username.startswith("secret://"):
                yield Problem("source.auth.username", "a user name has no colon (RFC 7617)")
        case OAuth2Auth(token_url=token_url):
            yield from address_problems(token_url, "source.auth.token_url")
            if not token_url.startswith("https://"):
                yield Problem("source.auth.token_url", "a secret is sent to https addresses only")
        case BearerAuth():
            pass


def _format(profile: Profile) -> Iterator[Problem]:
    where = "source.format"
    match profile.source.format:
        case JsonFormat() as form:
            yield from _encoding(form.encoding, where)
            yield from records_path_problems(form.records, f"{where}.records")
            if len(set(form.keys)) != len(form.keys):
                yield Problem(f"{where}.keys", "a name is given twice")
            if form.header and form.columns:
                yield Problem(
                    where,
                    "header and columns cannot both be true",
                    "header: arrays of rows; columns: an object of arrays",
                )
        case NdjsonFormat() as form:
            yield from _encoding(form.encoding, where)
        case CsvFormat() as form:
            yield from _csv(form, where)
        case XmlFormat() as form:
            yield from _encoding(form.encoding, where)
            steps = record_steps(form.records, form.namespaces)
            if isinstance(steps, str):
                hint = f"did you mean /{form.records}?" if form.records[:1] not in "/." else ""
                yield Problem(f"{where}.records", f"{form.records} cannot be read: {steps}", hint)
        case FeedFormat() as form:
            yield from _encoding(form.encoding, where)
        case SheetFormat() as form:
            yield from _filled(form, where)
            if form.header_starts and form.header_row != 1:
                yield Problem(where, "header_row and header_starts say the same twice", "give one")
        case _:
            pass


def _csv(form: CsvFormat, where: str) -> Iterator[Problem]:
    yield from _encoding(form.encoding, where)
    yield from _filled(form, where)
    if form.header_starts and form.header is not True:
        yield Problem(
            f"{where}.header_starts", "there is a header to look for only with header: true"
        )
    if form.places:
        if form.header is not True or form.header_rows > 1 or form.delimiter != ",":
            yield Problem(
                f"{where}.places",
                "columns with places have no delimiter, and no other header",
                "leave delimiter, header and header_rows out",
            )
        for name, place in form.places.items():
            first, _, last = place.partition("-")
            if last and int(last) < int(first):
                yield Problem(f"{where}.places.{name}", f"{place} ends before it begins")
            if not name.strip():
                yield Problem(f"{where}.places", "a column needs a name")
    if form.header_rows > 1 and form.header is not True:
        yield Problem(f"{where}.header_rows", "the file has rows of names only with header: true")
    marks = [mark for mark in (form.delimiter, form.quote, form.escape) if mark]
    if len(set(marks)) != len(marks):
        yield Problem(where, "delimiter, quote and escape must differ")
    if any(mark in "\r\n\0" for mark in marks):
        yield Problem(where, "a line break cannot be a delimiter, quote or escape")
    if form.header is False:
        yield Problem(f"{where}.header", "columns need names", "list them: header: [date, value]")
    if isinstance(form.header, list):
        if not form.header or "" in form.header:
            yield Problem(f"{where}.header", "each column needs a name")
        if len(set(form.header)) != len(form.header):
            yield Problem(f"{where}.header", "a column is named twice")


def _filled(form: CsvFormat | SheetFormat, where: str) -> Iterator[Problem]:
    named: list[str] = []
    if isinstance(form, CsvFormat):
        named = list(form.places) or (form.header if isinstance(form.header, list) else [])
    for index, column in enumerate(form.fill_down):
        if column in form.fill_down[:index]:
            yield Problem(f"{where}.fill_down[{index}]", f"{column} is given twice")
        elif named and column not in named:
            yield Problem(f"{where}.fill_down[{index}]", f"there is no column {column}")


def _encoding(name: str, where: str) -> Iterator[Problem]:
    if name == "auto":
        return
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        yield Problem(
            f"{where}.encoding",
            f"{name!r} is not a known character encoding",
            "such as utf-8, windows-1252, iso-8859-2, shift_jis or gb18030",
        )
        return
    if not getattr(found, "_is_text_encoding", True):
        yield Problem(f"{where}.encoding", f"{name!r} is not a character encoding")


def _pagination(profile: Profile) -> Iterator[Problem]:
    pagination, where = profile.source.pagination, "source.pagination"
    match pagination:
        case None:
            return
        case PagePagination(size=size, size_parameter=name):
            if bool(size) != bool(name):
                yield Problem(where, "size and size_parameter belong together")
            if pagination.end == "short" and not size:
                yield Problem(f"{where}.end", "no page is short where no size is asked for")
        case CursorPagination(path=path, header=header):
            if (path is None) == (not header):
                yield Problem(where, "exactly one of path and header is needed")
        case _:
            pass
    if isinstance(pagination, PagePagination) and pagination.more and pagination.total_pages:
        yield Problem(f"{where}.more", "total_pages says where the end is, too", "leave one out")
    for member in ("path", "more", "number", "total_pages", "total_records"):
        if found := getattr(pagination, member, None):
            yield from body_path_problems(profile, found, f"{where}.{member}")
    for member in ("header", "total_header"):
        name = getattr(pagination, member, "")
        if name and not _TOKEN.fullmatch(name):
            yield Problem(f"{where}.{member}", f"{name!r} is no name of a header")
    if isinstance(pagination, PagePagination | OffsetPagination | CursorPagination):
        if not pagination.parameter:
            yield Problem(f"{where}.parameter", "the parameter needs a name")
        members = ("parameter", "limit_parameter", "size_parameter")
        names = [getattr(pagination, member, "") for member in members]
        yield from placement_problems(profile, pagination.into, names, where)


def placement_problems(
    profile: Profile, into: Place, names: list[str], where: str
) -> Iterator[Problem]:
    """Parameters of our own making have a place to go to, and nobody else is there."""
    source = profile.source
    if into == "query":
        taken = set(source.parameters) | set(_query_names(source.url))
        for name in names:
            if name and name in taken:
                yield Problem(where, f"{name} is also given in the query", "give it in one place")
        return
    kind = source.body_type.partition(";")[0].strip().lower()
    if source.method != "POST":
        yield Problem(f"{where}.into", "only a POST has a body", "write method: POST")
    elif kind == "application/json" or kind.endswith("+json"):
        if not _is_object(source.body):
            yield Problem("source.body", "parameters go into a JSON object, and this is none")
    elif kind != "application/x-www-form-urlencoded":
        yield Problem(
            "source.body_type",
            f"parameters cannot be put into a body of the type {kind}",
            "application/json or application/x-www-form-urlencoded",
        )


def _is_object(body: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(body), dict)
    except msgspec.DecodeError:
        return False


def _windows(profile: Profile) -> Iterator[Problem]:
    spec, where, cursor = profile.source.windows, "source.windows", profile.cursor
    if spec is None:
        return
    yield from time_format_problems(spec.format, f"{where}.format", EPOCHS)
    names = [spec.start_parameter, spec.end_parameter]
    if not all(names) or len(set(names)) == 1:
        yield Problem(where, "the two parameters need two names")
    yield from placement_problems(profile, spec.into, names, where)
    if calendar_months(spec.span) == 0 and not re.fullmatch(r"0*[1-9][0-9]*[a-z]+", spec.span):
        yield Problem(f"{where}.span", "no time at all is no window", "such as 30d, 6mo or 10y")
    if cursor is not None and cursor.parameter != spec.start_parameter:
        yield Problem(
            where,
            "windows and a cursor both say where to begin",
            f"write cursor.parameter: {spec.start_parameter}",
        )


def _query_names(address: str) -> Iterator[str]:
    for piece in address.partition("?")[2].split("&"):
        yield unquote_plus(piece.partition("=")[0])
