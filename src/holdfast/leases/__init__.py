"""Presence, leadership, rate counters and wake-ups: what is shared, small and often written.

None of it is a fencing token: those are SQL rows of the slice that needs them.
"""

from holdfast.leases.instances import InstanceGuard
from holdfast.leases.memory import MemoryLeases
from holdfast.leases.ports import Beat, Leases, Taken, Watch
from holdfast.leases.sql import SqlLeases, open_leases

__all__ = [
    "Beat",
    "InstanceGuard",
    "Leases",
    "MemoryLeases",
    "SqlLeases",
    "Taken",
    "Watch",
    "open_leases",
]
