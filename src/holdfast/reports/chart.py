"""Drawing a report: from its stored data to SVG or PNG, in a child process.

Vega-Lite through vl-convert, from inline data only: what is handed to the renderer holds no
address, no image and no link, the renderer may fetch from nowhere, and the child has no more than
the report it draws. Two measures over time are drawn in two panels, not on two axes of one:
where two axes cross is the drawer's choice, and readers take it for the data's.

Every chart prints the credit that the licences of its sources ask for.
"""

from __future__ import annotations

import io
import re
import textwrap
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from holdfast.kernel.errors import Internal, Invalid
from holdfast.records.listing import unit_words
from holdfast.reports.compute import answer
from holdfast.reports.model import Column, Correlation, InputUsed, Report, Statistics

if TYPE_CHECKING:
    import pyarrow

ChartFormat = Literal["svg", "png"]
VEGA_LITE = "5.21"
PNG_SCALE = 2.0
POINTS_MAX = 4000
BARS_MAX = 30
PANELS_MAX = 3
WIDTH, HEIGHT, PANEL_HEIGHT = 640, 400, 170

INK, MUTED, GRID = "#1d2733", "#5d6b7a", "#e6eaee"
BLUE, RUST, TEAL = "#1f6391", "#c4512d", "#2f7f6f"
FONT = "Liberation Sans, Helvetica, Arial, sans-serif"


class ChartJob(msgspec.Struct, frozen=True, kw_only=True):
    """Which report to draw, from which data (its Parquet file), as what."""

    report: Report
    data: bytes
    format: ChartFormat


def render(job: bytes) -> bytes:
    """The entry point of the child: :class:`ChartJob` in, an answer with the picture out."""
    return answer(lambda: draw(msgspec.msgpack.decode(job, type=ChartJob)))


def draw(job: ChartJob) -> bytes:
    """The picture; :class:`Invalid` if the report is not one to draw."""
    import pyarrow.parquet
    import vl_convert

    table = pyarrow.parquet.read_table(io.BytesIO(job.data))
    spec = chart_spec(job.report, table)
    refuse_outside(spec)
    if job.format == "svg":
        drawn: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, allowed_base_urls=[])
        return drawn.encode()
    picture: bytes = vl_convert.vegalite_to_png(
        spec, vl_version=VEGA_LITE, scale=PNG_SCALE, allowed_base_urls=[]
    )
    return picture


def refuse_outside(spec: Any) -> None:
    """Refuse whatever could make the renderer look outside: addresses, links, images."""
    if isinstance(spec, dict):
        mark = spec.get("mark")
        kind = mark.get("type") if isinstance(mark, dict) else mark
        if kind == "image" or {"url", "href", "usermeta", "datasets"} & set(spec):
            raise Internal("cannot draw: the chart names something outside itself")
        for value in spec.values():
            refuse_outside(value)
    elif isinstance(spec, list):
        for value in spec:
            refuse_outside(value)


def chart_kind(
    kind: str, correlation: Correlation | None, columns: list[Column]
) -> Literal["scatter", "series", "line", "bar", "none"]:
    """What ``chart.kind`` comes to for these columns: ``auto`` made definite."""
    numeric = [column for column in columns if column.type != "text"]
    times = [column for column in columns if column.bucket]
    texts = [column for column in columns if column.type == "text"]
    if correlation is not None:
        if kind == "auto":
            return "scatter"
        return kind  # type: ignore[return-value]
    if kind in ("auto", "line") and len(times) == 1 and len(texts) == 1 and numeric:
        return "line"
    if kind in ("auto", "bar") and texts and numeric:
        return "bar"
    return "none"


