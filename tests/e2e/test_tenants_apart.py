"""One tenant's administrator asks for another's things, everywhere: refused, and refused alike.

Every endpoint with something to name is asked for what is there in the other tenant and for what is
nowhere, in turn. Both answers must be the same, whatever they are. Attempts come from a seed.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from msgspec import Raw

from holdfast.identity.signin.model import csrf_of
from tests.e2e.test_door import SECRET, token_of
from tests.support import provider as accounts
from tests.support.authenticator import Authenticator
from tests.support.postgres import PostgresServer
from tests.support.program import Program, wait_until
from tests.support.soaking import scale
from tests.support.stack import SAMPLE, Stack, running, sources

pytestmark = [
    pytest.mark.timeout(1200 * scale()),
    pytest.mark.soak,
]

SEED = int(os.environ.get("HOLDFAST_TEST_SEED", "20261127"))
ATTEMPTS = 500
"""On each database; ``make soak`` multiplies."""
API = Path(__file__).parents[2] / "api" / "openapi.json"
OPEN = ("/v1/login", "/health", "/ready", "/metrics", "/v1/tenants")
"""Nobody's: they need no tenant."""
ENDLESS = ("/v1/ledger/follow",)
"""Subscriptions end when their caller goes; they are tried by themselves."""
OWN = {"position", "path", "sequence"}
"""What every tenant has of its own: positions and tiles of its log."""
FOLDED = "/v1/ledger/projections/{name}"
FOLDS = ("publications", "runs", "tasks")
"""So has it these, under the same names: there is nothing to compare, but something to show."""
LISTED = (
    *("profiles", "runs", "tasks", "api-keys", "reports", "workers/tokens"),
    *("people", "invitations"),
)
OF_A_PERSON = ("sessions", "accounts", "passkeys")

PROFILE = "nasa-global-temp-annual"
BOSS = "boss@example.org"
SPEC = {
    "version": 1,
    "name": "decades",
    "inputs": {"temperature": {"profile": PROFILE, "measures": ["temperature_anomaly"]}},
    "output": {"type": "table"},
}


class Known:
    """What is there in the other tenant, by the parameter that names it, and the like of it."""

    def __init__(self, program: Program, chance: random.Random) -> None:
        self.chance = chance
        entries = list(program.items("/v1/ledger/entries", limit=1000))
        profiles = [one["name"] for one in program.items("/v1/profiles")]
        runs = [one["id"] for one in program.items("/v1/runs")]
        tasks = [one["id"] for one in program.items("/v1/tasks")]
        records = program.get("/v1/records", profile=profiles[0], limit=50)["items"]
        digests = [
            one["response"]["digest"]
            for run in runs[:3]
            for one in program.get(f"/v1/runs/{run}/responses")
        ]
        few = {"permissions": ["records:read"]}
        made(program.client.put("/v1/roles/of-default", json=few))
        key = made(program.client.post("/v1/api-keys", json={"name": "key", **few}))
        open_one = made(program.client.post("/v1/invitations", json={"name": "Grace"}))
        held = {"subject": "somebody", "reason": "a dispute"}
        made(program.client.post("/v1/subjects/hold", json=held))
        backup = made(program.client.post("/v1/backups", json={}))["id"]
        wait_until(lambda: program.get(f"/v1/backups/{backup}")["state"] == "done", 120)
        [person] = [each["id"] for each in program.items("/v1/people")]
        self.values: dict[str, list[str]] = {
            "profile": profiles,
            "run": runs,
            "source": runs,
            "task": tasks,
            "record": [one["id"] for one in records],
            "report_id": [one["id"] for one in program.items("/v1/reports")],
            "worker": [one["id"] for one in program.items("/v1/workers")],
            "event": [one["id"] for one in entries],
            "stream": sorted({one["stream"] for one in entries}),
            "digest": digests,
            "version": [
                one["digest"] for one in program.items(f"/v1/profiles/{profiles[0]}/versions")
            ],
            "key": [key["key"]["id"]],
            "role": ["of-default"],
            "subject": ["somebody"],
            "backup_id": [backup],
            "invitation": [open_one["invitation"]["id"]],
            "token": [one["id"] for one in program.items("/v1/workers/tokens")],
            "person": [person],
            "session": [one["id"] for one in program.items("/v1/sessions", person=person)],
            "account": [one["id"] for one in program.get("/v1/accounts", person=person)],
            "passkey": [one["id"] for one in program.get("/v1/passkeys", person=person)],
        }
        empty = [sort for sort, values in self.values.items() if not values]
        assert not empty, f"nothing of these is there, so nothing would be compared: {empty}"

    def invented(self, value: str) -> str:
        """Something of the same form that is nowhere."""
        if ":" in value:
            return f"sha256:{self.chance.randbytes(32).hex()}"
        if re.fullmatch("[0-9a-f]{32}", value):
            return self.chance.randbytes(16).hex()
        if re.fullmatch("[0-9a-f-]{36}", value):
            return f"{value[:19]}{value[19:24]}{self.chance.randbytes(6).hex()}"
        return f"{value[:1]}{''.join(self.chance.choices('abcdefghij', k=max(3, len(value) - 1)))}"


