"""Charts are drawn from inline data only; exports carry what the report holds."""

from __future__ import annotations

import csv
import io
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet
import pytest
import vl_convert
from rich.console import Console

from holdfast.kernel.errors import Internal, Invalid
from holdfast.reports.chart import (
    VEGA_LITE,
    ChartJob,
    chart_kind,
    chart_spec,
    credit_lines,
    draw,
    refuse_outside,
    render,
)
from holdfast.reports.compute import ComputeJob, compute_report, opened
from holdfast.reports.export import ExportJob, export, rows_of_data, write_rows
from holdfast.reports.model import Column, Credit, InputUsed, Report, ReportSpec
from holdfast.reports.render import render_cloud, render_correlation, render_table
from holdfast.reports.spec import convert_spec, read_spec
from tests.unit.reports.projections import PROFILES, Row, row, write

SPECS = files("holdfast.sample") / "reports"
CREDIT = Credit(
    publisher="An office", licence="CC BY 4.0", attribution="Office of <b>Numbers</b> & Sons"
)


def made(folder: Path, spec: ReportSpec, rows: dict[str, list[Row]]) -> tuple[Report, bytes]:
    """A report as the service makes it, and its data."""
    inputs = {name: write(folder / f"{name}.parquet", rows[name]) for name in spec.inputs}
    result = compute_report(ComputeJob(spec=spec, files=inputs))
    report = Report(
        id="019a0000-0000-7000-8000-000000000000",
        name=spec.name,
        title=spec.title,
        kind="table" if result.correlation is None else "correlation",
        spec=spec,
        spec_digest="",
        inputs=[
            InputUsed(name=n, profile=i.profile, publication=1, digest="", credit=CREDIT)
            for n, i in spec.inputs.items()
        ],
        inputs_root="",
        outputs_root=result.outputs_root,
        data_digest=result.data_digest,
        data_size_bytes=len(result.data),
        columns=result.columns,
        row_count=result.row_count,
        rows=result.rows,
        correlation=result.correlation,
        notes=result.notes,
        chart=chart_kind(spec.chart.kind, result.correlation, result.columns),
        created_at="",
        created_by="operator",
    )
    return report, result.data


def sample(folder: Path, name: str) -> tuple[Report, bytes]:
    spec = read_spec((SPECS / f"{name}.yaml").read_bytes())
    rows = {key: PROFILES[source.profile]() for key, source in spec.inputs.items()}
    return made(folder, spec, rows)


def drawn(report: Report, data: bytes) -> str:
    return draw(ChartJob(report=report, data=data, format="svg")).decode()


def words(svg: str) -> str:
    return " ".join(re.findall(r">([^<>]+)</t", svg))


def test_the_scatter_says_what_it_shows(tmp_path: Path) -> None:
    svg = drawn(*sample(tmp_path, "co2-and-temperature"))
    said = words(svg)
    assert "Carbon dioxide and global temperature" in said
    assert "Pearson r = 0.959 (95% interval 0.932 to 0.975), n = 60" in said
    assert "r = 0.343" in said
    assert "CO2 at Mauna Loa, yearly mean (ppm)" in said
    assert "Global surface temperature anomaly (°C)" in said
    for year in ("1959", "2019"):
        assert year in said
    assert "Data: Office of &lt;b&gt;Numbers&lt;/b&gt; &amp; Sons (CC BY 4.0)" in said


def test_two_measures_over_time_are_two_panels(tmp_path: Path) -> None:
    report, data = sample(tmp_path, "employment-and-unemployment")
    assert report.chart == "series"
    said = words(drawn(report, data))
    assert "Nonfarm employment (thousand persons)" in said
    assert "Unemployed persons (thousand persons)" in said
    assert "2006" in said


def test_a_table_over_time_is_drawn_as_lines(tmp_path: Path) -> None:
    report, data = sample(tmp_path, "co2-and-temperature-by-year")
    assert report.chart == "line"
    assert "CO2 above 1959 (ppm)" in words(drawn(report, data))


