"""Reports: joins, correlations and pictures over what was collected. See the README."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.reports.client import ReportsClient
    from holdfast.reports.model import Report, ReportSpec, ReportSummary
    from holdfast.reports.service import ReportsService, ReportsSettings
    from holdfast.reports.spec import read_spec, spec_schema

_HOME = {
    "Report": "model",
    "ReportSpec": "model",
    "ReportSummary": "model",
    "ReportsClient": "client",
    "ReportsService": "service",
    "ReportsSettings": "service",
    "read_spec": "spec",
    "spec_schema": "spec",
}

__all__ = [
    "Report",
    "ReportSpec",
    "ReportSummary",
    "ReportsClient",
    "ReportsService",
    "ReportsSettings",
    "read_spec",
    "spec_schema",
]


def __getattr__(name: str) -> Any:
    """Load a name when it is used: the command line must not pay for what it does not need."""
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