def chart_spec(report: Report, table: pyarrow.Table) -> dict[str, Any]:
    """The Vega-Lite document of a report, with its data inside."""
    match report.chart:
        case "scatter":
            body = _scatter(report, table)
        case "series" | "line":
            body = _panels(report, table)
        case "bar":
            body = _bars(report, table)
        case _:
            raise Invalid(
                f"cannot draw the report {report.name}: a picture of it would show nothing",
                code="report-without-chart",
                hint="charts need a number and something to set it against",
            )
    return {
        "$schema": f"https://vega.github.io/schema/vega-lite/v{VEGA_LITE.split('.')[0]}.json",
        "background": "white",
        "padding": {"left": 18, "right": 24, "top": 16, "bottom": 14},
        "title": _title(report),
        "vconcat": _credited(body, report.inputs),
        "spacing": 22,
        "config": _config(),
    }


# --- words --------------------------------------------------------------------------------------


def _title(report: Report) -> dict[str, Any]:
    text = report.spec.chart.title or report.title or report.name
    said = report.spec.chart.subtitle
    subtitle = [said] if said else _subtitle(report)
    return {
        "text": _lines(text, 62),
        "subtitle": [line for part in subtitle for line in _lines(part, 96)],
        "anchor": "start",
        "offset": 14,
    }


def _subtitle(report: Report) -> list[str]:
    found = report.correlation
    if found is None:
        return [report.spec.description, *_left_out(report)]
    parts = [summary_of_levels(found)]
    changes = found.first_differences
    if changes is not None and changes.pearson_r is not None:
        parts.append(
            f"Changes from row to row: r = {short(changes.pearson_r)}{_interval(changes)}, "
            f"n = {changes.n:,}"
        )
    return [*parts, *_left_out(report)]


