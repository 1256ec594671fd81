"""``holdfast prune``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.kernel.cli import print_json, print_table, run, say, session
from holdfast.kernel.options import JsonOption

if TYPE_CHECKING:
    from holdfast.app.pruning import Pruned
    from holdfast.kernel.http.client import ApiClient

app = typer.Typer(add_completion=False)

PRUNE_SECONDS = 600.0


@app.command(
    help="Remove what nothing needs any more: stored responses and report files that no record, "
    "run or report names and that are older than a day, finished tasks past their time "
    "(HOLDFAST_FLEET_TASKS_KEPT_DAYS), and expired idempotency keys. A running system does this by "
    "itself every hour. Records, runs and reports are never removed.",
    epilog="Examples: holdfast prune --dry-run | holdfast prune --json",
)
def _prune(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")
    ] = False,
    json: JsonOption = False,
) -> None:
    async def body() -> None:
        from holdfast.app.pruning import PRUNING

        done: list[Pruned] = []
        try:
            async with session(ctx, timeout_seconds=PRUNE_SECONDS) as api:
                for role in PRUNING:
                    done.append(await _asked(api, role, dry_run=dry_run))
        finally:  # what an earlier role removed is removed, whatever a later one says
            if done:
                _print(done, dry_run=dry_run, json=json)

    run(body)


async def _asked(api: ApiClient, role: str, *, dry_run: bool) -> Pruned:
    from holdfast.app.pruning import Pruned

    return await api.request(
        "POST", f"/v1/prune/{role}", params={"dry_run": dry_run}, json={}, type=Pruned
    )


def _print(done: Sequence[Pruned], *, dry_run: bool, json: bool) -> None:
    if json:
        print_json({"dry_run": dry_run, "roles": done})
        return
    print_table(
        ["role", "objects", "bytes", "tasks", "idempotency keys"],
        [[d.role, d.objects, d.object_bytes, d.tasks, d.idempotency_keys] for d in done],
        numeric=["objects", "bytes", "tasks", "idempotency keys"],
    )
    if dry_run:
        say("nothing was removed: leave --dry-run out to remove this")