@pytest.mark.parametrize(
    ("first", "last", "years"),
    [("2006-02", "2006-07", ["2006"]), ("2006-11", "2007-03", ["2006", "2007"])],
)
def test_the_axis_of_a_few_months_names_their_year(
    tmp_path: Path, first: str, last: str, years: list[str]
) -> None:
    report, data = sample(tmp_path, "employment-and-unemployment")
    said = words(drawn(report, months_of(report, data, first, last))).split()
    assert "March" in said
    assert [word for word in said if word in ("2005", "2006", "2007")] == years


def months_of(report: Report, data: bytes, first: str, last: str) -> bytes:
    """The rows of these months, four to six."""
    table = pyarrow.parquet.read_table(io.BytesIO(data))
    month = next(column.name for column in report.columns if column.bucket)
    kept = [first <= each <= last for each in table.column(month).to_pylist()]
    assert 4 <= sum(kept) <= 6
    cut = io.BytesIO()
    pyarrow.parquet.write_table(table.filter(kept), cut)
    return cut.getvalue()


def test_the_legend_of_a_cloud_of_a_few_months_tells_them_apart(tmp_path: Path) -> None:
    report, data = sample(tmp_path, "employment-and-unemployment")
    cloud = msgspec.structs.replace(report, chart="scatter")
    said = words(drawn(cloud, months_of(report, data, "2006-02", "2006-07")))
    assert re.findall(r"\b([A-Z][a-z]{2} 2006)", said) == ["Feb 2006", "Jul 2006"]


@pytest.mark.parametrize("rows", [30, 31])
def test_a_picture_says_what_of_the_report_it_leaves_out(tmp_path: Path, rows: int) -> None:
    report, data = made(tmp_path, by_series(), {"u": PROFILES["bls-unemployment-industry"]()})
    said = words(drawn(msgspec.structs.replace(report, row_count=rows), data))
    assert ("The first 30 of 31 rows are drawn" in said) == (rows > 30)


def by_series(**output: Any) -> ReportSpec:
    return convert_spec(
        {
            "version": 1,
            "name": "by-series",
            "title": "By series",
            "inputs": {
                "u": {
                    "profile": "bls-unemployment-industry",
                    "measures": ["count"],
                    "aggregate": {"by": ["series"], "function": "sum"},
                }
            },
            "output": {"type": "table", **output},
        }
    )


def test_a_table_by_name_is_drawn_as_bars(tmp_path: Path) -> None:
    spec = by_series(order=["-count"])
    report, data = made(tmp_path, spec, {"u": PROFILES["bls-unemployment-industry"]()})
    assert report.chart == "bar"
    said = words(drawn(report, data))
    assert "Wholesale and Retail Trade" in said
    assert "is drawn" not in said
    two = msgspec.structs.replace(spec, derive={"half": "count / 2"})
    said = words(drawn(*made(tmp_path, two, {"u": PROFILES["bls-unemployment-industry"]()})))
    assert "The first of 2 numbers, count, is drawn" in said


def test_a_png_has_twice_the_size_of_the_svg(tmp_path: Path) -> None:
    report, data = sample(tmp_path, "co2-and-temperature")
    png = draw(ChartJob(report=report, data=data, format="png"))
    assert png.startswith(b"\x89PNG\r\n")
    width = int.from_bytes(png[16:20], "big")
    found = re.search(r'width="(\d+)', drawn(report, data))
    assert found is not None
    assert abs(width - 2 * int(found[1])) <= 2


def test_a_picture_of_nothing_is_refused(tmp_path: Path) -> None:
    rows = [row(None, None, measures={"value": "1"})]
    spec = convert_spec(
        {
            "version": 1,
            "name": "numbers-only",
            "inputs": {"a": {"profile": "a", "measures": ["value"]}},
            "output": {"type": "table"},
        }
    )
    report, data = made(tmp_path, spec, {"a": rows})
    assert report.chart == "none"
    with pytest.raises(Invalid):
        draw(ChartJob(report=report, data=data, format="svg"))


