"""Ten thousand ways in, over every route: none works, none tells anything, none goes uncounted.

``make test`` tries a seeded tenth, ``make soak`` all of them. ``tests/support/attacks.py`` makes
the attempts; ``HOLDFAST_TEST_SEED`` repeats a choice. The door is a system that has collected,
so that there is something to get at; the roles behind it are attacked at one that runs by itself,
by whoever can sign with a key that it trusts. After the last attempt the door is killed at once:
what it had noted by then is in the ledger all the same, exactly once.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.gateway.audit import OF_NOTE, PRESENTED
from holdfast.identity.hop import TYPE
from holdfast.kernel.canonical import digest
from holdfast.kernel.clock import SystemClock
from holdfast.kernel.ids import id_source
from holdfast.kernel.principal import ALL_PERMISSIONS, WORKER_PERMISSIONS
from holdfast.kernel.signing import SigningKey
from tests.support.attacks import (
    AUDIENCE,
    ISSUER,
    TOKEN_SECONDS_MAX,
    Attacker,
    Attempt,
    Insider,
    Route,
    claims_of,
    jwt,
    routes_of,
    worker_key,
)
from tests.support.postgres import PostgresServer
from tests.support.program import Program, started, wait_until
from tests.support.soaking import scale
from tests.support.stack import SAMPLE, Stack, running, sources

pytestmark = pytest.mark.timeout(1200 * scale())

SEED = int(os.environ.get("HOLDFAST_TEST_SEED", "20261127"))
AT_THE_DOOR, AT_A_ROLE = 425, 75
"""At each of two stacks; ``make soak`` multiplies."""
SECRET = secrets.token_hex(32).encode()
PROFILE = "scripps-co2-monthly"
API = Path(__file__).parents[2] / "api" / "openapi.json"
MARKER = f"marker-{secrets.token_hex(6)}"
"""What only the tenant under attack knows; no answer may hold it."""
REPORT = {
    "version": 1,
    "name": MARKER,
    "inputs": {"a": {"profile": PROFILE, "measures": ["co2"]}},
    "output": {"type": "table"},
}


class Line:
    """One connection at a time, spoken to in bytes; opened again when it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """The status and everything that came with it; 0 where it was closed without a word."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        try:
            self._socket.sendall(request)
            return self._read()
        except ConnectionError:
            self.close()
            return 0, b""

    def _read(self) -> tuple[int, bytes]:
        assert self._socket is not None
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self._socket.recv(65536)
            if not piece:
                self.close()
                return 0, data
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        told = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        closes = re.search(rb"(?i)\r\nconnection: *close", head) is not None
        while told is None or closes or len(body) < int(told[1]):
            piece = self._socket.recv(65536)
            if not piece:
                break
            body += piece
            if told is None and len(body) > 65536:
                break  # a stream: whoever gets one is in
        if told is None or closes:
            self.close()
        return int(head[9:12]), head + b"\r\n\r\n" + body

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@dataclass
class Tally:
    """What came of the attempts."""

    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    routes: set[Route] = field(default_factory=set)
    noted: int = 0
    asked: int = 0

    def count(self, attempt: Attempt, request: bytes, status: int) -> None:
        self.asked += 1
        self.statuses[status] += 1
        self.noted += _is_noted(request, status)
        self.kinds[attempt.kind] += request is attempt.request
        self.routes.add(attempt.route)


def _is_noted(request: bytes, status: int) -> bool:
    """Whether the audit must tell of it: see ``holdfast.gateway.audit``."""
    head = request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    names = {line.partition(b":")[0].lower() for line in head[1:]}
    safe = head[0].split(b" ")[0] in (b"GET", b"HEAD", b"OPTIONS")
    return status in OF_NOTE and not (status == 401 and safe and not names & PRESENTED)


def check(attempt: Attempt, status: int, answer: bytes, hidden: tuple[bytes, ...]) -> None:
    """Refused by a problem document that tells nothing of what was not the caller's."""
    said = f"{attempt.kind}: {attempt.request[:600]!r} -> {answer[:600]!r}"
    assert 400 <= status < 500, said
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1, f"a second answer: {said}"
    assert b"application/problem+json" in head, said
    document = json.loads(body)
    assert document["status"] == status, said
    for secret in hidden:
        assert secret not in answer, f"leaked {secret!r}: {said}"
    assert b"set-cookie" not in head.lower(), said
    assert b"Traceback" not in body, said


