"""The first draft of a profile, from what a source sends. A guess for people to correct.

It is checked before it is shown: the page is mapped with it, and a field that would be rejected is
written as text instead. So a draft can be previewed as it is. What a page does not say (who
publishes it, under which terms) has a placeholder, with which nothing is published.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import msgspec

from holdfast.collect.content import SpooledContent
from holdfast.collect.draft_names import bare_letters, last_name, slug
from holdfast.collect.draft_numbers import (
    STYLES,
    in_two_ways,
    is_number,
    number_style,
    point_of,
)
from holdfast.collect.draft_time import SPAN, TIME, as_period, days_of, period_of
from holdfast.collect.errors import ParseFailed
from holdfast.collect.formats import reader_of
from holdfast.collect.formats.names import JOINT
from holdfast.collect.formats.xml import namespaces_of
from holdfast.collect.infer import (
    NULL_SPELLINGS,
    InferredField,
    cells_of,
    fields_of,
    infer,
    texts_of,
    written_of,
)
from holdfast.collect.mapping import Mapping
from holdfast.collect.model import Bounds, Formula, Number, RawRow, ReadContext
from holdfast.collect.odd import first_text, is_stamp, nearly_numbers, odd_rows, shown, skipping
from holdfast.collect.recognise import ROWS_LOOKED_AT, Plain, Recognised, recognise
from holdfast.collect.several import more_pages
from holdfast.collect.values import printable
from holdfast.records.model import MappedRecord, Reject
from holdfast.registry.document import write_document
from holdfast.registry.model import Profile, is_tabular
from holdfast.registry.placeholders import LICENCE, PUBLISHER
from holdfast.registry.source import Format

_FIELDS_MAX = 60
_CODE = re.compile(
    r"(^|[^a-z])(id|ids|code|fips|zip|zipcode|postcode|guid|key|number|nr|no|num|cik|isbn|geoid|uuid|"
    r"objectid|fid|gid|oid|codigo)"
    r"([^a-z]|$)", re.I,
)  # fmt: skip
_NOTE = 400
_MARKED = re.compile(
    r"(?P<before>[$€£¥])?\s*(?P<number>[-+]?[\d.,' \u00a0]*\d)"
    r"\s*(?P<after>[A-Za-z]{1,2}|[*†‡¹²³]{1,3}|\[[A-Za-z]{1,3}\])?"
)
_MARKED_MAX = 64
"""No number with a mark is longer, and the time of the pattern grows faster than the text."""
_VALUES = frozenset({"obs_value", "value", "data_value"})
_MAGNITUDES = frozenset({"unit_mult", "scalar_id"})


@dataclass(slots=True)
class Draft:
    """A profile's document, what the page gave under it, and what a person should look at."""

    text: str
    records: int
    rows: int
    notes: list[str] = field(default_factory=list)


def draft(
    path: Path,
    *,
    name: str,
    url: str,
    charset: str = "",
    kind: str = "",
    records: str = "",
    sheet: str = "",
    header_row: int = 0,
    link: str = "",
) -> Draft:
    """A profile of the source whose page is the file at ``path``.

    ``link`` is the header of that name that came with it.

    ``kind`` and ``records`` say what a person already knows: the format's type and where its
    records are; ``sheet`` and ``header_row`` say it of a workbook. Raises :class:`ParseFailed` for
    what no profile can read.
    """
    found = recognise(
        path, charset=charset, kind=kind, records=records, sheet=sheet, header_row=header_row
    )
    pagination, several = more_pages(found.document, found.count, url, link)
    found.notes += several
    if pagination is not None:
        found.source["pagination"] = pagination
    form = msgspec.convert(found.form, Format)
    content = SpooledContent(path, Bounds(), "auto", found.source.get("member", ""), charset)
    rows = _rows(content, form)
    _say_ragged(found, content, form, len(rows))
    if not rows:
        raise ParseFailed("cannot write a profile: no record was found", hint=_nothing_found(form))
    skipped, rejected, labels = _odd(found, rows, form)
    if skipped:
        form = msgspec.convert(found.form, Format)
        rows = _rows(content, form)
    elif rejected:
        rows = [row for row in rows if row.position not in rejected]
    if (filled := _merged(rows)) and form.__struct_config__.tag in {"csv", "xlsx", "ods"}:
        found.form["fill_down"] = filled
        found.notes.append(
            f"Empty cells of {', '.join(filled)} have what stands above them (`fill_down`)."
        )
        form = msgspec.convert(found.form, Format)
        rows = _rows(content, form)
    wide = _wide(rows) if is_tabular(form) else None
    looked_at = _without(_with_results(found, rows), wide.used if wide else [])
    fields = [f for f in fields_of(looked_at, form) if _can_be_named(f.path, form)][:_FIELDS_MAX]
    plan = _Plan(
        fields,
        texts_of(looked_at, form),
        len(rows),
        found.around,
        labels,
        written=written_of(looked_at, form),
        delimiter=getattr(form, "delimiter", ""),
    )
    plan.apart = rejected
    if wide:
        plan.unpivot(wide, rows[:500])
    head: Plain = {"version": 1, "name": name, "publisher": "unknown", "licence": "unknown"}
    source: Plain = {"url": url, **found.source}
    if plan.period is None and found.around:
        plan.time_around(_mapped(plan, head, source, content)[0])
    mapped = _settled(plan, head, source, content)
    if plan.period is None:
        plan.notes.append("No time was found: add `period` if the records speak of one.")
    # A note may repeat a name that the source sent, and stands in the document as a comment.
    notes = [printable(note, _NOTE) for note in (*found.notes, *plan.notes)]
    return Draft(
        _written(name, url, found.source, plan, notes, len(mapped)), len(mapped), len(rows), notes
    )


