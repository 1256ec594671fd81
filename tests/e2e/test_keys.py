"""The keys of a served program: used from the first event on, exported, lost, put back."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

from pysqlite3 import dbapi2

from holdfast.kernel.clock import SystemClock
from holdfast.kernel.ids import uuid7
from holdfast.kernel.outbox import commitment
from holdfast.keyring import Keyring, MasterKeys, open_keyring
from holdfast.keyring.backends import open_store
from holdfast.ledger.frames import decode_frame
from holdfast.ledger.ports import StoredCommit
from tests.support.program import run_command, started, wait_until
from tests.support.stack import SAMPLE

UP = ["up", "--port", "0", "--drones", "0"]
REWRAP = """
import sys
from pathlib import Path
from holdfast.kernel.clock import SystemClock
from holdfast.keyring import MasterKeys, open_keyring
from holdfast.keyring.backends import open_store
folder = Path(sys.argv[1])
ring = open_keyring(
    open_store(f"sqlite:///{folder / 'keyring.db'}"),
    lambda _: MasterKeys.from_file(folder / "master.key"),
    SystemClock(), new_id="", expected=None,
)
print("open", flush=True)
while True:
    ring.rotate_master()
    ring.rotate_tenant("default")
    while ring.rewrap(limit=50).pending:
        pass