@pytest.fixture(scope="module", params=["up", "split"])
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """One process on SQLite; and a process per role, behind the door, on PostgreSQL."""
    directory = tmp_path_factory.mktemp("attacks")
    profiles = directory / "profiles"
    profiles.mkdir()
    text = SAMPLE.joinpath("profiles", f"{PROFILE}.yaml").read_text()
    text = re.sub(r"(?m)^title: .*$", f"title: {MARKER}", text)
    assert MARKER in text
    (profiles / f"{PROFILE}.yaml").write_text(text)
    secret = directory / "secret"
    secret.write_bytes(SECRET)
    environment = {
        "HOLDFAST_IDENTITY_JWT_SECRET_FILE": str(secret),
        "HOLDFAST_IDENTITY_JWT_AUDIENCE": AUDIENCE,
        "HOLDFAST_IDENTITY_JWT_ISSUER": ISSUER,
        "HOLDFAST_IDENTITY_JWT_SECONDS": str(TOKEN_SECONDS_MAX),
    }
    with ExitStack() as opened:
        _, replay = opened.enter_context(sources(directory))
        made = Stack(directory, request.param, replay, profiles, drones=1, environment=environment)
        if request.param == "split":
            server: PostgresServer = request.getfixturevalue("postgres")
            server.execute("CREATE DATABASE attacks")
            made.databases = lambda role: "" if role == "gateway" else server.dsn("attacks")
        opened.enter_context(running(made))
        made.collect_all()
        made.settle()
        made.kill("drone-1")
        made.drones = 0
        yield made