def made(answer: httpx.Response) -> Any:
    """What was made."""
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def come_in(program: Program, provider: accounts.FakeProvider) -> None:
    """Somebody signs in by an account elsewhere, and keeps a passkey: one of each is there."""
    origin = program.url.replace("127.0.0.1", "localhost")
    host = {"host": urlsplit(origin).netloc}
    with httpx.Client(base_url=program.url, headers=host, trust_env=False) as browser:
        away = browser.get("/login/oauth/oidc").headers["location"]
        asked = {name: values[0] for name, values in parse_qs(urlsplit(away).query).items()}
        provider.challenge = asked["code_challenge"]
        provider.claims = {"sub": "boss", "email": BOSS, "email_verified": True, "name": "Boss"}
        provider.claims["nonce"] = asked["nonce"]
        back = {"state": asked["state"], "code": "right"}
        browser.get("/login/oauth/oidc/callback", params=back)
        mine = {"origin": origin, "x-csrf-token": csrf_of(browser.cookies["holdfast_session"])}
        ceremony = made(browser.post("/v1/login/passkeys/options", json={}, headers=mine))
        passkey = Authenticator(origin, "localhost").make(Raw(json.dumps(ceremony["options"])))
        answer = {"ceremony": ceremony["ceremony"], "credential": json.loads(bytes(passkey))}
        made(browser.post("/v1/login/passkeys", json=answer, headers=mine))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def program(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Program]:
    """A program in which the tenant `default` has something of every sort."""
    folder = tmp_path_factory.mktemp("tenants")
    profiles = folder / "profiles"
    profiles.mkdir()
    text = SAMPLE.joinpath("profiles", f"{PROFILE}.yaml").read_text(encoding="utf-8")
    (profiles / f"{PROFILE}.yaml").write_text(text)
    (folder / "secret").write_bytes(SECRET)
    with sources(folder) as (_, replay), accounts.fake_provider() as provider:
        stack = Stack(folder / "stack", "up", replay, profiles, drones=1)
        stack.directory.mkdir()
        if request.param == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres")
            server.execute("CREATE DATABASE tenants_apart")
            stack.databases = lambda role: server.dsn("tenants_apart")
        stack.environment = {
            "HOLDFAST_IDENTITY_JWT_SECRET_FILE": str(folder / "secret"),
            "HOLDFAST_IDENTITY_OAUTH_PROVIDER": "oidc",
            "HOLDFAST_IDENTITY_OAUTH_CLIENT_ID": accounts.CLIENT,
            "HOLDFAST_IDENTITY_OAUTH_CLIENT_SECRET": accounts.SECRET,
            "HOLDFAST_IDENTITY_OAUTH_ISSUER": provider.url,
            "HOLDFAST_IDENTITY_OAUTH_ALLOW": urlsplit(provider.url).netloc,
            "HOLDFAST_IDENTITY_ADMIN_USERS": BOSS,
        }
        with running(stack):
            come_in(stack.door, provider)
            stack.collect_all()
            stack.settle()
            made(stack.door.client.post("/v1/reports", json=SPEC))
            yield stack.door


