"""Guide 3's disk check, at disks that no test machine has."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.app.services import (
    DISK_FREE_BYTES_ENOUGH,
    DISK_FREE_BYTES_MIN,
    DISK_FREE_LOW,
    guide_checks,
)
from holdfast.kernel.errors import Unavailable
from holdfast.kernel.telemetry import Metrics

Usage = namedtuple("Usage", "total used free")
SMALL, LARGE = 1_000_000_000, 1_000_000_000_000


class Settings(dict[str, Any]):
    data_dir = Path("data")


@pytest.mark.parametrize(
    ("total", "free", "expected"),
    [
        (SMALL, int(DISK_FREE_LOW * SMALL), None),
        (SMALL, int(DISK_FREE_LOW * SMALL) - 1, "degraded"),
        (LARGE, DISK_FREE_BYTES_ENOUGH, None),
        (LARGE, DISK_FREE_BYTES_ENOUGH - 1, "degraded"),
        (LARGE, DISK_FREE_BYTES_MIN, "degraded"),
        (LARGE, DISK_FREE_BYTES_MIN - 1, Unavailable),
    ],
)
async def test_a_disk_that_gets_full_is_degraded_and_then_unhealthy(
    total: int, free: int, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total, total - free, free))
    system: Any = SimpleNamespace(settings=Settings(serve_connections_max=10), metrics=Metrics())
    check = guide_checks(system)["disk"]
    if expected is Unavailable:
        with pytest.raises(Unavailable, match="bytes are left on the disk"):
            await check()
    else:
        assert await check() == expected
