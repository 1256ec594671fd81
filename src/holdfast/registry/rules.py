"""What the schema cannot say: whether the parts of a profile fit together. Pure, no I/O.

Every rule yields all it finds; nothing stops at the first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from holdfast.kernel.errors import Problem
from holdfast.registry.model import (
    GROUPS,
    Cursor,
    Field,
    Limits,
    Profile,
    as_field,
    is_tabular,
)
from holdfast.registry.parts import MARK_SUFFIX, MISSING_SUFFIX, duration_seconds
from holdfast.registry.path_rules import origin_problems, value_path_problems
from holdfast.registry.schema import did_you_mean
from holdfast.registry.source import JsonFormat
from holdfast.registry.source_rules import (
    CONTROL,
    parameter_problems,
    placement_problems,
    source_problems,
)
from holdfast.registry.time_rules import (
    EPOCHS,
    reading_problems,
    time_format_problems,
    time_problems,
)

RESERVED_NAMES = frozenset({"runnable", "schema", "files"})
"""Names that are addresses of the registry itself."""

_DATES = ("date", "datetime")
_NUMBERS = ("integer", "decimal")


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
        if CONTROL.search(getattr(profile, member)):
            yield Problem(member, "a line break or control character has no place here")


def _fields(profile: Profile, names: Names) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    marked = {place.partition(".")[2] for _, place, entry in _entries(profile) if entry.marks}
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
        if name.endswith(MISSING_SUFFIX) and any(
            field.endswith("." + name.removesuffix(MISSING_SUFFIX)) for field in names.fields
        ):
            yield Problem(place, "this name keeps the original spelling of a missing value")
        if name.endswith(MARK_SUFFIX) and name.removesuffix(MARK_SUFFIX) in marked:
            yield Problem(place, "this name keeps the marks of a number")
        yield from _field(profile, group, place, entry)
    if not seen and not names.fields:
        yield Problem("", "the profile maps nothing", "give dimensions, measures or attributes")


def _field(profile: Profile, group: str, place: str, entry: Field) -> Iterator[Problem]:
    yield from origin_problems(place, entry.path, entry.join, entry.constant)
    for path, where in (
        (entry.path, f"{place}.path"),
        (entry.unit_path, f"{place}.unit_path"),
        (entry.magnitude_path, f"{place}.magnitude_path"),
        *((path, f"{place}.join[{index}]") for index, path in enumerate(entry.join)),
    ):
        if path is not None:
            yield from value_path_problems(profile, path, where)
    if entry.format and entry.type not in (*_DATES, "boolean"):
        yield Problem(f"{place}.format", f"a {entry.type} has no format")
    elif entry.type in _DATES:
        yield from reading_problems(entry.format, f"{place}.format")
    if entry.type not in _NUMBERS and (entry.thousands or entry.decimal != "."):
        yield Problem(place, f"a {entry.type} has no thousands and no decimal mark")
    elif entry.type not in _NUMBERS and entry.negative != "minus":
        yield Problem(f"{place}.negative", f"a {entry.type} is not below zero")
    elif entry.thousands == entry.decimal:
        yield Problem(f"{place}.thousands", "thousands and decimals need different marks")
    yield from _marks(place, entry)
    if entry.trim and entry.type != "string":
        yield Problem(f"{place}.trim", f"blanks around a {entry.type} do not count anyway")
    if entry.codes and entry.codes not in profile.code_lists:
        yield Problem(
            f"{place}.codes",
            f"there is no code list {entry.codes}",
            did_you_mean(entry.codes, sorted(profile.code_lists), compared=50)
            or f"code_lists holds it, or a file codes/{entry.codes}.csv beside the profile",
        )
    if entry.part and not entry.split:
        yield Problem(f"{place}.part", "a part needs split")
    if group != "measures" and (entry.unit_path or entry.multiplier != "1" or entry.magnitude_path):
        yield Problem(place, "only a measure has a unit_path and a multiplier")
    if Decimal(entry.multiplier) == 0:
        yield Problem(f"{place}.multiplier", "nothing counts for zero")
    if entry.constant is not None:
        yield from _constant(place, entry)


def _marks(place: str, entry: Field) -> Iterator[Problem]:
    """A mark must be no part of a number, or it would be another number without it."""
    if entry.marks and entry.type not in _NUMBERS:
        yield Problem(
            f"{place}.marks", f"a {entry.type} has no marks", "split and part take a text apart"
        )
    numeric = frozenset("0123456789+-\u2212\uff0d.,") | {entry.thousands, entry.decimal}
    for index, mark in enumerate(entry.marks):
        where = f"{place}.marks[{index}]"
        if not mark.strip():
            yield Problem(where, "a blank is no mark; blanks around a number do not count anyway")
        elif {mark.strip()[0], mark.strip()[-1]} & numeric:
            yield Problem(
                where,
                f"{mark!r} begins or ends with what is part of a number",
                "where a blank stands before it, split: ' ' takes the text apart",
            )
        elif mark == "()" and entry.negative == "parentheses":
            yield Problem(where, "negative says that (123) is below zero", "leave one out")


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


def _mode(profile: Profile, _names: Names) -> Iterator[Problem]:
    if profile.mode == "incremental" and profile.cursor is None:
        yield Problem("cursor", "an incremental source needs a cursor")
    if profile.cursor is None:
        return
    if profile.mode != "incremental":
        yield Problem("cursor", f"a {profile.mode} source has no cursor", "write mode: incremental")
    yield from value_path_problems(profile, profile.cursor.path, "cursor.path")
    yield from parameter_problems(
        profile.cursor.parameter, profile.cursor.start, "cursor.parameter"
    )
    yield from time_format_problems(profile.cursor.format, "cursor.format", EPOCHS)
    yield from _overlap(profile.cursor)
    yield from _template(profile)
    if profile.cursor.into == "body":
        yield from placement_problems(profile, "body", [], "cursor")
    elif profile.cursor.parameter in profile.source.parameters:
        yield Problem("cursor.parameter", f"{profile.cursor.parameter} is also in parameters")


_EXPRESSION = re.compile(r"['\"<>=]|\s(?:gt|ge|lt|le|eq)\s", re.I)


def _template(profile: Profile) -> Iterator[Problem]:
    """An expression stands in the template, where every run puts its value; never in the start."""
    cursor = profile.cursor
    if cursor is None:
        return
    for member in ("start", "format"):
        if _EXPRESSION.search(getattr(cursor, member)):
            yield Problem(
                f"cursor.{member}",
                "this is an expression, and the next run sends its value alone",
                "write it as `template`, such as \"updated > '{value}'\"",
            )
            return
    if not cursor.template:
        return
    if cursor.template.count("{value}") != 1:
        yield Problem("cursor.template", "exactly one {value} is needed", "updated > '{value}'")
    if CONTROL.search(cursor.template):
        yield Problem("cursor.template", "a template has no control characters")
    windows = profile.source.windows
    if windows is not None and windows.start_parameter == cursor.parameter:
        yield Problem("cursor.template", "windows send their own start, without a template")
    if not _is_start(cursor):
        yield Problem(
            "cursor.start",
            f"{cursor.start[:60]!r} is no number, and no time as cursor.format writes it",
            "beside a template the first value is written as every other",
        )


def _is_start(cursor: Cursor) -> bool:
    text = cursor.start
    if cursor.format in {"", *EPOCHS} and text.isascii() and text.isdigit():
        return len(text) <= 18
    if cursor.format in EPOCHS:
        return False
    try:
        if cursor.format:
            datetime.strptime(text, cursor.format)  # noqa: DTZ007
        else:
            datetime.fromisoformat(text)
    except ValueError:
        return False
    except re.error:  # the format reads a part of a time twice, which is told of it
        return True
    return True


def _overlap(cursor: Cursor) -> Iterator[Problem]:
    """A number goes back from a number only; whether a cursor is one, its rows tell for sure."""
    counts = cursor.overlap.isdigit() and int(cursor.overlap) > 0
    if counts and (cursor.format or (cursor.start and not cursor.start.isdigit())):
        yield Problem("cursor.overlap", "this cursor is a time, and goes back by one", "such as 1h")


def _unpivot(profile: Profile, _names: Names) -> Iterator[Problem]:
    spec = profile.unpivot
    if spec is None:
        return
    try:
        groups = set(re.compile(spec.columns).groupindex)
    except (re.error, RecursionError, OverflowError) as error:
        yield Problem("unpivot.columns", f"this is no regular expression: {error}")
        return
    form = profile.source.format
    taken = {"column", "value"} | set(form.keys if isinstance(form, JsonFormat) else ())
    for name in sorted(groups & taken):
        yield Problem("unpivot.columns", f"#{name} has another meaning", "take another name")
    for name, column in spec.beside.items():
        where = f"unpivot.beside.{name}"
        if name in taken | groups:
            yield Problem(where, f"#{name} has another meaning", "take another name")
        if isinstance(column, int):
            if not is_tabular(form):
                yield Problem(where, "only the columns of a table stand beside each other")
            elif not 1 <= abs(column) <= 1000:
                yield Problem(where, "no such place beside a column", "1 is the next to the right")
            continue
        named = set(re.findall(r"\{(\w+)\}", column))
        if not named:
            yield Problem(
                where,
                f"{column!r} is the same column for every cell",
                'write "{column} flag", or how many columns to the right it stands; fields read '
                "what is the same by its name",
            )
        for unknown in sorted(named - groups - {"column"}):
            yield Problem(
                where,
                f"there is no {{{unknown}}} to put in",
                f"known are {', '.join(f'{{{n}}}' for n in ('column', *sorted(groups)))}",
            )


def _source(profile: Profile, _names: Names) -> Iterator[Problem]:
    yield from source_problems(profile)


def _times(profile: Profile, _names: Names) -> Iterator[Problem]:
    yield from time_problems(profile)


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
