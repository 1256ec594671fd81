"""What the manifest says of the recorded files themselves: their bytes, how they are written, what
stands in them beside the records.

Everything is computed from the bytes alone, with plain Python and none of our readers: a second
opinion on what the drone was sent and the aggregator keeps.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable
from typing import Any

from tests.support import recorded

Facts = dict[str, Any]

OF_THE_FILE: dict[str, Callable[[str, bytes], Facts]] = {}
"""File → the facts that are of the file and not of its records."""


def content_of(file: str, data: bytes) -> bytes:
    """The bytes that the manifest's ``encoding`` speaks of."""
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def assert_as_recorded(file: str, data: bytes) -> int:
    """Hold these bytes to everything that the manifest says of the file; how many facts.

    What was packed for the way only (``Content-Encoding``) is kept unpacked: then the facts are
    those of the content, its digest among them.
    """
    [entry] = [each for each in recorded.manifest()["files"] if each["file"] == file]
    found: Facts = {}
    if file.endswith(".gz") is data.startswith(b"\x1f\x8b"):
        found = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert found == {name: entry[name] for name in found}, file
    encoding = _encoding(file, data)
    assert encoding == entry["encoding"], file
    stated = {k: v for k, v in entry["facts"].items() if k in names_of(file)}
    told = OF_THE_FILE[file](file, content_of(file, data)) if file in OF_THE_FILE else {}
    assert told == stated, file
    return len(found) + len(encoding) + len(told)


def names_of(file: str) -> frozenset[str]:
    """The facts of the manifest that are about this file and not about its records."""
    return _NAMES.get(file, frozenset())


def _encoding(file: str, data: bytes) -> Facts:
    found: Facts = {}
    content = content_of(file, data)
    if file.endswith(".gz"):
        found["decompressed_bytes"] = len(content)
        found["decompressed_sha256"] = hashlib.sha256(content).hexdigest()
    lines, crlf = content.count(b"\n"), content.count(b"\r\n")
    assert crlf in (0, lines), "mixed newlines"
    newlines = "none (single line)" if not lines else "CRLF" if crlf else "LF"
    return found | {
        "byte_order_mark": content.startswith(b"\xef\xbb\xbf"),
        "newlines": newlines,
        "newline_count": lines,
        "ends_with_newline": content.endswith(b"\n"),
        "non_ascii_bytes": sum(byte > 127 for byte in content),
    }


_NAMES: dict[str, frozenset[str]] = {}


def of_file(*files: str, names: str) -> Callable[[Any], Any]:
    """The check computes the facts ``names`` of these files."""

    def register(check: Any) -> Any:
        for file in files:
            OF_THE_FILE[file] = check
            _NAMES[file] = frozenset(names.split())
        return check

    return register