def insider_at(door: Program) -> tuple[Insider, tuple[bytes, ...]]:
    """Everything but a credential that would do; and what only the tenant knows."""
    api = door.client

    def key(name: str, **wanted: Any) -> tuple[str, str]:
        answer = api.post("/v1/api-keys", json={"name": f"{MARKER}-{name}", **wanted})
        assert answer.status_code == 201, answer.text
        return answer.json()["key"]["id"], answer.json()["secret"]

    def worker(name: str) -> str:
        answer = httpx.post(
            f"{door.url}/v1/workers/register",
            json={"name": name, "labels": {"note": MARKER}, "key": worker_key()},
            headers={"holdfast-join-token": join},
            trust_env=False,
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["credential"])

    join = api.post("/v1/workers/tokens", json={}).json()["token"]
    roles = {r["name"]: frozenset(r["permissions"]) for r in door.get("/v1/roles")}
    reader = frozenset({"profiles:read"})
    key_id, read_key = key("reader", permissions=sorted(reader))
    confined = frozenset({"records:read", "runs:read"})
    own = frozenset({"self"})  # a program is somebody; a worker is its name alone
    small = {
        read_key: reader | own,
        key("confined", permissions=sorted(confined), profiles=["other"])[1]: confined | own,
        key("viewer", roles=["viewer"])[1]: roles["viewer"] | own,
        key("auditor", roles=["auditor"])[1]: roles["auditor"] | own,
        worker("eve"): frozenset(p.value for p in WORKER_PERMISSIONS),
        jwt(SECRET, claims_of(roles="viewer")): roles["viewer"] | own,
        jwt(SECRET, claims_of(roles="auditor")): roles["auditor"] | own,
    }
    revoked_id, revoked = key("revoked", roles=["admin"])
    assert api.post(f"/v1/api-keys/{revoked_id}/revoke", json={}).status_code == 200
    elsewhere = key("elsewhere", roles=["admin"], addresses=["192.0.2.0/24"])[1]
    superseded = worker("twice")
    worker("twice")
    link = api.post("/v1/login/links", json={}).json()["path"].partition("#")[2]
    token = door.token
    dead = {
        "revoked key": revoked,
        "key of another address": elsewhere,
        "superseded worker": superseded,
        "join token": join,
        "login link": link,
        "half an operator": token[:-9],
        "key as operator": token.replace("hfo_", "hf_"),
        "key as worker": read_key.replace("hf_", "hfw_"),
        "worker as key": superseded.replace("hfw_", "hf_"),
        "hop token": SigningKey.from_seed(b"\x05" * 32).sign({"sub": "operator"}, typ=TYPE),
        "empty": "",
    }
    for path, wanted in (("/v1/reports", REPORT), ("/v1/invitations", {"name": MARKER})):
        # 200: that report is there already, where another attack came before this one.
        assert api.post(path, json=wanted).status_code in (200, 201)
    runs = [run["id"] for run in door.items("/v1/runs")]
    found = door.get("/v1/records", profile=PROFILE, limit=50)["items"]
    records = [record["id"] for record in found]
    ids = {
        "name": [PROFILE], "profile": [PROFILE], "run": runs, "source": runs, "record": records,
        "task": [task["id"] for task in door.items("/v1/tasks")],
        "worker": [each["id"] for each in door.items("/v1/workers")],
        "token": [each["id"] for each in door.items("/v1/workers/tokens")],
        "invitation": [each["id"] for each in door.items("/v1/invitations")],
        "report_id": [each["id"] for each in door.items("/v1/reports")],
        "key": [key_id, revoked_id],
        "digest": [each["digest"] for each in door.items(f"/v1/profiles/{PROFILE}/versions")],
    }  # fmt: skip
    insider = Insider(
        secret=SECRET,
        small=small,
        dead=dead,
        ids={name: values for name, values in ids.items() if values},
        foreign=jwt(SECRET, claims_of(tenant="mallory")),
        administrator=jwt(SECRET, claims_of()),
        host="127.0.0.1",
    )
    hidden = (MARKER.encode(), token.encode(), SECRET)
    return insider, hidden


def state_of(door: Program) -> dict[str, Any]:
    """What the tenant has: nothing of it may change."""
    kept = ("id", "name", "status", "permissions", "revoked_at", "digest", "published_at")
    kept += ("state", "roles", "ended_at")
    paths = ("/v1/api-keys", "/v1/workers", "/v1/profiles", "/v1/runs", "/v1/tasks", "/v1/reports")
    paths += ("/v1/people", "/v1/invitations", "/v1/workers/tokens")
    found: dict[str, Any] = {
        path: [{k: v for k, v in each.items() if k in kept} for each in door.items(path)]
        for path in paths
    }
    for worker in found["/v1/workers"]:
        # Nobody beats here: whether they are lost yet is a matter of time alone.
        worker["status"] = worker["status"].replace("lost", "alive")
    found["/v1/records"] = door.get("/v1/records", profile=PROFILE, limit=50)["items"]
    return found | {path: door.get(path) for path in ("/v1/roles", "/v1/subjects")}


def counted(program: Program, name: str, at_least: int = 0) -> int:
    """The sum of a metric's series; of requests, those with a status that is a refusal."""
    text = program.client.get("/metrics").text
    total = 0.0
    for line in text.splitlines():
        if line.startswith(f"{name}{{"):
            status = re.search(r'status="(\d+)"', line)
            if status is None or int(status[1]) >= at_least:
                total += float(line.rpartition(" ")[2])
    return int(total)


def refusals(program: Program) -> int:
    """Everything that was refused so far: requests, and what never became one."""
    requests = counted(program, "holdfast_http_requests_total", 400)
    return requests + counted(program, "holdfast_connection_refusals_total")


