"""The programs that stay, from what the line said: ``up``, ``serve`` and ``drone``.

Called by ``app.commands`` and, without the library that reads command lines, by ``app.straight``.
Each returns its exit status. What a program does not need is not imported: a drone knows nothing
of the server.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.app.line import PROGRAM, settings_of, tell_slips
from holdfast.app.main import INTERRUPTED
from holdfast.kernel.cli import CommandLine, checked_address, fail, run, say
from holdfast.kernel.collector import hold_back
from holdfast.kernel.errors import HoldfastError, Invalid, Unsupported

if TYPE_CHECKING:
    from holdfast.app.settings import Settings
    from holdfast.collect.settings import CollectSettings


def up(
    line: CommandLine,
    *,
    sample: bool = False,
    once: bool = False,
    drones: int = 2,
    host: str | None = None,
    port: int | None = None,
) -> int:
    """Serve all roles until told to stop; with ``once`` until everything is collected."""
    hold_back()
    from holdfast.app.household import Household
    from holdfast.app.program import run_program
    from holdfast.app.settings import ROLES

    if once and not drones:
        fail(Invalid("cannot collect once: --drones 0 leaves nobody to collect"))
    if once and port is None:
        port = 0  # nobody needs to know the address of a program that ends by itself
    try:
        flags = Household.flags(line.data_dir, sample=sample)
        quiet = "warning" if once and not line.log_level else None
        settings = settings_of(line, **flags, **({"log_level": quiet} if quiet else {}))
    except HoldfastError as error:
        fail(error)
    household = Household(settings, sample=sample, once=once, drones=drones)
    bind = _bind_with(settings["gateway_bind"], host, port)
    status = run(
        lambda: run_program(
            settings,
            ROLES,
            bind=bind,
            beside=household.live,
            reload=lambda: settings_of(line),
            reloaded=household.reread,
        )
    )
    if once and status == 0 and not household.collected:
        say("stopped before everything was collected; the same command goes on from there")
        return INTERRUPTED
    return status


def serve(
    line: CommandLine, *, roles: Sequence[str], host: str | None = None, port: int | None = None
) -> int:
    """Serve the named roles in this process until it is told to stop."""
    hold_back()
    from holdfast.app.program import run_program
    from holdfast.app.settings import PLANNED_ROLES, ROLES

    chosen = tuple(dict.fromkeys(roles))
    try:
        for role in chosen:
            if role in PLANNED_ROLES:
                raise Unsupported(f"cannot serve {role}: it is not built in this version")
            if role not in ROLES:
                raise Invalid(
                    f"cannot serve {role!r}: no such role", hint=f"roles are: {', '.join(ROLES)}"
                )
        settings = settings_of(line)
    except HoldfastError as error:
        fail(error)
    lead = "gateway" if "gateway" in chosen else chosen[0]
    bind = _bind_with(settings[f"{lead}_bind"], host, port)
    loop_factory = None
    if chosen == ("ledger",):
        # It starts no child processes, and what it costs to serve a request is what it costs.
        from uvloop import new_event_loop

        loop_factory = new_event_loop
    return run(
        lambda: run_program(settings, chosen, bind=bind, reload=lambda: settings_of(line)),
        loop_factory=loop_factory,
    )


def _bind_with(setting: str, host: str | None, port: int | None) -> str:
    """The setting's ``host:port`` with what the flags say."""
    named, _, number = setting.rpartition(":")
    return f"{host or named}:{number if port is None else port}"


def drone(
    line: CommandLine,
    *,
    count: int = 1,
    join_token_file: Path | None = None,
    region: str = "",
    label: Sequence[str] = (),
    capacity: int = 1,
) -> int:
    """Collect for a control plane until told to stop, in one process or in ``count``."""
    hold_back()
    from holdfast.app.settings import without_effect
    from holdfast.collect.state import drone_name
    from holdfast.kernel.telemetry import configure_logging

    flags = {"drone_join_token_file": str(join_token_file) if join_token_file else None}
    try:
        settings = settings_of(line, **flags)
        url = line.control_plane or settings["drone_control_plane"]
        if not url:
            raise Invalid(
                "cannot start a drone: it has no control plane",
                hint="--control-plane URL, or HOLDFAST_DRONE_CONTROL_PLANE",
            )
        checked_address(url, "--control-plane")
        configure_logging(settings["log_level"], settings["log_format"])
        tell_slips()
        name = drone_name(settings.data_dir / "drones", settings["drone_id"])
        labels = dict(_label(text) for text in label)
        if count == 1:
            _one(settings, url, name, region, labels, capacity)
            return 0
    except HoldfastError as error:
        fail(error)
    command = _child(line, url, region, labels, capacity, join_token_file)
    # Of what is passed over was told once.
    left_out = {"DRONE_ID", *(slip.path for slip in without_effect(os.environ))}
    aliases = {key: value for key, value in os.environ.items() if key not in left_out}
    environments = [aliases | {"HOLDFAST_DRONE_ID": f"{name}-{n}"} for n in range(1, count + 1)]

    async def several() -> None:
        from holdfast.collect.program import run_children, stop_on_signal

        await run_children(command, environments, stop_on_signal())

    run(several)
    return 0


def _child(
    line: CommandLine,
    url: str,
    region: str,
    labels: dict[str, str],
    capacity: int,
    join_token_file: Path | None,
) -> list[str]:
    """The line of each of several drones: every flag of their parent's but the count, since flags
    go before the environment."""
    command = [*PROGRAM, "drone", "--data-dir", str(line.data_dir), "--control-plane", url]
    for flag, text in (
        ("--log-level", line.log_level),
        ("--log-format", line.log_format),
        ("--region", region),
    ):
        command += [flag, text] if text else []
    command += [part for key, text in labels.items() for part in ("--label", f"{key}={text}")]
    command += ["--capacity", str(capacity)]
    return command + (["--join-token-file", str(join_token_file)] if join_token_file else [])


def _one(
    settings: Settings, url: str, name: str, region: str, labels: dict[str, str], capacity: int
) -> None:
    """One drone, in this process."""
    from holdfast.app.tls import client_tls
    from holdfast.collect.program import run_drone
    from holdfast.collect.settings import DroneSettings

    one = DroneSettings(
        control_plane=url,
        name=name,
        state_dir=settings.data_dir / "drones",
        collect=collect_settings(settings),
        join_token_file=settings["drone_join_token_file"],
        region=region,
        labels=labels,
        capacity=capacity,
        process_interval_seconds=settings["drone_process_interval"],
        ca_file=settings["collect_ca_file"],
        tls=client_tls(settings, name),
    )
    run(lambda: run_drone(one))


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Invalid(f"cannot use the label {text!r}: write NAME=TEXT")
    return name, value


def collect_settings(settings: Settings) -> CollectSettings:
    """What collecting needs of the settings."""
    from holdfast.collect.settings import CollectSettings
    from holdfast.kernel.outbound import OutboundSettings

    return CollectSettings(
        spool_dir=settings.spool_dir,
        outbound=OutboundSettings(
            allow=frozenset(settings["collect_allow"]),
            resolver=settings["collect_resolver"],
            replay_map=settings["collect_replay_file"],
            contact=settings["collect_contact"],
            ca_file=settings["collect_ca_file"],
        ),
        secrets_dir=settings.secrets_dir,
        secret_variables={
            key: value for key, value in os.environ.items() if key.startswith("HOLDFAST_SECRET_")
        },
    )