def _odd(
    found: Recognised, rows: list[RawRow], form: Any
) -> tuple[bool, frozenset[int], dict[str, str]]:
    """Leave out of the draft the rows that are none, and say which.

    (whether the format now skips them, positions of those that it cannot skip, what a list's first
    object calls the members of the others).
    """
    cells = [cells_of(row, form) for row in rows] if len(rows) < ROWS_LOOKED_AT else []
    seen = odd_rows(cells)
    kind = form.__struct_config__.tag
    timeless = [
        index
        for index in seen.totals
        if index not in seen.rows
        and kind in {"csv", "xlsx", "ods"}
        and _in_place_of_time(cells, index)
    ]
    if not skipping(cells, timeless) or (seen.rows and not skipping(cells, seen.rows)):
        timeless = []
    for index in seen.totals:
        if index in timeless:
            found.notes.append(
                "A row seems to be a total, and has a word in the place of a time: "
                f"{shown(cells[index])}. It is skipped (`skip_rows`)."
            )
        elif index not in seen.rows:
            found.notes.append(
                f"A row seems to be a total: {shown(cells[index])}. It is a record like the others "
                "unless `skip_rows` names it."
            )
    # Remarks follow the rows of a table. A list of objects may begin with their names.
    odd = seen.rows if kind in {"csv", "xlsx", "ods"} else seen.before
    if timeless:
        found.form["skip_rows"] = [*found.form.get("skip_rows", []), *skipping(cells, timeless)]
    if not odd:
        return bool(timeless), frozenset(), {}
    labels = {} if kind in {"csv", "xlsx", "ods"} else cells[odd[0]]
    told = "; ".join(dict.fromkeys(shown(cells[index]) for index in odd))
    skipped = skipping(cells, odd) if kind in {"csv", "xlsx", "ods", "json", "ndjson"} else []
    if skipped:
        found.form["skip_rows"] = [*found.form.get("skip_rows", []), *skipped]
        found.notes.append(
            f"Rows that seem to be names, units or remarks are skipped (`skip_rows`): {told}."
        )
        return True, frozenset(), labels
    found.notes.append(
        f"Rows that seem to be names, units or remarks cannot be skipped here: {told}. Each is a "
        "reject in every run, which `max_rejects` allows."
    )
    return False, frozenset(rows[index].position for index in odd), labels


def _in_place_of_time(cells: list[dict[str, str]], index: int) -> bool:
    """Whether a row has its first word where all others, of the column, have a time."""
    name, _ = first_text(cells[index], list(cells[index]))
    texts = {row.get(name, "") for place, row in enumerate(cells) if place != index}
    [looked_at] = infer([{name: text} for text in texts], tabular=True)
    told = sorted(texts - NULL_SPELLINGS)
    return len(told) > 2 and as_period(looked_at, told) is not None


