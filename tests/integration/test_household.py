"""What ``up`` keeps for its drones from one start to the next."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.app.compose import open_system
from holdfast.app.household import TOKEN_SECONDS, TOKEN_SECONDS_LEFT, Household
from holdfast.app.settings import ROLES, resolve
from holdfast.fleet.model import WorkerRegister
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Unauthenticated
from tests.support.signing import PUBLIC_KEY


async def test_up_keeps_one_join_token_and_ends_the_one_that_it_replaces(tmp_path: Path) -> None:
    settings = resolve({}, {"data_dir": str(tmp_path / "data")})
    clock = ManualClock(datetime(2026, 11, 27, tzinfo=UTC))
    file = settings.data_dir / "run" / "join-token"
    file.parent.mkdir(parents=True)
    drone = WorkerRegister(name="drone-1", key=PUBLIC_KEY)

    async def started() -> str:
        household = Household(settings, sample=False, once=False, drones=1)
        async with open_system(settings, ROLES, clock=clock) as system:
            await household.keep_join_token(system)
            await system.fleet.register(file.read_text().strip(), drone)
        assert file.stat().st_mode & 0o777 == 0o600
        return file.read_text()

    async def refused(token: str) -> None:
        async with open_system(settings, ROLES, clock=clock) as system:
            with pytest.raises(Unauthenticated, match="expired") as refusal:
                await system.fleet.register(token.strip(), drone)
        assert refusal.value.code == "join-token-invalid"

    first = await started()
    clock.advance(TOKEN_SECONDS - TOKEN_SECONDS_LEFT - 1)
    assert await started() == first
    clock.advance(2)
    second = await started()
    assert second != first
    await refused(first)
    async with open_system(settings, ROLES, clock=clock) as system:
        await system.fleet.end_join_token(system.operator, second.strip())
    third = await started()
    assert third != second
    file.write_text("nonsense")
    fourth = await started()
    assert fourth not in (first, second, third)
    file.unlink()
    assert await started() not in (first, second, third, fourth)
