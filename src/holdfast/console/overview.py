"""What the one page, and ``holdfast status``, say: what runs and what was collected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

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
    records: int | None
    """How many are kept; nothing where whoever keeps them does not answer."""
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
    chart: str = "none"
    """What it is drawn as; ``none`` where a picture would show nothing."""


T = TypeVar("T", ProfileLine, RunLine)


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
    total_records: int | None = None
    """How many are kept of all sources; null where that is not known."""
    total_profiles: int | None = None
    total_workers: int | None = None
    """How many there are in all; of many only the first are shown here. Null where that is not
    known."""
    total_problems: int = 0
    withheld: list[str] = []
    """What is left out since whoever asks may not see it: profiles, drones, schedules, runs,
    reports, records."""

    @property
    def more_profiles(self) -> int:
        """How many are not shown: `holdfast profile list` lists them."""
        return max(0, (self.total_profiles or 0) - len(self.profiles))

    @property
    def more_workers(self) -> int:
        """How many are not shown: `holdfast worker list` lists them."""
        return max(0, (self.total_workers or 0) - len(self.workers))

    @property
    def more_problems(self) -> int:
        """How many are not told."""
        return max(0, self.total_problems - len(self.problems))


def nothing(found: Overview, role: str, words: str) -> str:
    """What an empty list means: there is nothing, none to be seen, or who knows does not answer."""
    what = words.removeprefix("no ")
    if what in found.withheld:
        return f"{what} are not yours to see"
    states = {line.name: line.status for line in found.services}
    if states.get(role) not in ("unreachable", "unhealthy"):
        return words
    return f"{what} not known: the {role} is {states[role]}"


def service_problems(services: Sequence[ServiceLine]) -> list[str]:
    """A line for each way in which roles are not well, with the reason where it is known.

    The roles of one process share its state and so their trouble, which is said once.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for one in services:
        if one.status != "ok":
            alike.setdefault((one.status, one.detail), []).append(one.name)
    return [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {status}"
        + (f": {detail}" if detail else "")
        for (status, detail), names in alike.items()
    ]


def at_rest(found: Overview, place: str) -> Overview:
    """What was read from a data directory on which nothing runs, without saying that it lives.

    The command that reads it opens every role for a moment, so each says that it is well; and what
    stood in the tables when the program ended still says that drones beat and runs go on.
    """
    stopped = [msgspec.structs.replace(one, status="stopped") for one in found.services]
    return msgspec.structs.replace(
        found,
        status="stopped",
        services=stopped,
        workers=[
            msgspec.structs.replace(one, status="unheard") if one.status == "alive" else one
            for one in found.workers
        ],
        profiles=[_ended(one) for one in found.profiles],
        runs=[_ended(one) for one in found.runs],
        problems=[
            f"nothing runs on {place}: this is read from the data directory",
            *found.problems,
        ],
        total_problems=found.total_problems + 1,
    )


def _ended(line: T) -> T:
    return msgspec.structs.replace(line, status="interrupted") if line.status == "running" else line


class OverviewSource(Protocol):
    """Gathers the overview from the roles, wherever they run."""

    async def overview(self, principal: Principal) -> Overview:
        """The overview for this caller; a role that does not answer is a line saying so."""
        ...
