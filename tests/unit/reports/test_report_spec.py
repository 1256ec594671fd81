"""A spec is read strictly, and everything that is wrong with it is said at once."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from holdfast.reports.errors import SpecInvalid
from holdfast.reports.model import CorrelationOutput, ReportSpec, TableOutput
from holdfast.reports.spec import Names, canonical_spec, read_spec, spec_digest, spec_schema

GOOD = """
version: 1
name: co2
inputs:
  co2: {profile: scripps-co2-monthly, measures: [co2], aggregate: {by: [year], min_count: 12}}
  temperature: {profile: nasa-global-temp-annual, measures: [anomaly], period: {from: 1959}}
join: {on: [year]}
derive: {ratio: "co2 / anomaly"}
output: {type: correlation, x: co2, y: anomaly, first_differences: true}
"""


def problems_of(text: str) -> dict[str, str]:
    with pytest.raises(SpecInvalid) as caught:
        read_spec(text.encode())
    assert caught.value.problems, "a refusal lists its problems"
    return {problem.path: problem.message for problem in caught.value.problems}


def test_a_good_spec_is_read_with_its_words_as_words() -> None:
    spec = read_spec(GOOD.encode())
    assert isinstance(spec.output, CorrelationOutput)
    assert spec.join is not None
    assert spec.join.keys == ["year"]  # `on` is a word here, not a truth value
    period = spec.inputs["temperature"].period
    assert period is not None
    assert str(period.start) == "1959"


def test_json_and_yaml_of_the_same_spec_have_one_digest() -> None:
    spec = read_spec(GOOD.encode())
    again = read_spec(msgspec.json.encode(spec), media_type="application/json")
    assert spec_digest(again) == spec_digest(spec)


def test_defaults_written_out_do_not_change_the_digest() -> None:
    spec = read_spec(GOOD.encode())
    written = GOOD.replace(
        "{by: [year], min_count: 12}", "{by: [year], function: mean, min_count: 12}"
    )
    assert canonical_spec(read_spec(written.encode())) == canonical_spec(spec)


def test_every_problem_is_listed_with_its_path_and_line() -> None:
    text = """
version: 2
nme: co2
name: CO2
inputs:
  co2: {profile: p, measures: [co2, 3], aggregate: {by: [], function: median, min_count: 0}}
  Upper: {measures: x}