def _rows(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def _only_if(condition: bool, stated: str) -> str:
    """The manifest's words, where what they say is so."""
    return stated if condition else f"not so: {stated}"


@of_file(
    "bls_api_v2_cpi_9series_2020_2025.json", "bls_api_v2_laucn040010000000005.json", names="order"
)
def _newest_first(file: str, content: bytes) -> Facts:
    series = json.loads(content)["Results"]["series"]
    times = [[(row["year"], row["period"]) for row in each["data"]] for each in series]
    descending = all(each == sorted(each, reverse=True) for each in times)
    return {"order": _only_if(descending, "newest first")}


@of_file("census_acs5_cp05_2016_county_population.json", names="header value_type")
def _census(file: str, content: bytes) -> Facts:
    header, *rows = json.loads(content)
    texts = all(isinstance(value, str) for row in rows for value in row)
    return {
        "header": header,
        "value_type": _only_if(texts, "every value is a JSON string, numbers included"),
    }


@of_file("worldbank_sp.pop.totl_all_years.csv", names="quoted_comma_names")
def _population(file: str, content: bytes) -> Facts:
    names = {row[0] for row in _rows(content)[1:] if "," in row[0]}
    first = sorted(names)[:5]
    assert all(f'"{name}"'.encode() in content for name in names)
    return {"quoted_comma_names": first}


@of_file("iso_un_country_codes.csv", names="columns all_rows_same_width")
def _countries(file: str, content: bytes) -> Facts:
    widths = {len(row) for row in _rows(content)}
    return {"columns": max(widths), "all_rows_same_width": len(widths) == 1}


@of_file(
    "treasury_fiscaldata_debt_to_penny_2025q1.json.gz", names="value_type sum_with_binary_doubles"
)
def _debt(file: str, content: bytes) -> Facts:
    rows = json.loads(content)["data"]
    texts = all(isinstance(value, str) for row in rows for value in row.values())
    return {
        "value_type": _only_if(texts, "every value is a JSON string"),
        "sum_with_binary_doubles": str(sum(float(row["tot_pub_debt_out_amt"]) for row in rows)),
    }


@of_file("frbny_nowcast_us_vintage_20160629.csv", names="columns")
def _nowcast(file: str, content: bytes) -> Facts:
    [columns] = {len(row) for row in _rows(content)}
    return {"columns": columns}


@of_file("ckan_dados_gov_br_package_search.json", names="escaped_unicode")
def _packages(file: str, content: bytes) -> Facts:
    escaped = content.isascii() and not json.loads(content).__str__().isascii()
    return {"escaped_unicode": _only_if(escaped, r"non-ASCII is written as \uXXXX escapes")}


@of_file("gdacs_rss_7d.xml", names="georss_point_order namespaces xml_comments")
def _alerts(file: str, content: bytes) -> Facts:
    text = content.decode("utf-8-sig")
    items = text.split("<item>")[1:]
    pairs = [
        (_inner(item, "geo:lat"), _inner(item, "geo:long"), _inner(item, "georss:point"))
        for item in items
    ]
    ordered = all(f"{float(a):g} {float(b):g}" == _plain(point) for a, b, point in pairs)
    return {
        "georss_point_order": _only_if(ordered, '"lat lon" (geo:lat first)'),
        "namespaces": sorted(set(re.findall(r"xmlns:(\w+)=", text))),
        "xml_comments": text.count("<!--"),
    }


def _inner(text: str, tag: str) -> str:
    found = re.search(f"<{tag}[^>]*>([^<]*)</{tag}>", text)
    assert found, tag
    return found[1].strip()


def _plain(point: str) -> str:
    return " ".join(f"{float(part):g}" for part in point.split())


@of_file("openfda_covid19serology.ndjson", names="value_type")
def _serology(file: str, content: bytes) -> Facts:
    values = [v for line in content.splitlines() for v in json.loads(line)["_source"].values()]
    texts = all(isinstance(value, str) for value in values) and "NA" in values
    stated = 'every _source value is a JSON string; "NA" means missing'
    return {"value_type": _only_if(texts, stated)}


@of_file("census_tiger2022_dc_tracts.geojsonl.gz", names="coordinate_pairs rings")
def _tracts(file: str, content: bytes) -> Facts:
    shapes = [json.loads(line)["geometry"]["coordinates"] for line in content.splitlines()]
    rings = [ring for shape in shapes for ring in shape]
    return {"coordinate_pairs": sum(map(len, rings)), "rings": len(rings)}


@of_file("cisa_kev_catalog.json", names="escaped_unicode")
def _vulnerabilities(file: str, content: bytes) -> Facts:
    return {"escaped_unicode": len(re.findall(rb"\\u[0-9a-fA-F]{4}", content))}


@of_file("omb_public_budget_database_budget_authority.csv", names="columns year_columns unit")
def _budget(file: str, content: bytes) -> Facts:
    header, *rows = _rows(content)
    assert {len(row) for row in rows} == {len(header)}
    years = header[header.index("1976") :]
    as_stated = years == ["1976", "TQ", *map(str, range(1977, 2023))] and len(years) == 48
    stated = "1976, TQ, 1977 .. 2022 (48 columns; TQ = transition quarter 1976)"
    # The file does not say its unit: the profile does, and what is stored carries it.
    measure = recorded.records_of("recorded/omb-budget-authority")[0].measures["authority"]
    thousands = (measure.unit, measure.multiplier) == ("USD", "1000")
    return {
        "columns": len(header),
        "year_columns": _only_if(as_stated, stated),
        "unit": _only_if(thousands, "thousands of US dollars"),
    }


@of_file(
    "statcan_17100009_population_quarterly.csv",
    names="columns first_column_name_after_bom every_field_quoted",
)
def _statcan(file: str, content: bytes) -> Facts:
    header = _rows(content)[0]
    lines = content.decode("utf-8-sig").split("\r\n")
    whole = re.compile(r'"[^"]*"(,"[^"]*")*')
    return {
        "columns": len(header),
        "first_column_name_after_bom": header[0],
        "every_field_quoted": all(whole.fullmatch(line) for line in lines if line),
    }


@of_file(
    "unesco_uis_dem_data_zwe.csv",
    names="header hxl_tag_row record_count_if_hxl_row_not_skipped codes_with_trailing_space",
)
def _indicators(file: str, content: bytes) -> Facts:
    header, tags, *rows = _rows(content)
    return {
        "header": header,
        "hxl_tag_row": tags,
        "record_count_if_hxl_row_not_skipped": len(rows) + 1,
        "codes_with_trailing_space": [row[0] for row in rows if row[0] != row[0].rstrip()],
    }


@of_file(
    "unesco_uis_opri_metadata_zwe.csv",
    names="header hxl_tag_row physical_lines all_rows_have_5_fields",
)
def _metadata(file: str, content: bytes) -> Facts:
    header, tags, *rows = _rows(content)
    return {
        "header": header,
        "hxl_tag_row": tags,
        "physical_lines": content.count(b"\n"),
        "all_rows_have_5_fields": {len(row) for row in (header, tags, *rows)} == {5},
    }


@of_file("eia_mer_t01_02_primary_energy_production.csv", names="trap")
def _energy(file: str, content: bytes) -> Facts:
    rows = _rows(content)[1:]
    known = [(row[0], row[1], float(row[2])) for row in rows if row[2] != "Not Available"]
    annual = {(msn, at[:4]): value for msn, at, value in known if at.endswith("13")}
    months: dict[tuple[str, str], list[float]] = {}
    for msn, at, value in known:
        if not at.endswith("13"):
            months.setdefault((msn, at[:4]), []).append(value)
    whole = {key: sum(found) for key, found in months.items() if len(found) == 12}
    # To the rounding of twelve figures of three decimals.
    doubled = bool(whole) and all(abs(whole[k] - annual[k]) < 0.0125 for k in whole)
    stated = "rows with month 13 are annual totals: summing every row double counts"
    return {"trap": _only_if(doubled, stated)}