def routes() -> list[tuple[str, str, list[str]]]:
    """Every method and path with what can be named in it: in the path, or in the query."""
    found = []
    for path, operations in json.loads(API.read_text())["paths"].items():
        if path.startswith(OPEN):
            continue
        for method, operation in operations.items():
            named = [
                one["name"]
                for one in operation.get("parameters", [])
                if one["in"] == "query"
                and one["name"] in ("profile", "run", "event", "stream", "worker", "person")
            ]
            if named or "{" in path:
                found.append((method.upper(), path, named))
    return found


BODIES: dict[str, Any] = {
    "/v1/roles/{name}": {"permissions": ["records:read"]},
    "/v1/people/{person}/roles": {"roles": ["viewer"]},
    "/v1/tasks/{task}/cancel": {"reason": "x"},
    "/v1/tasks/{task}/complete": {"fence": 1, "outcome": "succeeded"},
    "/v1/runs/{run}/finish": {"fence": 1, "outcome": "failed", "batches": 0},
}
NAMED_IN_BODIES: list[tuple[str, str, Any]] = [
    ("/v1/records/receipts", "record", {"records": ["<>"]}),
    ("/v1/records/by-key", "profile", {"profile": "<>", "key": ["x"]}),
    ("/v1/tasks/collect", "profile", {"profile": "<>"}),
    ("/v1/reports", "profile", {**SPEC, "inputs": {"a": {"profile": "<>", "measures": ["x"]}}}),
    ("/v1/sessions/end", "person", {"person": "<>"}),
    ("/v1/subjects/look", "subject", {"subject": "<>"}),
    ("/v1/subjects/erase", "subject", {"subject": "<>", "reason": "a test"}),
    ("/v1/subjects/hold", "subject", {"subject": "<>", "reason": "a test"}),
    ("/v1/subjects/release", "subject", {"subject": "<>", "reason": "a test"}),
]
"""Routes whose bodies name things of one sort."""


def parameter_of(path: str, name: str) -> str:
    """Which sort of thing a path's parameter names."""
    if name == "name":
        return "role" if "/roles/" in path else "profile"
    if name == "digest" and "/versions/" in path:
        return "version"
    return name


MADE = {
    "/v1/subjects/erase": ("id", "subject"),
    "/v1/subjects/hold": ("subject",),
    "/v1/subjects/look": ("subject",),
}
"""What an answer names of what it has made: one's own, and another each time."""


def told(answer: httpx.Response, given: list[str], made: Sequence[str] = ()) -> tuple[int, str]:
    """Status and text, without what was asked for and what differs in every answer."""
    text = answer.text
    for place, value in enumerate(given):
        text = text.replace(value, f"<{place}>").replace(value[:60], f"<{place}>")
    names = ("instance", "request_id", "time", "recorded", "[a-z_]*_at", "unrecoverable_by", *made)
    return answer.status_code, re.sub(rf'"(?:{"|".join(names)})":"[^"]*",?', "", text)


@dataclass(frozen=True)
class Attempt:
    """One way to name something: method, path, and the sorts of things named in it, by place."""

    method: str
    path: str
    named: tuple[str, ...]
    body: Any = None


def attempts() -> list[Attempt]:
    """Every way there is."""
    found = []
    for method, path, queried in routes():
        if path.startswith(FOLDED):
            body = None if method == "GET" else {}
            found += [Attempt(method, path.replace("{name}", fold), (), body) for fold in FOLDS]
        elif path not in ENDLESS:
            in_path = [name for name in re.findall(r"\{([a-z_]+)\}", path) if name not in OWN]
            body = None if method in ("GET", "DELETE") else BODIES.get(path, {})
            found.append(Attempt(method, path, (*in_path, *queried), body))
    found += [Attempt("POST", path, (sort,), body) for path, sort, body in NAMED_IN_BODIES]
    return found