"""
"""Rotates and rewraps until it is killed."""


def quiet(tmp_path: Path) -> dict[str, str]:
    """One profile, so that there are events, and a silent log."""
    folder = tmp_path / "profiles"
    folder.mkdir(exist_ok=True)
    one = "nasa-global-temp-annual.yaml"
    (folder / one).write_bytes(SAMPLE.joinpath("profiles", one).read_bytes())
    return {"HOLDFAST_REGISTRY_PROFILES_DIR": str(folder), "HOLDFAST_LOG_LEVEL": "warning"}


def opened(folder: Path, master: Path) -> Keyring:
    return open_keyring(
        open_store(f"sqlite:///{folder / 'keyring.db'}"),
        lambda may: MasterKeys.create(master) if may else MasterKeys.from_file(master),
        SystemClock(),
        new_id="keyring",
        expected=None,
    )


def sealings(data: Path) -> list[str]:
    """How every event is sealed, those on their way and those in the ledger."""
    with closing(dbapi2.connect(str(data / "state" / "holdfast.db"))) as state:
        found = [row[0] for row in state.execute("SELECT sealing FROM outbox")]
        for first, count, frame in state.execute("SELECT first, count, frame FROM ledger_commits"):
            entries = decode_frame(StoredCommit(first, count, frame)).entries
            found += [entry.sealing for entry in entries]
    return found


def audited(where: list[str]) -> list[str]:
    """What was done with the keys, as the audit tells it; never a secret of theirs."""
    told = run_command("audit", "--type", "key.", "--json", *where)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)["items"]
    for each in found:
        assert each["who"] == "operator"
        assert all(len(master) == 32 for master in each["payload"].get("masters", []))
    return [each["type"] for each in found]


def test_events_are_sealed_and_the_keys_can_be_lost_and_put_back(tmp_path: Path) -> None:
    data, safe = tmp_path / "data", tmp_path / "safe.json"
    where, environment = ["--data-dir", str(data)], quiet(tmp_path)
    with started(UP, data, environment=environment) as program:
        wait_until(lambda: len(list(program.items("/v1/profiles"))) == 1, what="the profile")
        assert "master key made" in program.tail()
        exported = run_command("key", "export", "--out", str(safe), *where)
        assert (exported.returncode, "not on the record" in exported.stderr) == (0, False)
        wait_until(lambda: audited(where) == ["key.exported"], what="the export on the record")
        again = run_command("key", "export", "--out", str(safe), *where)
        assert (again.returncode, "there already" in again.stderr) == (2, True), again.stderr
        made = run_command("backup", "create", "--json", *where)
        assert made.returncode == 0, made.stderr
        backup = json.loads(made.stdout)
    data_file, keys_file = backup["data_file"], backup["keys_file"]
    arguments = [data_file, "--keys", keys_file, "--recovery", str(safe), "--json"]
    elsewhere = ["--data-dir", str(tmp_path / "elsewhere")]
    restored = run_command("backup", "restore", *arguments, *elsewhere)
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["verified"]["keys"] >= 2
    assert run_command("backup", "restore", *arguments, *where).returncode == 5
    assert safe.stat().st_mode & 0o777 == 0o600
    assert sealings(data), "there are events, and each is sealed under a key"
    assert {sealing.partition(":")[0] for sealing in sealings(data)} == {"holdfast-envelope-1"}

    master, secret = data / "keys" / "master.key", data / "secrets" / "tenant-secrets"
    for path in (master, secret):
        kept = path.read_bytes()
        path.unlink()
        refused = run_command(*UP, *where, environment=environment)
        assert refused.returncode == 6, refused.stderr
        assert "missing" in refused.stderr
        assert not path.exists(), "something was made over sealed data"
        path.write_bytes(b"")
        path.chmod(0o600)
        assert run_command("key", "import", str(safe), *where).returncode == 2
        path.unlink()
        done = run_command("key", "import", str(safe), *where)
        assert (done.returncode, path.read_bytes()) == (0, kept), done.stderr
        assert "not on the record" not in done.stderr
    # Nothing runs: what is said is in the database, and goes to the ledger at the next start.
    last = tmp_path / "last.json"
    assert run_command("key", "export", "--out", str(last), *where).returncode == 0
    there = run_command("key", "import", str(last), *where)
    assert (there.returncode, "there already" in there.stderr) == (0, True), there.stderr
    checked = run_command("key", "check", "--json", *where)
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["damaged"] == []

    ring = data / "keyring" / "keyring.db"
    ring.rename(tmp_path / "keyring.db")
    refused = run_command(*UP, *where, environment=environment)
    assert refused.returncode == 6
    assert "keyring" in refused.stderr
    assert "hint:" in refused.stderr
    ring.unlink(missing_ok=True)
    (tmp_path / "keyring.db").rename(ring)

    MasterKeys.create(tmp_path / "other.key")
    given = {**environment, "HOLDFAST_KEYRING_MASTER_KEY_FILE": str(tmp_path / "other.key")}
    refused = run_command(*UP, *where, environment=given)
    assert refused.returncode == 7
    assert "does not belong" in refused.stderr

    # As a release without a keyring left it: sealed at the start, with nothing left behind.
    state = dbapi2.connect(str(data / "state" / "holdfast.db"))
    salt, payload = bytes(32), b'{"said":"plain words"}'
    state.execute(
        "INSERT INTO outbox (tenant, event_id, stream, type, time, subject, request_id,"
        " payload_bytes, payload_commitment, sealing, sealed, transaction_id, sequence)"
        " VALUES ('default', ?, 'old', 'something.happened', '2026-01-01T00:00:00.000000Z',"
        " 'somebody', '', ?, ?, 'clear', ?, 0, 1000000)",
        [
            uuid7(1_700_000_000_000, bytes(10)),
            len(payload),
            commitment(salt, payload),
            salt + payload,
        ],
    )
    state.commit()
    state.close()
    given["HOLDFAST_KEYRING_MASTER_KEY_FILE"] = str(master)
    with started(UP, data, environment=given) as program:
        assert len(list(program.items("/v1/profiles"))) == 1
        read = ["ledger", "read", "--stream", "old", *where]
        wait_until(lambda: "plain words" in run_command(*read).stdout, what="the old event")
        done = ["key.exported", "key.imported", "key.imported", "key.exported"]
        wait_until(lambda: audited(where) == done, what="what was done while nothing ran")
    for path in (data / "state").iterdir():
        assert b"plain words" not in path.read_bytes(), path


def test_rewrapping_survives_being_killed_at_any_moment(tmp_path: Path) -> None:
    dice = random.Random(int(os.environ.get("HOLDFAST_TEST_SEED", "7")))
    master = tmp_path / "master.key"
    ring = opened(tmp_path, master)
    tokens = [f"{n:032x}" for n in range(300)]
    keys = ring.subject_keys("default", tokens)
    ring.close()
    for _ in range(6):
        work = subprocess.Popen(
            [sys.executable, "-c", REWRAP, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert work.stdout is not None
        assert work.stdout.readline() == b"open\n"
        with suppress(subprocess.TimeoutExpired):
            work.wait(timeout=dice.uniform(0, 0.3))  # the moment of death
        work.kill()
        assert work.wait(timeout=30) == -9
        work.stdout.close()
        ring = opened(tmp_path, master)
        assert ring.subject_keys("default", tokens) == keys
        assert ring.check().damaged == []
        ring.close()
    ring = opened(tmp_path, master)
    while ring.rewrap().pending:
        pass
    info = ring.describe()
    newest = max(each.version for each in info.keys if each.kind == "tenant")
    assert newest > 1
    assert {k.wrapped_by_version for k in info.keys if k.kind == "subject"} == {newest}
    assert [each.wraps for each in info.masters] == [1]
    ring.close()
