"""The most memory that processes held since one looked, as the kernel counted it (Linux)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil


class Peaks:
    """Resident bytes of processes: now, and the highest since this was made."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._before: dict[int, int] = {}
        for pid in pids:
            # Sets the high-water mark back to what is resident now (proc(5)).
            Path(f"/proc/{pid}/clear_refs").write_text("5")
            self._before[pid] = psutil.Process(pid).memory_info().rss

    def grown(self) -> dict[int, int]:
        """By how many bytes each went beyond what it held then, at its worst."""
        return {pid: _peak(pid) - before for pid, before in self._before.items()}


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel does not say how much memory {pid} held at most")
