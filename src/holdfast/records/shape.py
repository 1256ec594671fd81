"""The shape of what a run saw, and how it differs from what earlier runs saw. Pure.

**Shape.** For each field of the mapped records a handful of counts: how often it was there, what
kind of text it was, how large its numbers were, in which units. Counted over a sample (every n-th
record of a batch, at most :data:`SAMPLE_MAX` of each), so that it costs little; bounded, whatever
the source sends: at most :data:`FIELDS_MAX` fields with at most :data:`KINDS_MAX` kinds each. No
value is kept. A worker adds the *columns* of the source, those too that no field reads.

**Drift.** A shape against the sum of the shapes of the last good runs under the same mapping. What
makes records mean something else (a field gone, another type, a unit that jumped) is *breaking*;
the rest is worth a notice.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

import msgspec
from msgspec import Struct

from holdfast.records.model import Drift, DriftKind, MappedRecord, Measure, Scalar, SourceColumn

SAMPLE_MAX = 250
FIELDS_MAX = 400
KINDS_MAX = 16
HISTORY_RUNS = 8
"""How many good runs before are the history."""
BUCKETS_PER_DECADE = 8
OTHER = "other"

FEW = 5
"""Below this many values nothing is said about their distribution."""
SOME = 20
"""From this many on, their kind is taken to be the field's."""

_NUMBER = re.compile(r"[-+]?[0-9][0-9,.  ']*([eE][-+]?[0-9]+)?%?")
_DATE = re.compile(
    r"[0-9]{1,4}(([-/:.][0-9]{1,4}){2}|[-/:][0-9]{1,4})([T ][0-9:.]{4,18}(Z|[-+][0-9:]{4,6})?)?"
)
_GROUPED = re.compile(r"[0-9]{1,3}([.][0-9]{3})+")
"""A number with a point between thousands; nor is one point alone a date's."""


class FieldShape(Struct, kw_only=True, omit_defaults=True):
    """What was seen of one field. ``there`` of ``looked`` records had it and it was not null."""

    looked: int = 0
    there: int = 0
    kinds: dict[str, int] = {}
    units: dict[str, int] = {}
    sizes: dict[int, int] = {}
    """Numbers other than zero by order of magnitude: eight buckets a decade."""
    negative: int = 0
    padded: int = 0
    """Digits with a leading zero."""
    first: str = ""
    last: str = ""
    """The earliest and the latest, for the period."""

    def add(self, other: FieldShape) -> None:
        """Count ``other``'s as well."""
        self.looked += other.looked
        self.there += other.there
        self.negative += other.negative
        self.padded += other.padded
        self.kinds = _summed(self.kinds, other.kinds)
        self.units = _summed(self.units, other.units)
        self.sizes = dict(Counter(self.sizes) + Counter(other.sizes))
        self.first = min(filter(None, (self.first, other.first)), default="")
        self.last = max(self.last, other.last)


class Shape(Struct, kw_only=True, omit_defaults=True):
    """What was seen of every field; ``sampled`` records were looked at."""

    sampled: int = 0
    fields: dict[str, FieldShape] = {}

    def add(self, other: Shape) -> None:
        """Count ``other``'s as well; fields that one of them never had were missing there."""
        for name, seen in other.fields.items():
            mine = self.fields.get(name)
            if mine is None:
                if len(self.fields) >= FIELDS_MAX:
                    continue
                mine = self.fields[name] = FieldShape(looked=self.sampled)
            mine.add(seen)
        for name, mine in self.fields.items():
            if name not in other.fields:
                mine.looked += other.sampled
        self.sampled += other.sampled


decode_shape = msgspec.json.Decoder(Shape).decode
encode_shape = msgspec.json.Encoder().encode


