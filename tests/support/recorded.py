"""The recorded sources: their manifest, their profiles, and their records mapped offline."""

from __future__ import annotations

import os
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.collect.content import SpooledContent
from holdfast.collect.formats import reader_of
from holdfast.collect.mapping import Mapping
from holdfast.collect.model import Bounds
from holdfast.records.model import MappedRecord, Reject
from holdfast.registry.code_lists import with_code_lists
from holdfast.registry.model import Profile
from holdfast.registry.validate import load_profile

PROFILES = Path(__file__).parents[2] / "profiles"

SOURCES: dict[str, tuple[str, ...]] = {
    "government/usgs-earthquakes-all-week": ("usgs_earthquakes_all_week.geojson",),
    "government/usgs-water-discharge": ("usgs_nwis_iv_discharge_20200817.json",),
    "government/bls-consumer-prices-components": ("bls_api_v2_cpi_9series_2020_2025.json",),
    "government/bls-apache-county-employment": ("bls_api_v2_laucn040010000000005.json",),
    "government/census-county-population": ("census_acs5_cp05_2016_county_population.json",),
    "recorded/worldbank-gdp-v1": tuple(
        f"worldbank_v1_ny.gdp.mktp.cd_mrv1_page{page}.json" for page in range(1, 6)
    ),
    "recorded/worldbank-population-table": ("worldbank_sp.pop.totl_all_years.csv",),
    "recorded/un-country-codes": ("iso_un_country_codes.csv",),
    "recorded/treasury-par-yield-curve": ("treasury_daily_par_yield_curve_2019.atom.xml",),
    "government/treasury-debt-to-the-penny": ("treasury_fiscaldata_debt_to_penny_2025q1.json.gz",),
    "recorded/fred-gdp-quarterly": ("fred_gdp_quarterly.json",),
    "recorded/fred-payrolls-monthly": ("fred_payems_monthly.json",),
    "recorded/fred-federal-funds-monthly": ("fred_dff_monthly_avg.json",),
    "recorded/fred-dollar-euro-monthly": ("fred_dexuseu_monthly_avg.json",),
    "recorded/frb-treasury-10y-monthly": ("frb_h15_treasury_10y_monthly.csv",),
    "recorded/frbny-nowcast-vintage": ("frbny_nowcast_us_vintage_20160629.csv",),
    "recorded/noaa-co2-annual-table": ("noaa_gml_co2_annual_mean_mlo.csv",),
    "recorded/nasa-noaa-temperature-annual": ("nasa_noaa_global_temp_anomaly_annual.csv",),
    "government/nyc-bicycle-counts": (
        "nyc_socrata_bicycle_counts_page1.json",
        "nyc_socrata_bicycle_counts_page2.json",
    ),
    "recorded/ckan-dados-gov-br-packages": ("ckan_dados_gov_br_package_search.json",),
    "government/gdacs-disaster-alerts": ("gdacs_rss_7d.xml",),
    "recorded/openfda-covid19-serology": ("openfda_covid19serology.ndjson",),
    "recorded/census-dc-tracts": ("census_tiger2022_dc_tracts.geojsonl.gz",),
    "government/cisa-known-exploited-vulnerabilities": ("cisa_kev_catalog.json",),
    "recorded/omb-budget-authority": ("omb_public_budget_database_budget_authority.csv",),
    "government/statcan-population-quarterly": ("statcan_17100009_population_quarterly.csv",),
    "recorded/unesco-indicators-zwe": ("unesco_uis_dem_data_zwe.csv",),
    "recorded/unesco-metadata-zwe": ("unesco_uis_opri_metadata_zwe.csv",),
    "government/eia-primary-energy-production": ("eia_mer_t01_02_primary_energy_production.csv",),
    "government/ecb-dollar-euro-monthly": ("ecb_sdmx21_exr_m_usd_eur.xml",),
    "government/sec-company-facts": ("sec_companyfacts_cik0001997711.json",),
}
"""Profile (folder and name) → the recorded files that its source sent, page by page."""


def folder() -> Path:
    """The folder of recorded sources; the test is skipped, aloud, where there is none."""
    named = os.environ.get("HOLDFAST_RECORDED_SOURCES")
    if not named:
        pytest.skip("HOLDFAST_RECORDED_SOURCES does not name the recorded sources")
    return Path(named)


@lru_cache(maxsize=1)
def manifest() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder() / "MANIFEST.yaml").read_text("utf-8"))
    return found


def facts(file: str) -> dict[str, Any]:
    """What the manifest says of a file."""
    [entry] = [each for each in manifest()["files"] if each["file"] == file]
    found: dict[str, Any] = entry["facts"]
    return found


@lru_cache(maxsize=64)
def profile(name: str) -> Profile:
    """A shipped profile by folder and name."""
    path = PROFILES / f"{name}.yaml"
    return load_profile(with_code_lists(path.read_bytes(), path.parent))


def mapped(source: Profile, files: Iterable[Path]) -> tuple[list[MappedRecord], list[Reject]]:
    """All records and rejects of the pages ``files``."""
    mapping = Mapping(source)
    spec = source.source.format
    records: list[MappedRecord] = []
    rejects: list[Reject] = []
    bounds = Bounds(content_bytes_max=source.limits.max_bytes)
    for number, file in enumerate(files):
        content = SpooledContent(file, bounds, source.source.compression, source.source.member)
        context = mapping.context(bounds)
        for row in reader_of(spec)(content, spec, context):
            for found in mapping.map(row, number):
                if isinstance(found, Reject):
                    rejects.append(found)
                else:
                    records.append(found)
    return records, rejects


@lru_cache(maxsize=32)
def records_of(name: str) -> list[MappedRecord]:
    """Every record of a recorded source; nothing is rejected and no key comes twice."""
    records, rejects = mapped(profile(name), [folder() / file for file in SOURCES[name]])
    assert rejects == []
    assert len({tuple(map(str, record.key)) for record in records}) == len(records)
    return records


def values(records: Iterable[MappedRecord], measure: str) -> list[Decimal]:
    """The numbers of a measure, missing ones left out."""
    found = (record.measures[measure].value for record in records)
    return [Decimal(value) for value in found if value is not None]
