"""A profile's fields, compiled: how each is found in a row, and made a value. Pure.

A profile's words become closures once, for every row of a run: a getter, which finds what the
source wrote, and a converter, which makes the value of it or says why it is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, tzinfo
from functools import lru_cache
from typing import Any, NamedTuple, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from holdfast.collect import paths, periods, values
from holdfast.collect.errors import MappingRefused
from holdfast.collect.model import Formula, RawRow
from holdfast.records.model import Measure, PeriodValue, Scalar
from holdfast.registry.model import (
    Field,
    MeasureField,
    Period,
    Profile,
    cell_paths,
    is_tabular,
)
from holdfast.registry.source import FeedFormat, XmlFormat

RowGetter = Callable[[RawRow], Any]
Convert = Callable[[Any], Any]


class FieldReader(NamedTuple):
    """One field, compiled."""

    name: str
    get: RowGetter
    convert: Convert
    required: bool


class MeasureReader(NamedTuple):
    name: str
    get: RowGetter
    convert: Convert
    required: bool
    unit: str
    unit_get: RowGetter | None
    multiplier: str
    magnitude_get: RowGetter | None


def plain_text(raw: Any) -> str | None:
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


def power_text(raw: Any) -> str | None:
    """The power of ten that a source names by its exponent; nothing where it names none."""
    text = (plain_text(raw) or "").strip()
    if not text:
        return None
    try:
        power = values.integer(text)
    except ValueError:
        power = _POWER_MAX + 1
    if abs(power) > _POWER_MAX:
        raise ValueError(f"{values.printable(text, 60)!r} is not the exponent of a power of ten")
    return values.decimal_text(f"1e{power}")


class FieldCompiler:
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

    def plan(self, name: str, field: Field) -> FieldReader:
        get, convert = self._field(name, field)
        return FieldReader(name, get, convert, field.required)

    def measure(self, name: str, field: MeasureField) -> MeasureReader:
        get, convert = self._field(name, field)
        if field.type == "integer":
            convert = _then_text(convert)
        unit_get = self._row_getter(field.unit_path) if field.unit_path else None
        power = self._row_getter(field.magnitude_path) if field.magnitude_path else None
        return MeasureReader(
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
            text = plain_text(get(row))
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
            parts = [plain_text(get(row)) for get in getters]
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
        return separator.join(plain_text(item) or "" for item in raw) if raw else None

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
        text = plain_text(get(row))
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
            raw = plain_text(raw)
        if raw in nulls:
            return None
        return before(raw) if before is not None else raw

    return convert


def _trimmed(nulls: frozenset[str], before: Callable[[str], str | None] | None) -> Convert:
    """A converter to text without the blanks around it."""
    plain = _string(nulls, before)

    def convert(raw: Any) -> str | None:
        text = plain_text(raw)
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
        text: str = raw if raw.__class__ is str else plain_text(raw)  # type: ignore[assignment]
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
