"""The whole system in one process, a source that can be told to misbehave, and real drones."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from holdfast.app.compose import open_system
from holdfast.app.settings import ROLES, resolve
from holdfast.app.system import System
from holdfast.collect.control import HttpControlPlane
from holdfast.collect.fixtures.server import FixtureServer
from holdfast.collect.settings import CollectSettings, DroneSettings
from holdfast.collect.worker import Drone
from holdfast.fleet.model import CollectRequest, JoinTokenCreate, Task, TaskStatus
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.outbound import OutboundSettings
from holdfast.kernel.principal import operator
from holdfast.records.model import Record, RecordFilter, Run, RunFilter, RunStatus
from tests.support.waiting import until

OPERATOR = operator()
IMPATIENT = {"fleet_lease_seconds": "2", "fleet_lost_seconds": "1.5"}
"""For tests that wait until a drone is given up. A machine that stands still for that long gives up
others too: such a test says of nobody that he was not."""
FINAL = frozenset(RunStatus) - {RunStatus.RUNNING, RunStatus.INTERRUPTED}


class Line(httpx.AsyncBaseTransport):
    """The way from a drone to the system; a test can cut it, or lose what comes back.

    ``lose`` names calls (``/v1/batches``) whose next answers are lost, after the system has done
    what was asked; ``refuse`` those that do not arrive; ``hold`` what each waits for first.
    """

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.cut = False
        self.lose: dict[str, int] = {}
        self.refuse: dict[str, int] = {}
        self.hold: dict[str, Callable[[], Awaitable[None]]] = {}
        self.lost = 0
        self.seen: Counter[str] = Counter()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.cut:
            raise httpx.ConnectError("the line is cut", request=request)
        name = f"{request.method} {request.url.path}"
        if _takes(self.refuse, name):
            raise httpx.ConnectError("the call did not arrive", request=request)
        for part in [part for part in self.hold if part in name]:
            await self.hold.pop(part)()
        response = await self._inner.handle_async_request(request)
        self.seen[name] += 1
        if self.cut or _takes(self.lose, name):
            self.lost += 1
            await response.aclose()
            raise httpx.ReadError("the answer was lost", request=request)
        return response


def _takes(calls: dict[str, int], name: str) -> bool:
    """Whether a fault strikes this call; it is used up by that."""
    for part, left in calls.items():
        if left and part in name:
            calls[part] = left - 1
            return True
    return False


@dataclass
class Collecting:
    """A system, a source and the drones that a test starts."""

    system: System
    source: FixtureServer
    files: Path
    root: Path
    secrets: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, content: Any) -> None:
        """A file of the source: bytes, text, or anything as JSON."""
        if isinstance(content, str):
            content = content.encode()
        data = content if isinstance(content, bytes) else msgspec.json.encode(content)
        (self.files / name).write_bytes(data)

    async def publish(self, name: str = "test", path: str = "data.json", **parts: Any) -> str:
        """Publish a profile of a file of the source; its digest."""
        source = {"url": f"{self.source.url}/{path}", "format": {"type": "json"}}
        source |= parts.pop("source", {})
        plain = {
            "version": 1,
            "name": name,
            "publisher": "p",
            "licence": "l",
            "key": ["dimensions.id"],
            "dimensions": {"id": "$.id"},
            "measures": {"v": "$.v"},
            "source": source,
            **parts,
        }
        result = await self.system.registry.publish(
            OPERATOR, msgspec.json.encode(plain), media_type="application/json"
        )
        digest: str = result.version.digest
        return digest

    async def submit(self, name: str = "test", **parts: Any) -> Task:
        """Ask for a run of the profile."""
        request = CollectRequest(profile=name, **parts)
        task: Task = await self.system.fleet.collect(OPERATOR, request)
        return task

    async def task(self, task: Task) -> Task:
        found: Task = await self.system.fleet.show_task(OPERATOR, task.id)
        return found

    async def run_of(self, task: Task) -> Run:
        found: Run = await self.system.records.run(OPERATOR, task.payload["run"])
        return found

    async def ended(self, task: Task, seconds: float = 60.0) -> Run:
        """The run of a task once both have ended."""

        async def over() -> bool:
            found = await self.task(task)
            return found.status not in {TaskStatus.QUEUED, TaskStatus.LEASED}

        await until(over, seconds=seconds)

        async def told() -> bool:
            runs = await self.system.records.runs(OPERATOR, RunFilter(run=task.payload["run"]))
            return bool(runs.items) and runs.items[0].status in FINAL

        await until(told, seconds=seconds)
        return await self.run_of(task)

    async def collect(self, name: str = "test", **parts: Any) -> Run:
        """Run the profile to its end."""
        return await self.ended(await self.submit(name, **parts))

    async def records(self, name: str = "test") -> list[Record]:
        """What is published of the profile."""
        found: list[Record] = []
        cursor = None
        while True:
            page = await self.system.records.records(
                OPERATOR, RecordFilter(profile=name, provenance=True), cursor=cursor, limit=1000
            )
            found += page.items
            cursor = page.next
            if cursor is None:
                return found

    def settings(self, name: str, **changes: Any) -> DroneSettings:
        """The settings of a drone that may fetch from the source."""
        replay = self.root / "replay.json"
        replay.write_bytes(msgspec.json.encode({"https://api.example.org": self.source.url}))
        collect = CollectSettings(
            spool_dir=self.root / "spool",
            outbound=OutboundSettings(allow=frozenset({self.source.host_port}), replay_map=replay),
            secret_variables=self.secrets,
        )
        defaults: dict[str, Any] = {
            "control_plane": "http://localhost",
            "name": name,
            "state_dir": self.root / "drones",
            "collect": collect,
            "join_token_file": self.root / "join-token",
            "grace_seconds": 2.0,
        }
        return DroneSettings(**{**defaults, **changes})

    @asynccontextmanager
    async def drone(self, name: str = "drone-1", **changes: Any) -> AsyncIterator[Drone]:
        """A drone while the block runs; its failure is the test's."""
        stop = asyncio.Event()
        line = changes.pop("line", None) or Line(self.system.app)
        async with ApiClient(
            httpx.AsyncClient(transport=line, base_url="http://localhost", timeout=60)
        ) as api:
            drone = Drone(self.settings(name, **changes), HttpControlPlane(api))
            running = asyncio.create_task(drone.run(stop))
            body = asyncio.current_task()
            assert body is not None

            def failed(task: asyncio.Task[None]) -> None:
                if not task.cancelled() and task.exception() is not None:
                    body.cancel()

            running.add_done_callback(failed)
            try:
                yield drone
            except asyncio.CancelledError:
                if running.done() and (error := running.exception()) is not None:
                    body.uncancel()
                    raise error from None
                raise
            finally:
                stop.set()
                await asyncio.gather(running, return_exceptions=True)

    async def new_join_token(self) -> None:
        token = await self.system.fleet.worker_token_create(OPERATOR, JoinTokenCreate())
        file = self.root / "join-token"
        file.touch(mode=0o600)  # As whoever is given one keeps it: open to others it is found.
        file.write_text(token.token)


