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
from datetime import UTC, tzinfo
from functools import lru_cache
from typing import Any, NamedTuple, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from holdfast.collect import paths, periods, values
from holdfast.collect.errors import MappingRefused, ParseFailed
from holdfast.collect.formats.names import check_columns
from holdfast.collect.model import Bounds, Formula, Number, RawRow, ReadContext
from holdfast.collect.occurrences import Occurrences
from holdfast.collect.patterns import bounded_pattern
from holdfast.records.model import MappedRecord, Measure, PeriodValue, Reject, Scalar
from holdfast.registry.model import (
    Field,
    MeasureField,
    Period,
    Profile,
    as_field,
    as_measure,
    cell_paths,
    is_tabular,
)
from holdfast.registry.parts import MARK_SUFFIX, MISSING_SUFFIX
from holdfast.registry.source import FeedFormat, XmlFormat
from holdfast.registry.xpath import leads_out

RowGetter = Callable[[RawRow], Any]
Convert = Callable[[Any], Any]
Mapped = MappedRecord | Reject

EXCERPT_MAX = 200
KEY_CHARACTERS_MAX = 2_000
"""A rejected row with a longer key is one whose key is not told."""
_JOINED_MAX = 64


class _Plan(NamedTuple):
    """One field, compiled."""

    name: str
    get: RowGetter
    convert: Convert
    required: bool


class _MeasurePlan(NamedTuple):
    name: str
    get: RowGetter
    convert: Convert
    required: bool
    unit: str
    unit_get: RowGetter | None
    multiplier: str
    magnitude_get: RowGetter | None


class Mapping:
    """A profile's mapping, compiled once and used for every row of a run.

    Hold one per run: the occurrence numbers of ``key: position`` live here. Raises
    :class:`MappingRefused` at construction for what cannot be carried out.
    """

    def __init__(self, profile: Profile, occurrences: Occurrences | None = None) -> None:
        self.enclosing: tuple[str, ...] = enclosing_paths(profile)
        self._occurrences = occurrences or Occurrences()
        compiler = _Compiler(profile, self.enclosing)
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
                named = unit if unit_get is None else _plain_text(unit_get(row)) or unit
                counts = multiplier if power is None else _power(power(row)) or multiplier
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
    text = (_plain_text(raw) or "")[:EXCERPT_MAX]
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


def _plain_text(raw: Any) -> str | None:
    """A scalar as the text the source wrote; ``ValueError`` for an object or an array."""
    if raw is None:
        return None
    kind = raw.__class__
    if kind is str:
        return raw  # type: ignore[no-any-return]
    if kind is Formula:
        raise ValueError(
            "is a formula, and the file does not hold its result: a spreadsheet that opens and "
            "saves the file puts it there"
        )
    if kind is bool:
        return "true" if raw else "false"
    if isinstance(raw, str | int):
        return str(raw)
    if isinstance(raw, float):
        raise ValueError("came as a binary float, which is not exact")  # noqa: TRY004
    raise ValueError(f"is {'an array' if isinstance(raw, list) else 'an object'}, not one value")


_POWER_MAX = 30


def _power(raw: Any) -> str | None:
    """The power of ten that a source names by its exponent; nothing where it names none."""
    text = (_plain_text(raw) or "").strip()
    if not text:
        return None
    try:
        power = values.integer(text)
    except ValueError:
        power = _POWER_MAX + 1
    if abs(power) > _POWER_MAX:
        raise ValueError(f"{values.printable(text, 60)!r} is not the exponent of a power of ten")
    return values.decimal_text(f"1e{power}")


