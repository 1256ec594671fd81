"""Workers, tasks, leases and schedules. See the README for the life of one task.

What a drone needs (``model``, ``client``) imports no server package. Whoever is shown a grant
imports ``holdfast.fleet.grants``; whoever composes a coordinator ``service``, ``reconcile``,
``http`` and ``credentials``.
"""

from holdfast.fleet.client import FleetClient
from holdfast.fleet.model import Grant

__all__ = ["FleetClient", "Grant"]
