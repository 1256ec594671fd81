"""What the one page, and ``holdfast status``, say: what runs and what was collected."""

from __future__ import annotations

from typing import Protocol

import msgspec

from holdfast.kernel.principal import Principal


class ServiceLine(msgspec.Struct, frozen=True, kw_only=True):
    """One role and how it is."""

    name: str
    status: str
    detail: str = ""


class ProfileLine(msgspec.Struct, frozen=True, kw_only=True):
    """One source: what is kept of it and how its latest run ended."""

    name: str
    title: str
    publisher: str
    status: str
    records: int
    rejects: int
    published_at: str
    replayed: bool = False
    stale: bool = False
    due_at: str = ""
    """When its schedule starts it next; empty if it has none or may not run."""
    problem: str = ""


class RunLine(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    id: str
    profile: str
    status: str
    started_at: str
    new: int
    changed: int
    unchanged: int
    withdrawn: int
    rejects: int
    reason: str = ""


class WorkerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One drone."""

    name: str
    status: str
    leases: int


class ReportLine(msgspec.Struct, frozen=True, kw_only=True):
    """One stored report."""

    id: str
    title: str
    created_at: str


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The whole at a glance."""

    status: str
    version: str
    services: list[ServiceLine]
    profiles: list[ProfileLine]
    workers: list[WorkerLine]
    runs: list[RunLine]
    reports: list[ReportLine]
    problems: list[str] = []
    """What is wrong, a line each: services that do not answer, sources that are silent, failing or
    have changed their shape."""

    @property
    def total_records(self) -> int:
        return sum(profile.records for profile in self.profiles)


class OverviewSource(Protocol):
    """Gathers the overview from the roles, wherever they run."""

    async def overview(self, principal: Principal) -> Overview:
        """The overview for this caller; a role that does not answer is a line saying so."""
        ...
