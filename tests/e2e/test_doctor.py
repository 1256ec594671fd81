"""The operational checklist against a stack that is down, up, and broken."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2

from holdfast.keyring import MasterKeys
from tests.support.program import run_command, started, wait_until
from tests.support.stack import SAMPLE


def checklist(data_dir: Path) -> tuple[int, dict[str, Any]]:
    """The exit status and the findings by check."""
    done = run_command("doctor", "--json", "--data-dir", str(data_dir))
    return done.returncode, {line["check"]: line for line in json.loads(done.stdout)}


def test_it_says_what_is_down_up_and_broken(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    status, found = checklist(data_dir)
    assert status == 1
    assert found["gateway"]["outcome"] == "fail"
    assert "holdfast up" in found["gateway"]["hint"]

    environment = {
        "HOLDFAST_REGISTRY_PROFILES_DIR": str(SAMPLE.joinpath("profiles")),
        "HOLDFAST_LOG_LEVEL": "warning",
    }
    arguments = ["up", "--port", "0", "--drones"]
    slips = {"DB_DSNN": "x", "PROFILE_DIR": "y"}
    slips |= {"PLATFORM_NATS_URL": "nats://a:1", "REGISTRY_URL": "http://a:1"}
    with started([*arguments, "0"], data_dir, environment=environment | slips) as broken:
        told = broken.log.read_text()
        assert {name: told.count(name) for name in slips} == dict.fromkeys(slips, 1), told
        assert "did you mean DB_DSN?" in told
        wait_until(lambda: len(list(broken.items("/v1/profiles"))) == 10, what="profiles")
        status, found = checklist(data_dir)
        assert status == 1
        assert found["gateway"]["outcome"] == "pass"
        assert found["registry"]["outcome"] == "pass"
        assert found["drones"]["outcome"] == "fail"
        assert "holdfast drone" in found["drones"]["hint"]

    with started([*arguments, "1"], data_dir, environment=environment) as up:
        wait_until(
            lambda: any(w["status"] == "alive" for w in up.items("/v1/workers")), what="a drone"
        )
        status, found = checklist(data_dir)
        assert (status, found["drones"]["outcome"]) == (0, "pass")
        assert found["raw bytes"]["outcome"] == "pass"
        assert found["ledger"]["outcome"] == "pass"
        assert found["results"]["outcome"] == "warn"
        whole = _trusted(data_dir).read_bytes()
        _trusted(data_dir).write_text("half")
        wait_until(lambda: up.get("/health")["status"] == "degraded", what="the broken key")
        status, found = checklist(data_dir)
        assert (status, found["gateway"]["outcome"]) == (1, "fail")
        assert "trusted_keys: a file of the folder of trusted keys" in found["gateway"]["detail"]
        _trusted(data_dir).write_bytes(whole)
        wait_until(lambda: up.get("/health")["status"] == "ok", what="all to be well")

        up.process.kill()  # what it had not put away yet lies beside the database
        up.process.wait(60)

    before = fingerprint(data_dir)
    status, found = checklist(data_dir)
    assert (status, found["gateway"]["outcome"]) == (1, "fail")
    rest = {name: line["outcome"] for name, line in found.items() if name != "gateway"}
    assert rest.pop("port") in ("pass", "fail")  # somebody else may have it
    assert set(rest.values()) == {"pass"}, found
    assert {"settings", "data directory", "disk flush", "database", "keyring"} <= set(rest)
    assert {"tenant secret", "trusted keys", "ledger", "profiles", "clock"} <= set(rest)
    assert fingerprint(data_dir) == before, "looking changes nothing"
    _broken_at_rest(data_dir, tmp_path)


def _trusted(data_dir: Path) -> Path:
    return data_dir / "keys" / "trusted" / "reporter.pub.jwk"


def fingerprint(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file, with when it was written and what is in it."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.stat().st_mode,
            path.read_bytes(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _broken_at_rest(data_dir: Path, apart: Path) -> None:
    """What is broken of a stack that does not run is named, with what to do."""

    def failing(name: str, spoil: Callable[[Path], object]) -> dict[str, str]:
        copy = apart / "copy"
        shutil.copytree(data_dir, copy, symlinks=True)
        spoil(copy)
        before = fingerprint(copy)
        status, found = checklist(copy)
        assert (status, found[name]["outcome"]) == (1, "fail"), found
        assert found[name]["hint"]
        assert fingerprint(copy) == before
        shutil.rmtree(copy)
        line: dict[str, str] = found[name]
        return line

    def sql(copy: Path, statement: str) -> None:
        with closing(dbapi2.connect(str(copy / "state" / "holdfast.db"))) as driver:
            driver.execute(statement)
            driver.commit()

    last = "DELETE FROM ledger_commits WHERE first = (SELECT max(first) FROM ledger_commits)"
    assert "entries long" in failing("ledger", lambda copy: sql(copy, last))["detail"]
    newer = "UPDATE schema_state SET revision = '9999', oldest_code = '99.0.0'"
    assert "99.0.0 or newer" in failing("database", lambda copy: sql(copy, newer))["detail"]

    def other(copy: Path) -> None:
        key = copy / "keys" / "master.key"
        key.unlink()
        MasterKeys.create(key)

    assert "does not belong" in failing("keyring", other)["detail"]
    lost = failing("keyring", lambda copy: (copy / "keyring" / "keyring.db").unlink())
    assert "sealed under a keyring that is not at" in lost["detail"]
    failing("tenant secret", lambda copy: (copy / "secrets" / "tenant-secrets").unlink())
    half = failing("trusted keys", lambda copy: _trusted(copy).write_text("half"))
    assert "reporter.pub.jwk cannot be read" in half["detail"]
    failing("database", lambda copy: (copy / "state" / "holdfast.db").write_bytes(b"x" * 8192))
    failing("database", lambda copy: shutil.rmtree(copy / "state"))
    failing("data directory", lambda copy: copy.chmod(0o777))


def test_drones_of_a_program_that_stops_leave_while_it_still_hears_them(tmp_path: Path) -> None:
    arguments = ["up", "--port", "0", "--drones", "2"]
    # Any folder of no profiles: nothing is collected, the drones wait for work.
    environment = {"HOLDFAST_REGISTRY_PROFILES_DIR": str(tmp_path), "HOLDFAST_LOG_LEVEL": "info"}
    with started(arguments, tmp_path / "data", environment=environment) as up:
        wait_until(lambda: up.tail().count("drone.registered") == 2, what="two drones")
        wait_until(
            lambda: len([w for w in up.items("/v1/workers") if w["status"] == "alive"]) == 2,
            what="their beats",
        )
        assert up.stop() == 0
        said = up.tail()
    assert "unheard" not in said, said
    assert "cannot reach" not in said, said


def test_collecting_once_that_was_interrupted_says_so(tmp_path: Path) -> None:
    # Ten sources take longer than it takes to be told to stop.
    with started(["up", "--sample", "--once", "--port", "0"], tmp_path / "data") as up:
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(180) == 130
        assert "stopped before everything was collected" in up.tail()


def test_health_and_status_tell_a_script(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    nowhere = run_command("health", "--data-dir", str(tmp_path / "nowhere"))
    assert nowhere.returncode == 6
    assert f"nothing runs on {tmp_path / 'nowhere'}" in nowhere.stderr
    quiet = {"HOLDFAST_LOG_LEVEL": "error"}
    with started(["up", "--port", "0", "--drones", "0"], data_dir, environment=quiet) as up:
        assert run_command("health", "--data-dir", str(data_dir)).returncode == 0
        assert run_command("status", "--json", "--data-dir", str(data_dir)).returncode == 0
        here = ["--data-dir", str(data_dir)]
        head = json.loads(run_command("ledger", "checkpoint", "--json", *here).stdout)
        assert head["note"].startswith(f"{head['origin']}\n{head['size']}\n{head['root']}\n")
        told = run_command("person", "uninvite", "nope", "--json", *here)
        assert told.returncode == 4
        assert "person invitations" in json.loads(told.stderr)["hint"]
        told = run_command("run", "list", "--status", "foo", *here)
        assert "'foo' is none of" in told.stderr
        assert "succeeded" in told.stderr
        made = run_command("apikey", "create", "bot", "--data-dir", str(data_dir))
        (tmp_path / "bot.key").write_text(made.stdout)
        by_key = run_command(
            *("profile", "list", "--control-plane", up.url, "--data-dir", str(tmp_path / "none")),
            environment={"HOLDFAST_OPERATOR_TOKEN_FILE": str(tmp_path / "bot.key")},
        )
        assert by_key.returncode == 0, by_key.stderr
        # What only the operator may see is not looked at, and is not said to be ill.
        looked = run_command(
            *("doctor", "--json", "--control-plane", up.url, "--data-dir", str(tmp_path / "none")),
            environment={"HOLDFAST_OPERATOR_TOKEN_FILE": str(tmp_path / "bot.key")},
        )
        found = {line["check"]: line["outcome"] for line in json.loads(looked.stdout)}
        assert found["raw bytes"] == "skip"
        # A drone does not beat, which is worse than what was not looked at; both are told.
        assert (looked.returncode, found["drones"]) == (1, "fail")
        assert "checks were not made" in looked.stderr
        assert "raw bytes" in looked.stderr
        taken = run_command(
            *("up", "--port", up.url.rpartition(":")[2], "--data-dir", str(tmp_path / "second"))
        )
        assert (taken.returncode, "--port" in taken.stderr) == (6, True), taken.stderr
        assert not (tmp_path / "second").exists()
    stopped = run_command("status", "--json", "--data-dir", str(data_dir))
    found = json.loads(stopped.stdout)
    assert (stopped.returncode, found["status"]) == (1, "stopped")
    assert {one["status"] for one in found["services"]} == {"stopped"}
    assert "nothing runs on" in found["problems"][0]
    # Nothing runs: the command opens the data directory itself, and answers the same.
    alone = run_command("profile", "list", "--json", "--data-dir", str(data_dir))
    assert alone.returncode == 0, alone.stderr
