"""The first draft of a profile, from what a source sends. A guess for people to correct.

It is checked before it is shown: the page is mapped with it, and a field that would be rejected is
written as text instead. So a draft can be previewed as it is. What a page does not say (who
publishes it, under which terms) has a placeholder, with which nothing is published.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import msgspec

from holdfast.collect.content import SpooledContent
from holdfast.collect.draft_document import draft_document
from holdfast.collect.draft_names import ABOUT_NUMBERS, CODE, NAMING
from holdfast.collect.draft_plan import FieldPlan
from holdfast.collect.draft_tables import merged_columns, nearly_wide, wide_table
from holdfast.collect.draft_time import as_period
from holdfast.collect.errors import ParseFailed
from holdfast.collect.formats import reader_of
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
from holdfast.collect.model import Bounds, Formula, RawRow, ReadContext
from holdfast.collect.odd import ROWS_JUDGED, first_word, odd_rows, shown, skip_rows_for
from holdfast.collect.recognise import recognise
from holdfast.collect.recognised import ROWS_LOOKED_AT, Plain, Recognised
from holdfast.collect.several import more_pages
from holdfast.collect.values import printable
from holdfast.records.model import MappedRecord, Reject
from holdfast.registry.model import Profile, is_tabular
from holdfast.registry.source import Format

_FIELDS_MAX = 60
_CONSTANT_MAX = 4
_BESIDE_MAX = 3
_NOTE = 400


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
    if ends := _footnotes(content, form):
        found.form["stop_at"] = ends
        found.notes.append(
            f"What stands behind the table, from {ends!r} on, is taken for footnotes (`stop_at`)."
        )
        form = msgspec.convert(found.form, Format)
    rows = _rows(content, form)
    _say_ragged(found, content, form, len(rows))
    if not rows:
        raise ParseFailed("cannot write a profile: no record was found", hint=_nothing_found(form))
    skipped, rejected, labels = _odd(found, rows, form)
    if skipped and (pagination or {}).get("type") == "offset":
        found.notes.append(
            "Pages are asked for by offset, and rows are skipped: write in `pagination` what an "
            "offset counts, `counts: records` where skipped rows stand on each page beside those "
            "asked for, `counts: rows` where they are among them."
        )
    if skipped:
        form = msgspec.convert(found.form, Format)
        rows = _rows(content, form)
    elif rejected:
        rows = [row for row in rows if row.position not in rejected]
    is_table = form.__struct_config__.tag in {"csv", "xlsx", "ods"}
    filled, doubtful = merged_columns(rows) if is_table else ([], "")
    if doubtful:
        found.notes.append(
            f"Many cells of {doubtful} are empty. If they are merged, so that what stands above "
            f"holds for them, write `fill_down: [{', '.join([*filled, doubtful])}]`."
        )
    if filled:
        found.form["fill_down"] = filled
        found.notes.append(
            f"Empty cells of {', '.join(filled)} have what stands above them (`fill_down`)."
        )
        form = msgspec.convert(found.form, Format)
        rows = _rows(content, form)
    wide = wide_table(rows) if is_tabular(form) else None
    if wide is None and is_table and (years := nearly_wide(rows)):
        found.notes.append(
            f"{', '.join(years)} may be years. If so, each cell becomes a record with `unpivot: "
            '{columns: "[0-9]{4}"}`, `period: {path: "#column", frequency: A}`, and one measure '
            'with the path "#value" in their place.'
        )
    if is_table and len(rows) < ROWS_JUDGED:
        found.notes.append(
            f"There are only {len(rows)} rows to judge by: whether one of them is a total, a unit "
            "or a remark was not looked at. `skip_rows` leaves rows out."
        )
    looked_at = _without_columns(_with_results(found, rows), wide.used if wide else [])
    fields = [f for f in fields_of(looked_at, form) if _can_be_named(f.path, form)]
    fields = _told_apart(fields, form)[:_FIELDS_MAX]
    plan = FieldPlan(
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
        draft_document(name, url, found.source, plan, notes, len(mapped)),
        len(mapped),
        len(rows),
        notes,
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
        and _in_place_of_time(cells, index, {*seen.totals, *seen.rows})
    ]
    if not skip_rows_for(cells, timeless) or (seen.rows and not skip_rows_for(cells, seen.rows)):
        timeless = []
    lasting = [index for index in seen.totals if index not in {*timeless, *seen.rows}]
    found.notes += [
        _of_totals(cells, totals, skipped=totals is timeless)
        for totals in (timeless, lasting)
        if totals
    ]
    # Remarks follow the rows of a table. A list of objects may begin with their names.
    odd = seen.rows if kind in {"csv", "xlsx", "ods"} else seen.before
    if timeless:
        found.form["skip_rows"] = [
            *found.form.get("skip_rows", []),
            *skip_rows_for(cells, timeless),
        ]
    if not odd:
        return bool(timeless), frozenset(), {}
    labels = {} if kind in {"csv", "xlsx", "ods"} else cells[odd[0]]
    told = "; ".join(dict.fromkeys(shown(cells[index]) for index in odd))
    skipped = skip_rows_for(cells, odd) if kind in {"csv", "xlsx", "ods", "json", "ndjson"} else []
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


def _of_totals(cells: list[dict[str, str]], totals: list[int], *, skipped: bool) -> str:
    """The note on one total, or on those that come again and again."""
    told = shown(cells[totals[0]])
    if len(totals) == 1:
        begin, has, are, them = "A row seems to be a total", "has", "It is", "it"
        like = "a record like the others"
    else:
        begin, has, are, them = f"{len(totals)} rows seem to be totals", "have", "They are", "them"
        like, told = "records like the others", f"{told}, …"
    if skipped:
        where = f", and {has} a word in the place of a time"
        return f"{begin}{where}: {told}. {are} skipped (`skip_rows`)."
    return f"{begin}: {told}. {are} {like} unless `skip_rows` names {them}."


def _in_place_of_time(cells: list[dict[str, str]], index: int, odd: set[int]) -> bool:
    """Whether a row has its first word where all others, but for odd ones, have a time."""
    name, _ = first_word(cells[index], list(cells[index]))
    texts = {row.get(name, "") for place, row in enumerate(cells) if place not in odd}
    if not texts:
        return False
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


_FOOTNOTE_MAX = 60


def _footnotes(content: SpooledContent, form: Any) -> str:
    """How the first of the lines begins that stand behind a table and are no rows; empty if none.

    Each of them has one cell, which is a text, and nothing but such lines follows the table.
    """
    if form.__struct_config__.tag != "csv" or form.stop_at:
        return ""
    read = _read(content, form)
    if len(read) >= ROWS_LOOKED_AT:
        return ""  # where the table ends was not seen
    table = max((at for at, row in enumerate(read) if not row.problem), default=-1) + 1
    behind = [row.value for row in read[table:]]
    if not table or not behind or not all(isinstance(one, list) for one in behind):
        return ""
    alone = all(len([cell for cell in one if cell.strip()]) == 1 for one in behind)
    begins: str = behind[0][0][:_FOOTNOTE_MAX]
    firsts = (str(next(iter(row.value.values()))) for row in read[:table] if not row.problem)
    if not alone or len(begins.strip()) < 4 or any(first.startswith(begins) for first in firsts):
        return ""
    return begins


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


def _can_be_named(path: str, form: Any) -> bool:
    """Whether the prefixes of a path of XML are among those of the format: it has the first 30."""
    if form.__struct_config__.tag not in {"xml", "feed"}:
        return True
    return set(re.findall(r"(?:^|[/@])([^/@:\[]+):", path)) <= {*namespaces_of(form)}


def _told_apart(fields: list[InferredField], form: Any) -> list[InferredField]:
    """The fields without ``link/@href`` where some records have ``link[1]/@href`` and more.

    The first is there in each record; of several the path without a number finds a list.
    """
    if form.__struct_config__.tag not in {"xml", "feed"}:
        return fields
    numbered = {re.sub(r"\[[0-9]+\]", "", f.path) for f in fields if re.search(r"\[[0-9]", f.path)}
    return [each for each in fields if each.path not in numbered]


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
    return _without_columns(rows, bare)


def _without_columns(rows: list[RawRow], columns: list[str]) -> list[RawRow]:
    if not columns:
        return rows
    hidden = frozenset(columns)
    return [
        msgspec.structs.replace(row, value={k: v for k, v in row.value.items() if k not in hidden})
        for row in rows
    ]


# --- making it hold -------------------------------------------------------------------------------


def _settled(
    plan: FieldPlan, head: Plain, source: Plain, content: SpooledContent
) -> list[MappedRecord]:
    """Map the page until nothing is rejected, then find the key; the records of the last go."""
    for _ in range(_FIELDS_MAX * 2):
        records, rejects = _mapped(plan, head, source, content)
        failing = Counter(r.field for r in rejects if r.position not in plan.apart)
        if not failing or not plan.weaken(failing.most_common(1)[0][0]):
            break
    counted = [name for name in plan.counts if _is_count(plan, name, records)]
    if counted:
        for name in counted:
            plan.count(name)
        records, _ = _mapped(plan, head, source, content)
    plan.key = _key(plan, records)
    if plan.key == "position":
        plan.notes.append(
            "No fields tell all rows apart: rows are told by their content and count."
        )
    return records


def _is_count(plan: FieldPlan, name: str, records: list[MappedRecord]) -> bool:
    """Whether numbers that may be codes are none: the time tells the rows apart, if need be with
    the few other dimensions, and the numbers are not those that rows are numbered with."""
    others = [each for each in plan.groups["dimensions"] if each not in plan.counts]
    if not plan.period or len(others) > _BESIDE_MAX or not all(r.period for r in records):
        return False
    fields = [*(f"dimensions.{each}" for each in others), "period"]
    if len({_part(record, fields) for record in records}) < len(records):
        return False
    sent = {str(r.dimensions.get(name, r.attributes.get(name))) for r in records}
    whole = sorted(int(text) for text in sent if text.isdecimal())
    numbered = len(whole) == len(records) and whole[-1] - whole[0] == len(whole) - 1
    return not numbered


def _mapped(
    plan: FieldPlan, head: Plain, source: Plain, content: SpooledContent
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


def _key(plan: FieldPlan, records: list[MappedRecord]) -> list[str] | str:
    """The fewest fields that tell all records apart: codes alone, then with the period."""
    always = [
        n for n in plan.groups["dimensions"] if all(r.dimensions[n] is not None for r in records)
    ]
    fixed = [f"dimensions.{name}" for name in plan.identifying if name in always]
    codes = [n for n in always if CODE.search(n) and f"dimensions.{n}" not in fixed]
    free = [f"dimensions.{n}" for n in [*codes, *(n for n in always if n not in codes)]]
    free = [name for name in free if name not in fixed][:12]
    period = ["period"] if plan.period and all(r.period for r in records) else []
    tried = [[name] for name in free[: len(codes)] if not fixed]
    tried += [[*fixed, *part, *period] for size in range(4) for part in combinations(free, size)]
    tried += [[*fixed, *part] for size in range(1, 3) for part in combinations(free, size)]
    for fields in tried:
        if fields and len({_part(r, fields) for r in records}) == len(records):
            return [*_series(plan, records, always, fields), *fields]
    return "position"


def _series(
    plan: FieldPlan, records: list[MappedRecord], always: list[str], fields: list[str]
) -> list[str]:
    """What tells a series of which there is but one here, where a time alone would be the key.

    A column with one text in all rows may well have another in the next file, and then two records
    of one time would be one. Which of them are remarks on the numbers, names tell.
    """
    if "period" not in fields or len(records) < 2:
        return []
    constant = [
        name
        for name in always
        if f"dimensions.{name}" not in fields
        and len({record.dimensions[name] for record in records}) == 1
        and not ABOUT_NUMBERS.search(name)
    ]
    # A name beside its code says the same again, and is spelt anew more often.
    telling = [name for name in constant if CODE.search(name)] or [
        name for name in constant if not NAMING.search(name)
    ]
    telling = (telling or constant)[:_CONSTANT_MAX]
    if not telling:
        return []
    same = f"{', '.join(telling)}: the same in all of these rows"
    if fields != ["period"]:
        plan.notes.append(f"{same}. If other rows may have another, add it to `key`.")
        return []
    plan.notes.append(
        f"{same}, and a part of `key`, since other rows may have another. Take out what only "
        "remarks on them."
    )
    return [f"dimensions.{name}" for name in telling]


def _part(record: MappedRecord, fields: Sequence[str]) -> tuple[Any, ...]:
    return tuple(
        (record.period and (record.period.start, record.period.frequency))
        if name == "period"
        else record.dimensions[name.partition(".")[2]]
        for name in fields
    )