def _nothing_found(form: Any) -> str:
    """What to try where a page was read and no record came of it."""
    kind = form.__struct_config__.tag
    read = f"it was read as {kind}"
    match kind:
        case "xlsx" | "ods":
            where = "is the table further down, or on another sheet?"
            return f"{read}; {where} --sheet names the sheet, --header-row the header's row"
        case "csv":
            where = "is the header further down? Say so with"
            return f"{read}; {where} `header_starts` or `skip_lines` in source.format"
        case "json" | "ndjson" | "xml":
            return f"{read}; --records says where the records are, --format what else it is"
        case _:
            return f"{read}; --format says what else it is"


def _say_ragged(found: Recognised, content: SpooledContent, form: Any, good: int) -> None:
    """Rows that can be no records are left out of a draft, and must not be so in silence."""
    bad = sum(1 for row in _read(content, form) if row.problem)
    if not bad:
        return
    found.notes.append(
        f"{bad} of {bad + good} rows have more or fewer cells than the header: each is a reject in "
        "every run. `delimiter`, `quote` and `ragged` say how a row is cut"
        + (
            "; columns at fixed places, with blanks in a cell, are none of a csv."
            if getattr(form, "delimiter", "") == " "
            else "."
        )
    )


def _rows(content: SpooledContent, form: Any, around: Sequence[str] = ()) -> list[RawRow]:
    return [row for row in _read(content, form, around) if not row.problem]


def _read(content: SpooledContent, form: Any, around: Sequence[str] = ()) -> list[RawRow]:
    context = ReadContext(enclosing=tuple(around), numbered=True)
    found: list[RawRow] = []
    try:
        found += islice(reader_of(form)(content, form, context), ROWS_LOOKED_AT)
    except ParseFailed:
        if not found:
            raise
    return found


def _merged(rows: list[RawRow]) -> list[str]:
    """The first columns, where what they say is written once for the rows below it."""
    columns = list(rows[0].value) if isinstance(rows[0].value, dict) else []
    found: list[str] = []
    begins = [0]
    for column in columns[:-1]:
        cells = [str(row.value.get(column) or "").strip() for row in rows]
        given = [index for index, cell in enumerate(cells) if cell]
        names = [cells[index] for index in given]
        if not 2 <= len(given) <= 0.75 * len(rows) or not set(begins) <= set(given):
            break
        if any(is_number(name, "", ".") and not _WHOLE_YEAR.fullmatch(name) for name in names):
            break
        if not found and len(set(names)) != len(names):
            break
        found.append(column)
        begins = given
    return found


_WHOLE_YEAR = re.compile(r"(?:1[5-9]|20|21)[0-9]{2}")


@dataclass(frozen=True, slots=True)
class _Wide:
    """The columns of a wide table, one a period (or one a period and group)."""

    columns: list[str]
    pattern: str
    period: Plain
    group: str = ""
    beside: str | int = 0
    flags: tuple[str, ...] = ()

    @property
    def used(self) -> list[str]:
        return [*self.columns, *self.flags]


_YEARS = "(?:1[5-9]|20|21)[0-9]{2}"
_MONTH_NAMES = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
_PERIOD_COLUMNS = (
    _YEARS,
    rf"{_YEARS}[-/ ]?[MQSHW]?[0-9]{{1,2}}",
    rf"{_YEARS}-[0-9]{{2}}-[0-9]{{2}}",
    rf"Q[1-4][ /-]?{_YEARS}",
    rf"{_MONTH_NAMES}[ -]{_YEARS}",
    rf"{_MONTH_NAMES}[ -][0-9]{{2}}",
)


def _wide(rows: list[RawRow]) -> _Wide | None:
    """What is spread over the columns, where at least four are called after periods."""
    columns = list(rows[0].value) if isinstance(rows[0].value, dict) else []
    worldbank = [c for c in columns if re.fullmatch(rf"{_YEARS}\s*\[?YR[0-9]{{4}}\]?", c)]
    if len(worldbank) >= 4:
        coded = {"path": "#column", "frequency": "A", "codings": {"(?P<year>[0-9]{4}).*": "A"}}
        return _Wide(worldbank, "[0-9]{4}.*", coded)
    for times in _PERIOD_COLUMNS:
        found = [column for column in columns if re.fullmatch(times, column)]
        if len(found) >= 4 and (period := _period_of("#column", found)):
            written = times.replace(_YEARS, "[0-9]{4}")
            return _with_flags(_Wide(found, written, period), columns)
        for order in (("(?P<time>{})", "(?P<group>.+)"), ("(?P<group>.+)", "(?P<time>{})")):
            pattern = re.escape(JOINT).replace("\\ ", " ").join(order).format(times)
            matches = [match for c in columns if (match := re.fullmatch(pattern, c))]
            period = _period_of("#time", sorted({match["time"] for match in matches}))
            if len(matches) >= 4 and period:
                written = pattern.replace(_YEARS, "[0-9]{4}")
                return _Wide([match[0] for match in matches], written, period, "#group")
    return None


