"""What is seen of records, and which differences are found in it. Pure rules."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.records.model import Drift, MappedRecord, Measure, PeriodValue, SourceColumn
from holdfast.records.shape import (
    FIELDS_MAX,
    KINDS_MAX,
    SAMPLE_MAX,
    Shape,
    column_drift,
    decode_shape,
    drift_of,
    encode_shape,
    kind_of,
    shape_of,
    total,
)
from holdfast.registry.rules import DRIFT_KINDS

Change = Callable[[MappedRecord], MappedRecord]
replace = msgspec.structs.replace


def rows(count: int = 60, *, seed: int = 1, change: Change = lambda one: one) -> list[MappedRecord]:
    """Monthly prices by county; lognormal, like much of what people count."""
    dice = random.Random(seed)
    return [
        change(
            MappedRecord(
                response=0,
                position=number,
                key=[number],
                dimensions={"fips": f"{number * 331 % 60000:05d}", "day": "2024-01-31"},
                measures={
                    "price": Measure(value=f"{dice.lognormvariate(3, 1):.4f}", unit="USD"),
                    "delta": Measure(value=f"{abs(dice.gauss(5, 2)) + 0.1:.3f}", unit="K"),
                },
                attributes={"flag": "p"},
                period=PeriodValue(start="2024-01-01", end="2024-02-01", frequency="M"),
            )
        )
        for number in range(count)
    ]


def measure(name: str, **values: Any) -> Change:
    def change(one: MappedRecord) -> MappedRecord:
        scale = values.get("scale")
        old = one.measures[name]
        new = replace(
            old,
            value=f"{float(old.value or 0) * scale:.8f}"
            if scale
            else values.get("value", old.value),
            unit=values.get("unit", old.unit),
            multiplier=values.get("multiplier", old.multiplier),
        )
        return replace(one, measures={**one.measures, name: new})

    return change


def dimension(name: str, change: Callable[[str], Any]) -> Change:
    return lambda one: replace(
        one, dimensions={**one.dimensions, name: change(str(one.dimensions[name]))}
    )


def without(group: str, name: str) -> Change:
    def change(one: MappedRecord) -> MappedRecord:
        values = {key: value for key, value in getattr(one, group).items() if key != name}
        return replace(one, **{group: values})

    return change


def period(**changes: Any) -> Change:
    def change(one: MappedRecord) -> MappedRecord:
        assert one.period is not None
        return replace(one, period=replace(one.period, **changes))

    return change


def differences(change: Change, count: int = 60) -> list[Drift]:
    before = total(shape_of(rows(seed=seed)) for seed in (1, 2, 3))
    return drift_of(shape_of(rows(count, seed=9, change=change)), before)


def test_profiles_may_name_every_kind_that_breaks() -> None:
    kinds = {kind for _, _, kind in BREAKING} | {"keys-changed"}
    assert kinds == DRIFT_KINDS


BREAKING = [
    (measure("price", scale=1000), "measures.price", "unit-jumped"),
    (measure("price", scale=0.01), "measures.price", "unit-jumped"),
    (measure("price", scale=10), "measures.price", "unit-jumped"),
    (measure("price", unit="EUR"), "measures.price", "unit-changed"),
    (measure("price", multiplier="1000"), "measures.price", "unit-changed"),
    (measure("delta", scale=-1), "measures.delta", "sign-flipped"),
    (measure("price", value=None), "measures.price", "missing"),
    (without("measures", "price"), "measures.price", "missing"),
    (without("dimensions", "day"), "dimensions.day", "missing"),
    (lambda one: replace(one, period=None), "period", "missing"),
    (dimension("day", lambda _: "31/01/2024"), "dimensions.day", "retyped"),
    (dimension("fips", lambda text: f"County {text}"), "dimensions.fips", "retyped"),
    (dimension("fips", lambda text: str(int(text))), "dimensions.fips", "retyped"),
    (period(frequency="A"), "period", "retyped"),
    (period(start="1970-01-01", end="1970-02-01"), "period", "jumped"),
    (period(start="9024-01-01", end="9024-02-01"), "period", "jumped"),
]


@pytest.mark.parametrize(("change", "field", "kind"), BREAKING)
@pytest.mark.parametrize("count", [60, 25])
def test_what_makes_records_mean_something_else_is_breaking(
    change: Change, field: str, kind: str, count: int
) -> None:
    found = differences(change, count)
    assert (field, kind, True) in [(one.field, one.kind, one.breaking) for one in found]
    assert found[0].breaking


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one,
        measure("price", scale=3),
        lambda one: replace(one, period=replace(one.period, start="2024-02-01")),
        dimension("day", lambda _: "2026-12-01"),
    ],
)
def test_what_sources_do_every_day_is_no_drift(change: Change) -> None:
    assert differences(change) == []


def test_what_is_worth_a_notice_does_not_break() -> None:
    def colour(one: MappedRecord) -> MappedRecord:
        return replace(one, attributes={**one.attributes, "colour": "red"})

    assert [(one.field, one.kind, one.breaking) for one in differences(colour)] == [
        ("attributes.colour", "new", False)
    ]
    gone = differences(without("attributes", "flag"))
    assert [(one.kind, one.breaking) for one in gone] == [("missing", False)]
    third = iter(range(10_000))

    def sparse(one: MappedRecord) -> MappedRecord:
        return measure("price", value=None)(one) if next(third) % 3 else one

    assert [(one.kind, one.breaking) for one in differences(sparse)] == [("thinned", False)]


@pytest.mark.parametrize("seed", range(20))
def test_ordinary_draws_of_one_source_never_break(seed: int) -> None:
    """No false alarm: other values of the same source, few or many of them."""
    dice = random.Random(seed)
    before = total(shape_of(rows(60, seed=dice.randrange(10**6))) for _ in range(3))
    for _ in range(20):
        now = shape_of(rows(dice.choice([1, 3, 8, 60, 300]), seed=dice.randrange(10**6)))
        assert not [one for one in drift_of(now, before) if one.breaking]


def test_nothing_is_said_without_a_history_or_without_records() -> None:
    assert drift_of(shape_of(rows()), Shape()) == []
    assert drift_of(Shape(), shape_of(rows())) == []


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.text(max_size=8))
RECORDS = st.lists(
    st.builds(
        lambda dimensions, numbers: MappedRecord(
            response=0,
            position=0,
            key=[],
            dimensions=dimensions,
            measures={
                name: Measure(value=None if value is None else str(value))
                for name, value in numbers.items()
            },
        ),
        st.dictionaries(st.sampled_from("abcd"), SCALARS, max_size=4),
        st.dictionaries(
            st.sampled_from("mn"), st.one_of(st.none(), st.integers(-(10**30), 10**30)), max_size=2
        ),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(RECORDS, RECORDS)
def test_shapes_add_up_like_the_records_they_are_of(
    one: list[MappedRecord], other: list[MappedRecord]
) -> None:
    """A batch at a time or all at once: the same counts, and the same again from their JSON."""
    apart = shape_of(one)
    apart.add(shape_of(other))
    whole = shape_of(one + other)
    assert apart.sampled == whole.sampled
    assert {name: (f.looked, f.there, f.sizes, f.negative) for name, f in apart.fields.items()} == {
        name: (f.looked, f.there, f.sizes, f.negative) for name, f in whole.fields.items()
    }
    assert decode_shape(encode_shape(apart)) == apart


def test_a_shape_is_bounded_whatever_the_source_sends() -> None:
    many = [
        MappedRecord(
            response=0,
            position=0,
            key=[],
            dimensions={f"d{number}": "x" for number in range(FIELDS_MAX + 50)},
            measures={"m": Measure(value="1", unit=f"u{row}")},
        )
        for row in range(3000)
    ]
    found = shape_of(many)
    assert found.sampled <= SAMPLE_MAX
    assert len(found.fields) <= FIELDS_MAX
    few = shape_of([replace(one, dimensions={}, measures=one.measures) for one in many])
    assert len(few.fields["measures.m"].units) <= KINDS_MAX
    grown = Shape()
    for _ in range(5):
        grown.add(few)
    assert len(grown.fields["measures.m"].units) <= KINDS_MAX


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("12", "number"),
        ("-1,234.5", "number"),
        ("2024-01-31", "date 9999-99-99"),
        ("31/01/2024", "date 99/99/9999"),
        ("2024-01-31T10:00:00Z", "date 9999-99-99T99:99:99Z"),
        ("Ohio", "words"),
        ("KSEA12", "code"),
        ("--", "other"),
        (7, "number"),
        (True, "boolean"),
        ("7.25", "number"),
        ("12.75", "number"),
        ("1.234.567", "number"),
        ("31.12.2024", "date 99.99.9999"),
        ("12/2024", "date 99/9999"),
    ],
)
def test_what_a_value_looks_like(value: Any, kind: str) -> None:
    assert kind_of(value) == kind


def test_columns_of_the_source_come_go_and_are_renamed() -> None:
    def column(name: str, kind: str = "number", filled: int = 10) -> SourceColumn:
        return SourceColumn(name=name, kind=kind, looked=10, filled=filled)

    before = [column("id", "code"), column("value"), column("note", "words", 3)]
    assert column_drift(before, before) == []
    renamed = column_drift([before[0], column("amount"), before[2]], before)
    assert [(one.field, one.kind) for one in renamed] == [("source.value", "renamed")]
    assert "'amount'" in renamed[0].detail
    assert [(one.field, one.kind) for one in column_drift(before[:2], before)] == [
        ("source.note", "missing")
    ]
    assert [(one.field, one.kind) for one in column_drift([*before, column("x")], before)] == [
        ("source.x", "new")
    ]
    retyped = column_drift([before[0], column("value", "words"), before[2]], before)
    assert [(one.field, one.kind) for one in retyped] == [("source.value", "retyped")]