def told_of(door: Program, insider: Insider, last: str = "") -> int:
    """How many refusals the events of both tenants tell of; none before they tell of ``last``."""
    refused = [each for each in entries(door, insider) if each["type"] == "access.refused"]
    if last and last not in [each["request_id"] for each in refused]:
        return 0
    return sum(each["payload"]["count"] for each in refused)


def refused_by_the_ledger(stack: Stack) -> str:
    """One more refusal, where the ledger has a door of its own: once that is told, so is whatever
    it noted before. The id of the request."""
    if stack.layout == "up":
        return ""
    program, last = stack.running["ledger"], secrets.token_hex(8)
    headers = {"authorization": "Bearer hf_x", "x-request-id": last}
    answer = httpx.get(f"{program.url}/v1/ledger/status", headers=headers, trust_env=False)
    assert answer.status_code == 401, answer.text
    return last


def happened(door: Program, insider: Insider, since: datetime) -> list[tuple[str, str]]:
    """What the events of both tenants tell of since then beside refusals."""
    return [
        (each["type"], each["stream"])
        for each in entries(door, insider)
        if datetime.fromisoformat(each["time"]) > since
        # Nobody beats here: when a worker is lost is a matter of time alone.
        and each["type"] not in ("access.refused", "worker.lost")
    ]


def entries(door: Program, insider: Insider) -> Iterator[Any]:
    """The log of the tenant under attack, and that of the attacker's."""
    for headers in ({}, {"authorization": f"Bearer {insider.foreign}"}):
        cursor: str | None = None
        while True:
            params = {"limit": 1000, **({"cursor": cursor} if cursor else {})}
            page = door.client.get("/v1/ledger/entries", params=params, headers=headers).json()
            yield from page["items"]
            cursor = page.get("next")
            if not cursor:
                break


def unwell(stack: Stack) -> set[str]:
    """What any of its programs says is not as it should be."""
    answers = [program.get("/ready") for program in stack.running.values()]
    checks = [check for answer in answers for check in answer["checks"].items()]
    return {name for name, check in checks if check["status"] != "ok"}


def attack(stack: Stack, count: int, seed: int) -> Tally:
    door = stack.door
    insider, hidden = insider_at(door)
    routes = routes_of(json.loads(API.read_text()))
    before, refused_before = state_of(door), refusals(door)
    told_before = wait_until(lambda: told_of(door, insider) + 1, what="the ledger") - 1
    tally, began = Tally(), datetime.now(UTC)
    with closing(Line(httpx.URL(door.url).port or 0)) as line:
        for attempt in Attacker(routes, insider, seed).attempts(count):
            status, answer = line.ask(attempt.request)
            tally.count(attempt, attempt.request, status)
            check(attempt, status, answer, hidden)
            if attempt.twin:
                again, other = line.ask(attempt.twin)
                tally.count(attempt, attempt.twin, again)
                check(attempt, again, other, hidden)
                codes = [json.loads(a.partition(b"\r\n\r\n")[2])["code"] for a in (answer, other)]
                assert (status, codes[0]) == (again, codes[1]), (attempt.request, answer, other)
    assert state_of(door) == before
    assert refusals(door) - refused_before == tally.asked
    last = refused_by_the_ledger(stack)
    wanted = told_before + tally.noted + bool(last)
    stack.kill(stack.door_name)
    stack.start()
    door = stack.door
    with suppress(AssertionError):
        wait_until(lambda: told_of(door, insider, last) == wanted, 60)
    assert told_of(door, insider, last) == wanted, tally
    assert happened(door, insider, began) == []
    assert tally.routes == set(routes)
    # The tests' PostgreSQL flushes nothing, which every role on it says of itself.
    apart = stack.layout == "split"
    assert unwell(stack) == ({"durability"} if apart else set())
    assert door.get("/health")["status"] == ("degraded" if apart else "ok")
    return tally


def told(tally: Tally, where: str) -> None:
    kinds = Counter(kind.partition(":")[0] for kind in tally.kinds.elements())
    print(f"{where}: {tally.asked} requests, all refused: {dict(sorted(tally.statuses.items()))}")
    print(f"  over {len(tally.routes)} routes, by {len(tally.kinds)} ways: {dict(kinds)}")
    print(f"  {tally.noted} of them of note, all in the ledger")


