"""What ``--sample`` shows at the end: a joined table, a correlation with its chart, what to try."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.kernel.cli import named_directory, output_width, say

if TYPE_CHECKING:
    from holdfast.app.system import System
    from holdfast.reports.model import Report

TABLE = "co2-and-temperature-by-year"
CORRELATION = "co2-and-temperature"
TELLING = "period,magnitude,place"
"""What there is to see of an earthquake: the profile has more than fits."""


async def report_on_sample(system: System, *, stays: bool = False) -> None:
    """Run the sample's reports, print the table and the correlation, write the chart.

    ``stays``: it is served now, which then is nothing to try next.
    """
    reports = await run_reports(system)
    _print_report(reports[TABLE])
    _print_report(reports[CORRELATION])
    for path in await _write_charts(system, reports[CORRELATION]):
        sys.stdout.write(f"chart: {path}\n")
    _suggest(system, stays=stays)


async def run_reports(system: System) -> dict[str, Report]:
    """Every sample report by name, computed or, on the same inputs, unchanged."""
    from holdfast.reports.spec import read_spec

    found: dict[str, Report] = {}
    folder = resources.files("holdfast.sample").joinpath("reports")
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            say(f"report: {entry.name.removesuffix('.yaml')} …")
            report = await system.reports.run(system.operator, read_spec(entry.read_bytes()))
            found[report.name] = report
    return found


def _print_report(report: Report) -> None:
    from rich.console import Console

    from holdfast.reports.render import render_correlation, render_table

    console = Console(width=min(output_width(), 110))
    console.print(render_correlation(report) if report.correlation else render_table(report))
    console.print()


async def _write_charts(system: System, report: Report) -> list[Path]:
    folder = system.settings.data_dir / "charts"
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for kind in ("svg", "png"):
        path = folder / f"{report.name}.{kind}"
        path.write_bytes(await system.reports.chart(system.operator, report.id, kind))
        written.append(path)
    return written


def _suggest(system: System, *, stays: bool) -> None:
    where = named_directory(system.settings.data_dir)
    program = ".venv/bin/holdfast" if Path(".venv/bin/holdfast").exists() else "holdfast"
    last = (
        f"{program} report list{where}" if stays
        else f"{program} up --sample{where}      # the same, and stays: a page to look at"
    )  # fmt: skip
    sys.stdout.write(
        "\nThree commands to try next:\n"
        f"  {program} record list --profile usgs-earthquakes-week --columns {TELLING}{where}\n"
        f"  {program} report show {CORRELATION}{where}\n"
        f"  {last}\n"
    )
    sys.stdout.flush()
