"""What sources do to those who rely on them: seeded changes of the recorded files, and what each
must come to.

A *document* is a recorded file cut to its first rows, with its records' fields at hand by the paths
of the profile. A *mutation* changes it and says what a run of it may end in. The verdict is the
program's own: its formats, its mapping, its rules, its drift. Other parts of the program add
theirs to ``MUTATIONS`` (a name, what it does to a document) and ``JUDGES`` (a look at a run).
"""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import math
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from lxml import etree

from holdfast.collect import paths
from holdfast.collect.content import SpooledContent
from holdfast.collect.errors import MappingRefused, ParseFailed, SourceRefused
from holdfast.collect.formats import reader_of
from holdfast.collect.formats.json import lookup
from holdfast.collect.mapping import Mapping
from holdfast.collect.model import Bounds
from holdfast.records.model import MappedRecord, Reject
from holdfast.records.rules import rules_of
from holdfast.records.shape import drift_of, shape_of
from holdfast.registry.model import Profile, as_field, as_measure, profile_digest
from holdfast.registry.source import CsvFormat, FeedFormat, JsonFormat, Success, XmlFormat
from holdfast.registry.versions import ProfileVersion
from holdfast.registry.xpath import FEED_NAMESPACES
from tests.support import recorded

ROWS = 120
"""Rows that are kept of a file: enough for a shape, few enough for hundreds of goes."""

UNCHANGED, RIGHT, REJECTED, FAILED = (
    "unchanged",
    "right records",
    "rejects named",
    "run failed, nothing published",
)
WRONG = "PUBLISHED AS GOOD"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run of the mutated document came to, and why."""

    outcome: str
    reason: str = ""


# --- documents ------------------------------------------------------------------------------------


class Document(ABC):
    """A recorded file with its rows at hand. ``get`` and ``put`` take a path of the profile."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    rows: list[Any]

    @abstractmethod
    def get(self, row: Any, path: str) -> str | None: ...

    @abstractmethod
    def put(self, row: Any, path: str, text: str) -> None: ...

    @abstractmethod
    def rename(self, path: str) -> None: ...

    @abstractmethod
    def shift(self) -> None: ...

    @abstractmethod
    def widen(self) -> None: ...

    @abstractmethod
    def bytes(self) -> bytes: ...

    def copy(self) -> Document:
        return copy.deepcopy(self)


class TableDocument(Document):
    def __init__(self, profile: Profile, data: bytes) -> None:
        super().__init__(profile)
        form = profile.source.format
        assert isinstance(form, CsvFormat)
        every = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
        self.header, rest = every[0], every[1:]
        self.tags = [row for row in rest[:1] if row and row[0].startswith("#")]
        self.rows = rest[len(self.tags) : len(self.tags) + ROWS]

    def get(self, row: Any, path: str) -> str | None:
        return str(row[self.header.index(path)])

    def put(self, row: Any, path: str, text: str) -> None:
        row[self.header.index(path)] = text

    def rename(self, path: str) -> None:
        self.header[self.header.index(path)] = path + " (new)"

    def shift(self) -> None:
        for row in self.rows:
            del row[len(row) // 2]

    def widen(self) -> None:
        self.header.append("added later")
        for row in self.rows:
            row.append("x")

    def bytes(self) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.tags, *self.rows])
        return text.getvalue().encode()


