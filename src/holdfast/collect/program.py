"""A drone as a process: signals in, an exit status out; and several of them side by side."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence

from holdfast.collect.control import connect
from holdfast.collect.settings import DroneSettings
from holdfast.collect.worker import Drone
from holdfast.kernel.children import Child, spawn
from holdfast.kernel.collector import settle
from holdfast.kernel.errors import HoldfastError
from holdfast.kernel.structs import prepare_structs
from holdfast.kernel.telemetry import get_logger
from holdfast.kernel.tls import ClientTls, renew

log = get_logger("drone")

_RESTART_SECONDS = (0.5, 30.0)
_LIVED_SECONDS = 60.0


async def run_drone(settings: DroneSettings) -> None:
    """One drone in this process until SIGTERM or SIGINT; a second signal does not wait.

    Raises what an operator has to mend before it can start.
    """
    prepare_structs()
    settle()
    stop = stop_on_signal()
    on_hangup(lambda: _reread(settings.tls))
    async with connect(settings.control_plane, settings.ca_file, settings.tls) as control:
        log.info("drone.started", drone=settings.name, control_plane=settings.control_plane)
        await Drone(settings, control).run(stop)
    log.info("drone.stopped", drone=settings.name)


async def run_children(
    command: Sequence[str], environments: Sequence[Mapping[str, str]], stop: asyncio.Event
) -> None:
    """One child process for each environment, started again when it ends, until ``stop``.

    Parsing keeps one core busy, so drones that share a machine do not share a process. Children die
    with this process, however it ends.
    """
    settle()
    children: set[Child] = set()

    def pass_on() -> None:
        for child in children:
            child.signal(signal.SIGHUP)

    on_hangup(pass_on)
    async with asyncio.TaskGroup() as group:
        keepers = [group.create_task(_kept(command, env, children)) for env in environments]
        await stop.wait()
        for keeper in keepers:
            keeper.cancel()


async def _kept(
    command: Sequence[str], environment: Mapping[str, str], children: set[Child]
) -> None:
    pause, longest = _RESTART_SECONDS
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        async with spawn(command, env=environment) as child:
            children.add(child)
            try:
                status = await child.wait()
            finally:
                children.discard(child)
        lived = loop.time() - started
        pause = _RESTART_SECONDS[0] if lived > _LIVED_SECONDS else min(pause * 2, longest)
        log.warning("drone.ended", status=status, again_in_seconds=pause)
        await asyncio.sleep(pause)


def on_hangup(told: Callable[[], None]) -> None:
    """Call ``told`` at SIGHUP, which would end the process otherwise."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, told)


def _reread(tls: ClientTls | None) -> None:
    """Take renewed certificates and authorities, all or none; what is open goes on as it is."""
    try:
        if tls is not None:
            renew(tls)
        log.info("drone.certificates_read" if tls else "drone.nothing_to_read_again")
    except HoldfastError as error:
        log.warning("drone.certificates_not_taken", error=error.detail)


def stop_on_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; the second time they do what they do by default."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number)
    return stop
