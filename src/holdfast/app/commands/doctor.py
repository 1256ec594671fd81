"""``holdfast doctor``: the operational checklist, for a stack that is down, up or broken."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.app.line import sources_of, with_origin
from holdfast.app.resting import Finding, of_directory, of_flush, of_settings, try_to_write
from holdfast.app.settings import examine, without_effect
from holdfast.fleet.model import Worker, WorkerStatus, WorkerSummary
from holdfast.kernel.cli import (
    LOCK,
    CommandLine,
    command_line,
    print_json,
    run,
    say,
    session,
    visible,
)
from holdfast.kernel.errors import EXIT_STATUS, Denied, HoldfastError, Kind
from holdfast.kernel.hints import hint_for
from holdfast.kernel.http import Page
from holdfast.kernel.lock import holder_of
from holdfast.kernel.options import JsonOption
from holdfast.ledger.errors import CLOCK
from holdfast.ledger.model import LedgerStatus

app = typer.Typer(add_completion=False)

MARKS = {"pass": "✓", "warn": "!", "fail": "✗", "skip": "·"}
DISK_BYTES_MIN = 256 * 1024 * 1024
DISK_FULL_BYTES = 1024 * 1024
"""With less than this a system says of itself that it cannot go on."""
PROBLEMS_SHOWN = 3
SAMPLE = 50
DEEP_SECONDS = 60.0


@app.command(
    help="Check a stack: is it up, are profiles loaded, do drones beat, do results arrive, does "
    "the data persist. Where nothing runs: settings, database, keys, log, profiles, clock, disk, "
    "port; nothing is started or written. Exit status 1 when a check fails, as of a stack that is "
    "down; 3 when none does, and some were not made because the credential may not.",
    epilog="Example: holdfast doctor --control-plane http://127.0.0.1:8090 --json",
)
def doctor(
    ctx: typer.Context,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="While it runs: open every raw response, not a sample. At rest: open every key, "
            "compare every revision of a record with what was recorded; raw responses are not "
            "looked at.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run the checklist of guide 1 against whatever is, or is not, there."""
    line = command_line(ctx)

    async def body() -> list[Finding]:
        return [
            *_machine(),
            *_settings(line),
            *_data(line),
            *_resting(line, deep=deep),
            *await _stack(ctx, line, deep=deep),
        ]

    findings = run(body)
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            told = visible(finding.detail)  # a worker's or a source's words may be in it
            sys.stdout.write(f"{MARKS[finding.outcome]} {finding.check}: {told}\n")
            if finding.hint:
                sys.stdout.write(f"    hint: {visible(finding.hint)}\n")
    unseen = [finding.check for finding in findings if finding.code]
    if unseen:
        say(
            f"{len(unseen)} of {len(findings)} checks were not made, for the credential may not: "
            f"{', '.join(unseen)}; what the others say is not the whole"
        )
    if any(finding.outcome == "fail" for finding in findings):
        raise typer.Exit(1)
    if unseen:
        raise typer.Exit(EXIT_STATUS[Kind.DENIED])


def _machine() -> list[Finding]:
    version = platform.python_version()
    right = sys.version_info >= (3, 11)
    return [
        Finding(
            "python",
            "pass" if right else "fail",
            f"Python {version}",
            "" if right else "Python 3.11 or newer is needed",
        )
    ]


def _data(line: CommandLine) -> list[Finding]:
    """Whether what is written here is still there after a restart of the machine."""
    folder = line.data_dir
    if line.control_plane is not None and not folder.is_dir():
        return []
    if not folder.is_dir():
        return [
            Finding(
                "data volume", "warn", f"{folder} does not exist yet", "`holdfast up` creates it"
            )
        ]
    kind = _filesystem(folder)
    space = os.statvfs(folder)
    room = _room(folder, kind, space.f_bavail * space.f_frsize)
    return [of_directory(folder), room, of_flush(folder)]


