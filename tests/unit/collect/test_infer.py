"""What a source's rows seem to be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from holdfast.collect.infer import InferredField, infer
from holdfast.collect.model import Number
from tests.unit.collect.helpers import SAMPLE, format_of, rows


def one(*values: Any, name: str = "x") -> InferredField:
    [field] = infer([{name: value} for value in values])
    return field


@pytest.mark.parametrize(
    ("values", "kind", "pattern", "nulls"),
    [
        ((1, 2), "integer", "", []),
        (("1", "-2"), "integer", "", []),
        ((Number("1.5"), 2), "decimal", "", []),
        (("1.5", "2", "n/a"), "decimal", "", ["n/a"]),
        (("1e3",), "decimal", "", []),
        (("01001", "01003"), "string", "", []),
        ((True, False), "boolean", "", []),
        (("true", "false"), "boolean", "", []),
        (("2020-01-01", "2020-02-01"), "date", "", []),
        (("2020-01-01T00:00:00Z",), "datetime", "", []),
        (("2020-01-01", "soon"), "string", "", []),
        (("a", ""), "string", "", [""]),
        ((None,), "string", "", []),
        (("..", ".."), "string", "", []),
        (([{"a": 1}],), "array", "", []),
    ],
)
def test_types(values: tuple[Any, ...], kind: str, pattern: str, nulls: list[str]) -> None:
    found = one(*values)
    assert (found.type, found.format, found.nulls) == (kind, pattern, nulls)


def test_times_since_the_epoch_are_known_by_name_and_size() -> None:
    assert one(1517966773840, name="time").format == "epoch-ms"
    assert one(1517966773, name="updated_at").format == "epoch-s"
    assert one(1517966773, name="count").type == "integer"
    assert one(12, name="time").type == "integer"


def test_nested_members_have_paths_a_profile_can_use() -> None:
    found = infer([{"a": {"b c": 1, "d": [1.5, 2]}, "x": [{"y": 1}]}])
    assert [field.path for field in found] == ["$.a['b c']", "$.a.d[0]", "$.a.d[1]", "$.x"]


def test_counts_and_samples() -> None:
    found = one("a", "b", "a", None, "c", "d" * 100)
    assert (found.present, found.distinct, found.samples) == (5, 4, ["a", "b", "c"])
    assert len(one("d" * 100).samples[0]) == 60


def test_a_real_feed(tmp_path: Any) -> None:
    data = (SAMPLE / "usgs_earthquakes_week.geojson").read_bytes()
    found = {
        field.path: field
        for field in infer(row.value for row in rows(data, format_of(type="geojson"), tmp_path))
    }
    assert found["$.properties.mag"].type == "decimal"
    assert found["$.properties.time"].format == "epoch-ms"
    assert found["$.geometry.coordinates[2]"].type == "decimal"
    assert found["$.id"].distinct == 1000
    assert msgspec.json.encode(list(found.values()))


def test_a_table_has_columns() -> None:
    found = infer([{"County FIPS": "01001", "rate": ".097"}], tabular=True)
    assert [(field.path, field.type) for field in found] == [
        ("County FIPS", "string"),
        ("rate", "decimal"),
    ]