def _period_of(path: str, names: list[str]) -> Plain | None:
    """The period that columns are called after."""
    fields = infer([{"period": name} for name in names], tabular=True)
    guess = as_period(fields[0], names) if fields else None
    return {**guess, "path": path} if guess else None


def _with_flags(wide: _Wide, columns: list[str]) -> _Wide:
    """Where each column has one of its own to the right, that is its flag."""
    after = [columns[columns.index(c) + 1 : columns.index(c) + 2] for c in wide.columns]
    flags = tuple(name for names in after for name in names if name not in wide.columns)
    if len(flags) != len(wide.columns) or len(set(flags)) != len(flags):
        return wide
    spelled = {
        flag.replace(column, "{column}") for column, flag in zip(wide.columns, flags, strict=True)
    }
    alike = len(spelled) == 1 and "{column}" in next(iter(spelled))
    numbered = {re.sub(r"_?[0-9]+$", "", flag) for flag in flags}
    if not alike and len(numbered) != 1:
        return wide
    return replace(wide, beside=next(iter(spelled)) if alike else 1, flags=flags)


def _can_be_named(path: str, form: Any) -> bool:
    """Whether the prefixes of a path of XML are among those of the format: it has the first 30."""
    if form.__struct_config__.tag not in {"xml", "feed"}:
        return True
    return set(re.findall(r"(?:^|[/@])([^/@:\[]+):", path)) <= {*namespaces_of(form)}


def _with_results(found: Recognised, rows: list[RawRow]) -> list[RawRow]:
    """The rows without the columns in which a formula stands whose result the file does not hold.

    Raises :class:`ParseFailed` if no column is left.
    """
    tables = [row.value for row in rows if isinstance(row.value, dict)]
    cells = (cell for table in tables for cell in table.items())
    bare = list(dict.fromkeys(name for name, value in cells if type(value) is Formula))
    if not bare:
        return rows
    if len(bare) == len(tables[0]):
        raise ParseFailed(
            "cannot write a profile: each column holds formulas without their results",
            hint="a spreadsheet puts them there that opens and saves the file",
        )
    found.notes.append(
        f"{', '.join(bare)} is left out: cells there hold formulas without their results, which a "
        "spreadsheet puts there that opens and saves the file."
    )
    return _without(rows, bare)


def _without(rows: list[RawRow], columns: list[str]) -> list[RawRow]:
    if not columns:
        return rows
    hidden = frozenset(columns)
    return [
        msgspec.structs.replace(row, value={k: v for k, v in row.value.items() if k not in hidden})
        for row in rows
    ]


# --- what each field seems to be ------------------------------------------------------------------


