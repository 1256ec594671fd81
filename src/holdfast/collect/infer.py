"""What a source's rows look like: a guess for people to start a profile from. Pure.

A guess is only that: it says what held for the rows that were looked at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from msgspec import Struct

from holdfast.collect import values
from holdfast.collect.model import Number, RawRow
from holdfast.collect.paths import member_step
from holdfast.collect.values import printable
from holdfast.registry.model import is_tabular
from holdfast.registry.source import FeedFormat, Format, XmlFormat

NULL_SPELLINGS = frozenset(
    {
        "", "-", "--", "---", ".", "..", "...", ":", "*", "?", "n/a", "N/A", "#N/A", "NA", "na",
        "null", "NULL", "None", "none", "nan", "NaN", "NAN", "nil", "missing", "-9999", "-999",
        "9999", "99999", "(NA)", "(D)", "(X)", "ND", "n.d.", "/",
    }
)  # fmt: skip
"""Texts that publishers write where they have no value."""

FIELDS_MAX = 500
_SAMPLES = 3
_SAMPLE_SIZE = 60
_DEPTH_MAX = 6
_EPOCH_S = (315_532_800, 4_102_444_800)  # 1980 to 2100
_TIME_NAME = re.compile(r"time|date|updated|created|stamp|epoch|(^|[._\['])(dt|ts)($|_|')", re.I)


class InferredField(Struct, frozen=True, kw_only=True):
    """One field of the rows: where it stands and what it seems to be."""

    path: str
    type: str
    """A profile's type: ``string``, ``integer``, ``decimal``, ``boolean``, ``date``, ``datetime``;
    or ``array`` for what is none."""
    format: str = ""
    nulls: list[str] = []
    """Spellings of "missing" that stand between values of another type."""
    present: int = 0
    """Rows that have a value here."""
    distinct: int = 0
    """Different values, counted up to 1,000."""
    samples: list[str] = []


@dataclass(slots=True)
class _Seen:
    texts: Counter[str] = field(default_factory=Counter)
    kinds: set[str] = field(default_factory=set)
    present: int = 0
    samples: list[str] = field(default_factory=list)

    def add(self, value: Any) -> None:
        if value is None:
            return
        self.present += 1
        self.kinds.add(_kind(value))
        text = "true" if value is True else "false" if value is False else str(value)
        if len(self.texts) < 1000 or text in self.texts:
            self.texts[text] += 1
        if (
            len(self.samples) < _SAMPLES
            and text not in self.samples
            and not isinstance(value, list)
        ):
            self.samples.append(text)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | Number):
        return "number"
    return "array" if isinstance(value, list) else "text"


def fields_of(rows: Iterable[RawRow], form: Format) -> list[InferredField]:
    """The fields of rows that a format has read."""
    if isinstance(form, XmlFormat | FeedFormat):
        from holdfast.collect.formats.xml import leaves, namespaces_of

        namespaces = namespaces_of(form)
        return _infer(leaves(row.value, namespaces) for row in rows)
    return infer((row.value for row in rows), tabular=is_tabular(form))


def texts_of(rows: Iterable[RawRow], form: Format) -> dict[str, list[str]]:
    """The different texts of each field, at most 1,000 each."""
    seen = _seen(rows, form)
    return {path: [text.strip() for text in found.texts] for path, found in seen.items()}


def written_of(rows: Iterable[RawRow], form: Format) -> frozenset[str]:
    """The fields that have texts, and no numbers that the format tells from them."""
    seen = _seen(rows, form)
    return frozenset(path for path, found in seen.items() if found.kinds == {"text"})


def _seen(rows: Iterable[RawRow], form: Format) -> dict[str, _Seen]:
    if isinstance(form, XmlFormat | FeedFormat):
        from holdfast.collect.formats.xml import leaves, namespaces_of

        namespaces = namespaces_of(form)
        return _looked_at(leaves(row.value, namespaces) for row in rows)
    root = "" if is_tabular(form) else "$"
    return _looked_at(_leaves(row.value, root, 0) for row in rows)


def cells_of(row: RawRow, form: Format) -> dict[str, str]:
    """The texts of one row by their paths; of markup none."""
    if isinstance(form, XmlFormat | FeedFormat):
        return {}
    root = "" if is_tabular(form) else "$"
    leaves = _leaves(row.value, root, 0)
    return {path: str(v).strip() for path, v in leaves if isinstance(v, str | int | Number)}


def infer(rows: Iterable[Any], *, tabular: bool = False) -> list[InferredField]:
    """The fields of ``rows``, in the order in which they were first seen, at most 500."""
    return _infer(_leaves(row, "" if tabular else "$", 0) for row in rows)


def _infer(rows: Iterable[Iterable[tuple[str, Any]]]) -> list[InferredField]:
    return [_inferred(path, found) for path, found in _looked_at(rows).items()]


def _looked_at(rows: Iterable[Iterable[tuple[str, Any]]]) -> dict[str, _Seen]:
    seen: dict[str, _Seen] = {}
    for leaves in rows:
        for path, value in leaves:
            found = seen.get(path)
            if found is None:
                if len(seen) >= FIELDS_MAX:
                    continue
                found = seen[path] = _Seen()
            found.add(value)
    return seen


def _leaves(value: Any, path: str, depth: int) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and depth < _DEPTH_MAX:
        for name, member in value.items():
            yield from _leaves(member, _joined(path, name), depth + 1)
    elif isinstance(value, list) and _are_scalars(value, _ROW_MAX if path == "$" else _SHORT_MAX):
        for index, member in enumerate(value):
            yield f"{path}[{index}]", member
    else:
        yield path or "$", value


_SHORT_MAX = 8
_ROW_MAX = 60


def _are_scalars(value: list[Any], length_max: int) -> bool:
    """Short arrays of scalars (coordinates, a row without names) are fields of their own; others
    are one thing."""
    scalars = not any(isinstance(member, dict | list) for member in value)
    return 0 < len(value) <= length_max and scalars


def _joined(path: str, name: str) -> str:
    if not path:
        return name
    return path + member_step(name)


def _inferred(path: str, seen: _Seen) -> InferredField:
    kind, pattern, nulls = _guess(path, seen)
    return InferredField(
        path=path,
        type=kind,
        format=pattern,
        nulls=nulls,
        present=seen.present,
        distinct=len(seen.texts),
        samples=[printable(text, _SAMPLE_SIZE) for text in seen.samples],
    )


def _guess(path: str, seen: _Seen) -> tuple[str, str, list[str]]:
    if "array" in seen.kinds:
        return "array", "", []
    if seen.kinds == {"boolean"}:
        return "boolean", "", []
    texts = [text for text in seen.texts if text.strip() not in NULL_SPELLINGS]
    nulls = sorted(text for text in seen.texts if text.strip() in NULL_SPELLINGS)
    if not texts:
        return "string", "", []
    for kind, pattern, fits in _candidates(path, seen):
        if all(_fits(fits, text) for text in texts):
            return kind, pattern, nulls
    return "string", "", [null for null in nulls if null == ""]


def _candidates(path: str, seen: _Seen) -> Iterable[tuple[str, str, Callable[[str], Any]]]:
    if _TIME_NAME.search(path) and seen.kinds <= {"number"}:
        yield "datetime", "epoch-ms", lambda text: _in_epoch(text, 1000)
        yield "datetime", "epoch-s", lambda text: _in_epoch(text, 1)
    if not any(_looks_padded(text) for text in seen.texts):
        yield "integer", "", _integer
        yield "decimal", "", values.decimal_text
    yield "boolean", "", lambda text: _one_of(text, {"true", "false", "True", "False"})
    yield "date", "", _date
    yield "datetime", "", lambda text: values.moment(text, "", UTC)


def _fits(check: Callable[[str], Any], text: str) -> bool:
    try:
        check(text.strip())
    except (ValueError, ArithmeticError):
        return False
    return True


def _looks_padded(text: str) -> bool:
    """A code such as ``01001`` is no number, though it is made of digits."""
    return len(text) > 1 and text[0] == "0" and text.isdigit()


def _integer(text: str) -> None:
    if "." in text or "e" in text.lower():
        raise ValueError("is written as a fraction")
    values.integer(text)


def _date(text: str) -> None:
    if len(text) != 10 and not values.is_zoned_day(text):
        raise ValueError("is longer than a date")
    values.day(text, "", UTC)


def _in_epoch(text: str, scale: int) -> None:
    if not _EPOCH_S[0] * scale <= values.integer(text) <= _EPOCH_S[1] * scale:
        raise ValueError("is not in our time")


def _one_of(text: str, allowed: set[str]) -> None:
    if text not in allowed:
        raise ValueError("is another text")