def _left_out(report: Report) -> list[str]:
    """What of the report the picture does not show."""
    said = []
    measures = sum(column.type != "text" for column in report.columns)
    if report.chart in ("series", "line") and measures > PANELS_MAX:
        said.append(f"The first {PANELS_MAX} of {measures} measures are drawn")
    if report.chart == "bar" and measures > 1:
        drawn = next(column for column in report.columns if column.type != "text")
        said.append(f"The first of {measures} numbers, {drawn.name}, is drawn")
    if report.chart == "bar" and report.row_count > BARS_MAX:
        said.append(f"The first {BARS_MAX} of {report.row_count:,} rows are drawn")
    elif report.chart != "bar" and report.row_count > POINTS_MAX:
        step = -(-report.row_count // POINTS_MAX)
        said.append(f"One point in {step} is drawn")
    return said


def summary_of_levels(found: Correlation) -> str:
    """``r = 0.959 (95% interval 0.932 to 0.975), n = 60``, or why there is no r."""
    levels = found.levels
    if levels.pearson_r is None:
        return f"No coefficient: {levels.reason} (n = {levels.n:,})"
    return f"Pearson r = {short(levels.pearson_r)}{_interval(levels)}, n = {levels.n:,}"


def _interval(found: Statistics) -> str:
    if found.interval_low is None:
        return ""
    return f" (95% interval {short(found.interval_low)} to {short(found.interval_high)})"


def short(text: str | None, digits: int = 3) -> str:
    """A number as a person reads it, with a real minus sign."""
    return "–" if text is None else f"{float(text):.{digits}f}".replace("-", "−")


def credit_lines(inputs: list[InputUsed]) -> list[str]:
    """One line per source: what its profile asks to be said, and its licence."""
    lines = []
    for used in inputs:
        credit = used.credit
        said = credit.attribution or credit.publisher or used.profile
        licence = f" ({credit.licence})" if credit.licence and credit.licence not in said else ""
        lines.append(f"{said}{licence}")
    return list(dict.fromkeys(lines))


def _credited(views: list[dict[str, Any]], inputs: list[InputUsed]) -> list[dict[str, Any]]:
    """The credits stand under the last view."""
    lines = [line for text in credit_lines(inputs) for line in _lines(f"Data: {text}", 118)]
    views[-1]["title"] = {
        "text": lines,
        "orient": "bottom",
        "anchor": "start",
        "frame": "bounds",
        "offset": 14,
        "fontSize": 10,
        "fontWeight": "normal",
        "color": MUTED,
        "lineHeight": 13,
    }
    return views


def _lines(text: str, width: int) -> list[str]:
    plain = re.sub(r"[\x00-\x1f\x7f]+", " ", text).strip()
    return textwrap.wrap(plain, width) if plain else []


def unit_of(column: Column) -> str:
    """A column's unit and multiplier (``1000 {persons}``) in words."""
    counted = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(?: (.+))?", column.unit)
    return unit_words(counted[2] or "", counted[1]) if counted else unit_words(column.unit)


def _axis_title(report: Report, column: Column) -> str:
    labels = report.spec.chart.labels
    words = column.name.replace(".", " ").replace("_", " ")
    label = labels.get(column.name) or column.label or words[:1].upper() + words[1:]
    unit = unit_of(column)
    return f"{label} ({unit})" if unit else label


# --- a cloud of points --------------------------------------------------------------------------


def _scatter(report: Report, table: pyarrow.Table) -> list[dict[str, Any]]:
    assert report.correlation is not None, "only correlations are drawn as clouds"
    *keys, x, y = report.columns
    drawn = _thinned(table)
    times = _times(keys[0], drawn) if len(keys) == 1 and keys[0].bucket else None
    xs, ys = drawn.column(x.name).to_pylist(), drawn.column(y.name).to_pylist()
    values = [{"x": a, "y": b} for a, b in zip(xs, ys, strict=True)]
    if times:
        for value, time in zip(values, times, strict=True):
            value["t"] = time
    point: dict[str, Any] = {
        "mark": {
            "type": "point",
            "filled": True,
            "opacity": _opacity(len(values)),
            "size": _size(len(values)),
        },
        "encoding": {
            "x": _quantity("x", _axis_title(report, x)),
            "y": _quantity("y", _axis_title(report, y)),
        },
    }
    if times and len(values) <= 400:
        point["encoding"]["color"] = _time_colour(keys[0], times)
    layers = [*_line_layer(report.correlation, xs), point]
    if times and len(values) <= 400:
        names = drawn.column(keys[0].name).to_pylist()
        edges, labels = _labelled(values, names, report.correlation)
        layers = [*layers[:-1], *edges, point, *labels]
    return [{"width": WIDTH, "height": HEIGHT, "data": {"values": values}, "layer": layers}]


def _line_layer(found: Correlation, xs: list[float]) -> list[dict[str, Any]]:
    if found.slope is None or found.intercept is None or not xs:
        return []
    slope, intercept = float(found.slope), float(found.intercept)
    ends = [{"x": x, "y": intercept + slope * x} for x in (min(xs), max(xs))]
    return [
        {
            "data": {"values": ends},
            "mark": {"type": "line", "color": RUST, "strokeWidth": 2, "opacity": 0.85},
            "encoding": {"x": _field("x"), "y": _field("y")},
        }
    ]


def _labelled(
    values: list[dict[str, Any]], names: list[str], found: Correlation
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """About eight points of the cloud carry their time, the first and the last among them.

    A label stands on the far side of the line, and has a white edge under the points that keeps
    lines away from it. Answers edges and labels.
    """
    slope, intercept = float(found.slope or 0), float(found.intercept or 0)
    above = [value["y"] >= intercept + slope * value["x"] for value in values]
    left = [side == (slope >= 0) for side in above]
    sides: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for index in _spread(values, above, left):
        sides[above[index]].append({**values[index], "name": names[index]})
    edges: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for upper, labelled in sides.items():
        leftward = upper == (slope >= 0)
        text = {
            "type": "text",
            "align": "right" if leftward else "left",
            "dx": -7 if leftward else 7,
            "dy": -7 if upper else 9,
            "fontSize": 11,
        }
        for layers, extra in (
            (edges, {"stroke": "white", "strokeWidth": 4}),
            (labels, {"color": INK}),
        ):
            layers.append(
                {
                    "data": {"values": labelled},
                    "mark": {**text, **extra},
                    "encoding": {"x": _field("x"), "y": _field("y"), "text": {"field": "name"}},
                }
            )
    return edges, labels


def _spread(values: list[dict[str, Any]], above: list[bool], left: list[bool]) -> list[int]:
    """Which points carry a label: first, last and six between, where there is room for it."""
    last = len(values) - 1
    step = max(1, round(last / 7))
    xs, ys = [value["x"] for value in values], [value["y"] for value in values]
    wide, high = (max(xs) - min(xs)) or 1, (max(ys) - min(ys)) or 1
    places = [(x / wide * WIDTH, -y / high * HEIGHT) for x, y in zip(xs, ys, strict=True)]

    def crowd(index: int) -> int:
        x, y = places[index]
        x, y = x + (-24 if left[index] else 24), y + (-8 if above[index] else 8)
        return sum(
            abs(a - x) < 24 and abs(b - y) < 12 for j, (a, b) in enumerate(places) if j != index
        )

    chosen = {0, last}
    for target in range(step, last - step // 2, step):
        near = range(max(1, target - step // 3), min(last, target + step // 3 + 1))
        chosen.add(min(near, key=lambda index: (crowd(index), abs(index - target))))
    return sorted(chosen)


def _time_colour(key: Column, times: list[str]) -> dict[str, Any]:
    return {
        "field": "t",
        "type": "temporal",
        "scale": {"scheme": "viridis"},
        "legend": {
            "title": key.bucket.capitalize(),
            "gradientLength": 160,
            "gradientThickness": 10,
            # Times are UTC wherever the picture is drawn.
            "labelExpr": f"utcFormat(datum.value, '{_time_format(times)}')",
        },
    }


def _time_format(times: list[str]) -> str:
    """How much of a time tells those of one legend apart: the year, the month or the day."""
    months = [int(time[:4]) * 12 + int(time[5:7]) for time in times]
    span = max(months) - min(months)
    return "%Y" if span >= 60 else "%b %Y" if span >= 4 else "%-d %b %Y"


def _opacity(count: int) -> float:
    return 0.9 if count <= 150 else 0.55 if count <= 600 else 0.32


def _size(count: int) -> int:
    return 55 if count <= 150 else 34 if count <= 600 else 20


# --- panels over time ---------------------------------------------------------------------------


def _panels(report: Report, table: pyarrow.Table) -> list[dict[str, Any]]:
    """One panel for each measure, over the same time."""
    key = next(column for column in report.columns if column.bucket)
    numeric = [column for column in report.columns if column.type != "text"][:PANELS_MAX]
    drawn = _thinned(table.sort_by(key.name))
    times = _times(key, drawn)
    views = []
    for index, (column, colour) in enumerate(zip(numeric, (BLUE, RUST, TEAL), strict=False)):
        values = [
            {"t": time, "v": value}
            for time, value in zip(times, _numbers(drawn, column), strict=True)
        ]
        last = index == len(numeric) - 1
        views.append(
            {
                "width": WIDTH + 40,
                "height": PANEL_HEIGHT if len(numeric) > 1 else HEIGHT - 80,
                "data": {"values": values},
                "mark": {
                    "type": "line",
                    "color": colour,
                    "strokeWidth": 2,
                    "point": {"filled": True, "size": 28, "color": colour}
                    if len(values) <= 80
                    else False,
                },
                "encoding": {
                    "x": {
                        "field": "t",
                        "type": "temporal",
                        "scale": {"type": "utc"},
                        "axis": {
                            "title": None,
                            "grid": False,
                            "labels": last,
                            "ticks": last,
                            "labelExpr": _LABEL_WITH_YEAR,
                        },
                    },
                    "y": _above(_quantity("v", _axis_title(report, column)), colour),
                },
            }
        )
    return views


_YEAR = "utcFormat(datum.value, '%Y')"
_LABEL_WITH_YEAR = (
    f"datum.index === 0 && datum.label !== {_YEAR} ? [datum.label, {_YEAR}] : datum.label"
)
"""The first mark of a time axis names its year: within one year no other would."""


def _above(quantity: dict[str, Any], colour: str) -> dict[str, Any]:
    """The title of a panel's axis, lying above it instead of standing beside it."""
    quantity["axis"] |= {
        "title": " ".join(quantity["axis"]["title"]),
        "titleAngle": 0,
        "titleAlign": "left",
        "titleAnchor": "end",
        "titleX": 0,
        "titleY": -10,
        "titleColor": colour,
        "titleFontWeight": 600,
        "minExtent": 52,
        "tickCount": 5,
    }
    return quantity


# --- bars ---------------------------------------------------------------------------------------


def _bars(report: Report, table: pyarrow.Table) -> list[dict[str, Any]]:
    """The first number by the texts that name its row; the first rows if there are many."""
    column = next(column for column in report.columns if column.type != "text")
    names = [column for column in report.columns if column.type == "text"]
    head = table.slice(0, BARS_MAX)
    texts = zip(*(head.column(name.name).to_pylist() for name in names), strict=True)
    labels = [" · ".join("–" if part is None else str(part) for part in row) for row in texts]
    values = [
        {"name": label, "rank": rank, "v": value}
        for rank, (label, value) in enumerate(zip(labels, _numbers(head, column), strict=True))
    ]
    title = " · ".join(_axis_title(report, name) for name in names)
    return [
        {
            "width": WIDTH - 60,
            "height": {"step": 20},
            "data": {"values": values},
            "mark": {"type": "bar", "color": BLUE, "cornerRadiusEnd": 2, "height": {"band": 0.72}},
            "encoding": {
                "y": {
                    "field": "name",
                    "type": "nominal",
                    "sort": {"field": "rank"},
                    "axis": {"title": title, "labelLimit": 220, "ticks": False, "domain": False},
                },
                "x": _quantity("v", _axis_title(report, column), zero=True),
            },
        }
    ]


# --- what all share -----------------------------------------------------------------------------


def _thinned(table: pyarrow.Table) -> pyarrow.Table:
    """Every k-th row, so that at most :data:`POINTS_MAX` are drawn."""
    if table.num_rows <= POINTS_MAX:
        return table
    step = -(-table.num_rows // POINTS_MAX)
    return table.take(list(range(0, table.num_rows, step)))


def _numbers(table: pyarrow.Table, column: Column) -> list[float | None]:
    exact = f"{column.name}__double"
    name = exact if exact in table.column_names else column.name
    return [None if value is None else float(value) for value in table.column(name).to_pylist()]


def _times(key: Column, table: pyarrow.Table) -> list[str]:
    """The beginning of each bucket as a UTC time."""
    return [_moment(key.bucket, text) for text in table.column(key.name).to_pylist()]


def _moment(bucket: str, text: str) -> str:
    match bucket:
        case "year":
            day = f"{text}-01-01"
        case "quarter":
            year, _, quarter = text.partition("-Q")
            day = f"{year}-{int(quarter) * 3 - 2:02d}-01"
        case "month":
            day = f"{text}-01"
        case _:
            day = text
    return f"{day}T00:00:00Z"


def _quantity(field: str, title: str, *, zero: bool = False) -> dict[str, Any]:
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"zero": zero, "nice": True},
        "axis": {"title": _lines(title, 46)},
    }


def _field(name: str) -> dict[str, Any]:
    return {"field": name, "type": "quantitative"}


def _config() -> dict[str, Any]:
    return {
        "font": FONT,
        "view": {"stroke": None},
        "title": {
            "fontSize": 19,
            "fontWeight": 600,
            "color": INK,
            "subtitleFontSize": 13,
            "subtitleColor": MUTED,
            "subtitlePadding": 6,
            "lineHeight": 23,
            "subtitleLineHeight": 17,
        },
        "axis": {
            "domainColor": "#9aa5b1",
            "gridColor": GRID,
            "tickColor": "#9aa5b1",
            "labelColor": MUTED,
            "labelFontSize": 11,
            "titleColor": INK,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "tickCount": 7,
        },
        "legend": {
            "labelColor": MUTED,
            "labelFontSize": 11,
            "titleColor": INK,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
        },
        "point": {"color": BLUE},
    }