def _resting(line: CommandLine, *, deep: bool) -> list[Finding]:
    """What can be told of a stack that does not run; of one that does, its roles are asked."""
    from holdfast.app.resting import at_rest

    if line.control_plane is not None or line.running() is not None or not line.data_dir.is_dir():
        return []
    with suppress(OSError):
        holder = holder_of(line.data_dir / LOCK)
        if holder is not None:
            who = f"process {holder}" if holder else "a process"
            detail = f"{who} holds {line.data_dir}: a program that starts, or a command"
            return [Finding("at rest", "skip", detail, "try again in a moment")]
    settings, _ = examine(*sources_of(line, {}))
    return at_rest(settings, datetime.now(UTC), deep=deep)


def _settings(line: CommandLine) -> list[Finding]:
    if line.control_plane is not None and not line.data_dir.is_dir():
        return []
    settings, problems = examine(*sources_of(line, {}))
    passed_over = without_effect(os.environ)
    return [of_settings(with_origin(line, settings), problems, passed_over)]


def _room(folder: Path, kind: str, free: int) -> Finding:
    """What is worst of it first: full or read-only, then gone after a restart, then nearly full."""
    mend = "free some space or mend the mount; Holdfast recovers by itself"
    if free < DISK_FULL_BYTES:
        return Finding("data volume", "fail", f"{folder} is full: {free:,} bytes are left", mend)
    try:
        try_to_write(folder)
    except OSError as error:
        return Finding("data volume", "fail", f"{folder} cannot be written: {error.strerror}", mend)
    if kind in ("tmpfs", "ramfs", "overlay"):
        return Finding(
            "data volume",
            "fail",
            f"{folder} is on {kind}: it does not persist",
            "mount a volume there, or name another place with --data-dir",
        )
    short = free < DISK_BYTES_MIN
    return Finding(
        "data volume",
        "warn" if short else "pass",
        f"{folder} on {kind or 'a local file system'}, {free // 2**20:,} MiB free",
        "less than 256 MiB are left" if short else "",
    )


def _filesystem(folder: Path) -> str:
    """The type of the file system that ``folder`` is on, as the kernel lists it."""
    best, kind = "", ""
    wanted = str(folder.resolve())
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for mount in lines:
        _, point, fs_type = mount.split()[:3]
        inside = wanted == point or wanted.startswith(point.rstrip("/") + "/") or point == "/"
        if inside and len(point) > len(best):
            best, kind = point, fs_type
    # A container's own root is an overlay; a data directory of its own there is no volume.
    return kind if kind != "overlay" or best == "/" else ""


async def _stack(ctx: typer.Context, line: CommandLine, *, deep: bool) -> list[Finding]:
    running = line.running()
    if line.control_plane is None and running is None:
        return [
            Finding(
                "gateway",
                "fail",
                f"nothing runs on {line.data_dir}",
                "start it with `holdfast up`, or name one with --control-plane URL",
            )
        ]
    try:
        async with session(ctx, timeout_seconds=DEEP_SECONDS if deep else 10) as api:
            return [
                await _checked("gateway", lambda: _gateway(api)),
                await _checked("access", lambda: _access(api)),
                await _checked("registry", lambda: _profiles(api)),
                await _checked("drones", lambda: _drones(api)),
                await _checked("results", lambda: _results(api)),
                await _checked("sources", lambda: _sources(api)),
                await _checked("raw bytes", lambda: _objects(api, deep=deep)),
                await _checked("ledger", lambda: _ledger(api)),
            ]
    except HoldfastError as error:
        return [Finding("gateway", "fail", error.detail, hint_for(error, "doctor"))]