# --- nothing from outside -----------------------------------------------------------------------


def test_what_is_drawn_names_nothing_outside(tmp_path: Path) -> None:
    for name in ("co2-and-temperature", "employment-and-unemployment", "two-coasts"):
        svg = drawn(*sample(tmp_path, name))
        assert not re.search(r"<(image|script|foreignObject|use|a)\b", svg)
        assert "href" not in svg
        links = set(re.findall(r"https?://[^\"' <]+", svg))
        assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


@pytest.mark.parametrize(
    "spec",
    [
        {"data": {"url": "file:///etc/hostname"}},
        {"layer": [{"mark": "image", "encoding": {}}]},
        {"layer": [{"mark": {"type": "image"}}]},
        {"vconcat": [{"encoding": {"href": {"value": "https://example.org"}}}]},
        {"mark": {"type": "point", "href": "https://example.org"}},
    ],
)
def test_a_spec_that_looks_outside_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(Internal):
        refuse_outside(spec)


def test_the_renderer_itself_fetches_from_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("x,y\n1,2\n", encoding="utf-8")
    spec = {
        "data": {"url": secret.as_uri(), "format": {"type": "csv"}},
        "mark": "text",
        "encoding": {"text": {"field": "y"}},
    }
    try:
        svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, allowed_base_urls=[])
    except ValueError as error:
        svg = str(error)
    assert ">2<" not in svg


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    title = "</text><script>alert(1)</script>\x00\x1b]0;x\x07 {{datum.x}}"
    report, data = sample(tmp_path, "co2-and-temperature")
    chart = msgspec.structs.replace(report.spec.chart, title=title)
    spec = msgspec.structs.replace(report.spec, chart=chart)
    svg = drawn(msgspec.structs.replace(report, spec=spec), data)
    assert "<script" not in svg
    assert "&lt;script&gt;alert(1)" in svg
    assert "\x00" not in svg
    assert "\x1b" not in svg


def test_the_document_holds_its_data_inline(tmp_path: Path) -> None:
    import pyarrow.parquet

    report, data = sample(tmp_path, "two-coasts")
    spec = chart_spec(report, pyarrow.parquet.read_table(io.BytesIO(data)))
    refuse_outside(spec)
    assert len(spec["vconcat"][0]["data"]["values"]) == 1461


def test_the_child_answers_with_the_picture_or_the_refusal(tmp_path: Path) -> None:
    report, data = sample(tmp_path, "co2-and-temperature")
    job = ChartJob(report=report, data=data, format="svg")
    assert opened(render(msgspec.msgpack.encode(job)), bytes).startswith(b"<svg")
    none = msgspec.structs.replace(report, chart="none")
    refused = render(msgspec.msgpack.encode(msgspec.structs.replace(job, report=none)))
    with pytest.raises(Invalid, match="would show nothing"):
        opened(refused, bytes)


def test_credits_name_each_source_once() -> None:
    used = InputUsed(name="a", profile="p", publication=1, digest="", credit=CREDIT)
    plain = InputUsed(name="b", profile="q", publication=1, digest="")
    said = InputUsed(
        name="c",
        profile="r",
        publication=1,
        digest="",
        credit=Credit(attribution="X, CC0", licence="CC0"),
    )
    assert credit_lines([used, used, plain, said]) == [
        "Office of <b>Numbers</b> & Sons (CC BY 4.0)",
        "q",
        "X, CC0",
    ]


# --- exports ------------------------------------------------------------------------------------

COLUMNS = [Column(name="name", type="text"), Column(name="value", type="decimal")]
FORMULAS = ["=1+1", "+1", "-1", "@x", "\tx", "\rx"]