def _summed(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    found = Counter(one) + Counter(other)
    if len(found) <= KINDS_MAX:
        return dict(found)
    kept = dict(found.most_common(KINDS_MAX - 1))
    kept[OTHER] = kept.get(OTHER, 0) + found.total() - sum(kept.values())
    return kept


# --- looking ------------------------------------------------------------------------------------


def shape_of(records: Sequence[MappedRecord]) -> Shape:
    """The shape of a batch."""
    stride = max(1, -(-len(records) // SAMPLE_MAX))
    sample = records[::stride]
    fields: dict[str, FieldShape] = {}
    for record in sample:
        for name, value in _scalars(record):
            _look(fields, name, value)
        for key, measure in record.measures.items():
            _look_measure(fields, f"measures.{key}", measure)
        if record.period is not None:
            seen = _of(fields, "period")
            if seen is not None:
                seen.there += 1
                _count(seen.kinds, record.period.frequency)
                start = record.period.start
                seen.first = min(seen.first, start) if seen.first else start
                seen.last = max(seen.last, start)
    for seen in fields.values():
        seen.looked = len(sample)
    return Shape(sampled=len(sample), fields=fields)


def _scalars(record: MappedRecord) -> Iterator[tuple[str, Scalar]]:
    for name, value in record.dimensions.items():
        yield f"dimensions.{name}", value
    for name, value in record.attributes.items():
        yield f"attributes.{name}", value


def _of(fields: dict[str, FieldShape], name: str) -> FieldShape | None:
    found = fields.get(name)
    if found is None and len(fields) < FIELDS_MAX:
        found = fields[name] = FieldShape(kinds={}, units={}, sizes={})
    return found


def _look(fields: dict[str, FieldShape], name: str, value: Scalar) -> None:
    seen = _of(fields, name)
    if seen is None or value is None:
        return
    seen.there += 1
    _count(seen.kinds, kind_of(value))
    if isinstance(value, str) and value[:1] == "0" and len(value) > 1 and value.isdigit():
        seen.padded += 1


def _look_measure(fields: dict[str, FieldShape], name: str, measure: Measure) -> None:
    seen = _of(fields, name)
    if seen is None or measure.value is None:
        return
    seen.there += 1
    unit = measure.unit if measure.multiplier == "1" else f"{measure.unit} × {measure.multiplier}"
    _count(seen.units, unit)
    value = float(measure.value)
    if value and math.isfinite(value):
        seen.negative += value < 0
        bucket = math.floor(math.log10(abs(value)) * BUCKETS_PER_DECADE)
        seen.sizes[bucket] = seen.sizes.get(bucket, 0) + 1


def _count(kinds: dict[str, int], kind: str) -> None:
    if kind not in kinds and len(kinds) >= KINDS_MAX - 1:
        kind = OTHER
    kinds[kind] = kinds.get(kind, 0) + 1


def kind_of(value: Scalar) -> str:
    """What a value looks like: ``number``, ``date 9-9-9``, ``words``, ``code`` (letters and
    digits), ``boolean``, or ``other``. Of a date its pattern counts, so that ``31/01/2024`` is
    another kind than ``2024-01-31``."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "number"
    text = (value or "")[:64]
    if _DATE.fullmatch(text) and not _GROUPED.fullmatch(text):
        return "date " + re.sub(r"[0-9]+", lambda found: "9" * min(len(found[0]), 4), text)[:40]
    if _NUMBER.fullmatch(text):
        return "number"
    has_letters = any(character.isalpha() for character in text)
    if has_letters:
        return "code" if any(character.isdigit() for character in text) else "words"
    return OTHER


# --- comparing ----------------------------------------------------------------------------------


def total(shapes: Iterable[Shape]) -> Shape:
    """One shape for all of them; fields that one of them never saw were missing there."""
    found = Shape(fields={})
    for shape in shapes:
        found.add(shape)
    return found


def drift_of(now: Shape, before: Shape) -> list[Drift]:
    """How the fields differ from what they were, the breaking differences first."""
    if not now.sampled or not before.sampled:
        return []
    found: list[Drift] = []
    for name in sorted({*before.fields, *now.fields}):
        was = before.fields.get(name) or FieldShape(looked=before.sampled)
        seen = now.fields.get(name) or FieldShape(looked=now.sampled)
        one = _presence(name, seen, was) or _content(name, seen, was)
        if one is not None:
            found.append(one)
    return sorted(found, key=lambda one: not one.breaking)


def _presence(name: str, now: FieldShape, before: FieldShape) -> Drift | None:
    was, there = before.there / before.looked, now.there / now.looked
    vital = not name.startswith("attributes.")
    usual = was >= 0.9 and (now.looked >= FEW or before.there == before.looked)
    if not now.there and (usual or was * now.looked >= SOME):
        return _drift(name, "missing", vital, f"was in {was:.0%} of the records, is in none")
    if was <= 0.05 and there >= 0.5 and now.there >= FEW:
        return _drift(name, "new", False, f"is in {there:.0%} of the records, was in {was:.0%}")
    if was >= 0.95 and there < 0.5 and now.looked >= SOME:
        return _drift(name, "thinned", False, f"is in {there:.0%} of the records, was in {was:.0%}")
    return None


def _content(name: str, now: FieldShape, before: FieldShape) -> Drift | None:
    if name == "period":
        return _period(name, now, before)
    if name.startswith("measures."):
        return _unit(name, now, before) or _sign(name, now, before) or _size(name, now, before)
    return _kind(name, now, before)


def _kind(name: str, now: FieldShape, before: FieldShape) -> Drift | None:
    if now.there < FEW or before.there < SOME:
        return None
    (was, times), (kind, count) = _most(before.kinds), _most(now.kinds)
    if was != kind and times >= 0.95 * before.there and count >= 0.95 * now.there:
        return _drift(name, "retyped", True, f"is {kind}, was {was}")
    if before.padded >= 0.02 * before.there and not now.padded and now.there >= SOME:
        share = before.padded / before.there
        return _drift(name, "retyped", True, f"lost its leading zeros: {share:.0%} had one")
    return None


def _period(name: str, now: FieldShape, before: FieldShape) -> Drift | None:
    if not now.there or not before.there:
        return None
    if not {*now.kinds} & {*before.kinds}:
        is_, was = "/".join(sorted(now.kinds)), "/".join(sorted(before.kinds))
        return _drift(name, "retyped", True, f"has the frequency {is_}, had {was}")
    early, late = (
        int(now.last[:4]) - int(before.first[:4]),
        int(now.first[:4]) - int(before.last[:4]),
    )
    if early < -5 or late > 5:
        return _drift(
            name,
            "jumped",
            True,
            f"goes from {now.first[:10]} to {now.last[:10]}, "
            f"went from {before.first[:10]} to {before.last[:10]}",
        )
    return None


def _unit(name: str, now: FieldShape, before: FieldShape) -> Drift | None:
    if not now.there or not before.there or OTHER in now.units or OTHER in before.units:
        return None
    fresh = {*now.units} - {*before.units}
    if not fresh:
        return None
    said = f"is in {_listed(fresh)}, was in {_listed(before.units)}"
    count = sum(now.units[unit] for unit in fresh)
    return _drift(name, "unit-changed", count >= 0.5 * now.there, said)


def _sign(name: str, now: FieldShape, before: FieldShape) -> Drift | None:
    if now.there < FEW or before.there < SOME:
        return None
    was, share = before.negative / before.there, now.negative / now.there
    if (was <= 0.01 and share >= 0.8) or (was >= 0.8 and share <= 0.01):
        return _drift(name, "sign-flipped", True, f"{share:.0%} are negative, {was:.0%} were")
    return None


def _rough(number: float) -> str:
    """Three digits of a number, written out as people do: ``1,000``, not ``1e+03``."""
    return f"{float(f'{number:.3g}'):,.12g}"


def _size(name: str, now: FieldShape, before: FieldShape) -> Drift | None:
    """A jump: both ends and the middle of the values moved the same way, by about a power of ten.

    One end alone moves when the source has an odd day; all three move when a unit does.
    """
    count, past = sum(now.sizes.values()), sum(before.sizes.values())
    if count < FEW or past < FEW:
        return None
    moves = [
        (_quantile(now.sizes, part) - _quantile(before.sizes, part)) / BUCKETS_PER_DECADE
        for part in (0.1, 0.5, 0.9)
    ]
    if abs(moves[1]) < 0.85 or min(moves) * max(moves) <= 0 or min(map(abs, moves)) < 0.5:
        return None
    typical = 10 ** (_quantile(now.sizes, 0.5) / BUCKETS_PER_DECADE)
    usual = 10 ** (_quantile(before.sizes, 0.5) / BUCKETS_PER_DECADE)
    factor = 10 ** moves[1]
    said = f"{factor:,.0f} times as large" if factor > 1 else f"{1 / factor:,.0f} times smaller"
    return _drift(
        name,
        "unit-jumped",
        True,
        f"is {said}: typically about {_rough(typical)}, was {_rough(usual)}",
    )


def _quantile(sizes: dict[int, int], part: float) -> int:
    wanted, seen = part * sum(sizes.values()), 0
    for bucket in sorted(sizes):
        seen += sizes[bucket]
        if seen >= wanted:
            return bucket
    return max(sizes)


def _most(kinds: dict[str, int]) -> tuple[str, int]:
    return max(kinds.items(), key=lambda each: (each[1], each[0]), default=("", 0))


def _listed(units: Iterable[str]) -> str:
    return ", ".join(repr(unit)[:60] for unit in sorted(units)[:4])


def _drift(
    field: str,
    kind: DriftKind,
    breaking: bool,
    detail: str,
) -> Drift:
    return Drift(field=field, kind=kind, breaking=breaking, detail=detail[:300])


# --- the source's own columns -------------------------------------------------------------------


def column_drift(now: Sequence[SourceColumn], before: Sequence[SourceColumn]) -> list[Drift]:
    """How the source's columns differ: notices all, for what matters shows in the fields.

    A column that went and one that came, of the same kind and as full, is taken to be renamed.
    """
    if not now or not before:
        return []
    was, there = {one.name: one for one in before}, {one.name: one for one in now}
    gone = [one for one in before if one.name not in there and one.filled]
    come = [one for one in now if one.name not in was and one.filled]
    found: list[Drift] = []
    for one in gone:
        heir = next((other for other in come if _alike(one, other)), None)
        if heir is None:
            found.append(_drift(f"source.{one.name}"[:200], "missing", False, "is no longer sent"))
            continue
        come.remove(heir)
        found.append(
            _drift(f"source.{one.name}"[:200], "renamed", False, f"seems to be {heir.name!r} now")
        )
    found += [_drift(f"source.{one.name}"[:200], "new", False, "is new") for one in come]
    for name in sorted({*was} & {*there}):
        old, new = was[name], there[name]
        if old.kind and new.kind and old.kind != new.kind:
            detail = f"is {new.kind}, was {old.kind}"
            found.append(_drift(f"source.{name}"[:200], "retyped", False, detail))
    return found


def _alike(one: SourceColumn, other: SourceColumn) -> bool:
    full = abs(one.filled / max(one.looked, 1) - other.filled / max(other.looked, 1)) <= 0.1
    return one.kind == other.kind and full


# --- how much came ------------------------------------------------------------------------------


def usual_records(history: Sequence[int]) -> int:
    """How many records a run usually brings: the median of the last good runs."""
    return int(median(history)) if history else 0