class _Compiler:
    """Turns the parts of one profile into closures."""

    def __init__(self, profile: Profile, enclosing: Sequence[str]) -> None:
        self._profile = profile
        self._zone = zone_of(profile.timezone)
        inside = cell_paths(profile)
        self._enclosing = {path: index for index, path in enumerate((*enclosing, *inside))}
        self.marked: list[tuple[str, Callable[[RawRow], str]]] = []
        """The fields whose numbers may have marks, and how a row's are found."""
        self._tabular = is_tabular(profile.source.format)
        self._markup = isinstance(profile.source.format, XmlFormat | FeedFormat)
        self.columns: list[str] = []
        """The columns of a table that the profile reads."""

    def plan(self, name: str, field: Field) -> _Plan:
        get, convert = self._field(name, field)
        return _Plan(name, get, convert, field.required)

    def measure(self, name: str, field: MeasureField) -> _MeasurePlan:
        get, convert = self._field(name, field)
        if field.type == "integer":
            convert = _then_text(convert)
        unit_get = self._row_getter(field.unit_path) if field.unit_path else None
        power = self._row_getter(field.magnitude_path) if field.magnitude_path else None
        return _MeasurePlan(
            name, get, convert, field.required, field.unit, unit_get, field.multiplier, power
        )

    def period(self, period: Period) -> Callable[[RawRow], PeriodValue | None]:
        get = self._source_of("period", period.path, period.join, period.separator)
        read = periods.reader(
            period.frequency,
            period.format,
            period.codings,
            self._zone,
            spellings=period.spellings,
            months=period.months,
            year_start=period.year_start,
            ambiguous=self._profile.ambiguous,
        )
        read = lru_cache(maxsize=4096)(read)
        nulls = frozenset(self._profile.nulls)

        def convert(row: RawRow) -> PeriodValue | None:
            text = _plain_text(get(row))
            if text is None or text in nulls:
                return None
            try:
                return read(text)
            except ValueError as error:
                raise ValueError(_why(error, text)) from error

        return convert

    def key(self, fields: Sequence[str]) -> Callable[..., list[Scalar]]:
        """A function from a record's parts to its business key; a missing part is refused."""
        known: dict[str, dict[str, Any]] = {
            "dimensions": self._profile.dimensions,
            "measures": self._profile.measures,
            "attributes": self._profile.attributes,
        }
        plan: list[tuple[int, str]] = []
        for text in fields:
            part, _, name = text.partition(".")
            if text == "period" and self._profile.period:
                plan.append((3, "period"))
            elif part in known and name in known[part]:
                plan.append((list(known).index(part), name))
            else:
                raise MappingRefused(f"cannot use the key {text!r}: the profile has no such field")

        def key(
            dimensions: dict[str, Scalar],
            measures: dict[str, Measure],
            attributes: dict[str, Scalar],
            period: PeriodValue | None,
        ) -> list[Scalar]:
            found: list[Scalar] = []
            for part, name in plan:
                value: Scalar
                if part == 0:
                    value = dimensions[name]
                elif part == 3:
                    value = periods.name(period) if period else None
                else:
                    value = measures[name].value if part == 1 else attributes[name]
                if value is None:
                    raise ValueError(f"has no {name}, which is part of the key")
                found.append(value)
            return found

        return key

    def _field(self, name: str, field: Field) -> tuple[RowGetter, Convert]:
        if field.codes and field.codes not in self._profile.code_lists:
            raise MappingRefused(
                f"cannot map {name}: there is no code list {field.codes!r}",
                hint="`code_lists` holds it, or a file codes/NAME.csv beside the profile",
            )
        if field.constant is not None:
            constant = field.constant
            return (lambda _row: constant), self._converter(field, frozenset())
        get = self._source_of(name, field.path, field.join, field.separator)
        nulls = frozenset(self._profile.nulls if field.nulls is None else field.nulls)
        if field.split:
            get = _part(get, field.split, field.part, nulls)
        convert = self._converter(field, nulls)
        if field.marks:
            marks = sorted(field.marks, key=len, reverse=True)  # of two that fit, the longer one
            convert = _without_marks(convert, marks, nulls)
            self.marked.append((name, _marks_in(get, marks, nulls)))
        return get, convert

    def _source_of(
        self, name: str, path: str | None, join: Sequence[str], separator: str
    ) -> RowGetter:
        """Where the raw value comes from: one path, or several joined to one text."""
        wanted = ([path] if path is not None else []) + list(join)
        if not wanted:
            raise MappingRefused(f"cannot map {name}: it has neither a path nor a constant")
        getters = [self._row_getter(one) for one in wanted]
        if len(getters) == 1 and not join:
            return _listed(getters[0], separator) if separator and name != "period" else getters[0]

        def joined(row: RawRow) -> str | None:
            parts = [_plain_text(get(row)) for get in getters]
            return None if None in parts else separator.join(cast("list[str]", parts))

        return joined

    def _row_getter(self, path: str) -> RowGetter:
        if path in self._enclosing:
            index = self._enclosing[path]
            return lambda row: row.enclosing[index]
        if self._markup:
            from holdfast.collect.formats.xml import namespaces_of, row_getter

            return row_getter(path, namespaces_of(self._profile.source.format))
        if path[0] not in "$@" or (self._tabular and path[1:2] not in {".", "["}):
            if self._tabular and path not in self.columns:
                self.columns.append(path)
            return _column(path)
        plain = paths.singular(path)
        if plain is not None and len(plain) == 1 and isinstance(plain[0], str):
            return _column(plain[0])
        if plain is not None and len(plain) == 2 and all(isinstance(s, str) for s in plain):
            return _member(plain[0], plain[1])
        get = paths.getter(path)
        return lambda row: get(row.value)

    def _converter(self, field: Field, nulls: frozenset[str]) -> Convert:
        before = _reshaper(field, self._profile.code_lists.get(field.codes))
        match field.type:
            case "string":
                return _trimmed(nulls, before) if field.trim else _string(nulls, before)
            case "decimal":
                return _number(nulls, before, field, values.decimal_text)
            case "integer":
                return _integer(nulls, before, field)
            case "boolean":
                return _typed(nulls, before, lambda text: values.boolean(text, field.format))
            case "date":
                return _typed(nulls, before, _date(field, self._zone))
            case "datetime":
                return _typed(nulls, before, _datetime(field, self._zone, self._profile.ambiguous))


