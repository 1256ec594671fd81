"""``holdfast up --once`` and ``--sample``: collect what there is, show it, and report on it."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.kernel.cli import print_table, say, visible
from holdfast.kernel.errors import HoldfastError, Unavailable
from holdfast.registry.document import SUFFIXES

if TYPE_CHECKING:
    from rich.progress import Progress

    from holdfast.app.system import System

PROFILES_SECONDS = 30.0
COLLECT_SECONDS = 1800.0
POLL_SECONDS = 0.1
FINAL = frozenset({"succeeded", "unchanged", "partial", "failed", "cancelled"})
GOOD = frozenset({"succeeded", "unchanged"})


@dataclass(slots=True)
class Collection:
    """One profile on its way: its task, its run, and what became of it."""

    profile: str
    task: str
    run_id: str
    run: Any = None
    task_status: str = "queued"
    reason: str = ""

    @property
    def over(self) -> bool:
        return self.task_status in ("succeeded", "dead", "cancelled")

    @property
    def state(self) -> str:
        if self.run is not None:
            return str(self.run.status)
        return "failed" if self.task_status == "dead" else self.task_status


@dataclass(slots=True)
class Tally:
    """Everything that was asked for."""

    collections: list[Collection] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return all(c.over for c in self.collections)

    @property
    def good(self) -> bool:
        return all(c.state in GOOD for c in self.collections)


async def collect_once(system: System, *, sample: bool) -> int:
    """Collect, show, report; the exit status: 0 if every run succeeded or changed nothing.

    A file of the folder that is no profile, or one that may not run, is named at once; the others
    are collected, and the status is not 0.
    """
    names, left = await found_profiles(system)
    for file, why in left:
        first, *more = why.splitlines()
        further = f" (and {len(more)} more; `holdfast profile validate` says all)" if more else ""
        said = first.removeprefix(f"{file}: ")
        say(f"error: {file} is not collected: {visible(said)}{further}")
    if not names:
        raise _none_runs(system.settings.profiles_dir)
    tally = Tally([await submit(system, name) for name in names])
    await _follow(system, tally)
    await _show_collected(system, tally)
    if not tally.good:
        _tell_failed(tally)
        return 1
    if left:
        return 1
    if sample:
        from holdfast.app.sample import report_on_sample

        await report_on_sample(system)
    return 0


async def collect_sample(system: System) -> None:
    """:func:`collect_once` of the sample while it is served: the same is shown and reported on.

    Nothing that fails ends the program. Reports on the same inputs are the ones that are there, so
    a restart on what has not changed makes none anew.
    """
    from holdfast.app.sample import report_on_sample

    try:
        tally = Tally([await submit(system, name) for name in await runnable_profiles(system)])
        await _follow(system, tally)
        await _show_collected(system, tally)
        if tally.good:
            await report_on_sample(system, stays=True)
        else:
            _tell_failed(tally)
            say("no reports of the sample: not every source was collected")
    except HoldfastError as error:
        say(f"no reports of the sample: {error.detail}")


def _tell_failed(tally: Tally) -> None:
    for c in tally.collections:
        if c.state not in GOOD:
            say(f"error: {c.profile}: {c.state}: {c.reason or 'no reason was given'}")


async def runnable_profiles(system: System) -> list[str]:
    """The runnable profiles, once the registry has read its folder."""
    folder = system.settings.profiles_dir
    expected = _files_in(folder)
    deadline = asyncio.get_running_loop().time() + PROFILES_SECONDS
    while True:
        listed = await system.registry.runnable(system.principal)
        names = [profile.name for profile in listed.profiles]
        if len(names) >= expected and names:
            return names
        if asyncio.get_running_loop().time() > deadline:
            if names:
                return names
            raise _none_runs(folder)
        await asyncio.sleep(POLL_SECONDS)


async def found_profiles(system: System) -> tuple[list[str], list[tuple[str, str]]]:
    """The runnable profiles, and the files of the folder that give none, each with the reason."""
    from holdfast.registry.folder import ProfilesFolder

    folder = ProfilesFolder(
        system.registry,
        system.operator,
        system.settings.profiles_dir,
        system.clock,
        apart=system.settings.data_dir,
    )
    await folder.reconcile()  # the watch does the same; here is where it has been done
    listed = await system.registry.runnable(system.principal)
    left: list[tuple[str, str]] = []
    cursor: str | None = None
    while True:
        page = await system.registry.list(system.operator, cursor=cursor, limit=500)
        for one in page.items:
            why = one.problem or ("" if one.enabled else "it is disabled (enabled: false)")
            if not why and not one.runnable:
                why = "it is paused"
            if one.file and why and not one.removed:
                left.append((one.file, why))
        cursor = page.next
        if cursor is None:
            return [profile.name for profile in listed.profiles], left


def _none_runs(folder: Path) -> Unavailable:
    return Unavailable(
        f"cannot collect: no profile in {folder} can run",
        hint="`holdfast profile validate FILE` says what is wrong with one",
    )


def _files_in(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.suffix in SUFFIXES)


async def submit(system: System, profile: str) -> Collection:
    """Ask for a run of the profile now; the one that is already under way, if there is one."""
    from holdfast.fleet.model import CollectRequest

    request = CollectRequest(profile=profile, trigger="start")
    task = await system.fleet.collect(system.operator, request)
    return Collection(profile, task.id, task.payload["run"])


async def _follow(system: System, tally: Tally) -> None:
    deadline = asyncio.get_running_loop().time() + COLLECT_SECONDS
    with _progress() as progress:
        bars = {
            c.profile: progress.add_task(c.profile, total=1, note="") for c in tally.collections
        }
        while not tally.over:
            for c in tally.collections:
                if not c.over:
                    await _look(system, c)
                    _draw(progress, bars[c.profile], c)
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"cannot go on: not done in {COLLECT_SECONDS:.0f} s")
            await asyncio.sleep(POLL_SECONDS)


async def _look(system: System, c: Collection) -> None:
    task = await system.fleet.show_task(system.operator, c.task)
    c.task_status = str(task.status)
    c.reason = task.reason
    try:
        c.run = await system.records.run(system.operator, c.run_id)
        c.reason = c.run.reason or c.reason
    except HoldfastError:
        c.run = None  # nobody has opened it yet


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=18),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def _draw(progress: Progress, bar: Any, c: Collection) -> None:
    records = c.run.records if c.run is not None else 0
    if c.over:
        note = f"{c.state:<10} {records:>7,} records"
        progress.update(bar, total=1, completed=1, note=note)
    elif c.run is None:
        progress.update(bar, total=1, completed=0, note="waiting")
    else:
        progress.update(bar, total=None, note=f"collecting {records:>7,} records")


async def _show_collected(system: System, tally: Tally) -> None:
    kept = {line.profile: line.records for line in await system.records.freshness(system.operator)}
    rows: list[list[object]] = []
    for c in sorted(tally.collections, key=lambda each: each.profile):
        run = c.run
        if run is None:
            rows.append([c.profile, c.state, "", "", "", "", "", ""])
            continue
        rows.append(
            [
                c.profile,
                c.state,
                f"{kept.get(c.profile, 0):,}",
                f"{run.new + run.changed:,}",
                f"{run.rejects:,}",
                run.pages,
                f"{run.bytes_fetched:,}",
                f"{_seconds(run):.2f}",
            ]
        )
    columns = [
        "profile",
        "state",
        "kept",
        "new or changed",
        "rejects",
        "pages",
        "bytes",
        "seconds",
    ]
    sys.stdout.write("\n")
    print_table(
        columns,
        rows,
        title="What was collected",
        numeric=columns[2:],
        spare=["seconds", "pages", "bytes"],
        elsewhere="`holdfast run list --json` has them",
    )
    total = sum(kept.get(c.profile, 0) for c in tally.collections)
    replayed = any(c.run is not None and c.run.replayed for c in tally.collections)
    where = "replayed from recorded copies, not fetched live" if replayed else "fetched live"
    sys.stdout.write(f"{total:,} records kept of {len(tally.collections)} sources, {where}\n\n")


def _seconds(run: Any) -> float:
    from holdfast.kernel.clock import parse_timestamp

    if not run.finished_at:
        return 0.0
    return (parse_timestamp(run.finished_at) - parse_timestamp(run.started_at)).total_seconds()