def test_csv_cells_that_a_spreadsheet_would_run_are_escaped() -> None:
    rows: list[list[str | None]] = [[text, "-0.5"] for text in FORMULAS]
    found = list(csv.reader(io.StringIO(write_rows(COLUMNS, rows, "csv").decode(), newline="")))
    assert [line[0] for line in found[1:]] == [f"'{text}" for text in FORMULAS]
    assert {line[1] for line in found[1:]} == {"-0.5"}  # a number is no formula
    exact = write_rows(COLUMNS, rows, "csv", exact=True).decode()
    assert [line[0] for line in list(csv.reader(io.StringIO(exact, newline="")))[1:]] == FORMULAS


def test_a_column_of_numbers_does_not_smuggle_a_formula() -> None:
    found = write_rows(COLUMNS, [["x", "-1+cmd|'/c calc'!A0"]], "csv").decode()
    assert "'-1+cmd" in found


def test_csv_and_json_carry_what_the_report_shows() -> None:
    rows: list[list[str | None]] = [['a,"b"\nc', "1.50"], [None, None]]
    assert write_rows(COLUMNS, rows, "csv") == b'name,value\r\n"a,""b""\nc",1.50\r\n,\r\n'
    assert json.loads(write_rows(COLUMNS, rows, "json"))["rows"] == rows


def test_an_export_of_the_data_equals_the_rows_shown(tmp_path: Path) -> None:
    report, data = sample(tmp_path, "co2-and-temperature-by-year")
    assert rows_of_data(report.columns, data) == report.rows
    job = ExportJob(columns=report.columns, data=data, format="csv")
    text = opened(export(msgspec.msgpack.encode(job)), bytes)
    assert text == write_rows(report.columns, report.rows, "csv")
    assert text.startswith(b"year,co2,above_1959,temperature_anomaly\r\n2019,")


def test_the_parquet_file_carries_text_and_double(tmp_path: Path) -> None:
    import pyarrow.parquet

    report, data = sample(tmp_path, "co2-and-temperature-by-year")
    table = pyarrow.parquet.read_table(io.BytesIO(data))
    assert table.column("temperature_anomaly")[0].as_py() == "0.98"
    assert table.column("temperature_anomaly__double")[0].as_py() == 0.98
    assert report.row_count == table.num_rows


# --- the terminal -------------------------------------------------------------------------------


def printed(thing: Any) -> str:
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(thing)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_correlation_is_readable_in_a_pipe(tmp_path: Path) -> None:
    report, _ = sample(tmp_path, "co2-and-temperature")
    text = printed(render_correlation(report))
    for part in ("0.958682", "0.931521 to 0.975209", "0.944317", "0.342906", "60", "59"):
        assert part in text
    assert "Office of <b>Numbers</b>" in text


def test_each_lag_says_how_many_of_its_pairs_are_that_far_apart(tmp_path: Path) -> None:
    """Rows are paired by their order: where months are missing, one row later is not one month."""
    months = [n for n in range(1, 13) if n not in (8, 9)]
    rows = [
        row(f"2024-{n:02}", "M", measures={"x": str(n * n % 7), "y": str(n * 3 % 5)})
        for n in months
    ]
    source = {"profile": "a", "measures": ["x", "y"], "aggregate": {"by": ["month"]}}
    output = {"type": "correlation", "x": "x", "y": "y", "lags": [0, 1, -2]}
    spec = convert_spec(
        {"version": 1, "name": "lags", "title": "Lags", "inputs": {"a": source}, "output": output}
    )
    report, _ = made(tmp_path, spec, {"a": rows})
    assert [note for note in report.notes if note.startswith("lag")] == [
        "lag +1: 8 of 9 pairs are one period apart; the others reach over a gap",
        "lag -2: 6 of 8 pairs are 2 periods apart; the others reach over a gap",
    ]
    whole, _ = made(tmp_path, spec, {"a": rows[:7]})
    assert not [note for note in whole.notes if note.startswith("lag")]