join: {on: [{name: a, ov: 1}, 3]}
derive: {r: 3, q: {}}
output: {type: corelation}
chart: []
"""
    found = problems_of(text)
    assert set(found) == {
        "nme",
        "version",
        "name",
        "inputs.co2.measures[1]",
        "inputs.co2.aggregate.by",
        "inputs.co2.aggregate.function",
        "inputs.co2.aggregate.min_count",
        "inputs.Upper",
        "inputs.Upper.profile",
        "inputs.Upper.measures",
        "join.on[0].ov",
        "join.on[0].of",
        "join.on[1]",
        "derive.r",
        "derive.q.expression",
        "output.type",
        "chart",
    }
    with pytest.raises(SpecInvalid) as caught:
        read_spec(text.encode())
    lines = {problem.path: problem.line for problem in caught.value.problems}
    assert lines["name"] == 4
    assert lines["inputs.co2.aggregate.by"] == 6
    assert lines["inputs.Upper.profile"] == 7


@pytest.mark.parametrize(
    ("old", "new", "path", "word"),
    [
        ("join: {on: [year]}", "", "join", "missing"),
        ("x: co2", "x: carbon", "output.x", "no column"),
        ("y: anomaly", "y: co2.co2", "output.y", "same column"),
        ("by: [year]", "by: [month]", "join.on[0]", "not among"),
        ("co2 / anomaly", "co2 / nothing", "derive.ratio", "no column"),
        ("co2 / anomaly", "ratio + 1", "derive.ratio", "derived itself"),
        ("ratio:", "co2:", "derive.co2", "another column"),
        ("{from: 1959}", "{from: 1959, until: 1950}", "inputs.temperature.period", "before"),
        ("{from: 1959}", "{from: 1959, until: 1959-01-01}", "inputs.temperature.period", "before"),
        ("on: [year]", "on: [{name: y, of: {co2: year}}]", "join.on[0].of.temperature", "missing"),
        ("on: [year]", "on: [year, year]", "join.on", "twice"),
        ("measures: [co2]", "measures: [co2, co2]", "inputs.co2", "twice"),
        ("measures: [co2]", "dimensions: [a], measures: [co2]", "inputs.co2.dimensions", "meaning"),
        ("first_differences: true", "lags: [1, 1]", "output.lags", "twice"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_named(
    old: str, new: str, path: str, word: str
) -> None:
    assert old in GOOD
    found = problems_of(GOOD.replace(old, new))
    assert path in found
    assert word in found[path]


def test_first_differences_need_one_time_as_key() -> None:
    text = GOOD.replace("{by: [year], min_count: 12}", "{by: [year, station]}")
    text = text.replace("on: [year]", "on: [year, station]")
    assert "one order" in problems_of(text)["output.first_differences"]


def test_a_name_that_could_mean_two_columns_is_refused_with_both() -> None:
    text = GOOD.replace("[anomaly]", "[co2]").replace("y: anomaly", "y: temperature.co2")
    found = problems_of(text)
    assert "co2.co2 or temperature.co2" in found["output.x"]


@pytest.mark.parametrize(
    "text",
    [
        b"a: &x 1\nb: *x",
        b"a: 1\na: 2",
        b"a: !!python/object/apply:os.system [id]",
        b"- 1",
        b"\xff\xfe\x00",
        b"[[[",
        b"a: 1\n---\nb: 2",
        b"",
        b"{" * 5000,
        b"name: " + b"x" * 300_000,
    ],
)
def test_what_is_no_spec_is_refused_as_invalid(text: bytes) -> None:
    with pytest.raises(SpecInvalid):
        read_spec(text)


def test_columns_are_known_by_bare_name_only_where_one_bears_it() -> None:
    spec = read_spec(
        b"""
version: 1
name: two
inputs:
  a: {profile: p, measures: [t, only]}
  b: {profile: q, measures: [t]}
join: {on: [day]}
output: {type: table}
"""
    )
    assert isinstance(spec.output, TableOutput)
    names = Names(spec)
    assert names.all() == ["day", "a.t", "a.only", "b.t"]
    assert names.resolve("only") == "a.only"
    assert [names.shown(name) for name in names.all()] == ["day", "a.t", "only", "b.t"]
    with pytest.raises(LookupError):
        names.resolve("t")


def test_the_published_schema_accepts_what_the_reader_accepts() -> None:
    import jsonschema_rs

    validator = jsonschema_rs.validator_for(spec_schema())
    good = msgspec.to_builtins(read_spec(GOOD.encode()))
    assert validator.is_valid(good)
    assert not validator.is_valid({**good, "version": 2})
    assert not validator.is_valid({**good, "extra": 1})
    assert msgspec.convert(good, ReportSpec) == read_spec(GOOD.encode())


def test_the_reference_names_every_member_and_function() -> None:
    from holdfast.reports import model
    from holdfast.reports.expression import FUNCTIONS

    text = (Path(__file__).parents[3] / "docs/reference/report.md").read_text(encoding="utf-8")
    parts = (
        model.ReportSpec, model.Input, model.PeriodFilter, model.Aggregate, model.Join,
        model.JoinKey, model.Derived, model.TableOutput, model.CorrelationOutput, model.Chart,
    )  # fmt: skip
    members = {field.encode_name for part in parts for field in msgspec.structs.fields(part)}
    unnamed = {word for word in members | set(FUNCTIONS) if not re.search(rf"\b{word}\b", text)}
    assert unnamed == set()


def test_the_spec_in_the_reference_is_sound() -> None:
    text = (Path(__file__).parents[3] / "docs/reference/report.md").read_text(encoding="utf-8")
    shown = re.findall(r"```yaml\n(version: .*?)```", text, re.DOTALL)
    assert shown
    for spec in shown:
        read_spec(spec.encode())
