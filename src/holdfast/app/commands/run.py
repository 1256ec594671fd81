"""``holdfast run``: the aggregator's runs, with the coordinator's cancel."""

from holdfast.fleet.cli import register_cancel
from holdfast.records.run_cli import run_app as app

register_cancel(app)

__all__ = ["app"]