def test_no_attempt_at_the_door_gets_in_or_tells_anything(stack: Stack) -> None:
    told(attack(stack, AT_THE_DOOR, SEED), "at the door")


@pytest.mark.soak
def test_no_attempt_of_very_many_at_the_door_gets_in(stack: Stack) -> None:
    told(attack(stack, AT_THE_DOOR * scale(), SEED + 1), "at the door")


# --- at a role, behind the door


@dataclass
class Forger:
    """Whoever can sign as a role that is trusted, and as one that is not."""

    routes: list[Route]
    gateway: SigningKey
    seed: int

    def attempts(self, count: int) -> Iterator[Attempt]:
        import random

        pick = random.Random(self.seed)
        for number in range(count):
            route = self.routes[number % len(self.routes)]
            yield self._attempt(route, pick)

    def _attempt(self, route: Route, pick: Any) -> Attempt:
        target = re.sub(r"\{[^}]+\}", PROFILE, route.path)
        body = b"{}" if route.method in ("POST", "PUT") else b""
        now = datetime.now(UTC)
        stranger = SigningKey.from_seed(secrets.token_bytes(32))
        good: dict[str, Any] = {
            "iss": "gateway", "aud": "registry", "iat": int(now.timestamp()),
            "exp": int((now + timedelta(seconds=30)).timestamp()), "jti": secrets.token_hex(16),
            "htm": route.method, "htu": target, "bdg": digest(body), "sub": "operator",
            "ten": "default", "knd": "operator", "prm": sorted(p.value for p in ALL_PERMISSIONS),
        }  # fmt: skip
        shift = pick.randint(90, 10**6)
        changes: dict[str, dict[str, Any]] = {
            "audience swapped": {"aud": pick.choice(["ledger", "gateway", ["registry"], "", None])},
            "issuer of no key": {"iss": pick.choice(["coordinator", "nobody", "../gateway", ""])},
            "expired": {"iat": good["iat"] - shift, "exp": good["exp"] - shift},
            "not yet valid": {"iat": good["iat"] + shift, "exp": good["exp"] + shift},
            "lives too long": {"exp": good["exp"] + shift},
            "no end": {"exp": None},
            "no id": {"jti": None},
            "another method": {"htm": "OPTIONS"},
            "another path": {
                "htu": pick.choice(["/v1/profiles/x/y/z", "/health", f"{target}?a=1"])
            },
            "another body": {"bdg": digest(b"other")} if body else {"htm": "PUT"},
            "no tenant": {"ten": None},
            "no permissions": {"prm": None},
            "permissions of another shape": {"prm": "profiles:write"},
            "unknown kind": {"knd": "root"},
            "bound to another's certificate": {"cnf": {"x5t#S256": ["x"]}},
            "missing permission": {
                "prm": sorted(p.value for p in ALL_PERMISSIONS if p.value != route.permission)
            },
            "nobody": {"sub": None},
        }
        ways = [*changes, "stranger's key", "another type", "alg none", "tampered", "twice", "none"]
        name = pick.choice(ways)
        claims = {k: v for k, v in (good | changes.get(name, {})).items() if v is not None}
        token = self.gateway.sign(claims, typ=TYPE)
        head, _, signature = token.split(".")
        if name == "stranger's key":
            token = stranger.sign(claims, typ=TYPE)
        elif name == "another type":
            token = self.gateway.sign(claims, typ=pick.choice(["JWT", "grant+jwt", ""]))
        elif name == "alg none":
            token = jwt(b"x", claims, {"alg": "none", "typ": TYPE, "kid": "gateway"})
        elif name == "tampered":
            other = self.gateway.sign({**claims, "ten": "other"}, typ=TYPE).split(".")[1]
            token = f"{head}.{other}.{signature}"
        lines = [f"{route.method} {target} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [] if name == "none" else [f"holdfast-hop: {token}"]
        lines += [f"holdfast-hop: {token}"] if name == "twice" else []
        if pick.random() < 0.3:
            lines += ["X-Principal: operator", "Authorization: Bearer operator"]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        request = ("\r\n".join(lines) + "\r\n\r\n").encode() + body
        return Attempt(f"hop: {name}", route, request)


@pytest.fixture(scope="module")
def role(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, SigningKey]]:
    directory = tmp_path_factory.mktemp("role")
    trusted = directory / "trusted"
    trusted.mkdir()
    gateway = SigningKey.from_seed(secrets.token_bytes(32))
    gateway.write_public(trusted, "gateway")
    environment = {
        "HOLDFAST_TRUST_DIR": str(trusted),
        "HOLDFAST_REGISTRY_PROFILES_DIR": str(SAMPLE.joinpath("profiles")),
    }
    with started(
        ["serve", "registry", "--port", "0"], directory / "registry", environment=environment,
        ready="/health",
    ) as program:  # fmt: skip
        yield program, gateway