class JsonDocument(Document):
    """JSON, lines of JSON and GeoJSON."""

    def __init__(self, profile: Profile, data: bytes) -> None:
        super().__init__(profile)
        form: Any = profile.source.format
        self.lines = form.__struct_config__.tag == "ndjson" or getattr(form, "sequence", False)
        self.header = getattr(form, "header", False)
        if self.lines:
            self.rows = [json.loads(line) for line in data.splitlines()[:ROWS]]
            return
        self.plain = json.loads(data)
        self.path = "$.features[*]" if not isinstance(form, JsonFormat) else form.records
        self._cut()
        self.rows = paths.finder(self.path)(self.plain)
        self.names = self.rows[0] if self.header else []
        self.rows = self.rows[1:] if self.header else self.rows

    def _cut(self) -> None:
        query = paths.steps(self.path)
        assert query is not None
        for holder in paths.select(self.plain, query[:-1]):
            if isinstance(holder, list):
                del holder[ROWS:]

    def _place(self, row: Any, path: str) -> tuple[Any, Any]:
        if self.header:
            return row, self.names.index(path)
        steps = paths.singular(path)
        assert steps, path
        for step in steps[:-1]:
            row = row[step]
        return row, steps[-1]

    def get(self, row: Any, path: str) -> str | None:
        holder, step = self._place(row, path)
        try:
            value = holder[step]
        except (KeyError, IndexError, TypeError):
            return None
        return None if value is None else json.dumps(value) if not isinstance(value, str) else value

    def put(self, row: Any, path: str, text: str) -> None:
        holder, step = self._place(row, path)
        was = holder[step]
        if not isinstance(was, str | None):
            try:
                holder[step] = json.loads(text)
            except ValueError:
                holder[step] = text
        else:
            holder[step] = text

    def rename(self, path: str) -> None:
        if self.header:
            self.names[self.names.index(path)] = path + "_new"
            return
        for row in self.rows:
            holder, step = self._place(row, path)
            if isinstance(holder, dict) and step in holder:
                holder[f"{step}_new"] = holder.pop(step)

    def shift(self) -> None:
        for row in self.rows:
            if isinstance(row, list):
                del row[len(row) // 2]
            else:
                names, values = list(row), list(row.values())
                row.update(zip(names, [*values[1:], values[0]], strict=True))

    def widen(self) -> None:
        if self.header:
            self.names.append("added")
        for row in self.rows:
            row.append("x") if isinstance(row, list) else row.__setitem__("added_later", {"a": [1]})

    def bytes(self) -> bytes:
        if self.lines:
            return b"".join(json.dumps(row).encode() + b"\n" for row in self.rows)
        return json.dumps(self.plain, ensure_ascii=False, indent=1).encode()


class XmlDocument(Document):
    def __init__(self, profile: Profile, data: bytes) -> None:
        super().__init__(profile)
        form = profile.source.format
        assert isinstance(form, XmlFormat | FeedFormat)
        self.names = dict(form.namespaces)
        records = "/rss/channel/item"
        if isinstance(form, FeedFormat):
            self.names |= FEED_NAMESPACES
        else:
            records = form.records
        self.root: Any = etree.fromstring(data)
        found: Any = self.root.xpath(records, namespaces=self.names)
        for row in found[ROWS:]:
            row.getparent().remove(row)
        self.rows = list(found[:ROWS])

    def _holder(self, row: Any, path: str) -> tuple[Any, str]:
        base, _, attribute = path.rpartition("@")
        element = row
        if base.strip("/"):
            found = row.xpath(base.rstrip("/"), namespaces=self.names)
            element = found[0] if found else None
        return element, attribute if "@" in path else ""

    def _element(self, row: Any, path: str) -> Any:
        found = row.xpath(path, namespaces=self.names)
        return found[0] if found else None

    def get(self, row: Any, path: str) -> str | None:
        if "@" in path.rpartition("]")[2]:
            element, attribute = self._holder(row, path)
            return None if element is None else element.get(attribute)
        element = self._element(row, path)
        return None if element is None else element.text

    def put(self, row: Any, path: str, text: str) -> None:
        if "@" in path.rpartition("]")[2]:
            element, attribute = self._holder(row, path)
            element.set(attribute, text)
        else:
            self._element(row, path).text = text

    def rename(self, path: str) -> None:
        for row in self.rows:
            if "@" in path.rpartition("]")[2]:
                element, attribute = self._holder(row, path)
                element.set(attribute + "New", element.attrib.pop(attribute))
            elif (element := self._element(row, path)) is not None:
                element.tag = element.tag + "New"

    def shift(self) -> None:
        for row in self.rows:
            children = [child for child in row if isinstance(child.tag, str)]
            tags = [child.tag for child in children]
            for child, tag in zip(children, [*tags[1:], tags[0]], strict=True):
                child.tag = tag

    def widen(self) -> None:
        for row in self.rows:
            etree.SubElement(row, "addedLater", kind="x").text = "y"

    def copy(self) -> Document:
        return XmlDocument(self.profile, self.bytes())

    def bytes(self) -> bytes:
        return etree.tostring(self.root, xml_declaration=True, encoding="utf-8")


SKIPPED = {
    "recorded/omb-budget-authority",  # unpivoted: see the vintage, which is as well
}


def document(name: str) -> Document:
    """The first file of a recorded source, cut to ``ROWS`` rows."""
    profile = _fitted(recorded.profile(name))
    data = (recorded.folder() / recorded.SOURCES[name][0]).read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    form = profile.source.format
    if isinstance(form, CsvFormat):
        return TableDocument(profile, data)
    if isinstance(form, XmlFormat | FeedFormat):
        return XmlDocument(profile, data)
    return JsonDocument(profile, data)


def _fitted(profile: Profile) -> Profile:
    """The profile as it would be for a source of this size: the counts it expects are lower."""
    expect = msgspec.structs.replace(profile.expect, min_records=0, max_records=None)
    return msgspec.structs.replace(profile, expect=expect)


# --- a run of a document --------------------------------------------------------------------------


@dataclass(slots=True)
class Run:
    """What reading and mapping the bytes gave."""

    records: list[MappedRecord] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    failure: str = ""


def run_of(profile: Profile, data: bytes, path: Path, charset: str = "") -> Run:
    """Read and map ``data`` as a drone would."""
    path.write_bytes(data)
    found = Run()
    mapping = Mapping(profile)
    form = profile.source.format
    content = SpooledContent(path, Bounds(), "auto", "", charset)
    context = mapping.context(Bounds())
    try:
        if profile.source.success:
            _check_success(profile.source.success, content)
        for row in reader_of(form)(content, form, context):
            for one in mapping.map(row, 0):
                (found.rejects if isinstance(one, Reject) else found.records).append(one)  # type: ignore[arg-type]
    except (ParseFailed, MappingRefused, SourceRefused) as error:
        found.failure = f"{error.code}: {error.detail}"
    return found


def _check_success(success: Success, content: SpooledContent) -> None:
    said = lookup(content, (success.path,), Bounds()).get(success.path)
    text = str(said).lower() if isinstance(said, bool) else str(said)
    if text not in success.equals:
        raise SourceRefused(f"cannot use the answer: the source says {text!r}")


Judge = Callable[[Profile, Run, Run], "Verdict | None"]
"""Profile, the run before, the run of the mutated document → why it is not published, if so."""


def _read(_profile: Profile, _before: Run, now: Run) -> Verdict | None:
    return Verdict(FAILED, now.failure) if now.failure else None


def _rejects(profile: Profile, _before: Run, now: Run) -> Verdict | None:
    if len(now.rejects) <= profile.max_rejects:
        return None
    first = now.rejects[0]
    return Verdict(REJECTED, f"{first.field}: {first.reason}")


def _keys(profile: Profile, _before: Run, now: Run) -> Verdict | None:
    repeated = len(now.records) - len({tuple(map(repr, r.key)) for r in now.records})
    if repeated and profile.duplicates == "error":
        return Verdict(FAILED, "duplicate-keys")
    return None


def _expectations(profile: Profile, before: Run, now: Run) -> Verdict | None:
    version = ProfileVersion(
        name=profile.name,
        digest=profile_digest(profile),
        profile=profile,
        published_at="",
        published_by="",
    )
    rules = rules_of(version)
    violations = rules.check(now.records)
    if violations.count:
        return Verdict(FAILED, f"expectation-failed: {violations.first}")
    # What every shipped profile says in its own numbers: half of what is usual is too few.
    if len(now.records) < usual_least(before):
        return Verdict(FAILED, "too-few-records")
    return None


def usual_least(before: Run) -> int:
    """The fewest records that are enough."""
    return math.ceil(len(before.records) * 0.6)


def _drift(profile: Profile, before: Run, now: Run) -> Verdict | None:
    allowed = set(profile.expect.drift_allowed)
    for one in drift_of(shape_of(now.records), shape_of(before.records)):
        if one.breaking and profile.expect.drift == "fail" and not {one.field, one.kind} & allowed:
            return Verdict(FAILED, f"schema-drift: {one.field} {one.kind}")
    return None


JUDGES: list[Judge] = [_read, _rejects, _keys, _expectations, _drift]


def judged(profile: Profile, before: Run, now: Run, expected: list[MappedRecord] | None) -> Verdict:
    """The one outcome. ``expected``: the right records, if there are such."""
    for judge in JUDGES:
        verdict = judge(profile, before, now)
        if verdict is not None:
            return verdict
    found = contents(published(profile, before.records, now.records))
    if found == contents(before.records):
        return Verdict(UNCHANGED)
    if expected is not None and found == contents(expected):
        return Verdict(RIGHT)
    return Verdict(WRONG, _difference(expected or before.records, now.records))


def published(
    profile: Profile, before: list[MappedRecord], now: list[MappedRecord]
) -> list[MappedRecord]:
    """What readers see after ``now`` came where ``before`` was: records that were appended stay."""
    if profile.mode != "append":
        return now
    return list({repr(record.key): record for record in (*before, *now)}.values())


def contents(records: list[MappedRecord]) -> list[str]:
    """What records say, wherever they stood and however the time was spelled, in one order."""
    return sorted(
        repr(
            msgspec.structs.replace(
                record,
                position=0,
                period=record.period and msgspec.structs.replace(record.period, text=""),
            )
        )
        for record in records
    )


def _difference(expected: list[MappedRecord], found: list[MappedRecord]) -> str:
    fresh = sorted({*contents(found)} - {*contents(expected)})
    return f"{len(found)} records, expected {len(expected)}; {(fresh or ['fewer'])[0][:200]}"


# --- mutations ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Case:
    """One mutated document and what may come of it."""

    source: str
    kind: str
    detail: str
    data: bytes
    allowed: tuple[str, ...]
    charset: str = ""
    expected: Callable[[list[MappedRecord]], list[MappedRecord]] | None = None
    """From the records before to the right ones."""


Mutate = Callable[[str, Document, random.Random], Iterator[Case]]
MUTATIONS: dict[str, Mutate] = {}


def mutation(kind: str) -> Callable[[Mutate], Mutate]:
    def register(mutate: Mutate) -> Mutate:
        MUTATIONS[kind] = mutate
        return mutate

    return register


def measure_of(found: Document) -> tuple[str, str] | None:
    """A measure that most rows have: its name and path."""
    for name, entry in found.profile.measures.items():
        path = as_measure(entry).path
        if path == "#value":
            path = "UNRATE"
        if path and not path.startswith("$$"):
            there = [t for row in found.rows if (t := found.get(row, path)) and t.strip()]
            if len(there) > len(found.rows) * 0.6:
                return name, path
    return None


def unit_of(found: Document) -> str:
    for entry in found.profile.measures.values():
        path = as_measure(entry).unit_path
        if path and not path.startswith(("$$", "#", "..", "/")):
            return path
    return ""


def time_of(found: Document) -> str:
    period = found.profile.period
    path = (period.path or period.join[0]) if period else ""
    return "" if path.startswith("#") else path


def _numbered(found: Document, path: str) -> list[Any]:
    """The rows with a number other than zero at a path."""
    rows = []
    for row in found.rows:
        text = found.get(row, path)
        try:
            if text and float(text.replace(",", "")) != 0:
                rows.append(row)
        except ValueError:
            continue
    return rows


def _each(
    name: str,
    kind: str,
    detail: str,
    found: Document,
    path: str,
    change: Callable[[str], str],
    *allowed: str,
    rows: list[Any] | None = None,
) -> Iterator[Case]:
    """The values at a path changed, in all rows or in some."""
    made = found.copy()
    index = [found.rows.index(row) for row in rows] if rows is not None else range(len(found.rows))
    for at in index:
        text = made.get(made.rows[at], path)
        if text:
            made.put(made.rows[at], path, change(text))
    data = made.bytes()
    if data != found.bytes():
        yield Case(name, kind, detail, data, allowed)


@mutation("type")
def types(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    measure = measure_of(found)
    if measure is None:
        return
    for text in ("suppressed", "12a", "1 2", "--5"):
        row = [rng.choice(found.rows)]
        yield from _each(
            name,
            "type",
            f"one number is {text!r}",
            found,
            measure[1],
            lambda _, text=text: text,
            REJECTED,
            rows=row,
        )
    yield from _each(
        name, "type", "all numbers are texts", found, measure[1], lambda t: f"about {t}", REJECTED
    )


@mutation("unit")
def units(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    if path := unit_of(found):
        yield from _each(
            name, "unit", "another unit is named", found, path, lambda t: f"k{t}", FAILED
        )
    measure = measure_of(found)
    if found.profile.unpivot and isinstance(found, TableDocument):
        made = found.copy()
        for row in made.rows:
            row[1:] = [_times(cell, 1000) for cell in row[1:]]
        yield Case(name, "unit", "every series is in thousands", made.bytes(), (FAILED,))
        return
    if measure is not None and len(_numbered(found, measure[1])) > 20:
        for factor in (1000, 1_000_000):
            yield from _each(
                name,
                "unit",
                f"numbers are {factor} times as large",
                found,
                measure[1],
                lambda t, factor=factor: _times(t, factor),
                FAILED,
                REJECTED,
            )


def _times(text: str, factor: int) -> str:
    from decimal import Decimal

    if not text:
        return text

    try:
        return format(Decimal(text.replace(",", "")) * factor, "f")
    except ArithmeticError:
        return text


@mutation("null spelling")
def nulls(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    measure = measure_of(found)
    if measure is None:
        return
    for text in ("n/k", "<NA>", "#REF!", "–"):
        rows = rng.sample(found.rows, min(3, len(found.rows)))
        yield from _each(
            name,
            "null spelling",
            f"missing is {text!r}",
            found,
            measure[1],
            lambda _, text=text: text,
            REJECTED,
            rows=rows,
        )


@mutation("rename")
def renamed(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    wanted = [path for path in (measure_of(found) or ("", ""))[1:] if path]
    for entry in found.profile.dimensions.values():
        path = as_field(entry).path or ""
        if path and not path.startswith(("$$", "#", "..", "/")):
            wanted.append(path)
            break
    wanted += [time_of(found)] if time_of(found) and not time_of(found).startswith("$$") else []
    for path in wanted:
        if path == "UNRATE":
            continue
        made = found.copy()
        made.rename(path)
        if made.bytes() != found.bytes():
            yield Case(name, "rename", f"{path} has another name", made.bytes(), (FAILED, REJECTED))


@mutation("column shift")
def shifted(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    made = found.copy()
    made.shift()
    yield Case(name, "column shift", "values moved by one", made.bytes(), (FAILED, REJECTED))


@mutation("truncated body")
def truncated(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    data = found.bytes()
    for _ in range(2):
        end = int(len(data) * rng.uniform(0.05, 0.5))
        yield Case(
            name, "truncated body", f"{end} of {len(data)} bytes", data[:end], (FAILED, REJECTED)
        )
    packed = gzip.compress(data, mtime=0)
    end = int(len(packed) * rng.uniform(0.3, 0.95))
    yield Case(
        name, "truncated body", f"{end} of {len(packed)} bytes of gzip", packed[:end], (FAILED,)
    )


@mutation("encoding")
def encodings(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    text = found.bytes().decode()
    yield Case(
        name,
        "encoding",
        "UTF-8 with a byte order mark",
        b"\xef\xbb\xbf" + text.encode(),
        (UNCHANGED,),
    )
    yield Case(
        name, "encoding", "UTF-16 with a byte order mark", text.encode("utf-16"), (UNCHANGED,)
    )
    broken = found.bytes()
    at = rng.randrange(len(broken) // 3, len(broken))
    yield Case(
        name,
        "encoding",
        "bytes that are no UTF-8",
        broken[:at] + b"\xfc\xe9" + broken[at:],
        (FAILED,),
    )
    if isinstance(found, TableDocument):
        latin = text.encode("latin-1", "ignore")
        if latin.decode("latin-1") == text:
            yield Case(
                name,
                "encoding",
                "Latin-1, as its media type says",
                latin,
                (UNCHANGED,),
                "iso-8859-1",
            )


@mutation("clock")
def clocks(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    path = time_of(found)
    if not path or path.startswith("$$"):
        return
    dated = all(re.search(r"\D\d\d\b", found.get(row, path) or "") for row in found.rows)
    changes: list[tuple[str, Callable[[str], str]]] = [
        ("the thirty-second of a month", lambda t: re.sub(r"\d\d\b", "32", t, count=0) or "32"),
        ("another order of its parts", lambda t: "~".join(reversed(re.split(r"\D", t)))),
        ("a word", lambda _: "yesterday"),
    ]
    for detail, change in changes if dated else changes[2:]:
        yield from _each(name, "clock", detail, found, path, change, REJECTED, FAILED)
    if all(re.match(r"(19|20)\d\d", found.get(row, path) or "") for row in found.rows):
        yield from _each(
            name,
            "clock",
            "a century on",
            found,
            path,
            lambda t: str(int(t[:2]) + 1) + t[2:],
            FAILED,
        )


@mutation("sign")
def signs(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    measure = measure_of(found)
    rows = _numbered(found, measure[1]) if measure else []
    if measure is None or len(rows) < 20 or found.profile.unpivot:
        return  # of a wide table, see below: one series among many cannot be told
    if sum((found.get(r, measure[1]) or "").startswith("-") for r in rows) > len(rows) * 0.01:
        return  # both signs are usual here: nobody could tell
    yield from _each(
        name,
        "sign",
        "every number is negative",
        found,
        measure[1],
        lambda t: f"-{t}",
        FAILED,
        rows=rows,
    )
    entry = as_measure(found.profile.measures[measure[0]])
    if f"measures.{measure[0]}" in found.profile.expect.ranges and not entry.codes:
        low = found.profile.expect.ranges[f"measures.{measure[0]}"].min
        if low is not None and float(low) >= 0:
            yield from _each(
                name,
                "sign",
                "one number is negative",
                found,
                measure[1],
                lambda t: f"-{t}",
                FAILED,
                rows=[rng.choice(rows)],
            )


@mutation("decimal comma")
def commas(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    measure = measure_of(found)
    if measure is None:
        return
    for detail, change in (
        ("1,5", lambda t: t.replace(".", ",") if "." in t else f"{t},5"),
        ("1.234,5", lambda t: f"1.{t[-3:].zfill(3)},5"),
        ("1'234", lambda t: f"1'{t[-3:].zfill(3)}"),
    ):
        yield from _each(
            name, "decimal comma", f"numbers as in {detail}", found, measure[1], change, REJECTED
        )


@mutation("currency")
def currencies(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    measure = measure_of(found)
    if measure is None:
        return
    for mark in ("$", "€", "£ "):
        yield from _each(
            name,
            "currency",
            f"numbers with {mark.strip()}",
            found,
            measure[1],
            lambda t, mark=mark: mark + t,
            REJECTED,
        )
    yield from _each(
        name, "currency", "numbers with a code", found, measure[1], lambda t: f"{t} EUR", REJECTED
    )


@mutation("rows")
def rows_(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    if isinstance(found, XmlDocument) or (isinstance(found, JsonDocument) and not found.lines):
        return
    made = found.copy()
    rng.shuffle(made.rows)
    yield Case(name, "rows", "in another order", made.bytes(), (UNCHANGED,))
    made = found.copy()
    made.rows.append(copy.deepcopy(rng.choice(made.rows)))
    if found.profile.key != "position" and found.profile.duplicates == "error":
        yield Case(name, "rows", "one comes twice", made.bytes(), (FAILED,))
    made = found.copy()
    gone = rng.randrange(len(made.rows))
    del made.rows[gone]
    yield Case(
        name,
        "rows",
        "one is gone",
        made.bytes(),
        (RIGHT, UNCHANGED),
        expected=lambda records: [r for r in records if r.position != gone],
    )


@mutation("harmless")
def harmless(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    made = found.copy()
    made.widen()
    yield Case(name, "harmless", "a further member", made.bytes(), (UNCHANGED,))
    yield Case(name, "harmless", "gzip", gzip.compress(found.bytes(), mtime=0), (UNCHANGED,))
    if not isinstance(found, XmlDocument) and name != "recorded/unesco-metadata-zwe":
        lines = found.bytes().replace(b"\n", b"\r\n")
        yield Case(name, "harmless", "line ends of Windows", lines, (UNCHANGED,))


@mutation("another body")
def others(name: str, found: Document, rng: random.Random) -> Iterator[Case]:
    page = b"<!DOCTYPE html><html><head><title>Sorry</title></head><body><p>Back soon</body></html>"
    yield Case(name, "another body", "a web page", page, (FAILED, REJECTED))
    yield Case(name, "another body", "nothing", b"", (FAILED,))
    yield Case(
        name, "another body", "an error in JSON", b'{"error": {"code": 429}}', (FAILED, REJECTED)
    )


NAMES = tuple(sorted(set(recorded.SOURCES) - SKIPPED))
"""The recorded sources that are mutated."""


def corpus(
    seed: int = 20261127, names: Iterable[str] = NAMES
) -> Iterator[tuple[Document, list[Case]]]:
    """Every document with its mutations, the same for the same seed."""
    for name in names:
        found = document(name)
        cases: list[Case] = []
        for kind, mutate in MUTATIONS.items():
            cases += mutate(name, found, random.Random(f"{seed}/{name}/{kind}"))
        yield found, cases


def outcomes(found: Document, cases: list[Case], path: Path) -> list[tuple[Case, Verdict]]:
    """What became of each case of one document."""
    before = run_of(found.profile, found.bytes(), path)
    assert not before.failure, before.failure
    assert not before.rejects
    results = []
    for case in cases:
        now = run_of(found.profile, case.data, path, case.charset)
        expected = case.expected(before.records) if case.expected else None
        results.append((case, judged(found.profile, before, now, expected)))
    return results