def asked(client: httpx.Client, attempt: Attempt, values: list[str]) -> httpx.Response:
    """The answer to one attempt with these things named."""
    url, query, body = attempt.path, {}, attempt.body
    for name, value in zip(attempt.named, values, strict=True):
        if f"{{{name}}}" in url:
            url = url.replace(f"{{{name}}}", value)
        elif "<>" in json.dumps(body):
            body = json.loads(json.dumps(body).replace("<>", value))
        else:
            query[name] = value
    url = re.sub(r"\{[a-z_]+\}", "0", url)
    if "receipt" in url and "report" in url:
        query["column"] = "temperature_anomaly"
    more = {} if body is None else {"json": body}
    return client.request(attempt.method, url, params=query, **more)


def test_what_stands_between_times_is_told_apart() -> None:
    """Only the times go: a pattern that takes what is around them compares nothing."""

    def body(name: str, second: int) -> httpx.Response:
        moment = f"2026-11-27T00:00:0{second}Z"
        said = {"created_at": moment, "name": name, "items": [{"ended_at": moment, "time": moment}]}
        return httpx.Response(200, content=json.dumps(said, separators=(",", ":")))

    assert told(body("theirs", 1), []) == told(body("theirs", 2), [])
    assert told(body("theirs", 1), []) != told(body("mine", 1), [])
    assert told(body("theirs", 1), ["theirs"]) == told(body("mine", 2), ["mine"])


