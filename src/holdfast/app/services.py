"""The services of the roles in this process, their routes, checks and loops."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.app.compose import Keys, State, System


async def open_services(system: System, state: State, keys: Keys, stack: AsyncExitStack) -> None:
    """Open the roles in the order in which they need each other."""
    if "registry" in system.roles:
        _open_registry(system, state)
    if "aggregator" in system.roles:
        await _open_aggregator(system, state, keys, stack)
    if "coordinator" in system.roles:
        await _open_coordinator(system, state, keys, stack)
    if "reporter" in system.roles:
        _open_reporter(system, state)


def _open_registry(system: System, state: State) -> None:
    from holdfast.registry import http
    from holdfast.registry.folder import ProfilesFolder
    from holdfast.registry.service import RegistryService

    settings = system.settings
    system.registry = RegistryService(
        state.database, state.outbox, system.clock, system.new_id, metrics=system.metrics
    )
    system.handlers += http.handlers(system.registry)
    folder = ProfilesFolder(system.registry, system.operator, settings.profiles_dir, system.clock)

    async def watch() -> None:
        await folder.watch(every_seconds=settings["registry_watch_seconds"])

    system.loops.append(("profiles folder", watch))


def _open_reporter(system: System, state: State) -> None:
    from holdfast.app.children import ReportChildren
    from holdfast.reports import http
    from holdfast.reports.service import ReportsService, ReportsSettings

    settings = system.settings
    system.reports = ReportsService(
        state.database,
        state.objects,
        state.outbox,
        system.records,
        system.registry,
        ReportChildren(),
        system.clock,
        system.new_id,
        ReportsSettings(
            seconds=settings["reports_seconds"], memory_mb=settings["reports_memory_mb"]
        ),
    )
    system.handlers += http.handlers(system.reports)
