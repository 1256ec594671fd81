"""What an operator decides about collecting; nothing here comes from a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.kernel.outbound import OutboundSettings
from holdfast.kernel.tls import ClientTls


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectSettings:
    """How the outside is met, and with which secrets.

    ``secret_variables`` are the ``HOLDFAST_SECRET_…`` variables of the process.
    """

    spool_dir: Path
    outbound: OutboundSettings = field(default_factory=OutboundSettings)
    secrets_dir: Path | None = None
    secret_variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DroneSettings:
    """One drone. ``name`` is its identity: the same name is the same worker after a restart."""

    control_plane: str
    name: str
    state_dir: Path
    collect: CollectSettings
    join_token_file: Path | None = None
    region: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    capacity: int = 1
    process_interval_seconds: float | None = None
    """Pause between empty polls; without one the drone waits at the coordinator."""
    grace_seconds: float = 4.0
    """How long a run under way may go on after the drone was told to stop."""
    release_seconds: float = 3.0
    """How long giving it back to the coordinator may take then."""
    keep_seconds: float = 600.0
    """How long a run that failed may wait until the aggregator has what the source sent, and at
    most a minute of it one that is tried again: meanwhile no other has its place."""
    ca_file: Path | None = None
    """Further certificate authorities for the control plane's own certificate."""
    tls: ClientTls | None = None
    """Whom the drone trusts as the control plane, and the certificate it presents there."""
