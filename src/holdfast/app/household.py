"""What ``holdfast up`` keeps beside the served program: drones, and with ``--sample`` the sources.

Drones and the recorded sources are child processes that die with the program. A drone that ends is
started again, with a growing pause.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import resources
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING

from holdfast.app.line import PROGRAM
from holdfast.app.settings import Settings
from holdfast.kernel.cli import say
from holdfast.kernel.errors import Unavailable
from holdfast.kernel.files import write_over
from holdfast.kernel.principal import service
from holdfast.kernel.telemetry import get_logger

if TYPE_CHECKING:
    from holdfast.app.system import System
    from holdfast.kernel.children import Child
    from holdfast.kernel.serving import Bound

log = get_logger("app")

SAMPLE = resources.files("holdfast.sample")
START_SECONDS = 30.0
TOKEN_SECONDS = 365 * 86_400
TOKEN_SECONDS_LEFT = TOKEN_SECONDS / 2
"""A join token that would end sooner is replaced at the start."""


class Household:
    """The children of one ``holdfast up``."""

    def __init__(self, settings: Settings, *, sample: bool, once: bool, drones: int) -> None:
        self._settings = settings
        self._sample = sample
        self._once = once
        self._drones = drones
        self._run_dir = settings.data_dir / "run"
        self._children: set[Child] = set()
        self.collected = False
        """Whether what ``--once`` is for came to its end, well or not."""

    @staticmethod
    def flags(data_dir: Path, *, sample: bool) -> dict[str, str | None]:
        """The settings that ``--sample`` stands for."""
        if not sample:
            return {}
        return {
            "registry_profiles_dir": str(SAMPLE.joinpath("profiles")),
            "collect_replay_file": str(data_dir / "run" / "replay.json"),
        }

    def reread(self) -> None:
        """Have the drones read certificates again, as we did."""
        for child in self._children:
            child.signal(signal.SIGHUP)

    async def live(self, system: System, bound: Bound) -> int:
        """Start the children and stay; with ``--once`` collect, report, and return the status."""
        self._run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with AsyncExitStack() as stack:
            if self._sample:
                await stack.enter_async_context(self._sources())
            if self._drones:
                await self.keep_join_token(system)
                drones = [
                    asyncio.create_task(self._keep_drone(number, bound.url), name=f"drone-{number}")
                    for number in range(1, self._drones + 1)
                ]
                stack.push_async_callback(_end_all, drones)
            if self._once:
                from holdfast.app.once import collect_once

                status = await collect_once(system, sample=self._sample)
                self.collected = True
                return status
            self._greet(system, bound)
            if self._sample:
                from holdfast.app.once import collect_sample

                await collect_sample(system)
            await asyncio.Event().wait()
        return 0

    def _greet(self, system: System, bound: Bound) -> None:
        """Say where it runs. The link that signs in is for whoever watches, not for a log."""
        assert system.links is not None
        say(f"Holdfast runs at {bound.url}")
        if sys.stderr.isatty():
            link = f"{bound.url}/login#{system.links.create(system.operator)}"
            again = "works once, for five minutes; `holdfast login` prints another"
            say(f"  console: {link}  ({again})")
        else:
            say(f"  console: {bound.url}/  (`holdfast login` prints a link that signs in)")
        say(f"  profiles: {self._settings.profiles_dir}")
        say(f"  drones: {self._drones}; data: {self._settings.data_dir}; stop with Ctrl-C")

    @asynccontextmanager
    async def _sources(self) -> AsyncIterator[None]:
        """The recorded sources, served like the originals, and the replay map that leads there."""
        from holdfast.kernel.children import spawn

        replay = self._run_dir / "replay.json"
        replay.unlink(missing_ok=True)
        arguments = ["fixture", "serve", str(SAMPLE.joinpath("data")), "--replay-map", str(replay)]
        async with spawn(
            [*PROGRAM, *arguments], env=self._environment(), stdout=DEVNULL, stderr=DEVNULL
        ) as child:
            async with asyncio.timeout(START_SECONDS):
                while not _complete(replay):
                    if child.returncode is not None:
                        raise Unavailable("cannot serve the recorded sources: they ended at once")
                    await asyncio.sleep(0.02)
            yield

    async def keep_join_token(self, system: System) -> None:
        """Have the drones' join token in its file: the one that is there while it lasts.

        Drones that are started again may register again, so a token lasts as long as we may run.
        The one that a new one replaces ends first: if we die in between, the next start makes
        another, and none is left that admits somebody.
        """
        from holdfast.fleet.model import JoinTokenCreate
        from holdfast.fleet.worker_store import HOUSEHOLD

        path = self._token_file
        try:
            kept = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            kept = ""
        if await system.fleet.join_token_lasts(system.operator, kept, TOKEN_SECONDS_LEFT):
            path.chmod(0o600)
            return
        await system.fleet.end_join_token(system.operator, kept)
        wanted = JoinTokenCreate(expires_seconds=TOKEN_SECONDS)
        token = await system.fleet.worker_token_create(service(HOUSEHOLD), wanted)
        write_over(path, f"{token.token}\n".encode("ascii"))

    @property
    def _token_file(self) -> Path:
        return self._run_dir / "join-token"

    async def _keep_drone(self, number: int, url: str) -> None:
        """One drone, started again when it ends."""
        from holdfast.kernel.children import spawn

        name = self._settings["drone_id"] or "drone"
        environment = self._environment() | {
            "HOLDFAST_DRONE_CONTROL_PLANE": url,
            "HOLDFAST_DRONE_ID": f"{name}-{number}",
            "HOLDFAST_DRONE_JOIN_TOKEN_FILE": str(self._token_file),
        }
        pause = 0.5
        while True:
            started = asyncio.get_running_loop().time()
            async with spawn([*PROGRAM, "drone"], env=environment) as child:
                self._children.add(child)
                try:
                    status = await child.wait()
                finally:
                    self._children.discard(child)
            lived = asyncio.get_running_loop().time() - started
            pause = 0.5 if lived > 60 else min(pause * 2, 30.0)
            log.warning("drone ended; it is started again", drone=number, status=status)
            await asyncio.sleep(pause)

    def _environment(self) -> dict[str, str]:
        """What a child is told: our settings that concern it, and nothing it must not have."""
        settings = self._settings
        keep = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
        kept = {name: os.environ[name] for name in keep if name in os.environ}
        kept |= {k: v for k, v in os.environ.items() if k.startswith("HOLDFAST_SECRET_")}
        chosen = {
            "HOLDFAST_DATA_DIR": settings.data_dir.resolve(),
            "HOLDFAST_LOG_LEVEL": settings["log_level"],
            "HOLDFAST_LOG_FORMAT": settings["log_format"],
            "HOLDFAST_SECRETS_DIR": settings.secrets_dir.resolve(),
            "HOLDFAST_COLLECT_SPOOL_DIR": settings.spool_dir.resolve(),
            "HOLDFAST_COLLECT_CONTACT": settings["collect_contact"],
            "HOLDFAST_COLLECT_REPLAY_FILE": settings["collect_replay_file"],
            "HOLDFAST_COLLECT_ALLOW": ",".join(settings["collect_allow"]),
            "HOLDFAST_COLLECT_RESOLVER": settings["collect_resolver"],
            "HOLDFAST_COLLECT_CA_FILE": settings["collect_ca_file"],
            "HOLDFAST_DRONE_PROCESS_INTERVAL": settings["drone_process_interval"],
            "HOLDFAST_TLS_CA_FILE": settings["tls_ca_file"],
            "HOLDFAST_TLS_CLIENT_CERTIFICATE_FILE": settings["tls_client_certificate_file"],
            "HOLDFAST_TLS_CLIENT_KEY_FILE": settings["tls_client_key_file"],
        }
        return kept | {name: str(value) for name, value in chosen.items() if value}


async def _end_all(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _complete(replay: Path) -> bool:
    try:
        json.loads(replay.read_bytes())
    except (OSError, ValueError):
        return False
    return True
