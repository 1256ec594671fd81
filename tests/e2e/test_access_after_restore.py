"""What was ended since a backup is not let in by a restore of it, until the operator has looked.

A served program with keys, people and invitations is backed up; then some of them are ended. The
same program restored knows of none of that: it lets in nobody but the operator, and says so, until
``holdfast access confirm``.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from msgspec import Raw

from holdfast.kernel.signing import SigningKey
from tests.support.authenticator import Authenticator
from tests.support.postgres import PostgresServer
from tests.support.program import Program, clean_environment, run_command, started, wait_until
from tests.support.stack import Stack

pytestmark = pytest.mark.timeout(600)

UP = ["up", "--port", "0", "--drones"]
QUIET = {"HOLDFAST_LOG_LEVEL": "warning"}


def made(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json()


def key(program: Program, name: str) -> tuple[str, str]:
    """Its id and its secret."""
    new = made(program.client.post("/v1/api-keys", json={"name": name, "roles": ["viewer"]}))
    return new["key"]["id"], new["secret"]


def join(program: Program, token: str, name: str) -> httpx.Response:
    """A drone from outside registers."""
    wanted = {"name": name, "key": SigningKey.from_seed(bytes(32)).public_bytes().hex()}
    return httpx.post(
        f"{program.url}/v1/workers/register", json=wanted,
        headers={"holdfast-join-token": token}, trust_env=False, timeout=60,
    )  # fmt: skip


def asked(program: Program, secret: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret}"}
    return httpx.get(f"{program.url}/v1/profiles", headers=headers, trust_env=False, timeout=60)


@contextmanager
def browser(program: Program, origin: str, cookie: str = "") -> Iterator[httpx.Client]:
    """A browser that reaches the program by ``origin``."""
    headers = {"host": urlsplit(origin).netloc, "origin": origin}
    cookies = {"holdfast_session": cookie} if cookie else {}
    with httpx.Client(
        base_url=program.url, headers=headers, cookies=cookies, trust_env=False, timeout=60
    ) as client:
        yield client


def origin_of(program: Program) -> str:
    return program.url.replace("127.0.0.1", "localhost")


def came(program: Program, passkey: Authenticator) -> tuple[str, str]:
    """Somebody who was invited, with that passkey: who, and the cookie of their session."""
    new = made(program.client.post("/v1/invitations", json={"name": "Grace"}))
    with browser(program, passkey.origin) as client:
        ceremony = made(client.post("/v1/login/invitation/options", json={"secret": new["secret"]}))
        made_key = json.loads(bytes(passkey.make(Raw(json.dumps(ceremony["options"])))))
        answer = {"ceremony": ceremony["ceremony"], "credential": made_key}
        person = made(client.post("/v1/login/invitation/passkey", json=answer))["subject"]
        return person, client.cookies["holdfast_session"]


def signs_in(program: Program, passkey: Authenticator) -> httpx.Response:
    with browser(program, passkey.origin) as client:
        ceremony = made(client.post("/v1/login/passkey/options", json={}))
        passkey.counter += 1
        used = json.loads(bytes(passkey.use(Raw(json.dumps(ceremony["options"])))))
        answer = {"ceremony": ceremony["ceremony"], "credential": used}
        return client.post("/v1/login/passkey", json=answer)


@dataclass
class World:
    """A backup, and what it holds that somebody might show."""

    folder: Path
    backup: dict[str, Any]
    kept: tuple[str, str]
    since: tuple[str, str]
    """Revoked since the backup."""
    before: tuple[str, str]
    """Revoked before it."""
    person: str
    cookie: str
    passkey: Authenticator
    invitation: str
    """Withdrawn since."""
    token: str
    worker: str
    """A join token, and the credential of the drone that it admitted."""
    environment: dict[str, str]
    databases: list[str]

    def restored(self, name: str, *more: str, dies: str = "") -> Path:
        """The backup restored into a directory of that name; ``dies``: killed there."""
        target = self.folder / name
        arguments = [
            "backup", "restore", self.backup["data_file"], "--keys", self.backup["keys_file"],
            "--recovery", str(self.folder / "recovery"), "--data-dir", str(target), "--new-origin",
            *more,
        ]  # fmt: skip
        if dies:
            note = self.folder / "moments"
            done = subprocess.run(
                [sys.executable, "-m", "tests.support.dying", str(note), dies, *arguments],
                env=clean_environment(self.environment), capture_output=True, timeout=300,
                cwd=Path(__file__).parents[2],
            )  # fmt: skip
            assert done.returncode == -signal.SIGKILL, note.read_text() + done.stderr.decode()
            return target
        told = run_command(*arguments, environment=self.environment)
        assert told.returncode == 0, told.stderr
        self.told = told.stderr
        return target

    told: str = ""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("access")
    urls: list[str] = []
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        for number in range(4):
            server.execute(f"CREATE DATABASE access_{number}")
            urls.append(server.dsn(f"access_{number}"))
    environment = QUIET | ({"HOLDFAST_DATABASE_URL": urls.pop()} if urls else {})
    with started([*UP, "0"], folder / "data", environment=environment) as program:
        kept, since, before = (key(program, name) for name in ("kept", "since", "before"))
        made(program.client.post(f"/v1/api-keys/{before[0]}/revoke", json={}))
        passkey = Authenticator(origin_of(program), "localhost", 4711)
        person, cookie = came(program, passkey)
        link = made(program.client.post("/v1/people/admin", json={"name": "Ada"}))
        token = made(program.client.post("/v1/workers/tokens", json={}))["token"]
        worker = made(join(program, token, "outside"))["credential"]
        assert asked(program, worker).status_code == 200
        backup = made(program.client.post("/v1/backups", json={}))
        found = wait_until(lambda: _done(program, backup["id"]), what="the backup")
        where = ["--data-dir", str(folder / "data")]
        out = run_command("key", "export", "--out", str(folder / "recovery"), *where)
        assert out.returncode == 0, out.stderr
        made(program.client.post(f"/v1/api-keys/{since[0]}/revoke", json={}))
        made(program.client.post(f"/v1/people/{person}/disable", json={}))
        invitation = link["invitation"]["id"]
        made(program.client.post(f"/v1/invitations/{invitation}/revoke", json={}))
    for name in ("data_file", "keys_file"):
        found[name] = shutil.copy(found[name], folder)
    return World(
        folder, found, kept, since, before, person, cookie, passkey, link["secret"], token, worker,
        dict(environment), urls,
    )  # fmt: skip


def _done(program: Program, backup: str) -> dict[str, Any] | None:
    found: dict[str, Any] = program.get(f"/v1/backups/{backup}")
    assert found["state"] != "failed", found
    return found if found["state"] == "done" else None


def fresh(world: World) -> Mapping[str, str]:
    """Settings with an empty database, for what is restored next."""
    if world.databases:
        world.environment["HOLDFAST_DATABASE_URL"] = world.databases.pop()
    return world.environment


def on_record(program: Program) -> dict[str, Any]:
    """Types of events about access, each with what the newest of it says."""
    entries = program.items("/v1/ledger/entries", limit=1000)
    return {one["type"]: one["payload"] for one in entries if one["type"].startswith("access.")}


def alive(program: Program) -> bool:
    workers = program.items("/v1/workers")
    return any(each["status"] == "alive" and each["name"] != "outside" for each in workers)


def test_a_restore_lets_nobody_in_but_the_operator_until_access_is_confirmed(
    world: World,
) -> None:
    environment = fresh(world)
    target = world.restored("restored")
    at = world.backup["started_at"]
    assert f"the backup of {at} and not yet confirmed" in world.told
    assert f"holdfast access confirm --data-dir {target}" in world.told
    with started([*UP, "1"], target, environment=environment) as program:
        # Keys: those that the backup knows as holding are told why, and whose they are is not.
        for identity, secret in (world.kept, world.since):
            answer = asked(program, secret)
            assert (answer.status_code, answer.json()["code"]) == (403, "access-unconfirmed")
            assert at in answer.json()["detail"]
            assert "holdfast access confirm" in answer.json()["hint"]
            assert identity not in answer.text
        assert asked(program, world.before[1]).status_code == 401
        # People: sessions and links are over for good, a passkey is told why.
        world.passkey.origin = origin_of(program)
        with browser(program, world.passkey.origin, world.cookie) as client:
            assert client.get("/v1/whoami").status_code == 401
            link = client.post("/v1/login/invitation", json={"secret": world.invitation})
            assert (link.status_code, link.json()["code"]) == (401, "invitation-over")
        refused = signs_in(program, world.passkey)
        assert (refused.status_code, refused.json()["code"]) == (403, "access-unconfirmed")
        for refused in (asked(program, world.worker), join(program, world.token, "another")):
            assert (refused.status_code, refused.json()["code"]) == (403, "access-unconfirmed")
        # The operator and the household's own drones work.
        wait_until(lambda: alive(program), what="a drone of our own")
        found = program.get("/v1/access")
        assert not found["confirmed"]
        assert [each["backed_up_at"] for each in found["unconfirmed"]] == [at]
        ready = program.get("/ready")
        assert (ready["status"], ready["checks"]["access"]["status"]) == ("degraded", "degraded")
        where = ["--data-dir", str(target)]
        status = run_command("status", *where)
        assert status.returncode == 1
        assert "holdfast access review" in status.stdout + status.stderr
        doctor = run_command("doctor", "--json", *where)
        [said] = [f for f in json.loads(doctor.stdout) if f["check"] == "access"]
        assert (said["outcome"], at in said["detail"]) == ("fail", True)

        ways = {way["id"]: way for way in program.items("/v1/access/ways", limit=1)}
        assert ways.keys() == {world.kept[0], world.since[0], world.person}
        assert len(ways[world.person]["passkeys"]) == 1
        review = run_command("access", "review", *where)
        assert all(shown in review.stdout for shown in ("Grace", "kept", world.since[0]))
        made(program.client.post("/v1/access/end", json={"id": world.since[0]}))
        ended = run_command("access", "end", world.person, *where)
        assert ended.returncode == 0, ended.stderr
        done = run_command("access", "confirm", *where)
        assert done.returncode == 0, done.stderr

        assert asked(program, world.kept[1]).status_code == 200
        assert asked(program, world.since[1]).status_code == 401
        assert signs_in(program, world.passkey).status_code == 401
        assert asked(program, world.worker).status_code == 200
        assert join(program, world.token, "another").status_code == 201
        wait_until(lambda: program.get("/ready")["checks"]["access"]["status"] == "ok")
        again = made(program.client.post("/v1/access/confirm", json={}))
        assert again == {"confirmed": True, "unconfirmed": []}

        wanted = {"access.restored", "access.confirmed", "access.refused"}
        wait_until(lambda: on_record(program).keys() >= wanted, what="the events")
    with started([*UP, "0"], target, environment=environment) as program:
        assert asked(program, world.kept[1]).status_code == 200


def test_who_says_so_in_the_restore_lets_everybody_in_at_once(world: World) -> None:
    environment = fresh(world)
    target = world.restored("confirmed", "--confirm-access")
    assert "not yet confirmed" not in world.told
    with started([*UP, "0"], target, environment=environment) as program:
        assert asked(program, world.kept[1]).status_code == 200
        assert program.get("/v1/access")["confirmed"]
        with browser(program, origin_of(program), world.cookie) as client:
            assert client.get("/v1/whoami").status_code == 401, "a session is cheap to make again"
        wait_until(lambda: "access.restored" in on_record(program), what="the event")
        assert on_record(program)["access.restored"]["confirmed"] is True


def test_a_restore_that_dies_with_everything_in_its_place_has_said_so(world: World) -> None:
    environment = fresh(world)
    # The directory has its name, and nothing has happened since; on PostgreSQL the same.
    target = world.restored("killed", dies="os.remove .killed.restoring")
    assert (target / "keys").is_dir()
    with started([*UP, "0"], target, environment=environment) as program:
        assert asked(program, world.since[1]).json()["code"] == "access-unconfirmed"
        assert not program.get("/v1/access")["confirmed"]


def test_roles_apart_each_keep_out_what_they_brought_back(tmp_path: Path) -> None:
    """The door that served all the while has it within the seconds of any revocation."""
    (tmp_path / "profiles").mkdir()
    stack = Stack(
        tmp_path, "split", tmp_path / "replay.json", tmp_path / "profiles", drones=0,
        roles=("identity", "coordinator", "gateway"), environment=QUIET,
    )  # fmt: skip
    try:
        stack.start()
        door = stack.door
        _, secret = key(door, "ours")
        token = made(door.client.post("/v1/workers/tokens", json={}))["token"]
        worker = made(join(door, token, "outside"))["credential"]

        def shut_to() -> list[bool]:
            """Whoever is let in learns that no registry runs here."""
            codes = [asked(door, each).json()["code"] for each in (secret, worker)]
            assert set(codes) <= {"access-unconfirmed", "role-unreachable"}, codes
            return [code == "access-unconfirmed" for code in codes]

        assert shut_to() == [False, False]
        for role in ("identity", "coordinator"):
            assert stack.running.pop(role).stop() == 0
            restored_in_place(tmp_path / role, {"HOLDFAST_TRUST_DIR": str(tmp_path / "trusted")})
            stack.start_role(role)
        wait_until(lambda: shut_to() == [True, True], what="the door to ask again")
        where = ["--data-dir", str(door.data_dir)]
        status = run_command("status", *where)
        assert "identity, coordinator are degraded: access: access is as it was" in status.stderr
        found = door.get("/v1/access"), door.get("/v1/access/workers")
        assert [each["confirmed"] for each in found] == [False, False]
        done = run_command("access", "confirm", *where)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: shut_to() == [False, False], what="both to be let in")
    finally:
        stack.stop()


def restored_in_place(folder: Path, environment: Mapping[str, str]) -> None:
    """A role that is stopped, backed up, its state lost and restored."""
    where, recovery = ["--data-dir", str(folder)], folder.with_suffix(".recovery")
    done = run_command("backup", "create", "--json", *where, environment=environment)
    assert done.returncode == 0, done.stderr
    files = [shutil.copy(json.loads(done.stdout)[f"{name}_file"], folder.parent)
             for name in ("data", "keys")]  # fmt: skip
    done = run_command("key", "export", "--out", str(recovery), *where, environment=environment)
    assert done.returncode == 0, done.stderr
    for lost in ("state", "objects"):
        shutil.rmtree(folder / lost, ignore_errors=True)
    done = run_command(
        "backup",
        "restore",
        str(files[0]),
        "--keys",
        str(files[1]),
        "--recovery",
        str(recovery),
        *where,
        environment=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "not yet confirmed" in done.stderr