async def _checked(name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        return await check()
    except Denied as error:
        hint = "with the operator's token it is looked at"
        return Finding(name, "skip", f"not looked at: {error.detail}", hint, error.code)
    except HoldfastError as error:
        from holdfast.identity.hop import hop_missing

        if error.detail == hop_missing().detail:
            hint = "name the gateway's data directory, or its address with --control-plane"
            return Finding(name, "skip", "not looked at: a role answers through its gateway", hint)
        if error.code == "route-not-found":
            # A role that runs alone: what it has not is not broken.
            return Finding(name, "skip", "not looked at: this door has no such role")
        hint = error.hint
        if not hint and error.code == "role-unreachable":
            hint = "see that it runs (its log), and that its address in the settings is right"
        hint = hint or hint_for(error, "doctor")
        return Finding(name, "fail", error.detail, hint)


async def _gateway(api: Any) -> Finding:
    found = await api.get("/health", type=dict[str, Any])
    services = found.get("services") or {}
    bad = [f"{name} {state}" for name, state in services.items() if state != "ok"]
    if found["status"] not in ("ok", "degraded"):
        return Finding("gateway", "fail", f"/health says {found['status']}")
    if bad:
        why = await _reasons(api)
        hint = "look at that role's log, or at /health/detailed of it"
        return Finding("gateway", "fail", f"degraded: {'; '.join(why or bad)}", hint)
    return Finding("gateway", "pass", f"/health says {found['status']}, version {found['version']}")


async def _reasons(api: Any) -> list[str]:
    """What is wrong with the roles, as far as the gateway knows."""
    from holdfast.console.overview import Overview, service_problems

    try:
        found = await api.get("/v1/overview", type=Overview)
    except HoldfastError:  # a system that is down cannot say why
        return []
    return service_problems(found.services)


async def _access(api: Any) -> Finding:
    """Whether a restore has left open who may enter."""
    from holdfast.identity.access.client import AccessClient
    from holdfast.identity.access.model import CONFIRM, REVIEW

    found = await AccessClient(api).find(None)
    if found.confirmed:
        return Finding("access", "pass", "keys and people are let in as they stand")
    since = min(each.backed_up_at for each in found.unconfirmed)
    return Finding(
        "access",
        "fail",
        f"as it was at the backup of {since} and not yet confirmed: only the operator is let in",
        f"`{REVIEW}` shows who would be; end what was ended since, then `{CONFIRM}`",
    )


async def _profiles(api: Any) -> Finding:
    found = await api.get("/v1/profiles", type=dict[str, Any], params={"limit": 500})
    items = found["items"]
    broken = [item["name"] for item in items if item.get("problem")]
    if broken:
        return Finding(
            "registry",
            "warn",
            f"{_profiles_of(items)} loaded; the newest file of {', '.join(broken)} was not taken",
            "`holdfast profile list` shows why",
        )
    if not items:
        return Finding("registry", "fail", "no profiles loaded", "put some into PROFILES_DIR")
    return Finding("registry", "pass", f"{_profiles_of(items)} loaded")


def _profiles_of(items: list[Any]) -> str:
    return "1 profile" if len(items) == 1 else f"{len(items)} profiles"


async def _drones(api: Any) -> Finding:
    alive: list[Worker] = []
    cursor: str | None = ""
    while cursor is not None:  # those that went away long ago are in the list, too
        asked = {"limit": 1000, "cursor": cursor or None}
        found = await api.get("/v1/workers", type=Page[Worker], params=asked)
        alive += [worker for worker in found.items if worker.status is WorkerStatus.ALIVE]
        cursor = found.next
    bound = await api.get("/v1/workers/summary", type=WorkerSummary, params={"limit": 1})
    return of_drones(alive, bound.lost_after_seconds)


def of_drones(alive: list[Worker], lost_after_seconds: float) -> Finding:
    """Whether drones that are not lost do beat. Of those that fell silent while the coordinator was
    away it does not know yet that they are lost: their silence tells."""
    start = "start one: `holdfast drone --control-plane URL`"
    if not alive:
        return Finding("drones", "fail", "no drone beats", start)
    silent = {each.name: each.silent_seconds for each in alive}
    beating = {n: s for n, s in silent.items() if s is not None and s <= lost_after_seconds}
    quiet = [n for n in silent if n not in beating]
    told = "; ".join(f"{name} {_since(silent[name])}" for name in quiet[:PROBLEMS_SHOWN])
    told += f" (and {len(quiet) - PROBLEMS_SHOWN} more)" if len(quiet) > PROBLEMS_SHOWN else ""
    bound = f"after {lost_after_seconds:g} s of silence a drone is taken for lost"
    if not beating:
        detail = f"no drone beats: {told}; {bound}"
        return Finding("drones", "fail", detail, f"look at its log, or {start}")
    detail = f"{len(beating)} of {len(alive)} beat, the last one {_since(min(beating.values()))}"
    if quiet:
        hint = "look at the log of those; `holdfast worker list` shows all"
        return Finding("drones", "warn", f"{detail}; not {told}; {bound}", hint)
    return Finding("drones", "pass", detail)


def _since(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.0f} s ago"


async def _results(api: Any) -> Finding:
    found = await api.get("/v1/runs", type=dict[str, Any], params={"limit": 50})
    good = [r for r in found["items"] if r["status"] in ("succeeded", "unchanged")]
    if good:
        return Finding("results", "pass", f"the latest arrived {good[0]['finished_at']}")
    if found["items"]:
        worst = found["items"][0]
        why = worst.get("reason") or worst.get("code") or f"the last run is {worst['status']}"
        return Finding("results", "fail", f"no run succeeded; {worst['profile']}: {why}")
    due = await api.get("/v1/schedules", type=list[dict[str, Any]])
    moments = sorted(line["next_at"] for line in due if line.get("next_at"))
    first = f"; the first is due {moments[0][:16].replace('T', ' ')} UTC" if moments else ""
    return Finding(
        "results", "warn", f"no run yet{first}", "`holdfast profile run NAME` starts one"
    )


async def _sources(api: Any) -> Finding:
    """What ``holdfast status`` says of sources: silent, failing, or of another shape."""
    from holdfast.console.overview import Overview, service_problems

    found = await api.get("/v1/overview", type=Overview)
    of_services = service_problems(found.services)
    problems = [problem for problem in found.problems if problem not in of_services]
    if not problems:
        return Finding("sources", "pass", "none is silent, has failed or changed its shape")
    left = len(problems) - PROBLEMS_SHOWN + found.more_problems
    more = f" (and {left} more)" if left > 0 else ""
    return Finding(
        "sources",
        "fail",
        "; ".join(problems[:PROBLEMS_SHOWN]) + more,
        "`holdfast status` shows all of them, `holdfast run show` of a run what came",
    )


async def _objects(api: Any, *, deep: bool) -> Finding:
    """Whether raw bytes are there and whole: some of them, or all."""
    checked, missing, damaged, following = 0, list[str](), list[str](), ""
    while True:
        asked = {"after": following} if deep else {"sample": SAMPLE}
        found = await api.get("/v1/objects/check", type=dict[str, Any], params=asked)
        checked += found["checked"]
        missing += found["missing"]
        damaged += found["damaged"]
        following = found["next"]
        if not (deep and following):
            break
    bad = [f"{name} is missing" for name in missing] + [f"{name} is damaged" for name in damaged]
    if bad:
        shown = bad if deep else bad[:PROBLEMS_SHOWN]
        more = f" (and {len(bad) - len(shown)} more)" if len(bad) > len(shown) else ""
        hint = "put those files of the objects folder back from a copy, or restore a backup"
        return Finding(
            "raw bytes",
            "fail",
            f"of {checked} objects {'; '.join(shown)}{more}",
            hint if deep else f"`holdfast doctor --deep` looks at all; {hint}",
        )
    detail = f"{checked} objects opened, whole" + ("" if deep else " (a sample; --deep opens all)")
    return Finding("raw bytes", "pass", detail)


async def _ledger(api: Any) -> Finding:
    return of_ledger(await api.get("/v1/ledger/status", type=LedgerStatus))


def of_ledger(found: LedgerStatus) -> Finding:
    """Whether the log takes events, here or at another instance, and if not, why not."""
    if found.damage is not None:
        from holdfast.ledger.log.soundness import hint_of

        return Finding(
            "ledger",
            "fail",
            f"read-only at {found.size:,} entries: {found.damage.reason}: {found.damage.detail}",
            f"{hint_of(found.damage.reason)}; docs/operating/ledger.md says more",
        )
    if found.stopped:
        return Finding("ledger", "fail", f"nothing is appended: {found.stopped}", CLOCK)
    who = "here" if found.writable else "by another instance"
    return Finding(
        "ledger",
        "pass",
        f"{found.size:,} entries, appended to {who}; `holdfast ledger verify` reads all of them",
    )
