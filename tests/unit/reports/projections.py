"""Parquet projections for tests, made straight from rows: the layout that `records` publishes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from holdfast.records.columns import FREQUENCIES_KEY, SEALED_KEY
from holdfast.reports.inputs import InputFile

Row = dict[str, Any]
SAMPLE = files("holdfast.sample") / "data"


def row(
    period: str | None,
    frequency: str | None,
    *,
    measures: dict[str, str | None],
    dimensions: dict[str, Any] | None = None,
    attributes: dict[str, Any] | None = None,
    units: dict[str, str] | None = None,
    multiplier: str = "1",
) -> Row:
    start, end = _interval(period, frequency)
    made: Row = {
        "period_start": start,
        "period_end": end,
        "period_frequency": frequency,
        **{f"dim_{name}": value for name, value in (dimensions or {}).items()},
        **{f"attr_{name}": value for name, value in (attributes or {}).items()},
    }
    for name, value in measures.items():
        made[name] = value
        made[f"{name}__double"] = None if value is None else float(value)
        made[f"{name}__unit"] = (units or {}).get(name, "")
        made[f"{name}__multiplier"] = multiplier
    return made


def _interval(period: str | None, frequency: str | None) -> tuple[str | None, str | None]:
    if period is None or frequency is None:
        return None, None
    if frequency == "A":
        return f"{period}-01-01", f"{int(period) + 1}-01-01"
    if frequency == "M":
        year, month = int(period[:4]), int(period[5:7])
        after = date(year + month // 12, month % 12 + 1, 1)
        return f"{period[:7]}-01", after.isoformat()
    if frequency == "D":
        after_day = date.fromordinal(date.fromisoformat(period).toordinal() + 1)
        return period, after_day.isoformat()
    if "/" in period:
        start, end = period.split("/")
        return start, end
    return period, period


def write(
    path: Path,
    rows: list[Row],
    *,
    shuffle: int | None = None,
    sealed: list[str] | None = None,
    frequencies: list[str] | None = None,
) -> InputFile:
    """Write a projection; the names of its columns are those of the first row.

    ``sealed`` are the columns that it says it lacks, because their fields are personal;
    ``frequencies`` those that it says its periods can have.
    """
    numbered = [{"record_id": f"r{index:08d}", "revision": 1, **r} for index, r in enumerate(rows)]
    if shuffle is not None:
        random.Random(shuffle).shuffle(numbered)
    names = list(numbered[0])
    table = pyarrow.table({name: [r[name] for r in numbered] for name in names})
    if sealed is not None:
        told = {} if frequencies is None else {FREQUENCIES_KEY: json.dumps(frequencies)}
        table = table.replace_schema_metadata({SEALED_KEY: json.dumps(sealed), **told})
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    path.write_bytes(sink.getvalue())
    return InputFile(path=str(path), digest=f"sha256:{hashlib.sha256(sink.getvalue()).hexdigest()}")


def series(
    values: list[tuple[str, str | None]], *, name: str = "value", frequency: str = "A"
) -> list[Row]:
    """One measure over time."""
    return [row(period, frequency, measures={name: value}) for period, value in values]


# --- the sample, by the profiles' names ---------------------------------------------------------


def _csv(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((SAMPLE / name).read_text(encoding="utf-8"))))


def scripps_co2_monthly() -> list[Row]:
    return [
        row(
            r["Date"][:7],
            "M",
            measures={"co2": r["CO2"] or None, "co2_adjusted": r["adjusted CO2"] or None},
            units={"co2": "ppm", "co2_adjusted": "ppm"},
        )
        for r in _csv("scripps_co2_monthly.csv")
    ]


def nasa_global_temp_annual() -> list[Row]:
    return [
        row(
            r["year"],
            "A",
            measures={"temperature_anomaly": r["temp"]},
            units={"temperature_anomaly": "°C"},
        )
        for r in _csv("nasa_global_temp_annual.csv")
    ]


def bls_employment_monthly() -> list[Row]:
    return [
        row(
            r["month"][:7],
            "M",
            measures={"nonfarm": r["nonfarm"]},
            units={"nonfarm": "thousand persons"},
        )
        for r in _csv("bls_employment_monthly.csv")
    ]


def bls_unemployment_industry() -> list[Row]:
    source = json.loads(
        (SAMPLE / "bls_unemployment_by_industry.json").read_text(encoding="utf-8"), parse_float=str
    )
    return [
        row(
            f"{r['year']}-{r['month']:02d}",
            "M",
            dimensions={"series": r["series"]},
            measures={"count": str(r["count"]), "rate": str(r["rate"])},
            units={"count": "thousand persons", "rate": "%"},
        )
        for r in source
    ]


def _weather(name: str, *, located: bool) -> list[Row]:
    return [
        row(
            r["date"],
            "D",
            dimensions={"location": r["location"]} if located else {},
            attributes={"weather": r["weather"]},
            measures={"temp_max": r["temp_max"], "precipitation": r["precipitation"]},
            units={"temp_max": "°C", "precipitation": "mm"},
        )
        for r in _csv(name)
    ]


def noaa_seattle_weather_daily() -> list[Row]:
    return _weather("noaa_seattle_weather_daily.csv", located=False)


def noaa_two_cities_weather_daily() -> list[Row]:
    return _weather("noaa_weather_two_cities_daily.csv", located=True)


PROFILES = {
    "scripps-co2-monthly": scripps_co2_monthly,
    "nasa-global-temp-annual": nasa_global_temp_annual,
    "bls-employment-monthly": bls_employment_monthly,
    "bls-unemployment-industry": bls_unemployment_industry,
    "noaa-seattle-weather-daily": noaa_seattle_weather_daily,
    "noaa-two-cities-weather-daily": noaa_two_cities_weather_daily,
}
