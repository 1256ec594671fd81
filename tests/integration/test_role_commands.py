"""A command opens every role on the data directory of one: that has no copies, and ends nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

from holdfast.app.compose import open_system
from holdfast.app.settings import ROLES, Settings, resolve
from holdfast.app.system import System
from holdfast.keyring.model import EraseRequest
from tests.integration.test_backup import JANE, JOE, ME, PROFILE, collect
from tests.support.program import run_command

ERASE_JANE = EraseRequest(subject=JANE, reason="asked", even_unknown=True)


def at(folder: Path, keyring: str = "") -> Settings:
    shared = {"keyring_url": keyring} if keyring else {}
    return resolve({}, {"data_dir": str(folder), "log_level": "error", **shared})


def commanded(folder: Path, keyring: str = "") -> None:
    """Any command, while nothing runs there."""
    shared = {"HOLDFAST_KEYRING_URL": keyring} if keyring else {}
    done = run_command("ledger", "status", "--data-dir", str(folder), environment=shared)
    assert done.returncode == 0, done.stderr


async def states(system: System) -> list[str]:
    return [each.state for each in (await system.subjects.list(ME)).erasures]


async def test_a_command_at_a_ledger_does_not_end_what_the_aggregator_has_to(
    tmp_path: Path,
) -> None:
    keyring = f"sqlite:///{tmp_path / 'keyring.db'}"
    aggregator, ledger = at(tmp_path / "aggregator", keyring), at(tmp_path / "ledger", keyring)

    def responses() -> int:
        return sum(path.is_file() for path in (tmp_path / "aggregator" / "objects").rglob("*"))

    async with open_system(aggregator, ROLES) as system:
        await system.registry.publish(ME, PROFILE)
        await collect(system, JANE, JOE)
    ledger.keys_dir.mkdir(parents=True)
    shutil.copy2(aggregator.keys_dir / "master.key", ledger.keys_dir)
    assert responses() == 2
    async with open_system(ledger, ["ledger"]) as system:
        assert (await system.subjects.erase(ME, ERASE_JANE)).state == "erasing"
    commanded(tmp_path / "ledger", keyring)
    async with open_system(aggregator, ROLES) as system:
        assert await states(system) == ["done"]
        assert responses() == 1


async def test_a_command_at_a_ledger_does_not_keep_it_from_ending_erasures(tmp_path: Path) -> None:
    ledger = at(tmp_path / "ledger")
    for number in range(2):
        async with open_system(ledger, ["ledger"]) as system:
            wanted = EraseRequest(subject=f"{number}@x.org", reason="asked", even_unknown=True)
            assert (await system.subjects.erase(ME, wanted)).state == "done"
        commanded(tmp_path / "ledger")
