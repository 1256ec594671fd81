"""Profiles for the tests of this slice: a good one, ways to change it, and ways to draw others."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

GOOD: dict[str, Any] = {
    "version": 1,
    "name": "rain",
    "publisher": "The Office",
    "licence": "CC0",
    "source": {
        "url": "https://example.org/rain.csv",
        "format": {"type": "csv"},
    },
    "key": ["dimensions.station", "period"],
    "dimensions": {"station": "Station"},
    "measures": {"rain": {"path": "Rain", "unit": "mm"}},
    "period": {"path": "Date", "frequency": "D"},
}


def changed(path: str, value: Any, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """The good profile with one member set, made on the way where it is missing."""
    plain = copy.deepcopy(GOOD if base is None else base)
    at: Any = plain
    *way, last = path.split("/")
    for step in way:
        at = at.setdefault(step, {})
    at[last] = value
    return plain


def without(path: str) -> dict[str, Any]:
    """The good profile with one member left out."""
    plain = copy.deepcopy(GOOD)
    at: Any = plain
    *way, last = path.split("/")
    for step in way:
        at = at[step]
    del at[last]
    return plain


def json_profile(**source: Any) -> dict[str, Any]:
    """The good profile with a JSON source."""
    plain = copy.deepcopy(GOOD)
    plain["source"] |= {"format": {"type": "json", "records": "$.data[*]"}} | source
    plain["dimensions"] = {"station": "$.station"}
    plain["measures"] = {"rain": "$.rain"}
    plain["period"] = {"path": "$.date", "frequency": "D"}
    return plain


def xml_profile(rain: str = "rain", **source: Any) -> dict[str, Any]:
    """The good profile with an XML source."""
    plain = copy.deepcopy(GOOD)
    plain["source"] |= {"format": {"type": "xml", "records": "/rows/row"}} | source
    plain["dimensions"] = {"station": "@station"}
    plain["measures"] = {"rain": {"path": rain}}
    plain["period"] = {"path": "date", "frequency": "D"}
    return plain


# --- drawing profiles ---------------------------------------------------------------------------

_words = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1
).filter(lambda text: len(text) < 60)
_awkward = st.sampled_from(
    ["no", "1e3", "08", "~", "null", "true", "1_000", "0o7", "2020-01-01", "1:30", "=", "<<", "- a"]
)
texts = _words | _awkward
field_names = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True).filter(
    lambda name: not name.endswith("_missing") and name != "period"
)
_durations = st.builds(
    "{}{}".format, st.integers(1, 999), st.sampled_from(["s", "m", "h", "d", "w"])
)
_decimals = st.decimals(-1000, 1000, places=3, allow_nan=False).map(str)


@st.composite
def fields(draw: st.DrawFn, *, measure: bool = False) -> Any:
    """A field of a table."""
    if draw(st.booleans()):
        return draw(_words.filter(lambda text: not text.startswith(("$", "@", "#"))))
    kind = draw(st.sampled_from(["decimal", "integer"] if measure else ["string", "date"]))
    entry: dict[str, Any] = {"type": kind, "description": draw(texts)}
    origin = draw(st.sampled_from(["path", "join"]))
    entry[origin] = "Column" if origin == "path" else ["Column", "Other column"]
    if draw(st.booleans()):
        entry["nulls"] = draw(st.lists(texts, max_size=3))
    if measure and draw(st.booleans()):
        entry["multiplier"] = draw(st.sampled_from(["1", "1000", "0.001", "-1"]))
    if kind == "string":
        entry["pad"] = draw(st.integers(0, 64))
    return entry


@st.composite
def profiles(draw: st.DrawFn) -> dict[str, Any]:
    """A good profile as plain data, members in any order, defaults written out or not."""
    names = draw(st.lists(field_names, min_size=2, max_size=8, unique=True))
    dimensions, measures = names[: len(names) // 2], names[len(names) // 2 :]
    plain: dict[str, Any] = {
        "version": 1,
        "name": draw(st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True)),
        "publisher": draw(texts),
        "licence": draw(texts | st.fixed_dictionaries({"name": texts})),
        "source": {
            "url": "https://example.org/data.csv",
            "format": {"type": "csv", "skip_lines": draw(st.integers(0, 9))},
            "headers": draw(st.dictionaries(st.sampled_from(["Accept", "X-One"]), st.just("a"))),
        },
        "key": [f"dimensions.{name}" for name in dimensions],
        "dimensions": {name: draw(fields()) for name in dimensions},
        "measures": {name: draw(fields(measure=True)) for name in measures},
    }
    for member, values in {
        "title": texts,
        "description": texts,
        "mode": st.sampled_from(["snapshot", "append"]),
        "nulls": st.lists(texts, max_size=4),
        "enabled": st.booleans(),
        "max_rejects": st.integers(0, 2**53 - 1),
        "freshness": _durations,
        "schedule": st.fixed_dictionaries({"every": _durations}),
        "limits": st.fixed_dictionaries({}, optional={"max_pages": st.integers(1, 10_000)}),
        "expect": st.builds(
            lambda low, high: {"ranges": {f"measures.{measures[0]}": {"min": low, "max": high}}},
            st.just("-1000.5"),
            _decimals.filter(lambda text: float(text) > -1000),
        ),
    }.items():
        if draw(st.booleans()):
            plain[member] = draw(values)
    order = draw(st.permutations(list(plain)))
    return {member: plain[member] for member in order}


RESERVED = {"runnable", "schema", "files"}