def attack_role(role: tuple[Program, SigningKey], stack: Stack, count: int, seed: int) -> Tally:
    program, gateway = role
    routes = [
        route
        for route in routes_of(json.loads(API.read_text()))
        if route.path.startswith("/v1/profiles")
    ]
    hidden = (b"Carbon", b"carbon")
    refused_before = refusals(program)
    tally = Tally()
    with closing(Line(httpx.URL(program.url).port or 0)) as line:
        for attempt in Forger(routes, gateway, seed).attempts(count):
            status, answer = line.ask(attempt.request)
            tally.count(attempt, attempt.request, status)
            check(attempt, status, answer, hidden)
    assert refusals(program) - refused_before == tally.asked
    return tally


def honest(role: tuple[Program, SigningKey]) -> int:
    """That the same forger gets in with nothing wrong: else nothing above was shown."""
    from holdfast.identity.hop import EMPTY_BODY, HopSigner
    from holdfast.kernel.principal import operator

    program, gateway = role
    clock = SystemClock()
    signer = HopSigner("gateway", gateway, clock, id_source(clock))
    token = signer.token("registry", operator(), "GET", "/v1/profiles", EMPTY_BODY)
    headers = {"holdfast-hop": token}
    return httpx.get(f"{program.url}/v1/profiles", headers=headers, trust_env=False).status_code


def test_no_forged_hop_gets_in_at_a_role(role: tuple[Program, SigningKey], stack: Stack) -> None:
    assert honest(role) == 200
    tally = attack_role(role, stack, AT_A_ROLE, SEED)
    print(f"at a role: {tally.asked} requests, all refused, by {len(tally.kinds)} ways")
    assert honest(role) == 200


@pytest.mark.soak
def test_no_forged_hop_of_very_many_gets_in(role: tuple[Program, SigningKey], stack: Stack) -> None:
    assert honest(role) == 200
    tally = attack_role(role, stack, AT_A_ROLE * scale(), SEED + 1)
    print(f"at a role: {tally.asked} requests, all refused, by {len(tally.kinds)} ways")


def test_the_attacker_s_own_tools_are_sharp(stack: Stack) -> None:
    """With nothing wrong the same credentials get in: else nothing above was shown."""
    door = stack.door
    for token in (jwt(SECRET, claims_of()), jwt(SECRET, claims_of(tenant="mallory"))):
        answer = httpx.get(
            f"{door.url}/v1/profiles", headers={"authorization": f"Bearer {token}"},
            trust_env=False,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
    assert MARKER in door.client.get(f"/v1/profiles/{PROFILE}").text


def test_the_list_of_routes_is_whole(stack: Stack) -> None:
    """Of a door that has every role behind it in its own process: another serves its own alone."""
    served = set(routes_of(stack.door.get("/openapi.json")))
    committed = set(routes_of(json.loads(API.read_text())))
    assert served == committed if stack.layout == "up" else served <= committed
