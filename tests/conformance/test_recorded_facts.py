"""Real files of 31 public sources under their shipped profiles, against every fact that others
counted in them.

The expected figures are read from the manifest beside the files. A fact that speaks of the file and
not of its records (how it is escaped, how many comments it has) is in ``OF_THE_FILE``; all others
are computed from the mapped records, and no fact is passed over.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import pytest

from holdfast.collect.content import SpooledContent
from holdfast.collect.formats import reader_of
from holdfast.collect.formats.json import lookup
from holdfast.collect.model import Bounds, ReadContext
from holdfast.records.model import MappedRecord
from tests.support import recorded
from tests.support.recorded import SOURCES, facts, manifest, records_of, values
from tests.support.recorded_files import assert_as_recorded, names_of

Facts = dict[str, Any]
CHECKS: dict[str, Callable[[list[MappedRecord], str], Facts]] = {}


def checks(name: str) -> Callable[[Any], Any]:
    def register(check: Any) -> Any:
        CHECKS[name] = check
        return check

    return register


def number(value: Decimal | int) -> Any:
    """A sum as the manifest writes it."""
    return str(value.normalize()) if isinstance(value, Decimal) else value


def total(records: Iterable[MappedRecord], measure: str) -> Decimal:
    return sum(values(records, measure), Decimal(0))


def mean(found: list[Decimal], digits: int = 6) -> float:
    return float(round(sum(found, Decimal(0)) / len(found), digits))


def texts(records: Iterable[MappedRecord], field: str) -> list[Any]:
    group, _, name = field.partition(".")
    return [getattr(record, group)[name] for record in records]


def counted(records: Iterable[MappedRecord], field: str) -> dict[str, int]:
    return dict(Counter("" if v is None else v for v in texts(records, field)))


def where(records: Iterable[MappedRecord], **wanted: str) -> list[MappedRecord]:
    return [r for r in records if all(r.dimensions[k] == v for k, v in wanted.items())]


def spelled(record: MappedRecord) -> str:
    assert record.period is not None
    return record.period.text


def starts(record: MappedRecord) -> str:
    assert record.period is not None
    return record.period.start


def head(file: str, *paths: str) -> list[Any]:
    """What stands at paths of the document itself."""
    content = SpooledContent(recorded.folder() / file, Bounds(), "auto")
    found = lookup(content, paths, Bounds())
    return [found.get(path) for path in paths]


def best(records: list[MappedRecord], measure: str, choose: Any) -> MappedRecord:
    known = [r for r in records if r.measures[measure].value is not None]
    found: MappedRecord = choose(known, key=lambda r: Decimal(str(r.measures[measure].value)))
    return found


def around(name: str, file: str, path: str) -> set[Any]:
    """What stands around the records of an XML source, at a path that leads out of them."""
    form = recorded.profile(name).source.format
    content = SpooledContent(recorded.folder() / file, Bounds())
    rows = reader_of(form)(content, form, ReadContext(enclosing=(path,)))
    return {row.enclosing[0] for row in rows}


# --- one check a source ---------------------------------------------------------------------------


@checks("government/usgs-earthquakes-all-week")
def earthquakes(records: list[MappedRecord], file: str) -> Facts:
    magnitudes, depths = values(records, "magnitude"), values(records, "depth")
    count, generated = head(file, "$.metadata.count", "$.metadata.generated")
    strongest = best(records, "magnitude", max)
    felt = values(records, "felt")
    return {
        "metadata_count": count,
        "metadata_generated": _epoch(generated),
        "unique_ids": len(set(texts(records, "dimensions.id"))),
        "mag_null": len(records) - len(magnitudes),
        "mag_sum": number(sum(magnitudes)),
        "mag_mean": mean(magnitudes),
        "mag_min": float(min(magnitudes)),
        "mag_max": float(max(magnitudes)),
        "mag_negative": sum(m < 0 for m in magnitudes),
        "mag_ge_4_5": sum(m >= Decimal("4.5") for m in magnitudes),
        "max_mag_event": {
            "id": strongest.dimensions["id"],
            "place": strongest.attributes["place"],
            "mag": float(str(strongest.measures["magnitude"].value)),
        },
        "depth_km_sum": number(sum(depths)),
        "depth_km_min": float(min(depths)),
        "depth_km_max": float(max(depths)),
        "time_min": min(map(starts, records))[:23] + "Z",
        "time_max": max(map(starts, records))[:23] + "Z",
        "count_by_type": counted(records, "dimensions.event_type"),
        "count_by_net": counted(records, "dimensions.network"),
        "tsunami_flag_1": sum(v is True for v in texts(records, "attributes.tsunami")),
        "felt_not_null": len(felt),
        "felt_sum": int(sum(felt)),
    }


def _epoch(milliseconds: int) -> str:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@checks("government/usgs-water-discharge")
def water(records: list[MappedRecord], file: str) -> Facts:
    sites = []
    for site in dict.fromkeys(texts(records, "dimensions.site")):
        found = where(records, site=site)
        discharge = values(found, "discharge")
        in_order = sorted(found, key=starts)
        sites.append(
            {
                "site": site,
                "name": found[0].attributes["site_name"],
                "parameter": found[0].dimensions["parameter"],
                "unit": found[0].measures["discharge"].unit,
                "values": len(found),
                "sum": number_plain(sum(discharge)),
                "mean": mean(discharge),
                "min": _plain(min(discharge)),
                "max": _plain(max(discharge)),
                "first": in_order[0].attributes["sent_time"],
                "last": in_order[-1].attributes["sent_time"],
            }
        )
    [none] = head(file, "$.value.timeSeries[0].variable.noDataValue")
    return {
        "time_series": len(sites),
        "values_total": len(records),
        "no_data_value": int(float(none)),
        "no_data_occurrences": sum("discharge_missing" in r.attributes for r in records),
        "sites": sites,
    }


def number_plain(value: Any) -> str:
    return (
        format(Decimal(value), "f").rstrip("0").rstrip(".")
        if "." in format(Decimal(value), "f")
        else format(Decimal(value), "f")
    )


def _plain(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def _bls(measure: str) -> Callable[[list[MappedRecord], str], Facts]:
    def check(records: list[MappedRecord], file: str) -> Facts:
        series = []
        for name in dict.fromkeys(texts(records, "dimensions.series")):
            found = sorted(where(records, series=name), key=starts)
            numbers = values(found, measure)
            series.append(
                {
                    "series_id": name,
                    "observations": len(found),
                    "first": spelled(found[0]),
                    "last": spelled(found[-1]),
                    "sum": number_plain(sum(numbers)),
                    "mean": mean(numbers),
                    "min": _plain(min(numbers)),
                    "max": _plain(max(numbers)),
                    "latest_flag": [spelled(r) for r in found if r.attributes["latest"] is True],
                    "footnoted": sum(r.attributes["footnote"] is not None for r in found),
                }
            )
        assert [spelled(r) for r in where(records, series=series[0]["series_id"])] == sorted(
            (spelled(r) for r in where(records, series=series[0]["series_id"])), reverse=True
        )
        return {
            "status": head(file, "$.status")[0],
            "series": len(series),
            "observations_total": len(records),
            "by_series": series,
        }

    return check


CHECKS["government/bls-consumer-prices-components"] = _bls("index")
CHECKS["government/bls-apache-county-employment"] = _bls("employed")


@checks("government/census-county-population")
def counties(records: list[MappedRecord], _file: str) -> Facts:
    people = values(records, "population")
    smallest, largest = best(records, "population", min), best(records, "population", max)
    california, puerto_rico = where(records, state="06"), where(records, state="72")
    assert {r.attributes["state_letters"] for r in california} == {"CA"}
    return {
        "unique_state_county": len({tuple(r.key) for r in records}),
        "states_and_equivalents": len(set(texts(records, "dimensions.state"))),
        "population_sum": int(sum(people)),
        "population_mean": mean(people),
        "population_min": {
            "name": smallest.attributes["name"],
            "value": int(str(smallest.measures["population"].value)),
        },
        "population_max": {
            "name": largest.attributes["name"],
            "value": int(str(largest.measures["population"].value)),
        },
        "california_06": {
            "counties": len(california),
            "population_sum": int(total(california, "population")),
        },
        "puerto_rico_72": {
            "municipios": len(puerto_rico),
            "population_sum": int(total(puerto_rico, "population")),
        },
        "names_with_non_ascii": sorted(
            str(n) for n in texts(records, "attributes.name") if not str(n).isascii()
        ),
    }


@checks("recorded/worldbank-gdp-v1")
def gdp(records: list[MappedRecord], file: str) -> Facts:
    page = SOURCES["recorded/worldbank-gdp-v1"].index(file)
    found = [r for r in records if r.response == page]
    names = ("page", "pages", "per_page", "total")
    gdps = values(found, "gdp")
    return {
        "paging": dict(zip(names, head(file, *(f"$[0].{n}" for n in names)), strict=True)),
        "value_null": len(found) - len(gdps),
        "value_sum": number_plain(sum(gdps)),
        "first_country": _country(found[0]),
        "last_country": _country(found[-1]),
        "date_values": dict(Counter(map(spelled, found))),
    }


def _country(record: MappedRecord) -> dict[str, Any]:
    return {"id": record.dimensions["country"], "value": record.attributes["country_name"]}


@checks("recorded/worldbank-population-table")
def population(records: list[MappedRecord], _file: str) -> Facts:
    years = [int(spelled(r)) for r in records]

    def of(country: str, year: str) -> str:
        [found] = [r for r in where(records, country=country) if spelled(r) == year]
        return str(found.measures["population"].value)

    names = {str(n) for n in texts(records, "attributes.country_name") if "," in str(n)}
    return {
        "countries_and_aggregates": len(set(texts(records, "dimensions.country"))),
        "year_min": min(years),
        "year_max": max(years),
        "value_sum": str(int(total(records, "population"))),
        "usa_2014": of("USA", "2014"),
        "world_2014": of("WLD", "2014"),
        "rows_2014": years.count(2014),
        "names_with_comma": len(names),
        "non_integer_values": sum("." in str(v) for v in values(records, "population")),
    }


@checks("recorded/un-country-codes")
def codes(records: list[MappedRecord], _file: str) -> Facts:
    [namibia] = where(records, iso3="NAM")
    [france] = where(records, iso3="FRA")
    return {
        "iso3_unique": len(set(texts(records, "dimensions.iso3"))),
        "iso2_unique": len(set(texts(records, "attributes.iso2"))),
        "iso2_blank": [r.key[0] for r in records if not r.attributes["iso2"]],
        "count_by_continent": counted(records, "attributes.continent"),
        "namibia_iso2": namibia.attributes["iso2"],
        "namibia_continent_NA_string": namibia.attributes["continent"],
        "france_official_ar": france.attributes["official_name_ar"],
    }


@checks("recorded/treasury-par-yield-curve")
def yields(records: list[MappedRecord], file: str) -> Facts:
    def column(measure: str) -> Facts:
        found = values(records, measure)
        return {
            "sum": number_plain(sum(found)),
            "mean": mean(found),
            "min": _plain(min(found)),
            "max": _plain(max(found)),
        }

    def row(record: MappedRecord) -> Facts:
        return {
            "NEW_DATE": record.attributes["date_sent"],
            "BC_10YEAR": record.measures["yield_10_years"].value,
        }

    months: dict[str, list[Decimal]] = {}
    for record in records:
        months.setdefault(starts(record)[:7], []).extend(values([record], "yield_10_years"))
    ids = [int(str(i)) for i in texts(records, "attributes.id")]
    dates = [str(d) for d in texts(records, "attributes.date_sent")]
    [updated] = around("recorded/treasury-par-yield-curve", file, "/a:feed/a:updated")
    return {
        "date_min": min(dates),
        "date_max": max(dates),
        "dates_unique": len(set(dates)),
        "id_min": min(ids),
        "id_max": max(ids),
        "feed_updated": updated,
        "null_properties": sum(m.value is None for r in records for m in r.measures.values()),
        "BC_1MONTH": column("yield_1_month"),
        "BC_2YEAR": column("yield_2_years"),
        "BC_10YEAR": column("yield_10_years"),
        "BC_30YEAR": column("yield_30_years"),
        "first_row": row(records[0]),
        "last_row": row(records[-1]),
        "days_10y_below_3m": [
            starts(r)
            for r in records
            if values([r], "yield_10_years") < values([r], "yield_3_months")
        ],
        "BC_10YEAR_monthly_mean": {
            month: {"days": len(found), "mean": mean(found, 4)} for month, found in months.items()
        },
    }


@checks("government/treasury-debt-to-the-penny")
def debt(records: list[MappedRecord], file: str) -> Facts:
    amounts = values(records, "total")
    largest, smallest = best(records, "total", max), best(records, "total", min)
    cents = int(sum(amounts) * 100)
    count, pages, following = head(
        file, "$.meta['total-count']", "$.meta['total-pages']", "$.links.next"
    )

    def dated(record: MappedRecord) -> Facts:
        return {"date": starts(record), "value": record.measures["total"].value}

    return {
        "meta_count": len(records),
        "meta_total_count": count,
        "meta_total_pages": pages,
        "links_next": following,
        "date_min": min(map(starts, records)),
        "date_max": max(map(starts, records)),
        "tot_pub_debt_out_amt_sum": str(sum(amounts)),
        "tot_pub_debt_out_amt_mean": str((sum(amounts) / len(amounts)).quantize(Decimal("0.01"))),
        "first": records[0].measures["total"].value,
        "last": records[-1].measures["total"].value,
        "max": dated(largest),
        "min": dated(smallest),
        "rows_where_public_plus_intragov_equals_total": sum(
            total([r], "held_by_public") + total([r], "intragovernmental") == total([r], "total")
            for r in records
        ),
        "sum_in_cents": cents,
        "sum_in_cents_exceeds_2_pow_53": cents > 2**53,
    }


def fred(records: list[MappedRecord], file: str) -> Facts:
    numbers = values(records, "value")
    count, offset, limit, since = head(file, "$.count", "$.offset", "$.limit", "$.realtime_start")
    known = [r for r in records if r.measures["value"].value is not None]

    def dated(record: MappedRecord) -> Facts:
        return {"date": spelled(record), "value": _short(record)}

    return {
        "header_count": count,
        "offset": offset,
        "limit": limit,
        "missing_dot_values": [
            spelled(r) for r in records if r.attributes.get("value_missing") == "."
        ],
        "numeric": len(numbers),
        "date_min": min(map(spelled, records)),
        "date_max": max(map(spelled, records)),
        "value_sum": number_plain(sum(numbers)),
        "value_mean": mean(numbers),
        "value_max": dated(best(records, "value", max)),
        "value_min": dated(best(records, "value", min)),
        "first_value": _short(known[0]),
        "last_value": _short(known[-1]),
        "realtime_start": since,
    }


for _name in ("gdp-quarterly", "payrolls-monthly", "federal-funds-monthly", "dollar-euro-monthly"):
    CHECKS[f"recorded/fred-{_name}"] = fred


@checks("recorded/frb-treasury-10y-monthly")
def ten_years(records: list[MappedRecord], _file: str) -> Facts:
    rates = values(records, "yield")

    def dated(record: MappedRecord) -> Facts:
        return {"date": spelled(record), "value": record.measures["yield"].value}

    return {
        "date_min": min(map(spelled, records)),
        "date_max": max(map(spelled, records)),
        "rate_sum": number_plain(sum(rates)),
        "rate_mean": mean(rates),
        "rate_max": dated(best(records, "yield", max)),
        "rate_min": dated(best(records, "yield", min)),
        "jan_feb_mar_2019": [
            r.measures["yield"].value
            for r in records
            if starts(r)[:7] in {"2019-01", "2019-02", "2019-03"}
        ],
    }


@checks("recorded/frbny-nowcast-vintage")
def vintage(records: list[MappedRecord], _file: str) -> Facts:
    rows = {record.position: record for record in records}
    unemployment, openings = where(records, series="UNRATE"), where(records, series="JTSJOL")
    worst, fewest = best(unemployment, "value", max), best(openings, "value", min)
    series = dict.fromkeys(texts(records, "dimensions.series"))
    ordered = sorted(rows)
    return {
        "date_first": spelled(rows[ordered[0]]),
        "date_last": spelled(rows[ordered[-1]]),
        "date_first_iso": starts(rows[ordered[0]]),
        "date_last_iso": starts(rows[ordered[-1]]),
        "blank_cells": len(rows) * len(series) - len(records),
        "non_blank": counted(records, "dimensions.series"),
        "UNRATE": {
            "sum": number_plain(total(unemployment, "value")),
            "mean": mean(values(unemployment, "value")),
            "max": {"month": starts(worst)[:7], "value": worst.measures["value"].value},
        },
        "JTSJOL": {
            "first_month": min(map(starts, openings))[:7],
            "last_month": max(map(starts, openings))[:7],
            "sum": number_plain(total(openings, "value")),
            "mean": mean(values(openings, "value")),
            "min": {"month": starts(fewest)[:7], "value": fewest.measures["value"].value},
        },
        "rows_entirely_blank_except_date": [n for n in range(378) if n not in rows],
    }


@checks("recorded/noaa-co2-annual-table")
def carbon(records: list[MappedRecord], _file: str) -> Facts:
    means = values(records, "co2")
    return {
        "year_min": min(map(spelled, records)),
        "year_max": max(map(spelled, records)),
        "mean_sum": number_plain(sum(means)),
        "mean_of_means": mean(means),
        "first": records[0].measures["co2"].value,
        "last": records[-1].measures["co2"].value,
        "strictly_increasing": all(a < b for a, b in itertools.pairwise(means)),
        "uncertainty_values": sorted({str(v) for v in values(records, "uncertainty")}),
    }


@checks("recorded/nasa-noaa-temperature-annual")
def temperature(records: list[MappedRecord], _file: str) -> Facts:
    def series(name: str) -> Facts:
        found = where(records, series=name)
        numbers = values(found, "anomaly")
        warm, cold = best(found, "anomaly", max), best(found, "anomaly", min)
        return {
            "rows": len(found),
            "year_min": min(map(spelled, found)),
            "year_max": max(map(spelled, found)),
            "sum": number_plain(sum(numbers)),
            "mean": mean(numbers),
            "max": {"year": spelled(warm), "value": warm.measures["anomaly"].value},
            "min": {"year": spelled(cold), "value": cold.measures["anomaly"].value},
        }

    return {name: series(name) for name in ("GISTEMP", "gcag")}


@checks("government/nyc-bicycle-counts")
def bicycles(records: list[MappedRecord], file: str) -> Facts:
    page = SOURCES["government/nyc-bicycle-counts"].index(file)
    found = [r for r in records if r.response == page]
    numbers = values(found, "bicycles")
    local = [str(t) for t in texts(found, "attributes.local_time")]
    return {
        "counts_sum": int(sum(numbers)),
        "counts_mean": mean(numbers),
        "counts_min": int(min(numbers)),
        "counts_max": int(max(numbers)),
        "date_min": min(local),
        "date_max": max(local),
        "ids": sorted({str(i) for i in texts(found, "dimensions.counter")}),
        "status": counted(found, "attributes.status"),
        "sorted_by_date": local == sorted(local),
    }


@checks("recorded/ckan-dados-gov-br-packages")
def packages(records: list[MappedRecord], file: str) -> Facts:
    success, count, order = head(file, "$.success", "$.result.count", "$.result.sort")
    formats = [str(f).split("|") if f else [] for f in texts(records, "attributes.formats")]
    tags = [str(t).split("|") if t else [] for t in texts(records, "attributes.tag_names")]
    modified = [str(m) for m in texts(records, "attributes.modified_sent")]
    return {
        "success": success,
        "result_count_header": count,
        "resources_total": sum(map(len, formats)),
        "num_resources_matches": [len(f) for f in formats]
        == [int(v) for v in values(records, "resources")],
        "tags_total": sum(map(len, tags)),
        "num_tags_sum": int(total(records, "tags")),
        "metadata_modified_min": min(modified),
        "metadata_modified_max": max(modified),
        "names": texts(records, "attributes.name"),
        "license_titles": counted(records, "attributes.licence_title"),
        "resource_formats": dict(Counter(f for found in formats for f in found)),
        "sort": order,
    }


@checks("government/gdacs-disaster-alerts")
def alerts(records: list[MappedRecord], file: str) -> Facts:
    quakes = values(where(records, event_type="EQ"), "severity")
    for record in records:
        latitude, longitude = str(record.attributes["point"]).split()
        assert Decimal(latitude) == total([record], "latitude")
        assert Decimal(longitude) == total([record], "longitude")
    return {
        "comment_says_records_number": len(records),
        "unique_guid": len({str(r.key[0]) for r in records}),
        "by_eventtype": counted(records, "dimensions.event_type"),
        "by_alertlevel": counted(records, "dimensions.alert_level"),
        "pubdate_min": min(map(starts, records))[:19] + "Z",
        "pubdate_max": max(map(starts, records))[:19] + "Z",
        "earthquake_severity_sum": number_plain(sum(quakes)),
        "earthquake_severity_mean": mean(quakes),
        "earthquake_severity_max": str(max(quakes)),
        "with_geo_point": len(values(records, "latitude")),
        "channel_pubDate": around("government/gdacs-disaster-alerts", file, "../pubDate").pop(),
    }


@checks("recorded/openfda-covid19-serology")
def serology(records: list[MappedRecord], _file: str) -> Facts:
    euroimmun = where(records, manufacturer="Euroimmun")
    return {
        "unique_ids": len({str(r.key[0]) for r in records}),
        "manufacturers": counted(records, "dimensions.manufacturer"),
        "devices": counted(records, "dimensions.device"),
        "type": counted(records, "attributes.sample_type"),
        "group": counted(records, "attributes.sample_group"),
        "panel": counted(records, "attributes.panel"),
        "date_performed": dict(Counter(map(spelled, records))),
        "antibody_agree": counted(records, "attributes.agreement"),
        "euroimmun_antibody_agree": counted(euroimmun, "attributes.agreement"),
        "days_from_symptom_NA": sum(
            r.attributes.get("days_from_symptom_missing") == "NA" for r in records
        ),
    }


@checks("recorded/census-dc-tracts")
def tracts(records: list[MappedRecord], _file: str) -> Facts:
    largest = best(records, "land", max)
    latitudes, longitudes = values(records, "latitude"), values(records, "longitude")
    return {
        "unique_geoid": len({str(r.key[0]) for r in records}),
        "aland_sum_m2": int(total(records, "land")),
        "awater_sum_m2": int(total(records, "water")),
        "aland_max": {
            "GEOID": largest.key[0],
            "value": int(str(largest.measures["land"].value)),
        },
        "tracts_with_water": sum(v > 0 for v in values(records, "water")),
        "intptlat_min": str(min(latitudes)),
        "intptlat_max": str(max(latitudes)),
        "intptlon_min": str(min(longitudes)),
        "intptlon_max": str(max(longitudes)),
        "geometry_types": counted(records, "attributes.geometry_type"),
        "leading_plus_in_INTPTLAT": all(
            str(v).startswith("+") for v in texts(records, "attributes.latitude_sent")
        ),
        "first_geoid": records[0].key[0],
        "last_geoid": records[-1].key[0],
    }


@checks("government/cisa-known-exploited-vulnerabilities")
def vulnerabilities(records: list[MappedRecord], file: str) -> Facts:
    from datetime import date

    version, count = head(file, "$.catalogVersion", "$.count")
    vendors = Counter(texts(records, "dimensions.vendor"))
    weaknesses = [str(w).split() if w else [] for w in texts(records, "attributes.weaknesses")]
    every = Counter(w for found in weaknesses for w in found)
    days = [
        (date.fromisoformat(str(r.attributes["due"])) - date.fromisoformat(starts(r))).days
        for r in records
    ]
    expected = facts(file)
    return {
        "catalog_version": version,
        "header_count": count,
        "unique_cve": len({str(r.key[0]) for r in records}),
        "date_added_min": min(map(starts, records)),
        "date_added_max": max(map(starts, records)),
        "added_by_year": dict(sorted(Counter(starts(r)[:4] for r in records).items())),
        "ransomware": counted(records, "attributes.ransomware"),
        "top_vendors": dict(vendors.most_common(len(expected["top_vendors"]))),
        "vendors": len(vendors),
        "without_cwe": sum(not w for w in weaknesses),
        "cwe_entries": sum(map(len, weaknesses)),
        "top_cwes": dict(every.most_common(len(expected["top_cwes"]))),
        "mean_days_added_to_due": mean([Decimal(d) for d in days]),
    }


@checks("recorded/omb-budget-authority")
def budget(records: list[MappedRecord], file: str) -> Facts:
    sums: Counter[str] = Counter()
    of_2021: Counter[str] = Counter()
    rows: dict[int, MappedRecord] = {}
    separated = negative = defence = 0
    largest: tuple[int, MappedRecord] | None = None
    for record in records:
        text, value = spelled(record), int(str(record.measures["authority"].value))
        sums[text] += value
        rows.setdefault(record.position, record)
        separated += "," in str(record.attributes["written"])
        negative += value < 0
        if text == "2021":
            of_2021[str(record.dimensions["category"])] += value
            if record.dimensions["agency"] == "Department of Defense--Military Programs":
                defence += value
            if largest is None or value > largest[0]:
                largest = (value, record)
    assert largest is not None
    first = list(rows.values())
    assert {r.measures["authority"].multiplier for r in records} == {"1000"}
    [quarter] = {
        (starts(r), r.period.frequency) for r in records if r.period and spelled(r) == "TQ"
    }
    assert quarter == ("1976-07-01", "Q")
    return {
        "cells_with_thousands_separator": separated,
        "negative_cells": negative,
        "sum_by_year": {year: sums[year] for year in facts(file)["sum_by_year"]},
        "sum_2021_by_bea_category": dict(of_2021),
        "rows_by_bea_category": counted(first, "dimensions.category"),
        "agencies": len(set(texts(first, "dimensions.agency"))),
        "department_of_defense_military_2021": defence,
        "max_2021_cell": {
            "agency": largest[1].dimensions["agency"],
            "account": largest[1].dimensions["account"],
            "value": largest[1].attributes["written"],
        },
        "blank_account_code": sum(r.dimensions["account_code"] is None for r in first),
    }


@checks("government/statcan-population-quarterly")
def canada(records: list[MappedRecord], _file: str) -> Facts:
    whole = where(records, place="Canada")
    latest = [r for r in records if spelled(r) == "2023-01"]
    inside = [r for r in latest if r.dimensions["place"] != "Canada"]
    return {
        "ref_date_min": min(map(spelled, records)),
        "ref_date_max": max(map(spelled, records)),
        "geos": counted(records, "dimensions.place"),
        "canada_first": int(str(whole[0].measures["population"].value)),
        "canada_last": int(str(whole[-1].measures["population"].value)),
        "ontario_2023_01": int(total(where(latest, place="Ontario"), "population")),
        "provinces_territories_sum_2023_01": int(total(inside, "population")),
        "value_sum_all_rows": int(total(records, "population")),
        "canada_value_sum": int(total(whole, "population")),
    }


@checks("recorded/unesco-indicators-zwe")
def zimbabwe(records: list[MappedRecord], _file: str) -> Facts:
    people = where(records, indicator="200101")
    life, hiv = (
        where(records, indicator="SP.DYN.LE00.IN"),
        where(records, indicator="SH.DYN.AIDS.ZS"),
    )
    shortest, highest = best(life, "value", min), best(hiv, "value", max)
    return {
        "indicators": len(set(texts(records, "dimensions.indicator"))),
        "countries": sorted({str(c) for c in texts(records, "dimensions.country")}),
        "year_min": min(map(spelled, records)),
        "year_max": max(map(spelled, records)),
        "qualifiers": counted(records, "attributes.qualifier"),
        "magnitudes": counted(records, "attributes.magnitude"),
        "population_thousands_200101": {
            "1970": _short(next(r for r in people if spelled(r) == "1970")),
            "sum": number_plain(total(people, "value")),
            "years": len(people),
        },
        "life_expectancy_SP_DYN_LE00_IN": {
            "years": len(life),
            "sum": number_plain(total(life, "value")),
            "min": {"year": spelled(shortest), "value": _short(shortest)},
        },
        "hiv_prevalence_SH_DYN_AIDS_ZS": {
            "years": len(hiv),
            "sum": number_plain(total(hiv, "value")),
            "max": {"year": spelled(highest), "value": _short(highest)},
        },
    }


def _short(record: MappedRecord) -> str:
    return number_plain(Decimal(str(record.measures["value"].value)))


@checks("recorded/unesco-metadata-zwe")
def notes(records: list[MappedRecord], _file: str) -> Facts:
    found = [str(n) for n in texts(records, "attributes.note")]
    return {
        "records_with_embedded_newline": sum("\n" in n for n in found),
        "embedded_newlines_total": sum(n.count("\n") for n in found),
        "longest_metadata_chars": max(map(len, found)),
        "metadata_chars_sum": sum(map(len, found)),
        "year_min": min(map(spelled, records)),
        "year_max": max(map(spelled, records)),
        "indicators": len(set(texts(records, "dimensions.indicator"))),
        "by_type": counted(records, "dimensions.kind"),
    }


@checks("government/eia-primary-energy-production")
def energy(records: list[MappedRecord], _file: str) -> Facts:
    annual = [r for r in records if r.period and r.period.frequency == "A"]
    monthly = [r for r in records if r.period and r.period.frequency == "M"]
    series = Counter(texts(records, "dimensions.series"))
    missing = Counter(
        str(r.dimensions["series"])
        for r in records
        if r.attributes.get("production_missing") == "Not Available"
    )
    whole = sorted(where(annual, series="TEPRBUS"), key=starts)
    coal = best(where(annual, series="CLPRBUS"), "production", max)

    def dated(record: MappedRecord) -> Facts:
        return {"year": starts(record)[:4], "value": record.measures["production"].value}

    return {
        "series": len(series),
        "rows_per_series": sorted(set(series.values())),
        "not_available_values": sum(missing.values()),
        "not_available_by_msn": dict(missing),
        "annual_rows_month_13": len(annual),
        "yyyymm_min": min(map(spelled, records)),
        "yyyymm_max": max(map(spelled, records)),
        "TEPRBUS": {
            "annual_rows": len(whole),
            "annual_sum": number_plain(total(whole, "production")),
            "annual_first": dated(whole[0]),
            "annual_last": dated(whole[-1]),
            "annual_max": dated(best(whole, "production", max)),
            "monthly_sum": number_plain(total(where(monthly, series="TEPRBUS"), "production")),
        },
        "CLPRBUS_peak_year": dated(coal),
    }


@checks("government/ecb-dollar-euro-monthly")
def dollars(records: list[MappedRecord], _file: str) -> Facts:
    rates = values(records, "rate")

    def dated(record: MappedRecord) -> Facts:
        return {"period": spelled(record), "value": record.measures["rate"].value}

    key = {
        "FREQ": "frequency_code", "CURRENCY": "currency", "CURRENCY_DENOM": "denominator",
        "EXR_TYPE": "rate_type", "EXR_SUFFIX": "suffix",
    }  # fmt: skip
    keys = {tuple(r.dimensions[name] for name in key.values()) for r in records}
    return {
        "series": len(keys),
        "period_min": min(map(spelled, records)),
        "period_max": max(map(spelled, records)),
        "value_sum": number_plain(sum(rates)),
        "value_mean": mean(rates),
        "value_max": dated(best(records, "rate", max)),
        "value_min": dated(best(records, "rate", min)),
        "series_key": dict(zip(key, next(iter(keys)), strict=True)),
    }


@checks("government/sec-company-facts")
def company(records: list[MappedRecord], file: str) -> Facts:
    concepts: dict[str, set[Any]] = {}
    unlabelled = set()
    for record in records:
        taxonomy, concept = str(record.dimensions["taxonomy"]), record.dimensions["concept"]
        concepts.setdefault(taxonomy, set()).add(concept)
        if record.attributes["label"] is None:
            unlabelled.add((taxonomy, concept))
    dollars = [r for r in records if r.attributes["unit"] == "USD"]
    assets = where(records, taxonomy="ifrs-full", concept="Assets")
    [cik] = set(texts(records, "dimensions.cik"))
    [entity] = set(texts(records, "attributes.company"))
    return {
        "cik": _number_or_text(cik, facts(file)["cik"]),
        "entity": entity,
        "taxonomies": {name: len(found) for name, found in concepts.items()},
        "units": counted(records, "attributes.unit"),
        "forms": counted(records, "attributes.form"),
        "end_min": min(map(starts, records)),
        "end_max": max(map(starts, records)),
        "usd_val_sum": number_plain(total(dollars, "value")),
        "with_frame": sum(v is not None for v in texts(records, "attributes.frame")),
        "unique_accn": len(set(texts(records, "dimensions.filing"))),
        "label_null_concepts": len(unlabelled),
        "ifrs_Assets": [
            {
                "end": starts(r),
                "val": int(str(r.measures["value"].value)),
                "fy": r.attributes["fiscal_year"],
                "form": r.attributes["form"],
            }
            for r in assets
        ],
    }


def _number_or_text(found: Any, expected: Any) -> Any:
    """YAML reads 0001997711 as an octal number where it is written bare."""
    assert found == "0001997711"
    return expected


# --- the comparison -------------------------------------------------------------------------------


def test_there_is_a_profile_for_each_recorded_file_and_a_check_for_each_profile() -> None:
    files = sorted(file for found in SOURCES.values() for file in found)
    assert files == sorted(entry["file"] for entry in manifest()["files"])
    assert len(SOURCES) == 31
    assert set(CHECKS) == set(SOURCES)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_fact_of_the_manifest_is_what_the_records_say(name: str) -> None:
    records = records_of(name)
    for file in SOURCES[name]:
        expected = facts(file)
        found = CHECKS[name](records, file)
        of_records = {k: v for k, v in expected.items() if k not in names_of(file)}
        stated = {key: _loose(value) for key, value in found.items()}
        assert stated == {key: _loose(value) for key, value in of_records.items()}
    counts = {e["file"]: e["records"]["count"] for e in manifest()["files"]}
    rows = {(record.response, record.position) for record in records}
    assert len(rows) == sum(counts[file] for file in SOURCES[name]) or name in NOT_ONE_A_ROW


NOT_ONE_A_ROW = {"recorded/frbny-nowcast-vintage"}
"""Profiles whose rows may give no record at all: every cell of a row may be blank."""


def _loose(value: Any) -> Any:
    """Dates of YAML as texts, whole decimals as numbers are written, nothing else."""
    if isinstance(value, dict):
        return {str(key): _loose(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_loose(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


@pytest.mark.parametrize("file", [file for files in SOURCES.values() for file in files])
def test_every_fact_of_the_file_itself(file: str) -> None:
    """Bytes, digest, encoding and the rest; from what is kept in ``test_recorded_sources.py``."""
    assert assert_as_recorded(file, (recorded.folder() / file).read_bytes()) >= 7


def test_facts_over_all_pages_of_a_set() -> None:
    bank, city = manifest()["paged_sets"]
    records = records_of("recorded/worldbank-gdp-v1")
    found = bank["facts"]
    largest = best(records, "gdp", max)
    [states] = where(records, country="US")
    assert found["records_over_all_pages"] == found["total_in_paging_header"] == len(records)
    assert found["pages"] == len({r.response for r in records})
    assert found["unique_country_ids"] == len(set(texts(records, "dimensions.country")))
    assert found["value_null"] == len(records) - len(values(records, "gdp"))
    assert found["value_sum"] == number_plain(total(records, "gdp"))
    assert found["value_max"]["country"] == _country(largest)
    assert found["value_max"]["value"] == largest.measures["gdp"].value
    assert found["date_values"] == dict(Counter(map(spelled, records)))
    assert found["united_states"] == states.measures["gdp"].value

    rides = records_of("government/nyc-bicycle-counts")
    found = city["facts"]
    assert found["records_over_both_pages"] == found["unique_id_date"] == len(rides)
    assert found["counts_sum"] == total(rides, "bicycles")
    local = [str(t) for t in texts(rides, "attributes.local_time")]
    assert found["all_gaps_are_15_minutes"] is _quarters(local)
    hours: dict[int, list[Decimal]] = {}
    for record, at in zip(rides, local, strict=True):
        hours.setdefault(int(at[11:13]), []).extend(values([record], "bicycles"))
    busiest = max(hours, key=lambda hour: mean(hours[hour]))
    assert found["busiest_hour_of_day"] == {"hour": busiest, "mean_count": mean(hours[busiest])}


def _quarters(times: list[str]) -> bool:
    from datetime import datetime, timedelta

    at = [datetime.fromisoformat(t) for t in times]
    return all(b - a == timedelta(minutes=15) for a, b in itertools.pairwise(at))


# --- what correlates ------------------------------------------------------------------------------

Series = dict[str, Decimal]


def series(name: str, measure: str, by: int = 7, annual: bool = False, **wanted: str) -> Series:
    """A measure by the beginning of its period (7: the month, 4: the year)."""
    found = records_of(name)
    return {
        starts(r)[:by]: values([r], measure)[0]
        for r in (where(found, **wanted) if wanted else found)
        if r.measures[measure].value is not None
        and (not annual or (r.period is not None and r.period.frequency == "A"))
    }


def _two(name: str, measure: str, left: dict[str, str], right: dict[str, str], by: int = 7) -> Any:
    return series(name, measure, by, **left), series(name, measure, by, **right)


NOWCAST, CPI = "recorded/frbny-nowcast-vintage", "government/bls-consumer-prices-components"
ZWE, TEMPERATURE = "recorded/unesco-indicators-zwe", "recorded/nasa-noaa-temperature-annual"


def _fred(name: str) -> Series:
    return series(f"recorded/fred-{name}", "value")


def _annual_gdp() -> Series:
    years: dict[str, list[Decimal]] = {}
    for month, value in _fred("gdp-quarterly").items():
        years.setdefault(month[:4], []).append(value)
    return {year: sum(v, Decimal(0)) / 4 for year, v in years.items() if len(v) == 4}


def _by_country() -> tuple[Series, Series]:
    left = {
        str(r.dimensions["country_iso3"]): values([r], "gdp")[0]
        for r in records_of("recorded/worldbank-gdp-v1")
        if r.dimensions["country_iso3"] is not None and r.measures["gdp"].value is not None
    }
    right = {
        str(r.dimensions["country"]): values([r], "population")[0]
        for r in records_of("recorded/worldbank-population-table")
        if spelled(r) == "2014"
    }
    return left, right


def _events(measure: str) -> tuple[Series, Series]:
    found = records_of("government/usgs-earthquakes-all-week")
    return (
        {str(r.key[0]): values([r], "magnitude")[0] for r in found},
        {str(r.key[0]): values([r], measure)[0] for r in found},
    )


PAIRS: dict[str, Callable[[], tuple[Series, Series]]] = {
    "co2_vs_global_temperature": lambda: (
        series("recorded/noaa-co2-annual-table", "co2", 4),
        series(TEMPERATURE, "anomaly", 4, series="GISTEMP"),
    ),
    "gistemp_vs_gcag": lambda: _two(
        TEMPERATURE, "anomaly", {"series": "GISTEMP"}, {"series": "gcag"}, 4
    ),
    "unemployment_vs_job_openings": lambda: _two(
        NOWCAST, "value", {"series": "UNRATE"}, {"series": "JTSJOL"}
    ),
    "payems_two_vintages": lambda: (
        _fred("payrolls-monthly"),
        series(NOWCAST, "value", series="PAYEMS"),
    ),
    "gdp_vs_payrolls": lambda: (_fred("gdp-quarterly"), _fred("payrolls-monthly")),
    "fed_funds_vs_10y_treasury": lambda: (
        _fred("federal-funds-monthly"),
        series("recorded/frb-treasury-10y-monthly", "yield"),
    ),
    "eurusd_ecb_vs_fed": lambda: (
        series("government/ecb-dollar-euro-monthly", "rate"),
        _fred("dollar-euro-monthly"),
    ),
    "gdp_vs_energy_production": lambda: (
        _annual_gdp(),
        series("government/eia-primary-energy-production", "production", 4, True, series="TEPRBUS"),
    ),
    **{
        f"cpi_all_items_vs_{other}": lambda other=other: _two(  # type: ignore[misc]
            CPI, "index", {"series": "CUUR0000SA0"}, {"series": other}
        )
        for other in ("CUUR0000SA0E", "CUUR0000SAF1", "CUUR0000SAH", "CUUR0000SAD")
    },
    "gdp_vs_population_by_country_2014": _by_country,
    "zimbabwe_population_unesco_vs_worldbank": lambda: (
        series(ZWE, "value", 4, indicator="200101"),
        series("recorded/worldbank-population-table", "population", 4, country="ZWE"),
    ),
    "zimbabwe_life_expectancy_vs_hiv": lambda: _two(
        ZWE, "value", {"indicator": "SP.DYN.LE00.IN"}, {"indicator": "SH.DYN.AIDS.ZS"}, 4
    ),
    "zimbabwe_life_expectancy_vs_infant_mortality": lambda: _two(
        ZWE, "value", {"indicator": "SP.DYN.LE00.IN"}, {"indicator": "SP.DYN.IMRT.IN"}, 4
    ),
    "earthquake_magnitude_vs_significance": lambda: _events("significance"),
    "earthquake_magnitude_vs_depth": lambda: _events("depth"),
    "control_uncorrelated_unemployment_vs_philly_fed_activity": lambda: _two(
        NOWCAST, "value", {"series": "UNRATE"}, {"series": "GACDFSA066MSFRBPHI"}
    ),
    "control_uncorrelated_fed_funds_vs_philly_fed_activity": lambda: (
        _fred("federal-funds-monthly"),
        series(NOWCAST, "value", series="GACDFSA066MSFRBPHI"),
    ),
}


def test_every_pair_of_the_manifest_is_computed() -> None:
    assert {pair["name"] for pair in manifest()["correlating_pairs"]} == set(PAIRS)


def pearson(left: list[float], right: list[float]) -> float:
    from scipy.stats import pearsonr

    return round(float(pearsonr(left, right).statistic), 6)


def _differences(found: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(found)]


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_pairs_correlate_as_others_found_to_six_decimals(name: str) -> None:
    [pair] = [p for p in manifest()["correlating_pairs"] if p["name"] == name]
    left, right = PAIRS[name]()
    keys = sorted(set(left) & set(right))
    ours = [float(left[key]) for key in keys]
    theirs = [float(right[key]) for key in keys]
    assert len(keys) == pair["n"]
    if "first" in pair:
        assert (keys[0], keys[-1]) == (pair["first"], pair["last"])
    assert pearson(ours, theirs) == pair["pearson_r"]
    if "pearson_r_first_differences" in pair:
        found = pearson(_differences(ours), _differences(theirs))
        assert found == pair["pearson_r_first_differences"]
    if "pearson_r_of_log10" in pair:
        logs = [[math.log10(v) for v in side] for side in (ours, theirs)]
        assert pearson(*logs) == pair["pearson_r_of_log10"]
    if "max_abs_difference" in pair:
        gap = max(abs(left[key] - right[key]) for key in keys)
        assert float(gap) == pytest.approx(pair["max_abs_difference"], abs=1e-12)
    if "exact_equal_values" in pair:
        assert sum(left[k] == right[k] for k in keys) == pair["exact_equal_values"]
    for months, expected in pair.get("lag_table_months", {}).items():
        assert _lagged(left, right, int(months)) == expected
    if "strongest_lag_in_-12..12" in pair:
        table = {lag: _lagged(left, right, lag) for lag in range(-12, 13)}
        strongest = max(table, key=lambda lag: abs(table[lag]))
        assert strongest == pair["strongest_lag_in_-12..12"]
        assert table[strongest] == pair["r_at_strongest_lag"]


def _lagged(left: Series, right: Series, months: int) -> float:
    """Over the joined rows: a month counts where both sides have it, and the later one too."""
    joined = {month for month in left if month in right}
    pairs = [(left[m], right[_later(m, months)]) for m in joined if _later(m, months) in joined]
    return pearson([float(a) for a, _ in pairs], [float(b) for _, b in pairs])


def _later(month: str, months: int) -> str:
    count = int(month[:4]) * 12 + int(month[5:7]) - 1 + months
    return f"{count // 12:04d}-{count % 12 + 1:02d}"


def test_daily_yields_average_to_the_monthly_release() -> None:
    [check] = manifest()["cross_checks"]
    months: dict[str, list[Decimal]] = {}
    for record in records_of("recorded/treasury-par-yield-curve"):
        months.setdefault(starts(record)[:7], []).extend(values([record], "yield_10_years"))
    monthly = series("recorded/frb-treasury-10y-monthly", "yield")
    for month, expected in check["values"].items():
        assert mean(months[month], 2) == expected["from_daily"]
        assert float(monthly[month]) == expected["h15"]
        assert (mean(months[month], 2) == float(monthly[month])) is expected["equal"]


def test_all_records_of_all_files_are_there() -> None:
    assert manifest()["totals"]["records"] == sum(
        entry["records"]["count"] for entry in manifest()["files"]
    )
    assert json.dumps(manifest()["totals"])
