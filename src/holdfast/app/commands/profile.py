"""``holdfast profile``: the registry's commands, with the drone's preview and the fleet's run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.app.line import settings_of
from holdfast.collect.cli import register as register_collect
from holdfast.fleet.cli import register as register_fleet
from holdfast.kernel.cli import command_line
from holdfast.records.run_cli import show_ended
from holdfast.registry.cli import app

if TYPE_CHECKING:
    import typer

    from holdfast.collect.settings import CollectSettings


def _collect_settings(ctx: typer.Context) -> CollectSettings:
    from holdfast.app.programs import collect_settings

    return collect_settings(settings_of(command_line(ctx)))


register_collect(app, _collect_settings)
register_fleet(app, show_ended)

__all__ = ["app"]
