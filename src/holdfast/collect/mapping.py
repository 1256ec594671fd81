"""From a row of the source to a record, as the profile says. Pure.

The same row under the same profile gives the same record, byte for byte, on every drone. A row
that fails is one :class:`Reject` naming the first field that does not hold; it never fails its
neighbours.

A value that the source wrote as one of its spellings of "missing" (``:``, ``n/a``, ``-9999``) is
null, and the spelling is kept in the attribute ``<field>_missing``. An absent member, a JSON null
and an empty text leave no such attribute: nothing was spelled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, cast

import msgspec

from holdfast.collect import periods, values
from holdfast.collect.errors import ParseFailed
from holdfast.collect.formats.names import check_columns
from holdfast.collect.mapping_fields import (
    Convert,
    FieldCompiler,
    RowGetter,
    plain_text,
    power_text,
)
from holdfast.collect.model import Bounds, Number, RawRow, ReadContext
from holdfast.collect.occurrences import Occurrences
from holdfast.collect.patterns import bounded_pattern
from holdfast.records.model import MappedRecord, Measure, PeriodValue, Reject, Scalar
from holdfast.registry.model import (
    Field,
    Profile,
    as_field,
    as_measure,
    cell_paths,
    is_tabular,
)
from holdfast.registry.parts import MARK_SUFFIX, MISSING_SUFFIX
from holdfast.registry.source import FeedFormat, XmlFormat
from holdfast.registry.xpath import leads_out

Mapped = MappedRecord | Reject

EXCERPT_MAX = 200
KEY_CHARACTERS_MAX = 2_000
"""A rejected row with a longer key is one whose key is not told."""


class Mapping:
    """A profile's mapping, compiled once and used for every row of a run.

    Hold one per run: the occurrence numbers of ``key: position`` live here. Raises
    :class:`MappingRefused` at construction for what cannot be carried out.
    """

    def __init__(self, profile: Profile, occurrences: Occurrences | None = None) -> None:
        self.enclosing: tuple[str, ...] = enclosing_paths(profile)
        self._occurrences = occurrences or Occurrences()
        compiler = FieldCompiler(profile, self.enclosing)
        self._dimensions = [compiler.plan(n, as_field(f)) for n, f in profile.dimensions.items()]
        self._attributes = [compiler.plan(n, as_field(f)) for n, f in profile.attributes.items()]
        self._measures = [compiler.measure(n, as_measure(f)) for n, f in profile.measures.items()]
        self._period = compiler.period(profile.period) if profile.period else None
        self._unpivot = _Unpivoting(profile) if profile.unpivot else None
        self._marked = compiler.marked
        self._key = None if profile.key == "position" else compiler.key(profile.key)
        self._key_parts = () if profile.key == "position" else self._parts(profile.key)
        self._columns = compiler.columns
        self._name = profile.name
        self._paged = profile.source.pagination is not None
        self._unchecked = True

    def context(self, bounds: Bounds) -> ReadContext:
        """What the format is told that reads the rows for this mapping."""
        return ReadContext(bounds, self.enclosing, tuple(self._columns), paged=self._paged)

    def map(self, row: RawRow, response: int) -> Iterable[Mapped]:
        """The records of ``row``, each or the reject that says which field failed and why.

        One row is one record, but for a profile with ``unpivot``. Raises :class:`ParseFailed` at
        the first row of a table that lacks a column of the profile: a column that was renamed
        would otherwise be missing from every record, in silence.
        """
        if self._columns and (row.position < 2 or self._unchecked) and type(row.value) is dict:
            check_columns(self._columns, row.value)
            self._unchecked = False
        if self._unpivot is None or row.problem:
            return (self._one(row, response),)
        return [self._one(cell, response) for cell in self._unpivot.cells(row)]

    def _one(self, row: RawRow, response: int) -> Mapped:
        name = ""
        try:
            if row.problem:
                raise ValueError(row.problem)
            spelled: dict[str, str] | None = None
            dimensions: dict[str, Scalar] = {}
            for name, get, convert, required in self._dimensions:
                raw = get(row)
                dimensions[name] = value = convert(raw)
                if value is None and (required or (raw is not None and raw != "")):
                    spelled = _missing(spelled, name, raw, required)
            measures: dict[str, Measure] = {}
            for name, get, convert, required, unit, unit_get, multiplier, power in self._measures:
                raw = get(row)
                value = convert(raw)
                if value is None and (required or (raw is not None and raw != "")):
                    spelled = _missing(spelled, name, raw, required)
                named = unit if unit_get is None else plain_text(unit_get(row)) or unit
                counts = multiplier if power is None else power_text(power(row)) or multiplier
                measures[name] = Measure(value=value, unit=named, multiplier=counts)
            attributes: dict[str, Scalar] = {}
            for name, get, convert, required in self._attributes:
                raw = get(row)
                attributes[name] = value = convert(raw)
                if value is None and (required or (raw is not None and raw != "")):
                    spelled = _missing(spelled, name, raw, required)
            period = None
            if self._period is not None:
                name = "period"
                period = self._period(row)
            if spelled:
                for name, text in spelled.items():
                    attributes.setdefault(name + MISSING_SUFFIX, text)
            for name, marks_in in self._marked:
                if text := marks_in(row):
                    attributes[name + MARK_SUFFIX] = text
            name = "key"
            parts = (dimensions, measures, attributes, period)
            key = self._position_key(*parts) if self._key is None else self._key(*parts)
        except (ValueError, ArithmeticError) as error:
            return _reject(row, response, name, error, self._told_key(row))
        except Exception as error:  # a defect of ours: whoever reads of it wants to see the row
            error.add_note(f"in row {row.position} of the profile {self._name}, at {name or 'it'}")
            raise
        return MappedRecord(
            response=response,
            position=row.position,
            key=key,
            dimensions=dimensions,
            measures=measures,
            attributes=attributes,
            period=period,
        )

    def _parts(self, fields: Sequence[str]) -> tuple[Callable[[RawRow], Scalar], ...]:
        """What reads each part of the key from a row, whatever the other fields hold."""
        getters: dict[str, Callable[[RawRow], Scalar]] = {}
        for group, plans in (
            ("dimensions", self._dimensions),
            ("measures", self._measures),
            ("attributes", self._attributes),
        ):
            for plan in plans:
                getters[f"{group}.{plan.name}"] = _converted(plan.get, plan.convert)
        if (period_of := self._period) is not None:
            getters["period"] = _named_period(period_of)
        return tuple(getters[name] for name in fields)

    def _told_key(self, row: RawRow) -> list[Scalar] | None:
        """The key of a row that fails: empty if it names no record, ``None`` if nobody can tell.

        Where the key is a row's content, one that cannot be read is none of those that were.
        """
        if self._key is None:
            return []
        if row.problem:
            return None
        try:
            found = [part(row) for part in self._key_parts]
        except (ValueError, ArithmeticError):
            return None
        if None in found:
            return []
        told = sum(len(part) for part in found if isinstance(part, str)) <= KEY_CHARACTERS_MAX
        return found if told else None

    def _position_key(
        self,
        dimensions: dict[str, Scalar],
        measures: dict[str, Measure],
        attributes: dict[str, Scalar],
        period: PeriodValue | None,
    ) -> list[Scalar]:
        content = _encode_sorted((dimensions, measures, attributes, period))
        found = hashlib.sha256(content)
        return [f"sha256:{found.hexdigest()}", self._occurrences.number(found.digest()[:16])]


_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def enclosing_paths(profile: Profile) -> tuple[str, ...]:
    """The paths of a profile that lead out of the record, each once, in the order of first use.

    They are those with ``$$`` and ``#``, and in XML those to ancestors and from the root.
    """
    found: list[str | None] = []
    for group in (profile.dimensions, profile.measures, profile.attributes):
        for entry in cast("dict[str, Field | str]", group).values():
            field = as_field(entry)
            found += [field.path, *field.join, field.unit_path, field.magnitude_path]
    if profile.period:
        found += [profile.period.path, *profile.period.join]
    if isinstance(profile.source.format, XmlFormat | FeedFormat):
        return tuple(dict.fromkeys(path for path in found if path and leads_out(path)))
    cells = cell_paths(profile)
    beside = ("$$",) if is_tabular(profile.source.format) else ("$$", "#")
    return tuple(dict.fromkeys(p for p in found if p and p.startswith(beside) and p not in cells))


class _Unpivoting:
    """Turns a wide row into one row for each column that matches; position and rest are shared."""

    def __init__(self, profile: Profile) -> None:
        assert profile.unpivot is not None
        self._matches = lru_cache(maxsize=4096)(bounded_pattern(profile.unpivot.columns).fullmatch)
        self._nulls = frozenset(profile.nulls) if profile.unpivot.skip_nulls else None
        self._beside = tuple(profile.unpivot.beside.values())
        self._tabular = is_tabular(profile.source.format)

    def cells(self, row: RawRow) -> Iterator[RawRow]:
        if not isinstance(row.value, dict):
            yield RawRow(row.position, row.value, problem="is not a row of named columns")
            return
        names = list(row.value)
        for at, (column, cell) in enumerate(row.value.items()):
            match = self._matches(column)
            if match is None:
                continue
            beside = [
                self._named(row.value, column, match, where)
                if isinstance(where, str)
                else row.value[self._next_to(names, at, where)]
                for where in self._beside
            ]
            if self._skipped(cell) and all(map(self._skipped, beside)):
                continue
            groups = match.groupdict().values()
            yield RawRow(row.position, row.value, (*row.enclosing, column, cell, *groups, *beside))

    def _named(self, value: dict[str, Any], column: str, match: re.Match[str], where: str) -> Any:
        """What stands in the column that belongs to a cell by its name."""
        parts = {"column": column, **match.groupdict("")}
        name = _PLACE.sub(lambda place: parts[place[1]], where)
        if self._tabular and name not in value:
            check_columns((name,), value)
        return value.get(name)

    def _next_to(self, names: Sequence[str], at: int, where: int) -> str:
        """The column that belongs to a cell by its place."""
        other = at + where
        if not 0 <= other < len(names) or self._matches(names[other]) is not None:
            raise ParseFailed(
                f"cannot read the table: the column {abs(where)} to the "
                f"{'right' if where > 0 else 'left'} of {names[at]!r} is "
                + (f"{names[other]!r}, a value itself" if 0 <= other < len(names) else "not there"),
                hint="`unpivot.beside` says where the columns are that belong to a value",
            )
        return names[other]

    def _skipped(self, cell: Any) -> bool:
        if self._nulls is None:
            return False
        return cell is None or (isinstance(cell, str | int) and str(cell).strip() in self._nulls)


_PLACE = re.compile(r"\{(\w+)\}")


def _missing(
    spelled: dict[str, str] | None, name: str, raw: Any, required: bool
) -> dict[str, str] | None:
    """Note how the source spelled a missing value; refuse where one is required."""
    if required:
        raise ValueError("is missing and required")
    text = (plain_text(raw) or "")[:EXCERPT_MAX]
    if not text.strip():
        return spelled
    return {**(spelled or {}), name: text}


def _converted(get: RowGetter, convert: Convert) -> Callable[[RawRow], Scalar]:
    return lambda row: cast("Scalar", convert(get(row)))


def _named_period(period_of: Callable[[RawRow], PeriodValue | None]) -> Callable[[RawRow], Scalar]:
    def named(row: RawRow) -> str | None:
        period = period_of(row)
        return None if period is None else periods.name(period)

    return named


def _reject(
    row: RawRow, response: int, name: str, error: Exception, key: list[Scalar] | None
) -> Reject:
    reason = str(error) or type(error).__name__
    return Reject(
        response=response,
        position=row.position,
        field=name,
        reason=values.printable(reason, EXCERPT_MAX),
        excerpt=excerpt(row.value),
        key=key,
    )


def excerpt(value: Any) -> str:
    """The beginning of a raw value, at most 200 characters, for people to read."""
    if not isinstance(value, dict | list):
        return values.printable("" if value is None else str(value), EXCERPT_MAX)
    parts: list[str] = []
    size = 0
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for name, member in members:
        text = member if isinstance(member, str) else _written(member)
        parts.append(f"{name}={text[:EXCERPT_MAX]}" if isinstance(value, dict) else text)
        size += len(parts[-1]) + 1
        if size > EXCERPT_MAX:
            break
    return values.printable(" ".join(parts), EXCERPT_MAX)


def _written(value: Any) -> str:
    """The beginning of a value that is no text, as JSON writes it."""
    parts: list[str] = []
    size = 0
    for part in _json_parts(value):
        parts.append(part)
        size += len(part)
        if size > EXCERPT_MAX:
            break
    return "".join(parts)


def _json_parts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for index, (name, member) in enumerate(value.items()):
            yield f"{', ' if index else ''}{json.dumps(name, ensure_ascii=False)}: "
            yield from _json_parts(member)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for index, member in enumerate(value):
            if index:
                yield ", "
            yield from _json_parts(member)
        yield "]"
    elif isinstance(value, Number):
        yield value
    elif isinstance(value, str):
        yield json.dumps(value[: EXCERPT_MAX + 1], ensure_ascii=False)
    else:
        yield json.dumps(value, default=str)
