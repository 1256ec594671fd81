"""What the schema cannot say: whether the parts of a profile fit together. Pure, no I/O.

Every rule yields all it finds; nothing stops at the first.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus, urlsplit

import msgspec

from holdfast.kernel.errors import Problem
from holdfast.registry.model import (
    GROUPS,
    ApiKeyAuth,
    BasicAuth,
    BearerAuth,
    CsvFormat,
    CursorPagination,
    FeedFormat,
    Field,
    GeojsonFormat,
    JsonFormat,
    JsonStatFormat,
    Limits,
    NdjsonFormat,
    OAuth2Auth,
    OffsetPagination,
    PagePagination,
    Period,
    Place,
    Profile,
    Schedule,
    XlsxFormat,
    XmlFormat,
    as_field,
    calendar_months,
    duration_seconds,
    is_tabular,
)
from holdfast.registry.schema import did_you_mean
from holdfast.registry.xpath import FEED_NAMESPACES, path_problem, record_steps

RESERVED_NAMES = frozenset({"runnable", "schema", "files"})
"""Names that are addresses of the registry itself."""

_JSON = (JsonFormat, NdjsonFormat, GeojsonFormat)
_JSON_BODIES = (*_JSON, JsonStatFormat)
_DATES = ("date", "datetime")
_NUMBERS = ("integer", "decimal")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_EPOCHS = ("epoch-s", "epoch-ms")
_NAMED_TIMES = (*_EPOCHS, "rfc-2822")

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


@dataclass(slots=True)
class Names:
    """The names the document gives, also to fields that are not right yet: a name that is there
    is not reported as unknown. Comparing names costs, so there are ``hints_left`` of it."""

    fields: frozenset[str]
    hints_left: int = 100

    def near(self, name: str) -> str:
        """Which field may have been meant."""
        self.hints_left -= 1
        return did_you_mean(name, sorted(self.fields)) if self.hints_left >= 0 else ""


def problems(profile: Profile, names: Names | None = None) -> list[Problem]:
    """Everything in which the parts of ``profile`` do not fit together."""
    known = names or Names(frozenset(_field_names(profile)))
    found: list[Problem] = []
    for rule in _RULES:
        found.extend(rule(profile, known))
    return found


def _field_names(profile: Profile) -> Iterator[str]:
    for group in GROUPS:
        for name in getattr(profile, group):
            yield f"{group}.{name}"
    if profile.period:
        yield "period"


def _entries(profile: Profile) -> Iterator[tuple[str, str, Field]]:
    for group in GROUPS:
        for name, value in getattr(profile, group).items():
            yield group, f"{group}.{name}", as_field(value)


# --- names and references -----------------------------------------------------------------------


def _texts(profile: Profile, _names: Names) -> Iterator[Problem]:
    if profile.name in RESERVED_NAMES:
        yield Problem("name", f"{profile.name} is an address of the registry", "take another name")
    for member in ("title", "publisher", "attribution", "subject"):
        if _CONTROL.search(getattr(profile, member)):
            yield Problem(member, "a line break or control character has no place here")


def _fields(profile: Profile, names: Names) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for group, place, entry in _entries(profile):
        name = place.partition(".")[2]
        if name in seen:
            yield Problem(
                place,
                f"the name {name} is also given in {seen[name]}",
                "a report names columns without their group",
            )
        elif name == "period" and profile.period:
            yield Problem(place, "a record's period has this name already", "take another name")
        seen.setdefault(name, group)
        if name.endswith("_missing") and any(
            field.endswith("." + name.removesuffix("_missing")) for field in names.fields
        ):
            yield Problem(place, "this name keeps the original spelling of a missing value")
        yield from _field(profile, group, place, entry)
    if not seen and not names.fields:
        yield Problem("", "the profile maps nothing", "give dimensions, measures or attributes")


def _field(profile: Profile, group: str, place: str, entry: Field) -> Iterator[Problem]:
    yield from _origin(place, entry.path, entry.join, entry.constant)
    for path, where in (
        (entry.path, f"{place}.path"),
        (entry.unit_path, f"{place}.unit_path"),
        *((path, f"{place}.join[{index}]") for index, path in enumerate(entry.join)),
    ):
        if path is not None:
            yield from _value_path(profile, path, where)
    if entry.format and entry.type not in (*_DATES, "boolean"):
        yield Problem(f"{place}.format", f"a {entry.type} has no format")
    elif entry.type in _DATES:
        yield from _time_format(entry.format, f"{place}.format")
    if entry.type not in _NUMBERS and (entry.thousands or entry.decimal != "."):
        yield Problem(place, f"a {entry.type} has no thousands and no decimal mark")
    elif entry.thousands == entry.decimal:
        yield Problem(f"{place}.thousands", "thousands and decimals need different marks")
    if entry.codes and entry.codes not in profile.code_lists:
        yield Problem(
            f"{place}.codes",
            f"there is no code list {entry.codes}",
            did_you_mean(entry.codes, sorted(profile.code_lists), compared=50)
            or f"code_lists holds it, or a file codes/{entry.codes}.csv beside the profile",
        )
    if entry.part and not entry.split:
        yield Problem(f"{place}.part", "a part needs split")
    if group != "measures" and (entry.unit_path or entry.multiplier != "1"):
        yield Problem(place, "only a measure has a unit_path and a multiplier")
    if Decimal(entry.multiplier) == 0:
        yield Problem(f"{place}.multiplier", "nothing counts for zero")
    if entry.constant is not None:
        yield from _constant(place, entry)


def _origin(
    place: str, path: str | None, join: list[str], constant: str | None = None
) -> Iterator[Problem]:
    given = [path is not None, bool(join), constant is not None]
    if sum(given) != 1:
        choice = "path, join and constant" if place != "period" else "path and join"
        yield Problem(place, f"exactly one of {choice} is needed, {sum(given)} are given")


def _constant(place: str, entry: Field) -> Iterator[Problem]:
    text = entry.constant or ""
    fits = {
        "integer": r"-?[0-9]{1,15}",
        "decimal": r"-?[0-9]{1,60}(\.[0-9]{1,60})?",
        "boolean": r"true|false",
    }.get(entry.type)
    if fits and not re.fullmatch(fits, text):
        yield Problem(f"{place}.constant", f"{text!r} is no {entry.type}")


def _key(profile: Profile, names: Names) -> Iterator[Problem]:
    if profile.key == "position":
        if profile.mode != "snapshot":
            yield Problem(
                "key",
                f"position cannot tell one run's records from another's in {profile.mode} mode",
                "name the fields that identify a record, or use mode: snapshot",
            )
        return
    if not profile.key:
        yield Problem("key", "a record needs a key", "name its fields, or write key: position")
    for index, name in enumerate(profile.key):
        where = f"key[{index}]"
        yield from _reference(name, where, names)
        if name in profile.key[:index]:
            yield Problem(where, f"{name} is given twice")
        if name.startswith("measures."):
            yield Problem(where, "a measure is what changes; it identifies nothing", "a dimension?")


def _reference(name: str, where: str, names: Names) -> Iterator[Problem]:
    """``name`` must be a field; say which one was meant."""
    if name in names.fields:
        return
    for group in GROUPS:
        if f"{group}.{name}" in names.fields:
            yield Problem(where, f"{name} is not a field", f"did you mean {group}.{name}?")
            return
    yield Problem(where, f"{name} is not a field", names.near(name))


DRIFT_KINDS = frozenset(
    {"missing", "retyped", "jumped", "unit-changed", "unit-jumped", "sign-flipped", "keys-changed"}
)
"""Breaking changes of shape, as the aggregator calls them; a test holds the two equal."""


def _expect(profile: Profile, names: Names) -> Iterator[Problem]:
    expect = profile.expect
    if expect.max_records is not None and expect.max_records < expect.min_records:
        yield Problem("expect.max_records", "this is below min_records")
    for index, name in enumerate(expect.required):
        yield from _reference(name, f"expect.required[{index}]", names)
    for index, name in enumerate(expect.drift_allowed):
        if name not in DRIFT_KINDS:
            yield from _reference(name, f"expect.drift_allowed[{index}]", names)
    for name, bounds in expect.ranges.items():
        where = f"expect.ranges.{name}"
        yield from _reference(name, where, names)
        if name in names.fields and not name.startswith("measures."):
            yield Problem(where, "only a measure has a range")
        if bounds.min is None and bounds.max is None:
            yield Problem(where, "a range needs min or max")
        elif bounds.min and bounds.max and Decimal(bounds.min) > Decimal(bounds.max):
            yield Problem(where, f"min {bounds.min} is above max {bounds.max}")


def _personal(profile: Profile, names: Names) -> Iterator[Problem]:
    if profile.subject:
        yield from _reference(profile.subject, "subject", names)
    for index, name in enumerate(profile.personal):
        yield from _reference(name, f"personal[{index}]", names)
    if profile.personal and not profile.subject:
        yield Problem("personal", "personal fields need a subject, whose key seals them")


# --- times --------------------------------------------------------------------------------------


def _times(profile: Profile, _names: Names) -> Iterator[Problem]:
    yield from _zone(profile.timezone, "timezone")
    if profile.period:
        yield from _period(profile, profile.period)
    if profile.freshness and duration_seconds(profile.freshness) <= 0:
        yield Problem("freshness", "silence of no length is never normal")
    if profile.schedule:
        yield from schedule_problems(profile.schedule, "schedule")


def _period(profile: Profile, period: Period) -> Iterator[Problem]:
    yield from _origin("period", period.path, period.join)
    if period.path is not None:
        yield from _value_path(profile, period.path, "period.path")
    for index, path in enumerate(period.join):
        yield from _value_path(profile, path, f"period.join[{index}]")
    yield from _time_format(period.format, "period.format")
    for pattern in period.codings:
        try:
            groups = re.compile(pattern).groupindex
        except (re.error, RecursionError, OverflowError) as error:
            yield Problem("period.codings", f"{pattern!r} is no regular expression: {error}")
            continue
        if "year" not in groups and "end_year" not in groups:
            yield Problem("period.codings", f"{pattern!r} has no group (?P<year>…)")
    for text, name in period.spellings.items():
        if not _PERIOD_NAME.fullmatch(name):
            yield Problem(
                f"period.spellings.{text}",
                f"{name!r} names no period",
                "such as 1976, 1976-S2, 1976-Q3, 1976-07, 1976-W31 or 1976-07-01",
            )
    if period.year_start != 1 and period.frequency != "A" and "A" not in period.codings.values():
        yield Problem("period.year_start", "only a year (frequency A) can begin in another month")


_PERIOD_NAME = re.compile(
    r"[0-9]{4}(?:-S[12]|-Q[1-4]|-W(?:0[1-9]|[1-4][0-9]|5[0-3])"
    r"|-(?:0[1-9]|1[0-2])(?:-(?:0[1-9]|[12][0-9]|3[01]))?)?"
)


def _zone(name: str, where: str) -> Iterator[Problem]:
    if not _known_zone(name):
        hint = did_you_mean(name, sorted(_zone_names()), compared=1000)
        near = hint if hint.startswith("did") else "an IANA name such as Europe/Paris, or UTC"
        yield Problem(where, f"{name!r} is not a known time zone", near)


def _known_zone(name: str) -> bool:
    from zoneinfo import ZoneInfo

    if name == "UTC":
        return True
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return False
    return True


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    from zoneinfo import available_timezones

    return frozenset(available_timezones())


_DIRECTIVES = frozenset("aAwdbBmyYHIpMSfzZjUWcxXGuV%")


def _time_format(text: str, where: str, named: tuple[str, ...] = _NAMED_TIMES) -> Iterator[Problem]:
    if not text or text in named:
        return
    used = re.findall(r"%(.?)", text, re.S)
    for letter in used:
        if letter not in _DIRECTIVES or not letter:
            yield Problem(where, f"%{letter} is no directive of strptime")
    if not used:
        yield Problem(
            where,
            f"{text!r} reads no part of a time",
            f"write a pattern such as %Y-%m-%d, or {', '.join(named)}",
        )


def schedule_problems(schedule: Schedule, where: str) -> Iterator[Problem]:
    """What is wrong with a schedule, a profile's or an operator's."""
    if (schedule.every is None) == (schedule.cron is None):
        yield Problem(where, "exactly one of every and cron is needed")
    if schedule.every is not None:
        every = duration_seconds(schedule.every)
        if every < 1:
            yield Problem(f"{where}.every", "more often than once a second is not collected")
        elif duration_seconds(schedule.jitter) > every:
            yield Problem(f"{where}.jitter", "the jitter is longer than the interval")
    if schedule.cron is not None:
        yield from _cron(schedule.cron, f"{where}.cron")
    yield from _zone(schedule.timezone, f"{where}.timezone")


_CRON_VALUE = r"(?:\*|(?:[0-9]{1,2}|[A-Za-z]{3})(?:-(?:[0-9]{1,2}|[A-Za-z]{3}))?)(?:/[0-9]{1,2})?"
_CRON_PART = re.compile(rf"{_CRON_VALUE}(?:,{_CRON_VALUE})*")
"""Values, ranges, steps and lists; no ``R`` or ``H``, which differ from one look to the next."""


def _cron(text: str, where: str) -> Iterator[Problem]:
    from croniter import CroniterError, croniter

    parts = text.split()
    if len(text) > 256 or len(parts) != 5 or not all(map(_CRON_PART.fullmatch, parts)):
        yield Problem(
            where,
            f"{text[:60]!r} is no cron expression of five fields",
            "minute hour day-of-month month day-of-week, such as 0 6 * * mon-fri",
        )
        return
    try:
        # A fixed day: whether an expression ever fires must not depend on when it is asked.
        croniter(text, datetime(2024, 1, 1, tzinfo=UTC)).get_next(datetime)
    except (CroniterError, ValueError, KeyError, AttributeError) as error:
        yield Problem(where, f"{text!r} never fires: {error}")


def limits_problems(limits: Limits, where: str) -> Iterator[Problem]:
    """What is wrong with limits, a profile's or an operator's."""
    for member in ("timeout", "max_duration"):
        seconds = duration_seconds(getattr(limits, member))
        if seconds <= 0:
            yield Problem(f"{where}.{member}", "no time at all is no limit", "at least 1ms")
        elif seconds > 7 * 86400:
            yield Problem(f"{where}.{member}", "more than a week is no limit")
    if limits.concurrency > 64:
        yield Problem(f"{where}.concurrency", f"{limits.concurrency} is too large", "at most 64")


def _limits(profile: Profile, _names: Names) -> Iterator[Problem]:
    yield from limits_problems(profile.limits, "limits")


# --- the source ---------------------------------------------------------------------------------


def _source(profile: Profile, _names: Names) -> Iterator[Problem]:
    source = profile.source
    yield from address_problems(source.url, "source.url")
    if source.homepage:
        yield from address_problems(source.homepage, "source.homepage")
    for name, value in source.headers.items():
        yield from _header(name, value)
    for name, value in source.parameters.items():
        yield from _parameter(name, value, f"source.parameters.{name}")
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
    if _CONTROL.search(address) or "\\" in address:
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
            yield from _parameter(name, value, where)


_SECRET_HINT = "write source.auth with a secret reference such as secret://env/NAME"  # noqa: S105


def _parameter(name: str, value: str, where: str) -> Iterator[Problem]:
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
            yield from _records_path(form.records, f"{where}.records")
            if len(set(form.keys)) != len(form.keys):
                yield Problem(f"{where}.keys", "a name is given twice")
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
        case XlsxFormat() as form:
            if form.header_starts and form.header_row != 1:
                yield Problem(where, "header_row and header_starts say the same twice", "give one")
        case _:
            pass


def _csv(form: CsvFormat, where: str) -> Iterator[Problem]:
    yield from _encoding(form.encoding, where)
    if form.header_starts and form.header is not True:
        yield Problem(
            f"{where}.header_starts", "there is a header to look for only with header: true"
        )
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
    for member in ("path", "more", "number", "total_pages", "total_records"):
        if found := getattr(pagination, member, None):
            yield from _body_path(profile, found, f"{where}.{member}")
    for member in ("header", "total_header"):
        name = getattr(pagination, member, "")
        if name and not _TOKEN.fullmatch(name):
            yield Problem(f"{where}.{member}", f"{name!r} is no name of a header")
    if isinstance(pagination, PagePagination | OffsetPagination | CursorPagination):
        if not pagination.parameter:
            yield Problem(f"{where}.parameter", "the parameter needs a name")
        members = ("parameter", "limit_parameter", "size_parameter")
        names = [getattr(pagination, member, "") for member in members]
        yield from _placed(profile, pagination.into, names, where)


def _placed(profile: Profile, into: Place, names: list[str], where: str) -> Iterator[Problem]:
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
    yield from _time_format(spec.format, f"{where}.format", _EPOCHS)
    names = [spec.start_parameter, spec.end_parameter]
    if not all(names) or len(set(names)) == 1:
        yield Problem(where, "the two parameters need two names")
    yield from _placed(profile, spec.into, names, where)
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


def _mode(profile: Profile, _names: Names) -> Iterator[Problem]:
    if profile.mode == "incremental" and profile.cursor is None:
        yield Problem("cursor", "an incremental source needs a cursor")
    if profile.cursor is None:
        return
    if profile.mode != "incremental":
        yield Problem("cursor", f"a {profile.mode} source has no cursor", "write mode: incremental")
    yield from _value_path(profile, profile.cursor.path, "cursor.path")
    yield from _parameter(profile.cursor.parameter, profile.cursor.start, "cursor.parameter")
    yield from _time_format(profile.cursor.format, "cursor.format", _EPOCHS)
    if profile.cursor.into == "body":
        yield from _placed(profile, "body", [], "cursor")
    elif profile.cursor.parameter in profile.source.parameters:
        yield Problem("cursor.parameter", f"{profile.cursor.parameter} is also in parameters")


def _unpivot(profile: Profile, _names: Names) -> Iterator[Problem]:
    if profile.unpivot is None:
        return
    try:
        re.compile(profile.unpivot.columns)
    except (re.error, RecursionError, OverflowError) as error:
        yield Problem("unpivot.columns", f"this is no regular expression: {error}")


# --- paths --------------------------------------------------------------------------------------


def _value_path(profile: Profile, path: str, where: str) -> Iterator[Problem]:
    form = profile.source.format
    if path in {"#column", "#value"}:
        if profile.unpivot is None:
            yield Problem(where, f"{path} needs unpivot")
    elif is_tabular(form):
        if isinstance(form, CsvFormat) and isinstance(form.header, list):
            if path not in form.header:
                yield Problem(
                    where,
                    f"there is no column {path}",
                    did_you_mean(path, list(form.header), compared=50),
                )
        elif path.startswith(("$.", "$[", "@.")):
            yield Problem(where, f"{path} is a JSONPath; a table has columns", "give its name")
    elif path.startswith("#"):
        keys = form.keys if isinstance(form, JsonFormat) else []
        if path[1:] not in keys:
            yield Problem(where, f"{path} is not one of the format's keys", "source.format.keys")
    elif isinstance(form, _JSON):
        yield from _json_path(path, where)
    elif isinstance(form, XmlFormat | FeedFormat):
        yield from _xpath(form, path, where)


def _xpath(form: XmlFormat | FeedFormat, path: str, where: str) -> Iterator[Problem]:
    if path.startswith(("$", "@.")):
        near = path.lstrip("$@.").replace(".", "/")
        yield Problem(where, f"{path} is a JSONPath; XML has XPath", f"did you mean {near}?")
        return
    known = form.namespaces
    if isinstance(form, FeedFormat):
        known = {**FEED_NAMESPACES, **known}
    if problem := path_problem(path, known):
        yield Problem(where, f"{path} cannot be used: {problem}")


def _body_path(profile: Profile, path: str, where: str) -> Iterator[Problem]:
    """A path into the whole body, for pagination."""
    if not isinstance(profile.source.format, _JSON_BODIES):
        yield Problem(where, "only a JSON body has such a path")
    else:
        yield from _json_path(path, where)


def _json_path(path: str, where: str) -> Iterator[Problem]:
    if path.startswith("$$"):
        path = path[1:]
    elif path.startswith("@"):
        path = "$" + path[1:]
    if not path.startswith("$"):
        yield Problem(where, f"{path!r} is no JSONPath", f"did you mean $.{path}?")
        return
    query = _query(path)
    if isinstance(query, str):
        yield Problem(where, f"{path!r} is no JSONPath (RFC 9535): {query}")


def _records_path(path: str, where: str) -> Iterator[Problem]:
    """Where records are must be walked as a stream: names, indexes and ``[*]`` only."""
    query = _query(path) if path.startswith("$") else "it begins with $"
    if isinstance(query, str):
        yield Problem(where, f"{path!r} is no JSONPath (RFC 9535): {query}")
        return
    for segment in query.segments:
        selectors = [type(selector).__name__ for selector in segment.selectors]
        streamable = {"NameSelector", "IndexSelector", "WildcardSelector"}
        if type(segment).__name__ != "JSONPathChildSegment" or not (
            len(selectors) == 1 and streamable.issuperset(selectors)
        ):
            yield Problem(
                where,
                f"{path} cannot be read as a stream",
                "use names, indexes and [*], such as $.data[*]",
            )
            return


@lru_cache(maxsize=512)
def _query(path: str) -> Any:
    """The compiled query, or why it is none."""
    from jsonpath import JSONPathEnvironment, JSONPathError

    try:
        return JSONPathEnvironment(strict=True).compile(path)
    except JSONPathError as error:
        return str(error).strip().partition("\n")[0]
    except RecursionError:
        return "nested too deeply"


_RULES: tuple[Callable[[Profile, Names], Iterable[Problem]], ...] = (
    _texts,
    _source,
    _mode,
    _key,
    _unpivot,
    _fields,
    _times,
    _personal,
    _limits,
    _expect,
)
