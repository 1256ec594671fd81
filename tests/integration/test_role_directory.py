"""A command on the data directory of one role of several, while that is stopped.

It opens every role in one process; the keys by which the others know each other are not its.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from holdfast.app.compose import open_system
from holdfast.app.settings import resolve
from tests.support.program import run_command


async def test_a_role_s_directory_is_backed_up_and_restored_beside_the_keys_of_the_others(
    tmp_path: Path,
) -> None:
    trusted = tmp_path / "trusted"
    environment = {"HOLDFAST_TRUST_DIR": str(trusted)}
    for role in ("coordinator", "aggregator"):
        settings = resolve(environment, {"data_dir": str(tmp_path / role), "log_level": "error"})
        async with open_system(settings, (role,)):
            pass
    before = {path.name: path.read_bytes() for path in trusted.iterdir()}
    assert sorted(before) == ["aggregator.pub.jwk", "coordinator.pub.jwk"]

    here = ("--data-dir", str(tmp_path / "aggregator"))
    made = run_command("backup", "create", "--json", *here, environment=environment)
    assert made.returncode == 0, made.stderr
    exported = run_command(
        "key", "export", "--out", str(tmp_path / "recovery.json"), *here, environment=environment
    )
    assert (exported.returncode, "not on the record" in exported.stderr) == (0, False)
    told = msgspec.json.decode(made.stdout)
    restored = run_command(
        "backup", "restore", told["data_file"], "--keys", told["keys_file"],
        "--recovery", str(tmp_path / "recovery.json"),
        "--data-dir", str(tmp_path / "again"), "--json",
        environment=environment,
    )  # fmt: skip
    assert restored.returncode == 0, restored.stderr
    assert {path.name: path.read_bytes() for path in trusted.iterdir()} == before
