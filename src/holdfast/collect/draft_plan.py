"""What each field of a source seems to be: its group, its type, how its values are written."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from holdfast.collect.draft_days import settled
from holdfast.collect.draft_names import CODE, COUNT, bare_letters, last_name, last_part, slug
from holdfast.collect.draft_numbers import (
    STYLES,
    in_two_ways,
    is_number,
    number_style,
    point_of,
)
from holdfast.collect.draft_tables import Wide
from holdfast.collect.draft_time import (
    SPAN,
    TIME,
    as_period,
    clockless,
    offsets_of,
    period_of,
)
from holdfast.collect.infer import NULL_SPELLINGS, InferredField, infer
from holdfast.collect.model import Number, RawRow
from holdfast.collect.odd import is_stamp, nearly_numbers
from holdfast.collect.recognised import Plain
from holdfast.records.model import MappedRecord
from holdfast.registry.parts import MARK_SUFFIX, MISSING_SUFFIX

_MARKED = re.compile(
    r"(?P<before>[$€£¥])?\s*(?P<number>[-+\u2212\uff0d]?[\d.,'\u2019 \u00a0\u202f\u2009]*\d)"
    r"\s*(?P<after>[A-Za-z]{1,2}|[*†‡¹²³]{1,3}|\[[A-Za-z]{1,3}\])?"
)
_MARKED_MAX = 64
"""No number with a mark is longer, and the time of the pattern grows faster than the text."""
_VALUES = frozenset({"obs_value", "value", "data_value"})
_MAGNITUDES = frozenset({"unit_mult", "scalar_id"})


class FieldPlan:
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
        self.counts: dict[str, Plain] = {}
        """Dimensions that are numbers, and by their names codes or counts; as counts."""
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
        self._manner = ""
        """What of the file is written as where no month comes before its day."""
        if delimiter == ";":
            self._manner = "cells are told apart by semicolons"
        elif self._point == ",":
            self._manner = "numbers have a decimal comma"
        self._settle_days([text for path in used for text in texts.get(path, [])])
        self._magnitude = self._magnitude_among(usable, texts)
        for path in around:
            name = self._add("dimensions", path, {"path": path}, [])
            if CODE.search(slug(path)) or "Key/" in path or path.startswith("#"):
                self.identifying.append(name)
        for each in usable:
            if each.path not in used:
                self._place(each, texts.get(each.path, []), spelled.get(each.path, []), rows)
        self._say_missing()
        if not any(self.groups.values()) and usable:
            self._add("attributes", usable[0].path, {"path": usable[0].path}, usable[0].samples)

    def unpivot(self, wide: Wide, rows: list[RawRow]) -> None:
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
        if not any(isinstance(cell, int | Number) for cell in sent):
            self._written |= {"#value"}
        style = self._style("#value", texts)
        if not style and not all(is_number(text, "", ".") for text in texts):
            style = self._marks("#value", texts)
            if not style:
                self._note_mixed("#value", texts)
        self._add("measures", "value", {"path": "#value"} | style, [])
        self._note_numbers("#value", texts, style)
        self.period = wide.period
        self._settle_days(list(wide.columns))
        self.notes.append(
            "A column a period: each cell becomes a record (`unpivot`)"
            + (", with what the column beside it says." if wide.beside else ".")
        )

    def time_around(self, records: list[MappedRecord]) -> None:
        """Where the records have no time of their own, one that stands around them is theirs."""
        for name, entry in list(self.groups["dimensions"].items()):
            path = entry["path"]
            # The name of a member is a value: what it is called says nothing.
            told = path.startswith("#") or TIME.search(slug(path))
            if not told or not path.startswith(("..", "$$", "#")):
                continue
            sent = [record.dimensions.get(name) for record in records]
            if not sent or None in sent:
                continue
            [looked_at] = infer([{name: text} for text in sent], tabular=True)
            texts = list(dict.fromkeys(str(text) for text in sent))
            guess = as_period(msgspec.structs.replace(looked_at, path=entry["path"]), texts)
            if guess is not None:
                del self.groups["dimensions"][name]
                self.identifying = [each for each in self.identifying if each != name]
                self.period = guess
                self._settle_days(texts)
                return

    def count(self, name: str) -> None:
        """What may be a code is how many there are of something, and no part of a key."""
        for group in ("dimensions", "attributes"):
            self.groups[group].pop(name, None)
        self.groups["measures"][name] = self.counts.pop(name)
        self.notes.append(
            f"{self.groups['measures'][name]['path']} is taken for a count, since the time and the "
            "other fields tell all rows apart. If it names what a row is of, move it to "
            "`dimensions` and write it in `key`."
        )

    def _note_days(self, texts: dict[str, list[str]], used: set[str]) -> None:
        """Days that can be read in two ways are taken in one; say so."""
        if any(SPAN in coding for coding in (self.period or {}).get("codings", {})):
            self.notes.append(
                "Years such as 2005/06 are taken for 2005. Where they begin in another month than "
                "January, write `year_start` instead of `codings`."
            )
        period = self.period or {}
        sent = [text for path in used for text in texts.get(path, [])]
        read = str(period.get("format", ""))
        if period.get("frequency") in {"I", "H"} and "epoch" not in read and clockless(sent):
            self.notes.append(
                f"Times such as {sent[0]} name no zone and are taken for UTC: `timezone`, such as "
                "Europe/Paris, says whose clock they are of."
            )
        offsets = offsets_of(sent)
        if period.get("frequency") == "I" and offsets and all("T00:00:00" in t for t in sent):
            self.notes.append(
                f"{sent[0]} is kept as the moment that it is. Where such times mean days, months "
                "or years, name the place whose midnight they are "
                f"(`timezone`: {', '.join(offsets)} from UTC) and the `frequency`; without it they "
                "are those of UTC, and begin a day early or late."
            )

    def _settle_days(self, sent: list[str]) -> None:
        """Days that can be read in two ways are taken in the likelier one; say so, and why."""
        if self.period is None:
            return
        path = self.period.get("path")
        others = [
            [text for text in found if text not in NULL_SPELLINGS]
            for other, found in self._sent.items()
            if other != path
        ]
        names = [last_part(name) for name in self._sent]
        self.period, note = settled(self.period, sent, others, names, self._manner)
        if note:
            self.notes.append(note)

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
        coded = any(CODE.search(name) for name in (slug(each.path), label))
        if each.type == "string" and not style and not coded:
            style = self._marks(each.path, texts)
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
        name = self._add(group, each.path, entry, each.samples)
        if coded and each.type in {"integer", "decimal"} and COUNT.fullmatch(slug(each.path)):
            self.counts[name] = entry | ({"type": "integer"} if each.type == "integer" else {})

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

    def _marks(self, path: str, texts: list[str]) -> Plain:
        """How numbers are written that have a sign of money, or now and then a flag, with them."""
        if len(texts) > 1 and all(text.endswith("%") for text in texts):
            numbers = [text[:-1].strip() for text in texts]
            style = self._style(path, numbers)
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
        style = self._style(path, numbers)
        if not marks or len(marks) > 6 or plain * 2 < len(found):
            return {}
        if not style and not all(is_number(text, "", ".") for text in numbers):
            return {}
        said = ", ".join(repr(mark) for mark in marks)
        self.notes.append(
            f"{path}: {said} is taken for a mark at the number, and kept beside it (`marks`)."
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
        marked = "marks" in entry
        while not self._is_free(name, marked=marked):
            name, count = f"{base[:58]}_{count}", count + 1
        self._names.add(name)
        if marked:
            self._names.add(name + MARK_SUFFIX)
        self.groups[group][name] = entry
        self.samples[name] = list(samples)
        return name

    def _is_free(self, name: str, *, marked: bool) -> bool:
        """Whether a field may have the name: that of what is kept beside a field is none."""
        beside = name.removesuffix(MISSING_SUFFIX)
        return (
            name not in self._names
            and (beside == name or beside not in self._names)
            and name + MISSING_SUFFIX not in self._names
            and not (marked and name + MARK_SUFFIX in self._names)
        )

    def plain(self) -> Plain:
        """What it comes to, as a part of the document."""
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