@lru_cache(maxsize=64)
def zone_of(name: str) -> tzinfo:
    """The time zone by its IANA name; :class:`MappingRefused` for one that is not known."""
    if name in {"UTC", "Etc/UTC"}:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise MappingRefused(f"cannot use the time zone {name!r}: it is not known") from error


# Getters on the row itself: one call instead of two on the path every record takes.


def _column(name: Any) -> RowGetter:
    def get(row: RawRow) -> Any:
        try:
            return row.value[name]
        except (KeyError, TypeError):
            return None

    return get


def _member(first: Any, second: Any) -> RowGetter:
    def get(row: RawRow) -> Any:
        try:
            return row.value[first][second]
        except (KeyError, TypeError):
            return None

    return get


def _listed(get: RowGetter, separator: str) -> RowGetter:
    """An array of scalars becomes one text; anything else stays what it is."""

    def joined(row: RawRow) -> Any:
        raw = get(row)
        if not isinstance(raw, list):
            return raw
        return separator.join(_plain_text(item) or "" for item in raw) if raw else None

    return joined


def _reshaper(field: Field, codes: dict[str, str] | None) -> Callable[[str], str | None] | None:
    """Pad and look up, in that order; ``None`` where the field asks for neither."""
    if not field.pad and codes is None:
        return None
    pad = field.pad

    def reshape(text: str) -> str | None:
        if pad:
            text = text.rjust(pad, "0")
        return text if codes is None else _coded(text.strip(), codes, field.codes)

    return reshape


def _part(get: RowGetter, split: str, part: int, nulls: frozenset[str]) -> RowGetter:
    """One part of what ``get`` finds; nothing where there are fewer.

    A text that as a whole is a spelling of "missing" (``n/a``) is not taken apart.
    """

    def found(row: RawRow) -> str | None:
        text = _plain_text(get(row))
        if text is None or text.strip() in nulls:
            return text
        parts = text.split(split)
        return parts[part] if -len(parts) <= part < len(parts) else None

    return found


OTHERS = "*"
"""The entry of a code list that stands for every code it does not have."""


def _coded(text: str, codes: dict[str, str], name: str) -> str | None:
    """What the code stands for; an empty entry is no value."""
    found = codes.get(text)
    if found is None:
        found = codes.get(OTHERS)
        if found is None:
            raise ValueError(f"is not in the code list {name}: {values.printable(text, 60)!r}")
    return found or None


def _string(nulls: frozenset[str], before: Callable[[str], str | None] | None) -> Convert:
    def convert(raw: Any) -> str | None:
        if raw.__class__ is not str:
            if raw is None:
                return None
            raw = _plain_text(raw)
        if raw in nulls:
            return None
        return before(raw) if before is not None else raw

    return convert