def test_another_tenants_things_are_refused_alike_whether_they_exist_or_not(
    program: Program,
) -> None:
    chance = random.Random(SEED)
    known = Known(program, chance)
    before = state_of(program)
    every, outcomes = attempts(), Counter[int]()
    differing: list[Any] = []
    revealing: list[Any] = []
    secret = {v for name in ("run", "task", "record", "event") for v in known.values[name]}
    with other(program) as client:
        for number in range(ATTEMPTS * scale() // 2):
            attempt = every[number % len(every)]
            there, nowhere = [], []
            for name in attempt.named:
                sort = parameter_of(attempt.path, name)
                value = chance.choice(known.values[sort])
                there.append(value)
                nowhere.append(known.invented(value))
            first = asked(client, attempt, there)
            second = asked(client, attempt, nowhere)
            if attempt.method == "PUT" and "/roles/" in attempt.path:
                for (name,) in (there, nowhere):  # one's own now; it is to be found nowhere again
                    assert client.delete(f"/v1/roles/{name}").status_code == 204
            outcomes[first.status_code] += 1
            outcomes[second.status_code] += 1
            own = MADE.get(attempt.path, ()) if first.is_success else ()
            both = told(first, there, own), told(second, nowhere, own)
            if attempt.named and both[0] != both[1]:
                differing.append((attempt.method, attempt.path, there, *both))
            shown = secret.difference(there) & set(re.findall(r"[0-9a-f-]{32,36}", first.text))
            if shown:
                revealing.append((attempt.method, attempt.path, sorted(shown)[:3]))
    assert differing == []
    assert revealing == []
    assert state_of(program) == before, "something of the other tenant has changed"
    assert not [status for status in outcomes if status >= 500], outcomes
    print(f"{outcomes.total()} attempts, {len(every)} ways, seed {SEED}: {dict(outcomes)}")


def test_what_is_asked_without_a_name_tells_of_ones_own_tenant_alone(program: Program) -> None:
    """Lists, totals, metrics, how the whole is: for a viewer and for an administrator."""
    theirs = {PROFILE, BOSS}
    for name in ("runs", "tasks", "workers", "reports"):
        theirs |= {one["id"] for one in program.items(f"/v1/{name}")}
    assert PROFILE in program.client.get("/metrics").text, "nothing would be found anywhere"
    paths = json.loads(API.read_text())["paths"]
    asked = [path for path in paths if "get" in paths[path] and "{" not in path]
    assert {"/metrics", "/health/detailed", "/v1/overview"} <= set(asked)
    for role in ("viewer", "admin"):
        headers = {"authorization": f"Bearer {token_of('newsroom', roles=role)}"}
        with httpx.Client(base_url=program.url, headers=headers, timeout=60) as client:
            for path in (*asked, "/", "/account", "/people", "/openapi.json"):
                if path in ENDLESS:
                    continue
                text = client.get(path).text
                shown = sorted(one for one in theirs if one in text)
                assert shown == [], f"{path} shows a {role} of another tenant {shown}"
            refused = [client.get(path).status_code for path in ("/metrics", "/health/detailed")]
            assert refused == [403, 403]


def test_a_stream_of_the_same_name_is_ones_own(program: Program) -> None:
    """Appended to, expected at, listed and followed: none of it touches the other tenant's."""
    stream = "notes/same"

    def event(number: int) -> dict[str, Any]:
        return {"stream": stream, "type": "note.added", "payload": {"n": number}}

    hidden = program.client.post("/v1/ledger/events", json={"events": [event(n) for n in range(9)]})
    assert hidden.status_code == 200, hidden.text
    theirs = {each["id"] for each in hidden.json()["events"]}
    with other(program, "third") as client:
        for expected in (9, 1):
            body = {"events": [event(0)], "expected": {stream: expected}}
            refused = client.post("/v1/ledger/events", json=body)
            assert (refused.status_code, refused.json()["code"]) == (409, "version-conflict")
            assert "at version 0" in refused.json()["detail"]
        taken = client.post(
            "/v1/ledger/events", json={"events": [event(0)], "expected": {stream: 0}}
        )
        assert taken.status_code == 200, taken.text
        [mine] = taken.json()["events"]
        # An id that the other tenant has used is free here, whatever it carries.
        reused = {**event(7), "id": sorted(theirs)[0]}
        free = client.post("/v1/ledger/events", json={"events": [reused]})
        assert free.status_code == 200, free.text
        listed = client.get("/v1/ledger/entries", params={"stream": stream}).json()["items"]
        assert [each["id"] for each in listed] == [mine["id"], reused["id"]]
        with client.stream(
            "GET", "/v1/ledger/follow", params={"stream": stream, "first": 0}
        ) as followed:
            ids = [line for line in _first(followed, 2) if line]
        assert [json.loads(line)["id"] for line in ids] == [mine["id"], reused["id"]]
    kept = program.items("/v1/ledger/entries", stream=stream)
    assert [each["payload"]["n"] for each in kept] == list(range(9))


def _first(followed: httpx.Response, count: int) -> list[str]:
    found: list[str] = []
    for line in followed.iter_lines():
        if line.startswith("data:"):
            found.append(line.removeprefix("data:"))
        if len(found) == count:
            break
    return found


def other(program: Program, tenant: str = "other") -> httpx.Client:
    """An administrator of another tenant."""
    headers = {"authorization": f"Bearer {token_of(tenant, roles='admin')}"}
    return httpx.Client(base_url=program.url, headers=headers, trust_env=False, timeout=60)


def state_of(program: Program) -> dict[str, Any]:
    """What the tenant `default` has, as its operator sees it."""
    found: dict[str, Any] = {name: list(program.items(f"/v1/{name}")) for name in LISTED}
    for person in found["people"]:
        for name in OF_A_PERSON:
            found[f"{name} of {person['id']}"] = program.get(f"/v1/{name}", person=person["id"])
    found |= {name: program.get(f"/v1/{name}") for name in ("roles", "subjects")}
    found["records"] = program.get("/v1/records", profile=PROFILE, limit=1000)["items"]
    return found