def test_a_table_is_readable_in_a_pipe(tmp_path: Path) -> None:
    report, _ = sample(tmp_path, "co2-and-temperature-by-year")
    text = printed(render_table(report))
    assert "2019" in text
    assert "411.495" in text
    assert "411.49499" not in text
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    shown = readme[readme.index("Carbon dioxide and temperature, year by year") :].splitlines()
    said = text.splitlines()
    first = next(index for index, line in enumerate(said) if line.lstrip().startswith("year "))
    lines = [line.split() for line in said[first + 2 : first + 17]]
    assert lines == [line.split() for line in shown[4:19]]
    assert ["2018", "408.5875", "92.60583", "0.85"] in lines
    assert ["2006", "381.8075", "65.82583", "0.64"] in lines
    assert "10 more rows" in printed(render_table(report, limit=5))


def test_a_number_beside_much_larger_ones_keeps_its_digits(tmp_path: Path) -> None:
    """No alignment rounds 1.68 to 2, or a small number to 0."""
    values = ("123456789.37", "98765432109.123", "0.0000123", "5.05")
    rows = [row(str(2000 + n), "A", measures={"value": v}) for n, v in enumerate(values)]
    spec = convert_spec(
        {
            "version": 1,
            "name": "apart",
            "title": "Apart",
            "inputs": {"a": {"profile": "a", "measures": ["value"]}},
            "derive": {
                "third": "value / 3",
                "less": "value - 0.1",
                "tenths": "round(value / 1000, 1)",
                "none": "(0 - value) * 0",
            },
            "output": {"type": "table", "columns": ["third", "less", "tenths", "none"]},
        }
    )
    report, _ = made(tmp_path, spec, {"a": rows})
    text = printed(render_table(report))
    words = text.split()
    for shown in ("1.68333", "4.1e-06", "4.95", "-0.0999877", "123456.8", "32921810703", "0.0"):
        assert shown in words, text
    assert not {"2", "5", "-0", "-0.0", "123457"} & set(words), text


def test_what_to_say_under_a_narrow_table_is_not_as_narrow(tmp_path: Path) -> None:
    report, _ = sample(tmp_path, "co2-and-temperature-by-year")
    empty = msgspec.structs.replace(report, rows=[], row_count=0, columns=report.columns[:1])
    credit = next(line for line in printed(render_table(empty)).splitlines() if "Data:" in line)
    assert len(credit) > 30


def test_the_cloud_is_drawn_only_from_all_rows(tmp_path: Path) -> None:
    report, _ = sample(tmp_path, "co2-and-temperature")
    cloud = render_cloud(report)
    assert cloud is not None
    dots = sum(bin(ord(c) - 0x2800).count("1") for c in cloud.plain if 0x2800 <= ord(c) <= 0x28FF)
    assert 50 <= dots <= 60
    long, _ = sample(tmp_path, "two-coasts")
    assert render_cloud(long) is None


def test_a_terminal_obeys_nothing_that_a_source_says(tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\x9b31m"
    rows = [row("2000", "A", measures={"value": "1"}, dimensions={"place": hostile})]
    spec = convert_spec(
        {
            "version": 1,
            "name": "hostile",
            "title": f"A{hostile}",
            "inputs": {"a": {"profile": "a", "measures": ["value"], "dimensions": ["place"]}},
            "output": {"type": "table"},
        }
    )
    report, _ = made(tmp_path, spec, {"a": rows})
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", printed(render_table(report)))


def test_markup_in_words_is_not_obeyed(tmp_path: Path) -> None:
    report, _ = sample(tmp_path, "co2-and-temperature")
    named = msgspec.structs.replace(report, title="[bold red]x[/] [link=https://e.org]y[/link]")
    assert "[bold red]x[/]" in printed(render_correlation(named))
