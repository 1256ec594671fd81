"""Gathers what the page and ``holdfast status`` say from the roles, wherever they run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast import __version__
from holdfast.console.overview import (
    Overview,
    ProfileLine,
    ReportLine,
    RunLine,
    ServiceLine,
    WorkerLine,
    service_problems,
)
from holdfast.fleet.retrying import retries
from holdfast.kernel.errors import HoldfastError, Kind
from holdfast.kernel.principal import Permission, Principal, decide, sees_the_whole

if TYPE_CHECKING:
    from holdfast.app.system import System

PROFILES_SHOWN = 100
WORKERS_SHOWN = 50
PROBLEMS_SHOWN = 50
RUNS_SHOWN = 20
RUNS_LOOKED_AT = 500
REPORTS_SHOWN = 6
UNKNOWN = {
    "profiles": "which sources there are",
    "drones": "which drones there are",
    "schedules": "when sources are due",
    "tasks": "when runs are tried again",
    "runs": "which runs there were",
    "reports": "which reports there are",
    "records": "whether sources are well",
}
"""How it is told that a part of the page is not known."""


class Gatherer:
    """See :class:`holdfast.console.OverviewSource`."""

    def __init__(
        self, system: System, states: Callable[[], Awaitable[dict[str, tuple[str, str]]]]
    ) -> None:
        self._system = system
        self._states = states

    async def _sources(self, principal: Principal) -> tuple[Any, int]:
        """The first of them, and how many there are."""
        registry = self._system.registry
        page, count = await asyncio.gather(
            registry.list(principal, limit=PROFILES_SHOWN), registry.count(principal)
        )
        return page, int(count)

    async def overview(self, principal: Principal) -> Overview:
        """The overview; what no role would tell is empty or null, and a line says so."""
        s, unknown, withheld = self._system, list[str](), list[str]()
        whole = sees_the_whole(principal)  # why a role is unwell is nothing of one tenant's

        async def part(
            names: str, need: Permission, ask: Callable[..., Awaitable[Any]], **options: Any
        ) -> Any:
            # Roles answer each other whatever it is, so what somebody may see is decided here.
            if not decide(principal, need).allowed:
                withheld.append(names)
                return None
            try:
                return await ask(principal, **options)
            except HoldfastError as error:
                if error.kind is Kind.DENIED:
                    withheld.append(names)
                else:
                    unknown.append(f"{UNKNOWN[names]} is not known: {error.detail}")
                return None

        states, named, workers, schedules, runs, reports, freshness = await asyncio.gather(
            self._states(),
            part("profiles", Permission.PROFILES_READ, self._sources),
            part(
                "drones",
                Permission.WORKERS_READ,
                s.fleet.summarise_workers,
                limit=WORKERS_SHOWN,
            ),
            part("schedules", Permission.TASKS_READ, s.fleet.schedules),
            part(
                "runs",
                Permission.RUNS_READ,
                s.records.runs,
                limit=RUNS_LOOKED_AT,
            ),
            part(
                "reports",
                Permission.REPORTS_READ,
                s.reports.list,
                limit=REPORTS_SHOWN,
            ),
            part("records", Permission.RECORDS_READ, s.records.freshness),
        )
        again: dict[str, str] = {}
        if schedules is not None and any(
            run.status in ("running", "interrupted") for run in _items(runs)
        ):
            again = await part("tasks", Permission.TASKS_READ, partial(retries, s.fleet)) or {}
        profiles, sources = named or (None, None)
        latest: dict[str, Any] = {}
        for run in runs.items if runs else []:
            if not run.rehearsal:
                latest.setdefault(run.profile, run)
        # Nobody has said that nothing was collected where the aggregator does not answer.
        known = runs is not None and freshness is not None
        fresh = {line.profile: line for line in freshness or []}
        due = {line.profile: line.next_at or "" for line in schedules or []}
        services = [
            ServiceLine(name=name, status=status, detail=detail if whole else "")
            for name, (status, detail) in states.items()
        ]
        lines = [
            _profile(
                p, latest.get(p.name), fresh.get(p.name), due.get(p.name, ""), again, known=known
            )
            for p in _items(profiles)
        ]
        problems = [*service_problems(services), *sorted(unknown)]
        problems += [f"{one.profile}: {one.problem}" for one in freshness or [] if one.problem]
        return Overview(
            status="degraded" if problems else "ok",
            version=__version__,
            services=services,
            profiles=lines,
            workers=[
                WorkerLine(name=w.name, status=w.status, leases=w.leases)
                for w in (workers.workers if workers else [])
            ],
            runs=[_run(run, again) for run in _items(runs)[:RUNS_SHOWN]],
            reports=[
                ReportLine(id=r.id, title=r.title or r.name, created_at=r.created_at, chart=r.chart)
                for r in _items(reports)
            ],
            problems=problems[:PROBLEMS_SHOWN],
            # Over all sources, not over those that are shown.
            total_records=sum(line.records for line in freshness) if known else None,
            total_profiles=sources,
            total_workers=sum(workers.counts.values()) if workers else None,
            total_problems=len(problems),
            withheld=sorted(withheld),
        )


def _items(page: Any) -> list[Any]:
    return list(page.items) if page is not None else []


def _profile(
    status: Any, run: Any, fresh: Any, due_at: str, again: Mapping[str, str], *, known: bool
) -> ProfileLine:
    stale = bool(fresh and fresh.stale)
    if status.removed:
        state = "removed"
    elif not status.runnable:
        state = "paused"
    elif stale:
        state = "stale"
    else:
        ended = run.status if run is not None else fresh.last_status if fresh else ""
        # The newest runs of all may leave out one whose last was long ago.
        state = ended or ("never run" if known and not fresh else "not known")
    return ProfileLine(
        name=status.name,
        title=status.title,
        publisher=status.publisher,
        status=state,
        records=fresh.records if fresh else 0 if known else None,
        rejects=run.rejects if run is not None else 0,
        published_at=(fresh.published_at if fresh else "") or "",
        replayed=bool(run is not None and run.replayed),
        stale=stale,
        due_at=due_at,
        problem=status.problem or (_trouble(run, again) if run is not None else ""),
    )


def _trouble(run: Any, again: Mapping[str, str]) -> str:
    """Why a run failed, or what it is tried again after, and when."""
    if run.status == "failed":
        return str(run.reason)
    if run.status not in ("running", "interrupted"):
        return ""
    return again.get(run.id, "") or ": ".join(filter(None, (run.code, run.reason)))


def _run(run: Any, again: Mapping[str, str]) -> RunLine:
    return RunLine(
        id=run.id,
        profile=run.profile,
        status=run.status,
        started_at=run.started_at,
        new=run.new,
        changed=run.changed,
        unchanged=run.unchanged,
        withdrawn=run.withdrawn,
        rejects=run.rejects,
        reason=again.get(run.id, "") or run.reason,
    )
