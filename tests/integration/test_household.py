"""What ``up`` keeps for its drones from one start to the next, and what it says at the start."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.app.compose import open_system
from holdfast.app.household import TOKEN_SECONDS, TOKEN_SECONDS_LEFT, Household
from holdfast.app.settings import ROLES, resolve
from holdfast.fleet.model import WorkerRegister
from holdfast.kernel.clock import ManualClock
from holdfast.kernel.errors import Unauthenticated
from holdfast.kernel.serving import Bound
from tests.support.signing import PUBLIC_KEY
from tests.support.waiting import until


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
            with pytest.raises(Unauthenticated, match="has ended") as refusal:
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


@pytest.mark.parametrize("watched", [True, False])
async def test_the_link_that_signs_in_is_for_whoever_watches_and_in_no_log(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    watched: bool,
) -> None:
    settings = resolve({}, {"data_dir": str(tmp_path / "data")})
    household = Household(settings, sample=False, once=False, drones=0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    said = ""

    def greeted() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return "stop with Ctrl-C" in said

    async with open_system(settings, ROLES) as system:
        living = asyncio.create_task(
            household.live(system, Bound("127.0.0.1", 1, "http://127.0.0.1:1"))
        )
        await until(greeted)
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
    assert ("/login#" in said) is watched
    assert "holdfast login" in said