@asynccontextmanager
async def collecting(root: Path, **settings: str) -> AsyncIterator[Collecting]:
    """A fresh system on ``root``, its loops running.

    Drones beat often and are given up late: system, source and drones share one process, and one
    slow flush of the disk must not look like a death. Its data directory is the copy of one that
    was started before: keys and tables are made once a worker.
    """
    made = root.parent / "a-system-that-started-before"
    if not made.exists():
        async with open_system(resolve({}, {"data_dir": str(made)}), ROLES):
            pass
    shutil.copytree(made, root / "data")
    files = root / "files"
    files.mkdir()
    (root / "profiles").mkdir()
    flags = {
        "data_dir": str(root / "data"),
        "registry_profiles_dir": str(root / "profiles"),
        "fleet_lease_seconds": "30",
        "fleet_beat_seconds": "0.2",
        "fleet_lost_seconds": "30",
        "fleet_backoff_seconds": "0.05",
        **settings,
    }
    resolved = resolve({}, flags)
    async with open_system(resolved, ROLES) as system, FixtureServer(files) as source:
        loops = asyncio.create_task(system.run_loops())
        try:
            bench = Collecting(system, source, files, root)
            await bench.new_join_token()
            yield bench
        finally:
            loops.cancel()
            await asyncio.gather(loops, return_exceptions=True)