class _Plan:
    """The groups, the period and the key that a draft gives a source's fields."""

    def __init__(
        self,
        fields: list[InferredField],
        texts: dict[str, list[str]],
        rows: int,
        around: list[str],
        labels: dict[str, str],
        *,
        written: frozenset[str],
        delimiter: str,
    ) -> None:
        self.labels = labels
        """What a row of names calls the fields, by their paths."""
        self.notes: list[str] = []
        self.nulls: list[str] = [""]
        self.groups: dict[str, dict[str, Plain]] = {
            "dimensions": {}, "measures": {}, "attributes": {},
        }  # fmt: skip
        self.samples: dict[str, list[str]] = {}
        self.spread: Plain = {}
        """How columns become records, if they do."""
        self.apart: frozenset[int] = frozenset()
        """Positions of rows that are none and cannot be skipped."""
        self.key: list[str] | str = "position"
        self.identifying: list[str] = []
        """Dimensions that belong to the key wherever they are: they tell series apart."""
        self._names: set[str] = {"period"}
        self._sent = texts
        self._missing: list[tuple[Plain, list[str]]] = []
        """What is written for "missing" in a field's column."""
        spelled = {
            path: sorted({text for text in found if text in NULL_SPELLINGS})
            for path, found in texts.items()
        }
        texts = {
            path: [text for text in found if text not in NULL_SPELLINGS]
            for path, found in texts.items()
        }
        usable = [each for each in fields if each.type != "array" and each.present]
        if any("/" in each.path for each in usable):  # elements that only hold others say nothing
            usable = [each for each in usable if texts.get(each.path)]
        for each in [u for u in usable if is_stamp(last_name(u.path), u.distinct, rows)]:
            usable.remove(each)
            self.notes.append(
                f"{each.path} is left out: it says when the file was written, and with it every "
                "record would count as changed each time."
            )
        self.period, used = period_of(usable, texts)
        self._note_days(texts, used)
        self._written = written
        """Paths of texts: a number that was sent as one can be read in one way only."""
        others = [found for path, found in texts.items() if path in written and path not in used]
        days = [text for path in used & written for text in texts.get(path, [])]
        self._point = point_of(others, days, delimiter)
        self._magnitude = self._magnitude_among(usable, texts)
        for path in around:
            name = self._add("dimensions", path, {"path": path}, [])
            if _CODE.search(slug(path)) or "Key/" in path:
                self.identifying.append(name)
        for each in usable:
            if each.path not in used:
                self._place(each, texts.get(each.path, []), spelled.get(each.path, []), rows)
        self._say_missing()
        if not any(self.groups.values()) and usable:
            self._add("attributes", usable[0].path, {"path": usable[0].path}, usable[0].samples)

    def unpivot(self, wide: _Wide, rows: list[RawRow]) -> None:
        """A wide table becomes a record for each period of each row."""
        self.spread = {"columns": wide.pattern}
        if wide.group:
            name = self._add("dimensions", "group", {"path": wide.group}, [])
            self.identifying.append(name)
        if wide.beside:
            self.spread["beside"] = {"flag": wide.beside}
            self._add("attributes", "flag", {"path": "#flag"}, [])
        sent = [row.value[c] for row in rows for c in wide.columns if row.value.get(c)]
        cells = [str(cell) for cell in sent]
        for name, entry in list(self.groups["measures"].items()):
            del self.groups["measures"][name]
            self.groups["attributes"][name] = {"path": entry["path"]}
        self.nulls += [n for n in sorted({c.strip() for c in cells} & NULL_SPELLINGS) if n]
        texts = [cell for cell in cells if cell.strip() not in NULL_SPELLINGS]
        self._names.add("value")
        if not any(isinstance(cell, int | Number) for cell in sent):
            self._written |= {"#value"}
        style = self._style("#value", texts)
        self.groups["measures"]["value"] = {"path": "#value"} | style
        self._note_numbers("#value", texts, style)
        self.period = wide.period
        self.notes.append(
            "A column a period: each cell becomes a record (`unpivot`)"
            + (", with what the column beside it says." if wide.beside else ".")
        )

    def time_around(self, records: list[MappedRecord]) -> None:
        """Where the records have no time of their own, one that stands around them is theirs."""
        for name, entry in list(self.groups["dimensions"].items()):
            if not entry["path"].startswith(("..", "$$")) or not TIME.search(slug(entry["path"])):
                continue
            sent = [record.dimensions.get(name) for record in records]
            if not sent or None in sent:
                continue
            [looked_at] = infer([{name: text} for text in sent], tabular=True)
            texts = sorted({str(text) for text in sent})
            guess = as_period(msgspec.structs.replace(looked_at, path=entry["path"]), texts)
            if guess is not None:
                del self.groups["dimensions"][name]
                self.identifying = [each for each in self.identifying if each != name]
                self.period = guess
                return

    def _note_days(self, texts: dict[str, list[str]], used: set[str]) -> None:
        """Days that can be read in two ways are taken in one; say so."""
        if any(SPAN in coding for coding in (self.period or {}).get("codings", {})):
            self.notes.append(
                "Years such as 2005/06 are taken for 2005. Where they begin in another month than "
                "January, write `year_start` instead of `codings`."
            )
        taken = (self.period or {}).get("format", "")
        if taken not in {"%m/%d/%Y", "%m/%d/%y"}:
            return
        found = [text for path in used for text in texts.get(path, [])]
        other = taken.replace("%m/%d", "%d/%m")
        if days_of(found, other):
            telling = next((t for t in found if t[:2] != t[3:5]), found[0])
            self.notes.append(
                f"{telling} can be two days: it is taken for month/day/year. If the source writes "
                f'the day first, `format: "{other}"`.'
            )

    def _style(self, path: str, texts: list[str]) -> Plain:
        return number_style(texts, self._point if path in self._written else "")

    def _note_numbers(self, path: str, texts: list[str], style: Plain) -> None:
        """Numbers that can be read in two ways are taken in one; say so."""
        if path in self._written and (note := in_two_ways(path, texts, style)):
            self.notes.append(note)

    def _note_mixed(self, path: str, texts: list[str]) -> None:
        """A text of which half and more are numbers may be a number with marks; say so."""
        others = [text for text in texts if not any(is_number(text, *style) for style in STYLES)]
        if len(texts) > 2 and 0 < len(others) <= len(texts) / 2:
            said = ", ".join(repr(text) for text in others[:8])
            self.notes.append(
                f"{path} is a text, though {len(texts) - len(others)} of its {len(texts)} values "
                f"are numbers; the others: {said}. See `nulls` and the field's `marks`."
            )

    def _place(self, each: InferredField, texts: list[str], spelled: list[str], rows: int) -> None:
        entry: Plain = {"path": each.path}
        style = self._style(each.path, texts) if each.type in {"string", "decimal"} else {}
        label = bare_letters(self.labels.get(each.path, ""))
        coded = any(_CODE.search(name) for name in (slug(each.path), label))
        if each.type == "string" and not style and not coded:
            style = self._marks(each, texts)
        if each.type == "string" and not style and not coded:
            style, almost = self._almost(each, texts)
            if almost and not style:
                self._add("attributes", each.path, entry, each.samples)
                return
            spelled = [*spelled, *almost]
        nulls = spelled if style else each.nulls
        self._missing.append((entry, nulls))
        if each.path.endswith(".label"):
            self._add("attributes", each.path, entry, each.samples)
            return
        if (each.type in {"integer", "decimal"} or style) and not coded:
            if each.type == "integer":
                entry["type"] = "integer"
            entry |= style
            if slug(each.path) in _VALUES and self._magnitude:
                entry["magnitude_path"] = self._magnitude
            self._note_numbers(each.path, texts, style)
            self._add("measures", each.path, entry, each.samples)
            return
        if each.type in {"date", "datetime", "boolean"}:
            entry["type"] = each.type
            if each.format:
                entry["format"] = each.format
            self._add("attributes", each.path, entry, each.samples)
            return
        if each.type == "string" and not coded:
            self._note_mixed(each.path, texts)
        short = all(len(text) < 100 for text in texts)
        tells = coded or each.distinct < max(200, rows // 3)
        told = bool(texts) and short and each.present >= rows and tells
        group = "dimensions" if told else "attributes"
        if any(sample != sample.strip() for sample in each.samples):
            entry["trim"] = True
        self._add(group, each.path, entry, each.samples)

    def _say_missing(self) -> None:
        """Spellings of "missing" for all fields; one that is a text elsewhere, for its own only.

        ``NA`` among numbers is no value, and among codes of countries it is Namibia.
        """
        texts = {
            text
            for group in ("dimensions", "attributes")
            for entry in self.groups[group].values()
            if "type" not in entry
            for text in self._sent.get(entry["path"], [])
        }
        for entry, nulls in self._missing:
            if texts & set(nulls) - {""}:
                entry["nulls"] = list(dict.fromkeys(["", *nulls]))
            else:
                self.nulls += [null for null in nulls if null not in self.nulls]

    def _magnitude_among(self, usable: list[InferredField], texts: dict[str, list[str]]) -> str:
        """The path of the powers of ten that the values beside them count for, if there is one."""
        if not any(slug(each.path) in _VALUES for each in usable):
            return ""
        for each in usable:
            sent = texts.get(each.path, [])
            if slug(each.path) in _MAGNITUDES and all(
                re.fullmatch("-?[0-9]{1,2}", t) for t in sent
            ):
                usable.remove(each)
                return each.path
        return ""

    def _marks(self, each: InferredField, texts: list[str]) -> Plain:
        """How numbers are written that have a sign of money, or now and then a flag, with them."""
        if len(texts) > 1 and all(text.endswith("%") for text in texts):
            numbers = [text[:-1].strip() for text in texts]
            style = self._style(each.path, numbers)
            if style or all(is_number(text, "", ".") for text in numbers):
                return {"split": "%", **style}
        if max(map(len, texts), default=0) > _MARKED_MAX:
            return {}
        matches = [_MARKED.fullmatch(text) for text in texts]
        found = [match for match in matches if match]
        if not found or len(found) < len(texts):
            return {}
        marks = sorted({mark for match in found for mark in match.group("before", "after") if mark})
        plain = sum(1 for match in found if not match["after"])
        numbers = [match["number"] for match in found]
        style = self._style(each.path, numbers)
        if not marks or len(marks) > 6 or plain * 2 < len(found):
            return {}
        if not style and not all(is_number(text, "", ".") for text in numbers):
            return {}
        said = ", ".join(repr(mark) for mark in marks)
        self.notes.append(
            f"{each.path}: {said} is taken for a mark at the number, and kept beside it (`marks`)."
        )
        return {"type": "decimal", "marks": marks, **style}

    def _almost(self, each: InferredField, texts: list[str]) -> tuple[Plain, list[str]]:
        """(how numbers are written, words among them) of a column of numbers but for a few words.

        Words without a digit are taken for missing; with others it is a text for a person to heed.
        """
        for thousands, point in STYLES:
            plain = [is_number(text, thousands, point) for text in texts]
            others = nearly_numbers(texts, plain)
            if not others:
                continue
            said = ", ".join(repr(text) for text in others)
            if any(any(c.isdigit() for c in text) or len(text) > 12 for text in others):
                self.notes.append(
                    f"{each.path} is a text, for not every value is a number: {said}. See `nulls` "
                    "and the field's `negative`, `thousands` and `decimal`."
                )
                return {}, others
            self.notes.append(f"{each.path}: {said} is taken for a value that is missing.")
            numbers = [text for text in texts if text not in others]
            return self._style(each.path, numbers) or {"type": "decimal"}, others
        return {}, []

    def _add(self, group: str, path: str, entry: Plain, samples: Sequence[str]) -> str:
        base = slug(path)
        name, count = base, 2
        while name in self._names:
            name, count = f"{base[:58]}_{count}", count + 1
        self._names.add(name)
        self.groups[group][name] = entry
        self.samples[name] = list(samples)
        return name

    def plain(self) -> Plain:
        found: Plain = {"key": self.key}
        if self.nulls != [""]:
            found["nulls"] = self.nulls
        if self.spread:
            found["unpivot"] = self.spread
        for group, entries in self.groups.items():
            if entries:
                found[group] = entries
        if self.period:
            found["period"] = self.period
        return found

    def weaken(self, name: str) -> bool:
        """A field whose values do not hold becomes a text; false if there is nothing to weaken."""
        if name == "period" and self.period:
            entry = {"path": self.period.get("path") or self.period["join"][0]}
            self.period = None
            self._add("attributes", entry["path"], entry, [])
            self.notes.append("What looks like the time could not be read in every row.")
            return True
        for group, entries in self.groups.items():
            if name in entries:
                if group == "attributes" and set(entries[name]) == {"path"}:
                    return False
                self.groups["attributes"][name] = {"path": entries.pop(name)["path"]}
                return True
        return False


# --- making it hold -------------------------------------------------------------------------------


def _settled(
    plan: _Plan, head: Plain, source: Plain, content: SpooledContent
) -> list[MappedRecord]:
    """Map the page until nothing is rejected, then find the key; the records of the last go."""
    for _ in range(_FIELDS_MAX * 2):
        records, rejects = _mapped(plan, head, source, content)
        failing = Counter(r.field for r in rejects if r.position not in plan.apart)
        if not failing or not plan.weaken(failing.most_common(1)[0][0]):
            break
    plan.key = _key(plan, records)
    if plan.key == "position":
        plan.notes.append(
            "No fields tell all rows apart: rows are told by their content and count."
        )
    return records


def _mapped(
    plan: _Plan, head: Plain, source: Plain, content: SpooledContent
) -> tuple[list[MappedRecord], list[Reject]]:
    plan.key = "position"
    profile = msgspec.convert({**head, "source": source, **plan.plain()}, Profile)
    mapping = Mapping(profile)
    records: list[MappedRecord] = []
    rejects: list[Reject] = []
    for row in _rows(content, profile.source.format, mapping.enclosing):
        for found in mapping.map(row, 0):
            if isinstance(found, Reject):
                rejects.append(found)
            else:
                records.append(found)
    return records, rejects


def _key(plan: _Plan, records: list[MappedRecord]) -> list[str] | str:
    """The fewest fields that tell all records apart: codes alone, then with the period."""
    always = [
        n for n in plan.groups["dimensions"] if all(r.dimensions[n] is not None for r in records)
    ]
    fixed = [f"dimensions.{name}" for name in plan.identifying if name in always]
    codes = [n for n in always if _CODE.search(n) and f"dimensions.{n}" not in fixed]
    free = [f"dimensions.{n}" for n in [*codes, *(n for n in always if n not in codes)]]
    free = [name for name in free if name not in fixed][:12]
    period = ["period"] if plan.period and all(r.period for r in records) else []
    tried = [[name] for name in free[: len(codes)] if not fixed]
    tried += [[*fixed, *part, *period] for size in range(4) for part in combinations(free, size)]
    tried += [[*fixed, *part] for size in range(1, 3) for part in combinations(free, size)]
    for fields in tried:
        if fields and len({_part(r, fields) for r in records}) == len(records):
            return fields
    return "position"


def _part(record: MappedRecord, fields: Sequence[str]) -> tuple[Any, ...]:
    return tuple(
        (record.period and (record.period.start, record.period.frequency))
        if name == "period"
        else record.dimensions[name.partition(".")[2]]
        for name in fields
    )


# --- writing it -----------------------------------------------------------------------------------


def _written(
    name: str, url: str, source: Plain, plan: _Plan, notes: list[str], records: int
) -> str:
    lines = [
        f"# A first draft, from {records} records that the source sent. Say what they mean, then:",
        f"#   holdfast profile preview {name}.yaml     shows the records, keeps nothing",
        f"#   holdfast profile validate {name}.yaml    lists everything that is wrong",
        f"#   holdfast profile publish {name}.yaml     lets it run",
        *(f"# {note}" for note in notes),
        "version: 1",
        _member("name", name),
        "# title: One line for people",
        _member("publisher", PUBLISHER),
        _member("licence", LICENCE),
        "source:",
        _indented(_member("url", url)),
        _indented("format: " + _flow(source["format"])),
    ]
    if "pagination" in source:
        lines.append(_indented("pagination: " + _flow(source["pagination"])))
    if "member" in source:
        lines.append(_indented(_member("member", source["member"])))
    if source["format"]["type"] == "feed":
        lines.append("mode: append  # a feed forgets: what is gone from it stays true")
    else:
        lines.append(
            "mode: snapshot  # a complete run is the whole truth; append: what is gone stays true"
        )
    lines.append(f"key: {_flow(plan.key)}")
    if plan.nulls != [""]:
        lines.append(f"nulls: {_flow(plan.nulls)}")
    if plan.spread:
        lines.append("unpivot: " + _flow(plan.spread))
    for group, entries in plan.groups.items():
        if entries:
            lines.append(f"{group}:")
            lines += [_field_line(field_, entry, plan, group) for field_, entry in entries.items()]
    if plan.period:
        lines.append("period:")
        lines += [_indented(f"{member}: {_flow(value)}") for member, value in plan.period.items()]
    lines += [
        *([f"max_rejects: {len(plan.apart)}"] if plan.apart else []),
        "# schedule: {every: 1d}  # without one it runs when asked",
        "expect:",
        f"  min_records: {max(1, records // 2)}  # a run that gives less is not published",
    ]
    return "\n".join(lines) + "\n"


def _field_line(name: str, entry: Plain, plan: _Plan, group: str) -> str:
    seen = ", ".join(printable(sample, 30) for sample in plan.samples.get(name, ())[:3])
    shown = dict(entry)
    if group == "measures":
        shown["unit"] = ""
    short = shown == {"path": entry["path"]}
    value = _flow(entry["path"] if short else shown)
    return f"  {name}: {value}" + (f"  # {seen}" if seen else "")


def _member(name: str, value: Any) -> str:
    return write_document({name: value}).rstrip("\n")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _flow(value: Any) -> str:
    """A value on one line, as YAML reads it back."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: Any, one: str) -> Any:
        plain = re.fullmatch(r"[A-Za-z$/_(][\w ./$()%:-]*", one) and not one.endswith((":", " "))
        plain = plain and ": " not in one and one.lower() not in {"null", "true", "false"}
        return dumper.represent_scalar("tag:yaml.org,2002:str", one, style=None if plain else '"')

    Dumper.add_representer(str, text)
    written = yaml.dump(
        value,
        Dumper=Dumper,
        default_flow_style=True,
        width=10_000,
        allow_unicode=True,
        sort_keys=False,
    )
    found: str = written.removesuffix("...\n").rstrip("\n")
    return found