def _trimmed(nulls: frozenset[str], before: Callable[[str], str | None] | None) -> Convert:
    """A converter to text without the blanks around it."""
    plain = _string(nulls, before)

    def convert(raw: Any) -> str | None:
        text = _plain_text(raw)
        if text is None or text in nulls:
            return None
        found: str | None = plain(text.strip())
        return found

    return convert


def _typed(
    nulls: frozenset[str],
    before: Callable[[str], str | None] | None,
    convert_text: Callable[[str], Any],
) -> Convert:
    """A converter that reads text; blanks around a value that is not text do not count."""

    def convert(raw: Any) -> Any:
        if raw is None:
            return None
        text: str = raw if raw.__class__ is str else _plain_text(raw)  # type: ignore[assignment]
        if text in nulls or ((text := text.strip()) in nulls):
            return None
        if before is not None:
            reshaped = before(text)
            if reshaped is None:
                return None
            text = reshaped
        try:
            return convert_text(text)
        except ValueError as error:
            raise ValueError(_why(error, text)) from error

    return convert


def _why(error: Exception, text: str) -> str:
    """Our own refusals begin with a verb; a library's are told as what they mean."""
    reason = str(error)
    ours = reason.startswith(("is ", "has ", "came ", "does "))
    said = reason if ours else "is not a date or time of this format"
    return f"{values.printable(text, 60)!r} {said}"


def _integer(
    nulls: frozenset[str], before: Callable[[str], str | None] | None, field: Field
) -> Convert:
    slow = _number(nulls, before, field, values.integer)
    if before is not None:
        return slow

    def convert(raw: Any) -> int | None:
        if raw.__class__ is int and -(2**53) < raw < 2**53 and str(raw) not in nulls:
            return raw
        found: int | None = slow(raw)
        return found

    return convert


def _number(
    nulls: frozenset[str],
    before: Callable[[str], str | None] | None,
    field: Field,
    read: Callable[[str], Any],
) -> Convert:
    """A converter to numbers, by ``read``; a text has the separators that the profile says.

    A number of the source's own (of JSON, of a cell) has those of its format: 1.234 there is
    never the 1234 that it would be as a text with ``.`` between thousands.
    """
    plain = _typed(nulls, before, read)
    thousands, point, negative = field.thousands, field.decimal, field.negative
    if not thousands and point == "." and negative == "minus":
        return plain

    def local(text: str) -> Any:
        if negative != "minus":
            text = values.below_zero(text, negative)
        return read(values.localised(text, thousands, point))

    written = _typed(nulls, before, local)
    return lambda raw: (written if raw.__class__ is str else plain)(raw)


def _is_marked(raw: Any, nulls: frozenset[str]) -> bool:
    """Whether marks are looked for: in a text that is no spelling of "missing" as a whole."""
    return raw.__class__ is str and raw not in nulls and raw.strip() not in nulls


def _without_marks(convert: Convert, marks: Sequence[str], nulls: frozenset[str]) -> Convert:
    def unmarked(raw: Any) -> Any:
        return convert(values.unmarked(raw, marks)[0] if _is_marked(raw, nulls) else raw)

    return unmarked


def _marks_in(
    get: RowGetter, marks: Sequence[str], nulls: frozenset[str]
) -> Callable[[RawRow], str]:
    def found(row: RawRow) -> str:
        raw = get(row)
        return " ".join(values.unmarked(raw, marks)[1]) if _is_marked(raw, nulls) else ""

    return found


def _then_text(convert: Convert) -> Convert:
    def as_text(raw: Any) -> str | None:
        value = convert(raw)
        return None if value is None else str(value)

    return as_text


# Sources repeat their dates, and reading one by a pattern costs microseconds: equal text is read
# once.


def _date(field: Field, zone: tzinfo) -> Callable[[str], str]:
    return lru_cache(maxsize=8192)(lambda text: values.day(text, field.format, zone).isoformat())


def _datetime(field: Field, zone: tzinfo, ambiguous: str) -> Callable[[str], str]:
    return lru_cache(maxsize=8192)(
        lambda text: values.moment_text(values.local_moment(text, field.format, zone, ambiguous))
    )
