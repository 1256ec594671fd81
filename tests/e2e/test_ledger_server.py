"""``holdfast serve ledger`` as a server on its own: its door, its variables, its words."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import random
import re
import ssl
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from holdfast.client import Client, HoldfastError
from holdfast.identity import pki
from holdfast.kernel import merkle
from holdfast.kernel.ids import uuid7
from holdfast.kernel.outbox import PAYLOAD_BYTES_MAX
from holdfast.kernel.signing import SigningKey
from holdfast.ledger import model, notes
from holdfast.ledger.client import pipeline
from holdfast.ledger.model import Append, NewEvent
from tests.support import guide
from tests.support.program import Program, run_command, start, started, wait_until
from tests.support.soaking import scale

SECRET = "a secret of at least thirty-two bytes, for a test"


def event(number: int, stream: str = "notes/a", **more: object) -> dict[str, object]:
    id_ = uuid7(1_791_000_000_000 + number, number.to_bytes(10, "big"))
    return {"id": id_, "stream": stream, "type": "note.added", "payload": {"n": number}, **more}


def append(program: Program, *events: dict[str, object], **more: object) -> httpx.Response:
    return program.client.post("/v1/ledger/events", json={"events": list(events), **more})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("ledger")
    environment = {
        "VDB_DATA_DIR": str(folder / "data"),
        "VDB_BIND_ADDR": "127.0.0.1:0",
        "VDB_AUTH_MODE": "jwt",
        "VDB_JWT_SECRET": SECRET,
        "VDB_REPLICATION_MODE": "single-node",
        "VDB_REPLICA_ID": "0",
        "VDB_LOG_LEVEL": "warn",
        "VDB_MAX_CONNECTIONS": "200",
    }
    with started(["serve", "ledger"], folder / "data", environment=environment) as program:
        yield program


def token(seconds: float = 600, **changes: object) -> str:
    claims = {
        "iss": "craton",
        "aud": "craton",
        "sub": "somebody",
        "roles": ["operator"],
        "exp": int(time.time() + seconds),
    } | changes

    def part(value: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part(claims)
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


def test_the_probes_have_the_fields_of_guide_3(server: Program) -> None:
    health = server.get("/health")
    assert health["status"] == "ok"
    assert {"status", "version", "uptime_seconds"} <= health.keys()
    ready = server.get("/ready")
    assert ready["status"] == "ok"
    assert {"disk", "memory", "data_dir"} <= ready["checks"].keys()
    for check in ready["checks"].values():
        assert check["status"] == "ok"
        assert check["duration_ms"] >= 0


def test_every_mode_asks_for_a_credential(server: Program) -> None:
    def status(credential: str | None) -> int:
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        return httpx.get(
            f"{server.url}/v1/ledger/entries", headers=headers, timeout=60, trust_env=False
        ).status_code

    assert status(None) == 401
    assert status("wrong") == 401
    assert status(server.token) == 200
    assert status(token()) == 200
    assert status(token(seconds=-60)) == 401
    assert status(token(seconds=7200)) == 401, "it ends later than VDB_JWT_EXPIRATION_SECS"
    assert status(token(iss="else")) == 401
    assert status(token(aud="else")) == 401
    assert status(token(roles=["viewer"])) == 403
    assert status("hf_00000000_" + "0" * 60) == 401


def test_what_is_appended_can_be_read_proven_and_checked_elsewhere(server: Program) -> None:
    answer = append(server, event(1, "proven/a"), event(2, "proven/b"), expected={"proven/a": 0})
    assert answer.status_code == 200, answer.text
    first = answer.json()["events"][0]
    proof = server.get("/v1/ledger/proofs/inclusion", position=first["position"])
    trust = server.get("/v1/ledger/trust")
    keys = [notes.VerifierKey.parse(each["key"]) for each in trust["keys"]]
    note, _ = notes.open_note(proof["checkpoint"], keys)
    said = notes.parse_checkpoint(note.text)
    assert said.origin in trust["origins"]
    merkle.check_inclusion(
        merkle.leaf_hash(proof["leaf"].encode()),
        proof["position"],
        said.size,
        [bytes.fromhex(part) for part in proof["path"]],
        said.root,
    )
    opened = hmac.new(
        bytes.fromhex(proof["salt"]), proof["payload"].encode(), hashlib.sha256
    ).hexdigest()
    assert json.loads(proof["leaf"])["commitment"] == opened
    number, at = divmod(proof["position"], 256)
    width = min(256, said.size - 256 * number)
    tile = server.client.get(f"/v1/ledger/{notes.tile_path('0', number, width)}").content
    assert tile[32 * at : 32 * at + 32] == merkle.leaf_hash(proof["leaf"].encode())


BAD = [
    ({"events": [event(10, "Notes")]}, 400, "invalid"),
    ({"events": [event(10, "notes/\u0007")]}, 400, "invalid"),
    ({"events": [event(10, payload={"x": 1.5})]}, 400, "invalid"),
    ({"events": [event(10, payload={"x": "y" * (1 << 20)})]}, 413, "too-large"),
    ({"events": [event(10)], "expected": {"notes/future": 9}}, 409, "version-conflict"),
    ({"events": [event(10, "run/0190")]}, 403, "stream-reserved"),
    ({"events": [event(10)], "more": 1}, 400, "body-invalid"),
    ({"events": []}, 400, "invalid"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD)
def test_bad_input_is_a_clear_error_and_writes_nothing(
    server: Program, body: dict[str, object], status: int, code: str
) -> None:
    before = server.get("/v1/ledger/status")["size"]
    answer = server.client.post("/v1/ledger/events", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert server.get("/v1/ledger/status")["size"] == before


def test_a_reused_id_and_a_size_that_is_not_there_are_conflicts(server: Program) -> None:
    assert append(server, event(20)).status_code == 200
    again = append(server, event(20))
    assert again.json()["repeated"] is True
    other = append(server, event(20, payload={"n": "other"}))
    assert (other.status_code, other.json()["code"]) == (409, "event-id-reused")
    size = server.get("/v1/ledger/status")["size"]
    for path, params in (
        ("inclusion", {"position": 0, "size": size + 1}),
        ("consistency", {"first": 1, "second": size + 1}),
    ):
        answer = server.client.get(f"/v1/ledger/proofs/{path}", params=params)
        assert (answer.status_code, answer.json()["code"]) == (400, "size-unknown")


def test_producers_pipeline_and_are_answered_in_order(server: Program) -> None:
    async def body() -> list[int]:
        async with pipeline(server.url, token=server.token, in_flight_max=64) as line:
            futures = [
                await line.append(
                    Append(
                        events=[
                            NewEvent(
                                id=str(event(1000 + n)["id"]),
                                stream="pipeline/one",
                                type="n.sent",
                                payload={"n": n},
                            )
                        ]
                    )
                )
                for n in range(500)
            ]
            wrong = await line.append(
                Append(events=[NewEvent(stream="Wrong", type="n.sent", payload={})])
            )
            last = await line.append(
                Append(events=[NewEvent(stream="pipeline/one", type="n.sent", payload={})])
            )
            answers = [(await future).events[0] for future in futures]
            with pytest.raises(Exception, match="is no name"):
                await wrong
            answers.append((await last).events[0])
            return [placed.version for placed in answers]

    assert asyncio.run(body()) == list(range(1, 502))


def test_a_subscription_goes_on_after_the_last_event_seen(server: Program) -> None:
    for number in range(3):
        append(server, event(2000 + number, "followed/one"))
    size = server.get("/v1/ledger/status")["size"]

    def take(count: int, **options: object) -> list[int]:
        found: list[int] = []
        with server.client.stream("GET", "/v1/ledger/follow", timeout=20, **options) as answer:
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    found.append(int(line[4:]))
                    if len(found) == count:
                        return found
        return found

    assert take(2, params={"first": size - 3}) == [size - 3, size - 2]
    assert take(1, headers={"Last-Event-ID": str(size - 2)}) == [size - 1]


GUIDE_METRICS = (
    "vdb_requests_total",
    "vdb_request_duration_seconds_bucket",
    "vdb_connections_active",
    "vdb_connections_total",
    "vdb_storage_bytes_written_total",
    "vdb_storage_records_total",
    "vdb_storage_checkpoints_total",
    "vdb_replication_lag_records",
    "vdb_replication_view_number",
)


def metrics(program: Program) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in program.client.get("/metrics").text.splitlines():
        if line.startswith("vdb_"):
            name = line.partition("{")[0].partition(" ")[0]
            found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
    return found


def test_every_metric_of_guide_3_is_there_and_moves(server: Program) -> None:
    assert server.client.get("/metrics").headers["content-type"].count("charset") == 1
    before = metrics(server)
    assert set(GUIDE_METRICS) <= before.keys()
    append(server, event(3000))
    assert server.client.get("/v1/ledger/checkpoint").status_code == 200
    after = metrics(server)
    for name in (
        "vdb_requests_total",
        "vdb_request_duration_seconds_bucket",
        "vdb_storage_bytes_written_total",
        "vdb_storage_records_total",
        "vdb_storage_checkpoints_total",
    ):
        assert after[name] > before[name], name
    assert after["vdb_connections_active"] >= 1
    assert after["vdb_replication_view_number"] >= 1
    httpx.get(f"{server.url}/health", trust_env=False)
    assert metrics(server)["vdb_connections_total"] > after["vdb_connections_total"]


def test_requests_are_counted_by_principal_not_by_connection(tmp_path: Path) -> None:
    environment = {"VDB_BIND_ADDR": "127.0.0.1:0", "VDB_RATE_LIMIT_RPS": "2"}
    with started(["serve", "ledger"], tmp_path / "data", environment=environment) as program:
        headers = {"Authorization": f"Bearer {program.token}"}

        async def one() -> httpx.Response:
            async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as client:
                return await client.get(f"{program.url}/v1/ledger/status")

        async def many() -> list[httpx.Response]:
            return await asyncio.gather(*(one() for _ in range(100)))

        answers = asyncio.run(many())
        statuses = [answer.status_code for answer in answers]
        assert 429 in statuses, "a connection each, and still one principal"
        assert statuses.count(200) >= 2
        assert set(statuses) == {200, 429}
        limited = next(answer for answer in answers if answer.status_code == 429)
        assert limited.json()["code"] == "rate-exceeded"
        assert int(limited.headers["retry-after"]) >= 1
        assert httpx.get(f"{program.url}/health", trust_env=False).status_code == 200


def test_tls_by_the_guides_names(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    signing = pki.new_key()
    authority = pki.Authority(pki.make_authority("Test", signing, now=now, serial=1), signing)
    private = pki.new_key()
    wanted = pki.Request(pki.Purpose.SERVER, "ledger", ("localhost", "127.0.0.1"))
    issued = pki.issue(authority, wanted, private.public_key(), now=now, serial=2)
    ca, certificate, key = (tmp_path / name for name in ("ca.crt", "server.crt", "server.key"))
    ca.write_bytes(pki.certificate_pem(authority.certificate))
    certificate.write_bytes(pki.certificate_pem(issued))
    key.touch(mode=0o600)
    key.write_bytes(pki.key_pem(private))
    environment = {
        "VDB_BIND_ADDR": "127.0.0.1:0",
        "VDB_TLS_CERT": str(certificate),
        "VDB_TLS_KEY": str(key),
    }
    data = tmp_path / "data"
    context = ssl.create_default_context(cafile=ca)
    program = start(["serve", "ledger"], data, environment=environment, verify=context)
    try:
        answer = httpx.get(
            f"{program.url}/v1/ledger/status",
            headers={"Authorization": f"Bearer {(data / 'operator.token').read_text().strip()}"},
            verify=context,
            trust_env=False,
        )
        assert answer.status_code == 200
    finally:
        program.kill()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"VDB_BIND_ADDR": "0.0.0.0:0"}, "beyond loopback and there is no TLS"),
        ({"VDB_TLS_CERT": "x.crt"}, "both a certificate and its key"),
        ({"VDB_AUTH_MODE": "jwt"}, "no secret to verify them by"),
        ({"VDB_AUTH_MODE": "open"}, "one of none, jwt, apikey, both"),
        ({"VDB_REPLICATION_MODE": "cluster"}, "VDB_REPLICATION_MODE=single-node"),
        ({"VDB_LOG_LEVEL": "loud"}, "one of debug"),
        ({"VDB_MAX_CONNECTIONS": "0"}, "a whole number from 1"),
    ],
)
def test_settings_that_cannot_be_kept_stop_the_start(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    stopped = run_command(
        "serve", "ledger", "--data-dir", str(tmp_path / "data"), environment=environment
    )
    assert stopped.returncode == 2
    assert said in stopped.stderr


ATTEMPTS = 1000
"""Of ten thousand in ``make soak``."""


@pytest.mark.soak
def test_nobody_reads_or_writes_another_tenants_log_and_all_refusals_are_alike(
    server: Program,
) -> None:
    """Seeded attempts through every route, at things of another tenant and at nothing at all."""
    chance = random.Random(20261127)
    mine, theirs = token(tenant="one", roles=["admin"]), token(tenant="two", roles=["admin"])

    def ask(credential: str, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {credential}"}
        return server.client.request(method, path, headers=headers, **options)

    hidden = [event(5000 + n, f"hidden/{n % 5}") for n in range(40)]
    answer = ask(theirs, "POST", "/v1/ledger/events", json={"events": hidden})
    assert answer.status_code == 200, answer.text
    before = ask(theirs, "GET", "/v1/ledger/status").json()
    secret = {str(each["id"]) for each in hidden} | {before["root"], before["origin"]}

    def generated() -> tuple[str, str, dict[str, Any]]:
        position, size = chance.randrange(60), chance.randrange(1, 60)
        stream = chance.choice([f"hidden/{chance.randrange(8)}", "nowhere/1"])
        return chance.choice(
            [
                ("GET", f"/v1/ledger/entries/{position}", {}),
                ("GET", "/v1/ledger/entries", {"params": {"stream": stream}}),
                ("GET", "/v1/ledger/entries", {"params": {"first": position}}),
                ("GET", "/v1/ledger/streams", {"params": {"prefix": "hidden/"}}),
                ("GET", "/v1/ledger/status", {}),
                ("GET", "/v1/ledger/tile/0/000.p/" + str(size), {}),
                ("GET", "/v1/ledger/tile/entries/000.p/" + str(size), {}),
                (
                    "GET",
                    "/v1/ledger/proofs/inclusion",
                    {"params": {"position": position, "size": size}},
                ),
                (
                    "GET",
                    "/v1/ledger/proofs/consistency",
                    {"params": {"first": size // 2, "second": size}},
                ),
                ("GET", "/v1/ledger/verify", {}),
                ("GET", "/v1/ledger/checkpoint", {}),
                (
                    "POST",
                    "/v1/ledger/events",
                    {"json": {"events": [event(1)], "expected": {stream: 1 + position}}},
                ),
            ]
        )

    statuses: Counter[int] = Counter()
    alike: dict[str, set[str]] = defaultdict(set)
    for _ in range(ATTEMPTS * scale()):
        method, path, options = generated()
        answer = ask(mine, method, path, **options)
        statuses[answer.status_code] += 1
        assert not [word for word in secret if word in answer.text], f"{method} {path}"
        if answer.status_code >= 400:
            alike[re.sub(r"[0-9]+$", "N", path)].add(answer.json()["code"])
    after = ask(theirs, "GET", "/v1/ledger/status").json()
    assert (after["size"], after["root"]) == (before["size"], before["root"])
    assert ask(mine, "GET", "/v1/ledger/status").json()["size"] == 0
    # Last, since these are noted, and so make a log of one's own.
    relayed = [ask(mine, "POST", "/v1/ledger/relay", json={"events": []}) for _ in range(10)]
    assert {answer.status_code for answer in relayed} == {403}
    exported = ask(mine, "GET", "/v1/ledger/export").text
    assert not [word for word in secret if word in exported]
    assert all(len(codes) == 1 for codes in alike.values()), dict(alike)
    assert set(statuses) <= {200, 400, 403, 404, 409}


def command(server: Program, *arguments: str) -> tuple[int, str, str]:
    told = run_command("ledger", *arguments, "--data-dir", str(server.data_dir))
    return told.returncode, told.stdout, told.stderr


def test_the_command_says_what_is_wrong_and_what_is_no_news(server: Program) -> None:
    def said(*arguments: str) -> str:
        status, _, wrong = command(server, "append", *arguments)
        assert status in (2, 3), wrong
        return wrong

    assert "such as orders/17" in said("notes today", "note.added", "{}")
    assert "such as order.placed" in said("notes/a", "added", "{}")
    assert "a UUIDv7" in said("notes/a", "note.added", "{}", "--id", "17")
    assert "write decimals as strings" in said("notes/a", "note.added", '{"price": 1.5}')
    assert "begin its name with something of your own" in said("run/1", "run.begun", "{}")
    again = ("append", "notes/again", "note.added", "{}", "--id", str(event(4500)["id"]))
    assert "before" not in command(server, *again)[2]
    status, placed, told = command(server, *again)
    assert (status, "appended before" in told) == (0, True)
    assert "notes/again@1" in placed
    refused = server.client.get("/v1/ledger/entries", params={"as_of": "2999-01-01T00:00:00Z"})
    assert (refused.status_code, refused.json()["code"]) == (400, "moment-ahead")
    assert refused.json()["hint"]


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "event-log.md"


def test_the_guide_to_a_log_for_your_own_programs_runs(server: Program, tmp_path: Path) -> None:
    """Its commands, its requests and its programs, in their order; and its bounds are ours."""
    token = server.data_dir / "operator.token"
    environment = {
        "HOLDFAST_URL": server.url,
        "HOLDFAST_OPERATOR_TOKEN_FILE": str(token),
        "TOKEN": token.read_text().strip(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    said = ""
    for block in guide.blocks_of(GUIDE):
        run = guide.run_shell if block.kind == "sh" else guide.run_python
        said += run(block.text, tmp_path, environment)
    assert "orders/19 is at 1" in said
    assert "['order.placed', 'order.paid']" in said
    assert "500 followed" in said
    assert "(erased)" in said
    assert "jane@" not in said
    assert "extends the checkpoint of" in said
    [paid] = (tmp_path / "paid.ndjson").read_text().splitlines()
    assert json.loads(paid)["payload"] == {"by": "card"}
    page = GUIDE.read_text("utf-8")
    [reserved] = [line for line in page.splitlines() if line.startswith("| reserved")]
    named = set(re.findall(r"`([a-z-]+)`", reserved)) - {"stream-reserved"}
    assert named == model.OWN_STREAMS
    for bound, told in (
        (PAYLOAD_BYTES_MAX, "1 MiB"),
        (model.EVENTS_MAX, "1,000 events"),
        (model.APPEND_BYTES_MAX, "8 MiB"),
    ):
        number = int(told.split()[0].replace(",", ""))
        assert bound == number * (2**20 if told.endswith("MiB") else 1)
        assert told in page


def test_the_doctor_looks_at_the_ledger_and_not_for_roles_that_are_not_here(
    server: Program,
) -> None:
    done = run_command("doctor", "--json", "--data-dir", str(server.data_dir))
    found = {line["check"]: line["outcome"] for line in json.loads(done.stdout)}
    assert found.pop("ledger") == "pass"
    others = ("access", "registry", "drones", "results", "raw bytes")
    assert {found.pop(name) for name in others} == {"skip"}
    assert done.returncode == 0, done.stdout


def test_a_pipeline_from_a_thread_hides_no_refusal(server: Program) -> None:
    token = (server.data_dir / "operator.token").read_text().strip()
    with Client(server.url, token=token) as log:
        kept = []

        def unasked() -> None:
            with log.pipeline() as producer:
                kept.append(producer.append("threads/a", "tick.seen", {"n": 1}))
                producer.append("threads/a", "tick.seen", {"n": 2}, expected=7)

        with pytest.raises(HoldfastError) as raised:
            unasked()
        assert raised.value.code == "version-conflict"
        assert kept[0].result().events[0].version == 1
        with log.pipeline() as producer:
            asked = producer.append("threads/a", "tick.seen", {"n": 2}, expected=7)
            assert isinstance(asked.exception(), HoldfastError)
        again = event(4600, "threads/b")
        first = log.append("threads/b", "note.added", {"n": 4600}, id=str(again["id"]))
        assert log.append("threads/b", "note.added", {"n": 4600}, id=str(again["id"])) == first
        begun = log.follow("threads/b", first=first.position)
        assert next(begun).id == again["id"]
        begun.close()
        assert [e.version for e in log.read("threads/a", first=1)] == [1]


def test_what_was_kept_outside_is_held_against_the_log(server: Program, tmp_path: Path) -> None:
    """A checkpoint of before, an export; both of another log; an export that was cut off."""
    append(server, event(4000, "kept/a"))
    trust, kept, out = (tmp_path / name for name in ("holdfast.trust", "kept.note", "all.ndjson"))
    trust.write_text(command(server, "trust")[1])
    kept.write_text(command(server, "checkpoint")[1])
    append(server, event(4001, "kept/a"))
    since = ("consistency", "--since", str(kept), "--trust", str(trust))
    status, said, wrong = command(server, *since)
    assert status == 0, wrong
    assert "extends the checkpoint of" in said
    exports = {"stream": "ledger/exports"}
    before = len(list(server.items("/v1/ledger/entries", **exports)))
    assert command(server, "export", "--out", str(out))[0] == 0
    noted = wait_until(
        lambda: list(server.items("/v1/ledger/entries", **exports))[before:],
        what="the note of the export",
    )
    assert [each["payload"]["reads"][0]["by"] for each in noted] == ["operator"]
    status, _, wrong = command(server, "export", "--out", str(out))
    assert (status, "it is there already" in wrong) == (2, True)
    check = ("verify", "--export", str(out), "--trust", str(trust))
    status, said, wrong = command(server, *check)
    assert (status, said[:6]) == (0, "sound:"), wrong

    whole = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(whole[:-1]))
    status, said, wrong = command(server, *check)
    assert (status, said) == (7, "")
    assert "it was cut off" in wrong

    stranger = SigningKey.load_or_create(tmp_path / "other.jwk", os.urandom)
    foreign = notes.Checkpoint("example.org/other", 1, bytes(32))
    kept.write_text(notes.sign_checkpoint(foreign, stranger).encode())
    status, said, wrong = command(server, *since)
    assert (status, said) == (7, "")
    assert "no key that is trusted has signed it" in wrong
    assert "hint: see that it is a checkpoint of this log" in wrong

    # The same log, and by its own key another root: it was rewritten after it had been signed.
    policy = json.loads(trust.read_text())
    origin = policy["origins"][-1]
    own = notes.verifier_key(origin, stranger).text()
    policy["keys"].append({"key": own, "origin": origin, "valid_from": 0})
    trust.write_text(json.dumps(policy))
    size = json.loads(command(server, "checkpoint", "--json")[1])["size"]
    for before in (size, size - 1):
        other = notes.Checkpoint(origin, before, bytes(32))
        kept.write_text(notes.sign_checkpoint(other, stranger).encode())
        status, said, wrong = command(server, *since)
        assert (status, said) == (7, "")
        assert f"the log does not extend that of {before} entries" in wrong
