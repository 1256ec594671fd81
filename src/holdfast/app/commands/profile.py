"""``holdfast profile``: the registry's commands, with the drone's preview and the fleet's run."""

from holdfast.collect.cli import register as register_collect
from holdfast.fleet.cli import register as register_fleet
from holdfast.registry.cli import app

register_collect(app)
register_fleet(app)

__all__ = ["app"]
